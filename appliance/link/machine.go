package link

import (
	"fmt"
	"slices"
	"time"
)

// phase is how the machine stands to the tunnel.
type phase string

const (
	steady   phase = "steady"   // the hub answers by the active uplink, or there is no tunnel to ask
	doubtful phase = "doubtful" // it is late: the tunnel's packets go by every uplink
	mute     phase = "mute"     // it is silent on all of them: the uplinks' own probes decide
)

// machine decides which uplink is used. It is pure: events come in with their times, step says what
// is due, and take hands out the actions. Nothing in it waits, and each step looks at all that is
// known, so that neither the order of events nor a lost one leaves it in a wrong state.
//
// What it thinks of the tunnel, by the active uplink:
//
//	       start, or another uplink became active: make before break
//	                              │
//	                              ▼     life by the active one
//	┌────────┐  silence   ┌──────────────┐ ────────────────► ┌────────┐
//	│ steady │ ─────────► │   doubtful   │                   │ steady │
//	└────────┘  Interval  │ packets by   │ ◄──────────────── └────────┘
//	     ▲      + Suspect │ all uplinks  │      silence
//	     │                └──┬────────┬──┘
//	     │ life by another   │        │ no life by any for patience
//	     │ only, 3 beats:    │        ▼        ▲ trials after 5 s, 10 s, … 10 min
//	     └── that is active ─┘    ┌────────┐   │
//	              life ◄───────── │  mute  │ ──┘
//	                              └────────┘
//
// Where doubts were many and cost, silence is that of several probes: caution.go.
//
// What it thinks of each uplink; only present ones are used, the best health first:
//
//	absent ──carrier, address, way──► unproven ──one good round, or the hub──► alive
//	  ▲                                   │                                    │  ▲
//	  │ carrier: at once                  │ Down of the last Of rounds bad,    │  │ Up of the last
//	  │ address, way: after a second      │ or the hub answers elsewhere only  ▼  │ Of rounds good
//	any                                   └───────────────────────────────►  dead
//
// From a worse to a better health it goes at once; between two that are alive, to the preferred one
// after the hold: Failback without one bad round since the last switch, twice as long with each
// return that did not last an hour. A switch forgets all rounds, so that the hold begins anew. There is
// no hold where the hub did not answer by the worse one at all, and does by the preferred one.
type machine struct {
	ups      []uplink
	pref     []int // uplinks in order of preference
	mode     Mode
	failback time.Duration
	limit    int  // of switches per hour
	tunnel   bool // there is a hub to ping

	active   int // -1: none yet
	switched time.Time
	reason   string
	recent   []time.Time // switches of the last hour that nobody ordered
	level    int         // of the hold
	returned time.Time   // last failback

	phase    phase
	began    time.Time // of doubt
	since    time.Time // life after this counts in doubt: when the unanswered probe was sent
	asked    time.Time // last inner probe that is not answered, or zero
	repeats  int       // of it, before it is doubted (caution.go)
	repeated time.Time // the last of them
	doubled  int       // inner probes that cost, and when one of them was forgotten last
	forgiven time.Time
	answered time.Time     // last inner answer
	life     time.Time     // last sign of it by the active uplink
	busy     bool          // the tunnel spoke by itself lately
	beat     time.Time     // when the next inner probe of doubt or muteness is due
	alone    time.Time     // when the tunnel was put on the active uplink alone to see, or zero
	together time.Time     // when that ends
	refuted  int           // times that it did not answer there
	muted    time.Time     // since when the hub is silent everywhere, or zero
	trial    time.Time     // when all uplinks are tried again
	pause    time.Duration // between trials

	woken      time.Time // bearers are wanted until then
	duplicates bool
	wake       time.Time // when step wants to be called next; zero: when something happens
	out        []action
}

