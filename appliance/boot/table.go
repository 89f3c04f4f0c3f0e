package boot

import (
	"io"
	"net/netip"
	"time"

	"rescuebox/images"
)

// Machine is a server or PC of the branch.
type Machine struct {
	Name    string
	MACs    []MAC
	UUID    UUID
	Image   string     // standing assignment: what it boots without an order; "" is its own disk
	Chain   Chain      // "" is chosen by the table
	Address netip.Addr // reserved address; zero if none
}

// Chain is how an image reaches a machine.
type Chain string

// The chains.
const (
	ChainIPXE Chain = "ipxe"
)

// Decision is what one client boots, now.
type Decision struct {
	Machine Machine
	Order   Order
	Image   images.Image
	Chain   Chain
	// File is what the client loads next: a name in the machine's own folder
	// of the tree (see Open), such as "undionly.kpxe" or "boot.ipxe".
	File string
}

// Refusal is the error of Decide and Open: why a client gets nothing.
type Refusal struct {
	Reason string // one sentence for the log, the TFTP error and the HTTP body
	Hint   string // what to do, may be ""
	Local  bool   // nothing is wrong: nobody ordered anything, the machine boots its own disk
}

func (r *Refusal) Error() string { return r.Reason }

// Orders keeps orders over restarts; state.Table does.
type Orders interface {
	Put(key string, o Order) error
	All() ([]Order, error)
}

// Events keeps the timeline; state.Log does. Key is the order's id.
type Events interface {
	Append(key string, e Event) (seq int64, err error)
	Read(key string, after int64, max int) ([]Event, error)
}

// Table knows machines and orders, and decides.
type Table struct{}

// Path is where a client finds one of its files in the tree that TFTP and
// HTTP both serve: "boot/525400123456/undionly.kpxe".
func Path(mac MAC, file string) string { return "boot/" + mac.Plain() + "/" + file }

// File is an open file of the tree. The caller closes it, and tells Served
// when the last byte has gone out.
type File struct {
	io.ReadSeeker // *os.File for image files (so that sendfile works), memory for scripts
	Name          string
	Size          int64
	ModTime       time.Time
	SHA256        string // hexadecimal; "" for rendered scripts
	Decision      Decision
}

// Close closes the file below.
func (f *File) Close() error { return nil }

// Decide says what the client boots, or refuses with a *Refusal.
func (t *Table) Decide(c Client) (Decision, error) { return Decision{}, nil }

// Open finds a file of the tree for the client: the decision first, then the
// name among the files of what was decided. path is as the wire had it, in any
// of the spellings that firmware uses. from is the peer's address, program what is known to ask.
// Errors are *Refusal, or say what failed on the box's side.
func (t *Table) Open(path string, from netip.Addr) (*File, error) { return nil, nil }

// Served tells that a file went out to its last byte.
func (t *Table) Served(f *File) {}

// Progress tells that n of a file's bytes went out; called as often as one likes.
func (t *Table) Progress(f *File, n int64) {}

// Record puts an event into the timeline. Where e.Machine or e.Order is
// empty, it is filled in from e.MAC.
func (t *Table) Record(e Event) {}

// ByToken finds the order that a token belongs to, open or ended less than a day ago.
func (t *Table) ByToken(token string) (Order, bool) { return Order{}, false }

// Up tells that the booted system of an order reported; it ends the order.
func (t *Table) Up(orderID, text string) error { return nil }

// Arm makes an order. Errors name the machine or image that does not exist, and what does.
func (t *Table) Arm(machine, image, by string, ttl time.Duration) (Order, error) {
	return Order{}, nil
}

// Cancel ends a machine's open order.
func (t *Table) Cancel(machine, by string) (Order, error) { return Order{}, nil }

// Machines lists the machines, by name.
func (t *Table) Machines() []Machine { return nil }

// OpenOrder finds a machine's open order.
func (t *Table) OpenOrder(machine string) (Order, bool) { return Order{}, false }

// AllOrders lists orders, newest first, at most max.
func (t *Table) AllOrders(max int) []Order { return nil }

// Timeline lists an order's events.
func (t *Table) Timeline(orderID string) ([]Event, error) { return nil, nil }

// Watch sends every event from now on, until stop is called. A watcher that
// does not keep up loses transient events first and is told of lost ones by a gap in Seq.
func (t *Table) Watch() (events <-chan Event, stop func()) { return nil, func() {} }

// Sighting is a boot client that was seen on the LAN.
type Sighting struct {
	Client  Client
	Machine string // "" if not known
	First   time.Time
	Last    time.Time
	Count   int
	Answer  string // what it was told last
}

// Seen lists the clients seen since the start, newest first, at most 1024.
func (t *Table) Seen() []Sighting { return nil }

// Adopt makes a machine of a client that was seen.
func (t *Table) Adopt(m Machine) error { return nil }
