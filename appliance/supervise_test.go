package appliance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// A part that fails or panics is restarted alone, after 1, 2, 4 … seconds; the
// other one never notices.
func TestSupervisorRestartsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var starts []time.Duration
		good := 0
		s := newSupervisor(zap.NewNop(), nil)
		s.start(ctx, []part{
			{"bad", func(ctx context.Context, ready func()) error {
				starts = append(starts, time.Since(began))
				if len(starts)%2 == 0 {
					panic("nil map")
				}
				return errors.New("port 69 is busy")
			}},
			{"good", func(ctx context.Context, ready func()) error {
				good++
				ready()
				<-ctx.Done()
				return nil
			}},
		})
		if !s.settle(ctx) {
			t.Error("not settled")
		}
		time.Sleep(40 * time.Second)
		synctest.Wait()
		if want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 31 * time.Second}; !slices.Equal(starts, want) {
			t.Errorf("bad started at %v, want %v", starts, want)
		}
		if good != 1 {
			t.Errorf("good was started %d times", good)
		}
		h := s.Health()
		if strings.Contains(h[0].Err, "\n") {
			t.Errorf("health is no place for a stack: %s", h[0].Err)
		}
		if h[0].Ready || h[0].Restarts != 6 || !h[1].Ready || h[1].Restarts != 0 {
			t.Errorf("health: %+v", h)
		}
		cancel()
		s.wait()
	})
}

// A part that came back and ran well starts over with the short delay.
func TestSupervisorForgivesAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var starts []time.Duration
		s := newSupervisor(zap.NewNop(), nil)
		s.start(ctx, []part{{"part", func(ctx context.Context, ready func()) error {
			starts = append(starts, time.Since(began))
			ready()
			if len(starts) == 3 {
				time.Sleep(10 * time.Minute)
			}
			return nil // "ended by itself"
		}}})
		time.Sleep(10*time.Minute + 5*time.Second)
		cancel()
		s.wait()
		if want := []time.Duration{0, time.Second, 3 * time.Second, 603*time.Second + time.Second}; !slices.Equal(starts[:4], want) {
			t.Errorf("started at %v, want %v", starts, want)
		}
	})
}

// A part that hangs in its start keeps the others from being ready for a while only.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := newSupervisor(zap.NewNop(), nil)
		s.start(ctx, []part{{"hangs", func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }}})
		began := time.Now()
		if !s.settle(ctx) || time.Since(began) != settleTimeout {
			t.Errorf("settled after %s", time.Since(began))
		}
		cancel()
		if s.settle(ctx) {
			t.Error("settled although the daemon stops")
		}
		s.wait()
	})
}
