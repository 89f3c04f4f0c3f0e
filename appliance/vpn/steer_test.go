package vpn

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
)

// stuck is an engine whose kernel takes its time: whatever asks it for anything waits.
type stuck struct {
	asked   chan struct{}
	until   chan struct{}
	active  atomic.Int32
	kicks   atomic.Int32
	devices []string // as tied last
}

func (s *stuck) steer(to steering) error { s.active.Store(int32(to.Active)); return nil }
func (s *stuck) kick(int)                { s.kicks.Add(1) }
func (s *stuck) heard(int) time.Time     { return time.Time{} }
func (s *stuck) tie(devices []string)    { s.wait(); s.devices = devices }
func (s *stuck) configure([]peer) error  { s.wait(); return nil }
func (s *stuck) state() (state, error)   { s.wait(); return state{}, nil }
func (s *stuck) close() error            { return nil }

func (s *stuck) wait() { s.asked <- struct{}{}; <-s.until }

// Whoever decides about uplinks asks and steers many times a second, and must not wait for sockets that are opened
// or for somebody who wants the status. What was said of devices meanwhile is done in the end, the last word last.
func TestNobodyWaits(t *testing.T) {
	cfg := plain(t)
	cfg.Uplinks = append(cfg.Uplinks, Uplink{Name: "lte"})
	tunnel, err := New(cfg, zap.NewNop())
	ok(t, err)
	e := &stuck{asked: make(chan struct{}, 10), until: make(chan struct{})}
	tunnel.engine = e
	var busy sync.WaitGroup
	for _, f := range []func(){
		func() { tunnel.SetDevice("lte", "ppp0") }, func() { tunnel.Status() }, func() { _ = tunnel.configure() },
	} {
		busy.Go(f)
		<-e.asked
	}
	busy.Go(func() { tunnel.SetDevice("lte", "ppp1") })
	done := make(chan struct{})
	go func() {
		defer close(done)
		tunnel.Heard("wan")
		tunnel.Inner()
		tunnel.Outer()
		tunnel.Handshake()
		tunnel.Ports()
		tunnel.Duplicate(true)
		tunnel.Use("lte")
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("somebody waits")
	}
	close(e.until)
	busy.Wait()
	<-done
	if e.active.Load() != 1 || e.kicks.Load() < 2 || e.devices[1] != "ppp1" {
		t.Errorf("uplink %d, %d kicks, devices %q", e.active.Load(), e.kicks.Load(), e.devices)
	}
}
