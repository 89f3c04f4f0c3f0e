package vpn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
)

const (
	lookEvery  = time.Second            // at the engine
	rightEvery = 10 * time.Second       // address, routes and packet filter are put right again
	respite    = 500 * time.Millisecond // after the news of a filter that somebody changed, before the next counts
)

// kicksAfter are those that follow a switch's first kick: the uplink may lose one.
var kicksAfter = []time.Duration{50 * time.Millisecond, 150 * time.Millisecond}

// Run has the tunnel up until ctx is done. An interface that vanishes or is taken down, a
// device that fails: each ends it with the reason, and running it again puts all right.
func (t *Tunnel) Run(ctx context.Context, ready func()) error {
	if t.cfg.External != "" {
		return t.watchExternal(ctx, ready)
	}
	ready = sync.OnceFunc(ready)
	clock := t.waitForClock(ctx, ready)
	if ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	links, err := watchLinks()
	if err != nil {
		return err
	}
	defer links.close()
	filter, err := watchFilter()
	if err != nil { // a kernel without nftables: that there is no filter is said elsewhere
		filter = &news{}
	} else {
		defer filter.close()
	}
	if err := t.start(); err != nil {
		return err
	}
	ready()
	var wg sync.WaitGroup
	wg.Go(func() { t.kickAgain(ctx) })
	wg.Go(func() { t.book.run(ctx, t.deviceOf, func() { tell(t.wake) }) })
	wg.Go(func() { t.keep(ctx, clock) })
	err = t.watch(ctx, links.changed, filter.changed, clock)
	cancel()
	wg.Wait()
	return errors.Join(err, t.end(clock))
}

// start brings engine, interface and packet filter up, over what a crash may have left.
func (t *Tunnel) start() error {
	create := newUserspace
	if t.cfg.Kernel {
		create = newKernel
	} else if err := clearLeftover(t.cfg.Interface); err != nil {
		return err
	}
	e, err := create(setup{Interface: t.cfg.Interface, MTU: t.cfg.MTU, ListenPort: t.cfg.ListenPort,
		PrivateKey: t.keys.private, Uplinks: t.cfg.Uplinks, Hubs: len(t.cfg.Hubs)}, t.log)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.engine = e
	t.contest = contest{hubs: len(t.cfg.Hubs), best: -1}
	t.steerLocked()
	t.mu.Unlock()
	t.tie()
	err = t.right()
	if err == nil {
		err = t.configure()
	}
	if err == nil {
		e.kick(0) // without a keepalive nobody else begins
	}
	if err != nil {
		t.mu.Lock()
		t.engine = nil
		t.mu.Unlock()
		return errors.Join(err, e.close(), t.unshare())
	}
	return nil
}

// end takes everything away again.
func (t *Tunnel) end(clock *clock) error {
	t.mu.Lock()
	e := t.engine
	t.engine = nil
	t.seen.peers, t.seen.ways = nil, nil
	t.mu.Unlock()
	return errors.Join(e.close(), t.unshare(), clock.save(t.write))
}

// lookAround notes which families each uplink's device reaches, and reports a change.
func (t *Tunnel) lookAround() (changed bool) {
	for i := range t.cfg.Uplinks {
		if device := t.deviceOf(i); device != "" && t.book.reaches(i, reachOf(device)) {
			t.book.again(i)
			changed = true
		}
	}
	return changed
}

// configure tells the engine which hubs there are, and where.
func (t *Tunnel) configure() error {
	t.lookAround()
	t.mu.Lock()
	using, called, e := t.contest.using, t.contest.called(), t.engine
	t.mu.Unlock()
	var peers []peer
	for _, i := range called {
		h := t.cfg.Hubs[i]
		p := peer{Hub: i, PublicKey: t.keys.hubs[i], PresharedKey: t.keys.preshared[i], Keepalive: h.Keepalive, Endpoints: t.book.endpoints(i)}
		if i == using {
			p.AllowedIPs = h.AllowedIPs
		} else if p.Keepalive == 0 {
			p.Keepalive = trialKeepalive // it is what makes WireGuard call
		}
		peers = append(peers, p)
	}
	return e.configure(peers)
}

