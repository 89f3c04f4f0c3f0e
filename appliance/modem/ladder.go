package modem

import "time"

// Recovery is what may be done to a modem that no longer works.
type Recovery struct {
	Power  [][]string // commands that cut its power and give it back: uhubctl, gpioset
	Reboot []string   // the last rung, only if given
}

// RecoveryStatus is where on its ladder the modem is.
type RecoveryStatus struct {
	Fault   string // what is being cured; "" nothing
	Rung    string // what was done last
	At      time.Time
	Until   time.Time // the next rung not before
	Helped  string    // what helped last
	Climbed int       // rungs since the fault began
}

// reset is one rung asked for by a person.
type reset struct {
	rung string
	done chan error
}
