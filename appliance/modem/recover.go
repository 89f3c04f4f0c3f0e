package modem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Recovery is what may be done to a modem that no longer works, beyond what its AT port allows.
type Recovery struct {
	// Power are programs that cut the modem's power and give it back, run one after the other: uhubctl
	// on a hub port, gpioset on a relay. None: that rung is not there.
	Power [][]string
	// Reboot reboots the box; nil: never.
	Reboot func(context.Context) error
}

// RecoveryStatus is where on its ladder the modem is.
type RecoveryStatus struct {
	Fault   string    // what is being cured; "" nothing
	Doing   string    // what is done just now; "" nothing
	Last    string    // what was done last in this climb
	Next    time.Time // no rung before; zero: none needed
	Climbed int       // rungs since the fault began
	Helped  string    // what ended this fault the last time
	Err     string    // why the last rung could not be done
}

// reset is one rung that a person asks for.
type reset struct {
	rung string
	done chan error
}

// Rungs are the names that Reset knows, the harmless ones first, as far as they can be done here.
func (m *Modem) Rungs() []string {
	var names []string
	for _, r := range m.possible() {
		names = append(names, r.name)
	}
	return names
}

// possible are the rungs that this configuration allows.
func (m *Modem) possible() []rung {
	return slices.DeleteFunc(slices.Clone(rungs), func(r rung) bool {
		switch r.name {
		case "power":
			return len(m.Recovery.Power) == 0
		case "reboot":
			return m.Recovery.Reboot == nil
		case "bearer":
			return m.Data == "" || m.Data == "none"
		}
		return m.Device == ""
	})
}

// CanReset says why Reset would do nothing: there is no such rung here, or one is done already.
func (m *Modem) CanReset(name string) error {
	names := m.Rungs()
	switch {
	case len(names) == 0:
		return fmt.Errorf("modem %s cannot be reset: it has no port of ours, and no power is configured for it", m.Name)
	case name != "" && !slices.Contains(names, name):
		return fmt.Errorf("modem %s cannot be reset by %q: there are %s", m.Name, name, strings.Join(names, ", "))
	case m.resetting.Load():
		return fmt.Errorf("modem %s is being reset already", m.Name)
	}
	return nil
}

