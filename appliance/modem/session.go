package modem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/warthog618/modem/at"
	"go.uber.org/zap"
)

// Times of the AT dialogue.
const (
	shortAnswer = 5 * time.Second   // what the modem knows by itself
	longAnswer  = 30 * time.Second  // what it asks its SIM
	netAnswer   = 180 * time.Second // what it asks the network (3GPP TS 27.007 gives no bound; vendors say 180 s for +COPS, +CFUN and +CGATT)
	quietBefore = time.Second       // of silence, before a session that is out of step speaks again
	maxMute     = 3                 // commands in a row without an answer: the session is over
)

// errMute ends a session whose modem no longer answers.
var errMute = errors.New("the modem does not answer")

// session is one open AT port, from its opening to its loss. Commands are serialised.
//
//	in step --time-out--> out of step --a second of silence, then a probe answered by its own answer--> in step
//	   |                       `--three probes without--> mute: closed
//	   `--port gone, write blocked for 5 s--> closed
type session struct {
	device string
	log    *zap.Logger
	wire   *wire
	at     *at.AT

	mu    sync.Mutex // of ended: nobody begins a command while close waits for the last one
	ended bool
	wg    sync.WaitGroup

	lock chan struct{} // held by the running command
	late string        // the prefix of a command whose answer may still come; guarded by lock, "-" for one without
	why  chan error    // why it ended, once

	arrived chan struct{} // a text message was stored (+CMTI); one deep
	bearer  chan struct{} // news of the data bearer (NO CARRIER, ^NDISSTAT, +CGEV); one deep
	network chan struct{} // news of registration or SIM; one deep
	onURC   func(string)  // all of them, in order; must not block
}

// newSession speaks AT on an open port. It is not initialised yet.
func newSession(p port, device string, log *zap.Logger, onURC func(string)) *session {
	s := &session{device: device, log: log, lock: make(chan struct{}, 1), why: make(chan error, 1), onURC: onURC,
		arrived: make(chan struct{}, 1), bearer: make(chan struct{}, 1), network: make(chan struct{}, 1)}
	s.wire = newWire(p, s.unsolicited)
	s.at = at.New(s.wire, at.WithEscTime(100*time.Millisecond))
	return s
}

// closed is closed when the port is gone.
func (s *session) closed() <-chan struct{} { return s.at.Closed() }

// over says whether the port is gone.
func (s *session) over() bool {
	select {
	case <-s.closed():
		return true
	default:
		return false
	}
}

// pause waits, but not beyond the session's end.
func (s *session) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed():
		return s.err()
	}
}

// fail ends the session with a reason.
func (s *session) fail(err error) {
	select {
	case s.why <- err:
	default:
	}
	s.wire.port.Close()
}

// close ends the session and waits for its goroutines.
func (s *session) close() {
	s.wire.port.Close()
	<-s.at.Closed()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.wg.Wait()
}

// spawn runs f unless the session is over.
func (s *session) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.wg.Go(f)
	}
	return !s.ended
}

// err is why the session ended.
func (s *session) err() error {
	select {
	case err := <-s.why:
		s.why <- err
		return err
	default:
		return fmt.Errorf("AT port %s: %w", s.device, errGone)
	}
}

// errGone is the loss of an open port.
var errGone = errors.New("it went away: was the modem pulled out, or did it restart?")

// unsolicited sorts the modem's own news.
func (s *session) unsolicited(line string) {
	switch p := linePrefix(line); {
	case p == "+CMTI", p == "+CDSI", p == "+CMT", p == "+CDS", line == "SMS READY", line == "SMS Ready", line == "SMS DONE":
		poke(s.arrived)
	case line == "NO CARRIER", p == "^NDISSTAT", p == "+CGEV", p == "^DEND":
		poke(s.bearer)
	case strings.HasSuffix(p, "REG"), p == "+CPIN", p == "^SIMST", p == "^SRVST", p == "^MODE", p == "+QUSIM", p == "+CFUN":
		poke(s.network)
	}
	if s.onURC != nil {
		s.onURC(line)
	}
}

// poke leaves a note in a channel of one place.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// request is one command with its answer's shape.
type request struct {
	cmd, prefix string
	body        string // sent after the prompt "> "
	timeout     time.Duration
	blind       bool // sent though an answer may still be late; who asks next finds the step again
}

// command is the commander's.
func (s *session) command(ctx context.Context, cmd, prefix string, timeout time.Duration) ([]string, error) {
	lines, err := s.ask(ctx, request{cmd: cmd, prefix: prefix, timeout: timeout})
	return wanted(lines, prefix), err
}

// prompt sends a command that asks for more (+CMGS, +CMGW), and what it asks for. After a time-out nobody
// knows whether it was done: see isUnknown.
func (s *session) prompt(ctx context.Context, cmd, body, prefix string, timeout time.Duration) ([]string, error) {
	lines, err := s.ask(ctx, request{cmd: cmd, prefix: prefix, body: body, timeout: timeout})
	return wanted(lines, prefix), err
}

// entry is an answer of two lines: its header, without prefix, and the PDU.
type entry struct{ header, pdu string }

