package ticket

import (
	"net"
	"net/netip"
	"slices"
)

// where is what the box knows of ways to a machine.
type where struct {
	lan       netip.Prefix
	reachable func(netip.Addr) bool // nil: every address is
}

// choose picks the address under which the admin reaches a machine. The
// rescue LAN's own addresses come first, since the way to them leads through
// this box; among them the one the report came from has just been seen to work.
// Self-assigned addresses (RFC 3927, fe80::/10) reach nobody, and an address of this box is no machine's.
func (w where) choose(candidates []netip.Addr, from netip.Addr) netip.Addr {
	from = from.Unmap().WithZone("")
	for _, reached := range []bool{true, false} {
		for _, fits := range w.ranks(from) {
			i := slices.IndexFunc(candidates, func(a netip.Addr) bool {
				return a.IsGlobalUnicast() && a != w.lan.Addr() && fits(a) && w.reaches(a) == reached
			})
			if i >= 0 {
				return candidates[i]
			}
		}
	}
	return netip.Addr{}
}

// ranks are what an address may be, best first.
func (w where) ranks(from netip.Addr) []func(netip.Addr) bool {
	isFrom := func(a netip.Addr) bool { return a == from }
	inLAN := func(a netip.Addr) bool { return a.Is4() && w.lan.Masked().Contains(a) }
	return []func(netip.Addr) bool{
		func(a netip.Addr) bool { return inLAN(a) && isFrom(a) }, inLAN, isFrom, netip.Addr.Is4, netip.Addr.Is6,
	}
}

func (w where) reaches(a netip.Addr) bool { return w.reachable == nil || w.reachable(a) }

// endpoint is choose for addresses that have a port of their own each.
func (w where) endpoint(list []netip.AddrPort, from netip.Addr) (netip.AddrPort, bool) {
	var candidates []netip.Addr
	for _, ap := range list {
		candidates = append(candidates, ap.Addr())
	}
	i := slices.Index(candidates, w.choose(candidates, from))
	if i < 0 {
		return netip.AddrPort{}, false
	}
	return list[i], true
}

// Routed reports whether this box has a route to an address. Nothing is sent:
// to connect a UDP socket only asks the routing table.
func Routed(a netip.Addr) bool {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9)))
	if err != nil {
		return false
	}
	c.Close()
	return true
}
