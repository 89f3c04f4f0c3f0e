package appliance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/power"
)

// Where a press is taken up after a restart of the box, and how often the machine is cycled then.
func TestPressResumed(t *testing.T) {
	const discoverAfter = 40 * time.Second
	starts := func(n int) []string { return slices.Repeat([]string{"start network uefi=true"}, n) }
	discover := boot.Event{Step: boot.StepDiscover, Order: "ab"}
	for _, c := range []struct {
		name       string
		press      boot.Press // of an hour ago, where it says nothing else
		taken      bool       // its power
		controller fakeController
		later      map[time.Duration]func(*fakeController)
		timeline   []boot.Event
		heardAfter time.Duration // of the resumption, where nothing is started
		log        []string
		steps      string // the last that were stored
		told       string
		failed     bool
		took       time.Duration
	}{
		{name: "before its button was pressed", press: boot.Press{Step: boot.PressOrdered}, log: starts(1), steps: "power 1|wait 1|heard 1", took: discoverAfter},
		{name: "nothing was sent", press: boot.Press{Step: boot.PressPower, Tries: 1}, controller: fakeController{state: bmc.On},
			log: starts(1), steps: "power 1|wait 1|heard 1", told: "its power was not touched yet", took: discoverAfter},
		{name: "power was taken", press: boot.Press{Step: boot.PressPower, Tries: 1, Since: bubbles}, taken: true, controller: fakeController{state: bmc.Off},
			log: starts(1), steps: "power 1|wait 1|heard 1", told: "power is off, and was not given back", took: restFor + discoverAfter},
		{name: "power goes off late", press: boot.Press{Step: boot.PressPower, Tries: 1, Since: bubbles}, taken: true, controller: fakeController{state: bmc.On},
			later: map[time.Duration]func(*fakeController){31 * time.Second: func(c *fakeController) { c.state = bmc.Off }},
			log:   starts(1), steps: "power 1|wait 1|heard 1", took: 32*time.Second + discoverAfter},
		{name: "a cycle of the controller's own", press: boot.Press{Step: boot.PressPower, Tries: 1, Since: bubbles}, taken: true, controller: fakeController{state: bmc.Off},
			later:      map[time.Duration]func(*fakeController){5 * time.Second: func(c *fakeController) { c.state = bmc.On }},
			heardAfter: 90 * time.Second, steps: "heard 1", told: "power was switched already: it is waited for", took: 90 * time.Second},
		{name: "heard of while the box was away", press: boot.Press{Step: boot.PressWait, Tries: 1}, timeline: []boot.Event{{Step: boot.StepDiscover, Order: "ab", Time: bubbles}},
			controller: fakeController{state: bmc.On}, steps: "heard 1"},
		{name: "it waits, and once more", press: boot.Press{Step: boot.PressWait, Tries: 1}, controller: fakeController{state: bmc.On},
			timeline: []boot.Event{{Step: boot.StepDiscover, Order: "ab", Time: bubbles.Add(-2 * time.Hour)}},
			log:      starts(1), steps: "power 2|wait 2|heard 2", told: "once more", took: bootPatience + discoverAfter},
		{name: "the last try stays the last", press: boot.Press{Step: boot.PressWait, Tries: 2}, controller: fakeController{state: bmc.On}, failed: true, took: bootPatience},
		{name: "the controller is not back yet", press: boot.Press{Step: boot.PressPower, Tries: 1}, taken: true, controller: fakeController{powerErr: bmc.ErrSilent},
			later: map[time.Duration]func(*fakeController){21 * time.Second: func(c *fakeController) { c.state, c.powerErr = bmc.Off, nil }},
			log:   starts(1), steps: "power 1|wait 1|heard 1", took: 22*time.Second + discoverAfter},
		{name: "the system refuses since it is shutting down", press: boot.Press{Soft: true, Step: boot.PressShutdown}, controller: fakeController{state: bmc.On, softErr: bmc.ErrNotTaken},
			later: map[time.Duration]func(*fakeController){31 * time.Second: func(c *fakeController) { c.state = bmc.Off }},
			log:   append([]string{"soft"}, starts(1)...), steps: "power 1|wait 1|heard 1", told: "may have been asked to shut down", took: 35*time.Second + discoverAfter},
		{name: "a shutdown that was waited for is not asked for again", press: boot.Press{Soft: true, Step: boot.PressPower, Tries: 1}, controller: fakeController{state: bmc.On},
			log: starts(1), steps: "power 1|wait 1|heard 1", took: discoverAfter},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				if c.press.Since.IsZero() {
					c.press.Since = now.Add(-time.Hour)
				}
				f := &fakeOrders{order: boot.Order{ID: "ab", Machine: "srv01", State: boot.Armed, Press: c.press}, open: true, events: make(chan boot.Event, 10), timeline: c.timeline}
				p := fakePresser(f)
				if c.taken {
					p.taken.take("srv01", api.ByBMC)
				}
				b := c.controller
				b.started = func(int) { time.AfterFunc(discoverAfter, func() { f.events <- discover }) }
				for after, do := range c.later {
					b.changes = append(b.changes, change[*fakeController]{now.Add(after), do})
				}
				if c.heardAfter > 0 {
					time.AfterFunc(c.heardAfter, func() { f.events <- discover })
				}
				p.press(t.Context(), f.order, &b, "")
				if took := time.Since(now); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if !slices.Equal(b.log, c.log) {
					t.Errorf("the controller got %q, want %q", b.log, c.log)
				}
				if steps := strings.Join(f.steps, "|"); !strings.HasSuffix(steps, c.steps) {
					t.Errorf("stored %q, want %q", steps, c.steps)
				}
				if told := strings.Join(f.told, "|"); !strings.Contains(told, c.told) {
					t.Errorf("told %q, want %q", told, c.told)
				}
				if _, taken := p.taken.of("srv01"); (f.failed != "") != c.failed || !c.failed && taken {
					t.Errorf("failed %q, its power still taken: %t", f.failed, taken)
				}
			})
		})
	}
}

