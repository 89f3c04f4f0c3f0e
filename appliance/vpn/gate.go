package vpn

import (
	"sync"
	"sync/atomic"
	"time"
)

// WireGuard in Go gives each packet on its way through the process a buffer of 64 KiB, and
// has no bound for them on this system: its queues would hold hundreds of megabytes under
// load. So what enters is held back at the edges, in each direction, until enough has left.
const (
	gateLimit = 32 // packets inside
	// What WireGuard drops inside never leaves at the other edge: copies while packets are
	// doubled, packets for nobody. So whoever waits gives up after a moment in which nothing
	// left, and the count begins anew. Without a session packets only pile up; then a moment
	// is long.
	gateMoment = 100 * time.Millisecond
	gateLong   = 5 * time.Second
)

// gate counts packets on their way through the process, in one direction.
//
// It makes no garbage: each collection also throws buffers away that no packet is in just
// then, and their successors, which have to be cleared, cost all of their 64 KiB.
type gate struct {
	inside atomic.Int64
	born   time.Time
	moved  atomic.Int64  // when packets entered or left last, since born
	left   chan struct{} // told when packets leave
	timers sync.Pool     // of those who wait; none of them runs
}

func newGate() *gate { return &gate{born: time.Now(), left: make(chan struct{}, 1)} }

// wait waits until packets may enter; not longer than the moment after the last one left.
func (g *gate) wait(moment time.Duration, quit <-chan struct{}) {
	if g.inside.Load() < gateLimit {
		return
	}
	if time.Since(g.born)-time.Duration(g.moved.Load()) > moment {
		g.inside.Store(0) // dropped one by one, long ago: nobody has to wait for that
		return
	}
	timer := g.timer(moment)
	defer g.timers.Put(timer)
	defer timer.Stop()
	for g.inside.Load() >= gateLimit {
		select {
		case <-g.left:
			timer.Reset(moment)
		case <-timer.C:
			g.inside.Store(0)
		case <-quit:
			return
		}
	}
}

func (g *gate) timer(d time.Duration) *time.Timer {
	if t, ok := g.timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

func (g *gate) enter(n int) {
	g.move()
	g.inside.Add(int64(n))
}

func (g *gate) move() { g.moved.Store(int64(time.Since(g.born))) }

func (g *gate) leave(n int) {
	g.move()
	if g.inside.Add(-int64(n)) < 0 {
		g.inside.Store(0) // it had given up on them
	}
	tell(g.left)
}
