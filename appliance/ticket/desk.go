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
	LAN   netip.Prefix // the rescue LAN; addresses within are preferred
	Store Store
	Log   *zap.Logger // nil: nothing is logged
	// Announce tells the world of a ticket that is new or changed, after it is
	// stored. Where it fails, the next report of the same announces again. It
	// may call Get and List, but not Report. May be nil.
	Announce func(Ticket) error

	reporting sync.Mutex // one report at a time, so that a retried one meets the first
	changes   map[sender]*window

	load    sync.Once
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
var ErrTooMany = errors.New("the machine reported too many different tickets, later ones are taken again in some minutes")

// Report takes a booted machine's report in: raw stored first, then read, stored
// and announced. Agents retry, so the same report again is the same ticket and
// no news; another report of the same order changes the order's ticket. A report that
// cannot be read is kept with its Problem and is no error here: to retry it would not help.
// An error says that the ticket is not on disk yet: the agent shall retry.
func (d *Desk) Report(machine, order string, verified bool, from netip.Addr, raw []byte) (Ticket, error) {
	if len(raw) > MaxReport {
		return Ticket{}, fmt.Errorf("the report of %s has %d bytes, more than the %d of the largest one taken", machine, len(raw), MaxReport)
	}
	d.load.Do(d.restore)
	d.reporting.Lock()
	defer d.reporting.Unlock()

	id := identify(SSH, machine, order, verified, raw)
	e, known := d.get(id)
	if !known {
		e.Ticket = Ticket{ID: id, Kind: SSH, Machine: machine, Order: order, Created: time.Now(), Verified: verified}
	}
	if !known || !bytes.Equal(e.Raw, raw) || choose(d.LAN, from, e.Addresses) != e.Address {
		if !d.mayChange(sender{machine, verified}) {
			return Ticket{}, ErrTooMany
		}
		e.Updated, e.From, e.Raw, e.Announced = time.Now(), from, bytes.Clone(raw), false
		e.Problem = "it was not read yet"
		_ = d.store(&e) // logged; tried again below
	}
	if !e.Announced {
		e.parse(d.LAN)
		err := d.store(&e)
		d.set(e)
		d.announce(&e)
		d.set(e)
		d.forget(machine, verified)
		return e.Ticket, err
	}
	if e.stored {
		return e.Ticket, nil
	}
	err := d.store(&e)
	d.set(e)
	return e.Ticket, err
}

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

// forget drops a machine's oldest tickets beyond what is kept.
func (d *Desk) forget(machine string, verified bool) {
	keep := keepUnverified
	if verified {
		keep = keepVerified
	}
	all := d.List("")
	old := slices.DeleteFunc(slices.Clone(all), func(t Ticket) bool { return t.Machine != machine || t.Verified != verified })
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
func identify(kind Kind, machine, order string, verified bool, raw []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %s", kind, machine, order, strconv.FormatBool(verified))
	if order == "" {
		h.Write(raw)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func (d *Desk) log() *zap.Logger {
	if d.Log == nil {
		return zap.NewNop()
	}
	return d.Log
}
