package vpn

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// aimed plays the kernel's WireGuard with one peer, second by second: it calls each 5 s where it is aimed, while nothing
// is answered.
type aimed struct {
	aim
	now    time.Time
	uplink int
	kernel netip.AddrPort // where it sends
	asked  time.Time
	idle   bool // nobody sends anything
}

func (k *aimed) told(to netip.AddrPort) {
	if to.IsValid() {
		k.kernel = to
	}
}

func (k *aimed) run(d time.Duration, list []netip.AddrPort, alive ...netip.AddrPort) {
	for i := range int(d / time.Second) {
		k.now = k.now.Add(time.Second)
		heard := !k.idle && i%5 == 0 && slices.Contains(alive, k.kernel)
		if heard {
			k.asked = time.Time{}
		} else if !k.idle && i%5 == 0 && k.asked.IsZero() {
			k.asked = k.now
		}
		k.saw(k.now, k.uplink, k.kernel, heard, k.asked)
		k.told(k.next(k.now, list))
	}
}

// at fails the test where the kernel sends to another address.
func (k *aimed) is(t *testing.T, want netip.AddrPort, what string) {
	t.Helper()
	if k.kernel != want || k.aim.at != want {
		t.Fatalf("%s: it is aimed at %v (kernel: %v), want %v", what, k.aim.at, k.kernel, want)
	}
}

// The kernel's engine goes through a hub's addresses while none answers, and leaves a session that lives alone.
func TestAim(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("192.0.2.2:51820"), netip.MustParseAddrPort("192.0.2.3:51820")
	six := netip.MustParseAddrPort("[2001:db8::1]:51820")
	list := []netip.AddrPort{a, b, c}
	begin := func() *aimed {
		k := &aimed{now: time.Now()}
		k.told(k.next(k.now, list))
		k.is(t, a, "the first one first")
		return k
	}
	t.Run("the first that answers", func(t *testing.T) {
		k := begin()
		k.run(30*time.Second, list, c)
		k.is(t, c, "after half a minute")
		k.run(time.Hour, list, c, a)
		k.is(t, c, "while it answers")
		k.run(time.Minute, list, a)
		k.is(t, a, "when it is dead")
	})
	t.Run("all are called in turn", func(t *testing.T) {
		k, seen := begin(), map[netip.AddrPort]int{}
		for range 60 {
			k.run(time.Second, list)
			seen[k.kernel]++
		}
		if seen[a] < 12 || seen[b] < 12 || seen[c] < 12 {
			t.Errorf("in a minute each was called so many seconds: %v", seen)
		}
	})
	t.Run("a name that leads elsewhere", func(t *testing.T) {
		k := begin()
		k.run(time.Minute, list, a)
		k.run(time.Hour, []netip.AddrPort{b, c}, a, b)
		k.is(t, a, "a session that lives")
		k.run(30*time.Second, []netip.AddrPort{b, c}, b)
		k.is(t, b, "when it is dead")
	})
	t.Run("a hub that roamed", func(t *testing.T) {
		k := begin()
		k.run(time.Minute, list, a)
		k.kernel = six
		k.run(time.Hour, list, six)
		k.is(t, six, "while it answers there")
	})
	t.Run("a tunnel that nobody uses", func(t *testing.T) {
		k := begin()
		k.run(30*time.Second, list, b)
		k.run(time.Second, list, b)
		k.idle = true
		k.run(time.Hour, list)
		k.is(t, b, "nothing is asked")
	})
	t.Run("another uplink", func(t *testing.T) {
		k := begin()
		k.run(time.Minute, list, b)
		k.is(t, b, "by the first uplink")
		use := func(uplink int, list []netip.AddrPort) {
			k.uplink = uplink
			k.told(k.move(k.now, uplink, list))
		}
		use(1, []netip.AddrPort{c, b})
		k.is(t, b, "one that it reaches too")
		use(1, []netip.AddrPort{six})
		k.is(t, six, "one that it reaches only so")
		k.run(time.Minute, []netip.AddrPort{six}, six)
		use(0, list)
		k.is(t, b, "where it was heard by it")
	})
}

// What the kernel is told of a hub is what was decided, and nothing of one whose session lives.
func TestKernelPeer(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:51820"), netip.MustParseAddrPort("192.0.2.2:51820")
	k := &kernel{aims: map[key]*aim{}}
	p := peer{PublicKey: key{1}, Endpoints: [][]netip.AddrPort{nil, {a, b}}}
	if c := k.peerConfig(p); c.Endpoint == nil || c.Endpoint.AddrPort() != a {
		t.Errorf("a new hub is at %v", c.Endpoint)
	}
	k.aims[p.PublicKey].saw(time.Now(), 0, a, true, time.Time{})
	p.Endpoints = [][]netip.AddrPort{{b}}
	if c := k.peerConfig(p); c.Endpoint != nil {
		t.Errorf("a hub that lives moves to %v", c.Endpoint)
	}
}
