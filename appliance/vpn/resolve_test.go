package vpn

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/dns/dnsmessage"
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
	b, err := newBook(cfg, zap.NewNop())
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
	if why := b.outOfReach(0, 1); why != "" {
		t.Errorf("the hub's name has an IPv6 address, and yet it is out of reach: %s", why)
	}
	b.hubs[0] = b.hubs[0][:1]
	if why := b.outOfReach(0, 1); !strings.Contains(why, "IPv6 only") || b.outOfReach(0, 0) != "" {
		t.Errorf("a hub with IPv4 only by lte: %q; by wan: %q", why, b.outOfReach(0, 0))
	}
	b.hubs[0] = append(b.hubs[0], place{host: "hub.example", port: 443})
	b.known["lte"] = map[string][]netip.Addr{wellKnown: {netip.MustParseAddr("64:ff9b::c000:aa")}}
	if want := ports("[64:ff9b::c000:201]:51820", "[2001:db8::7]:443"); !slices.Equal(b.endpoints(0)[1], want) {
		t.Errorf("by lte %v", b.endpoints(0)[1])
	}
	writeTo(t, cfg.CacheFile, `{"wan":{"hub.example":["192.0.2.9"]}}`)
	if b, err = newBook(cfg, zap.NewNop()); err != nil || !slices.Contains(b.endpoints(0)[1], netip.MustParseAddrPort("192.0.2.9:443")) {
		t.Errorf("%v, %v", b.endpoints(0), err)
	}
}

// The first question by an uplink that has just come up may be lost, since its address is not yet whole: where
// each byte costs, too, the next comes soon, and only then ever more rarely, until the uplink is another one.
func TestUnknownNameIsAskedForAgain(t *testing.T) {
	cfg := plain(t)
	cfg.Uplinks = []Uplink{{Name: "lte", Metered: true}}
	b, err := newBook(cfg, zap.NewNop())
	ok(t, err)
	meanwhile := func() {}
	b.dial = func(string) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			meanwhile()
			return nil, errors.New("not yet")
		}
	}
	waits := func(n int) (list []time.Duration) {
		for range n {
			b.ask(t.Context(), 0, "lte0", wellKnown)
			list = append(list, b.left(0, wellKnown).Round(askUnknown))
		}
		return list
	}
	const s = time.Second
	if got, want := waits(7), []time.Duration{10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s, 300 * s}; !slices.Equal(got, want) {
		t.Errorf("asked again after %v, want %v", got, want)
	}
	if b.again(0); b.left(0, wellKnown) > 0 {
		t.Error("another uplink is not asked at once")
	}
	if got := waits(1); got[0] != 10*s {
		t.Errorf("by another uplink again after %v", got)
	}
	meanwhile = func() { b.again(0) }
	if b.ask(t.Context(), 0, "lte0", wellKnown); b.left(0, wellKnown) > 0 {
		t.Error("an uplink that became another one while it was asked is not asked at once")
	}
}

