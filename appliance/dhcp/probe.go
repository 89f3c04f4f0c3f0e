package dhcp

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"rescuebox/appliance/boot"
)

// How an address is probed: two ARP requests, and time for a sleepy host to
// answer. RFC 5227 waits for seconds, because a host does that once in its
// life; a machine's firmware waits for us.
const (
	probeAgain = 150 * time.Millisecond // after the first request
	probeWait  = 250 * time.Millisecond // after the second
	maxProbes  = 4096                   // at once; more DISCOVERs are dropped and come again
)

// probe is one address being asked for.
type probe struct {
	addr     netip.Addr
	client   boot.MAC // may have it already
	due      time.Time
	finished bool
	done     func(conflict bool)
}

// prober asks by ARP whether an address is in use, many at once. All probes
// take the same time, so two queues in order of arrival are all the timers it needs.
type prober struct {
	mu      sync.Mutex
	pending map[netip.Addr]*probe
	second  chan *probe
	verdict chan *probe
}

func newProber() *prober {
	return &prober{
		pending: map[netip.Addr]*probe{},
		second:  make(chan *probe, maxProbes),
		verdict: make(chan *probe, 2*maxProbes), // never full: see start
	}
}

// start probes an address; done is called once, on another goroutine. It
// reports false if too many probes are on their way.
func (p *prober) start(w wire, addr netip.Addr, client boot.MAC, done func(conflict bool)) bool {
	pr := &probe{addr: addr, client: client, due: time.Now().Add(probeAgain), done: done}
	p.mu.Lock()
	full := len(p.pending) >= maxProbes || p.pending[addr] != nil
	if !full {
		p.pending[addr] = pr
	}
	p.mu.Unlock()
	if full {
		return false
	}
	_ = w.arp(addr) // a lost request is one of two; the link's reader notices a dead interface
	p.second <- pr
	return true
}

// run works the queues until ctx is done; what is pending then is forgotten.
func (p *prober) run(ctx context.Context, w wire) {
	var wg sync.WaitGroup
	wg.Go(func() {
		p.stage(ctx, p.second, func(pr *probe) {
			if p.isPending(pr) {
				_ = w.arp(pr.addr)
				pr.due = time.Now().Add(probeWait)
				p.verdict <- pr
			}
		})
	})
	wg.Go(func() { p.stage(ctx, p.verdict, func(pr *probe) { p.finish(pr, false) }) })
	wg.Wait()
	p.mu.Lock()
	clear(p.pending)
	p.mu.Unlock()
}

func (p *prober) stage(ctx context.Context, in <-chan *probe, next func(*probe)) {
	for {
		select {
		case <-ctx.Done():
			return
		case pr := <-in:
			if !sleep(ctx, time.Until(pr.due)) {
				return
			}
			next(pr)
		}
	}
}

// heard tells that a host claims an address.
func (p *prober) heard(mac boot.MAC, addr netip.Addr) {
	p.mu.Lock()
	pr := p.pending[addr]
	p.mu.Unlock()
	if pr != nil && pr.client != mac {
		p.finish(pr, true)
	}
}

func (p *prober) isPending(pr *probe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !pr.finished
}

func (p *prober) finish(pr *probe, conflict bool) {
	p.mu.Lock()
	first := !pr.finished && p.pending[pr.addr] == pr
	if first {
		pr.finished = true
		delete(p.pending, pr.addr)
	}
	p.mu.Unlock()
	if first {
		pr.done(conflict)
	}
}

// sleep waits; it reports false if ctx was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
