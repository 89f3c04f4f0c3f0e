package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// courier brings DaRT's ticket to the box, for as long as the machine is up:
// somebody may move the cable, the box may be away, RemoteRecovery.exe may be
// started again and have another ticket.
//
//	waiting --a whole file--> sending --the box has it--> sent
//	sending --an error--> sending, later, or as soon as an address or the file changes
//	sent --another file, other addresses--> sending
type courier struct {
	box       boxClient
	look      func(time.Time) []byte
	addresses func() []string
	screen    *screen
	machine   string

	poll     time.Duration // how often files and addresses are looked at
	minDelay time.Duration // between two tries at first
	maxDelay time.Duration // and after many

	arrived int32 // atomically 1: a ticket has been seen
	lame    int32 // atomically 1: it names nothing to connect to, though this machine has an address

	sent  load   // what the box has
	shown load   // what the screen shows
	told  string // the last error on the screen
}

// load is a ticket and from where it is to be reached.
type load struct {
	ticket    []byte
	addresses string
}

func (l load) equal(m load) bool {
	return l.addresses == m.addresses && bytes.Equal(l.ticket, m.ticket)
}

// errNoBox is the error of an agent that was not told where the box is.
var errNoBox = errors.New("no box is known")

func (c *courier) run(ctx context.Context) {
	delay := c.minDelay
	for {
		now := c.current()
		wait := c.poll
		if err := c.step(ctx, now); err != nil {
			c.complain(err)
			wait, delay = jitter(delay), grow(delay, c.maxDelay)
		} else {
			delay, c.told = c.minDelay, ""
		}
		if !c.pause(ctx, wait, now) {
			return
		}
	}
}

// current is what there is to send now.
func (c *courier) current() load {
	return load{ticket: c.look(time.Now()), addresses: strings.Join(c.addresses(), " ")}
}

// step sends what the box has not.
func (c *courier) step(ctx context.Context, now load) error {
	lame := int32(0)
	if now.addresses != "" && read(now.ticket).Code != "" && len(tags(decode(now.ticket), "L")) == 0 {
		lame = 1
	}
	atomic.StoreInt32(&c.lame, lame)
	if now.ticket == nil || now.addresses == "" {
		return nil
	}
	atomic.StoreInt32(&c.arrived, 1)
	if !now.equal(c.sent) {
		if !now.equal(c.shown) {
			c.show(now)
		}
		if c.box.order.Server == nil {
			return errNoBox
		}
		const kind, what = "application/octet-stream", "the ticket"
		if err := c.box.send(ctx, http.MethodPut, "/agent/ticket", kind, what, now.ticket); err != nil {
			return err
		}
		c.sent = now
		c.screen.block("The administrator has the ticket of "+c.machine+".", "", "You need not do anything. Please leave the machine on.")
	}
	return nil
}

// pause waits, but no longer than until there is something else to send.
func (c *courier) pause(ctx context.Context, wait time.Duration, was load) bool {
	for end := time.Now().Add(wait); ; {
		left := time.Until(end)
		if left > c.poll {
			left = c.poll
		}
		if !sleep(ctx, left) {
			return false
		}
		if !time.Now().Before(end) || !c.current().equal(was) {
			return true
		}
	}
}

// here says whether there has been a ticket.
func (c *courier) here() bool { return atomic.LoadInt32(&c.arrived) == 1 }

// useless says whether the ticket was made before this machine had a network.
func (c *courier) useless() bool { return atomic.LoadInt32(&c.lame) == 1 }

// complain tells each new error once.
func (c *courier) complain(err error) {
	if err.Error() == c.told {
		return
	}
	c.told = err.Error()
	if errors.Is(err, errNoBox) {
		c.screen.block("This machine was not told where the rescue box is.", "", "PLEASE READ TO THE ADMINISTRATOR what stands above.")
		return
	}
	c.screen.line(fmt.Sprintf("%v; trying again, you need not do anything", err))
}

// show tells the person on site what the administrator may ask for on the phone.
func (c *courier) show(l load) {
	c.shown = l
	s := read(l.ticket)
	lines := append(bigText(c.machine), "")
	if s.Code != "" {
		lines = append(lines, bigText(s.Code)...)
		lines = append(lines, "", "machine   "+c.machine, "ticket    "+s.Code)
	} else {
		lines = append(lines, "machine   "+c.machine, "ticket    (in a form that this agent cannot show)")
	}
	for _, addr := range strings.Fields(l.addresses) {
		lines = append(lines, "address   "+addr)
	}
	for _, port := range s.Ports {
		lines = append(lines, "listens   "+port)
	}
	c.screen.block(append(lines, "", "This machine waits for the administrator's remote connection.",
		"You need not do anything. Please leave the machine on.")...)
}

// jitter spreads tries: after a power cut all machines of a rack ask at once.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(rand.Int63n(int64(d)/4+1))
}
