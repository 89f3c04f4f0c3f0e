// Package power switches machines that have no controller of their own: an outlet of a
// power distribution unit, a PiKVM at the front panel's pins, Wake-on-LAN, a socket that obeys text messages,
// or a program of the site's. It also asks a machine's own system to go down in good order (Shutdown).
//
// What is switched here answers late, lies or is not there. So every operation is bounded in
// time, a state is read back where the switch has one, and an error tells a wrong password
// (ErrRefused) from silence (ErrSilent).
package power

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// State is whether a machine has power.
type State string

// The states.
const (
	On      State = "on"
	Off     State = "off"
	Unknown State = "unknown" // the switch is between the two, or says neither
)

// Switch gives and takes a machine's power. Its methods may be called by many; it does
// one thing at a time. What a switch cannot do ends with ErrUnsupported.
type Switch interface {
	// State asks whether the machine has power.
	State(ctx context.Context) (State, error)
	// On gives power; done when the switch says so, or took the command where it cannot say.
	On(ctx context.Context) error
	// Off takes it at once, as by pulling the plug.
	Off(ctx context.Context) error
	// Cycle is off and on again; on where it was off. Once power is off, the machine gets it
	// back even if ctx ends.
	Cycle(ctx context.Context) error
}

// Pins remembers the certificate, as the hexadecimal SHA-256, that a host showed first.
// The host has its port.
type Pins interface {
	// Get is "" for a host that showed none yet.
	Get(host string) string
	Put(host, sha256 string) error
}

// Config is a switch. Which fields count hangs on Kind.
type Config struct {
	Kind string // "pikvm", "pdu", "wol", "gsm-socket" or "command"

	// Of a PiKVM.
	URL  string // https://host[:port]
	Pins Pins

	User     string                 // of a PiKVM, or of SNMPv3; "" there is SNMP 2c
	Password func() (string, error) // read at every operation; of a GSM socket nil where it has none

	// Of a power distribution unit, by SNMP.
	Host      string                 // address or name, with a port where it is not 161
	Model     string                 // "apc", "raritan" or "eaton"; of a GSM socket "simpal", "t40", "oem", "isocket" or "custom"
	Outlet    int                    // from 1
	Community func() (string, error) // of SNMP 2c

	// Of Wake-on-LAN.
	MACs      []net.HardwareAddr
	Interface string // of the LAN where the machine is

	// Of a GSM socket.
	Number string // its SIM's, +79160000000
	GSM    GSM    // what is other than Model has it
	// Ask sends a text and returns what comes from the number until ctx is done, when it closes the channel. An
	// error is that the text certainly was not sent.
	Ask func(ctx context.Context, number, text string) (<-chan string, error)

	// Taking is called right before power is taken for a cycle; nil: nobody wants to know.
	Taking func()

	// Of a command: programs with their arguments, nil where it cannot.
	// Status prints "on" or "off".
	On, Off, Cycle, Status []string
}

// Errors that callers tell apart.
var (
	ErrRefused     = errors.New("the switch refuses user or password")
	ErrSilent      = errors.New("the switch does not answer")
	ErrUnsupported = errors.New("the switch cannot do that")
	ErrNotTaken    = errors.New("the switch did not do what it was told")
	ErrCertificate = errors.New("the certificate is not the one it had")
)

// The bounds of operations. A command may queue for its turn that long, too.
const (
	asking    = 20 * time.Second
	switching = 2 * time.Minute
)

// New makes a switch. Nothing is asked of it yet.
func New(c Config) (Switch, error) {
	if c.Taking == nil {
		c.Taking = func() {}
	}
	var s Switch
	var err error
	switch c.Kind {
	case "pikvm":
		s, err = newPiKVM(c)
	case "pdu":
		s, err = newPDU(c)
	case "wol":
		s, err = newWake(c)
	case "command":
		s, err = newCommand(c)
	case "gsm-socket":
		s, err = newGSMSocket(c)
	default:
		err = fmt.Errorf("%q is no kind of switch: want pikvm, pdu, wol, gsm-socket or command", c.Kind)
	}
	if err != nil {
		return nil, err
	}
	t := &turns{of: s, turn: make(chan struct{}, 1), asking: asking, switching: switching}
	if c.Kind == "gsm-socket" {
		t.asking, t.switching = gsmAsking, gsmSwitched
	}
	return t, nil
}

