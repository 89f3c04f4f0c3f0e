package modem

import (
	"maps"
	"slices"
	"time"
)

// fault is what is wrong with a modem, as far as remedies differ.
type fault string

// The faults. What only a person can cure (a PIN, a bill, a FCC lock) is none of them.
const (
	sound     fault = ""
	gone      fault = "gone"   // no port
	mute      fault = "mute"   // a port without an answer
	lame      fault = "no AT"  // gone or mute, and its data bearer is up all the same
	noSIM     fault = "no SIM" // not read, though it may be there
	noNetwork fault = "no network"
	noData    fault = "no data" // registered, and the bearer does not come up
	refused   fault = "refused" // by the network: the SIM, or its data. Mostly it is the bill or the APN
	silent    fault = "silence" // the bearer is up, and nothing comes through: the network has forgotten it, or all we ask is dead
)

// patience is how long a fault may last before something is done about it. Modems restart by themselves, which
// takes some 40 s, and look for a network for minutes.
var patience = map[fault]time.Duration{
	gone: 90 * time.Second, mute: 30 * time.Second, noSIM: 3 * time.Minute, noNetwork: 5 * time.Minute, noData: 2 * time.Minute,
	refused: 5 * time.Minute, silent: 5 * time.Minute, lame: 15 * time.Minute, // what cures it costs whoever gets in by the bearer
}

// rung is one remedy.
type rung struct {
	name  string
	cures []fault
	wait  time.Duration // from the end of the action, for it to show; nobody judges it earlier
	tries int           // in one climb
	risk  risk
}

// risk is what a remedy may break.
type risk int

const (
	harmless risk = iota // the network is left and found again
	session_             // the AT session, messages under way
	power                // the modem itself: not every one comes back from a cut
	box                  // everything
)

// The rungs, by risk. The waits are those of real modems: a restart takes up to a minute, and the search for a network as
// long again; a climb that does not wait for it finds its own doing to be the fault (openwrt/packages#29318).
// Against silence, and a network that says no, nothing is done that could cost more than it: what we ask may be what is
// dead, and what the network wants may be money.
var rungs = []rung{
	{name: "attach", cures: []fault{noNetwork, noData, refused}, wait: 45 * time.Second, tries: 2, risk: harmless},
	{name: "bearer", cures: []fault{noData, silent}, wait: 90 * time.Second, tries: 2, risk: harmless},
	{name: "radio", cures: []fault{noSIM, noNetwork, noData, refused, silent}, wait: 90 * time.Second, tries: 1, risk: session_},
	{name: "restart", cures: []fault{noSIM, noNetwork, noData, silent}, wait: 3 * time.Minute, tries: 1, risk: session_},
	{name: "usb", cures: []fault{mute, lame, noSIM, noNetwork, noData}, wait: 3 * time.Minute, tries: 2, risk: session_},
	{name: "power", cures: []fault{gone, mute, lame, noSIM, noNetwork, noData}, wait: 5 * time.Minute, tries: 2, risk: power},
	{name: "reboot", cures: []fault{gone, mute, noNetwork, noData}, wait: 10 * time.Minute, tries: 1, risk: box},
}

// Times of the ladder.
const (
	provenAfter = 2 * time.Minute // without a fault, before a remedy is believed
	firstRest   = 15 * time.Minute
	lastRest    = 6 * time.Hour
	rebootEvery = 12 * time.Hour // at most: a box that reboots in a circle rescues nobody
)

// ladder decides what is done about a modem, and when: pure logic, told the time.
//
//	well --fault--> patient --patience over--> acting --acted--> waiting --its wait over--> acting (the next rung)
//	patient --no fault--> well
//	waiting --no fault--> proving --2 min--> well, and what was done last is remembered as what helps
//	proving --fault--> waiting (for the rest of the wait)
//	waiting --no rung left--> resting --its time over, doubled each round--> acting (from the first rung)
//	resting --no fault for 2 min--> well
//
// What helped against the same fault the last time is done first, if it risks no more than the
// modem, and a cut of power only if it is known to have helped more often than not.
type ladder struct {
	rungs    []rung // those that can be done here
	memory   *climbs
	state    climbState
	fault    fault
	until    time.Time // the present state's end
	clear    time.Time // when the fault went away; zero while it is there
	used     map[string]int
	last     string // the rung done last; "" none in this climb
	rest     time.Duration
	climbed  int
	lastMove time.Time
	changed  bool // the memory is newer than what was saved
}

type climbState int

const (
	well climbState = iota
	patient
	acting
	waiting
	proving
	resting
)

// climbs is what is remembered of earlier climbs, over restarts.
type climbs struct {
	Helped   map[fault]string       `json:"helped,omitempty"` // by fault, the rung that ended it last
	Count    map[string]*rungRecord `json:"count,omitempty"`  // by rung
	Rebooted time.Time              `json:"rebooted,omitzero"`
}

// rungRecord is how a rung did.
type rungRecord struct {
	Tried  int       `json:"tried"`
	Helped int       `json:"helped"`
	Last   time.Time `json:"last"`
}

// clone is a copy that shares nothing.
func (c *climbs) clone() climbs {
	d := climbs{Helped: maps.Clone(c.Helped), Count: map[string]*rungRecord{}, Rebooted: c.Rebooted}
	for name, r := range c.Count {
		copied := *r
		d.Count[name] = &copied
	}
	return d
}

