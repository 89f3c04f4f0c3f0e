package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// The times of a drill.
const (
	drillBeat    = 10 * time.Millisecond // between its pings while something is about to change
	drillIdle    = 500 * time.Millisecond
	drillEager   = 5 * time.Second  // after the cut and after its end
	drillPatient = 15 * time.Second // of silence, then it ends itself: somebody may depend on the tunnel
	drillReturn  = time.Minute      // for the way back
	longestDrill = 10 * time.Minute
)

// Test is a drill: the active uplink is cut off for d, as if it had died silently, and what that costs
// is measured by pings through the tunnel. Whoever names an uplink means that one: it is refused where another one
// is active. It is refused, too, where no other uplink is alive to take over, and
// ends early with ctx or when nothing took over. The kernel ends the cut even if the daemon does not live to.
func (w *Watch) Test(ctx context.Context, uplink string, d time.Duration) (Report, error) {
	if d < time.Second || d > longestDrill {
		return Report{}, fmt.Errorf("drill of %v: want %v to %v", d, time.Second, longestDrill)
	}
	if uplink != "" {
		if _, err := w.find(uplink); err != nil {
			return Report{}, err
		}
	}
	i, hub, err := w.drillBegins(uplink)
	if err != nil {
		return Report{}, err
	}
	defer w.drillEnds()
	w.Wake(d + drillReturn)
	if err := w.awaitOther(ctx, i); err != nil {
		return Report{}, err
	}
	p, err := w.world.pinger(w.c.InnerDevice, hub.Is6())
	if err != nil {
		return Report{}, fmt.Errorf("drill: %w", err)
	}
	m := &measure{conn: p, hub: hub, sent: map[uint16]time.Time{}}
	var readers sync.WaitGroup
	readers.Go(m.listen)
	defer readers.Wait()
	defer p.close()
	return w.runDrill(ctx, m, i, d)
}

func (w *Watch) runDrill(ctx context.Context, m *measure, i int, d time.Duration) (Report, error) {
	name := w.c.Uplinks[i].Name
	r := Report{Uplink: name, Began: time.Now()}
	if !m.usual(ctx) {
		return Report{}, errors.New("drill: the hub does not answer through the tunnel as it is; see rescuebox link status")
	}
	w.mu.Lock()
	severed := cut(w.sights[i].device, d)
	w.mu.Unlock()
	began := time.Now()
	w.tell(Event{At: began, Kind: Drill, Uplink: name, Reason: fmt.Sprintf("drill: %s is cut off for %v", name, d)})
	if err := nft(severed); err != nil {
		return Report{}, fmt.Errorf("drill: %w", err)
	}
	deaf := m.ping(ctx, d, drillEager, func() bool { return m.silence(time.Now()) > drillPatient })
	if now := w.activeUplink(); now != name {
		r.Other = now
	}
	mended := time.Now()
	r.Away = m.longest(began, mended, drillEager)
	if err := uncut(); err != nil {
		w.complain([]string{err.Error()}) // the kernel ends it by itself in a moment
	}
	w.mu.Lock()
	if !w.m.ups[i].failed { // else somebody ordered it meanwhile, and that stands
		w.m.restore(i, mended)
	}
	w.mu.Unlock()
	w.nudge()
	if ctx.Err() == nil {
		m.ping(ctx, drillReturn, drillReturn, func() bool { return w.activeUplink() == name && w.calm() })
		m.ping(ctx, time.Second, time.Second, func() bool { return false })
	}
	r.Back = m.longest(mended, time.Now(), drillReturn)
	r.Sent, r.Lost = m.count()
	r.Result = r.sentence(deaf, w.activeUplink() == name)
	w.mu.Lock()
	w.drill = &r
	w.mu.Unlock()
	w.tell(Event{At: time.Now(), Kind: Drill, Uplink: name, Reason: "drill: " + r.Result})
	return r, ctx.Err()
}

func (r Report) sentence(deaf, back bool) string {
	away, home := r.Away.Round(time.Millisecond), r.Back.Round(time.Millisecond)
	switch {
	case deaf:
		return fmt.Sprintf("nothing took over for %s within %v; it was ended", r.Uplink, drillPatient)
	case r.Other == "":
		return fmt.Sprintf("ended before another uplink took over for %s; the longest silence was %v", r.Uplink, away)
	case !back:
		return fmt.Sprintf("%s took over for %s, the longest silence was %v; %s is not back yet", r.Other, r.Uplink, away, r.Uplink)
	}
	return fmt.Sprintf("%s took over for %s, the longest silence was %v, and %v on the way back", r.Other, r.Uplink, away, home)
}

