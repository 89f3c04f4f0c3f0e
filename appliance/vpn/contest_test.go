package vpn

import (
	"slices"
	"testing"
	"time"
)

// play lets a contest go on each second, with hubs that live when alive says so, and returns
// which hub was in use at each second. As of WireGuard, a hub that is not called is no peer, and as a new one it has
// shaken no hands; when it did is by the wall clock, which is set back while the first hub is missed.
func play(hubs, seconds int, metered bool, alive func(hub, second int) bool) (used []int, calls []int) {
	c := contest{hubs: hubs, best: -1}
	began := time.Now()
	shook := make([]time.Time, hubs)
	var asked time.Time
	calls = make([]int, hubs)
	for i := range seconds {
		now := began.Add(time.Duration(i) * time.Second)
		wall := now.Round(0)
		if i >= 23 {
			wall = wall.Add(-time.Hour)
		}
		called := c.called()
		var peers []peerState
		for h := range hubs {
			if !slices.Contains(called, h) {
				shook[h] = time.Time{}
				continue
			}
			calls[h]++
			if alive(h, i) {
				shook[h] = wall
			}
			if h == c.using && alive(h, i) {
				asked = time.Time{}
			} else if h == c.using && asked.IsZero() {
				asked = now
			}
			p := peerState{Hub: h, Handshake: shook[h]}
			if h == c.using {
				p.Asked = asked
			}
			peers = append(peers, p)
		}
		before := c.using
		c.step(now, peers, metered)
		if c.using != before {
			asked = time.Time{}
		}
		used = append(used, c.using)
	}
	return used, calls
}

func TestContest(t *testing.T) {
	for name, c := range map[string]struct {
		hubs, seconds int
		metered       bool
		alive         func(hub, second int) bool
		want          map[int]int // second → hub
	}{
		"one hub that is dead stays": {1, 100, false, func(int, int) bool { return false }, map[int]int{99: 0}},
		"all are well":               {3, 600, false, func(int, int) bool { return true }, map[int]int{0: 0, 599: 0}},
		"a short silence is none":    {2, 100, false, func(h, s int) bool { return h != 0 || s < 10 || s > 20 }, map[int]int{40: 0, 99: 0}},
		"the next one that lives":    {3, 100, false, func(h, s int) bool { return h == 2 || h == 0 && s < 10 }, map[int]int{28: 0, 32: 2, 99: 2}},
		"the first of those that do": {3, 100, false, func(h, s int) bool { return h > 0 || s < 10 }, map[int]int{32: 1, 99: 1}},
		"all dead, then the third":   {3, 300, false, func(h, s int) bool { return h == 2 && s > 200 }, map[int]int{199: 0, 210: 2}},
		"back after three calls":     {2, 400, false, func(h, s int) bool { return h == 1 || s > 100 }, map[int]int{100: 1, 200: 1, 399: 0}},
		"one that flaps is no home":  {2, 900, false, func(h, s int) bool { return h == 1 || s > 100 && s%140 < 70 }, map[int]int{100: 1, 899: 1}},
		"seldom where it costs":      {2, 1700, true, func(h, s int) bool { return h == 1 || s > 30 }, map[int]int{1000: 1, 1699: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			used, _ := play(c.hubs, c.seconds, c.metered, c.alive)
			for second, hub := range c.want {
				if used[second] != hub {
					t.Errorf("after %d s hub %d is used, want %d: %v", second, used[second], hub, slices.Compact(used))
				}
			}
		})
	}
}

// A hub that is not needed is not called.
func TestContestCalls(t *testing.T) {
	_, calls := play(2, 1000, false, func(int, int) bool { return true })
	if calls[1] != 0 {
		t.Errorf("the second hub was called in %d seconds", calls[1])
	}
	_, calls = play(2, 3600, true, func(h, _ int) bool { return h == 1 })
	if calls[0] > 40+6*11 {
		t.Errorf("the dead hub was called in %d seconds of an hour, by an uplink where it costs", calls[0])
	}
}
