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

// Pass lets time pass on a machine that may stand still meanwhile, as one does whose host takes its cores away: a sleep
// that is over when it wakes would be no time in which anything could happen. In steps, it takes but one of them.
func Pass(d time.Duration) {
	for range d / step {
		time.Sleep(step)
	}
}

const (
	step = 20 * time.Millisecond
	// stall is how late a question is if it was the machine that stood still.
	stall = 50 * time.Millisecond
)

// Reading is what a meter saw: by number, when it asked and when the answer came.
type Reading struct {
	Every    time.Duration   // it was to ask
	Sent     []time.Duration // by Now's clock
	Answered []time.Duration // 0: never
}

// Stood is how long the machine stood still between two moments: the meter's own questions were late.
func (r Reading) Stood(from, to time.Duration) (d time.Duration) {
	for i := 1; i < len(r.Sent); i++ {
		due := r.Sent[i-1] + r.Every
		if r.Sent[i]-due > stall {
			d += max(0, min(to, r.Sent[i])-max(from, due))
		}
	}
	return d
}

// Awake is the reading by a clock that stands still when the machine does, and that clock.
func (r Reading) Awake() (awake Reading, clock func(time.Duration) time.Duration) {
	clock = func(at time.Duration) time.Duration {
		if at == 0 {
			return 0 // never
		}
		return at - r.Stood(0, at)
	}
	awake = Reading{Every: r.Every}
	for i := range r.Sent {
		awake.Sent, awake.Answered = append(awake.Sent, clock(r.Sent[i])), append(awake.Answered, clock(r.Answered[i]))
	}
	return awake, clock
}

// LastHeard is when the last question was asked that had an answer; 0: none had.
func (r Reading) LastHeard() time.Duration {
	for i := len(r.Sent) - 1; i >= 0; i-- {
		if r.Answered[i] != 0 {
			return r.Sent[i]
		}
	}
	return 0
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
