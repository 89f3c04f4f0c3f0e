package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// A packet is handled by the shard of its MAC, so that one client's packets
// stay in order and nobody waits for another's lease to reach the disk. Leases
// are committed together by the store: many shards make large commits.
const (
	shardCount  = 128
	shardQueue  = 16 // packets of unknown clients per shard; more are dropped and come again
	knownQueue  = 16 // and of known machines, which go first
	shardMemory = 64 // clients remembered per shard
)

// job is a packet that was read but not looked at.
type job struct {
	raw  *[]byte
	port int
	src  netip.AddrPort
	then func(*shard) // in place of a packet: what to go on with
}

// shard handles the packets of its share of the clients.
type shard struct {
	known, rest chan job
	clients     *lru[boot.MAC, *memory]
	delayed     atomic.Int32 // answers that wait
}

func newShards() []*shard {
	out := make([]*shard, shardCount)
	for i := range out {
		out[i] = &shard{
			known: make(chan job, knownQueue), rest: make(chan job, shardQueue),
			clients: newLRU[boot.MAC, *memory](shardMemory),
		}
	}
	return out
}

// memory finds or makes what is remembered of a client.
func (sh *shard) memory(m boot.MAC) *memory {
	mem, ok := sh.clients.get(m)
	if !ok {
		mem = &memory{}
		sh.clients.put(m, mem)
	}
	return mem
}

// run handles jobs, those of known machines first, until ctx is done.
func (sh *shard) run(ctx context.Context, handle func(*shard, job)) {
	for {
		select {
		case j := <-sh.known:
			handle(sh, j)
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return
		case j := <-sh.known:
			handle(sh, j)
		case j := <-sh.rest:
			handle(sh, j)
		}
	}
}

func (s *Server) shardOf(m boot.MAC) *shard {
	h := uint32(2166136261) // FNV-1a
	for _, b := range m {
		h = (h ^ uint32(b)) * 16777619
	}
	return s.shards[h%shardCount]
}

// serve reads and answers until ctx is done or the link breaks, and says how.
func (s *Server) serve(parent context.Context, l *link) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	s.index.Store(int64(l.index))
	wg := s.work(ctx, l)
	read := func(f func() error) { wg.Go(func() { cancel(s.caught(f)) }) }
	read(func() error { return s.readUDP(l.main, portServer) })
	read(func() error { return s.readUDP(l.boot, portBoot) })
	read(func() error { return s.readFrames(l.raw, func(f []byte) { s.hearServer(l.mac, f) }) })
	read(func() error { return s.readFrames(l.rs, s.hearSolicitation) })
	read(func() error {
		return s.readFrames(l.arps, func(f []byte) {
			if mac, addr, ok := readARP(f); ok {
				s.prober.heard(mac, addr)
			}
		})
	})
	read(func() error {
		s.watchLink(ctx, l)
		return fmt.Errorf("interface %s is gone or was made anew", s.Interface)
	})
	if s.Mode != Full {
		read(func() error { s.watchServers(ctx, l); return nil })
	}
	<-ctx.Done()
	l.close()
	wg.Wait()
	return context.Cause(ctx)
}

// work starts what does not depend on sockets.
func (s *Server) work(ctx context.Context, w wire) *sync.WaitGroup {
	s.wire.Store(&w)
	s.shards = newShards()
	wg := &sync.WaitGroup{}
	for _, sh := range s.shards {
		wg.Go(func() { sh.run(ctx, s.handle) })
	}
	wg.Go(func() { s.guard(func() { s.watchMachines(ctx) }) })
	wg.Go(func() { s.prober.run(ctx, w) })
	s.metrics.mode(s.arbiter.now())
	return wg
}

// readUDP hands packets to the shards until the socket breaks.
func (s *Server) readUDP(c *net.UDPConn, port int) error {
	buf := make([]byte, maxPacket+1) // one byte more than the longest packet, so that a longer one is noticed
	for {
		n, src, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return fmt.Errorf("read port %d: %w", port, err)
		}
		s.guard(func() { s.dispatch(buf[:n], port, netip.AddrPortFrom(src.Addr().Unmap(), src.Port())) })
	}
}

// dispatch queues a copy of a packet. It reads no more of it than the MAC.
func (s *Server) dispatch(raw []byte, port int, src netip.AddrPort) {
	if len(raw) < minPacket {
		s.drop("size")
		return
	}
	mac := boot.MAC(raw[offMAC : offMAC+6])
	sh := s.shardOf(mac)
	queue := sh.rest
	if s.roster.Load().has(mac) {
		queue = sh.known
	}
	// When it is too much, half-done exchanges come first: a REQUEST that is
	// dropped wastes the work that its DISCOVER cost.
	if len(queue) > cap(queue)/2 && isDiscover(raw) {
		s.drop("busy")
		return
	}
	buf := s.buffers.Get().(*[]byte)
	*buf = append((*buf)[:0], raw...)
	select {
	case queue <- job{raw: buf, port: port, src: src}:
	default:
		s.drop("busy")
		s.buffers.Put(buf)
	}
}

