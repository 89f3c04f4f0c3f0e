package link

import (
	"fmt"
	"time"
)

// follow asks the hub through the tunnel and moves between the phases.
func (m *machine) follow(now time.Time) {
	if !m.tunnel || m.active < 0 {
		if m.phase != steady {
			m.phase, m.muted, m.asked = steady, time.Time{}, time.Time{}
		}
		return
	}
	if !m.present(m.active, now) && m.phase != mute {
		return // choose finds another, or there is none to ask by
	}
	switch m.phase {
	case steady:
		m.followSteady(now)
	case doubtful:
		m.followDoubt(now)
	case mute:
		m.followMute(now)
	}
}

// followSteady sends a probe when it was silent for Interval, and doubts when the answer is late.
// Real traffic is an answer, too. Where it flows all the time, half of Interval is silence enough:
// a busy tunnel costs no probes and is found dead the sooner.
func (m *machine) followSteady(now time.Time) {
	u := &m.ups[m.active]
	if life := later(u.heard, m.answered); life.After(m.life) {
		m.busy = m.asked.IsZero() && !u.Metered && !m.life.IsZero()
		m.life = life
	}
	if !m.asked.IsZero() && m.life.After(m.asked) {
		m.asked = time.Time{}
	}
	if m.asked.IsZero() {
		quiet := u.Interval
		if m.busy {
			quiet /= 2
		}
		if !m.due(m.life.Add(quiet), now) {
			return
		}
		m.ping(now)
	}
	if !m.due(later(m.asked, m.repeated).Add(u.rtt.late(u.Suspect)), now) {
		return
	}
	if m.repeats < m.caution(now) {
		m.repeats, m.repeated = m.repeats+1, now
		m.out = append(m.out, action{do: doPing, uplink: m.active})
		m.due(now.Add(u.rtt.late(u.Suspect)), now)
		return
	}
	m.doubt(now, m.asked)
}

func (m *machine) ping(now time.Time) {
	m.asked, m.repeats, m.repeated = now, 0, time.Time{}
	m.out = append(m.out, action{do: doPing, uplink: m.active})
}

// doubt sends by all uplinks, and asks at once: the tunnel, and the active uplink by its own
// probes. Life counts from since on.
func (m *machine) doubt(now, since time.Time) {
	m.phase, m.began, m.since, m.busy = doubtful, now, since, false
	m.alone, m.refuted, m.beat = time.Time{}, 0, now
	m.ups[m.active].forget()
	if m.onlyDead(now) {
		m.test(now, patience)
		return
	}
	m.followDoubt(now)
}

// settle ends doubt or muteness: the hub was heard by the active uplink.
func (m *machine) settle(now, life time.Time) {
	if !m.muted.IsZero() {
		m.tell(Event{At: now, Kind: Hub, Uplink: m.name(m.active),
			Reason: fmt.Sprintf("the hub is back by %s after %v", m.name(m.active), now.Sub(m.muted).Round(time.Second/10))})
	}
	m.phase, m.life, m.asked, m.alone = steady, life, time.Time{}, time.Time{}
	m.muted, m.trial, m.pause = time.Time{}, time.Time{}, trials
	m.turn(m.active, now, Alive, "the hub answers by it")
	u := &m.ups[m.active]
	if u.rounds = nil; u.good.IsZero() {
		u.good = now
	}
}

// pace is the time between probes of doubt: soon, but not so that it costs on a metered uplink.
func (u *uplink) pace() time.Duration { return min(u.Interval, max(u.Suspect, 50*time.Millisecond)) }

// aloneFor is how long the hub may take to answer by the uplink alone. It may never have answered by
// it before; but the uplink's own probes were.
func (u *uplink) aloneFor() time.Duration {
	return 2 * max(u.rtt.late(u.Suspect), u.took.late(u.Suspect))
}

