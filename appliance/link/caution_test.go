package link

import (
	"testing"
	"time"
)

// What LTE carries while it stands by is bounded, whatever the wire is like; and a wire that dies is left soon all
// the same. The bytes are those of IP, there and back.
func TestStandbyVolume(t *testing.T) {
	const (
		kick = 20 + 8 + 32      // a keepalive of WireGuard, as doubt begins with one
		ping = 20 + 8 + 32 + 48 // an echo request inside
		echo = 2 * (20 + lenEcho)
	)
	for _, c := range []struct {
		name string
		loss float64
		most float64       // MB in 30 days
		left time.Duration // after a silent cut
	}{
		{"clean", 0, 1, 95 * time.Millisecond},
		{"one of a thousand is lost", 0.0005, 5, 190 * time.Millisecond},
		{"one of a hundred", 0.005, 5, 190 * time.Millisecond},
		{"three of a hundred", 0.015, 5, 220 * time.Millisecond},
		{"one of ten", 0.05, 5, 250 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, nil)
			s.run(5 * time.Second)
			s.ups[0].loss = c.loss
			s.copies, s.doubts, s.rounds = 0, 0, make([]int, 2)
			const hours = 6
			s.run(hours * time.Hour)
			s.want("wan")
			// At worst each copy is answered by LTE.
			bytes := s.doubts*kick + s.copies*2*ping + s.rounds[1]*echo
			month := float64(bytes) / hours * 24 * 30 / 1e6
			t.Logf("%.1f MB in 30 days: %d doubts, %d copies, %d rounds; caution %d", month, s.doubts, s.copies, s.rounds[1], s.m.caution(s.now))
			if month > c.most {
				t.Errorf("%.1f MB in 30 days, want at most %.1f", month, c.most)
			}
			s.ups[0].dark = true
			s.chatty = true
			s.chat()
			s.gap, s.answers = 0, s.now
			s.run(2 * time.Second)
			s.want("lte")
			t.Logf("longest gap %v", s.gap)
			if s.gap > c.left {
				t.Errorf("the admin saw a gap of %v, want at most %v", s.gap, c.left)
			}
		})
	}
}

// Once the wire does what it should, it is doubted at once again.
func TestCautionEnds(t *testing.T) {
	s := newSite(t, nil)
	s.ups[0].loss = 0.05
	s.run(10 * time.Minute)
	if s.m.caution(s.now) == 0 {
		t.Error("a wire that loses one of ten is doubted without caution")
	}
	s.ups[0].loss = 0
	s.run(2 * time.Hour)
	if n := s.m.caution(s.now); n != 0 {
		t.Errorf("after two hours without fault %d probes are repeated", n)
	}
}

// Where nothing costs, there is no caution.
func TestNoCaution(t *testing.T) {
	s := newSite(t, func(c *Config) { c.Uplinks[1].Metered = false })
	s.ups[0].loss = 0.05
	s.run(10 * time.Minute)
	if n := s.m.caution(s.now); n != 0 || s.doubts < 100 {
		t.Errorf("%d probes are repeated, %d doubts", n, s.doubts)
	}
}

// An LTE that died while it stood by is known to be dead before it is needed.
func TestStandbyDies(t *testing.T) {
	s := newSite(t, nil)
	s.run(time.Minute)
	s.ups[1].dark = true
	s.run(11 * time.Minute)
	if h := s.m.healthOf(1, s.now); h != Dead {
		t.Errorf("LTE is %s\n%s", h, s.story())
	}
}
