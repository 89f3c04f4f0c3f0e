package ticket

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
)

// What is kept of one machine. Reports without a token come from whoever has
// the machine's address: they are few, and never push out verified ones.
const (
	keepVerified   = 20
	keepUnverified = 5
	keepAll        = 1000 // of all machines together: with [boot] unknown every stranger is one
)

// A machine that says something new more often than that is broken or hostile;
// every change costs a write to flash and a person's attention.
const (
	maxChanges   = 20
	changeWindow = 10 * time.Minute
)

// Store keeps tickets over restarts; state.Table does. Put has the ticket on
// disk when it returns.
type Store interface {
	Put(key string, t Ticket) error
	Delete(key string) error
	All() ([]Ticket, error)
}

// Desk takes reports in and keeps the tickets. Its methods may be called by
// many goroutines.
type Desk struct {
	LAN   netip.Prefix // the rescue LAN with this box's address; addresses within are preferred
	Store Store
	// Reachable reports whether the box has a way to an address; others are the
	// last choice. Routed does; nil: there is one to every address.
	Reachable func(netip.Addr) bool
	Log       *zap.Logger           // nil: nothing is logged
	Metrics   prometheus.Registerer // nil: none
	// Announce tells the world of a ticket that is new or changed, after it is
	// stored. Where it fails, the next report of the same announces again. It
	// may call Get and List, but not Report. May be nil.
	Announce func(Ticket) error

	reporting sync.Mutex // one report at a time, so that a retried one meets the first
	changes   map[sender]*window

	load    sync.Once
	came    *prometheus.CounterVec // by kind and result
	mu      sync.RWMutex
	tickets map[string]entry
}

// entry is a ticket in memory. A full disk must not cost the admin the way in,
// so an unstored one is announced and listed all the same.
type entry struct {
	Ticket
	stored bool
}

// sender tells who changes tickets: reports without a token must not use up
// what the machine itself may say.
type sender struct {
	machine  string
	verified bool
}

// window counts a sender's changes.
type window struct {
	begun time.Time
	n     int
}

// ErrUnknown is the error for a ticket that is not there.
var ErrUnknown = errors.New("no such ticket")

// ErrTooMany refuses a machine that reports something new all the time.
var ErrTooMany error = tooMany{}

type tooMany struct{}

func (tooMany) Error() string {
	return "the machine reported too many different tickets, later ones are taken again in some minutes"
}

// RetryAfter is when to come again, for the answer over HTTP.
func (tooMany) RetryAfter() time.Duration { return time.Minute }

// Report takes a booted machine's report in: raw stored first, then read, stored
// and announced. Agents retry, so the same report again is the same ticket and
// no news; another report of the same order changes the order's ticket. A report that
// cannot be read is kept with its Problem and is no error here: to retry it would not help.
// An error says that the ticket is not on disk yet: the agent shall retry.
func (d *Desk) Report(machine, order string, verified bool, from netip.Addr, raw []byte) (Ticket, error) {
	return d.take(Ticket{Kind: SSH, Machine: machine, Order: order, Verified: verified, From: from, Raw: raw})
}

// DaRT takes an inv32.xml in, as Report does the report of an agent. One file
// often comes by several ways, so one ticket number is one ticket of its machine;
// what came without a token adds nothing to what came with it. machine is ""
// where it cannot be told whose it is, from the zero Addr where nobody knows.
func (d *Desk) DaRT(machine, order string, verified bool, from netip.Addr, raw []byte) (Ticket, error) {
	return d.take(Ticket{Kind: DaRT, Machine: machine, Order: order, Verified: verified, From: from, Raw: raw})
}

// take takes in what has been said of a machine, one thing after the other.
func (d *Desk) take(said Ticket) (Ticket, error) {
	if len(said.Raw) > MaxReport {
		return Ticket{}, fmt.Errorf("the report of %s has %d bytes, more than the %d of the largest one taken", said.Machine, len(said.Raw), MaxReport)
	}
	d.load.Do(d.restore)
	d.reporting.Lock()
	defer d.reporting.Unlock()
	t, news, err := d.takeLocked(said)
	d.came.WithLabelValues(string(said.Kind), resultOf(t, news, err)).Inc()
	return t, err
}

// resultOf is one word for how a report went.
func resultOf(t Ticket, news bool, err error) string {
	switch {
	case errors.Is(err, ErrTooMany):
		return "refused"
	case err != nil:
		return "failed"
	case !news:
		return "repeated"
	case t.Problem != "":
		return "unreadable"
	}
	return "taken"
}

