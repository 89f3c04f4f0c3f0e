package link

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// site is a branch with its uplinks and a hub, in simulated time. The machine under test
// gets what the box would hear; what is asserted is what the admin at the hub sees.
type site struct {
	t        testing.TB
	m        *machine
	now      time.Time
	queue    queue
	ups      []simulated
	deaf     bool // the hub is down
	use      int
	dup      bool
	endpoint int // by which uplink the hub answers: that of the first copy of the last packet
	seq      int // of the newest packet that the hub took
	sent     int
	chatty   bool // the admin sends all the time
	answers  time.Time
	gap      time.Duration // the longest that the admin saw
	events   []Event
	forced   map[int]bool // switches that a plug or a person forced
	pings    int
	rounds   []int
	copies   int // packets that left twice
	doubts   int
	luck     *rand.Rand
	numb     bool // the tunnel does not say by which uplink it hears, and does not go by several
}

type simulated struct {
	unplugged, unrouted, dark, filtered bool // dark: nothing passes; filtered: the tunnel does not
	oneWay, refuses                     bool // oneWay: nothing comes back; refuses: a send fails at once, and the tunnel goes by the others
	latency                             time.Duration
	loss                                float64       // of the tunnel's packets, each way
	dialling                            time.Duration // of a bearer
	up                                  bool          // a bearer
}

type event struct {
	at   time.Time
	n    int
	what func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].n < q[j].n
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any     { old := *q; x := old[len(old)-1]; *q = old[:len(old)-1]; return x }

var theStart = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// idle is a Bearer for configurations: the site does what it would.
type idle struct{}

func (idle) Want(bool) {}

func newSite(t testing.TB, change func(*Config)) *site {
	c := Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}}}
	if change != nil {
		change(&c)
	}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, luck: rand.New(rand.NewPCG(1, 2)), now: theStart, use: -1, endpoint: -1, forced: map[int]bool{}, rounds: make([]int, len(c.Uplinks))}
	for i := range c.Uplinks {
		s.ups = append(s.ups, simulated{latency: time.Duration(1+4*i) * time.Millisecond, dialling: 5 * time.Second})
	}
	s.m = newMachine(w.c)
	s.m.tunnel = true
	s.links()
	return s
}

// restart is the daemon's: everything is forgotten.
func (s *site) restart(c Config) {
	w, err := New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.m = newMachine(w.c)
	s.m.tunnel = true
	s.links()
}

func (s *site) at(d time.Duration, what func()) {
	heap.Push(&s.queue, event{s.now.Add(d), len(s.queue) + s.sent, what})
}

func (s *site) links() {
	for i := range s.ups {
		u := &s.ups[i]
		carrier := !u.unplugged && (!s.m.ups[i].bearer || u.up)
		s.m.link(i, s.now, carrier, carrier && !u.unrouted, "the test says so")
	}
}

// run lets time pass.
func (s *site) run(d time.Duration) {
	end := s.now.Add(d)
	for {
		s.step()
		next := end
		if wake := s.m.wake; !wake.IsZero() && wake.Before(next) {
			next = wake
		}
		if len(s.queue) > 0 && s.queue[0].at.Before(next) {
			next = s.queue[0].at
		}
		if next.After(s.now) {
			s.now = next
		}
		for len(s.queue) > 0 && !s.queue[0].at.After(s.now) {
			heap.Pop(&s.queue).(event).what()
		}
		if !s.now.Before(end) {
			s.step()
			return
		}
	}
}

func (s *site) step() {
	s.m.step(s.now)
	acts, wake := s.m.take()
	if !wake.IsZero() && !wake.After(s.now) {
		s.t.Fatalf("%v: the machine wants to be called at once, without end", s.clock())
	}
	for _, a := range acts {
		s.do(a)
	}
}

func (s *site) do(a action) {
	switch a.do {
	case doUse:
		s.use = a.uplink
		s.packet(func(int) {}) // kicks
	case doDuplicate:
		if s.dup = a.on; a.on {
			s.doubts++
		}
	case doPing:
		s.pings++
		sent := s.now
		s.packet(func(by int) { s.hear(by); s.m.answer(s.now, s.now.Sub(sent)) })
	case doAsk:
		s.rounds[a.uplink]++
		s.round(a)
	case doWant:
		s.dial(a)
	case doTell:
		s.events = append(s.events, a.event)
	}
}

