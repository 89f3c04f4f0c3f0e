package power

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// GSM is how a socket that is switched by text messages is spoken to. "{password}" in a text is
// replaced by the password.
type GSM struct {
	On, Off, Cycle, Status string // texts; "" where it has none
	// How its replies are known, as regular expressions (RE2). A reply that is none of
	// these is a reply all the same: the socket got the text.
	SaysOn, SaysOff, SaysNo string
}

// gsmModels are what the makers' manuals say (2026-11-22). On and off of oem are its relatives' and were not tried.
//
// A cycle in one message is completed by the socket itself, even if the box hangs on it, or loses its network with what it
// switches: SimPal's "on in 1 minute" switches off at once what is on.
var gsmModels = map[string]GSM{
	"simpal":  {On: "#1#0#", Off: "#2#0#", Cycle: "#12#0#1#1#"},   // Telemetrica T80, SimPal T4, T420, S460
	"t40":     {On: "#01#0#", Off: "#02#0#", Cycle: "#12#0#1#1#"}, // SimPal and Telemetrica T40
	"oem":     {On: "#01#", Off: "#02#", Status: "#07#"},          // Genie GSMSOC, Lindy 32665 and their like
	"isocket": {On: "{password}ON", Off: "{password}OFF", Cycle: "{password}RESTART", Status: "{password}STATUS", SaysOn: `(?i)power (?:socket )?(?:is )?on\b`, SaysOff: `(?i)power (?:socket )?(?:is )?off\b`},
	"custom":  {},
}

// How replies are known where nothing else is said.
const (
	usualOn  = `(?i)\b(?:output|outlet|socket|power|relay|status)(?: output| status| is|[:= ])*\bon\b|(?:^|[^а-я])(?:вкл|включ[её]н)`
	usualOff = `(?i)\b(?:output|outlet|socket|power|relay|status)(?: output| status| is|[:= ])*\boff\b|(?:отключ|выключ|обесточ)[её]н|(?:^|[^а-я])выкл`
	usualNo  = `(?i)invalid|incorrect|error|unknown command|no authori[sz]|not authori[sz]|access den|does not exist|неверн|ошибк|нет прав`
	noRight  = `(?i)authori[sz]|access|password|нет прав`
)

// Bounds of a socket's replies and of what the file may have us look for.
const (
	maxHeard   = 480
	maxReplies = 8
	maxPattern = 200
)

// How long a socket is waited for. A text message takes seconds, and a minute where the network is busy.
const (
	replying    = 90 * time.Second
	gsmAsking   = 5 * time.Minute  // to send a text, in turn with others, and to hear
	gsmSwitched = 15 * time.Minute // off, on, and to ask how it is
)

// errUnsent is a text that the socket certainly did not get; unsentAgain when it is tried again where it must.
var errUnsent = fmt.Errorf("%w", ErrNotTaken)

const unsentAgain = 30 * time.Second

// gsmSocket is a socket switched by text messages.
type gsmSocket struct {
	number   string
	texts    GSM
	password func() (string, error)
	ask      func(ctx context.Context, number, text string) (<-chan string, error)
	taking   func()

	on, off, no, right *regexp.Regexp
}

func newGSMSocket(c Config) (*gsmSocket, error) {
	usual, known := gsmModels[c.Model]
	switch {
	case !known:
		return nil, fmt.Errorf("%q is no model that is known: want simpal, t40, oem, isocket or custom", c.Model)
	case c.Number == "" || c.Ask == nil:
		return nil, errors.New("a GSM socket needs a number, and a modem to send text messages with")
	}
	t := GSM{cmp.Or(c.GSM.On, usual.On), cmp.Or(c.GSM.Off, usual.Off), cmp.Or(c.GSM.Cycle, usual.Cycle), cmp.Or(c.GSM.Status, usual.Status),
		cmp.Or(c.GSM.SaysOn, usual.SaysOn, usualOn), cmp.Or(c.GSM.SaysOff, usual.SaysOff, usualOff), cmp.Or(c.GSM.SaysNo, usual.SaysNo, usualNo)}
	if t.On == "" && t.Cycle == "" {
		return nil, errors.New("a GSM socket that can neither switch on nor cycle helps nobody: give it a text for one of them")
	}
	s := &gsmSocket{number: c.Number, texts: t, password: c.Password, ask: c.Ask, taking: c.Taking, right: regexp.MustCompile(noRight)}
	for of, p := range map[**regexp.Regexp]string{&s.on: t.SaysOn, &s.off: t.SaysOff, &s.no: t.SaysNo} {
		if len(p) > maxPattern {
			return nil, fmt.Errorf("a pattern for replies of %d characters is too long: at most %d", len(p), maxPattern)
		}
		re, err := regexp.Compile(p)
		if err != nil {
			return nil, fmt.Errorf("a pattern for replies: %w", err)
		}
		*of = re
	}
	return s, nil
}

// meaning is that of a reply.
type meaning int

const (
	saysSomething meaning = iota
	saysOn
	saysOff
	saysNo      // it does not take the text
	saysNotYou  // it obeys somebody else
	saysNothing // it did not reply
)

// read is what a socket means by a reply. One that says both on and off, as of two outlets, says neither.
func (s *gsmSocket) read(text string) meaning {
	if r := []rune(text); len(r) > maxHeard {
		text = string(r[:maxHeard])
	}
	on, off := s.on.MatchString(text), s.off.MatchString(text)
	switch {
	case s.no.MatchString(text) && s.right.MatchString(text):
		return saysNotYou
	case s.no.MatchString(text):
		return saysNo
	case on && !off:
		return saysOn
	case off && !on:
		return saysOff
	}
	return saysSomething
}

