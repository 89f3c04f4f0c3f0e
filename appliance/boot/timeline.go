package boot

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.uber.org/zap"
)

// maxTimeline bounds the events that one order's timeline returns.
const maxTimeline = 2000

// timeline stores events and tells watchers, in one order.
type timeline struct {
	store Events

	mu       sync.Mutex
	watchers map[chan Event]bool
}

// add stores the event unless it is transient, then tells the watchers.
func (l *timeline) add(e Event) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !e.Transient {
		e.Seq, err = l.store.Append(e.Order, e)
	}
	for w := range l.watchers {
		// A watcher that does not keep up must not hold up a boot. Progress
		// leaves it room for what matters.
		if e.Transient && len(w) > cap(w)/2 {
			continue
		}
		select {
		case w <- e:
		default:
		}
	}
	return err
}

// Record puts an event into the timeline. Where e.Machine or e.Order is empty,
// it is filled in from e.MAC.
func (t *Table) Record(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recordLocked(e)
}

func (t *Table) recordLocked(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Machine == "" && !e.MAC.IsZero() {
		if m, ok := t.findMachineLocked(e.MAC, UUID{}); ok {
			e.Machine = m.Name
		}
	}
	if o, ok := t.open[e.Machine]; ok && e.Order == "" {
		e.Order = o.ID
	}
	if !t.noticeLocked(&e) {
		return
	}
	if _, known := t.findNameLocked(e.Machine); !known && e.Machine != "" {
		e.Transient = true // strangers must not push the timelines of machines out of the store
	}
	if err := t.timeline.add(e); err != nil {
		t.dropped.Inc()
		t.log.Error("event not stored", zap.NamedError("err", err))
	}
	if e.Transient {
		return
	}
	fields := []zap.Field{zap.String("step", string(e.Step)), zap.String("machine", e.Machine)}
	if e.Order != "" {
		fields = append(fields, zap.String("order", e.Order))
	}
	if !e.MAC.IsZero() {
		fields = append(fields, zap.Stringer("mac", e.MAC))
	}
	t.log.Info(e.Text, fields...)
}

// maxConsole bounds the lines of a console in the timeline, in bytes.
const maxConsole = 32 << 10

// RecordConsole keeps the last lines of a machine's console with an order that failed,
// without the order's token, which the kernel repeats from its command line.
func (t *Table) RecordConsole(orderID, machine string, lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[orderID]
	if !ok {
		return
	}
	kept, size := len(lines), 0
	for kept > 0 && size+len(lines[kept-1]) <= maxConsole {
		kept--
		size += len(lines[kept])
	}
	shown := make([]string, 0, len(lines)-kept)
	for _, l := range lines[kept:] {
		shown = append(shown, strings.ReplaceAll(l, o.Token, "[token]"))
	}
	t.recordLocked(Event{Step: StepConsole, Order: orderID, Machine: machine, Lines: shown,
		Text: fmt.Sprintf("the last %d lines of its console are kept with the order", len(shown))})
}

// Timeline lists an order's events, oldest first.
func (t *Table) Timeline(orderID string) ([]Event, error) {
	return t.cfg.Events.Read(orderID, 0, maxTimeline)
}

// EventsAfter lists stored events of all orders with numbers above seq, oldest first, at most max.
func (t *Table) EventsAfter(seq int64, max int) ([]Event, error) {
	return t.cfg.Events.Read("", seq, max)
}

// Watch sends every event from now on, until stop is called. A watcher that
// does not keep up loses transient events first; lost others show as a gap in Seq.
func (t *Table) Watch() (events <-chan Event, stop func()) {
	w := make(chan Event, 256)
	t.timeline.mu.Lock()
	defer t.timeline.mu.Unlock()
	t.timeline.watchers[w] = true
	return w, func() {
		t.timeline.mu.Lock()
		defer t.timeline.mu.Unlock()
		delete(t.timeline.watchers, w)
	}
}

// Says puts a line that a booted machine says of itself into the timeline of its
// open order, each line once; proven tells that it bore the order's token. Without
// an order it is logged: nobody waits for the machine.
func (t *Table) Says(machine, text string, proven bool) {
	text = oneLine(text)
	if !proven {
		text += " (without the order's token)"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	o, open := t.open[machine]
	if !open {
		t.log.Info("machine says", zap.String("machine", machine), zap.String("text", text))
		return
	}
	if t.onceLocked(o.ID, "says "+text, maxToldSayings) {
		t.recordLocked(Event{Step: StepSays, Order: o.ID, Machine: machine, Text: fmt.Sprintf("%s says: %s", machine, text)})
	}
}

// oneLine is a text as one printable line of at most 300 characters.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }), " ")
	if r := []rune(text); len(r) > 300 {
		text = string(r[:299]) + "…"
	}
	return text
}
