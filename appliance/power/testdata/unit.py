# A power distribution unit's outlet 3, behind snmpd's pass_persist. What it was told goes
# into the file "told", and the outlet's state into "state", both in the directory given.
# usage: unit.py MODEL DIRECTORY
import os
import sys
import time

MODEL, DIRECTORY = sys.argv[1:]
APC = ".1.3.6.1.4.1.318.1.1."
# The state's object and its words, then the object, value and deed of each command.
UNITS = {
    "rpdu2": (APC + "26.9.2.3.1.5.3", {"on": 2, "off": 1},
              [(APC + "26.9.2.4.1.5.3", 1, "on"), (APC + "26.9.2.4.1.5.3", 2, "off"), (APC + "26.9.2.4.1.5.3", 3, "cycle")]),
    "rpdu": (APC + "12.3.5.1.1.4.3", {"on": 1, "off": 2},
             [(APC + "12.3.3.1.1.4.3", 1, "on"), (APC + "12.3.3.1.1.4.3", 2, "off"), (APC + "12.3.3.1.1.4.3", 3, "cycle")]),
    "spdu": (APC + "4.4.2.1.3.3", {"on": 1, "off": 2},
             [(APC + "4.4.2.1.3.3", 1, "on"), (APC + "4.4.2.1.3.3", 2, "off"), (APC + "4.4.2.1.3.3", 3, "cycle")]),
    "raritan": (".1.3.6.1.4.1.13742.6.4.1.2.1.3.1.3", {"on": 7, "off": 8},
                [(".1.3.6.1.4.1.13742.6.4.1.2.1.2.1.3", v, w) for v, w in ((1, "on"), (0, "off"), (2, "cycle"))]),
    "eaton": (".1.3.6.1.4.1.534.6.6.7.6.6.1.2.0.3", {"on": 1, "off": 0},
              [(".1.3.6.1.4.1.534.6.6.7.6.6.1.%d.0.3" % n, 0, w) for n, w in ((4, "on"), (3, "off"), (5, "cycle"))]),
}
STATUS, WORDS, COMMANDS = UNITS[MODEL.split("-")[0]]
DEAF = MODEL.endswith("-deaf")
NEVER = float("inf")
state, back = "on", 0.0


def keep(name, text, how="w"):
    with open(os.path.join(DIRECTORY, name), how, encoding="ascii") as f:
        f.write(text)


def now():
    """The outlet's state; a cycle brings the power back by itself, a while after it was first seen to be off."""
    global state, back
    if back == NEVER:
        back = time.monotonic() + 3
    if back and time.monotonic() >= back:
        state, back = "on", 0.0
        keep("state", state)
    return state


def do(word):
    global state, back
    keep("told", word + " ", "a")
    if DEAF:
        return
    state, back = ("off", NEVER) if word == "cycle" else (word, 0.0)
    keep("state", state)


def answer(*lines):
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


keep("state", state)
keep("told", "")
while True:
    verb = sys.stdin.readline()
    if not verb:
        break
    verb = verb.strip()
    if not verb:  # snmpd sends an empty line after each set
        continue
    if verb == "PING":
        answer("PONG")
        continue
    oid = sys.stdin.readline().strip()
    if verb == "set":
        value = sys.stdin.readline().split()
        words = [w for o, v, w in COMMANDS if (o, ["integer", str(v)]) == (oid, value)]
        if words:
            do(words[0])
        answer("DONE" if words else "wrong-value")
    elif verb == "get" and oid == STATUS:
        answer(oid, "integer", str(WORDS[now()]))
    elif verb == "get" and oid in (o for o, _, _ in COMMANDS):
        answer(oid, "integer", "0")  # snmpd writes only what can be read
    else:
        answer("NONE")
