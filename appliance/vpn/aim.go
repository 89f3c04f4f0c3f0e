package vpn

import (
	"net/netip"
	"slices"
	"time"
)

// aimTime is how long the kernel's WireGuard calls one address of a hub that does not answer before it is the next one's
// turn: it calls each 5 s and up to a third of one more.
const aimTime = 6 * time.Second

// aim is which of a hub's addresses the kernel's WireGuard sends to: it keeps one of a peer, and follows the hub where
// that is heard from. It is pure: it gets the time, and what the kernel says.
type aim struct {
	at     netip.AddrPort         // as the kernel has it; not valid: none yet
	since  time.Time              // when it began to call there
	told   bool                   // since the last look: what was heard meanwhile may have come from elsewhere
	heard  time.Time              // when the hub was heard last; zero: never
	asked  time.Time              // since when it owes an answer; zero: it does not
	proved map[int]netip.AddrPort // where it was heard by each uplink
}

// saw notes what the kernel says: where it sends now, and whether the hub was heard since the last look.
func (a *aim) saw(now time.Time, uplink int, at netip.AddrPort, heard bool, asked time.Time) {
	a.asked = asked
	if heard {
		a.heard = now
		if at.IsValid() && !a.told {
			if a.proved == nil {
				a.proved = map[int]netip.AddrPort{}
			}
			a.proved[uplink] = at
		}
	}
	a.told = false
	if at.IsValid() && at != a.at {
		a.at, a.since = at, now
	}
}

// lives reports a session that nobody is to touch, whatever is said of the hub's addresses.
func (a *aim) lives(now time.Time) bool {
	return !a.heard.IsZero() && now.Sub(a.heard) < sessionTime && (a.asked.IsZero() || now.Sub(a.asked) < deadAfter)
}

// next is where the hub is to be called now, of those addresses by which the uplink in use reaches it; it is not
// valid where all stays as it is.
func (a *aim) next(now time.Time, list []netip.AddrPort) (to netip.AddrPort) {
	switch i := slices.Index(list, a.at); {
	case len(list) == 0:
	case !a.at.IsValid():
		to = list[0]
	case a.lives(now):
	case i < 0:
		to = list[0]
	case len(list) > 1 && !a.asked.IsZero() && now.Sub(a.since) >= aimTime:
		to = list[(i+1)%len(list)]
	}
	return a.turn(now, to)
}

// move is the same where the uplink in use is another one: the hub may have another address there, of another family.
func (a *aim) move(now time.Time, uplink int, list []netip.AddrPort) (to netip.AddrPort) {
	a.since, a.told = now, true // each address has its time by this uplink
	if len(list) == 0 || slices.Contains(list, a.at) {
		return to
	}
	to = list[0]
	if was := a.proved[uplink]; was.IsValid() {
		to = was
	}
	return a.turn(now, to)
}

// turn notes what the kernel is going to be told.
func (a *aim) turn(now time.Time, to netip.AddrPort) netip.AddrPort {
	if to.IsValid() {
		a.at, a.since, a.told = to, now, true
	}
	return to
}
