package boot

import "time"

// State is where an order stands.
//
//	armed --first boot file--> booting --last file or report--> done
//	armed, booting --TTL--> expired
//	armed, booting --Cancel, a step's error--> failed
//
// done, expired and failed are final. "None" is a machine without an order.
type State string

// The states of an order.
const (
	Armed   State = "armed"
	Booting State = "booting"
	Done    State = "done"
	Expired State = "expired"
	Failed  State = "failed"
)

// Open reports whether an order in this state can still boot its machine.
func (s State) Open() bool { return s == Armed || s == Booting }

// Order says that one machine boots one image, once, before it expires.
type Order struct {
	ID      string    // random, 8 hexadecimal digits; a name for people and paths, no secret
	Machine string    // the machine's name
	Image   string    // the image's name
	Token   string    // random, 128 bits in hexadecimal; proves the booted machine; never logged
	State   State     //
	Reason  string    // why it failed
	By      string    // who ordered: an admin's name, or "standing" for a machine's own image = "…"
	Created time.Time //
	Expires time.Time //
	Started time.Time // first boot file
	Ended   time.Time //
	Served  []string  // names of files served to the last byte
}