// bubbles is the time at which each bubble of testing/synctest begins.
var bubbles = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// setter is a controller that keeps what was to be once.
type setter struct {
	fakeController
	set  []bmc.Boot
	next bmc.Next
	err  error
}

func (s *setter) Next(context.Context) (bmc.Next, error) { return s.next, s.err }
func (s *setter) Set(_ context.Context, b bmc.Boot) (bmc.Next, error) {
	s.set = append(s.set, b)
	return bmc.Next{Boot: b}, nil
}

// What an order set is taken back when it is over, if it is still there and still the order's.
func TestTidy(t *testing.T) {
	network := bmc.Next{Boot: bmc.Boot{Device: bmc.Network, UEFI: true}, Held: true}
	tried := boot.Press{Step: boot.PressHeard, Tries: 1}
	for name, c := range map[string]struct {
		press boot.Press
		next  bmc.Next
		err   error
		open  bool // another order
		sets  int
		log   string
		told  string
	}{
		"kept":            {press: tried, next: network, sets: 1, told: "the boot from network was still set in its BMC and is taken back"},
		"used up":         {press: tried, next: bmc.Next{Boot: bmc.Boot{Device: bmc.Usual}}},
		"not marked":      {press: tried, next: bmc.Next{Boot: network.Boot}},
		"somebody else's": {press: tried, next: bmc.Next{Boot: bmc.Boot{Device: bmc.Disk}, Held: true}},
		"nothing was set": {press: boot.Press{Step: boot.PressShutdown}, next: network},
		"a new order's":   {press: tried, next: network, open: true},
		"silent":          {press: tried, err: bmc.ErrSilent, told: "is not known, look there"},
		"its disk":        {press: boot.Press{Media: true, Step: boot.PressWait, Tries: 1}, next: bmc.Next{Boot: bmc.Boot{Device: bmc.VirtualCD}, Held: true}, sets: 1, log: "eject", told: "the boot from cd"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeOrders{order: boot.Order{ID: "new"}, open: c.open}
				b := &setter{next: c.next, err: c.err}
				fakePresser(f).tidy(t.Context(), boot.Order{ID: "ab", Machine: "srv01", State: boot.Failed, Press: c.press}, b, true)
				if len(b.set) != c.sets || c.sets > 0 && b.set[0].Device != bmc.Usual || strings.Join(b.log, " ") != c.log {
					t.Errorf("set %v, got %q", b.set, b.log)
				}
				if told := strings.Join(f.told, "|"); !strings.Contains(told, c.told) || c.told == "" && told != "" {
					t.Errorf("told %q", told)
				}
				if f.order.Press.Step != boot.PressOver {
					t.Errorf("it is left at %q", f.order.Press.Step)
				}
			})
		})
	}
}

// A socket that is silent after a cycle, or stays off, does not use up the day's text messages.
func TestGiveBackByText(t *testing.T) {
	for name, outlet := range map[string]*outletSwitch{"silent": {state: power.Off, err: power.ErrSilent}, "stays off": {state: power.Off, onErr: power.ErrNotTaken}} {
		synctest.Test(t, func(t *testing.T) {
			p := &powering{presser: *fakePresser(&fakeOrders{})}
			p.taken = newTaken(fakeTaken{"srv01": {Machine: "srv01", By: api.BySwitch, Time: bubbles}}, nil)
			p.giveBack(t.Context(), "srv01", &machinePower{name: "srv01", outlet: outlet, texts: true, taken: p.taken})
			if said := outlet.asked + len(outlet.log); outlet.asked < 5 || said > 25 {
				t.Errorf("%s: asked %d times in a day, %d messages", name, outlet.asked, said)
			}
		})
	}
}

