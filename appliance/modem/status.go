package modem

import "time"

// State is how far the modem got.
type State string

// The states, in the order in which they follow each other.
const (
	Absent     State = "absent"     // no port
	Mute       State = "mute"       // a port, no sense from it
	Locked     State = "locked"     // the SIM is missing or wants what we do not have
	LowPower   State = "low power"  // the radio is off and does not come on: FCC lock, airplane mode
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

// Signal is the radio at one moment. What the modem does not say is zero.
type Signal struct {
	Time       time.Time
	Technology string
	RSSI       int // dBm
	RSRP, RSRQ int // LTE and 5G: dBm, dB
	SINR       int // dB
}

// Status is how the modem is now.
func (m *Modem) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	s.History = append([]Signal(nil), s.History...)
	return s
}

// DataStatus is how the data bearer is.
type DataStatus struct {
	Wanted bool
	Link   Link
	Why    string // one sentence why there is none though it is wanted
}
