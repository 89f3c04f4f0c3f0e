package linktest

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Now is the time of the clock that all processes of this machine share.
func Now() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for a clock that every kernel has
	return time.Duration(ts.Nano())
}

// Reading is what a meter saw: by number, when it asked and when the answer came.
type Reading struct {
	Sent     []time.Duration // by Now's clock
	Answered []time.Duration // 0: never
}

// Lost is how many had no answer.
func (r Reading) Lost() (n int) {
	for _, at := range r.Answered {
		if at == 0 {
			n++
		}
	}
	return n
}

// Gap is a time in which no answer came.
type Gap struct {
	From, To time.Duration // arrivals of the answers around it
	Never    bool          // none came after From
}

// Long is how long the gap was.
func (g Gap) Long() time.Duration { return g.To - g.From }

// Gap is the longest time between two answers that follow each other, not counting what was before
// since. Where no answer comes any more it lasts till the last question.
func (r Reading) Gap(since time.Duration) Gap { return r.GapBegun(since, math.MaxInt64) }

// GapBegun is the longest gap that began between two moments, such as around a cut: a busy
// machine has gaps of its own later.
func (r Reading) GapBegun(since, until time.Duration) Gap {
	var worst Gap
	last := since
	for _, at := range arrivals(r.Answered) {
		if at < since {
			last = since
			continue
		}
		if last <= until && at-last > worst.Long() {
			worst = Gap{From: last, To: at}
		}
		last = at
	}
	if n := len(r.Sent); n > 0 {
		// An answer that is on its way at the end is no gap: a meter waits for those.
		if end := r.Sent[n-1]; r.Answered[n-1] == 0 && last <= until && end-last > worst.Long() {
			return Gap{From: last, To: end, Never: true}
		}
	}
	return worst
}
