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
	bootPatience = 3 * time.Minute // from power on to the first packet of a network boot: large servers test their memory
	softPatience = 2 * time.Minute // for a system to shut down by itself
	softPoll     = 5 * time.Second
	presses      = 2
)

// orders is what a presser needs of the table.
type orders interface {
	OpenOrder(machine string) (boot.Order, bool)
	Record(e boot.Event)
	Watch() (events <-chan boot.Event, stop func())
	Fail(orderID, reason string) error
}

// presser presses a machine's power button for an order, and again if nothing
// comes of it: arm, one-time boot and power as one operation, wait for the network boot.
type presser struct {
	orders orders
	uefi   func(machine string) bool // by which firmware the machine boots
}

// press boots the order's machine through its controller. It returns when the machine was
// heard on the network, or when the order is over: where pressing does not help, it ends the
// order with the reason.
func (p *presser) press(ctx context.Context, o boot.Order, c bmc.Controller, soft bool) {
	events, stop := p.orders.Watch()
	defer stop()
	if soft {
		p.shutDown(ctx, o, c)
	}
	said := ""
	for attempt := range presses {
		if !p.stands(o) {
			return
		}
		next, err := c.Start(ctx, bmc.Boot{Device: bmc.Network, UEFI: p.uefi(o.Machine)})
		if err != nil {
			p.fail(ctx, o, fmt.Sprintf("power: %v", err))
			return
		}
		p.tell(o, fmt.Sprintf("the BMC cycles power, and boots once from %s", next))
		if p.heard(ctx, o, events) {
			return
		}
		said = p.ask(ctx, o, c, attempt)
	}
	p.fail(ctx, o, fmt.Sprintf("%s was power cycled %d times and did not ask for a network boot: %s", o.Machine, presses, said))
}

// shutDown asks the system to shut down before its power is cut.
func (p *presser) shutDown(ctx context.Context, o boot.Order, c bmc.Controller) {
	if state, err := c.Power(ctx); err != nil || state == bmc.Off {
		return // the press that follows says what is wrong
	}
	if err := c.Do(ctx, bmc.SoftOff); err != nil {
		p.tell(o, fmt.Sprintf("no orderly shutdown, power is cut: %v", err))
		return
	}
	p.tell(o, "the system is asked to shut down")
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
	p.tell(o, fmt.Sprintf("the system did not shut down within %s, power is cut", softPatience))
}

// heard waits for the machine's network boot. It is true as well when the order is over.
func (p *presser) heard(ctx context.Context, o boot.Order, events <-chan boot.Event) bool {
	timer := time.NewTimer(bootPatience)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return true
		case <-timer.C:
			now, open := p.orders.OpenOrder(o.Machine)
			return !open || now.ID != o.ID || now.State == boot.Booting
		case e := <-events:
			if e.Order == o.ID && fromMachine(e) {
				return true
			}
		}
	}
}

// fromMachine reports whether an event was caused by the machine itself, or ends its order.
func fromMachine(e boot.Event) bool {
	switch e.Step {
	case boot.StepArmed, boot.StepPower, boot.StepCause, boot.StepDialect:
		return false
	}
	return true
}

// ask tells what the controller says of a machine that was not heard of.
func (p *presser) ask(ctx context.Context, o boot.Order, c bmc.Controller, attempt int) string {
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
	said := "the BMC says that " + strings.Join(words, " and ")
	text := fmt.Sprintf("%s was not heard of within %s; %s", o.Machine, bootPatience, said)
	if attempt+1 < presses {
		text += "; once more"
	}
	p.tell(o, text)
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
