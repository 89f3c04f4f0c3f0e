package vpn

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
)

const (
	externalEvery = 2 * time.Second
	// A unit that is down is started after graceTime, since it may be starting by itself, and
	// again after ever longer pauses.
	graceTime   = 10 * time.Second
	firstPause  = 30 * time.Second
	lastPause   = 10 * time.Minute
	unitTimeout = 90 * time.Second // as systemd's own DefaultTimeoutStartSec
)

// external is somebody else's VPN as seen last.
type external struct {
	up      bool
	reason  string
	address netip.Prefix
	index   int       // of the interface that is counted; 0: none was there
	heard   time.Time // when its counter of received bytes was last seen to move; zero: never
	rx, tx  uint64
	unit    string // what became of starting it
}

func (e external) status(cfg Config) Status {
	s := Status{Kind: "external", Interface: cfg.External, Address: e.address, Up: e.up, Reason: e.reason, Handshake: e.heard, Rx: e.rx, Tx: e.tx}
	if e.reason == "" && !e.up {
		s.Reason = "it was not looked at yet"
	}
	if e.unit != "" {
		s.Notes = append(s.Notes, e.unit)
	}
	return s
}

// watchExternal looks after somebody else's VPN: it reports its interface, and starts its
// unit while it is down. Whatever is wrong with it is a state, and no failure of this part.
func (t *Tunnel) watchExternal(ctx context.Context, ready func()) error {
	starter := &starter{unit: t.cfg.Unit, start: startUnit, pause: firstPause}
	links, err := watchLinks()
	if err != nil {
		return err
	}
	defer links.close()
	ticker := time.NewTicker(externalEvery)
	defer ticker.Stop()
	t.lookExternal(ctx, starter)
	ready()
	for {
		select {
		case <-ctx.Done():
			starter.wg.Wait()
			return nil
		case <-links.changed:
		case <-ticker.C:
		}
		t.lookExternal(ctx, starter)
	}
}

func (t *Tunnel) lookExternal(ctx context.Context, s *starter) {
	t.mu.Lock()
	before := t.seen.external
	t.mu.Unlock()
	now := seeExternal(t.cfg.External, before, time.Now())
	now.unit = s.step(ctx, time.Now(), now.up)
	t.mu.Lock()
	t.seen.external = now
	t.mu.Unlock()
	if now.up != before.up || !now.up && now.reason != before.reason {
		t.log.Info("somebody else's VPN", zap.String("interface", t.cfg.External), zap.Bool("up", now.up), zap.String("reason", now.reason))
	}
}

// seeExternal looks at an interface. One that is up and has an address counts as up; whether
// anybody is at its other end, only its traffic shows.
func seeExternal(name string, before external, now time.Time) external {
	e := external{heard: before.heard}
	link, err := netlink.LinkByName(name)
	if err != nil {
		e.reason = fmt.Sprintf("there is no interface %s", name)
		return e
	}
	a := link.Attrs()
	if a.Statistics != nil {
		e.index, e.rx, e.tx = a.Index, a.Statistics.RxBytes, a.Statistics.TxBytes
		if e.index == before.index && e.rx > before.rx { // else it may all be from long ago
			e.heard = now
		}
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	for _, addr := range addrs {
		if p, ok := netip.AddrFromSlice(addr.IP); ok && !p.Unmap().IsLinkLocalUnicast() && !e.address.IsValid() {
			bits, _ := addr.Mask.Size()
			e.address = netip.PrefixFrom(p.Unmap(), bits)
		}
	}
	switch {
	case a.Flags&net.FlagUp == 0:
		e.reason = fmt.Sprintf("interface %s is down", name)
	case a.RawFlags&iffLowerUp == 0 && a.OperState == netlink.OperDown:
		e.reason = fmt.Sprintf("interface %s has no carrier: its program does not run", name)
	case err == nil && !e.address.IsValid():
		e.reason = fmt.Sprintf("interface %s has no address", name)
	default:
		e.up = true
	}
	return e
}

const iffLowerUp = 0x10000 // netdevice(7)

// starter starts a unit while what it brings is down.
//
//	up ──down──▸ waits graceTime ──▸ starts, waits a pause that doubles ──▸ starts …
//	 ▴                                                                      │
//	 └──────────────────────────────up──────────────────────────────────────┘
type starter struct {
	unit  string
	start func(ctx context.Context, unit string) error

	down  time.Time // since when; zero: up
	next  time.Time
	pause time.Duration
	done  chan error // of a start that goes on; nil: none
	wg    sync.WaitGroup
	said  string
}

// step goes on with the time, and says what became of the last start.
func (s *starter) step(ctx context.Context, now time.Time, up bool) string {
	select {
	case err := <-s.done:
		s.done, s.said = nil, ""
		if err != nil {
			s.said = err.Error()
		}
	default:
	}
	switch {
	case up:
		s.down, s.pause = time.Time{}, firstPause
	case s.down.IsZero():
		s.down, s.next = now, now.Add(graceTime)
	case s.unit != "" && s.done == nil && !now.Before(s.next):
		s.done = make(chan error, 1)
		s.next, s.pause = now.Add(s.pause), min(2*s.pause, lastPause)
		done := s.done
		s.wg.Go(func() { done <- s.start(ctx, s.unit) })
	}
	return s.said
}

// startUnit has systemd start a unit, and waits for its word.
func startUnit(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	c, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("start %s: speak to systemd: %w", unit, err)
	}
	defer c.Close()
	result := make(chan string, 1)
	if _, err := c.StartUnitContext(ctx, unit, "replace", result); err != nil {
		return fmt.Errorf("start %s: %w: the daemon's user needs a polkit rule for org.freedesktop.systemd1.manage-units", unit, err)
	}
	select {
	case how := <-result:
		if how != "done" {
			return fmt.Errorf("start %s: systemd says %q: see journalctl -u %s", unit, how, unit)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("start %s: %w", unit, ctx.Err())
	}
}
