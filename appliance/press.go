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

// puller is what a button may be besides.
type puller interface {
	// PullsPlug is that it pulls the machine's plug. That is done once for each time somebody said yes to it: a machine
	// that did not ask for a network boot may be at work again, from its own disk.
	PullsPlug() bool
	// Untold is that nobody knows after a restart of the box whether it was pressed, and that to ask it for its state
	// costs a text message.
	Untold() bool
}

func pullsPlug(c button) bool {
	of, ok := c.(puller)
	return ok && of.PullsPlug()
}

func untold(c button) bool {
	of, ok := c.(puller)
	return ok && of.Untold()
}

// progress keeps how far presses have come; *boot.Table does.
type progress interface {
	Pressed(orderID string, p boot.Press)
	Timeline(orderID string) ([]boot.Event, error)
}

// presser presses a machine's power button for an order, and again if nothing
// comes of it, unless that would pull its plug unasked: arm, one-time boot and power as one operation, wait for the network boot. Each step
// is stored before it is done, so that a press outlives the daemon.
type presser struct {
	orders   orders
	progress progress
	taken    *taken
	firmware func(machine string) (uefi, known bool) // by which the machine boots
	// lastLine is what its console said last, or "".
	lastLine func(machine string) string
	// spare is that it has a switch beside its BMC.
	spare func(machine string) bool
}

// bootText says what was set, and where they differ, what is read back: some controllers keep
// less than they do.
func bootText(asked bmc.Boot, set bmc.Next) string {
	want := bmc.Next{Boot: asked, Held: true}
	if asked.Unsure {
		return set.String()
	}
	if set == want || set.Device != asked.Device {
		return set.String()
	}
	return fmt.Sprintf("%s (the BMC reads back: %s)", want, set)
}

// press boots the order's machine by its button, from where that was left. It returns when the machine was
// heard of, or when the order is over: where pressing does not help, it ends the order
// with the reason. disk is the URL of what the controller inserts and boots; "" boots from the network.
func (p *presser) press(ctx context.Context, o boot.Order, c button, disk string) {
	events, stop := p.orders.Watch()
	defer stop()
	if o.Press.Soft && !o.Press.Past(boot.PressShutdown) {
		again := o.Press.Step == boot.PressShutdown
		p.step(&o, boot.PressShutdown)
		p.shutDown(ctx, o, c, again)
	}
	patience, missing := bootPatience, "did not ask for a network boot"
	if disk != "" && ctx.Err() == nil {
		if !o.Press.Past(boot.PressMedia) {
			p.step(&o, boot.PressMedia)
		}
		eject, err := p.insert(ctx, o, c, disk)
		if err != nil {
			p.fail(ctx, o, fmt.Sprintf("virtual media: %v", err))
			return
		}
		defer eject()
		patience, missing = mediaPatience, "did not report from the virtual media"
	}
	most := presses
	if pullsPlug(c) {
		most, patience = 1, presses*patience
	}
	said := ""
	sent, heard := p.sent(ctx, &o, c, events)
	for ; ; sent = false {
		if ctx.Err() != nil || !p.stands(o) || !sent && !p.start(ctx, &o, c) {
			return
		}
		if heard || p.heard(ctx, o, events, patience) {
			p.stepHeard(ctx, o)
			return
		}
		said = p.ask(ctx, o, c, patience, most)
		if o.Press.Tries >= most {
			break
		}
	}
	if pullsPlug(c) {
		said += "; its plug is not pulled again unasked: does it start when power comes back, and try the network first? Then order it again"
	}
	p.fail(ctx, o, fmt.Sprintf("%s was power cycled %s and %s: %s", o.Machine, times(o.Press.Tries), missing, said))
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// start sets what is booted and cycles power. It is false where that failed, and the order with it.
func (p *presser) start(ctx context.Context, o *boot.Order, c button) bool {
	if pullsPlug(c) && !o.Press.Confirmed { // as where the file of the site got another switch meanwhile
		p.fail(ctx, *o, fmt.Sprintf("to start %s its plug would be pulled, and nobody was asked about that: order it again", o.Machine))
		return false
	}
	o.Press.Tries++
	p.step(o, boot.PressPower)
	next := p.next(*o)
	set, err := c.Start(ctx, next)
	switch {
	case errors.Is(err, bmc.ErrHalfway): // it may be on its way
		p.tell(*o, fmt.Sprintf("power may be cycled, nobody knows: %v", err))
	case err != nil:
		p.fail(ctx, *o, fmt.Sprintf("power: %v", err))
		return false
	default:
		p.tell(*o, "power is cycled, to boot once from "+bootText(next, set)+p.guess(*o, set))
	}
	p.step(o, boot.PressWait)
	if err == nil {
		p.taken.back(o.Machine)
	}
	return true
}

// next is what the order's machine boots. Where nobody knows by which firmware, a controller that has to be told, as
// by IPMI, is told UEFI first, and then BIOS.
func (p *presser) next(o boot.Order) bmc.Boot {
	b := bmc.Boot{Device: bmc.Network}
	if o.Press.Media {
		b.Device = bmc.VirtualCD
	}
	uefi, known := p.firmware(o.Machine)
	b.UEFI, b.Unsure = uefi, !known
	if !known {
		b.UEFI = o.Press.Tries < 2
	}
	return b
}

// guess says what to do where the firmware is not known and comes up wrong.
func (p *presser) guess(o boot.Order, set bmc.Next) string {
	if _, known := p.firmware(o.Machine); known || set.Device == ownOrder {
		return ""
	}
	return fmt.Sprintf("; %s was not seen yet: if it is not by that firmware that it boots, set firmware = \"bios\" or \"uefi\" in the file of the site", o.Machine)
}

// step stores how far the press has come.
func (p *presser) step(o *boot.Order, s boot.PressStep) {
	if o.Press.Step = s; s != boot.PressWait {
		o.Press.Since = time.Now()
	}
	p.progress.Pressed(o.ID, o.Press)
}

// stepHeard stores that the machine was heard of, unless it is the box that is going down.
func (p *presser) stepHeard(ctx context.Context, o boot.Order) {
	if ctx.Err() == nil && p.stands(o) {
		p.step(&o, boot.PressHeard)
		p.taken.back(o.Machine)
	}
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
		if ctx.Err() == nil || !p.stands(o) { // else the box stops, and the machine may be booting from it
			p.eject(ctx, o, m)
		}
	}, nil
}

