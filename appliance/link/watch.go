package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Watch watches the uplinks of a Config.
type Watch struct {
	c       Config
	metrics *metrics
	world   world
	poke    chan struct{} // something was ordered or has changed
	dirty   chan struct{} // look at the kernel again
	echoes  chan echo
	rounds  sync.WaitGroup

	ordering sync.Mutex // of orders and what the store keeps of them; before mu

	// mu is held for memory only: a switch of the tunnel waits for it, and so nobody waits for the kernel or the
	// disk while he has it. A tunnel that asks the kernel where it was heard is the exception: its switch does, too.
	mu       sync.Mutex
	m        *machine
	running  bool
	bearers  []BearerState // by uplink
	sights   []sight
	leads    [2]int
	seen     bool // all of them, and the plumber was not told yet
	names    []*names
	targets  [][]TargetStatus
	heard    []time.Time // as the tunnel said last
	polled   time.Time
	pinged   bool // a hub answered a ping outside: silence then says something
	plumb    *plumber
	trouble  []string
	drilling bool
	glancing atomic.Bool
	drill    *Report
	shown    time.Time // in the metrics

	inner inner // the loop's own
	blind bool  // the kernel could not be asked for all; of whoever looks at it

	teller teller
}

// world is the kernel and the network, as the loop needs them.
type world interface {
	look(u Uplink, b BearerState, last sight) sight
	leads() ([2]int, error)
	carrier(device string) bool
	pinger(device string, v6 bool) (echoer, error)
	ask(ctx context.Context, by path, p Probe) error
}

// echoer sends pings and waits for their answers: a pinger.
type echoer interface {
	send(to netip.Addr, seq uint16) error
	receive() (from netip.Addr, seq uint16, err error)
	close()
}

type echo struct {
	seq uint16
	at  time.Time
}

// New checks the configuration. Nothing is opened yet.
func New(c Config) (*Watch, error) {
	c.Uplinks = slices.Clone(c.Uplinks)
	if len(c.Uplinks) > lastTable-firstTable+1 || len(c.Uplinks) > prefOwn-prefAddress {
		return nil, fmt.Errorf("watch %d uplinks: the box has routing tables for 10", len(c.Uplinks))
	}
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.Name == "" || slices.ContainsFunc(c.Uplinks[:i], func(o Uplink) bool { return o.Name == u.Name }) {
			return nil, fmt.Errorf("uplink %d: it needs a name of its own, not %q", i+1, u.Name)
		}
		u.complete()
	}
	switch c.Mode {
	case "":
		c.Mode = Standby
	case Standby, Dormant, LTEOnly:
	default:
		return nil, fmt.Errorf("mode %q: want standby, dormant or lte-only", c.Mode)
	}
	c.Failback = orTime(c.Failback, time.Minute)
	if c.MaxSwitches == 0 {
		c.MaxSwitches = 12
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	w := &Watch{c: c, metrics: newMetrics(c.Metrics), world: kernel{}, poke: make(chan struct{}, 1),
		dirty: make(chan struct{}, 1), echoes: make(chan echo, 64),
		bearers: make([]BearerState, len(c.Uplinks)), sights: make([]sight, len(c.Uplinks)),
		targets: make([][]TargetStatus, len(c.Uplinks)), heard: make([]time.Time, len(c.Uplinks))}
	for range c.Uplinks {
		w.names = append(w.names, &names{})
	}
	w.m, w.teller.tell, w.teller.log = newMachine(c), c.Changed, c.Log
	return w, nil
}

// complete fills in what is not given.
func (u *Uplink) complete() {
	interval, suspect, check := 50*time.Millisecond, 30*time.Millisecond, time.Second
	if u.Metered {
		interval, suspect, check = 15*time.Second, 2*time.Second, 10*time.Minute
	}
	u.Interval, u.Suspect, u.Check = orTime(u.Interval, interval), orTime(u.Suspect, suspect), orTime(u.Check, check)
	if u.Down == 0 {
		u.Down = 3
	}
	if u.Up == 0 {
		u.Up = 3
	}
	u.Of = max(u.Of, u.Down, u.Up)
	if u.Of < 5 && u.Down <= 3 && u.Up <= 3 {
		u.Of = 5
	}
	u.Need = max(u.Need, 1)
}

func orTime(d, usual time.Duration) time.Duration {
	if d <= 0 {
		return usual
	}
	return d
}

