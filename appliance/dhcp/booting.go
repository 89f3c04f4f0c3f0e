package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// step4011 is a StepRequest that comes beside the one on port 67.
const step4011 boot.Step = "request on 4011"

// verdict is what boot.Decide said about one exchange.
type verdict struct {
	machine string // its name, or "" if not known
	dialect string // that the file of the site pins; "" or "auto": none
	file    string // "": nothing to boot
	refusal *boot.Refusal
}

// bootPart is what the reply to a packet says about booting, nil for nothing.
func (s *Server) bootPart(p *packet, mem *memory) *bootPart {
	if p.notBoot != "" || s.Boot == nil {
		return nil
	}
	v, full := s.decide(p, mem), s.arbiter.now() == Full
	if v.file == "" {
		return leaveAlone(p.client, full, s.Address.Addr(), s.HTTPPort)
	}
	return partFor(p.client, v.file, s.interpreter.dialect(p.client, v.dialect, full), full)
}

// listen tells the interpreter what a boot client says on its way, so that one
// that does not understand is talked to in another way.
func (s *Server) listen(p *packet, mem *memory, mode Mode, port int) {
	if p.notBoot != "" || s.Boot == nil {
		return
	}
	switch {
	case p.kind == dhcpv4.MessageTypeRequest:
		s.interpreter.request(p.client, mode == Full)
	case p.kind == dhcpv4.MessageTypeDiscover && port == portServer:
		if v := s.decide(p, mem); v.file != "" {
			s.interpreter.discover(p, v.dialect, mode == Full, func(d Dialect) bool { return !d.Full || s.mayLend(p) })
		}
	}
}

func (s *Server) tellDialect(st stage, text string) {
	s.Boot.Record(boot.Event{Step: boot.StepDialect, MAC: st.mac, Text: text})
}

// Fetched tells that a machine begins to load a file, by TFTP or HTTP, or (whole)
// that its last byte went out: that is how it shows that it understood what DHCP told it.
// It may record an event: call it without a lock that Boot.Record takes.
func (s *Server) Fetched(mac boot.MAC, whole bool) {
	if s.started.Load() {
		s.interpreter.fetched(mac, whole)
	}
}

// BlockSize is the largest TFTP block that a machine's program stands, 0 for any.
func (s *Server) BlockSize(mac boot.MAC) int {
	if !s.started.Load() {
		return 0
	}
	return s.interpreter.blockSize(mac)
}

// decide asks the table, once for a packet and its retransmissions. There are programs
// that make their xid of the MAC, so that the next one's may be the same.
func (s *Server) decide(p *packet, mem *memory) verdict {
	now, asks := time.Now(), stageOf(p.client, s.arbiter.now() == Full)
	if mem.xid == p.TransactionID && mem.asked == asks && now.Sub(mem.decided) < sameVerdict {
		return mem.verdict
	}
	c, lends := p.client, false
	if s.nextServerElsewhere(c) {
		m, _ := s.roster.Load().machine(p)
		lends = s.mayLend(p) && (m.Dialect == "" || m.Dialect == address) // a pinned dialect is kept
		c.NextServerElsewhere = !lends
	}
	d, err := s.Boot.Decide(c)
	v := verdict{machine: d.Machine.Name, dialect: d.Machine.Dialect}
	if lends && d.Chain == boot.ChainShim && v.dialect == "" {
		v.dialect = address
	}
	if err == nil {
		v.file, err = bootFileFor(p.client, d, s.Address.Addr(), s.HTTPPort)
	}
	if m, ok := s.roster.Load().machine(p); ok {
		v.machine = m.Name
	}
	if err != nil && !errors.As(err, &v.refusal) {
		s.noisy.Error("boot decision failed", zap.Stringer("mac", p.mac), zap.NamedError("err", err))
		v.refusal = &boot.Refusal{Reason: err.Error()}
	}
	mem.xid, mem.asked, mem.decided, mem.verdict = p.TransactionID, asks, now, v
	s.decided(p, mem, v)
	return v
}

// decided puts what was decided into timeline, log and metrics. Machines that
// nobody named make no events: on a LAN full of strangers these would push
// the ordered machines' out of the store.
func (s *Server) decided(p *packet, mem *memory, v verdict) {
	what := fmt.Sprintf("DISCOVER from %s, %s", p.client.Program, p.client.Arch)
	switch {
	case v.file != "":
		s.metrics.boots.WithLabelValues("offered").Inc()
		if p.kind == dhcpv4.MessageTypeDiscover {
			s.event(p, mem, v, boot.StepDiscover, what, againEvent)
		}
	case v.refusal.Local:
		s.metrics.boots.WithLabelValues("local").Inc()
		s.event(p, mem, v, boot.StepLocal, v.refusal.Reason, localAgain)
	default:
		s.metrics.boots.WithLabelValues("refused").Inc()
		s.noisy.Info("boot refused", zap.Stringer("mac", p.mac), zap.String("machine", v.machine),
			zap.Stringer("arch", p.client.Arch), zap.String("reason", v.refusal.Reason), zap.String("hint", v.refusal.Hint))
		s.event(p, mem, v, boot.StepRefused, v.refusal.Reason, localAgain)
	}
}