// trialKeepalive calls a hub that is only tried, where the file has no keepalive for it.
const trialKeepalive = 25 * time.Second

// watch looks after the running tunnel.
func (t *Tunnel) watch(ctx context.Context, links, filter <-chan struct{}, clock *clock) (err error) {
	look, right := time.NewTicker(lookEvery), time.NewTicker(rightEvery)
	defer look.Stop()
	defer right.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for heard := (<-chan struct{})(nil); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-links:
			// An uplink's interface may have become another one under the same name; the tunnel's own must stay.
			t.tie()
			err = t.intact()
		case <-t.wake:
			if err = t.right(); err == nil {
				err = t.configure()
			}
		case <-right.C:
			err = t.right()
		case <-rest.C:
			heard = filter
		case <-heard:
			heard = nil
			rest.Reset(respite)
			err = t.right()
		case <-look.C:
			err = t.look(clock)
		}
		if err != nil {
			return err
		}
	}
}

// intact looks at the tunnel's interface as it is now: the news may be older.
func (t *Tunnel) intact() error {
	link, err := netlink.LinkByName(t.cfg.Interface)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return fmt.Errorf("the tunnel's interface %s was taken away", t.cfg.Interface)
	}
	if err == nil && link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("the tunnel's interface %s was taken down", t.cfg.Interface)
	}
	return nil
}

// look asks the engine how it is, and lets the contest of the hubs go on.
func (t *Tunnel) look(clock *clock) error {
	before, after, changed, err := t.judge(clock)
	if err != nil || !t.lookAround() && !changed {
		return err
	}
	if after != before {
		t.log.Warn("uses another hub", zap.String("hub", t.cfg.Hubs[after].Name), zap.String("before", t.cfg.Hubs[before].Name))
		err = t.right()
	}
	return errors.Join(err, t.configure())
}

// judge lets the contest go on, from one hub to another or to the same; changed is that the
// engine has to be told.
func (t *Tunnel) judge(clock *clock) (before, after int, changed bool, err error) {
	st, err := t.engine.state() // only Run, who is here, takes the engine away
	if err != nil {
		return 0, 0, false, err
	}
	t.tie() // a socket that could not be opened is tried again
	for _, p := range st.Peers {
		for _, from := range p.Heard {
			t.book.heardAt(p.Hub, from)
		}
	}
	clock.shook(st.Peers)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen.note(st)
	now := time.Now()
	t.seen.clock = clock.behind(now)
	t.book.doubt(t.contest.owed(now, st.Peers) > suspectAfter)
	before = t.contest.using
	changed = t.contest.step(now, st.Peers, t.cfg.Uplinks[t.wanted.Active].Metered)
	return before, t.contest.using, changed, nil
}

// keep writes down what is to outlive a restart, beside those who find it out: they must not wait for the disk.
func (t *Tunnel) keep(ctx context.Context, clock *clock) {
	for {
		select {
		case <-t.book.unsaved:
			t.book.save(t.write)
		case <-clock.unsaved:
			_ = clock.save(t.write) // a disk that takes nothing is told of by those who store more
		case <-ctx.Done(): // clock's is end's
			select {
			case <-t.book.unsaved:
				t.book.save(t.write)
			default:
			}
			return
		}
	}
}

// kickAgain sends the later kicks of a switch. A new switch begins them anew.
func (t *Tunnel) kickAgain(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.kicked:
		}
		for _, wait := range kicksAfter {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			t.mu.Lock()
			if t.engine != nil {
				t.engine.kick(t.contest.using)
			}
			t.mu.Unlock()
		}
	}
}

func (t *Tunnel) deviceOf(uplink int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.devices[uplink]
}
