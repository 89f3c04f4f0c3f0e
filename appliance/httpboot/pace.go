package httpboot

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// pace keeps the transfers of one address together below a rate. Some firmware
// loses a segment of a fast stream for good (ipxe#1023, #1545): a throttle
// is what cures it.
type pace struct {
	from netip.Addr
	rate int64
	uses int // guarded by paces.mu

	mu   sync.Mutex
	next time.Time // when what was promised so far has gone out
}

// slice is how much to send in one go.
func (p *pace) slice() int64 {
	if p == nil {
		return slice
	}
	return min(max(p.rate/20, 4<<10), slice)
}

// wait waits until n more bytes may go out.
func (p *pace) wait(ctx context.Context, n int64) error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	pause := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return errStopping
	case <-time.After(pause):
		return nil
	}
}

// paces are the addresses that are being sent to.
type paces struct {
	rate int64 // 0: no limit

	mu   sync.Mutex
	open map[netip.Addr]*pace
}

func (s *paces) join(from netip.Addr) *pace {
	if s.rate <= 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.open[from]
	if !ok {
		if s.open == nil {
			s.open = map[netip.Addr]*pace{}
		}
		p = &pace{from: from, rate: s.rate}
		s.open[from] = p
	}
	p.uses++
	return p
}

func (s *paces) leave(p *pace) {
	if p == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.uses--; p.uses == 0 {
		delete(s.open, p.from)
	}
}
