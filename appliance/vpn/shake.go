package vpn

import (
	"slices"
	"sync"
	"time"
)

// apart is the time between two copies of one handshake.
//
// A hub looks whether it had a handshake already, and notes that it has it, but not in one step
// (ConsumeMessageInitiation of wireguard-go's device/noise-protocol.go, wg_noise_handshake_consume_initiation of
// Linux' drivers/net/wireguard/noise.c). Of two copies that come in the same moment, each to a core of its own, it
// takes both, answers both, and keeps the second session. Ours is the first: nothing passes until WireGuard tries again
// after 15 seconds.
const apart = 30 * time.Millisecond

// turns has copies of handshakes with one hub leave one after the other. Its zero value is ready.
type turns struct {
	mu    sync.Mutex
	last  time.Time // that one left
	queue []turn
	armed bool
}

// turn is a copy that waits for its turn.
type turn struct {
	way  int
	send func()
}

// first sends a new handshake at once. Copies of an older one are of no use any more.
func (t *turns) first(send func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = nil
	send()
	t.last = time.Now()
}

// take has a copy leave when it is its turn. One for each uplink waits at most.
func (t *turns) take(way int, send func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.ContainsFunc(t.queue, func(w turn) bool { return w.way == way }) {
		t.queue = append(t.queue, turn{way, send})
	}
	t.armLocked()
}

// armLocked counts from when the last one really left: a machine that stood still must not send all at once.
func (t *turns) armLocked() {
	if !t.armed && len(t.queue) > 0 {
		t.armed = true
		time.AfterFunc(time.Until(t.last.Add(apart)), t.next)
	}
}

func (t *turns) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed = false
	if len(t.queue) > 0 && time.Since(t.last) >= apart {
		first := t.queue[0]
		t.queue = t.queue[1:]
		first.send()
		t.last = time.Now()
	}
	t.armLocked()
}

// shake sends a handshake by the uplink in use at once. If everywhere is set, or it could not leave by that one, each of the
// others has its turn too, while the hub has not answered.
func (b *bind) shake(h *hubPaths, p parcel, everywhere bool) (err error) {
	p.bufs = [][]byte{slices.Clone(p.bufs[0])} // WireGuard may use its own again
	active := int(b.active.Load())
	var by int
	h.turns.first(func() { by, err = b.leave(h, p, active) })
	for _, w := range b.ways {
		if (everywhere || by != active) && w.index != by && w.index != active {
			b.copyLater(h, w.index, p)
		}
	}
	return err
}

// leave sends a handshake by an uplink, and where it cannot by the one in use, by the next that takes it: by is which.
func (b *bind) leave(h *hubPaths, p parcel, way int) (by int, err error) {
	active := int(b.active.Load())
	if err = b.ways[way].send(h, p, way == active); err == nil || way != active {
		return way, err
	}
	for _, w := range b.ways {
		if w.index != way && w.send(h, p, false) == nil {
			return w.index, nil
		}
	}
	return way, err
}

// copyLater sends a copy of a handshake by an uplink in its turn, unless the hub has answered it by then.
func (b *bind) copyLater(h *hubPaths, way int, p parcel) {
	h.turns.take(way, func() {
		if p.first.kind == initiation && h.responded.Load() > h.initiated.Load() {
			return
		}
		_, _ = b.leave(h, p, way) // the uplink's state says why
	})
}

// resend sends the hub our last handshake once more, by the uplink in use. The first copy may
// be lost on a dead uplink, and WireGuard begins no other for five seconds. A hub that has
// both takes the first.
func (b *bind) resend(hub int) {
	h := b.hubs[hub]
	packet := h.unanswered()
	if packet == nil {
		return
	}
	first, _ := parseMessage(packet)
	p := parcel{[][]byte{packet}, first, h.asked.Load()}
	active := int(b.active.Load())
	b.copyLater(h, active, p)
	for i := range b.ways {
		if i != active && b.duplicate.Load() {
			b.copyLater(h, i, p)
		}
	}
}