func (p *presser) eject(ctx context.Context, o boot.Order, m bmc.Media) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ejectPatience)
	defer cancel()
	if err := m.Eject(ctx); err != nil {
		p.tell(o, fmt.Sprintf("the rescue disk stays in the BMC's virtual drive, eject it there: %v", err))
	}
}

// shutDown asks the system to shut down before its power is cut. One that may have been asked before is
// waited for though it refuses: it does so because it is shutting down.
func (p *presser) shutDown(ctx context.Context, o boot.Order, c button, again bool) {
	state, unknown := down(ctx, c)
	if unknown == nil && state == bmc.Off {
		return
	}
	err := c.ShutDown(ctx)
	if err != nil && !again {
		p.tell(o, fmt.Sprintf("no orderly shutdown, power is cut: %v", err))
		return
	}
	text := "the system is asked to shut down"
	if err != nil {
		text = fmt.Sprintf("the system may have been asked to shut down, and is waited for: %v", err)
	}
	if unknown != nil { // it is waited for all the same
		text += fmt.Sprintf("; whether it is down cannot be seen: %v", unknown)
	}
	p.tell(o, text)
	deadline := time.Now().Add(softPatience)
	for time.Now().Before(deadline) && p.stands(o) {
		if !sleep(ctx, softPoll) {
			return
		}
		if state, err := down(ctx, c); err == nil && state == bmc.Off {
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

// errPlug is why a socket that obeys text messages is not asked: that it gives power says nothing of what takes it.
var errPlug = errors.New("its socket knows the plug, and nothing of what runs behind it")

// down asks whether a system is down.
func down(ctx context.Context, c button) (bmc.State, error) {
	if untold(c) {
		return bmc.Unknown, errPlug
	}
	return c.Power(ctx)
}

// heard waits for the machine: for its network boot, or, where it boots from a disk that
// the controller reads, for the report of what is on it. It is true as well when the order is over.
func (p *presser) heard(ctx context.Context, o boot.Order, events <-chan boot.Event, patience time.Duration) bool {
	report := o.Press.Media
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
func (p *presser) ask(ctx context.Context, o boot.Order, c button, patience time.Duration, most int) string {
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
	if o.Press.Tries < most {
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
	if p.spare(o.Machine) && !o.Press.Media { // the last resort, and for a person to decide
		reason += fmt.Sprintf("; without its BMC: rescuebox boot %s %s --no-power, then rescuebox power %s cycle --switch", o.Machine, o.Image, o.Machine)
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
