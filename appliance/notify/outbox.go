package notify

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.uber.org/zap"
)

// State is how far a message came on its way to one address.
//
//	waiting --mark--> sending --taken--> sent
//	   ^                 |--may heal--> waiting
//	   |                 |--never--> refused
//	   |                 '--nobody knows, and it is not to arrive twice (Once)--> unknown
//	   '--too old, too many before it--> dropped
type State string

// The states.
const (
	Waiting State = "waiting"
	Sending State = "sending"
	Sent    State = "sent"
	Refuse  State = "refused"
	Unknown State = "unknown"
	Dropped State = "dropped"
)

// Open reports whether there is still something to do.
func (s State) Open() bool { return s == Waiting || s == Sending }

// Delivery is a message's way to one address.
type Delivery struct {
	Target   string    `json:"target"`
	Address  string    `json:"address"`
	State    State     `json:"state"`
	Attempts int       `json:"attempts,omitempty"`
	Error    string    `json:"error,omitempty"` // of the last attempt
	Changed  time.Time `json:"changed"`
	// Doubt: an attempt was cut off after the point of no return, so the
	// receiver may have the message twice.
	Doubt bool `json:"doubt,omitempty"`
}

// Entry is a message with what became of it: one document of the store.
type Entry struct {
	Message
	Deliveries []Delivery `json:"deliveries"`

	stored bool
}

// Store keeps entries over restarts; state.Table does. Put has the entry on
// disk when it returns.
type Store interface {
	Put(key string, e Entry) error
	Delete(key string) error
	All() ([]Entry, error)
}

// Bounds of the outbox.
const (
	maxAge     = 7 * 24 * time.Hour  // older news is no news
	maxWaiting = 500                 // for one address
	keepEnded  = 30 * 24 * time.Hour // so long is known what was told
	maxEnded   = 2000
	maxWeak    = 20 // weak messages in an hour
	maxText    = 4 << 10
)

// Outbox takes messages in and tells them. Set its fields, then use it; Run must run
// for anything to leave. Its methods may be called by many goroutines.
type Outbox struct {
	Store   Store
	Targets []Target
	Log     *zap.Logger // nil: nothing is logged

	load    sync.Once
	mu      sync.Mutex
	entries map[string]*Entry
	queues  []*queue
}

// Put takes a message in: on disk first, then it is told. News that was taken in already
// is left alone. Where the disk fails the message is told all the same, and the error
// asks the caller to come again with it.
func (o *Outbox) Put(m Message) error {
	return o.put(m, func(t Target) bool {
		kinds := t.Kinds
		if kinds == nil {
			kinds = UsualKinds
		}
		return m.Kind == Test || slices.Contains(kinds, m.Kind)
	})
}

// Has reports whether a message was taken in, and is on disk.
func (o *Outbox) Has(id string) bool {
	o.load.Do(o.restore)
	o.mu.Lock()
	defer o.mu.Unlock()
	e, known := o.entries[id]
	return known && e.stored
}

// put is Put for the targets that want the message.
func (o *Outbox) put(m Message, wants func(Target) bool) error {
	o.load.Do(o.restore)
	o.mu.Lock()
	defer o.mu.Unlock()
	if e, known := o.entries[m.ID]; known {
		if e.stored {
			return nil
		}
		return o.storeLocked(e)
	}
	e := o.entryOf(m, wants) // kept where nobody wants it, too: who is added later wants news only
	if m.Weak && o.tooManyWeakLocked(m.Time) {
		o.log().Warn("news that anybody on the rescue LAN can cause is not told: there was too much of it", zap.String("machine", m.Machine))
		return nil
	}
	o.makeRoomLocked(e)
	o.entries[m.ID] = e
	err := o.storeLocked(e)
	for _, q := range o.queues {
		q.wakeUp()
	}
	return err
}

// entryOf is a new entry: a delivery for each address of each target that wants it.
func (o *Outbox) entryOf(m Message, wants func(Target) bool) *Entry {
	m.bound()
	e := &Entry{Message: m}
	credentials := false
	for _, t := range o.Targets {
		if !wants(t) {
			continue
		}
		credentials = credentials || t.Credentials
		for _, a := range t.Sender.Addresses() {
			e.Deliveries = append(e.Deliveries, Delivery{Target: t.Name, Address: a, State: Waiting, Changed: m.Time})
		}
	}
	if !credentials {
		e.Secret, e.SecretShort = "", ""
	}
	return e
}