// The times of the machine that nobody needs to choose.
const (
	grace     = time.Second            // a DHCP client that renews takes the address away for a moment
	proving   = 3 * time.Second        // an uplink that has just appeared may take to answer
	dwell     = 500 * time.Millisecond // between two switches that the machine wants by itself
	longDwell = time.Minute            // the same once there were too many
	patience  = 2 * time.Second        // of doubt, without life anywhere
	lasting   = time.Hour              // a return that lasts so long was right
	maxHold   = 30 * time.Minute
	trials    = 5 * time.Second // first pause between trials of all uplinks while the hub is silent
	maxTrials = 10 * time.Minute
	trialPace = 250 * time.Millisecond // between the probes of a trial: they go by LTE, too
	refutals  = 3
)

// uplink is what the machine knows of one.
type uplink struct {
	Uplink
	bearer bool // a modem makes it

	carrier, routed bool
	why             string    // why not
	lost            time.Time // since when it has a carrier and no way
	failed          bool      // somebody said so
	until           time.Time // that ends by itself; zero: it does not
	eager           bool      // somebody wants it back without a hold

	health Health // Unproven, Alive or Dead
	reason string
	turned time.Time // of health
	rounds []bool    // latest last
	good   time.Time // since when no round was bad; zero: it was
	heard  time.Time // the hub, by it
	proved time.Time // last good round
	asked  time.Time // last round
	asking bool
	epoch  int     // of rounds: those of an older one count no more
	took   latency // of rounds
	rtt    latency // of inner probes while it is active
	wanted bool
	called time.Time // since when it is wanted
	told   Health
}

// action is something to do.
type action struct {
	do     verb
	uplink int
	on     bool
	epoch  int           // of a round
	within time.Duration // that a round may take
	event  Event
}

type verb int

const (
	doUse       verb = iota // put the tunnel on the uplink
	doDuplicate             // on or off
	doPing                  // send an inner probe
	doAsk                   // a round of the uplink's own probes, within a time
	doWant                  // its bearer, or not any more
	doTell                  // an event
)

func newMachine(c Config) *machine {
	m := &machine{mode: c.Mode, failback: c.Failback, limit: c.MaxSwitches, active: -1, phase: steady, pause: trials}
	for _, u := range c.Uplinks {
		m.ups = append(m.ups, uplink{Uplink: u, bearer: c.Bearers[u.Name] != nil, health: Unproven, why: "it was not looked at yet", told: Absent})
	}
	m.prefer()
	return m
}

// prefer orders the uplinks: as configured, but in mode lte-only the metered ones first.
func (m *machine) prefer() {
	m.pref = m.pref[:0]
	for i := range m.ups {
		m.pref = append(m.pref, i)
	}
	if m.mode == LTEOnly {
		slices.SortStableFunc(m.pref, func(a, b int) int { return boolOrder(m.ups[b].Metered) - boolOrder(m.ups[a].Metered) })
	}
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}

// set changes the mode.
func (m *machine) set(mode Mode) {
	m.mode = mode
	m.prefer()
	for i := range m.ups {
		m.ups[i].eager = m.ups[i].health == Alive // somebody wants it now
	}
}

// link takes what the kernel says of an uplink's device.
func (m *machine) link(i int, now time.Time, carrier, routed bool, why string) {
	u := &m.ups[i]
	if carrier && !u.carrier {
		m.fresh(i, now)
	}
	if carrier && u.routed && !routed {
		u.lost = now
	}
	u.carrier, u.routed, u.why = carrier, routed, why
}

// fresh forgets what was known of an uplink.
func (m *machine) fresh(i int, now time.Time) {
	u := &m.ups[i]
	u.health, u.reason, u.turned = Unproven, "nothing has answered yet", now
	u.rounds, u.good, u.lost = nil, time.Time{}, time.Time{}
	u.forget()
}

// forget gives up the round that is under way, if any: the next one may begin at once.
func (u *uplink) forget() { u.asked, u.asking, u.epoch = time.Time{}, false, u.epoch+1 }

// hear takes when the hub was last heard by an uplink.
func (m *machine) hear(i int, at time.Time) {
	if at.After(m.ups[i].heard) {
		m.ups[i].heard = at
	}
}

// answer takes an answer to an inner probe, after rtt. It is life by the active uplink unless the tunnel says
// that it came by another one: a socket whose uplink fails at once sends by the others unasked.
func (m *machine) answer(now time.Time, rtt time.Duration) {
	if m.active < 0 {
		return
	}
	asked := now.Add(-rtt)
	if !m.ups[m.active].heard.After(asked) {
		for i := range m.ups {
			if m.ups[i].heard.After(asked) {
				return
			}
		}
	}
	m.answered = now
	m.ups[m.active].rtt.add(rtt)
}

