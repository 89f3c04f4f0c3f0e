package linktest

import (
	"testing"
	"time"
)

func TestGap(t *testing.T) {
	ms := func(n ...int) (list []time.Duration) {
		for _, v := range n {
			list = append(list, time.Duration(v)*time.Millisecond)
		}
		return list
	}
	sent := ms(100, 105, 110, 115, 120, 125)
	for _, c := range []struct {
		name           string
		answered       []time.Duration
		since, until   int
		from, to, lost int
		never          bool
	}{
		{"all is well", ms(101, 106, 111, 116, 121, 126), 100, 1000, 101, 106, 0, false},
		{"two lost", ms(101, 106, 0, 0, 121, 126), 100, 1000, 106, 121, 2, false},
		{"out of order", ms(101, 112, 111, 116, 121, 126), 100, 1000, 101, 111, 0, false},
		{"the end is lost", ms(101, 106, 0, 0, 0, 0), 100, 1000, 106, 125, 4, true},
		{"nothing at all", ms(0, 0, 0, 0, 0, 0), 100, 1000, 100, 125, 6, true},
		{"one before, one after the cut", ms(101, 0, 0, 116, 0, 126), 112, 113, 112, 116, 3, false},
		{"a later one is the machine's", ms(101, 106, 111, 0, 0, 126), 100, 108, 101, 106, 2, false},
	} {
		r := Reading{Sent: sent, Answered: c.answered}
		g := r.GapBegun(ms(c.since)[0], ms(c.until)[0])
		if want := (Gap{ms(c.from)[0], ms(c.to)[0], c.never}); g != want || r.Lost() != c.lost {
			t.Errorf("%s: %v, %d lost; want %v, %d", c.name, g, r.Lost(), want, c.lost)
		}
	}
}

// While the machine stands still no time passes for what is measured.
func TestAwake(t *testing.T) {
	const ms = time.Millisecond
	r := Reading{Every: 5 * ms, Sent: []time.Duration{100 * ms, 105 * ms, 1110 * ms, 1115 * ms, 1160 * ms}, Answered: []time.Duration{101 * ms, 0, 1112 * ms, 0, 1161 * ms}}
	awake, clock := r.Awake()
	if g := awake.Gap(awake.Sent[0]); g != (Gap{From: 112 * ms, To: 161 * ms}) || awake.Lost() != 2 {
		t.Errorf("%+v of %+v", g, awake)
	}
	if at := clock(610 * ms); at != 110*ms {
		t.Errorf("in the middle of it is %v", at)
	}
	if last := r.LastHeard(); last != 1160*ms {
		t.Errorf("the last that was heard was asked at %v", last)
	}
}
