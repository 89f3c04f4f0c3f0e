package link

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A WAN that dies without a word: what the admin sees is bounded, and the tunnel goes by both
// uplinks only until the machine has made up its mind.
func TestSilentCut(t *testing.T) {
	for _, busy := range []bool{false, true} {
		worst := time.Duration(0)
		for n := range 20 {
			s := newSite(t, nil)
			s.run(5*time.Second + time.Duration(n)*2500*time.Microsecond)
			s.want("wan")
			s.chatty = busy
			s.chat()
			s.run(500 * time.Millisecond)
			s.ups[0].dark = true
			cut := s.now
			s.gap, s.answers = 0, s.now
			if !busy { // the admin returns just then
				s.chatty = true
				s.chat()
			}
			s.run(time.Second)
			s.want("lte")
			if s.dup || s.m.phase != steady {
				t.Errorf("a second after the cut the tunnel still goes by all uplinks:\n%s", s.story())
			}
			if d := s.m.switched.Sub(cut); d > 400*time.Millisecond {
				t.Errorf("switched after %v", d)
			}
			worst = max(worst, s.gap)
		}
		t.Logf("busy %v: longest gap %v", busy, worst)
		if worst > 95*time.Millisecond {
			t.Errorf("busy %v: longest gap %v", busy, worst)
		}
	}
}

// Packets get out by the WAN, and nothing comes back: while they go by both, the hub answers into the void.
func TestOneWay(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].oneWay = true
	s.run(4 * time.Second)
	s.want("lte")
	if s.m.phase != steady {
		t.Errorf("not settled:\n%s", s.story())
	}
	s.run(10 * time.Minute)
	if n := len(s.switches()); n != 2 {
		t.Errorf("%d switches\n%s", n, s.story())
	}
}

// A send by the WAN fails at once, and the tunnel's socket goes by LTE unasked: the hub answers all the
// time, but not by the WAN.
func TestRefused(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].refuses = true
	s.run(time.Second)
	s.want("lte")
}

func TestCarrier(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].unplugged = true
	s.links()
	s.step()
	s.want("lte")
	if e := s.switches()[1]; !strings.Contains(e.Reason, "wan is absent") {
		t.Errorf("reason %q", e.Reason)
	}
	s.run(time.Second)
	if s.m.phase != steady {
		t.Errorf("not settled:\n%s", s.story())
	}
}

// An address that is gone for the moment of a DHCP renewal is no failure; for longer it is.
func TestAddressGone(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].unrouted = true
	s.links()
	s.run(900 * time.Millisecond)
	s.ups[0].unrouted = false
	s.links()
	s.run(time.Minute)
	s.want("wan")
	s.ups[0].unrouted = true
	s.links()
	s.run(grace + time.Millisecond)
	s.want("lte")
}

// The hold counts from the last switch, and doubles with each return that does not last.
func TestHold(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	for n, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		want *= time.Minute
		s.ups[0].dark = true
		s.run(time.Second)
		s.want("lte")
		s.ups[0].dark = false
		s.run(want - 5*time.Second)
		s.want("lte")
		s.run(15 * time.Second)
		s.want("wan")
		_ = n
		s.run(30 * time.Second)
	}
	s.run(2 * time.Hour) // a return that lasts forgives
	s.ups[0].dark = true
	s.run(time.Second)
	s.ups[0].dark = false
	s.run(time.Minute + 10*time.Second)
	s.want("wan")
}

// A WAN that flaps is left alone once there were too many switches, until the first of them is an hour ago.
func TestLimit(t *testing.T) {
	s := newSite(t, func(c *Config) { c.MaxSwitches, c.Failback = 6, time.Second })
	for s.clock() < 3*time.Hour {
		s.run(10 * time.Second)
		s.m.level = 0 // without the growing hold
		s.ups[0].dark = s.active() == "wan"
	}
	list := s.switches()[1:] // not the start
	for i := range list {
		if n := i - 6; n >= 0 && list[i].At.Sub(list[n].At) < time.Hour {
			t.Fatalf("7 switches within %v, with a limit of 6\n%s", list[i].At.Sub(list[n].At), s.story())
		}
	}
	if len(list) < 12 {
		t.Errorf("only %d switches in three hours: it is never used again\n%s", len(list), s.story())
	}
}

