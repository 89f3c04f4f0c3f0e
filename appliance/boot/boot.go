// Package boot decides what a machine boots now. It is the one place that
// does: DHCP, TFTP and HTTP all ask Decide, several times in one boot, because
// the protocols keep no state between their packets.
//
// The Table holds what the decision rests on: the machines, their orders, and
// the library of images. It also keeps the timeline, the record of what was
// seen of each order, and opens the files of the tree that TFTP and HTTP serve.
package boot

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"rescuebox/images"
)

// Machine is a server or PC of the branch.
type Machine struct {
	Name    string
	MACs    []MAC
	UUID    UUID   // zero if not given
	Image   string // standing assignment: what it boots without an order; "" is its own disk
	Chain   Chain  // "" leaves the choice to the table
	BootSet string // where its boot programs come from first; "" is the site's
	Dialect string // how DHCP talks to it, a name of package dhcp; "" finds out
	// SecureBoot is what the file of the site says of its firmware. What the
	// agent has reported from it counts where the file says nothing.
	SecureBoot SecureBoot
	// LoaderCA is whose signature Microsoft's boot manager bears on this machine: "2011" or "2023";
	// "" is what worked last.
	LoaderCA string
	Address  netip.Addr // reserved address; zero if none
	Adopted  bool       // taken over from the LAN by an admin, not named in the file of the site
}

// Chain is how an image reaches a machine.
type Chain string

// The chains.
const (
	ChainIPXE    Chain = "ipxe"    // firmware → iPXE → kernel and initrd over HTTP
	ChainShim    Chain = "shim"    // firmware → shim → GRUB → kernel, all of it signed; by HTTP Boot in one ISO
	ChainWindows Chain = "windows" // Microsoft's own loaders
)

// Orders keeps orders over restarts; state.Table does.
type Orders interface {
	Put(key string, o Order) error
	Delete(key string) error
	All() ([]Order, error)
}

// Events keeps the timeline; state.Log does. The key is the order's id.
type Events interface {
	Append(key string, e Event) (seq int64, err error)
	Read(key string, after int64, max int) ([]Event, error)
}

// Adopted keeps machines that an admin adopted from the LAN; state.Table does.
type Adopted interface {
	Put(key string, m Machine) error
	All() ([]Machine, error)
}

// Config is what a Table is made from.
type Config struct {
	Machines []Machine     // of the file of the site; names, MACs and UUIDs are unique
	Unknown  string        // what machines boot that nobody named: "local" (or "") or an image's name
	TTL      time.Duration // of an order that does not say; 0 is 30 minutes
	Server   string        // where booted clients reach our HTTP: "http://192.168.77.1"
	Chain    Chain         // of machines that name none; "" chooses by firmware
	BootSet  string        // where boot programs come from first; "" is the built-in ones
	Images   *images.Library
	Orders   Orders
	Events   Events
	Adopted  Adopted                      // nil: Adopt is refused
	Firmware FirmwareStates               // what machines have reported of their firmware; nil: forgotten at the end
	MACOf    func(netip.Addr) (MAC, bool) // whose address it is, for paths that name no MAC; may be nil
	// BlockSize is the largest TFTP block that a client's ROM stands; 0 or a nil function is no limit.
	BlockSize func(MAC) int
	// Fetched is told of each file that a client asks for, and again when it has
	// gone out to its last byte; may be nil.
	Fetched func(mac MAC, whole bool)
	// AgentFor is the rescue agent's program for a Windows image; nil: there is none.
	AgentFor func(images.Image) ([]byte, error)
	// LAN tells what is around a boot that does not go on; it may take seconds. nil: nothing is known.
	LAN     func(context.Context) LAN
	Log     *zap.Logger           // nil: none
	Metrics prometheus.Registerer // nil: none
}

// keptOrders is how many ended orders stay in the store.
const keptOrders = 500