// drillBegins checks that a drill can be, and says of which uplink and by which hub.
func (w *Watch) drillBegins(uplink string) (int, netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	hub, ok := w.hub()
	switch {
	case !w.running || w.plumb == nil:
		return 0, hub, errors.New("drill: the uplinks are not watched just now")
	case w.drilling:
		return 0, hub, errors.New("drill: one runs already")
	case !ok:
		return 0, hub, errors.New("drill: there is no hub to ping through the tunnel, so nothing could be measured; write ping in its [[vpn.hub]]")
	case w.m.active < 0:
		return 0, hub, errors.New("drill: no uplink is in use")
	case uplink != "" && uplink != w.m.name(w.m.active):
		return 0, hub, fmt.Errorf("drill: %s is not in use, so that cutting it shows nothing: %s is", uplink, w.m.name(w.m.active))
	}
	w.drilling = true
	return w.m.active, hub, nil
}

func (w *Watch) drillEnds() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drilling = false
}

// awaitOther waits until an uplink is alive that can take over; a bearer may have to come up.
func (w *Watch) awaitOther(ctx context.Context, i int) error {
	ctx, stop := context.WithTimeout(ctx, drillReturn)
	defer stop()
	for {
		w.mu.Lock()
		there := w.othersWork(i, time.Now())
		waiting := slices.ContainsFunc(w.m.ups, func(u uplink) bool { return u.bearer && u.wanted && !u.carrier })
		w.mu.Unlock()
		if there {
			return nil
		}
		if !waiting && w.settledDown() {
			return fmt.Errorf("drill: no other uplink is alive to take over for %s, and you would be cut off; see rescuebox link status", w.c.Uplinks[i].Name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("drill: no other uplink came up to take over for %s: %w", w.c.Uplinks[i].Name, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// settledDown reports whether no uplink is still unproven.
func (w *Watch) settledDown() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	return !slices.ContainsFunc(w.m.pref, func(i int) bool { return w.m.healthOf(i, now) == Unproven })
}

func (w *Watch) activeUplink() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m.name(w.m.active)
}

// calm reports whether the hub answers by the active uplink.
func (w *Watch) calm() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m.phase == steady
}

// measure pings the hub and notes when answers came.
type measure struct {
	conn echoer
	hub  netip.Addr
	seq  uint16

	mu      sync.Mutex
	sent    map[uint16]time.Time // without an answer so far
	answers []time.Time
}

// ping asks for d, or until enough says so; then it reports true. After eager it asks seldom, while all is well.
func (m *measure) ping(ctx context.Context, d, eager time.Duration, enough func() bool) bool {
	began := time.Now()
	for time.Since(began) < d {
		m.seq++
		m.mu.Lock()
		m.sent[m.seq] = time.Now()
		m.mu.Unlock()
		_ = m.conn.send(m.hub, m.seq) // what is not sent is not answered
		pause := drillBeat
		if now := time.Now(); now.Sub(began) > eager && m.silence(now) < drillIdle*2 {
			pause = drillIdle
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
		if enough() {
			return true
		}
	}
	return false
}

// usual asks for a second, as things are before the cut, and reports whether the hub answers. Where nothing was heard in
// the last second it may be that this machine stood still itself, or that a radio slept: then a little longer.
func (m *measure) usual(ctx context.Context) bool {
	m.ping(ctx, time.Second, time.Second, func() bool { return false })
	answers := func() bool { return m.silence(time.Now()) <= time.Second }
	return answers() || m.ping(ctx, 2*time.Second, 2*time.Second, answers)
}

func (m *measure) listen() {
	for {
		from, seq, err := m.conn.receive()
		if err != nil {
			return
		}
		m.mu.Lock()
		if _, mine := m.sent[seq]; mine && from == m.hub {
			delete(m.sent, seq)
			m.answers = append(m.answers, time.Now())
		}
		m.mu.Unlock()
	}
}

// silence is how long ago the last answer came.
func (m *measure) silence(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.answers) == 0 {
		return longestDrill
	}
	return now.Sub(m.answers[len(m.answers)-1])
}

// longest is the longest time without an answer that ended, or lasted on, between two times. While
// nothing was about to change, pings were rare: such a pause is no silence.
func (m *measure) longest(from, to time.Time, eager time.Duration) (worst time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := from
	for _, at := range append(slices.Clone(m.answers), to) {
		if at.Before(from) {
			last = at
			continue
		}
		if at.After(to) {
			break
		}
		if gap := at.Sub(last); gap > worst && (last.Sub(from) < eager || gap > 2*drillIdle) {
			worst = gap
		}
		last = at
	}
	return worst
}

func (m *measure) count() (sent, lost int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sent) + len(m.answers), len(m.sent)
}
