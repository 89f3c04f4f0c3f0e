// Package console keeps the serial consoles of the machines: it holds each one open for
// good, through the machine's BMC (Serial over LAN) or a serial port of the box, lets many
// read and one write, and keeps a log while nobody looks.
//
// A BMC has one session, and drops it when it likes. So the console belongs to the Keeper:
// who wants to see it attaches to the Keeper, and a console that is lost is opened again,
// with growing delay. What was missed in between cannot be had any more; the gap is marked,
// for those who look and in the log.
//
// Only what the machine says is ever logged. What a person types is there as far as the
// machine echoes it: no password is.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Machine is a machine with a console.
type Machine struct {
	Name string
	// Open opens the console and ends whatever older session there is. ctx bounds the
	// opening only; the console stands until Close, or until its Read fails. One that can
	// send a break has the method Break() error.
	Open func(ctx context.Context) (io.ReadWriteCloser, error)
	// Wait is how long the console is left alone at least after an error of Open that does not
	// heal by itself, unless somebody attaches. nil, or 0: as usual.
	Wait func(err error) time.Duration
}

// Keeper keeps the consoles of all machines. Dir must be set.
type Keeper struct {
	Dir      string // of the logs: NAME.log and, older, NAME.log.1
	Machines []Machine

	Log     *zap.Logger           // nil: none
	Metrics prometheus.Registerer // nil: none

	once  sync.Once
	lines map[string]*line
}

// Attach says who wants to see a console.
type Attach struct {
	Who      string // for those who share the console
	Write    bool   // wants to type; one who comes second reads until he takes over
	TakeOver bool   // puts out who types now; he goes on reading
	Lines    int    // of the log to begin with; 0: none
}

// Errors that callers tell apart.
var (
	ErrUnknown   = errors.New("the machine has no console")
	ErrBusy      = errors.New("too many look at this console already")
	ErrReadOnly  = errors.New("attached for reading only")
	ErrLost      = errors.New("the console is not connected: what was typed is not sent")
	ErrNoBreak   = errors.New("this console cannot send a break")
	ErrClosed    = errors.New("the session is closed")
	errStopping  = errors.New("the box stops")
	errNoMachine = errors.New("a console without a name or a way to open it")
)

// OtherWrites is the error of typing while another one does.
type OtherWrites struct {
	Who   string
	Since time.Time
}

func (e *OtherWrites) Error() string {
	return fmt.Sprintf("%s writes since %s; you only read until you take over", e.Who, e.Since.Format(time.TimeOnly))
}

// Run keeps the consoles until ctx is done.
func (k *Keeper) Run(ctx context.Context, ready func()) error {
	k.setup()
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory for the logs of consoles: %w", err)
	}
	for _, m := range k.Machines {
		if m.Name == "" || m.Open == nil {
			return errNoMachine
		}
	}
	var wg sync.WaitGroup
	for _, l := range k.lines {
		wg.Go(func() { l.run(ctx) })
	}
	ready()
	<-ctx.Done()
	wg.Wait()
	return nil
}

// setup makes the consoles, once: those who look stay while Run is called again after a failure.
func (k *Keeper) setup() {
	k.once.Do(func() {
		log := k.Log
		if log == nil {
			log = zap.NewNop()
		}
		metrics := newMetrics(k.Metrics)
		k.lines = make(map[string]*line, len(k.Machines))
		for _, m := range k.Machines {
			log := log.With(zap.String("machine", m.Name))
			k.lines[m.Name] = newLine(m, filepath.Join(k.Dir, url.PathEscape(m.Name)+".log"), log, metrics.of(m.Name))
		}
	})
}

func (k *Keeper) find(machine string) (*line, error) {
	k.setup()
	if l, ok := k.lines[machine]; ok {
		return l, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrUnknown, machine)
}

// Attach joins those who look at a machine's console. The session ends with ctx, with Close,
// or with the Keeper; whoever comes has a console that is lost opened at once.
func (k *Keeper) Attach(ctx context.Context, machine string, a Attach) (*Session, error) {
	l, err := k.find(machine)
	if err != nil {
		return nil, err
	}
	return l.attach(ctx, a)
}

// Tail is the end of the log: at most so many lines, the oldest first, each with its time. Lines
// of the machine have two spaces behind the time, remarks of ours one and two dashes.
func (k *Keeper) Tail(machine string, lines int) ([]string, error) {
	l, err := k.find(machine)
	if err != nil {
		return nil, err
	}
	return l.tail(lines)
}
