package modem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warthog618/modem/at"
	"go.uber.org/zap"
)

// simState is what +CPIN? says (3GPP TS 27.007 section 8.3), or its error.
type simState string

const (
	simReady   simState = "ready"
	simPIN     simState = "PIN"
	simPUK     simState = "PUK"
	simMissing simState = "missing"
	simBusy    simState = "busy"
	simBroken  simState = "broken"
)

// Times of the SIM.
const (
	simPatience = 60 * time.Second // for a SIM to get ready; slow ones take 20 s after power-on
	simLook     = 2 * time.Second
)

// stuck is a state that only a person, or a rung, ends. It is no failure of the session.
type stuck struct {
	state State
	sim   simState
	why   string
}

func (e *stuck) Error() string { return e.why }

// askSIM is the state of the SIM.
func askSIM(ctx context.Context, s commander) (simState, error) {
	lines, err := s.command(ctx, "+CPIN?", "+CPIN", longAnswer)
	if err != nil {
		return simOfError(err)
	}
	if len(lines) == 0 {
		return simBusy, nil
	}
	return simOf(lines[len(lines)-1]), nil
}

// simOf reads +CPIN's code. PIN2 and PUK2 lock what we do not use.
func simOf(code string) simState {
	switch code = strings.ToUpper(strings.TrimSpace(code)); code {
	case "READY", "SIM PIN2", "SIM PUK2":
		return simReady
	case "SIM PIN":
		return simPIN
	case "SIM PUK":
		return simPUK
	case "NOT READY", "":
		return simBusy
	case "NOT INSERTED", "SIM REMOVED":
		return simMissing
	}
	return simState(brief(code)) // PH-NET PIN and the like: locks of the modem
}

// simOfError reads +CPIN?'s error (3GPP TS 27.007 section 9.2); one that is not about the SIM is returned.
func simOfError(err error) (simState, error) {
	var cme at.CMEError
	switch {
	case errors.As(err, &cme):
		return simOfCME(string(cme)), nil
	case errors.Is(err, at.ErrError): // before their SIM is found some say only that
		return simBusy, nil
	}
	return "", err
}

func simOfCME(cme string) simState {
	switch strings.ToLower(cme) {
	case "10", "sim not inserted":
		return simMissing
	case "11", "sim pin required":
		return simPIN
	case "12", "sim puk required":
		return simPUK
	case "13", "15", "sim failure", "sim wrong":
		return simBroken
	}
	return simBusy // 14, and what some say while they start: 3 not allowed, 4 not supported, 100 unknown
}

// unlock waits until the SIM is ready, with the PIN where it wants one. A *stuck is its answer when it cannot be.
func (m *Modem) unlock(ctx context.Context, s *session) error {
	for begin := time.Now(); ; {
		sim, err := askSIM(ctx, s)
		if err != nil {
			return err
		}
		m.show(func(st *Status) { st.SIM = string(sim) })
		switch sim {
		case simReady:
			return nil
		case simPIN:
			if err := m.enterPIN(ctx, s); err != nil {
				return err
			}
			continue
		}
		// A missing SIM is waited for too: before it is read some modems say so of one that is there.
		if !(sim == simBusy || sim == simMissing || sim == simBroken) || time.Since(begin) > m.simPatience {
			return notReady(sim)
		}
		if err := s.pause(ctx, m.simLook); err != nil {
			return err
		}
	}
}

// notReady says what a person must do about a SIM.
func notReady(sim simState) error {
	why := map[simState]string{
		simPUK:     "the SIM is locked by wrong PINs and wants its PUK: put it into a phone, enter the PUK of its letter and a PIN, and give that PIN in pin_file",
		simMissing: "the modem sees no SIM: put one in, the right way round",
		simBusy:    "the SIM does not get ready: take it out and put it in again",
		simBroken:  "the modem cannot read the SIM: clean its contacts, or try another one",
	}[sim]
	if why == "" {
		why = fmt.Sprintf("the modem is locked and wants %q: it belongs to another operator, who can unlock it", string(sim))
	}
	return &stuck{state: Locked, sim: sim, why: why}
}

