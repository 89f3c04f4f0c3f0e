package dhcp

import (
	"container/list"
	"net/netip"
	"time"

	"rescuebox/appliance/boot"
)

// slot is one address that was given to somebody at least once.
//
//	idle --take--> offered --bind--> bound --expiry, RELEASE--> idle
//	offered --expiry, other server chosen--> idle
//	offered, bound --DECLINE, ARP conflict--> quarantined --time--> idle
//
// An idle slot remembers its last holder. Only move changes the phase.
type slot struct {
	addr     netip.Addr
	net      *network
	phase    phase
	mac      boot.MAC
	known    bool      // counted as a known machine's
	probing  time.Time // an ARP probe is under way until then at the latest
	host     string
	until    time.Time // end of the phase
	since    time.Time // phase idle: since when; bound: first ACK to this client
	renewed  time.Time
	verified time.Time // last ARP probe that nobody answered
	place    *list.Element
	in       *list.List
}

type phase int

const (
	idle phase = iota
	offered
	bound
	quarantined
)

// own makes the client the slot's holder; a client holds one address.
func (p *pool) own(s *slot, a ask, now time.Time) {
	if old := p.byMAC[a.mac]; old != nil && old != s {
		if old.phase == offered || old.phase == bound {
			p.move(old, idle, now)
		}
		old.mac = boot.MAC{}
	}
	if s.mac != a.mac {
		if p.byMAC[s.mac] == s {
			delete(p.byMAC, s.mac)
		}
		s.since = time.Time{}
	}
	p.uncount(s)
	s.mac, s.known = a.mac, a.known
	p.count(s)
	if a.host != "" {
		s.host = a.host
	}
	p.byMAC[a.mac] = s
}

// reject quarantines. What a stranger declined goes on counting as its own,
// so that nobody can decline the share of the known machines away.
func (p *pool) reject(s *slot, now time.Time, proved bool) {
	delete(p.byMAC, s.mac)
	if proved {
		p.uncount(s)
		s.known = true
		p.count(s)
	}
	p.move(s, quarantined, now)
	s.mac, s.verified = boot.MAC{}, time.Time{}
}

// expire ends what is over.
func (p *pool) expire(now time.Time) {
	for _, l := range p.ending {
		for e := l.Front(); e != nil; e = l.Front() {
			s := e.Value.(*slot)
			if now.Before(s.until) {
				break
			}
			p.move(s, idle, s.until)
		}
	}
}

// move changes a slot's phase and with it its place in the lists and counts.
func (p *pool) move(s *slot, to phase, now time.Time) {
	p.uncount(s)
	if to == bound && (s.phase != bound || s.since.IsZero()) {
		s.since = now
	}
	if to == bound {
		s.renewed = now
	}
	if to == idle {
		s.since = now
	}
	s.phase = to
	p.count(s)
	s.in.Remove(s.place)
	s.in, s.until = p.listFor(s, now)
	s.place = s.in.PushBack(s)
}

// listFor says where a slot waits for the end of its phase, and when that is.
func (p *pool) listFor(s *slot, now time.Time) (*list.List, time.Time) {
	switch {
	case s.phase == offered && !s.known:
		return p.ending[0], now.Add(offerUnknown)
	case s.phase == offered:
		return p.ending[1], now.Add(offerKnown)
	case s.phase == bound:
		return p.ending[2], now.Add(p.term)
	case s.phase == quarantined:
		return p.ending[3], now.Add(quarantine)
	}
	return s.net.idle, time.Time{}
}

func (p *pool) count(s *slot)   { p.tally(s, 1) }
func (p *pool) uncount(s *slot) { p.tally(s, -1) }

func (p *pool) tally(s *slot, n int) {
	s.net.count[s.phase] += n
	if s.phase != idle && !s.known && s.net.covers(s.addr) {
		s.net.strangers += n
	}
}

func (p *pool) lease(s *slot) Lease {
	return Lease{
		Addr: s.addr, MAC: s.mac, Host: s.host, Since: s.since.Round(0),
		Renewed: s.renewed.Round(0), Expires: s.until.Round(0),
	}
}