// Run watches until ctx is done, then takes everything of ours out of the kernel.
func (w *Watch) Run(ctx context.Context, ready func()) error {
	changes, err := newWatcher()
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.plumb = newPlumber(w.c, w.complain)
	w.mu.Unlock()
	ctx, stop := context.WithCancelCause(ctx)
	var around sync.WaitGroup
	around.Go(func() {
		if err := changes.run(w.look); err != nil {
			stop(err)
		}
	})
	around.Go(func() {
		if err := w.plumb.run(ctx); err != nil {
			w.c.Log.Warn("rules and routes of the uplinks were not taken away; the next start does", zap.NamedError("err", err))
		}
	})
	w.loop(ctx, ready)
	changes.file.Close()
	around.Wait()
	w.teller.wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// look has somebody look at the kernel again.
func (w *Watch) look() { signal(w.dirty) }

func (w *Watch) nudge() { signal(w.poke) }

// loop turns everything that happens into steps of the machine, and does what the machine wants.
func (w *Watch) loop(ctx context.Context, ready func()) {
	w.begin(time.Now())
	defer w.end()
	w.see()
	w.rounds.Go(func() { w.watchKernel(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ready := ready; ; ready = func() {} {
		w.turn(ctx, timer)
		ready()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.poke:
		case e := <-w.echoes:
			w.answered(e)
		}
	}
}

// begin starts with a machine that knows nothing but what somebody ordered earlier.
func (w *Watch) begin(now time.Time) {
	w.ordering.Lock()
	defer w.ordering.Unlock()
	kept := w.recall(now)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m = newMachine(w.c)
	w.running, w.polled = true, now
	for i, u := range w.c.Uplinks {
		w.sights[i] = sight{}
		if w.c.Tunnel != nil {
			w.heard[i] = w.c.Tunnel.Heard(u.Name)
		}
	}
	for _, k := range kept {
		w.takeUp(k, now)
	}
}

// end stops what the loop started.
func (w *Watch) end() {
	w.mu.Lock()
	w.running = false
	w.mu.Unlock()
	w.inner.close()
	w.rounds.Wait()
}

// turn is one step: look, listen, decide, act.
func (w *Watch) turn(ctx context.Context, timer *time.Timer) {
	w.mu.Lock()
	now := time.Now()
	w.listen(now)
	hub, tunnel := w.hub()
	w.m.tunnel = tunnel
	before, lost := w.m.active, []netip.Prefix(nil)
	w.m.step(now)
	acts, wake := w.m.take()
	if before >= 0 && before != w.m.active && w.m.healthOf(before, now) != Alive {
		lost = w.sights[before].addresses
	}
	plumb, to := w.plumb, plan{active: w.m.active, leads: w.leads}
	if w.seen || before != w.m.active {
		w.seen, to.paths = false, slices.Clone(w.sights)
	}
	if len(acts) > 0 && now.Sub(w.shown) > time.Second || before != w.m.active {
		w.shown = now
		w.metrics.show(w.statusLocked(now))
	}
	w.mu.Unlock()
	for _, a := range acts {
		w.act(ctx, a, hub)
	}
	if plumb != nil && to.paths != nil {
		plumb.follow(to, lost)
	}
	if wake.IsZero() {
		timer.Stop()
	} else {
		timer.Reset(time.Until(wake))
	}
}

// act does what the machine wants.
func (w *Watch) act(ctx context.Context, a action, hub netip.Addr) {
	name := ""
	if a.do != doDuplicate && a.do != doTell {
		name = w.c.Uplinks[a.uplink].Name
	}
	switch a.do {
	case doUse:
		if w.c.Tunnel != nil {
			w.c.Tunnel.Use(name)
		}
	case doDuplicate:
		if a.on {
			w.metrics.doubts.Inc()
			w.look() // the kernel may tell of a lost carrier up to a second late
		}
		if w.c.Tunnel != nil {
			w.c.Tunnel.Duplicate(a.on)
		}
	case doPing:
		w.inner.send(w, hub)
		w.glance(a.uplink)
	case doAsk:
		w.round(ctx, a)
	case doWant:
		w.c.Bearers[name].Want(a.on)
	case doTell:
		w.tell(a.event)
	}
}

func (w *Watch) tell(e Event) {
	if e.Kind == Switched {
		w.metrics.switches.WithLabelValues(e.Uplink).Inc()
	}
	w.teller.add(e)
}

// complain takes what is wrong with rules, routes and filters, and tells what is new.
func (w *Watch) complain(list []string) {
	w.mu.Lock()
	before := w.trouble
	w.trouble = list
	w.mu.Unlock()
	for _, s := range list {
		if !slices.Contains(before, s) {
			w.tell(Event{At: time.Now(), Kind: Trouble, Reason: s})
		}
	}
}

// Bearer takes a change of an uplink's bearer.
func (w *Watch) Bearer(uplink string, b BearerState) {
	if i := w.index(uplink); i >= 0 {
		w.mu.Lock()
		w.bearers[i] = b
		w.mu.Unlock()
		w.names[i].servers(b.DNS)
		w.look()
	}
}

func (w *Watch) index(uplink string) int {
	return slices.IndexFunc(w.c.Uplinks, func(u Uplink) bool { return u.Name == uplink })
}
