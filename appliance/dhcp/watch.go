package dhcp

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// boxClass is option 60 of our probes and of the answers to them, followed in
// probes by the box's address: two boxes on one LAN know each other by it. A
// box that is configured as proxy says so behind it: it never gives addresses.
const (
	boxClass  = "rescuebox"
	onlyProxy = " proxy"
)

// watchServers asks for other servers until ctx is done.
func (s *Server) watchServers(ctx context.Context, l *link) {
	for {
		wait := s.arbiter.probe(time.Now())
		if err := s.sendProbe(l, l.mac); err != nil {
			s.log().Debug("probe for other DHCP servers not sent", zap.NamedError("err", err))
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sendProbe broadcasts what makes a DHCP server speak: a DISCOVER, which no
// REQUEST follows, so that it costs no lease, and an INFORM, which servers
// answer that give addresses to known clients only, and without the pause in
// which others ping the address before they offer it.
func (s *Server) sendProbe(w wire, mac boot.MAC) error {
	self := s.Address.Addr()
	dst := netip.AddrPortFrom(broadcastAddr(), portServer)
	text := boxClass + " " + self.String()
	if s.Mode == Proxy {
		text += onlyProxy
	}
	class := dhcpv4.OptClassIdentifier(text)
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeInform} {
		d := &dhcpv4.DHCPv4{
			OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: mac[:],
			Options: dhcpv4.OptionsFromList(dhcpv4.OptMessageType(kind), class),
		}
		if _, err := rand.Read(d.TransactionID[:]); err != nil {
			return err
		}
		src := netip.AddrPortFrom(netip.IPv4Unspecified(), portClient)
		if kind == dhcpv4.MessageTypeInform {
			d.ClientIPAddr = self.AsSlice()
			src = netip.AddrPortFrom(self, portClient)
		} else {
			d.SetBroadcast()
		}
		if err := w.frame(broadcastMAC, src, dst, d.ToBytes()); err != nil {
			return err
		}
	}
	return nil
}

// hearServer looks at a frame to port 68: is it another server's answer, to
// us or to a client?
func (s *Server) hearServer(own boot.MAC, frame []byte) {
	dg, ok := readUDP(frame)
	if !ok || dg.dst.Port() != portClient || dg.src.Port() != portServer || dg.mac == own {
		return
	}
	d, err := decode(dg.payload)
	if err != nil || d.OpCode != dhcpv4.OpcodeBootReply {
		return
	}
	o, ok := otherServer(d, dg)
	if !ok || o.Addr == s.Address.Addr() {
		return
	}
	// Only the ACK to our INFORM says whether it is a box that gives way: what boxes
	// tell clients, and the doctor, bears the class of those.
	if d.MessageType() != dhcpv4.MessageTypeAck || !slices.Equal(d.ClientHWAddr, own[:]) {
		o.Box = s.arbiter.isBox(o)
	}
	s.heardGiven(own, d, o)
	if !s.book.server(o.Addr) {
		s.log().Info("another DHCP server is on this LAN", zap.Stringer("server", o.Addr), zap.Stringer("mac", o.MAC),
			zap.Bool("proxy", o.Proxy), zap.String("class", o.VendorClass), zap.String("file", o.BootFile))
	}
	s.metrics.others.Inc()
	s.arbiter.hear(time.Now(), o)
}

// otherServer reads who answers. Only an ACK or an offer of an address makes
// a full server; an offer without one is a proxyDHCP server's.
func otherServer(d *dhcpv4.DHCPv4, dg datagram) (OtherServer, bool) {
	o := OtherServer{
		Addr: addrOf(d.Options.Get(dhcpv4.OptionServerIdentifier)), MAC: dg.mac,
		VendorClass: printable(d.Options.Get(dhcpv4.OptionClassIdentifier), 64),
		NextServer:  addrOf(d.ServerIPAddr), BootFile: printable([]byte(d.BootFileName), maxFile),
	}
	if v := d.Options.Get(dhcpv4.OptionBootfileName); o.BootFile == "" {
		o.BootFile = printable(v, maxFile)
	}
	if !o.Addr.IsValid() {
		o.Addr = dg.src.Addr()
	}
	o.Box = o.VendorClass == boxClass
	switch d.MessageType() {
	case dhcpv4.MessageTypeOffer:
		o.Proxy = !addrOf(d.YourIPAddr).IsValid()
	case dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak:
	default:
		return OtherServer{}, false
	}
	return o, true
}

// peerProbe handles the probe of another rescuebox. The lower address serves:
// to us a lower one is as good as a server that answers. A higher one is told
// by the ACK to its INFORM; its DISCOVER costs no address. A box that is configured as
// the full server does not give way, and one that is configured as proxy asks for
// no way: to the other one they are like any server and any client.
func (s *Server) peerProbe(p *packet) (isProbe bool) {
	rest, ok := strings.CutPrefix(p.class, boxClass+" ")
	if !ok {
		return false
	}
	rest, proxy := strings.CutSuffix(rest, onlyProxy)
	peer, err := netip.ParseAddr(rest)
	self := s.Address.Addr()
	if err != nil || !peer.Is4() || peer == self {
		return true
	}
	s.arbiter.hear(time.Now(), OtherServer{Addr: peer, MAC: p.mac, Box: true, Proxy: proxy})
	if p.kind != dhcpv4.MessageTypeInform || s.arbiter.now() != Full {
		return true
	}
	a := answer{kind: dhcpv4.MessageTypeAck, server: self}
	if s.Mode == Auto && !proxy {
		a.class = boxClass
	}
	s.send(p, a, nil)
	return true
}

// noteSystem tells the timeline that an operating system of a machine starts:
// it asks for an address without a boot request. Before a machine has asked to
// boot that says that it boots its own disk. A renewal (RFC 2131 section 4.3.2:
// ciaddr is set) says nothing.
func (s *Server) noteSystem(p *packet, mem *memory) {
	starts := p.kind == dhcpv4.MessageTypeDiscover || p.kind == dhcpv4.MessageTypeRequest && !p.ciaddr.IsValid()
	if p.notBoot == "" || !starts || s.Boot == nil || !s.roster.Load().has(p.mac) || !mem.once(boot.StepSystem, time.Now(), againEvent) {
		return
	}
	who := "an operating system"
	if p.class != "" {
		who += fmt.Sprintf(" (%s)", p.class)
	}
	s.Boot.Record(boot.Event{Step: boot.StepSystem, MAC: p.mac, Text: who + " asks for an address"})
}

// noteUnanswered tells the timeline that a machine asks while we answer nobody:
// where that lasts it is the cause that it does not boot.
func (s *Server) noteUnanswered(p *packet, mem *memory) {
	if p.notBoot == "" && s.Boot != nil && p.kind == dhcpv4.MessageTypeDiscover {
		s.decide(p, mem)
	}
}

// watchLink returns when the interface is no longer the one that was opened.
// While there is no carrier, silence says nothing about other servers.
func (s *Server) watchLink(ctx context.Context, l *link) {
	cut := false
	for sleep(ctx, time.Second) {
		ifi, err := net.InterfaceByName(s.Interface)
		if err != nil || ifi.Index != l.index || boot.MAC(ifi.HardwareAddr) != l.mac {
			return
		}
		up := ifi.Flags&net.FlagRunning != 0
		if up && cut {
			s.arbiter.restart(time.Now(), "the cable was out: listens for other DHCP servers again")
		}
		cut = !up
	}
}

func broadcastAddr() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }
