package vpn

import (
	"net/netip"
	"slices"
)

// Inner is the address inside of the hub in use, which answers ping, or the zero address.
func (t *Tunnel) Inner() netip.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cfg.External != "" {
		return netip.Addr{}
	}
	return t.cfg.Hubs[t.contest.using].Ping
}

// Outer are the addresses of the hubs as far as they are known, those of the one in use first.
func (t *Tunnel) Outer() (list []netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cfg.External != "" {
		return nil
	}
	for i := range t.cfg.Hubs {
		for _, addresses := range t.book.endpoints((t.contest.using + i) % len(t.cfg.Hubs)) {
			for _, a := range addresses {
				if !slices.Contains(list, a.Addr()) {
					list = append(list, a.Addr())
				}
			}
		}
	}
	return list
}
