package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
)

// lookPatience is how long a controller that does not answer is asked whether its machine is on, after a restart of
// the box: both may come out of one power cut.
const lookPatience = time.Minute

// resumed says in the timeline that a press goes on after a restart of the box, and where.
func (p *presser) resumed(o boot.Order) {
	was := map[boot.PressStep]string{
		boot.PressOrdered:  "before its button was pressed",
		boot.PressShutdown: "while its system was asked to shut down",
		boot.PressMedia:    "while the rescue disk was put into its BMC",
		boot.PressPower:    "while its power was switched",
		boot.PressWait:     "while it was waited for",
	}[o.Press.Step]
	if was != "" {
		p.tell(o, fmt.Sprintf("the box was restarted %s: the press is resumed", was))
	}
}

// sent reports whether power was switched for the order before the box was restarted, so that the machine may be on
// its way and is not to be cycled once more, and whether it was heard of since. One that was switched off only is
// to be started, in the same try.
func (p *presser) sent(ctx context.Context, o *boot.Order, c button, events <-chan boot.Event) (sent, heard bool) {
	if !o.Press.Past(boot.PressMedia) {
		return false, false
	}
	_, taken := p.taken.of(o.Machine)
	state := bmc.Unknown
	switch heard = p.wasHeard(*o); {
	case heard:
		return true, true
	case taken || o.Press.Step != boot.PressPower || untold(c):
		if state, heard = p.settled(ctx, *o, c, events); state != bmc.Off {
			p.tell(*o, switched(taken || o.Press.Step != boot.PressPower))
			return true, heard
		}
		p.tell(*o, "power is off, and was not given back")
	default:
		p.tell(*o, "its power was not touched yet")
	}
	o.Press.Tries--
	return false, false
}

func switched(sure bool) string {
	if sure {
		return "power was switched already: it is waited for"
	}
	return "power may have been switched already, nobody knows: it is waited for"
}

// wasHeard reports whether the timeline has the machine after the press.
func (p *presser) wasHeard(o boot.Order) bool {
	list, err := p.progress.Timeline(o.ID)
	if err != nil {
		return false // it is waited for, and heard of again or not
	}
	for _, e := range list {
		if !e.Time.Before(o.Press.Since) && fromMachine(e, o.Press.Media) {
			return true
		}
	}
	return false
}

// settled is a machine's power when what was asked of it has come about: one that is on may still be going off, where
// its power was taken lately, and one that is off may be coming back by itself, as in a controller's own cycle. The
// machine may be heard of before.
func (p *presser) settled(ctx context.Context, o boot.Order, c button, events <-chan boot.Event) (s bmc.State, heard bool) {
	now := time.Now()
	age := max(0, now.Sub(o.Press.Since)) // the clock may have been set back
	answers, falls, rests := now.Add(lookPatience), now, now.Add(restFor-age)
	if _, ok := p.taken.of(o.Machine); ok {
		falls = now.Add(offWithin - age)
	}
	for {
		state, err := c.Power(ctx)
		now := time.Now()
		switch {
		case errors.Is(err, bmc.ErrUnsupported), ctx.Err() != nil:
			return bmc.Unknown, false
		case err == nil && state == bmc.On && !now.Before(falls), err == nil && state == bmc.Off && !now.Before(rests):
			return state, false
		case (err != nil || state == bmc.Unknown) && now.After(answers):
			return bmc.Unknown, false
		}
		if p.heard(ctx, o, events, glance) {
			return bmc.On, true
		}
	}
}

// tidy leaves nothing of an order that is over in its machine's controller: no disk, and no boot that was to be once
// and stays. Controllers and firmware do not agree who takes it back: some keep it, and their machines would boot from the
// network at every start.
func (p *presser) tidy(ctx context.Context, o boot.Order, c button, eject bool) {
	if m, ok := c.(bmc.Media); ok && eject && o.Press.Media && o.Press.Past(boot.PressShutdown) {
		p.eject(ctx, o, m)
	}
	if _, open := p.orders.OpenOrder(o.Machine); !open && o.Press.Tries > 0 { // a new order sets its own
		p.takeBack(ctx, o, c)
	}
	if ctx.Err() == nil {
		p.step(&o, boot.PressOver)
	}
}

// takeBack takes back what the order set and nobody used up.
func (p *presser) takeBack(ctx context.Context, o boot.Order, c button) {
	setter, ok := c.(interface {
		Set(ctx context.Context, b bmc.Boot) (bmc.Next, error)
	})
	if !ok {
		return
	}
	asked := p.next(o)
	var err error
	for try := range 3 {
		if try > 0 && !sleep(ctx, ejectPatience/2) {
			return
		}
		var next bmc.Next
		if next, err = c.Next(ctx); err == nil && (next.Device != asked.Device || !next.Held) {
			return
		}
		if err == nil {
			_, err = setter.Set(ctx, bmc.Boot{Device: bmc.Usual, UEFI: next.UEFI})
		}
		switch {
		case err == nil:
			p.tell(o, fmt.Sprintf("the boot from %s was still set in its BMC and is taken back", asked.Device))
			return
		case errors.Is(err, bmc.ErrUnsupported):
			return
		}
	}
	if ctx.Err() == nil {
		p.tell(o, fmt.Sprintf("whether its BMC would boot it from %s once more is not known, look there: %v", asked.Device, err))
	}
}
