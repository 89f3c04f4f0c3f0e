package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// maxPool bounds a pool: a /16, of which the DHCP part keeps a map in memory.
const maxPool = 1 << 16

func (c *checker) lan(raw rawLAN) LAN {
	usual := defaults().LAN
	lan := LAN{
		Interface:  read(c, "lan.interface", raw.Interface, interfaceName),
		Address:    read(c, "lan.address", raw.Address, boxAddress),
		DHCP:       read(c, "lan.dhcp", raw.DHCP, dhcpMode),
		Domain:     read(c, "lan.domain", raw.Domain, optional(domainName)),
		Lease:      read(c, "lan.lease", raw.Lease, between(shortestLease, longestLease, usual.Lease)),
		KnownShare: c.readInt("lan.known_share", raw.KnownShare, 0, 100, usual.KnownShare),
	}
	net := network{lan.Address.Masked(), "the LAN"}
	lan.Router = read(c, "lan.router", raw.Router, optional(net.host))
	lan.Range = c.pool("lan.range", raw.Range, net, lan.DHCP)
	c.notInPool("lan.range", lan.Range, lan.Address.Addr(), "the box's own address")
	c.notInPool("lan.range", lan.Range, lan.Router, "the router")
	lan.DNS = c.dns(raw.DNS)
	lan.Relays = c.relays(raw.Relay, lan)
	return lan
}

// dns is at most what fits into option 6 of a packet that firmware accepts.
func (c *checker) dns(raw []string) []netip.Addr {
	const most = 8
	var servers []netip.Addr
	for i, s := range raw {
		servers = append(servers, read(c, fmt.Sprintf("lan.dns[%d]", i), s, ipv4))
	}
	if len(servers) > most {
		c.wrong("lan.dns", *faultf("two are enough", "%d servers are more than %d", len(servers), most))
	}
	return servers
}

// pool reads a range of addresses. Where the box never gives any, it may be absent.
func (c *checker) pool(path string, raw []string, net network, mode Mode) Range {
	example := net.examplePool()
	switch {
	case len(raw) == 0 && mode != Auto && mode != Full:
		return Range{}
	case len(raw) == 0:
		c.wrong(path, *faultf(example+`; or dhcp = "proxy" beside the site's own server`, "missing: dhcp = %q gives addresses", mode))
		return Range{}
	case len(raw) != 2:
		c.wrong(path, *faultf(example, "want two addresses, the first and the last, got %d", len(raw)))
		return Range{}
	}
	r := Range{read(c, path+"[0]", raw[0], net.host), read(c, path+"[1]", raw[1], net.host)}
	if !r.First.IsValid() || !r.Last.IsValid() {
		return Range{}
	}
	switch size := int64(number(r.Last)) - int64(number(r.First)) + 1; {
	case size < 1:
		c.wrong(path, *faultf("swap the two", "the first address %s is above the last %s", r.First, r.Last))
		return Range{}
	case size > maxPool:
		c.wrong(path, *faultf("a branch needs some hundred", "%d addresses are more than %d", size, maxPool))
	}
	return r
}

// examplePool is a range that fits into the network, for hints.
func (n network) examplePool() string {
	first := n.prefix
	if !first.IsValid() || first.Bits() > 24 {
		return `for example range = ["192.168.77.100", "192.168.77.199"]`
	}
	b := first.Addr().As4()
	return fmt.Sprintf(`for example range = ["%d.%d.%d.100", "%d.%d.%d.199"]`, b[0], b[1], b[2], b[0], b[1], b[2])
}

func (c *checker) notInPool(path string, r Range, a netip.Addr, what string) {
	if a.IsValid() && r.Contains(a) {
		c.wrong(path, *faultf("let the range begin above it or end below it", "%s to %s contains %s %s", r.First, r.Last, what, a))
	}
}

func (c *checker) relays(raw []rawRelay, lan LAN) []Relay {
	var relays []Relay
	for i, r := range raw {
		path := fmt.Sprintf("lan.relay[%d]", i)
		relay := Relay{Network: read(c, path+".network", r.Network, relayNetwork)}
		net := network{relay.Network, "the network"}
		relay.Router = read(c, path+".router", r.Router, net.router)
		relay.Range = c.pool(path+".range", r.Range, net, lan.DHCP)
		c.notInPool(path+".range", relay.Range, relay.Router, "the router")
		c.apart(path+".network", relay.Network, lan, relays)
		relays = append(relays, relay)
	}
	return relays
}

