package vpn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// place is an endpoint of the file.
type place struct {
	host string     // "" where addr is valid
	addr netip.Addr //
	port uint16
}

func parsePlace(endpoint string) (place, error) {
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return place{}, fmt.Errorf("%q is no host:port", endpoint)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 || host == "" {
		return place{}, fmt.Errorf("%q is no host:port", endpoint)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return place{addr: a.Unmap(), port: uint16(port)}, nil
	}
	return place{host: host, port: uint16(port)}, nil
}

// reach is which families an uplink's device has addresses of. Without an address the kernel
// does not refuse to send: it takes another interface's and calls into the dark.
type reach struct{ v4, v6 bool }

// reaches notes what an uplink reaches, and reports a change.
func (b *book) reaches(uplink int, r reach) bool {
	if !r.v4 && !r.v6 {
		r = reach{true, true} // nothing is known: let it try
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := b.reach[uplink] != r
	b.reach[uplink] = r
	return changed
}

// endpoints are a hub's addresses by each uplink, in the order of the file: those that the
// uplink reaches, or all where it reaches none. An uplink that resolved nothing itself takes
// what another one did. The last of a name are those from which a hub of it was heard, whatever
// name servers say since.
func (b *book) endpoints(hub int) [][]netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	lists := make([][]netip.AddrPort, len(b.uplinks))
	for i := range b.uplinks {
		for _, p := range b.hubs[hub] {
			for _, a := range b.addressesLocked(i, p) {
				if ap := netip.AddrPortFrom(a, p.port); !slices.Contains(lists[i], ap) {
					lists[i] = append(lists[i], ap)
				}
			}
		}
		lists[i] = b.reach[i].choose(lists[i])
	}
	return lists
}

// outOfReach says why an uplink does not reach a hub, where it has no address of a family that the hub has.
func (b *book) outOfReach(hub, uplink int) string {
	list := b.endpoints(hub)[uplink]
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.reach[uplink]
	switch {
	case len(list) == 0 || slices.ContainsFunc(list, r.has):
		return ""
	case r.v6:
		return "it has IPv6 only, without a NAT64, and no IPv6 address of the hub is known: write one to the endpoints of the hub"
	}
	return "it has IPv4 only, and no IPv4 address of the hub is known: write one to the endpoints of the hub"
}

func (r reach) has(a netip.AddrPort) bool { return a.Addr().Is4() && r.v4 || a.Addr().Is6() && r.v6 }

func (r reach) choose(list []netip.AddrPort) []netip.AddrPort {
	var reached []netip.AddrPort
	for _, a := range list {
		if r.has(a) {
			reached = append(reached, a)
		}
	}
	if len(reached) == 0 {
		return list
	}
	return reached
}

func (b *book) addressesLocked(uplink int, p place) []netip.Addr {
	if p.host == "" {
		own := []netip.Addr{p.addr}
		if via, ok := throughNAT64(b.known[b.uplinks[uplink].Name][wellKnown], p.addr); ok {
			own = append(own, via)
		}
		return own
	}
	said := b.known[b.uplinks[uplink].Name][p.host]
	for i := 0; len(said) == 0 && i < len(b.uplinks); i++ {
		said = b.known[b.uplinks[i].Name][p.host]
	}
	return slices.Concat(said, b.known[""][p.host])
}

// How many addresses of a name are kept: each takes a handshake to try, five seconds.
const (
	mostSaid  = 8 // of one answer
	mostHeard = 3 // from which a hub was heard; or one for each hub by each uplink, which may all be true
)

var errNowhere = errors.New("the answer leads to no hub: it is the box itself, one of its own networks, or nowhere")

// believable is what of a name server's answer may be a hub's. A portal, a name server of a line that is not paid
// for, or a liar says 127.0.0.1, 0.0.0.0, or what is ours; and more addresses than anybody can try.
func (b *book) believable(answer []netip.Addr) (list []netip.Addr) {
	own := b.inside
	if b.own != nil {
		own = slices.Concat(own, b.own())
	}
	count := map[bool]int{}
	for _, a := range answer {
		ours := slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(a) })
		if count[a.Is4()] < mostSaid/2 && routable(a) && !ours {
			count[a.Is4()]++
			list = append(list, a)
		}
	}
	return list
}

// routable reports an address that a hub can have.
func routable(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.Zone() != "" || a.Is4In6() {
		return false
	}
	first := a.AsSlice()[0]
	return a.Is6() || first != 0 && first < 240 // RFC 1122, section 3.2.1.3; RFC 1112, section 4
}

// heardAt notes where a hub was heard from. Of an address that its name led to it is kept, for the day on which the name
// leads elsewhere.
func (b *book) heardAt(hub int, from netip.AddrPort) {
	b.mu.Lock()
	changed, most := false, max(mostHeard, len(b.hubs)*len(b.uplinks))
	for _, p := range b.hubs[hub] {
		if p.host == "" || p.port != from.Port() || slices.Contains(b.known[""][p.host], from.Addr()) {
			continue
		}
		for _, u := range b.uplinks {
			if slices.Contains(b.known[u.Name][p.host], from.Addr()) && !changed {
				list := append([]netip.Addr{from.Addr()}, b.known[""][p.host]...)
				b.keepLocked("", p.host, list[:min(len(list), most)])
				changed = true
			}
		}
	}
	b.mu.Unlock()
	if changed {
		tell(b.unsaved)
	}
}

// wellKnown is the name that has only IPv4 addresses: an IPv6 one for it is made by the
// operator's DNS64, and shows how its NAT64 is reached (RFC 7050).
const wellKnown = "ipv4only.arpa"

// throughNAT64 is how an operator without IPv4 reaches an IPv4 address, from its answers for
// wellKnown (192.0.0.170 and 171). Its prefix has 96 bits wherever anybody looked; others (RFC 6052,
// section 2.2) are left to names, which the operator translates itself.
func throughNAT64(answers []netip.Addr, a netip.Addr) (netip.Addr, bool) {
	for _, known := range answers {
		bytes := known.As16()
		if known.Is6() && a.Is4() && bytes[12] == 192 && bytes[13] == 0 && bytes[14] == 0 && bytes[15]|1 == 171 {
			four := a.As4()
			copy(bytes[12:], four[:])
			return netip.AddrFrom16(bytes), true
		}
	}
	return netip.Addr{}, false
}
