package vpn

import (
	"testing"
	"testing/synctest"
	"time"
)

// A gate holds back what would be too many at once, until others left, or were lost inside; what was lost one by one
// over a day holds nobody back.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, quit := newGate(), make(chan struct{})
		waits := func(what string, want time.Duration) {
			t.Helper()
			began := time.Now()
			if g.wait(gateMoment, quit); time.Since(began) != want {
				t.Errorf("%s: waited %v, want %v", what, time.Since(began), want)
			}
		}
		for range gateLimit {
			waits("while there is room", 0)
			g.enter(1)
		}
		go func() {
			time.Sleep(gateMoment / 2)
			g.leave(1)
		}()
		waits("until one leaves", gateMoment/2)
		g.enter(1)
		waits("until all count as lost", gateMoment)
		for range 3 * gateLimit {
			time.Sleep(time.Minute)
			waits("after one was lost each minute", 0)
			g.enter(1)
		}
		g.enter(gateLimit)
		close(quit)
		waits("at the end", 0)
	})
}

// A gate makes no garbage: it stands in each packet's way.
func TestGateMakesNoGarbage(t *testing.T) {
	g, quit := newGate(), make(chan struct{})
	close(quit)
	if n := testing.AllocsPerRun(1000, func() {
		g.enter(2 * gateLimit)
		g.wait(time.Hour, quit)
		g.leave(2 * gateLimit)
	}); n >= 1 {
		t.Errorf("%v allocations for one passage", n)
	}
}