// Reset does one rung now. "" is the next one of the ladder where something is wrong, else the restart of the modem.
// Who asks while another one's is under way is refused: in a row they would keep the modem down.
func (m *Modem) Reset(ctx context.Context, name string) error {
	if err := m.CanReset(name); err != nil {
		return err
	}
	if !m.resetting.CompareAndSwap(false, true) {
		return fmt.Errorf("modem %s is being reset already", m.Name)
	}
	defer m.resetting.Store(false)
	r := &reset{rung: name, done: make(chan error, 1)}
	select {
	case m.resets <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recover climbs the ladder until ctx is done.
func (m *Modem) recover(ctx context.Context) {
	memory := m.recallClimbs()
	l := newLadder(m.possible(), &memory)
	for ctx.Err() == nil {
		changed := m.change()
		do, again := l.see(time.Now(), m.fault())
		m.showLadder(l, do, nil)
		m.saveClimbs(l)
		if do != "" {
			m.climb(ctx, l, do)
			continue
		}
		timer := time.NewTimer(untilNext(again))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		case r := <-m.resets:
			do := l.asked(time.Now(), m.fault(), r.rung)
			r.done <- m.climb(ctx, l, do)
		}
		timer.Stop()
	}
}

// untilNext is a pause: the faults are looked at each minute even if nobody tells of a change.
func untilNext(again time.Time) time.Duration {
	if again.IsZero() {
		return time.Minute
	}
	return min(max(time.Until(again), 10*time.Millisecond), time.Minute)
}

// climb does a rung; what is remembered is on disk before it is done, since the last ones end us too.
func (m *Modem) climb(ctx context.Context, l *ladder, do string) error {
	m.showLadder(l, do, nil)
	m.log.Warn("modem recovery", zap.String("fault", string(l.fault)), zap.String("rung", do))
	m.tell("recovery", fmt.Sprintf("modem %s: %s: %s", m.Name, orText(string(l.fault), "asked for"), rungText[do]))
	err := m.saveClimbs(l)
	if err == nil || do != "reboot" { // a reboot that nobody remembers could be one of many
		err = m.perform(ctx, do)
	}
	if err != nil {
		m.log.Warn("modem recovery: a rung could not be done", zap.String("rung", do), zap.NamedError("err", err))
	}
	l.acted(time.Now(), err)
	m.showLadder(l, "", err)
	return err
}

var rungText = map[string]string{
	"attach": "leaves the network and comes back", "bearer": "dials the data bearer anew", "radio": "switches the radio off and on",
	"restart": "restarts the modem", "usb": "takes the modem off the USB and back", "power": "cuts the modem's power", "reboot": "reboots the box",
}

func (m *Modem) showLadder(l *ladder, doing string, err error) {
	s := RecoveryStatus{Fault: string(l.fault), Doing: doing, Last: l.last, Next: l.until, Climbed: l.climbed, Helped: l.memory.Helped[l.fault]}
	if l.state == well {
		s = RecoveryStatus{}
	}
	if err != nil {
		s.Err = err.Error()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && doing == "" && s.Last == m.status.Recovery.Last {
		s.Err = m.status.Recovery.Err
	}
	m.status.Recovery = s
}

// perform does one rung.
func (m *Modem) perform(ctx context.Context, name string) error {
	switch name {
	case "attach":
		return m.says(ctx, netAnswer, "+CGATT=0", "+COPS=0", "+CGATT=1")
	case "bearer":
		m.Redial()
		return nil
	case "radio":
		return m.says(ctx, netAnswer, "+CFUN=4", "+CFUN=1")
	case "restart":
		return m.restart(ctx)
	case "usb":
		return m.rebind(ctx)
	case "power":
		return m.powerCycle(ctx)
	case "reboot":
		return m.Recovery.Reboot(ctx)
	}
	return fmt.Errorf("no rung %q", name)
}

// says speaks to the open port, whatever the SIM says. An ERROR to one of them is no reason to leave out
// the next: +CFUN=4 without +CFUN=1 would be worse than before.
func (m *Modem) says(ctx context.Context, timeout time.Duration, cmds ...string) error {
	defer m.claim()()
	s := m.sessionBack(ctx)
	if s == nil {
		return errors.New("there is no AT session to say it in")
	}
	var err error
	for _, cmd := range cmds {
		_, err = s.command(ctx, cmd, "", timeout)
	}
	return err
}

// sessionBack is the open session. A port that is lent is asked back, and waited for: the next rung risks more. So is
// one that changes hands just now.
func (m *Modem) sessionBack(ctx context.Context) *session {
	ctx, cancel := context.WithTimeout(ctx, lentPatience)
	defer cancel()
	for {
		moved := m.change()
		switch s := m.openSession(); {
		case s != nil:
			return s
		case m.state() == Lent:
			m.Redial() // again and again: a bearer that comes up just now takes the first one for done
		case slices.Contains([]State{NoPort, Absent, Held, Mute}, m.state()):
			return nil
		}
		select {
		case <-moved:
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// lentPatience is for pppd to end, and the port to be opened.
const lentPatience = time.Minute

// restart is +CFUN=1,1 (3GPP TS 27.007 section 8.2). Some modems are gone before they say OK.
func (m *Modem) restart(ctx context.Context) error {
	err := m.says(ctx, longAnswer, "+CFUN=1,1")
	if isUnknown(err) {
		err = nil
	}
	if s := m.openSession(); s != nil && err == nil {
		// What it was told is forgotten; a port that survives the restart (a real serial line) would not tell.
		s.fail(errors.New("the modem was restarted"))
	}
	return err
}

// rebind takes the modem's USB device off the kernel and back: its drivers and its own USB side begin anew, as
// after a replug, but with the power on. "authorized" is a file of this device alone, which a udev
// rule can give to our user; unbinding needs root.
func (m *Modem) rebind(ctx context.Context) error {
	dir := m.usbDir()
	if dir == "" {
		return errors.New("the modem is not on USB, as far as we know")
	}
	file := filepath.Join(dir, "authorized")
	if err := writeSys(file, "0"); err != nil {
		return fmt.Errorf("take the modem off the USB: %w (hint: install systemd/70-rescuebox-modem.rules, which gives that file to us)", err)
	}
	select { // its end of the bus needs a moment to notice
	case <-ctx.Done():
	case <-time.After(3 * time.Second):
	}
	if err := writeSys(file, "1"); err != nil {
		return fmt.Errorf("put the modem back on the USB: %w", err)
	}
	return nil
}

func writeSys(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// powerCycle runs the configured programs.
func (m *Modem) powerCycle(ctx context.Context) error {
	for _, argv := range m.Recovery.Power {
		if len(argv) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.WaitDelay = 5 * time.Second
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, brief(string(out)))
		}
	}
	return nil
}

// brief is the beginning of what somebody else said, as one line.
func brief(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
	text = strings.ToValidUTF8(strings.TrimSpace(text), "?")
	if r := []rune(text); len(r) > 200 {
		text = string(r[:200]) + "…"
	}
	return text
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