// bound cuts what machines on the rescue LAN may have put into a message. Only
// the secret, which we made, has lines.
func (m *Message) bound() {
	for _, s := range []*string{&m.Site, &m.Machine, &m.Image, &m.Order, &m.Text, &m.Hint, &m.SecretShort} {
		*s = oneLine(*s, maxText)
	}
	m.Secret = cut(m.Secret, maxText)
	if m.Time.IsZero() {
		m.Time = time.Now()
	}
	m.Time = m.Time.UTC()
}

// oneLine takes out what would break a line or steer a terminal.
func oneLine(s string, most int) string {
	return cut(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, s), most)
}

// cut keeps a text to so many bytes, and valid.
func cut(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}

// tooManyWeakLocked counts the weak messages of the last hour.
func (o *Outbox) tooManyWeakLocked(now time.Time) bool {
	n := 0
	for _, e := range o.entries {
		if e.Weak && now.Sub(e.Time) < time.Hour {
			n++
		}
	}
	return n >= maxWeak
}

// makeRoomLocked drops, for each address of a new entry that has too much
// waiting, the oldest message, a weak one first.
func (o *Outbox) makeRoomLocked(e *Entry) {
	for _, d := range e.Deliveries {
		list := o.openLocked(d.Target, d.Address)
		if len(list) < maxWaiting {
			continue
		}
		first := slices.MinFunc(list, func(a, b *Entry) int {
			if a.Weak != b.Weak {
				return map[bool]int{true: -1, false: 1}[a.Weak]
			}
			return a.Time.Compare(b.Time)
		})
		o.endLocked(first, first.to(d.Target, d.Address), Dropped, fmt.Sprintf("more than %d messages wait for this address", maxWaiting))
	}
}

// openLocked lists the entries that are not ended for an address.
func (o *Outbox) openLocked(target, address string) (list []*Entry) {
	for _, e := range o.entries {
		if d := e.to(target, address); d != nil && d.State.Open() {
			list = append(list, e)
		}
	}
	return list
}

// to is an entry's delivery to an address, or nil.
func (e *Entry) to(target, address string) *Delivery {
	i := slices.IndexFunc(e.Deliveries, func(d Delivery) bool { return d.Target == target && d.Address == address })
	if i < 0 {
		return nil
	}
	return &e.Deliveries[i]
}

// ended reports whether everybody was told, or never will be.
func (e *Entry) ended() bool {
	return !slices.ContainsFunc(e.Deliveries, func(d Delivery) bool { return d.State.Open() })
}

// endLocked ends a delivery and stores that.
func (o *Outbox) endLocked(e *Entry, d *Delivery, s State, why string) {
	d.State, d.Error, d.Changed = s, why, time.Now().UTC()
	log := o.log().With(zap.String("machine", e.Machine), zap.String("order", e.Order), zap.String("kind", string(e.Kind)), zap.String("to", o.show(*d)))
	if s == Sent {
		log.Info("told", zap.Int("attempts", d.Attempts), zap.Bool("doubt", d.Doubt))
	} else {
		log.Error("will not be told", zap.String("err", why))
	}
	if e.ended() {
		e.Secret, e.SecretShort = "", ""
	}
	_ = o.storeLocked(e) // logged; tried again
}

// storeLocked brings an entry onto the disk. Its errors are logged here: what
// was told stays told in memory.
func (o *Outbox) storeLocked(e *Entry) error {
	err := o.Store.Put(e.ID, *e)
	e.stored = err == nil
	if err != nil {
		o.log().Error("outbox is not on disk", zap.String("machine", e.Machine), zap.NamedError("err", err))
		return fmt.Errorf("store the notification of %s: %w", e.Machine, err)
	}
	return nil
}