// A memory that is damaged is as none: nothing of it keeps the box away, and what makes no sense is not taken over.
func TestDamagedCache(t *testing.T) {
	many := `{"wan":{"hub.example":[`
	for i := range 20000 {
		many += fmt.Sprintf("%q,", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	many += `"192.0.2.9"]}}`
	for name, c := range map[string]struct {
		text string
		want int // addresses
	}{
		"zeros": {"\x00\x00", 0}, "empty": {"", 0}, "null": {"null", 0}, "null inside": {`{"wan":null}`, 0}, "another version": {`{"version":2}`, 0},
		"cut off": {`{"wan":{"hub.example":["192.0.2.9"`, 0}, "of the wrong kind": {`{"wan":{"hub.example":"192.0.2.9"}}`, 0},
		"no addresses":  {`{"wan":{"hub.example":["","0.0.0.0","127.0.0.1","224.0.0.1","fe80::1%wan0","::ffff:192.0.2.1","255.255.255.255","10.99.0.7"]}}`, 0},
		"others' names": {`{"dsl":{"hub.example":["192.0.2.9"]},"wan":{"other.example":["192.0.2.9"]}}`, 0},
		"too many":      {many, mostSaid / 2}, "endless": {strings.Repeat(" ", 1<<20) + many, 0}, "good": {`{"wan":{"hub.example":["192.0.2.9"]}}`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := plain(t)
			cfg.CacheFile = filepath.Join(t.TempDir(), "cache")
			cfg.Hubs[0].Endpoints = []string{"hub.example:443"}
			writeTo(t, cfg.CacheFile, c.text)
			tunnel, err := New(cfg, zap.NewNop())
			ok(t, err)
			b := tunnel.book
			if got := b.endpoints(0)[0]; len(got) != c.want {
				t.Errorf("%d addresses: %v", len(got), got[:min(len(got), 10)])
			}
			b.dial = nameServer(t, func(dnsmessage.Question) []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.77")} })
			if !b.ask(t.Context(), 0, "wan0", "hub.example") || !slices.Contains(b.endpoints(0)[0], netip.MustParseAddrPort("192.0.2.77:443")) {
				t.Errorf("what is asked then is not kept: %v", b.endpoints(0))
			}
		})
	}
	cfg := plain(t)
	cfg.CacheFile = t.TempDir()
	_, err := New(cfg, zap.NewNop())
	ok(t, err) // it cannot be read at all
}

// nameServer is a way to one that answers with what f says; nil is garbage.
func nameServer(t *testing.T, f func(dnsmessage.Question) []netip.Addr) func(string) func(context.Context, string, string) (net.Conn, error) {
	return func(string) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe() // which is spoken to as over TCP
			go func() {
				defer theirs.Close()
				var size [2]byte
				if _, err := io.ReadFull(theirs, size[:]); err != nil {
					return
				}
				question := make([]byte, binary.BigEndian.Uint16(size[:]))
				_, _ = io.ReadFull(theirs, question)
				answer := reply(t, question, f)
				_, _ = theirs.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}()
			return ours, nil
		}
	}
}

func reply(t *testing.T, question []byte, f func(dnsmessage.Question) []netip.Addr) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		t.Error(err)
		return nil
	}
	list := f(m.Questions[0])
	if list == nil {
		return bytes.Repeat([]byte{0xc0}, 700)
	}
	m.Header.Response, m.Additionals = true, nil
	for _, a := range list {
		h := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 1}
		switch {
		case a.Is4() && m.Questions[0].Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && m.Questions[0].Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

// What a name server says is believed as far as it can be true, and where a hub was heard from is never forgotten for
// it, over a restart neither.
func TestNameServerLies(t *testing.T) {
	cfg := plain(t)
	cfg.CacheFile = filepath.Join(t.TempDir(), "cache")
	cfg.Hubs[0].Endpoints = []string{"hub.example:443"}
	lan := netip.MustParsePrefix("192.168.77.0/24")
	start := func() *book {
		tunnel, err := New(cfg, zap.NewNop())
		ok(t, err)
		tunnel.book.own = func() []netip.Prefix { return append(tunnel.own(), lan) }
		return tunnel.book
	}
	b := start()
	var says []netip.Addr
	b.dial = nameServer(t, func(dnsmessage.Question) []netip.Addr { return says })
	ask := func(what string, list ...string) []netip.AddrPort {
		t.Helper()
		says = nil
		for _, a := range list {
			says = append(says, netip.MustParseAddr(a))
		}
		b.ask(t.Context(), 0, "wan0", "hub.example")
		got := b.endpoints(0)[0]
		if len(got) > mostSaid+mostHeard {
			t.Errorf("%s: %d addresses", what, len(got))
		}
		return got
	}
	hub := netip.MustParseAddrPort("192.0.2.7:443")
	if got := ask("the truth", "192.0.2.7"); !slices.Equal(got, []netip.AddrPort{hub}) {
		t.Fatalf("%v", got)
	}
	for what, lie := range map[string][]string{
		"the box": {"127.0.0.1", "::1"}, "nowhere": {"0.0.0.0", "::", "0.1.2.3", "255.255.255.255", "240.0.0.1"}, "all": {"224.0.0.1", "ff02::1"},
		"a neighbour": {"169.254.1.1", "fe80::1"}, "the tunnel": {"10.99.0.2", "10.99.0.1"}, "the LAN": {"192.168.77.1", "192.168.77.21"}, "garbage": nil,
	} {
		if got := ask(what, lie...); !slices.Equal(got, []netip.AddrPort{hub}) {
			t.Errorf("%s: %v", what, got)
		}
	}
	b.heardAt(0, hub)
	b.heardAt(0, netip.MustParseAddrPort("192.0.2.99:443")) // where its name never led: the hub has several addresses
	var many []string
	for i := range 4000 {
		many = append(many, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String())
	}
	for name, lie := range map[string][]string{"a portal": {"198.51.100.9"}, "very many": many} {
		if got := ask(name, lie...); !slices.Contains(got, hub) || got[0] == hub {
			t.Errorf("%s: %v", name, got)
		}
	}
	for i := range 10 { // a hub that moves all the time
		at := netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + i)})
		ask("it moves", at.String())
		b.heardAt(0, netip.AddrPortFrom(at, 443))
	}
	last := netip.MustParseAddrPort("203.0.113.10:443")
	if got := ask("a portal", "198.51.100.9"); len(got) != 1+mostHeard || got[1] != last {
		t.Errorf("%v", got)
	}
	b.save(writeFile)
	b = start()
	if got := b.endpoints(0)[0]; len(got) != 1+mostHeard || got[1] != last {
		t.Errorf("after a restart %v", got)
	}
}

