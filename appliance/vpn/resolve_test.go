package vpn

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func ports(list ...string) (all []netip.AddrPort) {
	for _, s := range list {
		all = append(all, netip.MustParseAddrPort(s))
	}
	return all
}

// A hub is called where an uplink can reach it: its own families, through NAT64, by the names
// that it or another uplink resolved, now or in an earlier life.
func TestEndpoints(t *testing.T) {
	cfg := plain(t)
	cfg.CacheFile = filepath.Join(t.TempDir(), "cache")
	cfg.Uplinks = []Uplink{{Name: "wan"}, {Name: "lte"}}
	cfg.Hubs[0].Endpoints = []string{"192.0.2.1:51820", "hub.example:443"}
	b, err := newBook(cfg)
	ok(t, err)
	four, six := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	b.known["wan"] = map[string][]netip.Addr{"hub.example": {four, six}}
	b.reaches(1, reach{v6: true})
	got := b.endpoints(0)
	if want := ports("192.0.2.1:51820", "192.0.2.7:443", "[2001:db8::7]:443"); !slices.Equal(got[0], want) {
		t.Errorf("by wan %v", got[0])
	}
	if want := ports("[2001:db8::7]:443"); !slices.Equal(got[1], want) {
		t.Errorf("by lte %v", got[1])
	}
	if !slices.Contains(b.hosts(1), wellKnown) || slices.Contains(b.hosts(0), wellKnown) {
		t.Errorf("asks for %v by wan, %v by lte", b.hosts(0), b.hosts(1))
	}
	b.known["lte"] = map[string][]netip.Addr{wellKnown: {netip.MustParseAddr("64:ff9b::c000:aa")}}
	if want := ports("[64:ff9b::c000:201]:51820", "[2001:db8::7]:443"); !slices.Equal(b.endpoints(0)[1], want) {
		t.Errorf("by lte %v", b.endpoints(0)[1])
	}
	writeTo(t, cfg.CacheFile, `{"wan":{"hub.example":["192.0.2.9"]}}`)
	if b, err = newBook(cfg); err != nil || !slices.Contains(b.endpoints(0)[1], netip.MustParseAddrPort("192.0.2.9:443")) {
		t.Errorf("%v, %v", b.endpoints(0), err)
	}
	writeTo(t, cfg.CacheFile, "\x00")
	if _, err := newBook(cfg); err != nil {
		t.Error("a cache that makes no sense keeps the box away:", err)
	}
}

// An address that does not answer gives way to the next one, but not at each kick; where the
// hub answered from stays in use until its addresses change.
func TestPath(t *testing.T) {
	b := newBind(setup{Uplinks: []Uplink{{Name: "wan"}, {Name: "lte", Metered: true}}, Hubs: 1}, 1)
	h, now := b.hubs[0], b.now()
	p := h.paths[0]
	list := ports("192.0.2.1:1", "192.0.2.2:2")
	p.set(list)
	for i := range 3 {
		if !p.call(b.ways[0], h, now, true) || p.current() != list[0] {
			t.Errorf("kick %d goes to %v", i, p.current())
		}
	}
	p.called -= int64(2 * patience)
	if p.call(b.ways[0], h, now, true); p.current() != list[1] {
		t.Errorf("after silence %v", p.current())
	}
	away := netip.MustParseAddrPort("198.51.100.1:9")
	e := &endpoint{way: 0, addr: away}
	h.follow(e)
	if p.set(list); p.current() != away {
		t.Errorf("it answered from %v, and is called at %v", away, p.current())
	}
	p.set(list[:1])
	if h.follow(e); p.current() != list[0] {
		t.Errorf("it moved, and is called at %v", p.current())
	}
	// Where each byte costs, an uplink that is not in use calls twice a minute.
	lte := h.paths[1]
	lte.set(list)
	calls := 0
	for range int(5 * time.Minute / (5 * time.Second)) {
		if lte.call(b.ways[1], h, now, false) {
			calls++
		}
		lte.called -= int64(5 * time.Second)
	}
	if calls < 8 || calls > 11 {
		t.Errorf("%d calls in five minutes", calls)
	}
}
