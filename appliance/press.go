package appliance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
)

// How long things may take before the controller is asked again.
const (
	bootPatience  = 3 * time.Minute // from power on to the first packet of a network boot: large servers test their memory
	softPatience  = 2 * time.Minute // for a system to shut down by itself
	softPoll      = 5 * time.Second
	ejectPatience = time.Minute
	mediaPatience = 10 * time.Minute // to the booted system's report: the controller loads the disk at a few MB/s
	presses       = 2
)

// orders is what a presser needs of the table.
type orders interface {
	OpenOrder(machine string) (boot.Order, bool)
	Record(e boot.Event)
	Watch() (events <-chan boot.Event, stop func())
	Fail(orderID, reason string) error
}

// button is what switches a machine: its BMC, or a switch in its place.
type button interface {
	Power(ctx context.Context) (bmc.State, error)
	// Start sets what is booted next, where that can be set, and cycles power.
	Start(ctx context.Context, b bmc.Boot) (bmc.Next, error)
	Next(ctx context.Context) (bmc.Next, error)
	// ShutDown asks the machine's system to go down, and returns when it was asked.
	ShutDown(ctx context.Context) error
}

// presser presses a machine's power button for an order, and again if nothing
// comes of it: arm, one-time boot and power as one operation, wait for the network boot.
type presser struct {
	orders orders
	uefi   func(machine string) bool // by which firmware the machine boots
	// lastLine is what its console said last, or "".
	lastLine func(machine string) string
}

// bootText says what was set, and where they differ, what is read back: some controllers keep
// less than they do.
func bootText(asked bmc.Boot, set bmc.Next) string {
	want := bmc.Next{Boot: asked, Held: true}
	if set == want || set.Device != asked.Device {
		return set.String()
	}
	return fmt.Sprintf("%s (the BMC reads back: %s)", want, set)
}

// way is how a machine is started for an order.
type way struct {
	soft  bool   // its system is asked to shut down first
	media string // URL of the disk that the controller inserts and boots; "" boots from the network
}

// press boots the order's machine by its button. It returns when the machine was
// heard of, or when the order is over: where pressing does not help, it ends the order
// with the reason.
func (p *presser) press(ctx context.Context, o boot.Order, c button, w way) {
	events, stop := p.orders.Watch()
	defer stop()
	if w.soft {
		p.shutDown(ctx, o, c)
	}
	next := bmc.Boot{Device: bmc.Network, UEFI: p.uefi(o.Machine)}
	patience, missing := bootPatience, "did not ask for a network boot"
	if w.media != "" {
		eject, err := p.insert(ctx, o, c, w.media)
		if err != nil {
			p.fail(ctx, o, fmt.Sprintf("virtual media: %v", err))
			return
		}
		defer eject()
		next.Device = bmc.VirtualCD
		patience, missing = mediaPatience, "did not report from the virtual media"
	}
	said := ""
	for attempt := range presses {
		if !p.stands(o) {
			return
		}
		set, err := c.Start(ctx, next)
		switch {
		case errors.Is(err, bmc.ErrHalfway): // it may be on its way
			p.tell(o, fmt.Sprintf("power may be cycled, nobody knows: %v", err))
		case err != nil:
			p.fail(ctx, o, fmt.Sprintf("power: %v", err))
			return
		default:
			p.tell(o, "power is cycled, to boot once from "+bootText(next, set))
		}
		if p.heard(ctx, o, events, patience, w.media != "") {
			return
		}
		said = p.ask(ctx, o, c, patience, attempt)
	}
	p.fail(ctx, o, fmt.Sprintf("%s was power cycled %d times and %s: %s", o.Machine, presses, missing, said))
}

// insert puts the order's disk into the controller. The booted system has all it needs of
// it in memory when it reports, so that it is ejected at the end of the press.
func (p *presser) insert(ctx context.Context, o boot.Order, c button, url string) (eject func(), err error) {
	m, ok := c.(bmc.Media)
	if !ok {
		return nil, bmc.ErrUnsupported
	}
	if err := m.Insert(ctx, url); err != nil {
		return nil, err
	}
	p.tell(o, "the rescue disk is in the BMC's virtual drive")
	return func() {
		if ctx.Err() != nil && p.stands(o) {
			return // the box stops, and the machine may be booting from it
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ejectPatience)
		defer cancel()
		if err := m.Eject(ctx); err != nil {
			p.tell(o, fmt.Sprintf("the rescue disk stays in the BMC's virtual drive, eject it there: %v", err))
		}
	}, nil
}

