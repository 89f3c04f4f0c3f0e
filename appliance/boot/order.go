package boot

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"rescuebox/images"
)

// State is where an order stands.
//
//	armed --first boot file--> booting --last file or report--> done
//	armed, booting --TTL--> expired
//	armed, booting --Cancel, a step's error--> failed
//
// done, expired and failed are final. "None" is a machine without an order.
type State string

// The states of an order.
const (
	Armed   State = "armed"
	Booting State = "booting"
	Done    State = "done"
	Expired State = "expired"
	Failed  State = "failed"
)

// Open reports whether an order in this state can still boot its machine.
func (s State) Open() bool { return s == Armed || s == Booting }

// Bounds of an order's TTL.
const (
	minTTL = time.Second
	maxTTL = 7 * 24 * time.Hour
)

// tokenLife is how long after its end an order's token still proves the machine
// that it booted: a rescue system reports again when its address changes, and DaRT makes
// another ticket for each session, in a rescue that lasts over the weekend too.
const tokenLife = 7 * 24 * time.Hour

// maxEphemeral bounds the orders of machines that nobody named ([boot] unknown).
const maxEphemeral = 256

// Order says that one machine boots one image, once, before it expires.
type Order struct {
	ID      string    // random, 8 hexadecimal digits; a name for people and paths, no secret
	Machine string    // the machine's name
	Image   string    // the image's name
	Token   string    // random, 128 bits in hexadecimal; proves the booted machine; never logged
	State   State     //
	Reason  string    // why it failed
	By      string    // who ordered: an admin's name, or "standing" for a machine's own image = "…"
	Quiet   bool      // its end is no news: an admin took it back, who ordered it has ordered anew, or the machine boots so always
	Created time.Time //
	Expires time.Time //
	Started time.Time // first boot file
	Ended   time.Time //
	Served  []string  // names of files served to the last byte
	CPU     string    // of the machine, once its firmware has said it: requests for files do not
	Power   string    // by what its machine is switched on: "bmc", "switch", or "" for by hand
	Press   Press     // how far that has come
}