// apart notes a relay's network that lies over another one: nobody could say
// then which of the two a client is in.
func (c *checker) apart(path string, n netip.Prefix, lan LAN, before []Relay) {
	const hint = "each network can be named once"
	if !n.IsValid() {
		return
	}
	if lan.Address.IsValid() && n.Overlaps(lan.Address) {
		c.wrong(path, *faultf(hint, "%s overlaps the LAN %s", n, lan.Address.Masked()))
	}
	for i, r := range before {
		if r.Network.IsValid() && n.Overlaps(r.Network) {
			c.wrong(path, *faultf(hint, "%s overlaps %s of line %d", n, r.Network, c.shape.lineOf(fmt.Sprintf("lan.relay[%d].network", i))))
		}
	}
}

// network is an IPv4 network; its zero prefix is one that could not be read
// and that takes every address, so that one mistake is not told twice.
type network struct {
	prefix netip.Prefix
	what   string
}

// host parses the address of a host in the network.
func (n network) host(s string) (netip.Addr, *fault) {
	a, f := ipv4(s)
	if f != nil || !n.prefix.IsValid() {
		return a, f
	}
	first, last := n.prefix.Addr(), broadcast(n.prefix)
	hint := fmt.Sprintf("use %s to %s", first.Next(), last.Prev())
	switch {
	case !n.prefix.Contains(a):
		return netip.Addr{}, faultf(hint, "%s is outside %s %s", a, n.what, n.prefix)
	case a == first:
		return netip.Addr{}, faultf(hint, "%s is the address of %s %s itself", a, n.what, n.prefix)
	case a == last:
		return netip.Addr{}, faultf(hint, "%s is the broadcast address of %s %s", a, n.what, n.prefix)
	}
	return a, nil
}

// router is a host that must be named.
func (n network) router(s string) (netip.Addr, *fault) {
	if s == "" {
		return netip.Addr{}, faultf("name the relay's address in it", "missing: without a router the machines there do not reach the box")
	}
	return n.host(s)
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// boxAddress parses the box's own address with the LAN's prefix length.
func boxAddress(s string) (netip.Prefix, *fault) {
	const hint = `for example address = "192.168.77.1/24"`
	if s == "" {
		return netip.Prefix{}, faultf(hint, "missing: the box's own address on the rescue LAN")
	}
	if !strings.Contains(s, "/") {
		return netip.Prefix{}, faultf(fmt.Sprintf("most LANs have /24: address = %q", s+"/24"), "%s has no prefix length", quote(s))
	}
	p, f := prefix(s, hint)
	if f != nil {
		return p, f
	}
	if _, f := (network{p.Masked(), "the LAN"}).host(p.Addr().String()); f != nil {
		return netip.Prefix{}, f
	}
	return p, nil
}

// relayNetwork parses a network without host bits.
func relayNetwork(s string) (netip.Prefix, *fault) {
	const hint = `for example network = "192.168.78.0/24"`
	if s == "" {
		return netip.Prefix{}, faultf(hint, "missing")
	}
	p, f := prefix(s, hint)
	if f == nil && p != p.Masked() {
		return netip.Prefix{}, faultf(fmt.Sprintf("write network = %q", p.Masked()), "%s is an address in a network, not the network", quote(s))
	}
	return p, f
}

// prefix parses an IPv4 prefix that has room for the box and a machine.
func prefix(s, hint string) (netip.Prefix, *fault) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, faultf(hint, "%s is no address with a prefix length", quote(s))
	case !p.Addr().Is4():
		return netip.Prefix{}, faultf(hint, "%s is not IPv4, the only IP that every firmware boots over", quote(s))
	case p.Bits() < 8 || p.Bits() > 30:
		return netip.Prefix{}, faultf(hint, "%s has a prefix length that is not between /8 and /30", quote(s))
	case !unicast(p.Addr()):
		return netip.Prefix{}, faultf(hint, "%s is no address that a host can have", quote(s))
	}
	return p, nil
}

func ipv4(s string) (netip.Addr, *fault) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, faultf("write it as 192.168.77.20, without prefix length or port", "%s is no IP address", quote(s))
	case !a.Is4():
		return netip.Addr{}, faultf("the rescue LAN is IPv4", "%s is not IPv4", quote(s))
	case !unicast(a):
		return netip.Addr{}, faultf("take one of a host's", "%s is no address that a host can have", a)
	}
	return a, nil
}

// unicast leaves out "this network" and what is above the unicast classes.
func unicast(a netip.Addr) bool { b := a.As4(); return b[0] != 0 && b[0] < 224 }
