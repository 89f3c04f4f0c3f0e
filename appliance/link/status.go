package link

import (
	"slices"
	"time"
)

// Status says how everything is.
func (w *Watch) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.statusLocked(time.Now())
}

func (w *Watch) statusLocked(now time.Time) Status {
	m := w.m
	s := Status{Mode: m.mode, Active: m.name(m.active), Since: m.switched, Reason: m.reason, Phase: string(m.phase),
		Silent: m.muted, Switches: len(m.recent), Trouble: slices.Clone(w.trouble), LastDrill: w.drill}
	if m.active >= 0 {
		s.RTT = m.ups[m.active].rtt.mean
		s.Failback, s.Capped = w.failback(now)
	}
	for i := range m.ups {
		u, at := &m.ups[i], w.sights[i]
		h := m.healthOf(i, now)
		one := UplinkStatus{Name: u.Name, Device: at.device, Metered: u.Metered, Health: h, Reason: m.because(i, h), Since: u.turned,
			Heard: later(u.heard, u.proved), Wanted: u.wanted, Gateway: at.v4.gateway, Addresses: slices.Clone(at.addresses),
			RTT: u.took.mean, Monthly: monthly(u.Uplink, w.probes(u.Uplink, at), i == m.active && m.tunnel), Targets: slices.Clone(w.targets[i])}
		if u.failed {
			one.Until = u.until
		}
		if !one.Gateway.IsValid() {
			one.Gateway = at.v6.gateway
		}
		s.Uplinks = append(s.Uplinks, one)
	}
	return s
}

// failback is when the box goes back to a better uplink, if one is alive, and whether it is left alone
// because there were too many switches.
func (w *Watch) failback(now time.Time) (time.Time, bool) {
	m := w.m
	for _, i := range m.pref[:m.place(m.active)] {
		if m.rank(i, now) == works {
			return m.failbackAt(i), m.capped(now) && !m.ups[i].eager
		}
	}
	return time.Time{}, false
}

const month = 30 * 24 * time.Hour

// monthly is what an uplink's probes cost in 30 days, there and back, in bytes at the level of IP,
// if it stays as it is: active, with nothing else that flows, or standing by.
func monthly(u Uplink, probes []Probe, active bool) int64 {
	if active {
		return int64(month/u.Interval) * 216 // a ping inside WireGuard (facts/link.md)
	}
	var round int64
	for _, p := range probes {
		round += volume[p.Kind]
	}
	return int64(month/u.Check) * round
}

// volume is what one probe costs: IP and what is in it, there and back.
var volume = map[Kind]int64{
	ICMP: 2 * (20 + lenEcho),
	DNS:  2*(20+8+12) + 2*(38+4) + 64, // the answer names the zone's SOA
	TCP:  5 * 60,
	HTTP: 10*60 + 400,
}