func (m *machine) followDoubt(now time.Time) {
	u := &m.ups[m.active]
	by, last := m.lifeElsewhere(now)
	switch {
	case u.heard.After(m.since) && (m.alone.IsZero() || u.heard.After(m.alone)):
		m.settle(now, u.heard)
		return
	case by < 0 && m.answered.After(m.since) && m.alone.IsZero():
		m.settle(now, m.answered) // a tunnel that cannot say by which uplink it hears
		return
	case !m.alone.IsZero():
		if m.due(m.together, now) {
			m.alone, m.began = time.Time{}, now
			m.refuted++
		}
	case by >= 0 && m.due(m.began.Add(max(3*u.pace(), min(2*u.took.mean, time.Second))), now):
		m.weigh(now, by)
		if m.phase != doubtful {
			return
		}
	}
	if by < 0 && m.alone.IsZero() && m.due(later(m.began, last).Add(max(patience, 3*u.pace())), now) {
		m.hush(now)
		return
	}
	if m.due(m.beat, now) {
		m.beat = now.Add(u.pace())
		if !m.muted.IsZero() {
			m.beat = now.Add(max(u.pace(), trialPace))
		}
		m.due(m.beat, now)
		m.duplicate(m.alone.IsZero() && m.count(now) > 1) // before the probe, so that it goes by all of them
		if m.duplicates {
			m.spend(now)
		}
		m.ping(now)
	}
}

// weigh decides about an active uplink while the hub is heard by another only. If its own probes are
// answered, it may be that the other one is merely quicker: the hub answers by the uplink of
// the first copy. Then one probe goes by the active one alone. If that stays without an answer
// again and again, something there stops the tunnel. There is nothing to try where it was never heard by the active
// one, and the other is preferred anyway.
func (m *machine) weigh(now time.Time, by int) {
	u := &m.ups[m.active]
	switch {
	case (!m.muted.IsZero() || u.heard.Before(m.switched)) && m.place(by) < m.place(m.active) && m.rank(by, now) == works:
		m.recent, m.returned = append(m.recent, now), now
		m.use(now, by, fmt.Sprintf("the hub did not answer by %s, and does by %s", m.name(m.active), m.name(by)))
		return
	case !u.proved.After(m.since):
		m.turn(m.active, now, Dead, fmt.Sprintf("the hub answers by %s only", m.name(by)))
	case m.refuted >= refutals:
		m.turn(m.active, now, Dead, fmt.Sprintf("the hub answers by %s only; the Internet is there, but something on the way stops the tunnel", m.name(by)))
	default:
		m.test(now, u.aloneFor())
		return
	}
	m.turn(by, now, Alive, "the hub answers by it")
}

// test puts the tunnel on the active uplink alone for a time, to see whether the hub answers.
func (m *machine) test(now time.Time, d time.Duration) {
	m.alone, m.together, m.beat = now, now.Add(d), now.Add(m.ups[m.active].pace())
	m.due(m.together, now)
	m.due(m.beat, now)
	m.duplicate(false)
	m.ping(now)
}

// onlyDead reports whether all other uplinks are dead. One of them may still carry packets to the hub, but no
// answers; if the tunnel went by it as well, the hub would answer into the void.
func (m *machine) onlyDead(now time.Time) bool {
	others := 0
	for i := range m.ups {
		if i == m.active || !m.present(i, now) {
			continue
		}
		if others++; m.ups[i].health != Dead {
			return false
		}
	}
	return others > 0 && m.ups[m.active].health != Dead
}

// lifeElsewhere is the uplink by which the hub was heard last in this doubt, other than the active
// one, and when; -1 if there is none.
func (m *machine) lifeElsewhere(now time.Time) (int, time.Time) {
	by, last := -1, time.Time{}
	for i := range m.ups {
		if h := m.ups[i].heard; i != m.active && h.After(m.since) && h.After(last) && m.present(i, now) {
			by, last = i, h
		}
	}
	if by >= 0 && now.Sub(last) > patience {
		return -1, last
	}
	return by, last
}

// hush gives up on the tunnel for now. Its uplink is no worse for that: the hub may be down.
func (m *machine) hush(now time.Time) {
	if m.muted.IsZero() {
		m.muted = m.began
		m.tell(Event{At: now, Kind: Hub, Reason: "the hub is silent on every uplink"})
	}
	m.phase, m.since, m.beat = mute, now, now
	m.trial = now.Add(m.pause)
	m.pause = min(2*m.pause, maxTrials)
	m.followMute(now)
}

// followMute asks now and then, and tries all uplinks from time to time.
func (m *machine) followMute(now time.Time) {
	u := &m.ups[m.active]
	if u.heard.After(m.since) || m.answered.After(m.since) {
		m.settle(now, now)
		return
	}
	if by, _ := m.lifeElsewhere(now); by >= 0 || m.count(now) > 1 && m.due(m.trial, now) {
		m.doubt(now, m.since)
		return
	}
	if m.due(m.beat, now) {
		m.beat = now.Add(max(time.Second, u.Interval))
		m.due(m.beat, now)
		m.ping(now)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
