package dhcp

import (
	"container/list"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rescuebox/appliance/boot"
)

// How long things hold that are no leases.
const (
	offerKnown   = 30 * time.Second // an offer to a known machine waits for its REQUEST
	offerUnknown = 10 * time.Second // and one to a stranger: storms must not hold the pool
	quarantine   = 10 * time.Minute // after DECLINE or an ARP conflict
	verifiedFor  = time.Minute      // an ARP probe without an answer is believed
	trustedFor   = 10 * time.Minute // the last holder gets its address back without a probe
)

// Why there is no address.
var (
	errExhausted = errors.New("no free address in the pool: widen [lan] range or shorten lease")
	errShare     = errors.New("the rest of the pool is kept for known machines: name the machine in the configuration, or lower known_share")
	errProbing   = errors.New("its address is being probed")
	errOwnInUse  = errors.New("the address reserved for the machine is in use, and the site's DHCP server gives those of the range: find who has it")
	errNotYours  = errors.New("the address belongs to another client")
)

// network is a LAN that we give addresses in: our own, or one behind a relay.
type network struct {
	prefix      netip.Prefix
	first, last netip.Addr
	router      netip.Addr
	usable      int // addresses of the range that are nobody's own
	size        int // those of them that no reservation names
	share       int // how many of them only known machines may have
	strangers   int // slots of unknown clients that are not idle
	count       [quarantined + 1]int
	next        netip.Addr // first address of the range that was never given away
	idle        *list.List // by the time they became idle, oldest first
}

// covers reports whether the address is in the range.
func (n *network) covers(a netip.Addr) bool {
	return a.IsValid() && !a.Less(n.first) && !n.last.Less(a)
}

// pool gives addresses away. Every phase lasts a constant time, so each list
// is in order of its slots' ends and expiry costs nothing to find.
type pool struct {
	mu       sync.Mutex
	term     time.Duration // of a lease
	percent  int           // of each network kept for known machines
	nets     []*network
	taken    map[netip.Addr]bool       // never given away: ours, the router's, …
	reserved map[netip.Addr][]boot.MAC // by the configuration
	slots    map[netip.Addr]*slot
	byMAC    map[boot.MAC]*slot
	ending   [4]*list.List // offers to strangers, to known machines, leases, quarantine
}

func newPool(term time.Duration, share int, nets []*network, taken []netip.Addr) *pool {
	p := &pool{
		term: term, percent: share, nets: nets, taken: map[netip.Addr]bool{},
		slots: map[netip.Addr]*slot{}, byMAC: map[boot.MAC]*slot{},
	}
	for i := range p.ending {
		p.ending[i] = list.New()
	}
	for _, a := range taken {
		p.taken[a] = true
	}
	for _, n := range nets {
		n.idle, n.next = list.New(), n.first
		for a := n.first; n.covers(a); a = a.Next() {
			if !p.taken[a] {
				n.usable++
			}
		}
	}
	p.reserve(nil)
	return p
}

// reserve tells which addresses belong to machines by the configuration.
func (p *pool) reserve(r map[netip.Addr][]boot.MAC) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reserved = r
	for _, n := range p.nets {
		n.size = n.usable
		for a := range r {
			if n.covers(a) && !p.taken[a] {
				n.size--
			}
		}
		n.share = (n.size*p.percent + 99) / 100
	}
}

// network finds where a client is: by its relay, or on our own LAN.
func (p *pool) network(relay netip.Addr) (*network, error) {
	if !relay.IsValid() {
		return p.nets[0], nil
	}
	for _, n := range p.nets {
		if n.prefix.Contains(relay) {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no [[lan.relay]] covers the relay %s", relay)
}

// ask is who wants an address.
type ask struct {
	mac      boot.MAC
	known    bool
	net      *network
	want     netip.Addr // the client would like this one
	reserved netip.Addr // the configuration says this one
	host     string
	lent     bool // beside the site's server, which may have given the address to another host since
	ownOnly  bool // only the reserved one is ours to give
}

// take finds an address to offer and holds it for the client. probe says that
// it must be probed before it is offered; probed must be called then.
func (p *pool) take(now time.Time, a ask) (addr netip.Addr, probe bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	s, err := p.choose(now, a)
	if err != nil {
		return netip.Addr{}, false, err
	}
	if now.Before(s.probing) {
		return netip.Addr{}, false, errProbing
	}
	mine := !a.lent && s.mac == a.mac && (s.phase != idle || now.Sub(s.since) < trustedFor)
	if probe = !mine && now.Sub(s.verified) > verifiedFor; probe {
		s.probing = now.Add(2 * (probeAgain + probeWait))
	}
	if s.phase != bound {
		p.own(s, a, now)
		p.move(s, offered, now)
	}
	return s.addr, probe, nil
}

// choose picks the address: what the client has, what is reserved for it,
// what it asks for, one that nobody had, or the one that is idle for longest.
func (p *pool) choose(now time.Time, a ask) (*slot, error) {
	cur := p.byMAC[a.mac]
	if cur != nil && (cur.net != a.net || !p.allowed(cur.addr, a)) {
		cur = nil
	}
	if p.fits(a.reserved, a) && (cur == nil || cur.addr != a.reserved) {
		return p.slot(a.reserved, a.net), nil
	}
	if a.ownOnly && (cur == nil || cur.addr != a.reserved) {
		return nil, errOwnInUse
	}
	if cur != nil && cur.phase != idle && cur.phase != quarantined {
		return cur, nil
	}
	if !a.known && a.net.strangers >= a.net.size-a.net.share {
		if !p.evict(now, a.net) {
			return nil, errShare
		}
	}
	if cur != nil && cur.phase == idle {
		return cur, nil
	}
	// Not what another client had last: that may sleep, with a lease of the server that died.
	if s := p.slots[a.want]; a.net.covers(a.want) && p.fits(a.want, a) && (s == nil || s.mac.IsZero()) {
		return p.slot(a.want, a.net), nil
	}
	return p.free(a)
}

// allowed reports whether the configuration lets this client have the address.
func (p *pool) allowed(addr netip.Addr, a ask) bool {
	owners, isReserved := p.reserved[addr]
	if isReserved {
		return slices.Contains(owners, a.mac)
	}
	return a.net.covers(addr) && !p.taken[addr]
}

// fits reports whether the client can have the address now.
func (p *pool) fits(addr netip.Addr, a ask) bool {
	if !addr.IsValid() || !a.net.prefix.Contains(addr) || p.taken[addr] || !p.allowed(addr, a) {
		return false
	}
	s := p.slots[addr]
	return s == nil || s.phase == idle || (s.mac == a.mac && s.phase != quarantined)
}

// free finds an address that nobody has.
func (p *pool) free(a ask) (*slot, error) {
	n := a.net
	for ; n.covers(n.next); n.next = n.next.Next() {
		if p.slots[n.next] == nil && p.fits(n.next, a) {
			return p.slot(n.next, n), nil
		}
	}
	for e := n.idle.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*slot); p.fits(s.addr, a) {
			return s, nil
		}
	}
	return nil, errExhausted
}

