// Package dhcp gives the rescue LAN addresses and tells its boot clients what
// to load: as the LAN's one DHCP server (RFC 2131), or as proxyDHCP (PXE 2.1)
// beside somebody else's, on ports 67 and 4011.
//
// A packet is parsed once into a boot.Client, or there is a reason why it is
// no boot client (packet.go). What it boots is boot.Table's to decide. The
// reply is rendered from that (reply.go) and goes out the way of RFC 2131
// section 4.1 (exchange.go). How it is said is the client's dialect (dialect.go,
// quirks.go): one that does not understand asks again, is talked to in another, and what
// worked is remembered (adapt.go). A client is known by its MAC in every stage of its
// boot, whatever client identifier the stage sends: firmware, iPXE and the
// booted system send different ones, and would use up three addresses.
package dhcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"rescuebox/appliance/boot"
)

// Boot is what the part asks and tells about booting; *boot.Table does it.
type Boot interface {
	Decide(c boot.Client) (boot.Decision, error)
	Record(e boot.Event)
}

// Range is a pool of addresses, both ends included.
type Range struct{ First, Last netip.Addr }

// Relay is a network behind a DHCP relay.
type Relay struct {
	Network netip.Prefix // the relay's own address (giaddr) lies in it
	Range   Range
	Router  netip.Addr // option 3; zero: none is sent
}

// Server is the DHCP part. Set the fields, then Run it; it may be run again after Run returned.
type Server struct {
	Interface  string
	Address    netip.Prefix // our address on it, with the LAN's prefix length
	Mode       Mode         // Auto, Full, Proxy or Off; zero is Auto
	Range      Range        // for Auto and Full
	Router     netip.Addr   // option 3; zero: none is sent
	DNS        []netip.Addr // option 6
	Domain     string       // option 15
	Lease      time.Duration
	KnownShare int // percent of each pool that only known machines may use
	Relays     []Relay
	HTTPPort   int                   // of boot files; zero is 80
	Machines   func() []boot.Machine // those of the configuration and adopted ones; nil: none
	Boot       Boot                  // nil: nothing boots, addresses only
	Store      LeaseStore            // nil: leases are lost with the process
	Learned    LearnedStore          // nil: which dialect works with whom is forgotten with the process
	Log        *zap.Logger           // nil: none
	Metrics    prometheus.Registerer // nil: none

	pace          pace // zero is defaultPace; shorter in tests
	pool          *pool
	dns           []byte
	arbiter       *arbiter
	prober        *prober
	solicitations *solicitations
	book          *book
	interpreter   *interpreter
	roster        atomic.Pointer[roster]
	wire          atomic.Pointer[wire]
	index         atomic.Int64 // the interface's
	metrics       *metrics
	started       atomic.Bool
	echoes        echoes
	shards        []*shard
	buffers       sync.Pool   // of *[]byte: packets between socket and shard
	noisy         *zap.Logger // for what anybody on the LAN can cause: samples
}

const defaultLease = time.Hour

// Run serves until ctx is done. ready is called when the sockets are open. An
// interface that goes away later is waited for.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if s.Mode == Off {
		ready()
		<-ctx.Done()
		return nil
	}
	if err := s.prepare(); err != nil {
		return err
	}
	l, err := openLink(s.Interface, s.Address.Addr())
	if err != nil {
		return err
	}
	if s.started.Swap(true) {
		s.arbiter.restart(time.Now(), "DHCP started anew: listens for other DHCP servers again")
	}
	ready()
	for {
		err = s.serve(ctx, l)
		l.close()
		if ctx.Err() != nil {
			return nil
		}
		s.log().Warn("DHCP sockets broke", zap.String("interface", s.Interface), zap.NamedError("err", err))
		if l = s.reopen(ctx); l == nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		s.arbiter.restart(time.Now(), "the interface came back: listens for other DHCP servers again")
	}
}

// reopen waits a moment for an interface that is made anew; nil says that it
// stays away, which whoever runs the part shall know.
func (s *Server) reopen(ctx context.Context) *link {
	for range 50 {
		if !sleep(ctx, 200*time.Millisecond) {
			return nil
		}
		if l, err := openLink(s.Interface, s.Address.Addr()); err == nil {
			return l
		}
	}
	return nil
}

// prepare checks the fields and makes what serves from them. A part that was
// restarted goes on with the pool that it had.
func (s *Server) prepare() error {
	if s.started.Load() {
		return nil
	}
	if s.Mode == "" {
		s.Mode = Auto
	}
	if !slices.Contains([]Mode{Auto, Full, Proxy}, s.Mode) {
		return fmt.Errorf("dhcp mode %q does not exist: auto, full, proxy and off do", s.Mode)
	}
	if s.Lease == 0 {
		s.Lease = defaultLease
	}
	nets, err := s.networks()
	if err != nil {
		return err
	}
	taken := append([]netip.Addr{s.Address.Addr(), s.Router}, s.DNS...)
	for _, n := range nets {
		taken = append(taken, n.router, n.prefix.Addr(), lastOf(n.prefix))
	}
	s.dns = nil
	for _, a := range s.DNS {
		s.dns = append(s.dns, a.AsSlice()...)
	}
	s.pool = newPool(s.Lease, s.KnownShare, nets, taken)
	s.book, s.prober, s.solicitations = newBook(), newProber(), newSolicitations()
	if s.interpreter, err = newInterpreter(s.Learned, s.log(), s.tellDialect); err != nil {
		return err
	}
	s.metrics = newMetrics(s.Metrics)
	s.noisy = s.log().WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, 10*time.Second, 10, 0)
	}))
	s.buffers.New = func() any { return new([]byte) }
	if s.pace == (pace{}) {
		s.pace = defaultPace()
	}
	s.arbiter = newArbiter(s.Mode, s.Address.Addr(), s.pace, time.Now())
	s.arbiter.changed = s.modeChanged
	s.readMachines()
	return s.loadLeases()
}

