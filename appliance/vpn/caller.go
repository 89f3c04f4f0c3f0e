package vpn

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// A hub may call us, from an address that we do not know: it moved, or has several. WireGuard finds out which hub it is
// and answers, but keeps the packet's own endpoint for it, which is an address by one uplink, and sends all by that
// one from then on, whatever becomes of it. So whoever was answered without being known is kept as a caller, until WireGuard is
// asked who that is.

// caller is one that called and was answered.
type caller struct {
	way   int
	addr  netip.AddrPort
	index uint32 // that we gave
}

// mostCallers is far more than there are hubs: each has proved to be one.
const mostCallers = 16

// callers are those that nobody asked about yet.
type callers struct {
	came chan struct{}

	mu   sync.Mutex
	list []caller
}

// answered notes a packet of ours for somebody unknown. One that is no response is told of as well: its answerer's
// endpoint is to be put right.
func (g *callers) answered(e *endpoint, m message) {
	if m.kind == response {
		g.mu.Lock()
		g.list = append(g.list, caller{e.way, e.addr, m.sender})
		g.list = g.list[max(0, len(g.list)-mostCallers):]
		g.mu.Unlock()
	}
	tell(g.came)
}

// take hands the callers out that came from an address.
func (g *callers) take(from string) (list []caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list = slices.DeleteFunc(g.list, func(one caller) bool {
		mine := one.addr.String() == from
		if mine {
			list = append(list, one)
		}
		return mine
	})
	return list
}

// greet asks WireGuard which hubs the callers are: their packets are the hub's then, and ours for it go by the uplink of
// the hour again.
func (u *userspace) greet() error {
	u.configuring.Lock()
	defer u.configuring.Unlock()
	text, err := u.dev.IpcGet()
	if err != nil {
		return fmt.Errorf("ask WireGuard who called: %w", err)
	}
	var change strings.Builder
	for _, p := range *u.peers.Load() {
		at := endpointOf(text, p.PublicKey)
		if at == "" || at == fmt.Sprint(p.Hub) {
			continue
		}
		h := u.bind.hubs[p.Hub]
		for _, g := range u.bind.callers.take(at) {
			h.give(g.index)
			h.paths[g.way].follow(g.addr)
		}
		fmt.Fprintf(&change, "public_key=%s\nupdate_only=true\nendpoint=%d\n", p.PublicKey.hex(), p.Hub)
	}
	if change.Len() == 0 {
		return nil
	}
	if err := u.dev.IpcSet(change.String()); err != nil {
		return fmt.Errorf("tell WireGuard which hub called: %w", err)
	}
	return nil
}

// endpointOf is what WireGuard says that a peer's endpoint is.
func endpointOf(text string, k key) string {
	_, after, _ := strings.Cut(text, "public_key="+k.hex()+"\n")
	mine, _, _ := strings.Cut(after, "public_key=")
	_, value, found := strings.Cut(mine, "\nendpoint=")
	if !found {
		return ""
	}
	at, _, _ := strings.Cut(value, "\n")
	return at
}