// evict ends the oldest offer to a stranger that had two seconds for its REQUEST.
func (p *pool) evict(now time.Time, n *network) bool {
	for e := p.ending[0].Front(); e != nil; e = e.Next() {
		s := e.Value.(*slot)
		if s.net == n && !now.Before(s.probing) {
			if s.until.Sub(now) > offerUnknown-2*time.Second {
				return false
			}
			p.move(s, idle, now)
			return true
		}
	}
	return false
}

func (p *pool) slot(addr netip.Addr, n *network) *slot {
	s := p.slots[addr]
	if s == nil {
		s = &slot{addr: addr, net: n}
		s.in = n.idle
		s.place = n.idle.PushBack(s)
		p.slots[addr] = s
		p.count(s)
	}
	return s
}

// probed tells what an ARP probe found. An address with an owner goes into quarantine.
func (p *pool) probed(now time.Time, addr netip.Addr, conflict bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slots[addr]
	if s == nil {
		return
	}
	s.probing = time.Time{}
	if !conflict {
		s.verified = now
		return
	}
	p.reject(s, now, true)
}

// bind makes a lease of an offer, or renews one. Undo it if it cannot be stored.
func (p *pool) bind(now time.Time, a ask, addr netip.Addr) (l Lease, undo func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	s := p.slots[addr]
	if s == nil || s.mac != a.mac || s.net != a.net || s.phase == quarantined || now.Before(s.probing) || !p.allowed(addr, a) {
		return Lease{}, nil, errNotYours
	}
	if s.phase == idle && !a.known && s.net.strangers >= s.net.size-s.net.share {
		return Lease{}, nil, errShare
	}
	before := s.phase
	p.own(s, a, now)
	p.move(s, bound, now)
	undo = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if s.mac == a.mac && s.phase == bound {
			p.move(s, before, now)
		}
	}
	return p.lease(s), undo, nil
}

// record finds what address a client has or had.
func (p *pool) record(now time.Time, mac boot.MAC) (addr netip.Addr, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	if s := p.byMAC[mac]; s != nil && s.phase != quarantined {
		return s.addr, true
	}
	return netip.Addr{}, false
}

// othersLease makes a client the last holder of an address that it has from
// another server: it is offered to nobody else while there is another one. Who
// is not sure is not believed where another holder is known. Nobody is trusted
// to have it without an ARP probe: the other server may have refused.
func (p *pool) othersLease(now time.Time, addr netip.Addr, mac boot.MAC, sure bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := ask{mac: mac, net: p.home(addr)}
	if a.net == nil || !a.net.covers(addr) || !p.fits(addr, a) {
		return
	}
	s := p.slot(addr, a.net)
	if s.phase == offered || s.phase == bound || !sure && s.mac != mac && !s.mac.IsZero() {
		return
	}
	p.own(s, a, now)
	p.move(s, idle, now.Add(-trustedFor))
}

// release ends what a client has of an address: it took another server's
// offer, or sent RELEASE. The slot remembers it.
func (p *pool) release(now time.Time, mac boot.MAC, addr netip.Addr, phases ...phase) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.byMAC[mac]
	if s == nil || (addr.IsValid() && s.addr != addr) || !slices.Contains(phases, s.phase) {
		return false
	}
	p.move(s, idle, now)
	return true
}

// decline puts an address into quarantine that its client found in use.
func (p *pool) decline(now time.Time, mac boot.MAC, addr netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slots[addr]
	if s == nil || s.mac != mac || (s.phase != offered && s.phase != bound) {
		return false
	}
	p.reject(s, now, false)
	return true
}