// restore reads the store, once, and sorts out what can be told no more.
func (o *Outbox) restore() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.entries = map[string]*Entry{}
	list, err := o.Store.All()
	if err != nil {
		o.log().Error("older notifications are missing", zap.NamedError("err", err))
	}
	for _, t := range o.Targets {
		for _, a := range t.Sender.Addresses() {
			o.queues = append(o.queues, &queue{Outbox: o, target: t, address: a, wake: make(chan struct{}, 1)})
		}
	}
	for _, e := range list {
		e.stored = true
		o.entries[e.ID] = &e
	}
	for _, e := range o.entries {
		o.resumeLocked(e)
	}
	o.pruneLocked()
}

// resumeLocked takes an entry up that an earlier life of the daemon left.
func (o *Outbox) resumeLocked(e *Entry) {
	for i := range e.Deliveries {
		d := &e.Deliveries[i]
		if !d.State.Open() {
			continue
		}
		q := o.queueOf(d.Target, d.Address)
		if d.State == Sending && q != nil && q.once() {
			o.endLocked(e, d, Unknown, "the box stopped while it was being sent; it may have arrived")
			continue
		}
		if d.State == Sending {
			d.State, d.Doubt, d.Error = Waiting, true, "the box stopped while it was being sent; it may have arrived all the same"
			_ = o.storeLocked(e)
		}
		if q == nil { // it ages: a slip in the file of the site, put right again, shall cost no news
			d.Error = "its target is not configured"
		}
	}
}

func (o *Outbox) queueOf(target, address string) *queue {
	i := slices.IndexFunc(o.queues, func(q *queue) bool { return q.target.Name == target && q.address == address })
	if i < 0 {
		return nil
	}
	return o.queues[i]
}

// pruneLocked ends what is too old and forgets what ended long ago.
func (o *Outbox) pruneLocked() {
	now := time.Now()
	var ended []*Entry
	for _, e := range o.entries {
		if now.Sub(e.Time) > maxAge {
			for i := range e.Deliveries {
				if d := &e.Deliveries[i]; d.State == Waiting {
					o.endLocked(e, d, Dropped, strings.TrimSuffix("it is older than 7 days; "+d.Error, "; "))
				}
			}
		}
		if e.ended() {
			ended = append(ended, e)
		}
	}
	slices.SortFunc(ended, func(a, b *Entry) int { return b.Time.Compare(a.Time) })
	for i, e := range ended {
		if i < maxEnded && now.Sub(e.Time) <= keepEnded {
			continue
		}
		if err := o.Store.Delete(e.ID); err != nil {
			o.log().Error("old notification stays on disk", zap.NamedError("err", err))
			continue
		}
		delete(o.entries, e.ID)
	}
}

// List is all messages that somebody was to be told, newest first, without their secrets.
func (o *Outbox) List() []Entry {
	o.load.Do(o.restore)
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []Entry
	for _, e := range o.entries {
		if len(e.Deliveries) == 0 {
			continue
		}
		c := *e
		c.Secret, c.SecretShort, c.Deliveries = "", "", slices.Clone(e.Deliveries)
		for i := range c.Deliveries {
			c.Deliveries[i].Address = o.show(c.Deliveries[i])
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.ID, b.ID)) })
	return list
}

// show writes a delivery's address for people.
func (o *Outbox) show(d Delivery) string {
	if q := o.queueOf(d.Target, d.Address); q != nil {
		return q.target.Sender.Show(d.Address)
	}
	return d.Target // of a target that is gone: its address may be a secret
}

// ErrNoTarget is the error of a test for a target that does not exist.
var ErrNoTarget = errors.New("no such target")

// Try puts a test message for one target, or for all of them where the name is
// "", and returns its id.
func (o *Outbox) Try(target, site, by string, now time.Time) (id string, err error) {
	wants := func(t Target) bool { return target == "" || t.Name == target }
	if !slices.ContainsFunc(o.Targets, wants) {
		return "", fmt.Errorf("%w: %q", ErrNoTarget, target)
	}
	id = "test-" + letterID(now.UTC().Format(time.RFC3339Nano), target, by)
	return id, o.put(Message{ID: id, Kind: Test, Site: site, Time: now, Text: by + " tries whether this arrives."}, wants)
}

// letterID is the id of a message to one address.
func letterID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%q ", p)
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

func (o *Outbox) log() *zap.Logger {
	if o.Log == nil {
		return zap.NewNop()
	}
	return o.Log
}
