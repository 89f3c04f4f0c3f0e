package vpn

import (
	"testing"
	"time"
)

// What leaves by a dead uplink does not arrive; after Use it goes by the other one at once,
// and the hub follows without being asked.
func TestUse(t *testing.T) {
	s := newSite(t, 1, nil)
	s.Echo(t)
	s.start()
	s.reached(20 * time.Second)
	stop, err := s.hubs[0].Meter(5 * time.Millisecond)
	ok(t, err)
	time.Sleep(500 * time.Millisecond)
	ok(t, s.Silence("wan"))
	time.Sleep(300 * time.Millisecond)
	s.tunnel.Use("lte")
	time.Sleep(700 * time.Millisecond)
	ok(t, s.Mend("wan"))
	s.tunnel.Use("wan")
	time.Sleep(500 * time.Millisecond)
	r, err := stop()
	ok(t, err)
	g := r.Gap(r.Sent[0])
	t.Logf("longest gap %v, lost %d of %d; %+v", g.Long(), r.Lost(), len(r.Sent), s.tunnel.Status())
	if g.Never || g.Long() < 250*time.Millisecond || g.Long() > 900*time.Millisecond {
		t.Errorf("the gap is %+v", g)
	}
}