// fail and restore do what somebody ordered.
func (m *machine) fail(i int, until time.Time) { m.ups[i].failed, m.ups[i].until = true, until }

func (m *machine) restore(i int, now time.Time) {
	if m.ups[i].failed {
		m.fresh(i, now)
	}
	m.ups[i].failed, m.ups[i].eager = false, true
	m.level = 0
}

// expire restores the uplinks that had failed for a time.
func (m *machine) expire(now time.Time) {
	for i := range m.ups {
		if u := &m.ups[i]; u.failed && !u.until.IsZero() && m.due(u.until, now) {
			m.restore(i, now)
		}
	}
}

// step does what is due.
func (m *machine) step(now time.Time) {
	m.wake = time.Time{}
	m.expire(now)
	before := m.active
	m.follow(now)
	m.choose(now)
	if m.active != before {
		m.follow(now)
	}
	m.ask(now)
	m.want(now)
	m.duplicate(m.phase == doubtful && m.alone.IsZero() && m.tunnel && m.count(now) > 1)
	m.announce(now)
}

func (m *machine) duplicate(on bool) {
	if on != m.duplicates {
		m.duplicates = on
		m.out = append(m.out, action{do: doDuplicate, on: on})
	}
}

// take hands out the actions since the last call, and when to step again if nothing happens.
func (m *machine) take() ([]action, time.Time) {
	out := m.out
	m.out = nil
	return out, m.wake
}

// due reports whether t has come; if not, step wants to be called then.
func (m *machine) due(t, now time.Time) bool {
	if !t.After(now) {
		return true
	}
	if m.wake.IsZero() || t.Before(m.wake) {
		m.wake = t
	}
	return false
}

// present reports whether an uplink can carry anything.
func (m *machine) present(i int, now time.Time) bool {
	u := &m.ups[i]
	return u.carrier && (u.routed || !u.lost.IsZero() && !m.due(u.lost.Add(grace), now))
}

func (m *machine) count(now time.Time) (n int) {
	for i := range m.ups {
		if m.present(i, now) {
			n++
		}
	}
	return n
}

// healthOf is an uplink's health as others see it.
func (m *machine) healthOf(i int, now time.Time) Health {
	switch u := &m.ups[i]; {
	case !m.present(i, now):
		return Absent
	case u.failed:
		return Failed
	default:
		return u.health
	}
}

// turn changes an uplink's health.
func (m *machine) turn(i int, now time.Time, h Health, reason string) {
	u := &m.ups[i]
	if u.health == h {
		return
	}
	u.health, u.reason, u.turned, u.rounds = h, reason, now, nil
	if h == Dead {
		u.good, u.eager = time.Time{}, false
	}
	if h == Alive {
		u.good = now
		if m.phase == mute && i != m.active {
			m.trial = now // the hub may answer by it
		}
	}
}

// announce tells of each change of an uplink's health.
func (m *machine) announce(now time.Time) {
	for i := range m.ups {
		u := &m.ups[i]
		h := m.healthOf(i, now)
		if h == u.told {
			continue
		}
		u.told = h
		if h != Unproven {
			m.tell(Event{At: now, Kind: Turned, Uplink: u.Name, Reason: m.because(i, h)})
		}
	}
}

// because is one sentence about an uplink's health.
func (m *machine) because(i int, h Health) string {
	u := &m.ups[i]
	switch h {
	case Absent:
		return fmt.Sprintf("%s is absent: %s", u.Name, u.why)
	case Failed:
		return fmt.Sprintf("%s counts as failed: somebody said so", u.Name)
	}
	return fmt.Sprintf("%s is %s: %s", u.Name, h, u.reason)
}

func (m *machine) tell(e Event) { m.out = append(m.out, action{do: doTell, event: e}) }

func (m *machine) name(i int) string {
	if i < 0 {
		return ""
	}
	return m.ups[i].Name
}
