package dhcp

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"rescuebox/appliance/boot"
)

// load brings leases back from the store. Those of networks that are no
// longer served are passed over. known says whose machine is named.
func (p *pool) load(now time.Time, leases []Lease, known func(boot.MAC) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	byEnd := func(a, b Lease) int { return cmp.Compare(a.left(now, p.term), b.left(now, p.term)) }
	for _, l := range slices.SortedFunc(slices.Values(leases), byEnd) {
		n := p.home(l.Addr)
		if n == nil || l.MAC.IsZero() || p.taken[l.Addr] || (p.byMAC[l.MAC] != nil) {
			continue
		}
		s := p.slot(l.Addr, n)
		s.mac, s.known, s.host = l.MAC, known(l.MAC), printable([]byte(l.Host), 63)
		p.byMAC[l.MAC] = s
		p.restore(s, now, l)
	}
}

// restore puts a loaded lease into its phase; the order of the list stays
// right because leases are loaded in the order of their ends.
func (p *pool) restore(s *slot, now time.Time, l Lease) {
	left := l.left(now, p.term)
	if left <= 0 {
		p.move(s, idle, now.Add(-trustedFor))
		return
	}
	p.move(s, bound, now)
	s.since, s.renewed, s.until = l.Since, l.Renewed, now.Add(left)
}

// home is the network that an address belongs to.
func (p *pool) home(a netip.Addr) *network {
	for _, n := range p.nets {
		if n.prefix.Contains(a) {
			return n
		}
	}
	return nil
}

// leases lists what is bound, by address.
func (p *pool) leases(now time.Time) []Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	var out []Lease
	for e := p.ending[2].Front(); e != nil; e = e.Next() {
		out = append(out, p.lease(e.Value.(*slot)))
	}
	slices.SortFunc(out, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return out
}

// holder says which client has a lease on an address.
func (p *pool) holder(now time.Time, a netip.Addr) (boot.MAC, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	if s := p.slots[a]; s != nil && s.phase == bound {
		return s.mac, true
	}
	return boot.MAC{}, false
}

// PoolStatus counts the addresses of one network.
type PoolStatus struct {
	Network     netip.Prefix
	Size        int // addresses in the range that no reservation names
	Reserved    int // how many of them are kept for known machines
	Bound       int // leases, those on reserved addresses too
	Offered     int
	Quarantined int // declined by a client or answered an ARP probe
	Strangers   int // addresses that unknown clients hold
}

// Used is how many addresses are not free.
func (s PoolStatus) Used() int { return s.Bound + s.Offered + s.Quarantined }

func (p *pool) status(now time.Time) []PoolStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	var out []PoolStatus
	for _, n := range p.nets {
		out = append(out, PoolStatus{
			Network: n.prefix, Size: n.size, Reserved: n.share, Strangers: n.strangers,
			Bound: n.count[bound], Offered: n.count[offered], Quarantined: n.count[quarantined],
		})
	}
	return out
}