// Arm makes an order; a zero ttl is the default. It makes sure first that the
// image is whole, so that a damaged file shows now and not at the machine. An
// order that was open for the machine ends as failed: the newest word counts.
func (t *Table) Arm(machine, image, by string, ttl time.Duration) (Order, error) {
	if ttl == 0 {
		ttl = t.cfg.TTL
	}
	if ttl < minTTL || ttl > maxTTL {
		return Order{}, &Refusal{Reason: fmt.Sprintf("an order cannot live %s", ttl), Hint: fmt.Sprintf("give a TTL from %s to %s", minTTL, maxTTL)}
	}
	img, err := t.bootable(image)
	if err != nil {
		return Order{}, err
	}
	t.mu.Lock()
	m, _ := t.findNameLocked(machine)
	t.mu.Unlock()
	if err := t.whole(m, img); err != nil {
		return Order{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.findNameLocked(machine); !ok {
		return Order{}, &Refusal{Reason: fmt.Sprintf("no machine %q", machine), Hint: t.machineNamesLocked()}
	}
	o := newOrder(machine, image, by, ttl)
	if err := t.putLocked(o); err != nil {
		return Order{}, err // the order that was open stands
	}
	if old, ok := t.open[machine]; ok {
		old.Quiet = old.Quiet || old.By == by
		t.logged(t.endLocked(old, Failed, "replaced by a new order of "+by, o.Created), old)
	}
	t.armedLocked(o)
	return o.Order, nil
}

// entry is an order and what the table knows of it beside.
type entry struct {
	Order
	moving   Event           // the last progress of a transfer
	broke    int             // transfers of this attempt to boot that broke off
	told     map[string]bool // what the timeline has of it and shall not have again; see onceLocked
	passing  bool            // of a machine that nobody named: stays in memory, strangers must not fill the disk
	unstored bool            // the store lacks its last change; Run tries again
}

func newOrder(machine, image, by string, ttl time.Duration) *entry {
	now := time.Now()
	return &entry{Order: Order{ID: random(4), Token: random(16), Machine: machine, Image: image, By: by,
		State: Armed, Created: now, Expires: now.Add(ttl)}}
}

// standingLocked makes the order that a standing assignment stands for. It
// holds without the disk: after a restart the assignment makes another.
func (t *Table) standingLocked(machine, image string, passing bool) *entry {
	o := newOrder(machine, image, "standing", t.cfg.TTL)
	o.passing, o.Quiet = passing, true
	t.logged(t.putLocked(o), o)
	t.armedLocked(o)
	return o
}

// learnCPULocked keeps what the machine's firmware said: after a restart of the
// box in mid-boot it must not get another CPU's files.
func (t *Table) learnCPULocked(o *entry, cpu string) {
	if cpu == "" || o.CPU == cpu {
		return
	}
	o.CPU = cpu
	t.logged(t.putLocked(o), o)
}

// armedLocked makes an order the machine's open one and tells the timeline.
func (t *Table) armedLocked(o *entry) {
	t.orders[o.ID], t.open[o.Machine] = o, o
	t.pruneLocked()
	t.signal()
	t.recordLocked(Event{Step: StepArmed, Order: o.ID, Machine: o.Machine, Time: o.Created,
		Text: fmt.Sprintf("%s boots %s, ordered by %s, until %s", o.Machine, o.Image, o.By, o.Expires.Format("15:04:05"))})
}

// random is n random bytes in hexadecimal.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	return hex.EncodeToString(b)
}

// Cancel ends a machine's open order.
func (t *Table) Cancel(machine, by string) (Order, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.open[machine]
	if !ok {
		return Order{}, &Refusal{Reason: fmt.Sprintf("%s has no open order", machine), Hint: "rescuebox status"}
	}
	o.Quiet = true
	if err := t.endLocked(o, Failed, "cancelled by "+by, time.Now()); err != nil {
		return Order{}, err
	}
	return o.Order, nil
}

// Fail ends an order that cannot come to anything, with the reason. One that is over is a Refusal.
func (t *Table) Fail(orderID, reason string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[orderID]
	if !ok || !o.State.Open() {
		return &Refusal{Reason: "no open order " + orderID}
	}
	return t.endLocked(o, Failed, reason, time.Now())
}

// Up tells that the booted system of an order reported; it ends the order.
// To report again, or too late, is no error.
func (t *Table) Up(orderID string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[orderID]
	if !ok {
		return &Refusal{Reason: "no order " + orderID}
	}
	if !o.State.Open() {
		return t.owedLocked(o)
	}
	return t.endLocked(o, Done, fmt.Sprintf("%s runs %s", o.Machine, o.Image), time.Now())
}

// begin moves an order from armed to booting.
func (t *Table) begin(orderID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o, ok := t.orders[orderID]; ok && o.State == Armed {
		o.State, o.Started = Booting, time.Now()
		t.logged(t.putLocked(o), o)
	}
}

// served notes files that went out whole and ends the order where the last one is among them.
func (t *Table) served(orderID string, img images.Image, files ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[orderID]
	if !ok || !o.State.Open() {
		return
	}
	before := len(o.Served)
	for _, f := range files {
		if !slices.Contains(o.Served, f) {
			o.Served = append(slices.Clip(o.Served), f)
		}
	}
	switch {
	case len(o.Served) == before:
	case img.Up == images.Served && complete(img, o.Served):
		t.logged(t.endLocked(o, Done, o.Machine+" has loaded all of "+img.Name, time.Now()), o)
	default:
		t.logged(t.putLocked(o), o)
	}
}

// complete reports whether all that the machine's kernel stage loads went out.
func complete(img images.Image, served []string) bool {
	all := func(names []string) bool {
		for _, n := range names {
			if !slices.Contains(served, n) {
				return false
			}
		}
		return len(names) > 0
	}
	return all(img.Loads(false)) || all(img.Loads(true)) || img.ISO != nil && slices.Contains(served, img.ISO.File)
}

// endLocked moves an order into a final state. The order leaves the open ones
// even if it cannot be stored: a full disk must not boot a machine twice.
func (t *Table) endLocked(o *entry, s State, reason string, now time.Time) error {
	t.lastCauseLocked(o, s, now)
	o.State, o.Ended = s, now
	if s != Done {
		o.Reason = reason
	}
	o.told = nil
	t.overlays.forget(o.ID)
	if t.open[o.Machine] == o {
		delete(t.open, o.Machine)
	}
	err := t.putLocked(o)
	step := map[State]Step{Done: StepDone, Expired: StepExpired, Failed: StepFailed}[s]
	t.recordLocked(Event{Step: step, Order: o.ID, Machine: o.Machine, Text: reason, Time: now})
	return err
}

// retryStore is how soon a change that the store refused is stored again: a
// full disk must not bring an order that ended back to life at the next start.
const retryStore = 30 * time.Second

// expire ends the orders whose time is over, stores what could not be stored
// before, and says when to look again.
func (t *Table) expire(now time.Time) (next time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next = time.Hour
	for _, o := range t.orders {
		if t.owedLocked(o) != nil {
			next = retryStore
		}
	}
	for _, o := range t.open {
		left := o.Expires.Sub(now)
		if left <= 0 {
			t.logged(t.endLocked(o, Expired, fmt.Sprintf("%s did not boot %s in time", o.Machine, o.Image), now), o)
			continue
		}
		next = min(next, left)
	}
	return next
}

// putLocked stores an order.
func (t *Table) putLocked(o *entry) error {
	if o.passing {
		return nil
	}
	err := t.cfg.Orders.Put(o.ID, o.Order)
	if err != nil && !o.unstored {
		t.signal()
	}
	o.unstored = err != nil
	if err != nil {
		return fmt.Errorf("store order %s: %w", o.ID, err)
	}
	return nil
}

// owedLocked stores an order whose last change the store lacks.
func (t *Table) owedLocked(o *entry) error {
	if !o.unstored {
		return nil
	}
	return t.putLocked(o)
}

// logged logs an error that the caller of a step could do nothing about.
func (t *Table) logged(err error, o *entry) {
	if err != nil {
		t.log.Error("order not stored", zap.String("machine", o.Machine), zap.String("order", o.ID), zap.NamedError("err", err))
	}
}

// pruneLocked forgets the oldest ended orders beyond keptOrders, and the
// oldest of strangers beyond maxEphemeral.
func (t *Table) pruneLocked() {
	if len(t.orders) <= min(keptOrders, maxEphemeral) {
		return
	}
	var ended, strangers []*entry
	for _, o := range t.orders {
		switch {
		case o.passing:
			strangers = append(strangers, o)
		case !o.State.Open():
			ended = append(ended, o)
		}
	}
	t.forgetLocked(strangers, maxEphemeral)
	t.forgetLocked(ended, keptOrders)
}

func (t *Table) forgetLocked(list []*entry, keep int) {
	slices.SortFunc(list, func(a, b *entry) int { return b.Created.Compare(a.Created) })
	for _, o := range list[min(keep, len(list)):] {
		delete(t.orders, o.ID)
		if t.open[o.Machine] == o {
			delete(t.open, o.Machine)
		}
		if !o.passing {
			t.logged(t.cfg.Orders.Delete(o.ID), o)
		}
	}
}

// signal wakes Run.
func (t *Table) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// ByToken finds the order that a token belongs to: an open one, or one that
// ended less than tokenLife ago. "" proves nothing, whatever a store may hold.
func (t *Table) ByToken(token string) (Order, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.orders {
		alive := o.State.Open() || time.Since(o.Ended) < tokenLife
		if alive && token != "" && subtle.ConstantTimeCompare([]byte(o.Token), []byte(token)) == 1 {
			return o.Order, true
		}
	}
	return Order{}, false
}

// OpenOrder finds a machine's open order.
func (t *Table) OpenOrder(machine string) (Order, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o, ok := t.open[machine]; ok {
		return o.Order, true
	}
	return Order{}, false
}

// AllOrders lists orders, newest first, at most max.
func (t *Table) AllOrders(max int) []Order {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]Order, 0, len(t.orders))
	for _, o := range t.orders {
		list = append(list, o.Order)
	}
	slices.SortFunc(list, func(a, b Order) int { return b.Created.Compare(a.Created) })
	return list[:min(max, len(list))]
}
