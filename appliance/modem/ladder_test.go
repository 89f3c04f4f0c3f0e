package modem

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// climbing runs a ladder on a modem whose fault ends when cure is done (and the modem took its time to come back),
// for a while, and returns what was done at which minute.
type climbing struct {
	t        *testing.T
	l        *ladder
	fault    fault
	cure     string
	takes    time.Duration // from the cure to soundness
	broken   string        // a rung that cannot be done
	done     []string
	at       []time.Duration
	soundAt  time.Time
	start    time.Time
	duration time.Duration // of each action
}

func (c *climbing) run(d time.Duration) {
	c.start = time.Now()
	for end := c.start.Add(d); time.Now().Before(end); {
		f := c.fault
		if !c.soundAt.IsZero() && !time.Now().Before(c.soundAt) {
			f = sound
		}
		do, _ := c.l.see(time.Now(), f)
		if do == "" {
			time.Sleep(time.Second)
			continue
		}
		c.done, c.at = append(c.done, do), append(c.at, time.Since(c.start))
		time.Sleep(c.duration)
		var err error
		if do == c.broken {
			err = errors.New("not allowed")
		}
		c.l.acted(time.Now(), err)
		if do == c.cure {
			c.soundAt = time.Now().Add(c.takes)
		}
	}
}

func TestLadderOrder(t *testing.T) {
	for _, test := range []struct {
		fault fault
		want  []string
	}{
		{noData, []string{"attach", "attach", "bearer", "bearer", "radio", "restart", "usb", "usb", "power", "power", "reboot"}},
		{noNetwork, []string{"attach", "attach", "radio", "restart", "usb", "usb", "power", "power", "reboot"}},
		{silent, []string{"bearer", "bearer", "radio", "restart"}},
		{lame, []string{"usb", "usb", "power", "power"}},
		{mute, []string{"usb", "usb", "power", "power", "reboot"}},
		{gone, []string{"power", "power", "reboot"}},
		{noSIM, []string{"radio", "restart", "usb", "usb", "power", "power"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := climbing{t: t, l: newLadder(rungs, &climbs{}), fault: test.fault}
			c.run(patience[test.fault] + 45*time.Minute)
			if got := c.done[:min(len(c.done), len(test.want))]; !slices.Equal(got, test.want) {
				t.Errorf("%s: done %q, want %q", test.fault, c.done, test.want)
			}
			if c.at[0] < patience[test.fault] {
				t.Errorf("%s: the first rung came after %s", test.fault, c.at[0])
			}
		})
	}
}

func TestLadderWaitsAfterTheAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Each action takes longer than its wait: a wait measured from its beginning would be over before it ends.
		c := climbing{t: t, l: newLadder(rungs, &climbs{}), fault: noNetwork, duration: 10 * time.Minute}
		c.run(2 * time.Hour)
		for i := 1; i < len(c.at); i++ {
			r := rungs[slices.IndexFunc(rungs, func(r rung) bool { return r.name == c.done[i-1] })]
			if between := c.at[i] - c.at[i-1]; between < c.duration+r.wait {
				t.Errorf("%s came %s after the beginning of %s, want %s at least", c.done[i], between, c.done[i-1], c.duration+r.wait)
			}
		}
	})
}

func TestLadderRemembersWhatHelped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := &climbs{}
		c := climbing{t: t, l: newLadder(rungs, memory), fault: noData, cure: "restart", takes: time.Minute}
		c.run(time.Hour)
		if last := c.done[len(c.done)-1]; last != "restart" || memory.Helped[noData] != "restart" {
			t.Fatalf("done %q, remembered %v", c.done, memory.Helped)
		}
		// A new daemon with the same memory, the same fault: what helped comes first.
		c = climbing{t: t, l: newLadder(rungs, memory), fault: noData, cure: "restart", takes: time.Minute}
		c.run(time.Hour)
		if !slices.Equal(c.done, []string{"restart"}) {
			t.Errorf("the second time it did %q", c.done)
		}
		// This time it does not help: the ladder is climbed from its foot.
		c = climbing{t: t, l: newLadder(rungs, memory), fault: noData, cure: "bearer", takes: time.Minute}
		c.run(time.Hour)
		if !slices.Equal(c.done, []string{"restart", "attach", "attach", "bearer"}) {
			t.Errorf("the third time it did %q", c.done)
		}
		if memory.Helped[noData] != "bearer" {
			t.Errorf("remembered %v", memory.Helped)
		}
	})
}

