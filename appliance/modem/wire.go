package modem

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Bounds of what a modem may say. The longest honest line is a text message of 176 bytes in hex; the longest honest
// answer the list of a full store.
const (
	maxLine      = 4 << 10
	maxAnswer    = 512 << 10
	writeTimeout = 5 * time.Second
	// An honest AT port says a few KiB in a second at most. What babbles more is read no faster than this,
	// so that it costs no processor; the kernel stops it at the other end.
	babbleRate = 256 << 10
)

// wire stands between the port and the library, which would otherwise be ended by a line over 64 KiB, mistake an
// unsolicited line for an answer, run a goroutine for each, and hang for good on a modem that does not
// read. It passes on only what answers the running command; unsolicited lines go, in their order, to urc.
type wire struct {
	port port
	urc  func(line string) // called by the reading goroutine: must not block

	mu      sync.Mutex
	running bool   // a command waits for its answer
	cmd     string // what was sent, to know its echo
	prefix  string // of the wanted lines, "+CSQ"; "" wants all
	prompt  bool   // the command waits for "> "
	asked   bool   // it came
	wrote   bool   // something of it went out
	answer  int    // bytes of the answer so far
	quiet   time.Time
	follows string // the unsolicited line whose second line is due (+CMT: and the like)

	line    []byte // the unfinished line
	tooLong bool   // its beginning was thrown away
	out     []byte // lines for the library
	window  time.Time
	taken   int // bytes read since window
	babbles bool
}

func newWire(p port, urc func(string)) *wire {
	return &wire{port: p, urc: urc, quiet: time.Now()}
}

// begin tells which answer is waited for, end that it came or is given up.
func (w *wire) begin(cmd, prefix string, prompt bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running, w.cmd, w.prefix, w.prompt, w.asked, w.answer, w.wrote = true, "AT"+cmd, prefix, prompt, false, 0, false
}

func (w *wire) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
}

// begun reports whether something of the last command went out; of one with a prompt, whether its text may have.
func (w *wire) begun() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrote && (w.asked || !w.prompt)
}

// silence is how long the modem has said nothing.
func (w *wire) silence() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.quiet)
}

// babbling says whether the modem said more in the last second than any honest one does.
func (w *wire) babbling() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.babbles
}

// Write gives up on a modem that does not read: the command after it would wait behind it for ever.
func (w *wire) Write(b []byte) (int, error) {
	if err := w.port.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := w.port.Write(b)
	w.mu.Lock()
	w.wrote = w.wrote || n > 0
	w.mu.Unlock()
	if err != nil {
		// Half a command may stand in the modem's buffer now; only a new session knows where it is.
		w.port.Close()
		return n, fmt.Errorf("the modem does not read: %w", err)
	}
	return n, nil
}

// Read is the library's: lines of the answer it waits for, and nothing else.
func (w *wire) Read(b []byte) (int, error) {
	buf := make([]byte, 4096)
	for len(w.out) == 0 {
		n, err := w.port.Read(buf)
		if n > 0 {
			w.take(buf[:n])
		}
		if err != nil {
			return 0, err
		}
		w.pace(n)
	}
	n := copy(b, w.out)
	w.out = w.out[n:]
	return n, nil
}

// pace slows the reading of a modem that babbles.
func (w *wire) pace(n int) {
	now := time.Now()
	over := now.Sub(w.window)
	if w.taken += n; over < time.Second && w.taken < babbleRate {
		return
	}
	full := w.taken >= babbleRate
	w.mu.Lock()
	w.babbles = full
	w.mu.Unlock()
	if full && over < time.Second {
		time.Sleep(time.Second - over)
	}
	w.window, w.taken = time.Now(), 0
}

// take splits what came into lines. The prompt for a text is no line: nothing follows it.
func (w *wire) take(b []byte) {
	w.mu.Lock()
	w.quiet = time.Now()
	w.mu.Unlock()
	for len(b) > 0 {
		i := bytes.IndexAny(b, "\r\n")
		if i < 0 {
			w.gather(b)
			break
		}
		w.gather(b[:i])
		w.endLine()
		b = b[i+1:]
	}
	if len(w.line) > 0 && w.line[0] == '>' && w.takesPrompt() {
		w.line = w.line[:0]
		w.out = append(w.out, "> "...)
	}
}

func (w *wire) gather(b []byte) {
	if len(w.line)+len(b) > maxLine {
		w.tooLong, w.line = true, w.line[:0]
		return
	}
	if !w.tooLong {
		w.line = append(w.line, b...)
	}
}

func (w *wire) endLine() {
	line := strings.TrimSpace(string(w.line))
	whole := !w.tooLong
	w.line, w.tooLong = w.line[:0], false
	if line == "" || !whole {
		return
	}
	switch w.sort(line) {
	case isAnswer:
		w.out = append(append(w.out, line...), '\r', '\n')
	case isURC:
		w.urc(line)
	}
}

// takesPrompt says whether the command waits for the prompt; it has come then.
func (w *wire) takesPrompt() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	wants := w.running && w.prompt
	w.asked = w.asked || wants
	return wants
}

// meaning is what a line is for.
type meaning int

const (
	isNothing meaning = iota // an echo, or what nobody waits for
	isAnswer
	isURC
)

// sort says what a line is.
func (w *wire) sort(line string) meaning {
	w.mu.Lock()
	defer w.mu.Unlock()
	head := w.follows
	w.follows = ""
	switch {
	case head != "" && isHex(line):
		return isNothing // the second line of a message that was pushed, not stored: the next poll sees whether it is in the store
	case w.running && (line == w.cmd || w.cmd != "AT" && strings.HasPrefix(line, w.cmd)):
		return isNothing
	case isFinal(line, w.cmd):
		if !w.running {
			return isNothing
		}
		return isAnswer
	case !w.running:
		return w.unsolicitedLocked(line)
	case w.prefix != "" && hasPrefix(line, w.prefix):
		return w.countLocked(line)
	case knownURC(line), w.prefix != "" && linePrefix(line) != "":
		return w.unsolicitedLocked(line)
	}
	return w.countLocked(line)
}

func (w *wire) unsolicitedLocked(line string) meaning {
	if p := linePrefix(line); p == "+CMT" || p == "+CDS" || p == "+CBM" {
		w.follows = p
	}
	return isURC
}

// countLocked bounds an answer that does not end.
func (w *wire) countLocked(line string) meaning {
	if w.answer += len(line); w.answer > maxAnswer {
		return isNothing
	}
	return isAnswer
}
