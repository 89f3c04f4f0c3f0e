package link

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// While somebody who is told takes his time, such as a disk that stands still, the tunnel is moved all the same; all is
// told in the end, in its order.
func TestSlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		var mu sync.Mutex
		var told []Event
		release := make(chan struct{})
		l.changed = func(e Event) {
			<-release
			mu.Lock()
			defer mu.Unlock()
			told = append(told, e)
		}
		w, stop := l.start(t, nil, nil)
		time.Sleep(10 * time.Second)
		for _, dead := range []bool{true, false, true} {
			l.set(l.dead, "wan", dead)
			time.Sleep(2 * time.Minute)
			want := map[bool]string{true: "lte", false: "wan"}[dead]
			synctest.Wait()
			l.mu.Lock()
			if l.use != want || l.dup {
				t.Errorf("wan is dead: %v, the tunnel uses %s, by all: %v", dead, l.use, l.dup)
			}
			l.mu.Unlock()
		}
		close(release)
		stop()
		w.teller.wait()
		switches := 0
		for i, e := range told {
			if e.Kind == Switched {
				switches++
			}
			if i > 0 && e.At.Before(told[i-1].At) {
				t.Errorf("told out of order: %v after %v", e, told[i-1])
			}
		}
		if switches != 4 {
			t.Errorf("%d switches were told of, want 4: %v", switches, told)
		}
	})
}

// What waits to be told is bounded, and the newest is told.
func TestTellerBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, err := New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}}})
		must(t, err)
		var told []string
		release := make(chan struct{})
		w.teller.tell = func(e Event) { <-release; told = append(told, e.Reason) }
		for i := range 3 * mostUntold {
			w.tell(Event{Reason: fmt.Sprint(i)})
		}
		synctest.Wait()
		close(release)
		w.teller.wait()
		if n := len(told); n > mostUntold+1 || told[n-1] != fmt.Sprint(3*mostUntold-1) {
			t.Errorf("%d events were told, the last is %s", n, told[n-1])
		}
	})
}