func (s *site) dial(a action) {
	if !a.on {
		s.ups[a.uplink].up = false
		s.links()
		return
	}
	s.at(s.ups[a.uplink].dialling, func() {
		s.ups[a.uplink].up = s.m.ups[a.uplink].wanted
		s.links()
	})
}

func (s *site) round(a action) {
	u := s.ups[a.uplink]
	began := s.now
	if s.passes(a.uplink) {
		s.at(2*u.latency, func() {
			if s.passes(a.uplink) && !s.ups[a.uplink].oneWay {
				s.m.round(a.uplink, a.epoch, s.now, s.now.Sub(began), nil)
			} else {
				s.at(a.within-2*u.latency, func() { s.m.round(a.uplink, a.epoch, s.now, a.within, errSilent) })
			}
		})
		return
	}
	s.at(a.within, func() { s.m.round(a.uplink, a.epoch, s.now, a.within, errSilent) })
}

func (s *site) passes(i int) bool {
	u := s.ups[i]
	return !u.unplugged && !u.dark && !u.refuses && (!s.m.ups[i].bearer || u.up)
}

func (s *site) lost(i int) bool { return s.ups[i].loss > 0 && s.luck.Float64() < s.ups[i].loss }

func (s *site) tunnels(i int) bool { return s.passes(i) && !s.ups[i].filtered }

func (s *site) hear(by int) {
	if !s.numb {
		s.m.hear(by, s.now)
	}
}

// packet goes from the box to the hub, which answers by the uplink of the first copy.
func (s *site) packet(answer func(by int)) {
	s.sent++
	n, first := s.sent, true
	refused := s.use >= 0 && s.ups[s.use].refuses
	for i := range s.ups {
		if i != s.use && (!s.dup && !refused || s.numb) {
			continue
		}
		if i != s.use {
			s.copies++
		}
		if !s.tunnels(i) || s.lost(i) {
			continue
		}
		s.at(s.ups[i].latency, func() {
			if s.deaf || !first || n < s.seq {
				return
			}
			first = false
			s.seq, s.endpoint = n, i
			s.back(i, answer)
		})
	}
}

func (s *site) back(by int, answer func(by int)) {
	if by < 0 || s.deaf || !s.tunnels(by) || s.lost(by) {
		return
	}
	s.at(s.ups[by].latency, func() {
		if s.tunnels(by) && !s.ups[by].oneWay {
			answer(by)
		}
	})
}

// chat is the admin at the hub, who asks the box every 5 ms.
func (s *site) chat() {
	if !s.chatty {
		return
	}
	s.at(5*time.Millisecond, s.chat)
	s.back(s.endpoint, func(by int) {
		s.hear(by)
		s.packet(func(int) {})
		s.admin() // its answer reaches the hub if packet does; near enough
	})
}

func (s *site) admin() {
	ok := s.use >= 0 && s.tunnels(s.use)
	for i := range s.ups {
		ok = ok || s.dup && s.tunnels(i)
	}
	if !ok {
		return
	}
	if !s.answers.IsZero() {
		s.gap = max(s.gap, s.now.Sub(s.answers))
	}
	s.answers = s.now
}

func (s *site) clock() time.Duration { return s.now.Sub(theStart) }

func (s *site) active() string { return s.m.name(s.m.active) }

func (s *site) want(uplink string) {
	s.t.Helper()
	if s.active() != uplink || s.m.name(s.use) != uplink {
		s.t.Fatalf("after %v %q is active and the tunnel uses %q, want %q\n%s", s.clock(), s.active(), s.m.name(s.use), uplink, s.story())
	}
}

func (s *site) switches() (list []Event) {
	for _, e := range s.events {
		if e.Kind == Switched {
			list = append(list, e)
		}
	}
	return list
}

func (s *site) story() string {
	var b strings.Builder
	for _, e := range s.events {
		fmt.Fprintf(&b, "%12v %-7s %s→%s: %s\n", e.At.Sub(theStart), e.Kind, e.From, e.Uplink, e.Reason)
	}
	fmt.Fprintf(&b, "phase %s, dup %v, muted %v\n", s.m.phase, s.dup, s.m.muted)
	for i := range s.m.ups {
		u := &s.m.ups[i]
		fmt.Fprintf(&b, "%s: %s (%s) good since %v, rounds %v\n", u.Name, s.m.healthOf(i, s.now), u.reason, u.good.Sub(theStart), u.rounds)
	}
	return b.String()
}
