package text

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	maxJobs  = 16               // that wait or are done
	actLimit = 16 * time.Minute // for one command: a socket that is itself told by text message has cycled by then
	yesFor   = 15 * time.Minute // a command waits for its yes
)

// order is a command of somebody who may give it.
type order struct {
	command
	person    *person
	late      time.Duration // it took so long to come, which is too long
	ask       bool          // it is asked back
	confirmed bool          // it was, and here is the yes
}

// doing is what is noted on disk before it is done; "" for what changes nothing.
func (o order) doing() string {
	if o.person == nil || o.ask || o.looks() {
		return ""
	}
	return o.String()
}

// lane is what an order waits for its turn in: those about one machine are done one after the other, and so
// are those about the way in. What only looks waits for its like alone. Nothing waits for a machine that takes its
// minutes, least of all the way in.
func (o order) lane() string {
	switch {
	case o.looks():
		return "look: " + o.String()
	case o.machine != "":
		return "machine: " + o.machine
	}
	return "the way in"
}

// pending is a command that waits for its yes. A restart forgets it.
type pending struct {
	command
	number string
	until  time.Time
}

// meant is the command that a yes is for.
func (p pending) meant(number string) (command, error) {
	if p.number == "" || p.number != number || time.Now().After(p.until) {
		return command{}, fmt.Errorf("nothing waits for yes %s: send the command again", short(number))
	}
	return p.command, nil
}

// orderLocked has an order done, or asks back.
func (d *Desk) orderLocked(o order) {
	if o.ask {
		d.askBackLocked(o)
		return
	}
	if o.confirmed {
		o.person.pending = pending{}
	}
	if len(d.jobs)+len(d.lanes) >= maxJobs {
		d.doneLocked(o, "too many commands wait: send it again in some minutes")
		return
	}
	d.jobs = append(d.jobs, o)
	d.nudge(d.job)
}

// askBackLocked asks for a yes. Its number has three digits, so that it is no half of a code.
func (d *Desk) askBackLocked(o order) {
	n, _ := rand.Int(rand.Reader, big.NewInt(900)) // crypto/rand never fails
	o.person.pending = pending{command: o.command, number: fmt.Sprint(n.Int64() + 100), until: time.Now().Add(yesFor)}
	what := "cuts its power"
	switch {
	case o.late > 0:
		what = fmt.Sprintf("took %v to come", o.late.Round(time.Minute))
	case o.verb == "boot" && d.Plug != nil && d.Plug(o.machine):
		what = "pulls its plug"
	case o.verb == "boot":
		what = "restarts it"
	case o.arg == "on":
		what = "switches it on"
	}
	d.answerLocked(o.person, Answer, fmt.Sprintf("%s %s. To do it send within %d min: yes %s CODE (the next one)",
		o, what, int(yesFor/time.Minute), o.person.pending.number), false)
}

// work does what comes until ctx is done.
func (d *Desk) work(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		for _, o := range d.begins() {
			wg.Go(func() { d.do(ctx, o) })
		}
		select {
		case <-ctx.Done():
			return
		case <-d.job:
		}
	}
}

// begins takes the orders whose turn it is.
func (d *Desk) begins() (list []order) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.jobs = slices.DeleteFunc(d.jobs, func(o order) bool {
		turn := !d.lanes[o.lane()]
		if turn {
			d.lanes[o.lane()] = true
			list = append(list, o)
		}
		return turn
	})
	return list
}

// do does one and answers it.
func (d *Desk) do(ctx context.Context, o order) {
	said := d.act(ctx, o)
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() != nil {
		return // it stays noted as being done, and the next life says so
	}
	d.doneLocked(o, said)
	delete(d.lanes, o.lane())
	d.nudge(d.job)
}

// act does what is ordered and returns the answer.
func (d *Desk) act(ctx context.Context, o order) (said string) {
	ctx, cancel := context.WithTimeout(ctx, actLimit)
	defer cancel()
	var err error
	switch o.verb {
	case "help":
		return o.person.help()
	case "status":
		return d.Acts.Status(ctx)
	case "boot":
		said, err = d.Acts.Boot(ctx, o.machine, o.arg)
	case "power":
		said, err = d.Acts.Power(ctx, o.machine, o.arg)
	case "link":
		said, err = d.Acts.Link(ctx, o.arg)
	case "vpn":
		said, err = d.Acts.VPN(ctx)
	case "reset":
		said, err = d.Acts.ResetModem(ctx)
	case "ticket":
		said, err = d.Acts.Ticket(ctx, o.machine)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s: no answer within %v; it may have happened all the same", o, actLimit)
	case err != nil:
		return fmt.Sprintf("%s failed: %v", o, err)
	}
	return said
}

// doneLocked answers an order that is over, and only then forgets that it was being done. A phone that was lost
// meanwhile gets no answer.
func (d *Desk) doneLocked(o order, said string) {
	if o.person.record == nil {
		return
	}
	d.answerLocked(o.person, Answer, said, o.verb == "ticket")
	d.forgetLocked(o.person, o.doing())
}

// forgetLocked takes a command off those that are being done.
func (d *Desk) forgetLocked(p *person, doing string) {
	if p.record == nil || doing == "" {
		return
	}
	r := *p.record
	if i := slices.Index(r.Doing, doing); i >= 0 {
		r.Doing = slices.Delete(slices.Clone(r.Doing), i, i+1)
	}
	if err := r.write(d.Secrets); err != nil {
		d.log().Error("that a command was done cannot be stored; it will be said again", zap.NamedError("err", err))
	}
	p.record = &r
}

// resume says of the commands in whose midst the box stopped that nobody knows how far they came. They
// are not done again: whoever sent them knows better by now.
func (d *Desk) resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.people {
		if p.record == nil {
			continue
		}
		for _, doing := range slices.Clone(p.record.Doing) {
			d.answerLocked(p, Answer, fmt.Sprintf("the box restarted while it did: %s. Ask for the status, and send it again if need be", doing), false)
			d.forgetLocked(p, doing)
		}
	}
}

// answerLocked puts an answer into the queue, with its time: who reads it hours later shall know.
func (d *Desk) answerLocked(p *person, k Kind, said string, private bool) {
	now, sure := d.now()
	at := now.Format("15:04")
	if !sure {
		at = "clock not set"
	}
	d.queueLocked(&Text{Number: p.Number, Kind: k, Text: fit(fmt.Sprintf("%s %s: %s", at, d.Site, said)), Private: private})
}

// refuseLocked keeps a message that is not followed, and says why, as often as the budget for that allows.
func (d *Desk) refuseLocked(p *person, m Message, why error) {
	d.keepLocked(m, why.Error())
	if errors.As(why, new(*proven)) {
		d.answerLocked(p, Answer, why.Error(), false)
		return
	}
	if d.mayRefuseLocked(p.Number) {
		d.answerLocked(p, Refusal, why.Error(), false)
	}
}