// outletSwitch is an outlet with a state.
type outletSwitch struct {
	asked int
	fakeSwitch
	changes []change[*outletSwitch]
	state   power.State
	err     error
	onErr   error
}

func (o *outletSwitch) State(context.Context) (power.State, error) {
	o.asked++
	o.changes = due(o.changes, o)
	return o.state, o.err
}
func (o *outletSwitch) On(context.Context) error {
	o.log = append(o.log, "on")
	if o.onErr == nil {
		o.state = power.On
	}
	return o.onErr
}
func (o *outletSwitch) Cycle(context.Context) error {
	o.log = append(o.log, "cycle")
	o.state = power.On
	return nil
}

// A power that was taken is given back, by whatever the switch can do and say; but not against somebody's word, nor days later.
func TestGiveBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		age    time.Duration
		outlet outletSwitch
		later  map[time.Duration]func(*machinePower, *outletSwitch)
		log    string
		told   string
		took   time.Duration // at most
	}{
		{name: "off", outlet: outletSwitch{state: power.Off}, log: "on", told: "it is switched on again|power is back", took: offWithin + 2*glance},
		{name: "off for hours", age: 5 * time.Hour, outlet: outletSwitch{state: power.Off}, log: "on", told: "power is back", took: 2 * glance},
		{name: "on all the time", outlet: outletSwitch{state: power.On}, took: offWithin + glance},
		{name: "goes off late", outlet: outletSwitch{state: power.On}, log: "on", told: "power is back", took: offWithin + 2*glance,
			later: map[time.Duration]func(*machinePower, *outletSwitch){40 * time.Second: func(_ *machinePower, o *outletSwitch) { o.state = power.Off }}},
		{name: "silent for a while", outlet: outletSwitch{state: power.Off, err: power.ErrSilent}, log: "on", told: "is not known: the switch does not answer; it is asked again|power was taken", took: time.Hour,
			later: map[time.Duration]func(*machinePower, *outletSwitch){20 * time.Minute: func(_ *machinePower, o *outletSwitch) { o.err = nil }}},
		{name: "cannot say", outlet: outletSwitch{err: power.ErrUnsupported}, log: "on", told: "cannot be seen", took: glance},
		{name: "can only cycle", age: time.Hour, outlet: outletSwitch{state: power.Off, onErr: power.ErrUnsupported}, log: "on cycle", told: "power is back", took: 2 * glance},
		{name: "switched off by hand meanwhile", outlet: outletSwitch{state: power.Off, err: power.ErrSilent}, took: 5*time.Minute + askAgain,
			later: map[time.Duration]func(*machinePower, *outletSwitch){5 * time.Minute: func(p *machinePower, o *outletSwitch) { p.taken.back("srv01"); o.err = nil }}},
		{name: "days ago", age: 2 * takenFor, outlet: outletSwitch{state: power.Off}, told: "nobody knows whether it came back"},
		{name: "never an answer", outlet: outletSwitch{err: power.ErrSilent}, told: "cannot be seen: look at it", took: takenFor + askAgain},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := fakeTaken{"srv01": {Machine: "srv01", By: api.BySwitch, Time: time.Now().Add(-c.age)}}
				f := &fakeOrders{}
				p := &powering{presser: *fakePresser(f)}
				p.taken = newTaken(store, nil)
				m := &machinePower{name: "srv01", outlet: &c.outlet, taken: p.taken}
				for after, do := range c.later {
					c.outlet.changes = append(c.outlet.changes, change[*outletSwitch]{time.Now().Add(after), func(o *outletSwitch) { do(m, o) }})
				}
				begun := time.Now()
				p.giveBack(t.Context(), "srv01", m)
				if took := time.Since(begun); took > c.took {
					t.Errorf("took %s, want %s at most", took, c.took)
				}
				if got := strings.Join(c.outlet.log, " "); got != c.log {
					t.Errorf("the switch got %q, want %q", got, c.log)
				}
				if told := strings.Join(f.told, "|"); !strings.Contains(told, c.told) {
					t.Errorf("told %q, want %q", told, c.told)
				}
				if len(store) != 0 {
					t.Errorf("still stored: %v", fmt.Sprint(store))
				}
			})
		})
	}
}
