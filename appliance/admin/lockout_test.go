package admin

import (
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/appliance/admin/api"
)

// The waits grow, a right token ends them, and other addresses do not notice.
func TestLockout(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	synctest.Test(t, func(t *testing.T) {
		good, bad := token[api.Viewer], token[api.Viewer]+"x"
		code := func(token string) int { return ask(h, "GET", "/v1/whoami", token, "").Code }
		for range freeFailures {
			if got := code(bad); got != http.StatusUnauthorized {
				t.Fatalf("free failure: %d", got)
			}
		}
		if got := code(good); got != http.StatusOK {
			t.Fatalf("after the free ones: %d", got)
		}
		for range freeFailures + 1 {
			code(bad)
		}
		for _, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			w := ask(h, "GET", "/v1/whoami", good, "")
			if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != strconv.Itoa(int(wait.Seconds())) {
				t.Fatalf("locked: %d, Retry-After %q, want %s", w.Code, w.Header().Get("Retry-After"), wait)
			}
			if p := problemIn(t, w); p.Code != "locked_out" || p.Hint == "" {
				t.Errorf("problem %+v does not explain itself", p)
			}
			time.Sleep(wait)
			code(bad)
		}
		time.Sleep(8 * time.Second)
		if got := code(good); got != http.StatusOK {
			t.Errorf("after the wait: %d", got)
		}
		if got := code(bad); got != http.StatusUnauthorized {
			t.Errorf("the right token did not end it: %d", got)
		}
	})
}

func TestLockoutBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lockout
		victim := netip.MustParseAddr("192.0.2.1")
		for range 100 {
			l.failed(victim, time.Now())
		}
		if got := l.locked(victim, time.Now()); got != maxLock {
			t.Errorf("after 100 failures locked for %s", got)
		}
		if got := l.locked(netip.MustParseAddr("192.0.2.2"), time.Now()); got != 0 {
			t.Errorf("the neighbour is locked for %s", got)
		}
		if got := l.locked(netip.MustParseAddr("::ffff:192.0.2.1"), time.Now()); got != maxLock {
			t.Errorf("the same address written another way is locked for %s", got)
		}
		time.Sleep(forgetAfter + time.Minute)
		if got := l.failed(victim, time.Now()); got != 0 {
			t.Errorf("after an hour the first failure locks for %s", got)
		}
		for i := range 3 * maxAddresses {
			l.failed(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), time.Now())
		}
		if len(l.byAddr) > maxAddresses {
			t.Errorf("%d addresses are remembered", len(l.byAddr))
		}
		// A host takes any address of its IPv6 network: they count as one.
		for i := range freeFailures + 1 {
			l.failed(netip.MustParseAddr("2001:db8::"+strconv.Itoa(i)), time.Now())
		}
		if l.locked(netip.MustParseAddr("2001:db8::99"), time.Now()) == 0 {
			t.Error("another address of the IPv6 network is not locked")
		}
	})
}
