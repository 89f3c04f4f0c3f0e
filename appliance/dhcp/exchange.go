package dhcp

import (
	"errors"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// packet answers one request in the mode of the moment.
func (s *Server) packet(sh *shard, p *packet, j job) {
	now := time.Now()
	s.metrics.received.WithLabelValues(p.kind.String()).Inc()
	if s.ownPacket(p) || s.peerProbe(p) {
		return
	}
	mem := sh.memory(p.mac)
	if !mem.allow(now) {
		s.drop("rate")
		return
	}
	mode := s.arbiter.now()
	s.look(p, mode)
	s.noteSystem(p, mem)
	if mode == Listening {
		s.noteUnanswered(p, mem)
		s.drop("listening")
		return
	}
	s.listen(p, mem, mode, j.port)
	switch {
	case j.port == portBoot:
		s.bootServer(p, mem, j.src)
	case mode == Proxy:
		s.proxy(p, mem)
	default:
		s.full(p, mem)
	}
}

// look notes which address a client says it has or takes.
func (s *Server) look(p *packet, mode Mode) {
	addr, sure := p.ciaddr, true
	switch {
	case p.kind == dhcpv4.MessageTypeRelease:
		return
	case p.kind == dhcpv4.MessageTypeRequest && p.requested.IsValid():
		addr, sure = p.requested, p.server.IsValid() // without a server (INIT-REBOOT) it asks for what it had once
	}
	if !addr.IsValid() {
		return
	}
	s.book.note(addr, p.mac, sure)
	if mode != Full && p.server != s.Address.Addr() {
		s.othersLease(addr, p.mac, sure)
	}
}

// full is DHCP as RFC 2131 section 4.3 has it.
func (s *Server) full(p *packet, mem *memory) {
	n, err := s.pool.network(p.relay)
	if home := s.pool.home(p.ciaddr); !p.relay.IsValid() && p.ciaddr.IsValid() && home != nil {
		n = home // a client renews by unicast, past its relay (RFC 2131 section 4.3.2)
	}
	if err != nil {
		s.drop("relay")
		s.noisy.Warn("DHCP request through an unknown relay", zap.Stringer("mac", p.mac), zap.NamedError("err", err))
		return
	}
	a := s.askFor(p, n)
	switch p.kind {
	case dhcpv4.MessageTypeDiscover:
		s.discover(p, mem, a)
	case dhcpv4.MessageTypeRequest:
		s.request(p, mem, a)
	case dhcpv4.MessageTypeDecline:
		s.decline(p)
	case dhcpv4.MessageTypeRelease:
		s.release(p)
	case dhcpv4.MessageTypeInform:
		s.inform(p, mem, n)
	}
}

// askFor is what a packet says about its client's address.
func (s *Server) askFor(p *packet, n *network) ask {
	m, known := s.roster.Load().machine(p)
	a := ask{mac: p.mac, known: known, net: n, want: p.requested, host: p.host}
	if m.Address.IsValid() && n.prefix.Contains(m.Address) {
		a.reserved = m.Address
	}
	if s.arbiter.now() == Proxy {
		a.lent, a.ownOnly = true, !s.mayLendRange()
		if !s.mayLendOwn(m) {
			a.reserved = netip.Addr{}
		}
	}
	return a
}

// discover offers an address, at once or after it has been probed.
func (s *Server) discover(p *packet, mem *memory, a ask) {
	addr, probe, err := s.pool.take(time.Now(), a)
	switch {
	case errors.Is(err, errProbing):
		mem.waiting = p // the offer answers the newest DISCOVER
	case err != nil:
		s.drop("pool")
		s.noisy.Warn("no address for a client", zap.Stringer("mac", a.mac), zap.NamedError("err", err))
		if a.lent {
			s.proxyOffer(p, mem) // so that the next dialect has its turn
		}
	case probe:
		if s.probe(addr, a) {
			mem.waiting = p
		}
	default:
		s.offer(p, mem, a.net, addr)
	}
}

// probe asks the LAN for an address and goes on with the client's DISCOVER
// when the answer is known. Behind a relay ARP does not reach: there the
// client's own check and its DECLINE must do. It reports whether there will be an answer.
func (s *Server) probe(addr netip.Addr, a ask) bool {
	done := func(conflict bool) {
		s.pool.probed(time.Now(), addr, conflict)
		if conflict {
			s.metrics.conflicts.Inc()
			if a.lent { // it may be leased
				s.forget(addr)
			}
			s.noisy.Warn("address is in use by a host that did not get it from us: kept out of the pool for a while",
				zap.Stringer("address", addr), zap.Duration("for", quarantine))
		}
		s.later(a.mac, s.resume(a))
	}
	if a.net != s.pool.nets[0] {
		done(false)
		return true
	}
	if !s.prober.start(*s.wire.Load(), addr, a.mac, done) {
		s.drop("probes")
		return false
	}
	return true
}

// resume answers the DISCOVER that waited for a probe: take now finds the
// probed address, or after a conflict another one.
func (s *Server) resume(a ask) func(*shard) {
	return func(sh *shard) {
		mem := sh.memory(a.mac)
		p := mem.waiting
		mem.waiting = nil
		if p != nil && (s.arbiter.now() == Full || s.lends(p, mem)) {
			s.discover(p, mem, a)
		}
	}
}

func (s *Server) offer(p *packet, mem *memory, n *network, addr netip.Addr) {
	part := s.bootPart(p, mem)
	a := s.terms(dhcpv4.MessageTypeOffer, n)
	a.yiaddr = addr
	var delay time.Duration
	if part != nil {
		delay = part.dialect.Delay
	}
	s.wait(p.mac, delay, s.arbiter.now(), func() {
		if s.send(p, a, part) {
			s.offered(p, mem, part, "offered "+addr.String())
		}
	})
}

// terms is the part of an answer that is the same for all clients of a network.
func (s *Server) terms(kind dhcpv4.MessageType, n *network) answer {
	return answer{kind: kind, server: s.Address.Addr(), lease: s.arbiter.term(s.Lease, time.Now()), net: n, dns: s.dns, domain: s.Domain}
}

// request is RFC 2131 section 4.3.2, by the state that the client is in.
func (s *Server) request(p *packet, mem *memory, a ask) {
	now := time.Now()
	switch {
	case p.server.IsValid() && p.server != s.Address.Addr():
		s.pool.release(now, p.mac, netip.Addr{}, offered) // it took another server's offer
		s.requested(p, mem, "takes the offer of DHCP server "+p.server.String())
	case p.server.IsValid() && p.requested.IsValid():
		s.selecting(p, mem, a)
	case p.server.IsValid() && p.ciaddr.IsValid(): // some clients name the server when they renew, too
		s.rebooting(p, mem, a, p.ciaddr)
	case p.requested.IsValid():
		s.rebooting(p, mem, a, p.requested)
	case p.ciaddr.IsValid():
		s.rebooting(p, mem, a, p.ciaddr)
	default:
		s.drop("request")
	}
}

// selecting: the client takes our offer.
func (s *Server) selecting(p *packet, mem *memory, a ask) {
	if err := s.commit(p, mem, a, p.requested); errors.Is(err, errNotYours) || errors.Is(err, errShare) {
		s.nak(p, "the offer is no longer open: ask again")
	}
}

// rebooting: the client had the address before (INIT-REBOOT, RENEWING, REBINDING).
//
// We say no only where we know: an address of another network, or one that
// our record contradicts. Without a record we must be silent (RFC 2131 section 4.3.2):
// it may be another server's lease.
func (s *Server) rebooting(p *packet, mem *memory, a ask, addr netip.Addr) {
	if !a.net.prefix.Contains(addr) {
		s.nak(p, addr.String()+" is no address of this network")
		return
	}
	have, known := s.pool.record(time.Now(), p.mac)
	if !known {
		s.drop("no record")
		return
	}
	if err := s.commit(p, mem, a, addr); errors.Is(err, errNotYours) || errors.Is(err, errShare) {
		s.nak(p, addr.String()+" is not yours, "+have.String()+" was")
	}
}

// commit makes the lease and acknowledges it, in this order: first the store,
// then the ACK.
func (s *Server) commit(p *packet, mem *memory, a ask, addr netip.Addr) error {
	l, undo, err := s.pool.bind(time.Now(), a, addr)
	if err != nil {
		return err
	}
	if s.Store != nil {
		if err := s.Store.Put(addr.String(), l); err != nil {
			undo()
			s.drop("store")
			s.noisy.Error("lease not stored, so not given", zap.Stringer("mac", p.mac), zap.NamedError("err", err))
			return err
		}
	}
	part := s.bootPart(p, mem)
	r := s.terms(dhcpv4.MessageTypeAck, a.net)
	r.yiaddr = addr
	if s.send(p, r, part) {
		s.requested(p, mem, "has address "+addr.String())
	}
	return nil
}

func (s *Server) nak(p *packet, why string) {
	s.send(p, answer{kind: dhcpv4.MessageTypeNak, server: s.Address.Addr(), message: why}, nil)
	s.log().Debug("NAK", zap.Stringer("mac", p.mac), zap.String("why", why))
}

// decline: the client found its address in use (RFC 2131 section 4.3.3).
func (s *Server) decline(p *packet) {
	if !p.requested.IsValid() || (p.server.IsValid() && p.server != s.Address.Addr()) ||
		!s.pool.decline(time.Now(), p.mac, p.requested) {
		s.drop("decline")
		return
	}
	s.metrics.conflicts.Inc()
	s.forget(p.requested)
	s.noisy.Warn("a client declined its address because another host uses it: kept out of the pool for a while",
		zap.Stringer("mac", p.mac), zap.Stringer("address", p.requested), zap.Duration("for", quarantine))
}

// release: the client gives its address back (RFC 2131 section 4.3.4).
func (s *Server) release(p *packet) {
	if !p.ciaddr.IsValid() || !s.pool.release(time.Now(), p.mac, p.ciaddr, bound) {
		s.drop("release")
		return
	}
	s.forget(p.ciaddr)
}

func (s *Server) forget(addr netip.Addr) {
	if s.Store == nil {
		return
	}
	if err := s.Store.Delete(addr.String()); err != nil {
		s.noisy.Error("released lease not deleted", zap.Stringer("address", addr), zap.NamedError("err", err))
	}
}

// inform: the client has an address and wants the rest (RFC 2131 section
// 4.3.5): no address and no times in the answer.
func (s *Server) inform(p *packet, mem *memory, n *network) {
	if !p.ciaddr.IsValid() {
		s.drop("inform")
		return
	}
	a := s.terms(dhcpv4.MessageTypeAck, n)
	a.lease = 0
	s.send(p, a, s.bootPart(p, mem))
}

// ownMAC is the interface's: our own packets may come back to us.
func (s *Server) ownMAC() boot.MAC {
	if l, ok := (*s.wire.Load()).(*link); ok {
		return l.mac
	}
	return boot.MAC{}
}