func newLadder(can []rung, memory *climbs) *ladder {
	if memory.Helped == nil {
		memory.Helped = map[fault]string{}
	}
	if memory.Count == nil {
		memory.Count = map[string]*rungRecord{}
	}
	return &ladder{rungs: can, memory: memory, used: map[string]int{}, rest: firstRest}
}

// see tells the ladder how the modem is now. It returns the rung to be done at once, or "", and when to be asked again
// at the latest; the zero time is: at the next change.
func (l *ladder) see(now time.Time, f fault) (do string, again time.Time) {
	switch l.state {
	case well:
		if f == sound {
			return "", time.Time{}
		}
		l.begin(now, f)
	case patient:
		l.patient(now, f)
	case waiting, resting:
		l.note(now, f)
	case proving:
		l.prove(now, f)
	}
	if l.state == acting || l.state == well || l.state == proving || now.Before(l.until) {
		return "", l.until
	}
	return l.climb(now)
}

func (l *ladder) begin(now time.Time, f fault) {
	l.state, l.fault, l.until = patient, f, now.Add(patience[f])
	l.used, l.last, l.rest, l.climbed = map[string]int{}, "", firstRest, 0
}

// patient follows a fault that turns into another one: a port that appeared and is mute yet is progress.
func (l *ladder) patient(now time.Time, f fault) {
	switch f {
	case sound:
		l.finish()
	case l.fault:
	default:
		l.begin(now, f)
	}
}

// note sees whether the fault went away after the last rung.
func (l *ladder) note(now time.Time, f fault) {
	if f == sound {
		l.clear, l.lastMove = now, l.until
		l.state, l.until = proving, now.Add(provenAfter)
		return
	}
	l.fault = f
}

// prove believes in a cure only after a while.
func (l *ladder) prove(now time.Time, f fault) {
	switch {
	case f != sound:
		l.state, l.fault, l.until = waiting, f, l.lastMove
	case !now.Before(l.until):
		l.credit()
		l.finish()
	}
}

// credit remembers what helped, if something was done.
func (l *ladder) credit() {
	if l.last == "" || l.fault == sound {
		return
	}
	l.memory.Helped[l.fault] = l.last
	l.record(l.last).Helped++
	l.changed = true
}

func (l *ladder) finish() {
	l.state, l.fault, l.until, l.last = well, sound, time.Time{}, ""
}

func (l *ladder) record(name string) *rungRecord {
	r := l.memory.Count[name]
	if r == nil {
		r = &rungRecord{}
		l.memory.Count[name] = r
	}
	return r
}

// climb takes the next rung, or rests when there is none.
func (l *ladder) climb(now time.Time) (string, time.Time) {
	if l.state == resting {
		l.used, l.last = map[string]int{}, ""
	}
	r := l.next(now)
	if r == nil {
		l.state, l.until = resting, now.Add(l.rest)
		l.rest = min(2*l.rest, lastRest)
		return "", l.until
	}
	l.take(now, r.name)
	return r.name, time.Time{}
}

// take notes that a rung is done now, by the ladder or by a person.
func (l *ladder) take(now time.Time, name string) {
	l.state, l.last, l.until = acting, name, time.Time{}
	l.used[name]++
	l.climbed++
	c := l.record(name)
	c.Tried++
	c.Last = now
	l.changed = true
	if name == "reboot" {
		l.memory.Rebooted = now
	}
}

// asked takes the rung that a person wants, or with "" the one that suits; the box is rebooted only by its name.
func (l *ladder) asked(now time.Time, f fault, name string) string {
	if l.state == well && f != sound {
		l.begin(now, f)
	}
	if r := l.next(now); name == "" && l.state != well && r != nil && r.risk < box {
		name = r.name
	}
	if name == "" {
		name = "restart"
		if !slices.ContainsFunc(l.rungs, func(r rung) bool { return r.name == name }) {
			name = l.rungs[0].name
		}
	}
	l.take(now, name)
	return name
}

// acted tells that the rung was done, and how that ended: one that cannot be done is not waited for.
func (l *ladder) acted(now time.Time, err error) {
	l.state, l.until = waiting, now
	i := slices.IndexFunc(l.rungs, func(r rung) bool { return r.name == l.last })
	if err == nil && i >= 0 {
		l.until = now.Add(l.rungs[i].wait)
	}
	if err != nil && i >= 0 {
		l.used[l.last] = l.rungs[i].tries
		l.last = ""
	}
}

// next is the rung to be done: the one that helped the last time, else the least of those left.
func (l *ladder) next(now time.Time) *rung {
	var first *rung
	for i := range l.rungs {
		r := &l.rungs[i]
		if !slices.Contains(r.cures, l.fault) || l.used[r.name] >= r.tries || r.risk == box && now.Sub(l.memory.Rebooted) < rebootEvery {
			continue
		}
		if l.climbed == 0 && l.memory.Helped[l.fault] == r.name && l.trusted(r) {
			return r
		}
		if first == nil {
			first = r
		}
	}
	return first
}

// trusted says whether a rung may be done before those that risk less.
func (l *ladder) trusted(r *rung) bool {
	c := l.record(r.name)
	return r.risk < power || r.risk == power && 2*c.Helped > c.Tried
}