// One bad second in the hold begins it anew.
func TestHoldWithoutBreak(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].unplugged = true
	s.links()
	s.run(time.Second)
	s.ups[0].unplugged = false
	s.links()
	s.run(55 * time.Second)
	s.ups[0].dark = true
	s.run(1500 * time.Millisecond)
	s.ups[0].dark = false
	s.run(50 * time.Second)
	s.want("lte")
	s.run(30 * time.Second)
	s.want("wan")
}

// The way back loses nothing: packets go by both until the hub was heard by the wire.
func TestFailback(t *testing.T) {
	for _, wan := range []time.Duration{time.Millisecond, 40 * time.Millisecond} { // quicker and slower than LTE
		s := newSite(t, nil)
		s.ups[0].latency = wan
		s.run(5 * time.Second)
		s.ups[0].dark = true
		s.run(2 * time.Second)
		s.ups[0].dark = false
		s.chatty = true
		s.chat()
		s.run(50 * time.Second)
		s.want("lte")
		s.gap = 0
		s.run(30 * time.Second)
		s.want("wan")
		if s.gap > 2*wan+20*time.Millisecond || s.m.phase != steady {
			t.Errorf("latency %v: gap %v on the way back, phase %s\n%s", wan, s.gap, s.m.phase, s.story())
		}
		if n := len(s.switches()); n != 3 {
			t.Errorf("latency %v: %d switches\n%s", wan, n, s.story())
		}
	}
}

// A WAN that is slower than LTE is not condemned for that: the hub answers by the path of the first
// copy while packets go by both.
func TestSlowWire(t *testing.T) {
	s := newSite(t, nil)
	s.ups[0].latency, s.ups[1].latency = 60*time.Millisecond, 5*time.Millisecond
	s.run(5 * time.Second)
	if s.active() != "wan" { // at the start nothing is known of either
		s.run(2 * time.Minute)
	}
	s.want("wan")
	before := len(s.switches())
	for range 20 {
		s.ups[0].filtered = true // a hiccup that loses some probes
		s.run(150 * time.Millisecond)
		s.ups[0].filtered = false
		s.run(10 * time.Second)
	}
	s.want("wan")
	if n := len(s.switches()) - before; n > 0 {
		t.Errorf("%d switches for hiccups\n%s", n, s.story())
	}
}

// Where the Internet is there and the tunnel does not pass, the tunnel decides.
func TestFilteredTunnel(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].filtered = true
	s.run(3 * time.Second)
	s.want("lte")
	s.run(3 * time.Hour)
	s.want("lte")
	if n := len(s.switches()); n > 2*14 {
		t.Errorf("%d switches in three hours\n%s", n, s.story())
	}
}

// A hub that is down is no fault of the uplinks.
func TestHubDown(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.deaf = true
	copies := s.copies
	s.run(24 * time.Hour)
	s.want("wan")
	if n := len(s.switches()); n != 1 {
		t.Errorf("%d switches while the hub was down\n%s", n, s.story())
	}
	if n := s.copies - copies; n > 2500 {
		t.Errorf("%d packets by LTE in a day without a hub", n)
	}
	s.deaf = false
	s.run(3 * time.Second)
	if s.m.phase != steady || !s.m.muted.IsZero() {
		t.Errorf("the hub is back and nobody noticed\n%s", s.story())
	}
	var said []string
	for _, e := range s.events {
		if e.Kind == Hub {
			said = append(said, e.Reason)
		}
	}
	if len(said) != 2 {
		t.Errorf("said of the hub: %q", said)
	}
	// While it is down, a dead uplink is still found and left.
	s.deaf = true
	s.run(time.Minute)
	s.ups[0].dark = true
	s.run(10 * time.Second)
	s.want("lte")
}

// The WAN has Internet but does not let the tunnel pass, and LTE comes back later: it is found.
func TestTrial(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].filtered, s.ups[1].dark = true, true
	s.run(time.Hour)
	s.want("wan")
	s.ups[1].dark = false
	s.run(maxTrials + time.Minute)
	s.want("lte")
}

// The WAN is dead, and LTE has Internet that leads to no hub. When the WAN is back the box waits for nothing: where it is
// nobody reaches it.
func TestBackFromNowhere(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].dark, s.ups[1].filtered = true, true
	s.run(3 * time.Hour)
	if s.m.muted.IsZero() {
		t.Fatalf("the hub answers\n%s", s.story())
	}
	s.ups[0].dark = false
	s.run(20 * time.Second)
	s.want("wan")
	if s.m.phase != steady {
		t.Errorf("it is %s\n%s", s.m.phase, s.story())
	}
	if h := s.m.ups[1].health; h != Alive {
		t.Errorf("LTE, whose probes were answered all the time, is %s", h)
	}
	s.run(2 * time.Minute)
	s.ups[0].dark = true // for a moment
	s.run(time.Second)
	s.want("lte")
	s.ups[0].dark = false
	s.run(15 * time.Second)
	s.want("wan")
}

