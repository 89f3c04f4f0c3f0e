package tftp

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pacer is a client with a pace of its own: how long it takes for its n-th lap
// while so many of the field run.
type pacer struct {
	after time.Duration // it begins so late
	laps  int
	pace  func(n, running int) time.Duration
}

func steady(d time.Duration) func(int, int) time.Duration {
	return func(int, int) time.Duration { return d }
}

// race runs all clients in one field, and says how long each took.
func race(t *testing.T, clients ...pacer) (took []time.Duration) {
	t.Helper()
	took = make([]time.Duration, len(clients))
	synctest.Test(t, func(t *testing.T) {
		var f field
		var all sync.WaitGroup
		defer all.Wait()
		for i, c := range clients {
			all.Go(func() {
				time.Sleep(c.after)
				begin := time.Now()
				r := f.join()
				defer r.leave()
				for n := range pieces * c.laps {
					time.Sleep(c.pace(n/pieces, f.running()) / pieces)
					if err := r.pass(t.Context(), lapBytes/pieces); err != nil {
						t.Error(err)
					}
				}
				took[i] = time.Since(begin)
			})
		}
	})
	return took
}

// running is how many do not wait.
func (f *field) running() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.runners {
		if r.gate == nil {
			n++
		}
	}
	return n
}

const (
	ms     = time.Millisecond
	pieces = 8 // of a lap
)

// lucky has a processor for itself.
func lucky(int, int) time.Duration { return ms }

// Fifty share one processor, which likes some twice as much as others. Requests
// come one after another.
func TestSharesAreEqual(t *testing.T) {
	var clients []pacer
	for i := range 50 {
		share := ms * time.Duration(100+2*i) / 100
		clients = append(clients, pacer{after: time.Duration(i) * ms / 2, laps: 60,
			pace: func(_, running int) time.Duration { return share * time.Duration(running) }})
	}
	took := race(t, clients...)
	if spread := float64(slices.Max(took)) / float64(slices.Min(took)); spread > 1.2 {
		t.Errorf("the slowest took %.2f times as long as the quickest: %v", spread, took)
	}
}

func TestNobodyWaitsForThoseWhoAreSlowOfTheirOwn(t *testing.T) {
	for name, tc := range map[string]struct {
		other pacer
		most  time.Duration // for 1000 laps of a millisecond
	}{
		"alone":           {pacer{}, 1000 * ms},
		"slow":            {pacer{laps: 100, pace: steady(20 * ms)}, 1100 * ms},
		"very slow":       {pacer{laps: 10, pace: steady(400 * ms)}, 1300 * ms},
		"silent":          {pacer{laps: 1, pace: steady(time.Hour)}, 1000 * ms},
		"falls silent":    {pacer{laps: 20, pace: func(n, _ int) time.Duration { return ms + time.Duration(n/10)*time.Hour }}, 1100 * ms},
		"slow by turns":   {pacer{laps: 500, pace: func(n, _ int) time.Duration { return ms + time.Duration(n%2)*100*ms }}, 1500 * ms},
		"came much later": {pacer{after: 500 * ms, laps: 400, pace: lucky}, 1100 * ms},
		"a little slower": {pacer{laps: 500, pace: steady(15 * ms / 10)}, 1300 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			if took := race(t, pacer{laps: 1000, pace: lucky}, tc.other); took[0] > tc.most {
				t.Errorf("took %v, want at most %v", took[0], tc.most)
			}
		})
	}
}

func TestNobodyIsHeldUntilItsFirmwareGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f field
		ahead, behind := f.join(), f.join()
		behind.pass(t.Context(), lapBytes)
		var other sync.WaitGroup
		defer other.Wait()
		other.Go(func() { // makes progress all the time, and never comes near
			for range 1000 {
				time.Sleep(40 * ms)
				behind.pass(t.Context(), lapBytes)
			}
			behind.leave()
		})
		ahead.best = ms // so it takes the other for as quick as itself
		for begin := time.Now(); time.Since(begin) < 20*time.Second; {
			before := time.Now()
			ahead.pass(t.Context(), 50*lapBytes)
			if held := time.Since(before); held > 2*maxHold {
				t.Fatalf("held for %v", held)
			}
		}
		ahead.leave()
	})
}

func TestWhoWaitsCanBeCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f field
		ahead, behind := f.join(), f.join()
		behind.pass(t.Context(), lapBytes)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(ms, cancel)
		begin := time.Now()
		if err := ahead.pass(ctx, 10*lapBytes); !errors.Is(err, errCut) || time.Since(begin) != ms {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		ahead.leave()
		behind.leave()
		if len(f.runners) != 0 {
			t.Error("somebody is left")
		}
	})
}
