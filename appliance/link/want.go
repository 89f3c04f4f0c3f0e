package link

import "time"

// dialling is how long a better bearer gets to come up before the next one is called, too.
const dialling = 90 * time.Second

// want says which bearers are to be up.
func (m *machine) want(now time.Time) {
	for i := range m.ups {
		u := &m.ups[i]
		if !u.bearer {
			continue
		}
		if on := m.needs(i, now); on != u.wanted {
			u.wanted, u.called = on, now
			m.out = append(m.out, action{do: doWant, uplink: i, on: on})
		}
	}
}

// needs reports whether an uplink's bearer is to be up. In mode dormant that is while no better one
// works; once one does, until it did so for the hold: to hang up and dial again costs more than to wait.
func (m *machine) needs(i int, now time.Time) bool {
	woken := !m.due(m.woken, now)
	if m.mode != Dormant || i == m.active || woken || m.silentTrial(now) {
		return true
	}
	for _, better := range m.pref[:m.place(i)] {
		b := &m.ups[better]
		switch {
		case m.usable(better, now) && (!m.ups[i].wanted || m.firm(better, now)):
			return false
		case b.bearer && b.wanted && !m.ups[i].wanted && !m.due(b.called.Add(dialling), now):
			return false
		}
	}
	return m.ups[i].wanted || m.hopeless(i, now)
}

// usable reports whether an uplink works, or may still prove it.
func (m *machine) usable(i int, now time.Time) bool {
	h := m.healthOf(i, now)
	return h == Alive || h == Unproven && !m.due(m.ups[i].turned.Add(proving), now)
}

// firm reports whether an uplink that works did so for the hold.
func (m *machine) firm(i int, now time.Time) bool {
	u := &m.ups[i]
	return u.health == Alive && !u.good.IsZero() && m.due(u.good.Add(m.failback), now)
}

// hopeless reports whether no uplink better than i works.
func (m *machine) hopeless(i int, now time.Time) bool {
	for _, better := range m.pref[:m.place(i)] {
		if m.usable(better, now) {
			return false
		}
	}
	return true
}

// silentTrial reports whether it is time to try the bearers that are down, although the uplinks that
// are up have Internet: the hub is silent by those, and something on their way may be what stops
// the tunnel. That is so for five minutes of every hour, from the second minute on.
func (m *machine) silentTrial(now time.Time) bool {
	if m.muted.IsZero() || !m.due(m.muted.Add(time.Minute), now) {
		return false
	}
	begun := now.Add(-(now.Sub(m.muted.Add(time.Minute)) % time.Hour))
	if m.due(begun.Add(5*time.Minute), now) {
		m.due(begun.Add(time.Hour), now)
		return false
	}
	return true
}
