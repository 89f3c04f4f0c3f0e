package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"rescuebox/appliance/admin/api"
)

// How long a follower waits for what should come at once: the ticket of a
// machine that is up, and the events of an order that has ended.
const (
	ticketWait = 10 * time.Second
	eventWait  = 3 * time.Second
)

// follower follows one order until it ends.
//
//	waiting --done--> done --ticket--> taken over
//	waiting --expired, failed--> over
type follower struct {
	*cli
	client   *api.Client
	order    api.Order
	noTicket bool // the image brings none: done is the end

	print *printer
	done  bool
	cause api.Event // the last likely cause that was told
}

// showOrder says what was ordered, and what the person has to do.
func (f *follower) showOrder(ask api.NewOrder, detach bool) {
	if f.json {
		f.line("order", f.order)
		return
	}
	fmt.Fprintf(f.out, "order %s: %s boots %s, until %s\n", f.order.ID, f.order.Machine, f.order.Image, clock(f.order.Expires))
	switch {
	case f.order.Power != api.Manual:
		fmt.Fprintln(f.out, pressing(f.order.Power, ask))
	case detach:
		fmt.Fprintf(f.out, "power it on now\n")
	default:
		fmt.Fprintf(f.out, "power it on now; waiting\n")
	}
}

// pressing says what happens to the machine's power now.
func pressing(by api.Power, ask api.NewOrder) string {
	what := "cycles its power now"
	if ask.Soft {
		what = "cycles its power, after its system was asked to shut down"
	}
	switch {
	case ask.Via == "media":
		what += ", and boots it once from its virtual CD"
	case by == api.ByBMC:
		what += ", and boots it once from the network"
	default:
		what += "; whether it boots from the network is up to its firmware's setup"
	}
	return "its " + byName(by) + " " + what
}

// line prints one JSON line that says what it is.
func (c *cli) line(what string, v any) {
	text, err := json.Marshal(map[string]any{what: v})
	if err == nil {
		fmt.Fprintf(c.out, "%s\n", text)
	}
}

// run follows the order until its ticket is here or it has failed.
func (f *follower) run(ctx context.Context) error {
	f.print = f.printer()
	defer f.print.end()
	// Stopping the stream and waiting for its end leaves no goroutine behind.
	streaming, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()

	events, connected, failed := make(chan api.Event), make(chan struct{}, 1), make(chan error, 1)
	w := api.Watch{Order: f.order.ID, Lost: f.print.lost, Connected: func() {
		f.print.connected()
		select {
		case connected <- struct{}{}:
		default:
		}
	}}
	wg.Go(func() {
		failed <- f.client.Follow(streaming, w, func(e api.Event) error {
			select {
			case events <- e:
				return nil
			case <-streaming.Done():
				return streaming.Err()
			}
		})
	})
	return f.loop(ctx, events, connected, failed)
}

// loop is the heart of run: everything that can happen, one at a time.
func (f *follower) loop(ctx context.Context, events <-chan api.Event, connected <-chan struct{}, failed <-chan error) error {
	var late <-chan time.Time
	for {
		select {
		case e := <-events:
			over, err := f.take(ctx, e)
			if over {
				return err
			}
			if f.done && late == nil {
				late = time.After(ticketWait)
			}
		case <-connected:
			// The daemon may have ended the order and died before it told so.
			if o, err := f.client.Order(ctx, f.order.ID); err == nil {
				f.order = o
				if !o.Open() && late == nil {
					late = time.After(eventWait)
				}
			}
		case <-late:
			return f.end(ctx)
		case err := <-failed:
			if ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
			return f.interrupted()
		}
	}
}

// take takes one event; over means that there is nothing more to wait for.
func (f *follower) take(ctx context.Context, e api.Event) (over bool, err error) {
	f.print.event(e)
	switch e.Step {
	case "cause":
		f.cause = e
	case "done":
		f.done = true
		return f.noTicket, nil
	case "ticket":
		if f.unproved(ctx) {
			return false, nil
		}
		return true, f.end(ctx)
	case "expired", "failed":
		f.order.State, f.order.Reason = e.Step, e.Text
		return true, f.end(ctx)
	}
	return false, nil
}

// unproved reports that the order has no ticket of its own yet: what is on its
// timeline came without its token, and anybody on the rescue LAN can send such a one. The
// machine's own may follow.
func (f *follower) unproved(ctx context.Context) bool {
	list, err := f.client.Tickets(ctx, f.order.Machine, f.order.ID)
	return err == nil && len(list) == 0
}

// meanwhile is the hint at a ticket that came without the order's token while it stood, or the usual one.
func (f *follower) meanwhile(ctx context.Context, usual string) string {
	list, _ := f.client.Tickets(ctx, f.order.Machine, "") // newest first; without it the usual hint must do
	for _, t := range list {
		if !t.Verified && t.Updated.After(f.order.Created) {
			return "a ticket without the order's token came meanwhile: rescuebox ticket show " + t.ID
		}
	}
	return usual
}

// end prints the ticket, or fails with the reason why there is none.
func (f *follower) end(ctx context.Context) error {
	f.print.end()
	m := f.order.Machine
	switch f.order.State {
	case "expired":
		usual := cmp.Or(f.cause.Hint, fmt.Sprintf("was %s powered on, and does it boot from the network first? rescuebox doctor; then order again, with a longer --ttl", m))
		return hinted(fmt.Errorf("the order expired: %s", f.order.Reason), "%s", f.meanwhile(ctx, usual))
	case "failed":
		return hinted(fmt.Errorf("the order failed: %s", f.order.Reason), "rescuebox doctor looks for the cause")
	}
	if f.noTicket {
		return nil
	}
	list, err := f.client.Tickets(ctx, m, f.order.ID)
	if err != nil {
		return fmt.Errorf("%s is up, but its ticket cannot be read: %w", m, err)
	}
	if len(list) == 0 {
		return hinted(fmt.Errorf("%s is up, but brought no ticket", m), "%s", f.meanwhile(ctx, "look later: rescuebox ticket list"))
	}
	t := best(list)
	if f.json {
		f.line("ticket", t)
		return nil
	}
	fmt.Fprintln(f.out)
	return f.printTicket(t, false)
}

// interrupted says what a Ctrl-C leaves behind.
func (f *follower) interrupted() error {
	f.print.end()
	if f.done {
		return errors.New("interrupted")
	}
	return hinted(fmt.Errorf("interrupted; the order stays armed: %s boots %s when it is powered on, until %s",
		f.order.Machine, f.order.Image, clock(f.order.Expires)), "to cancel it: rescuebox cancel %s", f.order.Machine)
}
