package vpn

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// rememberedIndices is how many of our indices a hub may answer: a handshake is tried each
// five seconds, and its session lives for three minutes.
const rememberedIndices = 40

// hubPaths is a hub as the bind knows it: where it is by each uplink, and whether it owes us
// an answer. It is kept without locks where each packet comes by.
type hubPaths struct {
	index int
	paths []*path // by uplink

	heard, asked, initiated, responded atomic.Int64 // bind.now; 0 is never

	turns turns // of handshakes with it

	indices [rememberedIndices]atomic.Uint32 // that we gave; 0 is none yet
	given   atomic.Uint32

	lastCall atomic.Pointer[[]byte]   // our last handshake
	followed atomic.Pointer[endpoint] // the last that was
}

func newHubPaths(index, uplinks int) *hubPaths {
	h := &hubPaths{index: index}
	for range uplinks {
		h.paths = append(h.paths, &path{})
	}
	return h
}

// note keeps what our packets for the hub say: under which index it will answer, and that it
// has to. It returns since when it owes an answer.
func (h *hubPaths) note(now int64, bufs [][]byte) (asked int64) {
	for _, b := range bufs {
		m, _ := parseMessage(b)
		if m.sender != 0 {
			h.give(m.sender)
		}
		if m.kind == initiation {
			call := append([]byte(nil), b...)
			h.lastCall.Store(&call)
			h.initiated.Store(now)
		}
		if m.asks() {
			h.asked.CompareAndSwap(0, now)
		}
	}
	if asked = h.asked.Load(); asked == 0 {
		return now
	}
	return asked
}

func (h *hubPaths) give(index uint32) {
	h.indices[(h.given.Add(1)-1)%rememberedIndices].Store(index)
}

// gave reports that the index is one of ours.
func (h *hubPaths) gave(index uint32) bool {
	if index == 0 {
		return false
	}
	newest := h.given.Load()
	for i := range uint32(rememberedIndices) { // the newest first: that is nearly always it
		if h.indices[(newest-1-i)%rememberedIndices].Load() == index {
			return true
		}
	}
	return false
}

// at reports that the hub is at that address by the uplink.
func (h *hubPaths) at(uplink int, a netip.AddrPort) bool { return h.paths[uplink].has(a) }

// follow goes where the hub answered from. WireGuard keeps an endpoint of a packet only
// after it proved the packet authentic, so what it gives to Send is one that may be believed;
// once, since it gives the same one for as long as nothing else comes.
func (h *hubPaths) follow(e *endpoint) {
	if e.addr.IsValid() && h.followed.Load() != e {
		h.followed.Store(e)
		h.paths[e.way].follow(e.addr)
	}
}

// unanswered is our last handshake, if the hub said nothing since.
func (h *hubPaths) unanswered() []byte {
	if h.initiated.Load() <= h.heard.Load() {
		return nil
	}
	return *h.lastCall.Load()
}

// path is where a hub is by one uplink: its addresses, of which one is in use.
type path struct {
	used   atomic.Pointer[netip.AddrPort]
	proved atomic.Pointer[netip.AddrPort] // where the hub was last, as WireGuard knows for sure

	mu     sync.Mutex
	list   []netip.AddrPort // as configured or resolved, best first
	called int64            // bind.now of the last handshake by this path
}

// current is the address in use; not valid while none is known.
func (p *path) current() netip.AddrPort {
	if a := p.used.Load(); a != nil {
		return *a
	}
	return netip.AddrPort{}
}

func (p *path) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.list)
}

func (p *path) has(a netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current() == a || slices.Contains(p.list, a)
}

// set gives the path its addresses. The one in use stays if it is one of them, or if they
// are what they were: then the hub itself told us another one. It stays, too, while the hub answers
// there: whoever says that it is elsewhere may be early, or a liar.
func (p *path) set(list []netip.AddrPort, answers bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := slices.Equal(p.list, list)
	p.list = slices.Clone(list)
	if len(list) == 0 {
		p.used.Store(nil)
	} else if now := p.current(); !now.IsValid() || !same && !answers && !slices.Contains(list, now) {
		p.used.Store(&p.list[0])
	}
}

func (p *path) follow(a netip.AddrPort) {
	p.proved.Store(&a)
	if p.current() != a {
		p.used.Store(&a)
	}
}

// next goes from an address that does not answer to the one after it.
func (p *path) next(from netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.list) == 0 || p.current() != from {
		return
	}
	p.used.Store(&p.list[(slices.Index(p.list, from)+1)%len(p.list)])
}

// call reports that a handshake may go by this path now. One that repeats another that
// nobody answered here goes to the hub's next address. Where each byte costs, a hub that has
// been dead for a while is called seldom.
func (p *path) call(w *way, h *hubPaths, asked int64, active bool) bool {
	now, last := w.b.now(), p.lastCall()
	if w.metered && (!active || now-asked > int64(impatient)) && last != 0 && now-last < int64(frugal) {
		return false
	}
	if last != 0 && now-last < int64(patience) {
		return true // the same once more: a kick
	}
	if last != 0 && w.heard[h.index].Load() < last {
		p.next(p.current())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.called = now
	return true
}

func (p *path) lastCall() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.called
}
