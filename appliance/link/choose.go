package link

import (
	"fmt"
	"time"
)

// The ranks of uplinks by what is known of them, the lowest is the best.
const (
	works = iota
	mayWork
	failedButWorks // somebody said that it has failed: still better than a dead one
	isDead
	failedAndDead
	isAbsent
)

func (m *machine) rank(i int, now time.Time) int {
	u := &m.ups[i]
	switch {
	case !m.present(i, now):
		return isAbsent
	case u.failed && u.health == Dead:
		return failedAndDead
	case u.failed:
		return failedButWorks
	case u.health == Dead:
		return isDead
	case u.health == Alive, i == m.active && !m.due(u.turned.Add(proving), now):
		return works // the active one gets its time to prove itself
	}
	return mayWork
}

// choose puts another uplink in use if there is a reason.
func (m *machine) choose(now time.Time) {
	to, best := m.best(now)
	if to < 0 || to == m.active {
		return
	}
	if m.active < 0 {
		m.use(now, to, fmt.Sprintf("%s is the first that is there", m.name(to)))
		return
	}
	mine := m.rank(m.active, now)
	switch {
	case mine == isAbsent:
		m.failover(now, to, fmt.Sprintf("%s is absent: %s", m.name(m.active), m.ups[m.active].why))
	case m.ups[m.active].failed && best < mine:
		m.use(now, to, fmt.Sprintf("somebody said that %s has failed", m.name(m.active)))
	case best < mine:
		if m.due(m.switched.Add(m.dwell(now)), now) {
			m.failover(now, to, m.because(m.active, m.ups[m.active].health))
		}
	case best == works && m.place(to) < m.place(m.active):
		m.failbackTo(now, to)
	}
}

// best is the uplink of the best rank, the preferred one of several.
func (m *machine) best(now time.Time) (to, rank int) {
	to, rank = -1, isAbsent
	for _, i := range m.pref {
		if r := m.rank(i, now); r < rank {
			to, rank = i, r
		}
	}
	return to, rank
}

func (m *machine) place(i int) int {
	for p, at := range m.pref {
		if at == i {
			return p
		}
	}
	return len(m.pref)
}

// hold is how long a better uplink must be good. An uplink that comes back for a while again and
// again costs a switch each time: it is left alone the longer, the more often it did.
func (m *machine) hold() time.Duration {
	return min(m.failback<<min(m.level, 20), max(m.failback, maxHold))
}

// dwell is the time between two switches that nobody ordered and no plug forced. Even beyond the
// limit the box must be reachable; while it waits here, the tunnel goes by all uplinks.
func (m *machine) dwell(now time.Time) time.Duration {
	if m.spent(now) >= m.limit {
		return longDwell
	}
	return dwell
}

// spent is the number of switches in the last hour that nobody ordered.
func (m *machine) spent(now time.Time) int {
	for len(m.recent) > 0 && m.due(m.recent[0].Add(time.Hour), now) {
		m.recent = m.recent[1:]
	}
	return len(m.recent)
}

// capped reports whether there were too many for another return: the next failover must be within the
// limit, too.
func (m *machine) capped(now time.Time) bool { return m.spent(now)+2 > m.limit }

// failbackAt is when the box goes back to an uplink that is alive and stays good.
func (m *machine) failbackAt(to int) time.Time {
	u := &m.ups[to]
	if u.good.IsZero() {
		return time.Time{}
	}
	if u.eager {
		return u.good.Add(min(3*u.Check, 3*time.Second))
	}
	return later(u.good, m.switched).Add(m.hold())
}

func (m *machine) failbackTo(now time.Time, to int) {
	at := m.failbackAt(to)
	if at.IsZero() || !m.due(at, now) || m.phase == doubtful {
		return
	}
	if !m.ups[to].eager && m.capped(now) {
		return
	}
	reason := fmt.Sprintf("%s has been good for %v", m.name(to), now.Sub(m.ups[to].good).Round(time.Second))
	if m.ups[to].eager {
		reason = fmt.Sprintf("%s answers again, and somebody asked for it", m.name(to))
	} else {
		m.recent = append(m.recent, now)
	}
	m.returned = now
	m.use(now, to, reason)
}

// failover leaves an uplink that does not work.
func (m *machine) failover(now time.Time, to int, reason string) {
	if m.place(to) > m.place(m.active) && !m.returned.IsZero() {
		if now.Sub(m.returned) < lasting {
			m.level++
		} else {
			m.level = 0
		}
	}
	m.recent = append(m.recent, now)
	m.use(now, to, reason)
}

// use makes an uplink the active one. The tunnel goes by all of them until the hub was heard by it.
func (m *machine) use(now time.Time, to int, reason string) {
	from := m.active
	proven := m.phase == doubtful && m.ups[to].heard.After(m.since)
	m.active, m.switched, m.reason = to, now, reason
	for i := range m.ups {
		m.ups[i].rounds = nil
		if i != to {
			m.ups[i].good = time.Time{}
			m.ups[i].forget()
		}
	}
	m.ups[to].eager = false
	m.out = append(m.out, action{do: doUse, uplink: to})
	m.tell(Event{At: now, Kind: Switched, Uplink: m.name(to), From: m.name(from), Reason: reason})
	if !m.tunnel {
		return
	}
	if proven {
		m.settle(now, m.ups[to].heard)
		return
	}
	m.doubt(now, now)
}
