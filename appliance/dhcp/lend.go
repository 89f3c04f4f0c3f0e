package dhcp

import (
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rescuebox/appliance/boot"
)

// Some firmware boots from nothing but one complete offer of one server
// (bootimus#77, edk2#6944). Beside the site's DHCP server that is the last
// resort: for one machine, for one boot, we give the address as well. It is done
// only where that address cannot be another host's:
//
//   - the machine is named and has something to boot now;
//   - it is on our own LAN: behind a relay nobody can be asked by ARP;
//   - the file of the site reserves an address for it; or it gives a range, the
//     site's own server was seen giving addresses, and never one of that
//     range, nor was any client seen that takes or has one;
//   - no other client was seen with the reserved address, and nobody answers an
//     ARP probe for it, not even where the machine had it lately: the site's server
//     does not know of that and may have given it since;
//   - no other rescuebox with a lower address is on the LAN, which would do the same.
//
// A server that is configured as authoritative refuses the REQUEST, as one that
// names another server (dnsmasq: "wrong server-ID"). The client goes by the answer
// that comes first, mostly ours; otherwise it begins anew and hears our offer again.
//
// The system that the machine then boots asks for an address as any other, and the site's server gives it.

// nextServerElsewhere reports whether a GRUB that the client loads would look for
// its files at another host: we are proxy, and the server that gives the
// addresses does not name us as next server. Where we may, we then give the address, too.
func (s *Server) nextServerElsewhere(c boot.Client) bool {
	if s.arbiter.now() != Proxy || c.Program != boot.Firmware || !c.Arch.UEFI() || c.Arch.HTTP() {
		return false
	}
	_, _, _, others := s.arbiter.snapshot(time.Now())
	named := false
	for _, o := range others {
		switch {
		case o.Proxy || o.Box:
		case o.NextServer != s.Address.Addr():
			return true
		default:
			named = true
		}
	}
	return !named
}

// mayLend reports whether the machine that sent a packet may have an address of ours now.
func (s *Server) mayLend(p *packet) bool {
	m, known := s.roster.Load().machine(p)
	if !known || p.relay.IsValid() || !s.arbiter.first(time.Now()) {
		return false
	}
	return s.mayLendOwn(m) || s.mayLendRange()
}

// mayLendOwn reports whether a machine may have the address that is reserved for
// it: not one that another client was seen with, which may sleep and answer no ARP probe.
func (s *Server) mayLendOwn(m boot.Machine) bool {
	if !m.Address.IsValid() || !s.pool.nets[0].prefix.Contains(m.Address) {
		return false
	}
	seen, ok := s.book.find(m.Address)
	return !ok || slices.Contains(m.MACs, seen)
}

// mayLendRange reports whether the range is ours to give beside the site's server.
func (s *Server) mayLendRange() bool {
	return s.pool.nets[0].usable > 0 && s.book.othersElsewhere()
}

// lends reports whether a packet in proxy mode is answered as by a full server:
// a DISCOVER of a machine that needs that, and what it then says to us of the
// address. An offer stands, though the machine was slow and another dialect is
// tried already. What it gives back or found in use it says without a word of booting.
func (s *Server) lends(p *packet, mem *memory) bool {
	if s.arbiter.now() != Proxy {
		return false
	}
	switch p.kind {
	case dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease:
		return p.server == s.Address.Addr()
	case dhcpv4.MessageTypeDiscover:
		v, ok := s.lendable(p, mem)
		return ok && s.interpreter.dialect(p.client, v.dialect, false).Full
	case dhcpv4.MessageTypeRequest:
		if _, ok := s.lendable(p, mem); !ok || p.server != s.Address.Addr() {
			return false
		}
		addr, ok := s.pool.record(time.Now(), p.mac)
		return ok && addr == p.requested
	}
	return false
}

// lendable reports whether a packet is of a machine that boots something now and may have an address.
func (s *Server) lendable(p *packet, mem *memory) (v verdict, ok bool) {
	if p.notBoot != "" || s.Boot == nil {
		return v, false
	}
	v = s.decide(p, mem)
	return v, v.file != "" && s.mayLend(p)
}

// heardGiven notes an address that another server offers or gives.
func (s *Server) heardGiven(own boot.MAC, d *dhcpv4.DHCPv4, o OtherServer) {
	given := addrOf(d.YourIPAddr)
	if !given.IsValid() || o.Box || len(d.ClientHWAddr) != 6 {
		return
	}
	client := boot.MAC(d.ClientHWAddr)
	if d.MessageType() == dhcpv4.MessageTypeAck {
		s.book.note(given, client, true)
	}
	s.book.given(s.pool.nets[0].covers(given))
	if client != own && d.MessageType() == dhcpv4.MessageTypeAck && s.arbiter.now() != Full {
		s.pool.othersLease(time.Now(), given, client, true)
	}
}

// othersLease notes that a client has or takes an address that is not ours to
// give now. When we take over from the other server, the client shall find its
// address again, and nobody else shall get it, even while it sleeps and answers no ARP probe.
// Who is not sure, but asks for an address it had once, takes it from nobody.
func (s *Server) othersLease(addr netip.Addr, client boot.MAC, sure bool) {
	if holder, ours := s.pool.holder(time.Now(), addr); ours && holder == client {
		return
	}
	if s.pool.nets[0].covers(addr) {
		s.book.given(true)
		s.pool.othersLease(time.Now(), addr, client, sure)
	}
}