// Table knows machines and orders, and decides.
type Table struct {
	cfg       Config
	log       *zap.Logger
	decisions *prometheus.CounterVec // by result: boot, local, refused
	dropped   prometheus.Counter     // events that could not be stored

	mu       sync.Mutex
	machines []Machine         // by name
	byMAC    map[MAC]int       // index into machines
	orders   map[string]*entry // by id
	open     map[string]*entry // by machine's name: the one open order
	wake     chan struct{}     // tells Run that the next expiry may have moved
	seen     sightings
	firmware map[string]FirmwareState // by machine's name
	unheard  map[string]bool          // machines' names: an iPXE has gone out, and was not heard of yet
	// managersSent is by machine's name: what became of Microsoft's boot manager.
	managersSent map[string]managerSent
	overlays     overlays
	lan          LAN // when an order last stood still

	timeline timeline
}

// New reads the stored orders and machines. Orders whose time ran out while
// the box was off end as expired.
func New(c Config) *Table {
	if c.TTL == 0 {
		c.TTL = 30 * time.Minute
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	metrics := promauto.With(c.Metrics)
	t := &Table{
		cfg: c,
		log: c.Log,
		decisions: metrics.NewCounterVec(prometheus.CounterOpts{
			Name: "rescuebox_boot_decisions_total", Help: "Decisions by result."}, []string{"result"}),
		dropped: metrics.NewCounter(prometheus.CounterOpts{
			Name: "rescuebox_boot_events_unstored_total", Help: "Timeline events that could not be stored."}),
		orders: map[string]*entry{},
		open:   map[string]*entry{},
		wake:   make(chan struct{}, 1),
		seen:   newSightings(),
	}
	t.timeline = timeline{store: c.Events, watchers: map[chan Event]bool{}}
	t.loadMachines()
	t.loadFirmware()
	t.loadOrders()
	return t
}

// loadMachines takes the machines of the file first: where an adopted one
// shares a name or a MAC with them, the file wins.
func (t *Table) loadMachines() {
	all := append([]Machine(nil), t.cfg.Machines...)
	if t.cfg.Adopted != nil {
		adopted, err := t.cfg.Adopted.All()
		if err != nil { // what could be read is there: one broken document must not keep the box from rescuing
			t.log.Error("some adopted machines cannot be read", zap.NamedError("err", err))
		}
		all = append(all, adopted...)
	}
	t.byMAC = map[MAC]int{}
	for _, m := range all {
		if t.clash(m) == "" {
			t.addMachineLocked(m)
		}
	}
}

// loadOrders reads the stored orders and ends those whose time is over. Where
// two of a machine are open, because a full disk kept the end of the older one
// from being stored, the newest word counts here too.
func (t *Table) loadOrders() {
	stored, err := t.cfg.Orders.All()
	if err != nil {
		t.log.Error("some orders cannot be read", zap.NamedError("err", err))
	}
	slices.SortFunc(stored, func(a, b Order) int { return a.Created.Compare(b.Created) })
	now := time.Now()
	for _, o := range stored {
		e := &entry{Order: o}
		t.orders[o.ID] = e
		if !o.State.Open() {
			continue
		}
		// The clock of a box without a battery may have been ahead when the order
		// was made: no order has more left than it was given.
		if latest := now.Add(o.Expires.Sub(o.Created)); o.Expires.After(latest) {
			e.Expires = latest
			t.logged(t.putLocked(e), e)
		}
		if old, ok := t.open[o.Machine]; ok {
			t.logged(t.endLocked(old, Failed, "replaced by a newer order", now), old)
		}
		t.open[o.Machine] = e
	}
	t.expire(now)
}

// Run ends orders when their time is over, and tells why others stand still, until ctx is done.
func (t *Table) Run(ctx context.Context, ready func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { t.watchCauses(ctx) })
	go t.warm(ctx) // not waited for: it may be within a file of gigabytes
	ready()
	for {
		timer := time.NewTimer(t.expire(time.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-t.wake:
			timer.Stop()
		}
	}
}