// shutDown asks the system to shut down before its power is cut.
func (p *presser) shutDown(ctx context.Context, o boot.Order, c button) {
	state, unknown := c.Power(ctx)
	if unknown == nil && state == bmc.Off {
		return
	}
	if err := c.ShutDown(ctx); err != nil {
		p.tell(o, fmt.Sprintf("no orderly shutdown, power is cut: %v", err))
		return
	}
	text := "the system is asked to shut down"
	if unknown != nil { // it is waited for all the same
		text += fmt.Sprintf("; whether it is down cannot be seen: %v", unknown)
	}
	p.tell(o, text)
	deadline := time.Now().Add(softPatience)
	for time.Now().Before(deadline) && p.stands(o) {
		if !sleep(ctx, softPoll) {
			return
		}
		if state, err := c.Power(ctx); err == nil && state == bmc.Off {
			p.tell(o, "the system has shut down")
			return
		}
	}
	if !p.stands(o) {
		p.tell(o, "the order is over; the system was asked to shut down, and its power is left alone")
		return
	}
	p.tell(o, fmt.Sprintf("the system was not seen to shut down within %s, power is cut", softPatience))
}

// heard waits for the machine: for its network boot, or, where it boots from a disk that
// the controller reads, for the report of what is on it. It is true as well when the order is over.
func (p *presser) heard(ctx context.Context, o boot.Order, events <-chan boot.Event, patience time.Duration, report bool) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return true
		case <-timer.C:
			now, open := p.orders.OpenOrder(o.Machine)
			return !open || now.ID != o.ID || now.State == boot.Booting && !report
		case e := <-events:
			if e.Order == o.ID && fromMachine(e, report) {
				return true
			}
		}
	}
}

// fromMachine reports whether an event was caused by the machine itself, or ends its
// order. The files of a disk in the controller are fetched by the controller.
func fromMachine(e boot.Event, report bool) bool {
	switch e.Step {
	case boot.StepArmed, boot.StepPower, boot.StepCause, boot.StepDialect:
		return false
	case boot.StepUp, boot.StepTicket, boot.StepDone, boot.StepFailed, boot.StepExpired:
		return true
	}
	return !report
}

// ask tells what the controller says of a machine that was not heard of.
func (p *presser) ask(ctx context.Context, o boot.Order, c button, patience time.Duration, attempt int) string {
	var words []string
	state, err := c.Power(ctx)
	if err != nil {
		words = append(words, err.Error())
	} else {
		words = append(words, "power is "+string(state))
	}
	if next, err := c.Next(ctx); err == nil {
		words = append(words, "the next boot is "+next.String())
	}
	said := strings.Join(words, " and ")
	text := fmt.Sprintf("%s was not heard of within %s; %s", o.Machine, patience, said)
	if attempt+1 < presses {
		text += "; once more"
	}
	e := boot.Event{Step: boot.StepPower, Machine: o.Machine, Order: o.ID, Text: text}
	if line := p.lastLine(o.Machine); line != "" { // for those who may look at the console
		e.Lines = []string{strings.ReplaceAll(line, o.Token, "[token]")}
	}
	p.orders.Record(e)
	return said
}

// stands reports whether the order is still the machine's open one.
func (p *presser) stands(o boot.Order) bool {
	now, open := p.orders.OpenOrder(o.Machine)
	return open && now.ID == o.ID
}

func (p *presser) tell(o boot.Order, text string) {
	p.orders.Record(boot.Event{Step: boot.StepPower, Machine: o.Machine, Order: o.ID, Text: text})
}

// fail ends the order, unless the box itself is going down: then the machine may be on its way.
func (p *presser) fail(ctx context.Context, o boot.Order, reason string) {
	if ctx.Err() != nil || !p.stands(o) {
		return
	}
	if err := p.orders.Fail(o.ID, reason); err != nil && !errors.As(err, new(*boot.Refusal)) {
		p.tell(o, fmt.Sprintf("%s; the order could not be ended: %v", reason, err))
	}
}

// sleep reports whether the time passed.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
