package link

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

// watchKernel looks at the kernel when there is a reason, beside the loop: it may take its time, as while somebody
// changes an interface, and the tunnel's switch must not wait for it. Nobody tells when a kernel that could not be asked
// can be asked again.
func (w *Watch) watchKernel(ctx context.Context) {
	for {
		var again <-chan time.Time
		if w.blind {
			again = time.After(blindFor)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.dirty:
		case <-again:
		}
		w.see()
	}
}

// blindFor is the time between two looks at a kernel that cannot be asked.
const blindFor = time.Second

// see looks at the kernel. What it finds of an uplink counts at once. What it cannot be asked for, such as when all file
// descriptors are in use, stays as it was seen last, for an uplink is no worse for that.
func (w *Watch) see() {
	var err error
	for i := range w.c.Uplinks {
		err = errors.Join(err, w.seeUplink(i))
	}
	leads, unknown := w.world.leads()
	w.mu.Lock()
	w.seen = true
	if unknown == nil {
		w.leads = leads
	}
	w.mu.Unlock()
	w.nudge()
	if err = errors.Join(err, unknown); err != nil && !w.blind {
		w.c.Log.Warn("not all uplinks could be looked at", zap.NamedError("err", err))
	}
	w.blind = err != nil
}

func (w *Watch) seeUplink(i int) error {
	w.mu.Lock()
	u, b, last := w.c.Uplinks[i], w.bearers[i], w.sights[i]
	w.mu.Unlock()
	if w.c.Bearers[u.Name] != nil {
		u.Device = b.Device
		if b.Err != nil {
			u.Device = ""
		}
	}
	s := w.world.look(u, b, last)
	if s.err != nil {
		return s.err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if s.index != 0 && last.index != 0 && s.index != last.index {
		w.m.link(i, now, false, false, s.device+" was made anew") // what was known was of the old one
	}
	w.m.link(i, now, s.carrier, s.routed(), s.why)
	if len(s.addresses) == 0 && s.index == last.index {
		s.addresses = last.addresses // its connections are found by them
	}
	w.sights[i] = s
	w.nudge()
	return nil
}

// glance looks at an uplink's carrier, beside the loop, while the tunnel is silent by it: the kernel tells of changes
// when it comes to it, and no more than once a second of most devices (its net/core/link_watch.c). The flag itself
// is there at once.
func (w *Watch) glance(uplink int) {
	w.mu.Lock()
	s := w.sights[uplink]
	w.mu.Unlock()
	if !s.carrier || w.c.Uplinks[uplink].Metered || !w.glancing.CompareAndSwap(false, true) {
		return
	}
	w.rounds.Go(func() {
		defer w.glancing.Store(false)
		if !w.world.carrier(s.device) {
			w.look()
		}
	})
}

// listen asks the tunnel by which uplink it heard its hub. A time that the clock's setting made odd
// counts as now: it is new, that is what matters.
func (w *Watch) listen(now time.Time) {
	if w.c.Tunnel == nil {
		return
	}
	for i, u := range w.c.Uplinks {
		at := w.c.Tunnel.Heard(u.Name)
		if at.Equal(w.heard[i]) {
			continue
		}
		w.heard[i] = at
		if at.IsZero() {
			continue
		}
		if at.Before(w.polled) || at.After(now) {
			at = now
		}
		w.m.hear(i, now.Add(-now.Sub(at)))
	}
	w.polled = now
}

// hub is the address to ping through the tunnel.
func (w *Watch) hub() (netip.Addr, bool) {
	if w.c.Tunnel == nil || w.c.InnerDevice == "" || w.c.Inner == nil {
		return netip.Addr{}, false
	}
	a := w.c.Inner()
	return a, a.IsValid()
}

// kernel is the world as it is.
type kernel struct{}

func (kernel) look(u Uplink, b BearerState, last sight) sight { return look(u, b, last) }
func (kernel) leads() ([2]int, error)                         { return leads() }
func (kernel) carrier(device string) bool                     { return carrier(device) }
func (kernel) ask(ctx context.Context, by path, p Probe) error {
	return by.ask(ctx, p)
}
func (kernel) pinger(device string, v6 bool) (echoer, error) { return newPinger(device, v6) }
