package boot

import "time"

// Step names what happened, the same word in the timeline, the log and the API.
type Step string

// The steps of a boot, in the order in which they come.
const (
	StepArmed    Step = "armed"
	StepPower    Step = "power"    // the machine's power button is pressed, and what came of it
	StepDiscover Step = "discover" // DHCP DISCOVER of a boot client
	StepOffer    Step = "offer"    // boot part offered
	StepDialect  Step = "dialect"  // DHCP talks to the client in another way, or knows now which one works
	StepRequest  Step = "request"  // DHCP REQUEST, or the request on port 4011
	StepScript   Step = "script"   // a boot script was fetched
	StepFile     Step = "file"     // a file's transfer begins, goes on (Transient) or ends
	StepUp       Step = "up"       // the booted system reported
	StepSays     Step = "says"     // the booted system's agent tells what it is doing
	StepTicket   Step = "ticket"   // the ticket is here
	StepDone     Step = "done"
	StepExpired  Step = "expired"
	StepFailed   Step = "failed"
	StepRefused  Step = "refused" // a request was answered with "no" and a reason
	StepLocal    Step = "local"   // left alone: boots its own disk
	StepConsole  Step = "console" // what the machine's console said last before its order failed
	StepLink     Step = "link"    // of no machine: an uplink died, or another one is used
	StepModem    Step = "modem"   // of no machine: what happened to a modem
	StepCause    Step = "cause"   // nothing goes on, and why most likely
)

// Event is one line of the timeline.
type Event struct {
	Seq       int64     // set by the store, growing; 0 for a transient event
	Time      time.Time // set by the table when zero
	Step      Step
	Machine   string // name, or "" if not known
	MAC       MAC
	Order     string   // order id, or ""
	Text      string   // one sentence for people; no secrets
	Key       string   // for StepCause: its short name for programs, such as "secure-boot-refused-nbp"; for StepDiscover: who asks
	Hint      string   // for StepCause: what to do
	File      string   // for StepFile
	Bytes     int64    // for StepFile: sent so far
	Total     int64    // for StepFile: size
	Lines     []string // the last of the machine's console, oldest first: for StepConsole, StepPower
	Transient bool     // progress: told to watchers, not stored
}

// SetSeq is how the store tells an event its number.
func (e *Event) SetSeq(seq int64) { e.Seq = seq }
