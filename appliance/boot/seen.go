package boot

import (
	"container/list"
	"slices"
	"time"
)

// maxSeen bounds the memory that strangers on the LAN can take.
const maxSeen = 1024

// Sighting is a boot client that was seen on the LAN.
type Sighting struct {
	Client  Client
	Machine string // "" if not known
	First   time.Time
	Last    time.Time
	Count   int    // boot requests
	Answer  string // what it was told last
}

// sightings keeps the clients seen last, by MAC. The oldest stranger is forgotten
// first: a machine known by its UUID alone is found by what was seen of its MAC.
type sightings struct {
	byMAC map[MAC]*list.Element // of *Sighting
	order *list.List            // newest first
}

func newSightings() sightings {
	return sightings{byMAC: map[MAC]*list.Element{}, order: list.New()}
}

// note records a boot request and its answer.
func (s *sightings) note(c Client, machine, answer string, now time.Time) {
	e, ok := s.byMAC[c.MAC]
	if !ok {
		e = s.order.PushFront(&Sighting{First: now})
		s.byMAC[c.MAC] = e
	}
	s.order.MoveToFront(e)
	seen := e.Value.(*Sighting)
	if c.UUID.IsZero() {
		c.UUID = seen.Client.UUID
	}
	seen.Client, seen.Machine, seen.Last, seen.Answer = c, machine, now, answer
	seen.Count++
	if s.order.Len() > maxSeen {
		last := s.oldest()
		delete(s.byMAC, last.Value.(*Sighting).Client.MAC)
		s.order.Remove(last)
	}
}

// oldest is whom to forget.
func (s *sightings) oldest() *list.Element {
	for e := s.order.Back(); e != s.order.Front(); e = e.Prev() {
		if e.Value.(*Sighting).Machine == "" {
			return e
		}
	}
	return s.order.Back()
}

// uuid is the UUID that a MAC's boot requests carried, or zero.
func (s *sightings) uuid(mac MAC) UUID {
	if e, ok := s.byMAC[mac]; ok {
		return e.Value.(*Sighting).Client.UUID
	}
	return UUID{}
}

// arch is the architecture that a MAC's boot requests carried.
func (s *sightings) arch(mac MAC) Arch {
	if e, ok := s.byMAC[mac]; ok {
		return e.Value.(*Sighting).Client.Arch
	}
	return UnknownArch
}

// seenArch is arch for who does not hold the lock.
func (t *Table) seenArch(mac MAC) Arch {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen.arch(mac)
}

// Seen lists the clients seen since the start, newest first, at most 1024.
func (t *Table) Seen() []Sighting {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Sighting
	for e := t.seen.order.Front(); e != nil; e = e.Next() {
		all = append(all, *e.Value.(*Sighting))
	}
	return slices.Clip(all)
}