// enterPIN gives the SIM its PIN: once for each PIN and SIM, never the last try, and not before it is on disk that
// it was tried. A wrong PIN in the file would otherwise lock the SIM after three restarts of the daemon.
func (m *Modem) enterPIN(ctx context.Context, s *session) error {
	iccid := readICCID(ctx, s)
	left, known := pinTries(ctx, s)
	pin, err := m.claimTry(iccid, left, known)
	if err != nil {
		return &stuck{state: Locked, sim: simPIN, why: err.Error()}
	}
	_, err = s.command(ctx, `+CPIN="`+pin+`"`, "", longAnswer)
	return m.judgePIN(ctx, s, iccid, pinHash(iccid, pin), left, known, err)
}

// claimTry is the PIN, if it may be tried, which is remembered then; or why it may not.
func (m *Modem) claimTry(iccid string, left int, known bool) (string, error) {
	pin, err := m.pin()
	if err != nil {
		return "", fmt.Errorf("the SIM wants a PIN: %w", err)
	}
	before, hash := m.triedPINs(iccid), pinHash(iccid, pin)
	switch {
	case slices.Contains(before, hash):
		return "", fmt.Errorf("the SIM %s did not take the PIN in pin_file, which is therefore not tried again: correct it%s", iccid, triesText(left, known))
	case known && left <= 1, !known && len(before) >= 2:
		return "", fmt.Errorf("the SIM %s has one try for its PIN left, which is yours: put it into a phone and enter the PIN there", iccid)
	}
	if err := m.noteTry(iccid, hash); err != nil {
		return "", fmt.Errorf("the PIN is not tried, because that cannot be remembered: %w", err)
	}
	return pin, nil
}

// opened forgets what a SIM did not take, now that it is open: whoever opened it, it counts from three again. A try whose
// outcome a power cut has hidden would else be taken for a wrong one for ever.
func (m *Modem) opened(iccid string) {
	if iccid == "" || len(m.triedPINs(iccid)) == 0 {
		return
	}
	if err := m.forgetTries(iccid, ""); err != nil {
		m.log.Warn("the modem's memory is not saved", zap.NamedError("err", err))
	}
}

// judgePIN finds out whether the SIM took the PIN, or has used up a try at all: at start some say no to the right one,
// because they are not ready for any.
func (m *Modem) judgePIN(ctx context.Context, s *session, iccid, hash string, left int, known bool, said error) error {
	if err := s.pause(ctx, m.simLook); err != nil {
		return err
	}
	now, err := m.simSettled(ctx, s)
	if err != nil {
		return err
	}
	after, knownAfter := pinTries(ctx, s)
	switch {
	case now == simReady:
		m.log.Info("the SIM took its PIN", zap.String("iccid", iccid))
		return m.forgetTries(iccid, "")
	case now == simPUK:
		return notReady(simPUK)
	case known && knownAfter && after == left && !incorrectPassword(said) && m.retries < falseNos:
		m.retries++ // it was no try
		if err := m.forgetTries(iccid, hash); err != nil {
			return err
		}
		return s.pause(ctx, 5*m.simLook)
	}
	m.log.Warn("the SIM did not take its PIN", zap.String("iccid", iccid), zap.NamedError("err", said))
	m.tell("sim", fmt.Sprintf("modem %s: the SIM did not take the PIN in pin_file", m.Name))
	return &stuck{state: Locked, sim: now, why: fmt.Sprintf("the SIM %s did not take the PIN in pin_file: correct it%s", iccid, triesText(after, knownAfter))}
}

// falseNos is how often a PIN is given once more when it seems to have cost no try: some modems count wrong, and a
// second wrong one leaves the third to a person all the same.
const falseNos = 1

// incorrectPassword is a SIM's no to the PIN itself (3GPP TS 27.007 section 9.2, code 16), whatever the modem's
// counter says.
func incorrectPassword(err error) bool {
	var cme at.CMEError
	if !errors.As(err, &cme) {
		return false
	}
	code := strings.ToLower(strings.TrimSpace(string(cme)))
	return code == "16" || code == "incorrect password"
}

// simSettled asks until the SIM knows what it is.
func (m *Modem) simSettled(ctx context.Context, s *session) (simState, error) {
	for begin := time.Now(); ; {
		sim, err := askSIM(ctx, s)
		if err != nil || sim != simBusy || time.Since(begin) > m.simPatience {
			return sim, err
		}
		if err := s.pause(ctx, m.simLook); err != nil {
			return "", err
		}
	}
}

