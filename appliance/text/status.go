package text

import (
	"slices"
	"time"
)

// Status is how the desk stands.
type Status struct {
	Budget  int           // messages in 24 hours
	Spent   int           // of it
	Back    time.Duration // until some of what is spent comes back; 0 where nothing is
	Waiting int           // messages to be sent
	Numbers []Number
}

// Number is how a sender stands.
type Number struct {
	Number   string
	May      []string
	Enrolled bool
	Left     bool // it is not in the file any more, and its secret is there
	Locked   bool // a single code opens nothing
}

// Status is how the desk stands now.
func (d *Desk) Status() Status {
	d.load.Do(d.restore)
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Status{Budget: d.budget(), Waiting: d.waitingLocked()}
	if s.Spent, s.Back = d.spentLocked(); s.Spent == 0 {
		s.Back = 0
	}
	now, _ := d.now()
	for _, p := range d.people {
		s.Numbers = append(s.Numbers, Number{Number: p.Number, May: slices.Clone(p.May), Enrolled: p.record != nil,
			Locked: p.record != nil && d.lockedLocked(p, now)})
	}
	for _, n := range d.left {
		s.Numbers = append(s.Numbers, Number{Number: n, Enrolled: true, Left: true})
	}
	return s
}

// List is what was sent and what came, newest first. Codes, and what takes a machine over, are not in it.
func (d *Desk) List() (list []Text) {
	d.load.Do(d.restore)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.oldestFirstLocked() {
		c := t.kept()
		if c.Private {
			c.Text = ""
		}
		list = append(list, c)
	}
	slices.Reverse(list)
	return list
}
