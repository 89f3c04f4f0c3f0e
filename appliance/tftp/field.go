package tftp

import (
	"context"
	"math"
	"sync"
	"time"
)

// A transfer may be lapsAhead laps of lapBytes ahead of the others: six percent
// of a file of 8 MB. Shorter laps cost time at each of their ends.
const (
	lapBytes  = 128 << 10
	lapsAhead = 4
)

// Bounds of waiting for others. Firmware that hears nothing asks again after
// half a second and more, so nobody is held for so long.
const (
	together  = 100 * time.Millisecond // who comes so soon after the first has begun with it
	knownLaps = 4                      // so many laps show how quick a client is
	reliable  = 64                     // so many laps without a miss, and the former are forgotten
	slowRatio = 2                      // so much slower at its best of late than the quickest: slow of its own
	minHold   = 50 * time.Millisecond
	maxHold   = 250 * time.Millisecond
)

// field is all transfers that run at one time, lap by lap. Whoever is four laps
// ahead of another waits for it.
//
// Without this it is chance who is quick: a processor that was free, the request
// that came first. Of 50 clients in lock-step the first had its file in a
// third of the time of the last. Taking turns costs little where all share what is
// scarce, a wire or processors: while one waits, another is sent to.
//
// Clients that share nothing must not wait for each other. So nobody waits for
// a client whose quickest lap of late takes twice as long as the quickest of all: it is
// slow of its own, a ROM with a weak processor, or one in lock-step beside one with a
// window. Nor for one that has not done a lap, or that takes longer than all
// would take one after another: it has fallen silent, loses packets, or is slow
// by turns. Each time that happens, it is later that anybody waits for it again.
type field struct {
	mu      sync.Mutex
	began   time.Time // when the first came
	low     int64     // the fewest laps of those who are waited for
	runners map[*runner]struct{}
}

// runner is one transfer in the field, which guards all but left.
type runner struct {
	field   *field
	left    int64         // bytes to the end of the lap
	laps    int64         // done, or left out
	own     int64         // done
	late    bool          // it came when the others had long begun
	off     time.Time     // when it began this lap
	best    time.Duration // its quickest lap of late; 0: none yet
	excused int64         // so many laps of its own nobody waits for it
	misses  int           // how often it was excused since it was reliable
	timely  int           // laps since it was last excused
	gate    chan struct{} // it waits for this to be closed; nil: it runs
}

// join begins a transfer's first lap. Who begins together has the whole way in
// common, so that a client whose request came first is not a file ahead of the last.
func (f *field) join() *runner {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &runner{field: f, left: lapBytes, off: time.Now()}
	if len(f.runners) == 0 {
		f.runners, f.began, f.low = map[*runner]struct{}{}, r.off, 0
	}
	r.late = r.off.Sub(f.began) > together
	f.runners[r] = struct{}{}
	return r
}

// leave ends a transfer: nobody waits for it any more.
func (r *runner) leave() {
	r.field.mu.Lock()
	defer r.field.mu.Unlock()
	delete(r.field.runners, r)
	r.field.openLocked()
}

// pass goes so many bytes ahead, and waits for the others at the end of a lap.
func (r *runner) pass(ctx context.Context, bytes int64) error {
	if r.left -= bytes; r.left > 0 {
		return nil
	}
	f := r.field
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.lapLocked(r, now)
	for r.laps >= f.low+lapsAhead && time.Since(now) < maxHold {
		if err := f.waitLocked(ctx, r); err != nil {
			return err
		}
	}
	r.off = time.Now()
	return nil
}

// lapLocked notes that a runner has reached the end of a lap, or of several.
func (f *field) lapLocked(r *runner, now time.Time) {
	n := 1 - r.left/lapBytes
	r.left += n * lapBytes
	if r.own == 0 && r.late {
		r.laps = f.low
	}
	r.laps += n
	r.own += n
	took := max(1, now.Sub(r.off)/time.Duration(n))
	if r.best += r.best / 2; r.best == 0 || took < r.best {
		r.best = took // the luck of a lap before the others came is forgotten soon
	}
	if r.timely++; r.timely > reliable {
		r.misses = 0
	}
	r.excused = max(0, r.excused-n)
	f.openLocked()
}

// waitLocked waits until the gate opens, or somebody needs too long.
func (f *field) waitLocked(ctx context.Context, r *runner) error {
	most := min(max(minHold, 2*time.Duration(len(f.runners))*r.best), maxHold)
	gate := make(chan struct{})
	r.gate = gate
	f.mu.Unlock()
	late := time.NewTimer(most)
	defer late.Stop()
	var err error
	select {
	case <-gate:
	case <-late.C:
	case <-ctx.Done():
		err = errCut
	}
	f.mu.Lock()
	r.gate = nil
	f.excuseLocked(r, time.Now().Add(-most))
	return err
}

// excuseLocked excuses those behind a runner who began their lap before some time.
func (f *field) excuseLocked(r *runner, since time.Time) {
	for o := range f.runners {
		if o.laps < r.laps && o.gate == nil && o.excused == 0 && !o.off.After(since) {
			o.excused = 1 << min(o.misses, 16)
			o.misses++
			o.timely = 0
		}
	}
	f.openLocked()
}

// openLocked lets those go on who are no longer too far ahead of anybody.
func (f *field) openLocked() {
	low, quickest := int64(math.MaxInt64), f.quickestLocked()
	for o := range f.runners {
		if o.own > 0 && o.excused == 0 && (o.own < knownLaps || o.best <= slowRatio*quickest) {
			low = min(low, o.laps)
		}
	}
	if low == math.MaxInt64 || low == f.low {
		return
	}
	f.low = low
	for o := range f.runners {
		if o.own > 0 {
			o.laps = max(o.laps, low) // who was not waited for has nothing to catch up
		}
		if o.gate != nil && o.laps < low+lapsAhead {
			close(o.gate)
			o.gate = nil
		}
	}
}

func (f *field) quickestLocked() time.Duration {
	quickest := time.Duration(math.MaxInt64 / slowRatio)
	for o := range f.runners {
		if o.best > 0 {
			quickest = min(quickest, o.best)
		}
	}
	return quickest
}