func TestAllDead(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.ups[0].dark, s.ups[1].dark = true, true
	s.run(time.Hour)
	if n := len(s.switches()); n > 4 {
		t.Errorf("%d switches while all was dead\n%s", n, s.story())
	}
	s.ups[1].dark = false
	s.run(time.Minute)
	s.want("lte")
	s.ups[0].dark = false
	s.run(90 * time.Second)
	s.want("wan")
}

func dormant(c *Config) {
	c.Mode = Dormant
	c.Bearers = map[string]Bearer{"lte": idle{}}
}

func TestDormant(t *testing.T) {
	s := newSite(t, dormant)
	s.run(10 * time.Minute)
	s.want("wan")
	if s.m.ups[1].wanted {
		t.Fatal("LTE is called while the wire works")
	}
	s.ups[0].dark = true
	s.run(4 * time.Second)
	if !s.m.ups[1].wanted {
		t.Fatalf("LTE is not called\n%s", s.story())
	}
	s.run(6 * time.Second)
	s.want("lte")
	s.ups[0].dark = false
	s.run(50 * time.Second)
	if !s.m.ups[1].wanted {
		t.Error("LTE is let go before the hold is over")
	}
	s.run(2 * time.Minute)
	s.want("wan")
	if s.m.ups[1].wanted {
		t.Error("LTE is not let go")
	}
	s.m.woken = s.now.Add(time.Minute) // somebody asks
	s.run(10 * time.Second)
	if !s.m.ups[1].wanted || !s.ups[1].up {
		t.Error("LTE is not called when asked for")
	}
	s.run(time.Minute)
	if s.m.ups[1].wanted {
		t.Error("LTE is not let go after it was asked for")
	}
}

// Mode lte-only prefers LTE, and uses the wire rather than nothing.
func TestLTEOnly(t *testing.T) {
	s := newSite(t, func(c *Config) { c.Mode = LTEOnly })
	s.run(5 * time.Second)
	s.want("lte")
	s.ups[1].dark = true
	s.run(time.Minute)
	s.want("wan")
	s.ups[1].dark = false
	s.run(5 * time.Minute)
	s.want("lte")
	s.m.set(Standby)
	s.run(10 * time.Second)
	s.want("wan")
}

func TestOrdered(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.m.fail(0, time.Time{})
	s.step()
	s.want("lte")
	s.run(time.Hour)
	s.want("lte")
	s.ups[1].unplugged = true // better a failed one than none
	s.links()
	s.run(time.Second)
	s.want("wan")
	s.ups[1].unplugged = false
	s.links()
	s.run(10 * time.Second)
	s.want("lte")
	s.m.restore(0, s.now)
	s.run(5 * time.Second)
	s.want("wan")
}

// A failure for a time ends by itself, with whoever ordered it far away.
func TestOrderedForATime(t *testing.T) {
	s := newSite(t, nil)
	s.run(5 * time.Second)
	s.m.fail(0, s.now.Add(time.Hour))
	s.step()
	s.want("lte")
	s.run(59 * time.Minute)
	s.want("lte")
	s.run(time.Minute + 5*time.Second)
	s.want("wan")
	s.m.fail(0, s.now.Add(time.Hour)) // the newest word counts
	s.m.fail(0, time.Time{})
	s.run(2 * time.Hour)
	s.want("lte")
}

// Without a tunnel, or with one whose hub has no address to ping, the uplinks' own probes decide.
func TestNoTunnel(t *testing.T) {
	s := newSite(t, nil)
	s.m.tunnel = false
	s.run(5 * time.Second)
	s.want("wan")
	s.ups[0].dark = true
	s.run(5 * time.Second)
	s.want("lte")
	s.ups[0].dark = false
	s.run(70 * time.Second)
	s.want("wan")
	if s.dup || s.pings > 0 {
		t.Error("a tunnel that is not there was asked")
	}
}