// say sends a text and hears what comes: until the reply wanted, or a refusal, or for a while. An older
// question's reply may come first.
func (s *gsmSocket) say(ctx context.Context, text string, want meaning) (meaning, error) {
	if text == "" {
		return saysNothing, fmt.Errorf("%w: no text for it is known", ErrUnsupported)
	}
	text, err := s.filled(text)
	if err != nil {
		return saysNothing, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replies, err := s.ask(ctx, s.number, text)
	if err != nil {
		return saysNothing, fmt.Errorf("%w: the text to %s: %w", errUnsent, s.number, err)
	}
	end := time.NewTimer(replying)
	defer end.Stop()
	heard := saysNothing
	for range maxReplies {
		select {
		case <-end.C:
			return heard, nil
		case said, ok := <-replies:
			if !ok {
				return heard, ctx.Err()
			}
			switch r := s.read(said); r {
			case saysNotYou:
				return r, fmt.Errorf("%w: it says %q: make the number of this box's SIM its master", ErrRefused, plain(said))
			case saysNo:
				return r, fmt.Errorf("%w: it says %q: is the model right?", ErrNotTaken, plain(said))
			case want:
				return r, nil
			case saysSomething:
				if heard == saysNothing {
					heard = r
				}
			default:
				heard = r
			}
			if want == saysSomething {
				return heard, nil
			}
		}
	}
	return heard, nil
}

// filled puts the password in.
func (s *gsmSocket) filled(text string) (string, error) {
	if !strings.Contains(text, "{password}") {
		return text, nil
	}
	password := ""
	if s.password != nil {
		var err error
		if password, err = s.password(); err != nil {
			return "", err
		}
	}
	return strings.ReplaceAll(text, "{password}", password), nil
}

// silent is the error of a socket that did not reply.
func (s *gsmSocket) silent() error {
	return fmt.Errorf("%w: no text came from %s within %v, and nobody knows whether it obeyed: the number of this box's SIM must be its master, and both SIMs need money", ErrSilent, s.number, replying)
}

func (s *gsmSocket) State(ctx context.Context) (State, error) {
	r, err := s.say(ctx, s.texts.Status, saysSomething)
	switch {
	case err != nil:
		return Unknown, err
	case r == saysNothing:
		return Unknown, s.silent()
	}
	return map[meaning]State{saysOn: On, saysOff: Off, saysSomething: Unknown}[r], nil
}

func (s *gsmSocket) On(ctx context.Context) error  { return s.to(ctx, s.texts.On, On, saysOn) }
func (s *gsmSocket) Off(ctx context.Context) error { return s.to(ctx, s.texts.Off, Off, saysOff) }

// to switches. A reply that confirms is the end of it; another one is, too, where the socket cannot be asked for
// its state. Each question costs a message.
func (s *gsmSocket) to(ctx context.Context, text string, want State, confirmed meaning) error {
	r, err := s.say(ctx, text, confirmed)
	if err != nil || r == confirmed || r == saysSomething && s.texts.Status == "" {
		return err
	}
	if s.texts.Status == "" && r == saysNothing {
		return s.silent()
	}
	if s.texts.Status == "" {
		return fmt.Errorf("%w: told to be %s, it says the contrary", ErrNotTaken, want)
	}
	state, err := s.State(ctx)
	switch {
	case errors.Is(err, errUnsent): // the question, and not what was told
		return fmt.Errorf("%w; it cannot be asked: %v", s.silent(), err)
	case err != nil:
		return err
	case state != want && !(state == Unknown && r == saysSomething):
		return fmt.Errorf("%w: told to be %s, it says %s", ErrNotTaken, want, state)
	}
	return nil
}

// Cycle is the socket's own where it has one.
func (s *gsmSocket) Cycle(ctx context.Context) error {
	if s.texts.Cycle == "" {
		return s.offAndOn(ctx)
	}
	r, err := s.say(ctx, s.texts.Cycle, saysSomething)
	if err != nil || r != saysNothing {
		return err
	}
	if s.texts.Status == "" {
		return s.silent()
	}
	switch state, err := s.State(ctx); {
	case err != nil:
		return err
	case state == Off: // it is in the midst of it
		return nil
	default:
		return fmt.Errorf("%w: it did not confirm the cycle and says %s: it may have done it already", ErrNotTaken, state)
	}
}

// offAndOn is a cycle in two messages. Whatever became of the first, the second gives power back, unless there was none; a
// modem that cannot send it at the moment is asked again.
func (s *gsmSocket) offAndOn(ctx context.Context) error {
	if s.texts.Off == "" {
		return fmt.Errorf("%w: no text to switch off is known", ErrUnsupported)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.taking()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gsmSwitched) // a text that is out may still be obeyed
	defer cancel()
	failed := s.Off(ctx)
	if errors.Is(failed, ErrRefused) || errors.Is(failed, errUnsent) {
		return failed
	}
	_ = pause(ctx, resting)
	err := s.On(ctx)
	for errors.Is(err, errUnsent) && pause(ctx, unsentAgain) == nil {
		err = s.On(ctx)
	}
	if err != nil {
		return and(failed, fmt.Errorf("its power was taken and does not come back: %w", err))
	}
	return failed
}
