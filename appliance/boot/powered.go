package boot

import "time"

// PressStep is how far the press of an order's button has come. Each is stored before what
// it names is done, so that a box that is restarted knows what may have been done.
//
//	ordered --> shutdown --> media --> power --> wait --> heard --> over
//	                                     ^---------'
//
// What the order does not ask for is passed over.
type PressStep string

// The steps of a press.
const (
	PressOrdered  PressStep = "ordered"
	PressShutdown PressStep = "shutdown" // its system is asked to shut down
	PressMedia    PressStep = "media"    // the disk is put into the controller
	PressPower    PressStep = "power"    // one-time boot and power are switched
	PressWait     PressStep = "wait"     // they were, and the machine is waited for
	PressHeard    PressStep = "heard"    // it was heard of: its button is left alone
	PressOver     PressStep = "over"     // and nothing of the order is left in its controller
)

// pressSteps are in the order in which they come.
var pressSteps = []PressStep{"", PressOrdered, PressShutdown, PressMedia, PressPower, PressWait, PressHeard, PressOver}

// Press is how an order's machine is started by its button, and how far that has come.
type Press struct {
	Soft  bool // its system is asked to shut down first
	Media bool // it boots from a disk in its controller, not from the network
	// Confirmed is that somebody was asked whether the machine's plug may be pulled, and said yes: once.
	Confirmed bool
	Step      PressStep
	Since     time.Time // of Step; that of PressWait is when power began to be switched
	Tries     int       // how often power was switched, the try of Step with it
}

// Past reports whether a press has come further than a step.
func (p Press) Past(s PressStep) bool { return place(p.Step) > place(s) }

func place(s PressStep) int {
	for i, known := range pressSteps {
		if s == known {
			return i
		}
	}
	return 0
}

// Unfinished reports whether there is something left to do of a press.
func (p Press) Unfinished() bool { return p.Step != "" && p.Step != PressOver }

// Powered notes by what the machine of an order is switched on, and how. One that is over
// is a Refusal.
func (t *Table) Powered(orderID, by string, how Press) (Order, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[orderID]
	if !ok || !o.State.Open() {
		return Order{}, &Refusal{Reason: "no open order " + orderID}
	}
	how.Step, how.Since = PressOrdered, time.Now()
	o.Power, o.Press = by, how
	t.logged(t.putLocked(o), o)
	return o.Order, nil
}

// Pressed stores how far a press has come, also of an order that is over. Where it cannot be
// stored that is logged: a full disk keeps no machine from being started.
func (t *Table) Pressed(orderID string, p Press) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o, ok := t.orders[orderID]; ok {
		o.Press = p
		t.logged(t.putLocked(o), o)
	}
}
