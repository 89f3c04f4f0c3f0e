package vpn

import "time"

// How long the hubs are given. An answer to data may lawfully take ten seconds and a round
// trip (WireGuard's passive keepalive), so a shorter silence says nothing.
const (
	suspectAfter = 12 * time.Second // then the other hubs are called
	deadAfter    = 20 * time.Second // then one of them that answered is used
	trialTime    = 10 * time.Second // how long earlier hubs have to answer
	trialEvery   = time.Minute      // how often they are called, while a later one is used
	trialSeldom  = 10 * time.Minute // the same, where each byte costs
	trialsGood   = 3                // in a row, and an earlier hub is used again
)

// contest decides which hub is used. It is pure: step gets the time and what is known.
//
//	   ┌───────── ours answers ──────────┐
//	   ▾                                 │
//	content ──ours owes 12 s──▸ rescue: all others are called
//	 ▴   │                               │
//	 │   │            ours owes 20 s and another answered: that one is used
//	 ├───┼───────────────────────────────┘
//	 │   └──a later one is used, each minute──▸ return: the earlier ones are called
//	 │                                            │
//	 └── 10 s; the earliest answered 3 times in a row: it is used again
//
// Where none answers, the one in use stays: it is as good as any, and all are called.
type contest struct {
	hubs  int
	using int
	trial trial

	began time.Time // of the trial
	next  time.Time // return
	best  int       // the hub that answered the last returns
	good  int       // how many in a row
}

// trial is why hubs that are not used are called.
type trial byte

const (
	content trial = iota
	rescue
	comeback
)

// step goes on with the time. Peers are those that answer to called; metered says that
// the uplink in use costs. It reports whether called or using changed.
func (c *contest) step(now time.Time, peers []peerState, metered bool) bool {
	before := *c
	switch c.trial {
	case content:
		if c.hubs > 1 && c.owed(now, peers) >= suspectAfter {
			c.trial, c.began = rescue, now
		} else if c.using > 0 && !now.Before(c.next) {
			c.trial, c.began = comeback, now
		}
	case rescue:
		c.rescued(now, peers, metered)
	case comeback:
		if now.Sub(c.began) >= trialTime {
			c.judge(now, peers, metered)
		}
	}
	return c.trial != before.trial || c.using != before.using
}

// called are the hubs that are to be called now, the one in use first.
func (c *contest) called() []int {
	list := []int{c.using}
	for i := range c.hubs {
		if c.trial == rescue && i != c.using || c.trial == comeback && i < c.using {
			list = append(list, i)
		}
	}
	return list
}

// owed is how long the hub in use owes an answer.
func (c *contest) owed(now time.Time, peers []peerState) time.Duration {
	for _, p := range peers {
		if p.Hub == c.using && !p.Asked.IsZero() {
			return now.Sub(p.Asked)
		}
	}
	return 0
}

func (c *contest) rescued(now time.Time, peers []peerState, metered bool) {
	owed := c.owed(now, peers)
	if owed < suspectAfter {
		c.trial = content
	} else if i := c.answered(peers, c.hubs); i >= 0 && owed >= deadAfter {
		c.use(i, now, metered)
	}
}

// judge ends the calls for a return.
func (c *contest) judge(now time.Time, peers []peerState, metered bool) {
	i := c.answered(peers, c.using)
	if i < 0 || i != c.best {
		c.good = 0
	}
	c.trial, c.best, c.next = content, i, now.Add(between(metered))
	if i < 0 {
		return
	}
	if c.good++; c.good >= trialsGood {
		c.use(i, now, metered)
	}
}

func (c *contest) use(i int, now time.Time, metered bool) {
	c.using, c.trial, c.good, c.best = i, content, 0, -1
	c.next = now.Add(between(metered))
}

// answered is the first of the hubs before limit that shook hands since the trial began, but the one in use; -1
// is none. Others than that are WireGuard's peers only during a trial, and so each handshake of theirs is from it. When it
// was says nothing: that is by the wall clock, which may have been set meanwhile.
func (c *contest) answered(peers []peerState, limit int) int {
	first := -1
	for _, p := range peers {
		if p.Hub != c.using && p.Hub < limit && !p.Handshake.IsZero() && (first < 0 || p.Hub < first) {
			first = p.Hub
		}
	}
	return first
}

func between(metered bool) time.Duration {
	if metered {
		return trialSeldom
	}
	return trialEvery
}