// Where a hub is heard from by each of many uplinks is kept once, and not written again and again.
func TestManyUplinksHear(t *testing.T) {
	cfg := plain(t)
	cfg.CacheFile = filepath.Join(t.TempDir(), "cache")
	cfg.Hubs[0].Endpoints = []string{"hub.example:443"}
	cfg.Uplinks = nil
	var at []netip.AddrPort
	for i := range 10 {
		cfg.Uplinks = append(cfg.Uplinks, Uplink{Name: fmt.Sprint("u", i), Device: "wan0"})
		at = append(at, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}), 443))
	}
	tunnel, err := New(cfg, zap.NewNop())
	ok(t, err)
	b := tunnel.book
	for i := range at {
		b.dial = nameServer(t, func(dnsmessage.Question) []netip.Addr { return []netip.Addr{at[i].Addr()} })
		b.ask(t.Context(), i, "wan0", "hub.example")
	}
	hear := func() bool {
		for _, a := range at {
			b.heardAt(0, a)
		}
		select {
		case <-b.unsaved:
			return true
		default:
			return false
		}
	}
	if !hear() || hear() {
		t.Error("the file is to be written when something new was heard, and only then")
	}
	if n := len(b.known[""]["hub.example"]); n != len(at) {
		t.Errorf("%d addresses are kept", n)
	}
}

// An address that does not answer gives way to the next one, but not at each kick; where the
// hub answered from stays in use until its addresses change.
func TestPath(t *testing.T) {
	b := newBind(setup{Uplinks: []Uplink{{Name: "wan"}, {Name: "lte", Metered: true}}, Hubs: 1}, 1)
	h, now := b.hubs[0], b.now()
	p := h.paths[0]
	list := ports("192.0.2.1:1", "192.0.2.2:2")
	p.set(list, false)
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
	if p.set(list, false); p.current() != away {
		t.Errorf("it answered from %v, and is called at %v", away, p.current())
	}
	if p.set(list[:1], true); p.current() != away {
		t.Errorf("it answers from %v, and is called at %v, where its name leads now", away, p.current())
	}
	p.set(list, true)
	p.set(list[:1], false)
	if h.follow(e); p.current() != list[0] {
		t.Errorf("it moved, and is called at %v", p.current())
	}
	// Where each byte costs, an uplink that is not in use calls twice a minute.
	lte := h.paths[1]
	lte.set(list, false)
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