// isDiscover guesses from the first option, which is where all clients have it.
func isDiscover(raw []byte) bool {
	return len(raw) > offOpts+6 && raw[offOpts+4] == dhcpv4.OptionDHCPMessageType.Code() && raw[offOpts+6] == byte(dhcpv4.MessageTypeDiscover)
}

// handle is a shard's work on one job.
func (s *Server) handle(sh *shard, j job) { s.guard(func() { s.do(sh, j) }) }

func (s *Server) do(sh *shard, j job) {
	if j.then != nil {
		j.then(sh)
		return
	}
	p, err := parse(*j.raw)
	s.buffers.Put(j.raw)
	if err != nil {
		s.dropBad(j.src, err)
		return
	}
	s.packet(sh, p, j)
}

func (s *Server) drop(reason string) { s.metrics.dropped.WithLabelValues(reason).Inc() }

func (s *Server) dropBad(src netip.AddrPort, err error) {
	key := "format"
	var b *badPacket
	if errors.As(err, &b) {
		key = b.key
	}
	s.drop(key)
	if e := s.log().Check(zap.DebugLevel, "DHCP packet dropped"); e != nil {
		e.Write(zap.Stringer("from", src), zap.NamedError("err", err))
	}
}

// readFrames hands what a packet socket reads to f until the socket breaks.
func (s *Server) readFrames(from *os.File, f func([]byte)) error {
	buf := make([]byte, maxPacket+128)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return err // names the socket
		}
		s.guard(func() { f(buf[:n]) })
	}
}

// guard does the work on one packet. A panic costs that packet, not the daemon.
func (s *Server) guard(work func()) {
	defer func() {
		if r := recover(); r != nil {
			s.metrics.panics.Inc()
			s.log().Error("a packet made the handler panic: please report this as a bug", zap.Any("panic", r), zap.Stack("stack"))
		}
	}()
	work()
}

// caught does the work of a goroutine. A panic costs this part a new start, not the daemon.
func (s *Server) caught(work func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.metrics.panics.Inc()
			s.log().Error("DHCP panicked: please report this as a bug", zap.Any("panic", r), zap.Stack("stack"))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return work()
}

// later queues work for a client's shard, without waiting.
func (s *Server) later(m boot.MAC, then func(*shard)) {
	select {
	case s.shardOf(m).known <- job{then: then}:
	default:
		s.drop("busy")
	}
}

// maxDelayed bounds the answers of one shard that wait; more go out at once.
const maxDelayed = 8

// wait does something after a while, on the client's shard, if the mode is the same then.
func (s *Server) wait(m boot.MAC, d time.Duration, mode Mode, then func()) {
	sh := s.shardOf(m)
	if d == 0 || sh.delayed.Load() >= maxDelayed {
		then()
		return
	}
	sh.delayed.Add(1)
	time.AfterFunc(d, func() {
		sh.delayed.Add(-1)
		select {
		case sh.known <- job{then: func(*shard) {
			if s.arbiter.now() == mode {
				then()
			}
		}}:
		default:
			s.drop("busy")
		}
	})
}

// send renders and sends a reply on its way; it says whether it went out.
func (s *Server) send(p *packet, a answer, part *bootPart) bool {
	a.boot = part
	b, err := render(p, a)
	if err == nil {
		err = s.transmit(p, a, b)
	}
	if err != nil {
		s.metrics.sendFails.Inc()
		s.noisy.Warn("DHCP reply not sent", zap.Stringer("mac", p.mac), zap.Stringer("type", a.kind), zap.NamedError("err", err))
		return false
	}
	s.metrics.sent.WithLabelValues(a.kind.String()).Inc()
	if part != nil && !part.local {
		s.noteBooting(p.mac)
		s.interpreter.answered(part.stage)
	}
	if e := s.log().Check(zap.DebugLevel, "DHCP reply"); e != nil {
		e.Write(zap.Stringer("mac", p.mac), zap.Stringer("type", a.kind), zap.Stringer("address", a.yiaddr))
	}
	return true
}

// transmit chooses the way of RFC 2131 section 4.1.
func (s *Server) transmit(p *packet, a answer, b []byte) error {
	w := *s.wire.Load()
	src := netip.AddrPortFrom(a.server, portServer)
	switch routeOf(p, a.kind, a.yiaddr) {
	case toRelay:
		return w.udp(portServer, netip.AddrPortFrom(p.relay, portServer), b)
	case toAddress:
		if s.pool.home(p.ciaddr) == nil {
			return fmt.Errorf("client claims the address %s, which is on none of our networks", p.ciaddr)
		}
		return w.udp(portServer, netip.AddrPortFrom(p.ciaddr, portClient), b)
	case toMAC:
		return w.frame(p.mac, src, netip.AddrPortFrom(a.yiaddr, portClient), b)
	}
	return w.frame(broadcastMAC, src, netip.AddrPortFrom(broadcastAddr(), portClient), b)
}
