package appliance

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/console"
)

// failedLines are the last lines of a machine's console that a failed order keeps.
const failedLines = 200

// consoles lets the API at the machines' serial consoles; it is admin's Consoles.
type consoles struct {
	*console.Keeper
	powers map[string]*machinePower
}

// newConsoles keeps the console of every machine that has a serial port of the box or a BMC.
func newConsoles(b *box) consoles {
	k := &console.Keeper{Dir: filepath.Join(b.Config.State.Dir, "consoles"), Log: b.logOf("console"), Metrics: replacing{b.metrics}}
	for _, m := range b.Config.Machines {
		if to, ok := consoleOf(m, b.powers[m.Name]); ok {
			k.Machines = append(k.Machines, to)
		}
	}
	return consoles{k, b.powers}
}

func consoleOf(m config.Machine, p *machinePower) (console.Machine, bool) {
	switch {
	case m.Serial != "":
		return console.Machine{Name: m.Name, Open: console.Serial(m.Serial, m.SerialSpeed)}, true
	case p != nil && p.bmc != nil:
		return console.Machine{Name: m.Name, Open: func(ctx context.Context) (io.ReadWriteCloser, error) { return p.bmc.Console(ctx) }, Wait: consoleWait}, true
	}
	return console.Machine{}, false
}

// consoleWait leaves a controller alone that has no console, or none for this user. One that refuses
// the password is not even asked before it is time: its account is shared with power and audit.
func consoleWait(err error) time.Duration {
	if errors.Is(err, bmc.ErrUnsupported) || errors.Is(err, bmc.ErrRights) {
		return time.Hour
	}
	return 0
}

func (c consoles) Attach(ctx context.Context, machine string, a admin.ConsoleAttach) (admin.ConsoleSession, error) {
	c.powers[machine].ask()
	s, err := c.Keeper.Attach(ctx, machine, console.Attach(a))
	if err != nil {
		return nil, consoleRefusal(err)
	}
	return consoleSession{s}, nil
}

func (c consoles) Tail(machine string, lines int) ([]string, error) {
	list, err := c.Keeper.Tail(machine, lines)
	return list, consoleRefusal(err)
}

// lastLine is what a machine's console said last, without its time, or "".
func (c consoles) lastLine(machine string) string {
	lines, err := c.Keeper.Tail(machine, 20)
	if err != nil {
		return ""
	}
	for i := len(lines) - 1; i >= 0; i-- {
		// Two spaces stand between the time and what the machine said; remarks of ours have one.
		if _, said, ok := strings.Cut(lines[i], "  "); ok && strings.TrimSpace(said) != "" {
			return strings.TrimSpace(said)
		}
	}
	return ""
}

// consoleSession is one who looks, as the API sees it.
type consoleSession struct{ *console.Session }

func (s consoleSession) Next(ctx context.Context) (admin.ConsolePiece, error) {
	p, err := s.Session.Next(ctx)
	return admin.ConsolePiece(p), err
}

// consoleRefusal is a console's "no" in the words that the API knows.
func consoleRefusal(err error) error {
	hint := ""
	switch {
	case errors.Is(err, console.ErrUnknown):
		hint = `give the machine a BMC, or serial = "/dev/ttyUSB0", in the file of the site`
	case errors.Is(err, console.ErrBusy):
		hint = "end another session first"
	default:
		return err
	}
	return &boot.Refusal{Reason: err.Error(), Hint: hint, Err: err}
}

// keepLastWords puts the end of a machine's console into the timeline of an order that
// failed, until ctx is done: it often says why.
func (c consoles) keepLastWords(ctx context.Context, table *boot.Table, events <-chan boot.Event) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if e.Step != boot.StepFailed && e.Step != boot.StepExpired || e.Order == "" {
				continue
			}
			if lines, err := c.Keeper.Tail(e.Machine, failedLines); err == nil && len(lines) > 0 {
				table.RecordConsole(e.Order, e.Machine, lines)
			}
		}
	}
}

// run keeps the consoles; it is a part. What happens is watched from now on, before any part runs: an order that
// is gone on with after a restart may fail at once.
func (c consoles) run(table *boot.Table) func(context.Context, func()) error {
	events, _ := table.Watch() // as long as there is the table
	return func(ctx context.Context, ready func()) error {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { c.keepLastWords(ctx, table, events) })
		return c.Keeper.Run(ctx, ready)
	}
}