// A tunnel that cannot tell by which uplink it hears, nor go by all of them, such as the kernel's: the
// uplinks' own probes say which one is dead.
func TestNumbTunnel(t *testing.T) {
	s := newSite(t, nil)
	s.numb = true
	s.run(time.Minute)
	s.want("wan")
	if n := len(s.switches()); n != 1 {
		t.Fatalf("%d switches while all was well\n%s", n, s.story())
	}
	s.ups[0].dark = true
	s.run(1500 * time.Millisecond)
	s.want("lte")
	s.ups[0].dark = false
	s.run(75 * time.Second)
	s.want("wan")
	if n := len(s.switches()); n != 3 || s.m.phase != steady {
		t.Errorf("%d switches\n%s", n, s.story())
	}
}

// Where all is well it costs little: nothing on LTE but a round now and then, and on a busy
// wire no probes at all.
func TestCost(t *testing.T) {
	s := newSite(t, nil)
	s.run(time.Minute)
	s.pings, s.rounds, s.copies = 0, make([]int, 2), 0
	s.run(time.Hour)
	if s.copies > 0 || s.rounds[1] > 7 {
		t.Errorf("an idle hour took %d copies and %d rounds on LTE", s.copies, s.rounds[1])
	}
	if s.pings > 72100 || s.pings < 60000 {
		t.Errorf("%d pings on the wire in an hour", s.pings)
	}
	s.chatty = true
	s.chat()
	s.run(time.Second)
	s.pings = 0
	s.run(time.Minute)
	if s.pings > 10 {
		t.Errorf("%d pings in a minute of traffic", s.pings)
	}
}

// Whatever happens in whatever order: once it is over, the best uplink that works is active, the
// tunnel goes by it alone and the hub is heard; and on the way no two switches that nothing forced
// follow each other at once, and the limit holds.
func TestAnyOrder(t *testing.T) {
	seeds := uint64(80)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { anyOrder(t, seed) })
	}
}

func anyOrder(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 6))
	c := Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0", Interval: 200 * time.Millisecond}, {Name: "lte", Device: "lte0", Metered: true}}}
	if r.IntN(3) == 0 {
		c.Uplinks = append(c.Uplinks, Uplink{Name: "lte2", Device: "lte1", Metered: true})
	}
	if r.IntN(3) == 0 {
		dormant(&c)
	}
	s := newSite(t, func(to *Config) { *to = c })
	s.chatty = r.IntN(4) == 0
	restarts := map[int]bool{}
	for range 5 + r.IntN(40) {
		s.run(time.Duration(r.ExpFloat64() * float64(5*time.Second) * float64(r.IntN(10))))
		u := &s.ups[r.IntN(len(s.ups))]
		switch r.IntN(10) {
		case 8:
			u.oneWay = !u.oneWay
		case 9:
			u.refuses = !u.refuses
		case 0:
			u.unplugged = !u.unplugged
		case 1, 2, 3:
			u.dark = !u.dark
		case 4:
			u.filtered = !u.filtered
		case 5:
			u.unrouted = !u.unrouted
		case 6:
			s.deaf = !s.deaf
		case 7:
			if r.IntN(4) == 0 {
				s.restart(c)
				restarts[len(s.switches())] = true
			}
			u.latency = time.Duration(1+r.IntN(80)) * time.Millisecond
		}
		s.links()
	}
	checkSwitches(t, s, restarts)
	best := ""
	for i := range s.ups { // in the end all is well, or one uplink works
		u := &s.ups[i]
		*u = simulated{latency: u.latency, dialling: u.dialling, up: u.up}
		if i < len(s.ups)-1 && r.IntN(2) == 0 {
			u.dark = true
			continue
		}
		if best == "" {
			best = s.m.ups[i].Name
		}
	}
	s.deaf = false
	s.links()
	s.run(90 * time.Minute) // the longest hold, and a full budget of switches
	s.want(best)
	if s.dup || s.m.phase != steady || !s.m.muted.IsZero() {
		t.Errorf("not at rest:\n%s", s.story())
	}
}

func checkSwitches(t *testing.T, s *site, restarts map[int]bool) {
	t.Helper()
	list := s.switches()
	var unforced []time.Time
	for i := 1; i < len(list); i++ {
		if strings.Contains(list[i].Reason, "is absent") || restarts[i] {
			continue
		}
		if d := list[i].At.Sub(list[i-1].At); d < dwell {
			t.Errorf("two switches within %v\n%s", d, s.story())
		}
		unforced = append(unforced, list[i].At)
		if n := len(unforced) - 12 - 60; n > 0 && unforced[len(unforced)-1].Sub(unforced[n-1]) < time.Hour {
			t.Errorf("%d switches in an hour\n%s", 12+60, s.story())
		}
	}
}
