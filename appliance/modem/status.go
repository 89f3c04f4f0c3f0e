package modem

import (
	"fmt"
	"time"

	"go.uber.org/zap"
)

// State is how far the modem got.
type State string

// The states, in the order in which they follow each other.
const (
	NoPort     State = "no port"    // none is configured: a router of its own, or ModemManager has it
	Absent     State = "absent"     // the port is not there
	Held       State = "held"       // the port is there, and it is another program's, or we may not open it
	Mute       State = "mute"       // it can be opened, no sense comes from it
	LowPower   State = "low power"  // the radio is off and does not come on: FCC lock, airplane mode
	Locked     State = "locked"     // the SIM is missing, or wants what we do not have
	Searching  State = "searching"  // no network yet
	Denied     State = "denied"     // the network does not want this SIM
	Registered State = "registered" // messages work; data by Status.Data
	Lent       State = "lent"       // the only port is pppd's
)

// Status is how a modem is.
type Status struct {
	Name   string
	Device string // the port of the hour
	State  State
	Why    string // one sentence what is not as it should be and what to do; "" when all is well
	Since  time.Time

	Manufacturer, Model, Firmware string
	IMEI, ICCID, IMSI             string
	SIM                           string // ready, missing, PIN, PUK, …

	Operator, PLMN, Technology string
	Roaming                    bool
	Signal                     Signal
	History                    []Signal // oldest first, a day at most

	Data     DataStatus
	Texts    TextStatus
	Recovery RecoveryStatus
}

// DataStatus is how the data bearer is.
type DataStatus struct {
	Wanted bool
	Link   Link
	Why    string // one sentence why there is none though it is wanted
}

// Status is how the modem is now.
func (m *Modem) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	s.History = append([]Signal(nil), s.History...)
	s.Data.Wanted, s.Texts = m.want, m.texts
	return s
}

func (m *Modem) state() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status.State
}

// device is the port of the hour, or the one that is looked for.
func (m *Modem) device() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.status.Device != "" {
		return m.status.Device
	}
	return m.Device
}

// show changes what the status says about things that no loop waits for.
func (m *Modem) show(change func(*Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.status)
}

// setState moves the modem from one state into another, wakes who waits for it, and tells it once.
func (m *Modem) setState(state State, why string) {
	m.mu.Lock()
	old := m.status
	m.status.State, m.status.Why = state, why
	if state != Registered && state != Lent {
		m.status.Signal, m.status.Technology = Signal{}, ""
	}
	if old.State != state {
		m.status.Since = time.Now()
	}
	changed := old.State != state || old.Why != why
	if changed {
		m.movedLocked()
	}
	m.mu.Unlock()
	if !changed {
		return
	}
	m.log.Info("modem", zap.String("state", string(state)), zap.String("why", why))
	if old.State != state {
		text := fmt.Sprintf("modem %s: %s", m.Name, state)
		if why != "" {
			text += ": " + why
		}
		m.tell("state", text)
	}
}

// tell makes an event.
func (m *Modem) tell(kind, text string) {
	if m.Event != nil {
		m.Event(Event{Time: time.Now(), Modem: m.Name, Kind: kind, Text: text})
	}
}

// halted shows a state that only a person ends.
func (m *Modem) halted(e *stuck) {
	m.show(func(s *Status) {
		s.Operator, s.PLMN, s.Roaming = "", "", false
		if e.sim != "" {
			s.SIM = string(e.sim)
		}
		if e.sim == simMissing {
			s.ICCID, s.IMSI = "", ""
		}
	})
	m.setState(e.state, e.why)
}

// arrived shows where the modem is in the world.
func (m *Modem) arrived(n network, sig Signal) {
	data := m.Data != "none" && m.Data != ""
	state, why := n.why(data)
	name := orText(n.name, n.plmn)
	if why == "" && n.roams() && !m.Roaming && data {
		why = roamingWhy(name)
	}
	if why == "" && m.rival {
		why = rivalWhy
	}
	m.mu.Lock()
	was := m.status.Roaming
	m.status.Operator, m.status.PLMN, m.status.Technology, m.status.Roaming = n.name, n.plmn, n.technology, n.roams()
	m.status.Signal = sig
	if sig.Known() {
		m.status.History = remember(m.status.History, sig)
	}
	if was != n.roams() {
		m.movedLocked()
	}
	m.mu.Unlock()
	m.setState(state, why)
	if n.roams() && !was {
		m.tell("roaming", fmt.Sprintf("modem %s roams in %s", m.Name, orText(name, "a foreign network")))
	}
}

// fault is what is wrong as far as the ladder can cure it.
func (m *Modem) fault() fault {
	s := m.Status()
	switch s.State {
	case Absent, Mute:
		if m.Device != "" && m.dataUp() {
			return lame
		}
	}
	switch s.State {
	case Absent:
		return gone
	case Mute:
		return mute
	case Searching:
		return noNetwork
	case Denied:
		return refused
	case Locked:
		if s.SIM == string(simMissing) || s.SIM == string(simBusy) || s.SIM == string(simBroken) {
			return noSIM
		}
		return sound
	case LowPower:
		return sound
	}
	return m.dataFault(s.Data.Wanted)
}

// dataFault is what is wrong with the data of a modem that is registered, lent, or has no port of ours: it does not come up
// though it is wanted and may, or is up in vain. How often it did not come up before it did is remembered while it is
// up, and no reason to take it down.
func (m *Modem) dataFault(wanted bool) fault {
	if m.prepareData() != nil || m.data == nil || !wanted || m.mayDial() != nil {
		return sound
	}
	tries, why := m.data.trouble()
	switch up := m.data.wasUp(); {
	case !up && tries >= 3 && isLasting(why):
		return refused
	case !up && tries >= 3:
		return noData
	case up && m.Deaf != nil && !m.Volume().Stopped && m.Deaf():
		return silent
	}
	return sound
}