func (s *Server) loadLeases() error {
	if s.Store == nil {
		return nil
	}
	all, err := s.Store.All()
	if err != nil {
		return fmt.Errorf("read the leases: %w", err)
	}
	current, old := newest(all)
	for _, l := range old {
		if err := s.Store.Delete(l.Addr.String()); err != nil {
			return fmt.Errorf("forget an old lease: %w", err)
		}
	}
	s.pool.load(time.Now(), current, func(m boot.MAC) bool { return s.roster.Load().has(m) })
	return nil
}

// newest parts the leases that clients had last from older ones: a client has one address.
func newest(all []Lease) (current, old []Lease) {
	last := map[boot.MAC]Lease{}
	for _, l := range all {
		have, ok := last[l.MAC]
		switch {
		case !ok:
			last[l.MAC] = l
		case l.Renewed.After(have.Renewed):
			old, last[l.MAC] = append(old, have), l
		default:
			old = append(old, l)
		}
	}
	return slices.Collect(maps.Values(last)), old
}

const maxRange = 1 << 16 // addresses in one pool

// networks checks the LAN and those behind relays.
func (s *Server) networks() ([]*network, error) {
	if !s.Address.IsValid() || !s.Address.Addr().Is4() {
		return nil, errors.New("dhcp needs the box's IPv4 address on the LAN, with its prefix length")
	}
	nets := []*network{{prefix: s.Address.Masked(), first: s.Range.First, last: s.Range.Last, router: s.Router}}
	for _, r := range s.Relays {
		nets = append(nets, &network{prefix: r.Network.Masked(), first: r.Range.First, last: r.Range.Last, router: r.Router})
	}
	for i, n := range nets {
		if i == 0 && s.Mode == Proxy && !n.first.IsValid() {
			n.first, n.last = n.prefix.Addr().Next(), n.prefix.Addr() // proxies give no addresses: an empty range
			continue
		}
		if !n.prefix.Contains(n.first) || !n.prefix.Contains(n.last) || n.last.Less(n.first) {
			return nil, fmt.Errorf("range %s to %s is not inside %s", n.first, n.last, n.prefix)
		}
		if size(n.first, n.last) > maxRange {
			return nil, fmt.Errorf("range %s to %s has more than %d addresses", n.first, n.last, maxRange)
		}
	}
	return nets, nil
}

func (s *Server) modeChanged(from, to Mode, why string) {
	s.metrics.mode(to)
	s.log().Info("DHCP mode changed", zap.String("from", string(from)), zap.String("to", string(to)), zap.String("why", why))
}

// Status is what the part does now.
type Status struct {
	Mode       Mode   // Full, Proxy, Listening or Off
	Configured Mode   // and Auto
	Why        string // it is in this mode
	Since      time.Time
	Servers    []OtherServer // last heard of first
	Pools      []PoolStatus  // the LAN, then the networks behind relays
}

// Status says what the part does now.
func (s *Server) Status() Status {
	if !s.started.Load() {
		return Status{Mode: Off, Configured: s.Mode, Why: "not started"}
	}
	now := time.Now()
	st := Status{Configured: s.Mode, Pools: s.pool.status(now)}
	st.Mode, st.Why, st.Since, st.Servers = s.arbiter.snapshot(now)
	return st
}

// Leases lists the leases that hold now, by address.
func (s *Server) Leases() []Lease {
	if !s.started.Load() {
		return nil
	}
	return s.pool.leases(time.Now())
}

// MACOf finds which machine has an address: by our leases, by what clients
// said in packets to us or to another server, and by the kernel's neighbours, which
// are all there is while DHCP is off.
func (s *Server) MACOf(a netip.Addr) (boot.MAC, bool) {
	a = a.Unmap()
	if !a.Is4() {
		return boot.MAC{}, false
	}
	if s.started.Load() {
		if m, ok := s.pool.holder(time.Now(), a); ok {
			return m, true
		}
		if m, ok := s.book.find(a); ok {
			return m, true
		}
	}
	return s.neighbour(a)
}

// neighbour asks the kernel.
func (s *Server) neighbour(a netip.Addr) (boot.MAC, bool) {
	index := int(s.index.Load())
	if index == 0 { // it does not serve
		i, err := net.InterfaceByName(s.Interface)
		if err != nil {
			return boot.MAC{}, false
		}
		index = i.Index
	}
	list, err := netlink.NeighList(index, netlink.FAMILY_V4)
	if err != nil {
		return boot.MAC{}, false
	}
	for _, n := range list {
		if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok && ip == a && len(n.HardwareAddr) == 6 {
			m := boot.MAC(n.HardwareAddr)
			return m, !m.IsZero()
		}
	}
	return boot.MAC{}, false
}

func (s *Server) log() *zap.Logger {
	if s.Log == nil {
		return zap.NewNop()
	}
	return s.Log
}

// lastOf is a prefix's broadcast address.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// size counts the addresses from first to last.
func size(first, last netip.Addr) uint64 {
	a, b := first.As4(), last.As4()
	var n uint64
	for i := range a {
		n = n<<8 + uint64(b[i]) - uint64(a[i])
	}
	return n + 1
}
