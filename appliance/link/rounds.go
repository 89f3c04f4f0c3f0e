package link

import (
	"fmt"
	"time"
)

// The times of rounds.
const (
	wireAnswer    = time.Second     // an unknown wire has so long to answer
	meteredAnswer = 5 * time.Second // radio that slept takes its time
	leastAnswer   = 200 * time.Millisecond
	wireHurry     = 250 * time.Millisecond // between rounds while something is undecided
	meteredHurry  = 5 * time.Second
	meteredDead   = time.Minute
)

// ask starts the rounds that are due.
func (m *machine) ask(now time.Time) {
	for i := range m.ups {
		u := &m.ups[i]
		if u.asking || !m.present(i, now) {
			continue
		}
		last := u.asked
		if !last.IsZero() && !(i == m.active && m.phase == doubtful) {
			last = later(last, u.heard) // what the hub proves needs no probe
		}
		if i == m.active && m.phase == steady && m.tunnel && u.health == Alive {
			continue
		}
		if !last.IsZero() && !m.due(last.Add(m.between(i)), now) {
			continue
		}
		u.asking, u.asked = true, now
		m.out = append(m.out, action{do: doAsk, uplink: i, epoch: u.epoch, within: u.answerWithin()})
	}
}

// answerWithin is how long a round may take.
func (u *uplink) answerWithin() time.Duration {
	most := wireAnswer
	if u.Metered {
		most = meteredAnswer
	}
	if u.took.mean == 0 {
		return most
	}
	return min(most, max(leastAnswer, 2*u.took.late(leastAnswer/4)))
}

// between is the time between the starts of two rounds.
func (m *machine) between(i int) time.Duration {
	u := &m.ups[i]
	hurry := wireHurry
	if u.Metered {
		hurry = meteredHurry
	}
	undecided := u.health == Unproven || u.health == Alive && len(u.rounds) > 0 && !u.rounds[len(u.rounds)-1]
	switch {
	case undecided, i == m.active && m.phase == doubtful:
		return min(u.Check, hurry)
	case !u.Metered:
		return u.Check
	case i == m.active || !m.anyAlive():
		return min(u.Check, u.Interval)
	case u.health == Dead:
		return min(u.Check, meteredDead)
	}
	return u.Check
}

func (m *machine) anyAlive() bool {
	for i := range m.ups {
		if u := &m.ups[i]; u.carrier && !u.failed && u.health == Alive {
			return true
		}
	}
	return false
}

// round takes the end of a round: nil if it was good.
func (m *machine) round(i, epoch int, now time.Time, took time.Duration, err error) {
	u := &m.ups[i]
	if epoch != u.epoch {
		return // of a device that went and came meanwhile, or of before a switch
	}
	u.asking = false
	good := err == nil || u.heard.After(u.asked) || i == m.active && m.phase == steady && m.answered.After(u.asked)
	if err == nil {
		u.took.add(took)
		u.proved = now
	}
	u.rounds = append(u.rounds, good)
	if len(u.rounds) > u.Of {
		u.rounds = u.rounds[1:]
	}
	if !good {
		u.good = time.Time{}
	} else if u.good.IsZero() {
		u.good = now
	}
	m.judge(i, now, err)
}

// judge changes an uplink's health by its last rounds.
func (m *machine) judge(i int, now time.Time, err error) {
	u := &m.ups[i]
	good := 0
	for _, g := range u.rounds {
		if g {
			good++
		}
	}
	bad := len(u.rounds) - good
	switch {
	case u.health == Unproven && good > 0, u.health == Dead && good >= u.Up:
		since := u.good
		m.turn(i, now, Alive, "its probes answer")
		if !since.IsZero() {
			u.good = since
		}
	case u.health != Dead && bad >= u.Down:
		m.turn(i, now, Dead, fmt.Sprintf("%d of the last %d rounds of probes were without an answer (%v)", bad, len(u.rounds), err))
	}
}
