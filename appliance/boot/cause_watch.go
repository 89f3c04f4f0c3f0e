package boot

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// causeEvery is how often orders are looked at that make no progress.
const causeEvery = 10 * time.Second

// watchCauses tells of every open order that stands still why, once for each
// stall and cause, until ctx is done.
func (t *Table) watchCauses(ctx context.Context) {
	tick := time.NewTicker(causeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.tellCauses(ctx)
		}
	}
}

func (t *Table) tellCauses(ctx context.Context) {
	for _, id := range t.openOrders() {
		events, err := t.Timeline(id)
		if err != nil {
			t.log.Warn("timeline not read, so that no cause can be told", zap.String("order", id), zap.NamedError("err", err))
		}
		c, told, stuck := t.cause(ctx, id, events, time.Now())
		if !stuck || told {
			continue
		}
		t.mu.Lock()
		if o, ok := t.orders[id]; ok && o.State.Open() {
			t.causeLocked(o, c)
		}
		t.mu.Unlock()
	}
}

// Cause is the likely cause why an open order stands still at a moment, and
// false where it does not.
func (t *Table) Cause(ctx context.Context, orderID string, now time.Time) (Cause, bool) {
	events, err := t.Timeline(orderID)
	if err != nil && len(events) == 0 {
		return Cause{}, false
	}
	c, _, stuck := t.cause(ctx, orderID, events, now)
	return c, stuck
}

// cause asks for what is around only where a boot does stand still: to ask takes seconds, and most boots never need it.
func (t *Table) cause(ctx context.Context, id string, events []Event, now time.Time) (c Cause, told, stuck bool) {
	c, told, stuck = t.causeNow(id, events, now)
	if !stuck || t.cfg.LAN == nil {
		return c, told, stuck
	}
	lan := t.cfg.LAN(ctx)
	t.mu.Lock()
	t.lan = lan
	t.mu.Unlock()
	return t.causeNow(id, events, now)
}

// openOrders lists the open orders whose timeline is kept.
func (t *Table) openOrders() (ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.open {
		if !o.passing {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// causeNow is the likely cause by what is known now; told: the timeline has it.
func (t *Table) causeNow(id string, events []Event, now time.Time) (c Cause, told, stuck bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[id]
	if !ok {
		return Cause{}, false, false
	}
	f := t.factsLocked(o, events, now)
	c, stuck = Likely(f, false)
	return c, stuck && alreadyTold(f, c), stuck
}

// alreadyTold reports whether the timeline has the cause, and the boot got no farther since.
func alreadyTold(f Facts, c Cause) bool {
	told := -1
	for i, e := range f.Events {
		if e.Step == StepCause && e.Key == c.Key {
			told = i
		}
	}
	if told < 0 {
		return false
	}
	then := f
	then.Events, then.Moving = f.Events[:told], Event{}
	before, now := follow(then), follow(f)
	return now.stage <= before.stage && now.loading == before.loading && now.ipxe == before.ipxe
}

// factsLocked gathers what a diagnosis of an order rests on.
func (t *Table) factsLocked(o *entry, events []Event, now time.Time) Facts {
	m, _ := t.findNameLocked(o.Machine)
	f := Facts{Now: now, Order: o.Order, Machine: m, SecureBoot: t.secureBootLocked(m), Events: events, Moving: o.moving, LAN: t.lan}
	f.Image, _ = t.cfg.Images.Get(o.Image) // without it what was fetched is a loader: still true
	if v, err := t.variantLocked(m, f.Image, o.CPU); err == nil {
		f.Image = v
	}
	for e := t.seen.order.Front(); e != nil; e = e.Next() {
		switch s := e.Value.(*Sighting); {
		case s.Machine == o.Machine:
			f.Own = append(f.Own, *s)
		case s.Machine == "" && s.Last.After(o.Created):
			f.Strangers = append(f.Strangers, *s)
		}
	}
	return f
}

// lastCauseLocked tells the cause when an order ends without having booted, so
// that the timeline says why. One that was cancelled or replaced may have been well.
func (t *Table) lastCauseLocked(o *entry, s State, now time.Time) {
	if s == Done || o.passing {
		return
	}
	events, err := t.Timeline(o.ID)
	if err != nil {
		t.log.Warn("timeline not read, so that no cause can be told", zap.String("order", o.ID), zap.NamedError("err", err))
	}
	f := t.factsLocked(o, events, now)
	c, ok := Likely(f, s == Expired)
	if n := len(events); !ok || n > 0 && events[n-1].Step == StepCause && events[n-1].Key == c.Key {
		return
	}
	if s == Expired || !alreadyTold(f, c) {
		t.causeLocked(o, c)
	}
}

func (t *Table) causeLocked(o *entry, c Cause) {
	t.recordLocked(Event{Step: StepCause, Order: o.ID, Machine: o.Machine, Key: c.Key, Text: c.Text, Hint: c.Hint})
}

// noticeLocked completes an event with what a diagnosis needs of it, and says
// whether it is worth telling.
func (t *Table) noticeLocked(e *Event) (worth bool) {
	o, ordered := t.orders[e.Order]
	ordered = ordered && o.State.Open()
	switch e.Step {
	case StepSystem:
		return ordered // renewals of a machine that nobody waits for
	case StepDiscover:
		if e.Key == "" {
			e.Key = string(t.seen.program(e.MAC)) // the decision about this packet noted it
		}
		if ordered && e.Key != string(IPXE) { // a new attempt: its script is news again
			o.moving, o.broke = Event{}, 0
			delete(o.told, nbpScript)
			delete(o.told, grubConfig)
			delete(o.told, bcdName)
		}
	case StepFile:
		if ordered {
			o.move(*e)
		}
	}
	return true
}

// maxBroke is how often a file may break off before a download that begins once
// more counts only for what it gets beyond the last one.
const maxBroke = 3

// move notes the progress of a transfer. One that begins again and again, and
// always ends at the same place, is none that goes on.
func (o *entry) move(e Event) {
	same := e.File == o.moving.File
	switch {
	case e.Transient && (!same || e.Bytes > o.moving.Bytes):
		o.moving = e
	case !e.Transient && same && e.Bytes < e.Total && o.broke < maxBroke:
		o.moving = Event{File: e.File, Time: e.Time}
		o.broke++
	}
}

// program is what sent the last boot request of a MAC.
func (s *sightings) program(mac MAC) Program {
	if e, ok := s.byMAC[mac]; ok {
		return e.Value.(*Sighting).Client.Program
	}
	return ""
}
