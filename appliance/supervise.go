package appliance

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"
)

// part is one thing that runs: it listens, calls ready, and serves until ctx is
// done. A return before that, with an error or without, is a failure.
type part struct {
	name string
	run  func(ctx context.Context, ready func()) error
}

// Health is how a part is.
type Health struct {
	Part     string
	Ready    bool
	Err      string    // why it is not ready, or why it failed last
	Since    time.Time // of Ready or Err
	Restarts int
}

// Delays between the restarts of a part: the first quick, for what heals by
// itself, then doubling, so that a broken part does not fill the log.
const (
	firstDelay = time.Second
	lastDelay  = time.Minute
	// healthyAfter is how long a part must have run for its next failure to
	// count as the first again.
	healthyAfter = 5 * time.Minute
)

// supervisor runs parts and restarts each one alone: a fault in DHCP must not
// cost the admin the way in (DESIGN section 4).
type supervisor struct {
	log   *zap.Logger
	wg    sync.WaitGroup
	count *prometheus.CounterVec

	mu      sync.Mutex
	health  []Health
	settled chan struct{} // closed when every part was ready, or failed, once
	waiting map[string]bool
}

func newSupervisor(log *zap.Logger, metrics prometheus.Registerer) *supervisor {
	return &supervisor{
		log: log, settled: make(chan struct{}), waiting: map[string]bool{},
		count: promauto.With(metrics).NewCounterVec(prometheus.CounterOpts{
			Name: "rescuebox_part_failures_total", Help: "Failures of the daemon's parts."}, []string{"part"}),
	}
}

// start runs the parts until ctx is done; wait waits for their end.
func (s *supervisor) start(ctx context.Context, parts []part) {
	for _, p := range parts {
		s.health = append(s.health, Health{Part: p.name, Since: time.Now()})
		s.waiting[p.name] = true
	}
	for i, p := range parts {
		s.wg.Go(func() { s.keep(ctx, p, i) })
	}
}

func (s *supervisor) wait() { s.wg.Wait() }

// settleTimeout is how long a part may hang in its start before the others
// count as the whole: systemd would kill them all after TimeoutStartSec.
const settleTimeout = 10 * time.Second

// settle waits until every part was ready, or failed, once, or has had its
// time for that. It reports false if ctx was done first.
func (s *supervisor) settle(ctx context.Context) bool {
	select {
	case <-s.settled:
	case <-time.After(settleTimeout):
	case <-ctx.Done():
		return false
	}
	return true
}

// keep runs one part again and again.
func (s *supervisor) keep(ctx context.Context, p part, i int) {
	delay := firstDelay
	for {
		began := time.Now()
		err := s.once(ctx, p, i)
		if ctx.Err() != nil {
			if err != nil {
				s.log.Warn("part did not end cleanly", zap.String("task", p.name), zap.NamedError("err", err))
			}
			return
		}
		if time.Since(began) > healthyAfter {
			delay = firstDelay
		}
		s.failed(p, i, err, delay)
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, lastDelay)
	}
}

// once runs the part and turns a panic into an error.
func (s *supervisor) once(ctx context.Context, p part, i int) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v: this is a bug, please report it with the log", r)
			s.log.Error("part panicked", zap.String("task", p.name), zap.NamedError("err", err), zap.ByteString("stack", debug.Stack()))
		}
	}()
	err = p.run(ctx, func() { s.ready(p, i) })
	if err == nil && ctx.Err() == nil {
		err = errors.New("ended by itself")
	}
	return err
}

func (s *supervisor) ready(p part, i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health[i].Restarts > 0 {
		s.log.Info("part is back", zap.String("task", p.name))
	}
	s.health[i].Ready, s.health[i].Err, s.health[i].Since = true, "", time.Now()
	s.settleLocked(p.name)
}

// failed keeps and logs the failure. The same failure again and again is logged once.
func (s *supervisor) failed(p part, i int, err error, delay time.Duration) {
	s.count.WithLabelValues(p.name).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.health[i]
	if h.Err != err.Error() {
		s.log.Error("part failed; the others go on", zap.String("task", p.name), zap.NamedError("err", err), zap.Duration("again_in", delay))
		h.Since = time.Now()
	}
	h.Ready, h.Err = false, err.Error()
	h.Restarts++
	s.settleLocked(p.name)
}

func (s *supervisor) settleLocked(name string) {
	if s.waiting[name] {
		delete(s.waiting, name)
		if len(s.waiting) == 0 {
			close(s.settled)
		}
	}
}

// Health lists the parts in the order in which they were started.
func (s *supervisor) Health() []Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Health(nil), s.health...)
}
