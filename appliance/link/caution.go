package link

import "time"

// What doubts may cost. While the tunnel is doubted its packets also go by uplinks where each byte costs; a wire that
// loses one probe of a hundred would be doubted twenty times a minute, for tens of megabytes a month.
const (
	allowed     = 4               // probes that were doubled without more caution
	forgiveness = 4 * time.Minute // after so long one of them is forgotten: 15 in an hour, 2 to 4 MB in 30 days
	mostCaution = 6               // probes that are repeated first, at most
)

// spend notes that a probe went by an uplink where each byte costs, beside the active one.
func (m *machine) spend(now time.Time) {
	if !m.paysForDoubt(now) {
		return
	}
	m.spentOn(now)
	m.doubled = min(m.doubled+1, allowed*(mostCaution+1)) // a long outage is no reason for more
}

// spentOn forgets what is long past.
func (m *machine) spentOn(now time.Time) {
	if m.doubled == 0 || m.forgiven.IsZero() {
		m.forgiven = now
	}
	n := int(now.Sub(m.forgiven) / forgiveness)
	m.doubled = max(0, m.doubled-n)
	m.forgiven = m.forgiven.Add(time.Duration(n) * forgiveness)
}

// caution is how many probes are repeated on the active uplink alone before it is doubted: none on a wire that does
// what it should, one more for each time that what is allowed was spent. Each costs an admin the time of one late
// answer when the wire really dies.
func (m *machine) caution(now time.Time) int {
	if !m.paysForDoubt(now) {
		return 0
	}
	m.spentOn(now)
	return min(m.doubled/allowed, mostCaution)
}

// paysForDoubt reports whether what is doubled costs, and what is not does not.
func (m *machine) paysForDoubt(now time.Time) bool {
	if m.ups[m.active].Metered {
		return false
	}
	for i := range m.ups {
		if i != m.active && m.ups[i].Metered && m.present(i, now) {
			return true
		}
	}
	return false
}