// entries is a command whose answer are headers, each followed by a PDU (+CMGL, +CMGR). What stands
// between them is not the modem's answer and is left out; a header without its PDU has an empty one.
func (s *session) entries(ctx context.Context, cmd, prefix string, timeout time.Duration) ([]entry, error) {
	lines, err := s.ask(ctx, request{cmd: cmd, prefix: prefix, timeout: timeout})
	var list []entry
	for _, line := range lines {
		switch {
		case hasPrefix(line, prefix):
			list = append(list, entry{header: strings.TrimSpace(line[len(prefix)+1:])})
		case len(list) > 0 && list[len(list)-1].pdu == "" && isHex(line):
			list[len(list)-1].pdu = line
		}
	}
	return list, err
}

// wanted keeps the lines with the prefix, without it.
func wanted(lines []string, prefix string) []string {
	if prefix == "" {
		return lines
	}
	var list []string
	for _, line := range lines {
		if hasPrefix(line, prefix) {
			list = append(list, strings.TrimSpace(line[len(prefix)+1:]))
		}
	}
	return list
}

// ask waits for its turn and speaks. A caller who goes away leaves the command to end by itself: half a
// command helps nobody.
func (s *session) ask(ctx context.Context, q request) ([]string, error) {
	select {
	case s.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", notNow("the modem was busy with another command"), ctx.Err())
	case <-s.closed():
		return nil, notNow(s.err().Error()) // not begun, so certainly not done
	}
	type reply struct {
		lines []string
		err   error
	}
	done := make(chan reply, 1)
	begun := s.spawn(func() {
		defer func() { <-s.lock }()
		lines, err := s.exchange(q)
		done <- reply{lines, err}
	})
	if !begun {
		<-s.lock
		return nil, notNow(s.err().Error())
	}
	select {
	case r := <-done:
		return r.lines, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// exchange is one command and its answer, in step.
func (s *session) exchange(q request) ([]string, error) {
	if s.over() { // while it waited for its turn
		return nil, notNow(s.err().Error())
	}
	if s.late != "" && !q.blind {
		if err := s.resync(); err != nil {
			return nil, notNow(err.Error())
		}
	}
	lines, err := s.send(q)
	if errors.Is(err, at.ErrDeadlineExceeded) {
		s.late = q.prefix
		if s.late == "" {
			s.late = "-"
		}
		if !s.wire.begun() {
			return nil, fmt.Errorf("%s: %w", commandName(q.cmd), notNow("the modem did not ask for the text"))
		}
		return lines, fmt.Errorf("%s: %w", commandName(q.cmd), timedOut(q.timeout))
	}
	if errors.Is(err, at.ErrClosed) && !s.wire.begun() {
		return nil, notNow(s.err().Error())
	}
	if errors.Is(err, at.ErrClosed) {
		return lines, s.err()
	}
	if err != nil {
		return lines, fmt.Errorf("%s: %w", commandName(q.cmd), err)
	}
	return lines, nil
}

func (s *session) send(q request) ([]string, error) {
	s.wire.begin(q.cmd, q.prefix, q.body != "")
	defer s.wire.end()
	if q.body != "" {
		return s.at.SMSCommand(q.cmd, q.body, at.WithTimeout(q.timeout))
	}
	return s.at.Command(q.cmd, at.WithTimeout(q.timeout))
}

// resync finds the step again after a time-out: the late answer would be taken for the next command's. First it
// waits for silence, then it asks for something else than what is late until exactly that is answered.
func (s *session) resync() error {
	for try := range maxMute {
		if err := s.hush(); err != nil {
			return err
		}
		probe := "+CSQ"
		if (s.late == probe) != (try%2 == 1) {
			probe = "+CFUN"
		}
		cmd := probe
		if probe == "+CFUN" {
			cmd = "+CFUN?"
		}
		// Without a prefix: a late line must be seen to be told apart.
		lines, err := s.send(request{cmd: cmd, timeout: shortAnswer})
		if errors.Is(err, at.ErrClosed) {
			return s.err()
		}
		if err == nil && len(lines) == 1 && hasPrefix(lines[0], probe) {
			s.late = ""
			return nil
		}
	}
	s.fail(errMute)
	return errMute
}

// hush waits until the modem has been silent for a while, but not for ever: it may babble.
func (s *session) hush() error {
	for end := time.Now().Add(3 * quietBefore); s.wire.silence() < quietBefore && time.Now().Before(end); {
		select {
		case <-s.closed():
			return s.err()
		case <-time.After(quietBefore / 10):
		}
	}
	return nil
}

// timedOut is a command without an answer in time. It may have been done all the same.
type timedOut time.Duration

func (e timedOut) Error() string {
	return fmt.Sprintf("no answer in %s; it may have been done all the same", time.Duration(e))
}

// isUnknown says that nobody knows whether the command was done: the answer is late, nobody waited for it, or the port
// was lost under it.
func isUnknown(err error) bool {
	var late timedOut
	var never notNow
	if errors.As(err, &never) {
		return false
	}
	return errors.As(err, &late) || errors.Is(err, errGone) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
