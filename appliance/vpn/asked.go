package vpn

import (
	"net/netip"
	"slices"
)

// Inner is the address inside of the hub in use, which answers ping, or the zero address.
func (t *Tunnel) Inner() netip.Addr {
	if t.cfg.External != "" {
		return netip.Addr{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cfg.Hubs[t.contest.using].Ping
}

// Ports are those of ours that hubs send to: an uplink's guard lets them in.
func (t *Tunnel) Ports() (list []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.seen.ways {
		if w.Port != 0 && !slices.Contains(list, w.Port) {
			list = append(list, w.Port)
		}
	}
	slices.Sort(list)
	return list
}

// Outer are the addresses of the hubs as far as they are known, those of the one in use first.
func (t *Tunnel) Outer() (list []netip.Addr) {
	if t.cfg.External != "" {
		return nil
	}
	t.mu.Lock()
	using := t.contest.using
	t.mu.Unlock()
	for i := range t.cfg.Hubs {
		for _, addresses := range t.book.endpoints((using + i) % len(t.cfg.Hubs)) {
			for _, a := range addresses {
				if !slices.Contains(list, a.Addr()) {
					list = append(list, a.Addr())
				}
			}
		}
	}
	return list
}