// Warning is one sentence that a person is told, and asked about, before a switch is used for anything: "" where
// there is nothing beyond what cutting the power means anyway.
func Warning(s Switch) string {
	if t, ok := s.(*turns); ok {
		if g, ok := t.of.(*gsmSocket); ok {
			return fmt.Sprintf("Its socket is switched by text message to %s: that pulls the plug, costs money, and takes a minute.", g.number)
		}
	}
	return ""
}

// PullsPlug reports whether a cycle takes the power away from the machine as pulling its plug does. Wake-on-LAN takes
// none, and a PiKVM holds the power button down, as a BMC does.
func PullsPlug(s Switch) bool {
	t, ok := s.(*turns)
	if !ok {
		return false
	}
	switch of := t.of.(type) {
	case *pdu:
		return true
	case *command:
		return of.off != nil || of.cycle != nil
	case *gsmSocket:
		return of.texts.Off != "" || of.texts.Cycle != ""
	}
	return false
}

// turns bounds a switch's operations in time, and has it do one thing at a time.
type turns struct {
	of                Switch
	turn              chan struct{}
	asking, switching time.Duration // bounds
}

func (t *turns) State(ctx context.Context) (s State, err error) {
	err = t.take(ctx, t.asking, func(ctx context.Context) error {
		s, err = t.of.State(ctx)
		return err
	})
	if err != nil {
		return Unknown, err
	}
	return s, nil
}

func (t *turns) On(ctx context.Context) error    { return t.take(ctx, t.switching, t.of.On) }
func (t *turns) Off(ctx context.Context) error   { return t.take(ctx, t.switching, t.of.Off) }
func (t *turns) Cycle(ctx context.Context) error { return t.take(ctx, t.switching, t.of.Cycle) }

func (t *turns) take(ctx context.Context, bound time.Duration, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait for what the switch is doing already: %w", ctx.Err())
	}
	defer func() { <-t.turn }()
	return do(ctx)
}

// How long a switch may take until it says what it was told, and how often it is asked.
const (
	settling = 20 * time.Second
	beat     = 500 * time.Millisecond
)

// settle asks for the state until it is the one wanted. One answer that does not come
// is no reason to stop: the units' SNMP agents are away for seconds while relays move.
func settle(ctx context.Context, want State, within time.Duration, state func(context.Context) (State, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for said := Unknown; ; {
		s, err := state(ctx)
		switch {
		case err == nil && s == want:
			return nil
		case err == nil:
			said = s
		case !errors.Is(err, ErrSilent) && ctx.Err() == nil:
			return err
		}
		if pause(ctx, beat) != nil {
			if err != nil && said == Unknown {
				return fmt.Errorf("%w: told to be %s, its state cannot be read: %w", ErrNotTaken, want, err)
			}
			return fmt.Errorf("%w: told to be %s, it says %s after %v", ErrNotTaken, want, said, within)
		}
	}
}

// restore is for what must not be left undone: a machine whose power was taken for a cycle
// gets it back whether or not somebody still waits for it.
func restore(ctx context.Context, on func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := on(ctx); err != nil {
		return fmt.Errorf("its power was taken and does not come back: %w", err)
	}
	return nil
}

// and is errors.Join in one line, as errors are shown.
func and(err, another error) error {
	if err == nil || another == nil {
		return cmp.Or(err, another)
	}
	return fmt.Errorf("%w; %w", err, another)
}

// resting is how long power stays off in a cycle: capacitors shall be empty, and a
// server's firmware shall see that it was gone.
const resting = 5 * time.Second

// offAndOn is a cycle for switches that have none. To switch off may fail by its answer
// only: then power is given back all the same, unless it is there. Whether or not somebody still waits, it rests.
func offAndOn(ctx context.Context, s Switch, taking func(), rest time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	taking()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switching) // an off that is abandoned may still come
	defer cancel()
	failed := s.Off(ctx)
	if failed != nil {
		switch state := after(ctx, s, failed); state {
		case On:
			return failed
		case Off: // it did happen
			failed = nil
		}
	}
	_ = pause(ctx, rest) // too short a rest is better than none
	if err := restore(ctx, s.On); err != nil {
		return and(failed, err)
	}
	return failed
}

// after is the state after a failure; On for those that come before anything is done.
func after(ctx context.Context, s Switch, failed error) State {
	if errors.Is(failed, ErrRefused) || errors.Is(failed, ErrUnsupported) || errors.Is(failed, ErrCertificate) {
		return On
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), asking)
	defer cancel()
	state, err := s.State(ctx)
	if err != nil {
		return Unknown
	}
	return state
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