// offered and requested note the next steps of a machine that has something to boot.
func (s *Server) offered(p *packet, mem *memory, part *bootPart, text string) {
	if part == nil || part.local {
		return
	}
	s.event(p, mem, mem.verdict, boot.StepOffer, text+", boot file "+part.file, againEvent)
}

func (s *Server) requested(p *packet, mem *memory, text string) {
	if p.notBoot != "" || s.Boot == nil {
		return
	}
	if v := s.decide(p, mem); v.file != "" {
		s.event(p, mem, v, boot.StepRequest, text, againEvent)
	}
}

func (s *Server) event(p *packet, mem *memory, v verdict, step boot.Step, text string, gap time.Duration) {
	// iPXE's are not the firmware's, however soon they follow: by them it is seen that iPXE runs.
	equal := step + boot.Step(" of "+p.client.Program)
	if v.machine == "" || !mem.once(equal, time.Now(), gap) {
		return
	}
	if step == step4011 {
		step = boot.StepRequest
	}
	s.Boot.Record(boot.Event{Step: step, Machine: v.machine, MAC: p.mac, Text: text})
}

// proxy answers beside another DHCP server: the boot part, and only to those
// who have something to boot. Everybody else hears nothing, so that no
// firmware waits for us, and what the other server offers stands.
func (s *Server) proxy(p *packet, mem *memory) {
	if s.lends(p, mem) {
		if p.kind == dhcpv4.MessageTypeRequest {
			s.interpreter.tookAddress(p.client)
		}
		s.full(p, mem)
		return
	}
	if p.kind == dhcpv4.MessageTypeRequest {
		text := "takes an address of the site's DHCP server"
		if p.server.IsValid() {
			text += " " + p.server.String()
		}
		s.requested(p, mem, text)
		return
	}
	if p.kind == dhcpv4.MessageTypeDiscover {
		s.proxyOffer(p, mem)
	}
}

// proxyOffer tells a machine what it boots, without an address.
func (s *Server) proxyOffer(p *packet, mem *memory) {
	if part := s.bootPart(p, mem); part != nil {
		s.wait(p.mac, part.dialect.Delay, Proxy, func() {
			if s.send(p, s.proxyAnswer(dhcpv4.MessageTypeOffer), part) {
				s.offered(p, mem, part, "proxyDHCP offer beside the site's DHCP server")
			}
		})
	}
}

func (s *Server) proxyAnswer(kind dhcpv4.MessageType) answer {
	return answer{kind: kind, server: s.Address.Addr()}
}

// bootServer answers on port 4011, in full mode too: firmware that takes our
// offer for a BINL server's asks there (EDK2's PxeBcRetryBinlOffer). Some
// firmware sends DISCOVER or INFORM there, and menu item type 0 (danderson/netboot#77):
// whoever asks on this port means us.
func (s *Server) bootServer(p *packet, mem *memory, src netip.AddrPort) {
	switch p.kind {
	case dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeDiscover:
	default:
		return
	}
	part := s.bootPart(p, mem)
	if part == nil || part.local {
		return
	}
	kind := dhcpv4.MessageTypeAck
	if p.kind == dhcpv4.MessageTypeDiscover {
		kind = dhcpv4.MessageTypeOffer
	}
	a := s.proxyAnswer(kind)
	a.on4011 = true
	if s.sendBoot(p, a, part, src) {
		s.event(p, mem, mem.verdict, step4011, "asked on port 4011, told boot file "+part.file, againEvent)
	}
}

// sendBoot answers to where the request came from; a client that has no
// address yet can only be reached by its MAC.
func (s *Server) sendBoot(p *packet, a answer, part *bootPart, src netip.AddrPort) bool {
	a.boot = part
	b, err := render(p, a)
	w := *s.wire.Load()
	switch {
	case err != nil:
	case src.Addr().IsValid() && !src.Addr().IsUnspecified():
		err = w.udp(portBoot, src, b)
	default:
		from := netip.AddrPortFrom(a.server, portBoot)
		err = w.frame(p.mac, from, netip.AddrPortFrom(broadcastAddr(), portClient), b)
	}
	if err != nil {
		s.metrics.sendFails.Inc()
		s.noisy.Warn("answer on port 4011 not sent", zap.Stringer("mac", p.mac), zap.NamedError("err", err))
		return false
	}
	s.metrics.sent.WithLabelValues("BOOT").Inc()
	return true
}