// takeLocked takes in what said has: the head of a ticket, and Raw.
func (d *Desk) takeLocked(said Ticket) (t Ticket, news bool, err error) {
	e, known := d.find(said)
	if !known {
		e.Ticket = Ticket{ID: identify(said), Kind: said.Kind, Machine: said.Machine, Created: time.Now()}
	}
	if !known || d.isNews(e.Ticket, said) {
		if !d.mayChange(sender{said.Machine, said.Verified}) {
			return Ticket{}, false, ErrTooMany
		}
		e.Order, e.Verified = said.Order, said.Verified
		e.Updated, e.From, e.Raw, e.Announced = time.Now(), said.From, bytes.Clone(said.Raw), false
		e.Problem = "it was not read yet"
		_ = d.store(&e) // logged; tried again below
	}
	if !e.Announced {
		err := d.tell(&e)
		d.forget(e.Ticket)
		return e.Ticket, true, err
	}
	if e.stored {
		return e.Ticket, false, nil
	}
	err = d.store(&e)
	d.set(e)
	return e.Ticket, false, err
}

// tell reads what a ticket has, stores that, and announces it.
func (d *Desk) tell(e *entry) error {
	e.parse(d.where())
	err := d.store(e)
	d.set(*e)
	d.announce(e)
	d.set(*e)
	return err
}

// Resume announces what an earlier life of the daemon has stored and not announced:
// the power went in between, and a script does not send its ticket again.
func (d *Desk) Resume() {
	d.load.Do(d.restore)
	d.reporting.Lock()
	defer d.reporting.Unlock()
	for _, t := range d.List("") {
		if e, known := d.get(t.ID); known && !e.Announced {
			_ = d.tell(&e) // logged
		}
	}
}

// find is the ticket that something is said of anew: the same report's, the
// order's, or the one with the same number, a verified one before others. Each order
// has a ticket of its own, should two boots have the same number.
func (d *Desk) find(said Ticket) (entry, bool) {
	code, same := codeOf(said), identify(said)
	d.mu.RLock()
	defer d.mu.RUnlock()
	var order, number string
	for id, e := range d.tickets {
		switch {
		case e.Kind != said.Kind || e.Machine != said.Machine:
		case id == same:
			return e, true
		case said.Verified && e.Verified && said.Order != "" && e.Order == said.Order:
			order = id
		case said.Verified && e.Verified:
		case code != "" && e.Code == code && (e.Verified || number == ""):
			number = id
		}
	}
	e, known := d.tickets[cmp.Or(order, number)]
	return e, known
}

func codeOf(said Ticket) string {
	if said.Kind != DaRT {
		return ""
	}
	i, _ := ParseInvitation(said.Raw)
	return i.Code
}

// isNews reports whether something is said that the ticket does not have. An
// unverified report has no news for a verified ticket. One inv32.xml may come in
// several encodings, and in part: MDT sends the first of its addresses only.
func (d *Desk) isNews(t, said Ticket) bool {
	if said.Verified != t.Verified {
		return said.Verified
	}
	now := t
	now.From, now.Raw = said.From, said.Raw
	now.parse(d.where())
	moved := said.From.IsValid() && (now.Address != t.Address || now.Port != t.Port)
	if t.Kind == DaRT && t.Problem == "" && now.Problem == "" {
		return now.Code != t.Code || !t.listens(now.Listeners) || moved && now.listens(t.Listeners)
	}
	return moved || !bytes.Equal(t.Raw, said.Raw)
}

func (d *Desk) where() where { return where{d.LAN, d.Reachable} }

func (d *Desk) announce(e *entry) {
	log := d.log().With(zap.String("machine", e.Machine), zap.String("order", e.Order), zap.String("ticket", e.ID), zap.Bool("verified", e.Verified))
	if e.Problem == "" {
		log.Info("ticket is here", zap.Stringer("address", e.Address))
	} else {
		log.Warn("ticket cannot be read, kept as it came", zap.Stringer("address", e.Address), zap.String("problem", e.Problem))
	}
	e.Announced = true
	if d.Announce != nil {
		if err := d.Announce(e.Ticket); err != nil {
			log.Error("ticket could not be announced, the next report of the machine announces it again", zap.NamedError("err", err))
			e.Announced = false
			return
		}
	}
	_ = d.store(e) // that it is announced; logged
}

// store puts a ticket on disk. Its errors are logged here, since the caller
// goes on without the disk.
func (d *Desk) store(e *entry) error {
	err := d.Store.Put(e.ID, e.Ticket)
	e.stored = err == nil
	if err != nil {
		d.log().Error("ticket is not on disk", zap.String("machine", e.Machine), zap.String("ticket", e.ID), zap.NamedError("err", err))
		return fmt.Errorf("store the ticket of %s: %w", e.Machine, err)
	}
	return nil
}

// Get finds a ticket by its id. The error for one that does not exist is ErrUnknown.
func (d *Desk) Get(id string) (Ticket, error) {
	d.load.Do(d.restore)
	e, known := d.get(id)
	if !known {
		return Ticket{}, fmt.Errorf("%w: %q", ErrUnknown, id)
	}
	return e.Ticket, nil
}

// List is the tickets of a machine, or of all for "", newest first.
func (d *Desk) List(machine string) []Ticket {
	d.load.Do(d.restore)
	d.mu.RLock()
	defer d.mu.RUnlock()
	var list []Ticket
	for _, e := range d.tickets {
		if machine == "" || e.Machine == machine {
			list = append(list, e.Ticket)
		}
	}
	slices.SortFunc(list, newestFirst)
	return list
}

func newestFirst(a, b Ticket) int {
	return cmp.Or(b.Updated.Compare(a.Updated), cmp.Compare(a.ID, b.ID))
}

// restore reads the store. What cannot be read must not keep new tickets out.
func (d *Desk) restore() {
	d.came = promauto.With(d.Metrics).NewCounterVec(prometheus.CounterOpts{Name: "rescuebox_ticket_reports_total",
		Help: "Reports of booted machines by kind and result: taken, repeated, unreadable, refused (too many), failed (not on disk)."}, []string{"kind", "result"})
	list, err := d.Store.All()
	if err != nil {
		d.log().Error("older tickets are missing", zap.NamedError("err", err))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tickets = map[string]entry{}
	d.changes = map[sender]*window{}
	for _, t := range list {
		d.tickets[t.ID] = entry{Ticket: t, stored: true}
	}
}

func (d *Desk) get(id string) (entry, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e, known := d.tickets[id]
	return e, known
}

func (d *Desk) set(e entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tickets[e.ID] = e
}

// forget drops what a new ticket makes superfluous: unverified ones with its
// number, and its machine's oldest beyond what is kept.
func (d *Desk) forget(t Ticket) {
	keep := keepUnverified
	if t.Verified {
		keep = keepVerified
	}
	all := d.List("")
	of := func(is func(Ticket) bool) []Ticket {
		return slices.DeleteFunc(slices.Clone(all), func(o Ticket) bool { return o.Machine != t.Machine || !is(o) })
	}
	d.drop(of(func(o Ticket) bool { return o.ID != t.ID && !o.Verified && t.Code != "" && o.Code == t.Code }))
	old := of(func(o Ticket) bool { return o.Verified == t.Verified })
	d.drop(old[min(keep, len(old)):])
	d.drop(all[min(keepAll, len(all)):])
}

// drop deletes tickets, from disk first.
func (d *Desk) drop(list []Ticket) {
	for _, t := range list {
		if err := d.Store.Delete(t.ID); err != nil {
			d.log().Error("old ticket stays on disk", zap.String("ticket", t.ID), zap.NamedError("err", err))
			continue
		}
		d.mu.Lock()
		delete(d.tickets, t.ID)
		d.mu.Unlock()
	}
}

// mayChange counts a sender's news.
func (d *Desk) mayChange(s sender) bool {
	w := d.changes[s]
	if w == nil || time.Since(w.begun) >= changeWindow {
		if len(d.changes) >= keepAll {
			clear(d.changes) // a storm of strangers: counting starts anew
		}
		w = &window{begun: time.Now()}
		d.changes[s] = w
	}
	w.n++
	return w.n <= maxChanges
}

// identify names a ticket by what it is of, so that a retried report finds it.
// An unverified report never touches a verified ticket: else whoever takes the
// machine's address could put his own host key in. Without an order, only the
// report itself tells one boot of a machine from the next.
func identify(t Ticket) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %s", t.Kind, t.Machine, t.Order, strconv.FormatBool(t.Verified))
	if t.Order == "" {
		h.Write(t.Raw)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func (d *Desk) log() *zap.Logger {
	if d.Log == nil {
		return zap.NewNop()
	}
	return d.Log
}