// pin reads and checks the PIN (3GPP TS 31.101 section 9.5.1: four to eight digits).
func (m *Modem) pin() (string, error) {
	if m.PIN == nil {
		return "", errors.New("write it into a file and name that as pin_file")
	}
	pin, err := m.PIN()
	if err != nil {
		return "", err
	}
	pin = strings.TrimSpace(pin)
	digits := strings.Trim(pin, "0123456789") == ""
	if !digits || len(pin) < 4 || len(pin) > 8 {
		return "", errors.New("pin_file holds no PIN: want four to eight digits and nothing else")
	}
	return pin, nil
}

func triesText(left int, known bool) string {
	if !known {
		return ""
	}
	return fmt.Sprintf(" (%d tries left)", left)
}

// The commands that tell how many tries are left. The standard's own comes first; not one maker's modem knows them all.
var pinCounters = []struct {
	cmd, prefix string
	field       int
}{
	{`+CPINR="SIM PIN"`, "+CPINR", 1}, // 3GPP TS 27.007 section 8.65: <code>,<retries>,<default>
	{"^CPIN?", "^CPIN", 2},            // Huawei: <code>,<of this one>,<puk>,<pin>,…; the last but ones are what counts
	{`+QPINC="SC"`, "+QPINC", 1},      // Quectel: "SC",<pin>,<puk>
	{"+SPIC", "+SPIC", 0},             // SIMCom
	{"#PCT", "#PCT", 0},               // Telit
	{"+ZPINPUK=?", "+ZPINPUK", 0},     // ZTE
}

// pinTries is how many tries the SIM has left for its PIN.
func pinTries(ctx context.Context, s commander) (left int, known bool) {
	for _, c := range pinCounters {
		lines, err := s.command(ctx, c.cmd, c.prefix, shortAnswer)
		if err != nil {
			continue
		}
		for _, line := range lines {
			if n, ok := parseTries(c.prefix, line, c.field); ok {
				return n, true
			}
		}
	}
	return 0, false
}

func parseTries(prefix, line string, field int) (int, bool) {
	f := fields(line)
	if prefix == "^CPIN" && len(f) >= 4 { // ^CPIN: SIM PIN,3,10,3,10,3
		field = 3
	}
	// Some modems tell of all codes, whatever one they were asked for; the PUK's ten tries are not the PIN's.
	if code := strings.ToUpper(f[0]); field >= len(f) || field == 1 && code != "SIM PIN" && code != "SC" && code != "PIN" {
		return 0, false
	}
	n, err := strconv.Atoi(f[field])
	return n, err == nil && n >= 0 && n <= 10
}

// readICCID is the SIM's number; readable before the PIN on most modems, else "".
func readICCID(ctx context.Context, s commander) string {
	for _, c := range []struct{ cmd, prefix string }{
		{"+CCID", ""}, {"+ICCID", ""}, {"^ICCID?", ""}, {"+QCCID", ""}, {"!ICCID?", ""}, {"#CCID", ""}, {"+ZICCID?", ""},
		{"+CRSM=176,12258,0,0,10", ""},
	} {
		lines, err := s.command(ctx, c.cmd, c.prefix, shortAnswer)
		if err != nil {
			continue
		}
		for _, line := range lines {
			if id := parseICCID(line); id != "" {
				return id
			}
		}
	}
	return ""
}

// parseICCID finds the 18 to 20 digits that begin with 89 (ITU-T E.118), also with each two swapped, as the file has them.
func parseICCID(line string) string {
	f := fields(line)
	swapped := strings.HasPrefix(line, "+CRSM")
	if len(f) == 0 {
		return ""
	}
	last := f[len(f)-1]
	if _, rest, ok := strings.Cut(last, ":"); ok {
		last = strings.Trim(strings.TrimSpace(rest), `"`)
	}
	digits := strings.TrimRight(strings.ToUpper(last), "F")
	if swapped || strings.HasPrefix(last, "98") {
		digits = strings.TrimRight(swap(strings.ToUpper(last)), "F")
	}
	if len(digits) < 18 || len(digits) > 20 || strings.Trim(digits, "0123456789ABCDE") != "" || !strings.HasPrefix(digits, "89") {
		return ""
	}
	return digits
}

func swap(s string) string {
	b := []byte(s)
	for i := 0; i+1 < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return string(b)
}