func TestLadderPowerFirstOnlyIfTrusted(t *testing.T) {
	memory := &climbs{Helped: map[fault]string{mute: "power"}, Count: map[string]*rungRecord{"power": {Tried: 4, Helped: 2}}}
	for helped, want := range map[int]string{2: "usb", 3: "power"} {
		memory.Count["power"].Helped = helped
		l := newLadder(rungs, memory)
		l.begin(time.Now(), mute)
		if r := l.next(time.Now()); r.name != want {
			t.Errorf("power helped %d of 4 times: first comes %s, want %s", helped, r.name, want)
		}
	}
	memory = &climbs{Helped: map[fault]string{mute: "reboot"}, Count: map[string]*rungRecord{"reboot": {Tried: 4, Helped: 4}}}
	l := newLadder(rungs, memory)
	l.begin(time.Now(), mute)
	if r := l.next(time.Now()); r.name != "usb" {
		t.Errorf("a reboot that always helped comes first: %s", r.name)
	}
}

func TestLadderRestsLongerEachRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := climbing{t: t, l: newLadder([]rung{rungs[5]}, &climbs{}), fault: gone} // power only
		c.run(24 * time.Hour)
		var pauses []time.Duration
		for i := 2; i < len(c.at); i += 2 {
			pauses = append(pauses, (c.at[i] - c.at[i-1]).Round(time.Minute))
		}
		want := []time.Duration{20 * time.Minute, 35 * time.Minute, 65 * time.Minute, 125 * time.Minute, 245 * time.Minute, 365 * time.Minute}
		if len(pauses) < len(want) || !slices.Equal(pauses[:len(want)], want) {
			t.Errorf("pauses between the rounds: %s, want %s", pauses, want)
		}
	})
}

func TestLadderReboots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := &climbs{}
		reboots := 0
		for range 8 { // each reboot is a new ladder with the old memory
			c := climbing{t: t, l: newLadder(rungs, memory), fault: gone}
			c.run(3 * time.Hour)
			for _, do := range c.done {
				if do == "reboot" {
					reboots++
				}
			}
		}
		if reboots != 2 {
			t.Errorf("%d reboots in 24 hours, want one each 12 hours", reboots)
		}
	})
}

func TestLadderFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLadder(rungs, &climbs{})
		var done []string
		begin := time.Now()
		// The modem is sound for a minute after each remedy, and then fails again: no remedy is believed, the climb goes on.
		var cured time.Time
		for time.Since(begin) < 40*time.Minute {
			f := noNetwork
			if time.Since(cured) < time.Minute {
				f = sound
			}
			if do, _ := l.see(time.Now(), f); do != "" {
				done = append(done, do)
				l.acted(time.Now(), nil)
				cured = time.Now()
			}
			time.Sleep(time.Second)
		}
		if !slices.Contains(done, "power") || len(l.memory.Helped) != 0 {
			t.Errorf("done %q, believed %v", done, l.memory.Helped)
		}
	})
}

func TestLadderSkipsWhatCannotBeDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := climbing{t: t, l: newLadder(rungs, &climbs{}), fault: mute, broken: "usb", cure: "power", takes: time.Minute}
		c.run(30 * time.Minute)
		if !slices.Equal(c.done, []string{"usb", "power"}) {
			t.Fatalf("done %q", c.done)
		}
		if between := c.at[1] - c.at[0]; between > 2*time.Second {
			t.Errorf("%s were waited for what could not be done", between)
		}
	})
}

func TestLadderHealsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLadder(rungs, &climbs{})
		if do, again := l.see(time.Now(), gone); do != "" || !again.Equal(time.Now().Add(patience[gone])) {
			t.Fatalf("at once: %q, again at %s", do, again)
		}
		time.Sleep(time.Minute)
		if do, again := l.see(time.Now(), sound); do != "" || !again.IsZero() || l.state != well {
			t.Errorf("a fault that healed by itself: %q, again at %s, state %d", do, again, l.state)
		}
	})
}

func TestLadderAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newLadder(rungs, &climbs{})
		if do := all.asked(time.Now(), sound, ""); do != "restart" {
			t.Errorf("nothing is wrong: %s", do)
		}
		all.acted(time.Now(), nil)
		for range 300 {
			all.see(time.Now(), sound)
			time.Sleep(time.Second)
		}
		if all.state != well || len(all.memory.Helped) != 0 {
			t.Errorf("state %d, remembered %v", all.state, all.memory.Helped)
		}
		for _, want := range []string{"usb", "usb", "power", "power", "restart"} {
			if do := all.asked(time.Now(), mute, ""); do != want {
				t.Errorf("mute: %s, want %s", do, want)
			}
			all.acted(time.Now(), nil)
		}
		if do := all.asked(time.Now(), mute, "reboot"); do != "reboot" {
			t.Errorf("by name: %s", do)
		}
		onlyPower := newLadder([]rung{rungs[5]}, &climbs{})
		if do := onlyPower.asked(time.Now(), sound, ""); do != "power" {
			t.Errorf("only power: %s", do)
		}
	})
}
