package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// round asks all targets of an uplink at once, beside the loop.
func (w *Watch) round(ctx context.Context, a action) {
	w.mu.Lock()
	u, s := w.c.Uplinks[a.uplink], w.sights[a.uplink]
	excuse := len(u.Probes) == 0 && !w.pinged && w.m.phase == steady && w.m.tunnel
	w.mu.Unlock()
	by := path{device: s.device, v4: s.v4.ok, v6: s.v6.ok, names: w.names[a.uplink],
		beside: func(f func(context.Context)) { w.rounds.Go(func() { f(ctx) }) }}
	probes := w.probes(u, s)
	w.metrics.rounds.WithLabelValues(u.Name).Inc()
	w.rounds.Go(func() {
		began := time.Now()
		ctx, stop := context.WithTimeout(ctx, a.within)
		defer stop()
		err := w.askAll(ctx, a.uplink, by, probes, u.Need)
		if err != nil && excuse {
			err = nil // this hub answers no ping outside; the tunnel says that it is there
		}
		w.mu.Lock()
		w.m.round(a.uplink, a.epoch, time.Now(), time.Since(began), err)
		w.mu.Unlock()
		w.nudge()
	})
}

// mostHubs is how many of the hubs' addresses a round asks, of each family: their names may lead to more than anybody can try.
const mostHubs = 4

// probes are an uplink's own, or else the hubs by ping, or else its router.
func (w *Watch) probes(u Uplink, s sight) (list []Probe) {
	if len(u.Probes) > 0 {
		return u.Probes
	}
	ping := func(a netip.Addr, ok bool) {
		if ok && a.IsValid() {
			list = append(list, Probe{Kind: ICMP, Host: a.String()})
		}
	}
	if w.c.Hubs != nil {
		asked := map[bool]int{}
		for _, a := range w.c.Hubs() {
			if asked[a.Is4()]++; asked[a.Is4()] <= mostHubs {
				ping(a, a.Is4() && s.v4.ok || a.Is6() && s.v6.ok)
			}
		}
	}
	if len(list) == 0 {
		ping(s.v4.gateway, s.v4.ok)
		ping(s.v6.gateway.WithZone(s.device), s.v6.ok && s.v6.gateway.IsValid())
	}
	return list
}

// askAll asks all probes and ends when need of them were answered, or cannot be any more. Where there is
// nothing to ask, or nothing that can say anything, the device itself must do.
func (w *Watch) askAll(ctx context.Context, uplink int, by path, probes []Probe, need int) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	results := make(chan error, len(probes))
	for i, p := range probes {
		w.rounds.Go(func() { // ends with ctx; results holds all
			began := time.Now()
			err := w.askOne(ctx, uplink, by, p)
			if ctx.Err() == nil || err == nil {
				w.note(uplink, i, len(probes), TargetStatus{Probe: p.String(), Err: text(err), RTT: time.Since(began), At: began})
			}
			results <- err
		})
	}
	var errs []error
	able, good := len(probes), 0
	for range probes {
		switch err := <-results; {
		case errors.Is(err, errAbstain):
			able--
		case err != nil:
			errs = append(errs, err)
		default:
			good++
		}
		if good >= need {
			return nil
		}
	}
	if good >= min(need, able) {
		return nil
	}
	return joined(errs)
}

func (w *Watch) askOne(ctx context.Context, uplink int, by path, p Probe) error {
	if p.Kind == Handshake {
		return w.handshake(uplink)
	}
	err := w.world.ask(ctx, by, p)
	if err == nil && p.Kind == ICMP && len(w.c.Uplinks[uplink].Probes) == 0 {
		w.mu.Lock()
		w.pinged = true
		w.mu.Unlock()
	}
	return err
}

// lively is the age of a handshake beyond which WireGuard's session is dead (REJECT_AFTER_TIME).
const lively = 180 * time.Second

// handshake is good while the tunnel's session lives, of the uplink that the tunnel uses.
func (w *Watch) handshake(uplink int) error {
	if w.c.Tunnel == nil {
		return errAbstain
	}
	w.mu.Lock()
	active := w.m.active == uplink
	w.mu.Unlock()
	if time.Since(w.c.Tunnel.Heard(w.c.Uplinks[uplink].Name)) < lively {
		return nil
	}
	if !active {
		return errAbstain
	}
	if age := time.Since(w.c.Tunnel.Handshake()); age > lively {
		return fmt.Errorf("the tunnel's last handshake is %v old", age.Round(time.Second))
	}
	return nil
}

// note keeps a target's last answer for the status.
func (w *Watch) note(uplink, target, of int, s TargetStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.targets[uplink]) != of {
		w.targets[uplink] = make([]TargetStatus, of)
	}
	w.targets[uplink][target] = s
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// joined is the errors in one line.
func joined(errs []error) error {
	if len(errs) == 0 {
		return errSilent
	}
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}
