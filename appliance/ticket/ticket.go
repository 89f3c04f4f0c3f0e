// Package ticket keeps what lets an admin take a booted machine over: for a
// Linux rescue system the SSH address with its host key, as the rescue agent
// reports it; for DaRT what RemoteRecovery.exe writes into inv32.xml.
//
// A report is stored as it came before anybody looks into it. One that cannot be
// read is kept and announced as such: it still says that the machine is up.
package ticket

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap/zapcore"
)

// Kind says what a ticket opens.
type Kind string

// The kinds.
const (
	SSH  Kind = "ssh"  // a rescue system's sshd
	DaRT Kind = "dart" // Microsoft DaRT's Remote Connection
)

// Ticket is one machine's way in.
type Ticket struct {
	ID        string // 12 hexadecimal digits; a name, no secret
	Kind      Kind
	Machine   string    // the machine's name; "" where it could not be told whose it is
	Order     string    // the order's id, or ""
	Created   time.Time // first report
	Updated   time.Time // last report that said something new
	From      netip.Addr
	Verified  bool   // the report bore the order's token
	Announced bool   // Desk.Announce has taken it
	Problem   string // why the last report cannot be read, or ""

	// What the last readable report said.
	User      string
	Port      int
	Addresses []netip.Addr
	Address   netip.Addr // where the admin reaches the machine, chosen from Addresses and From; zero if nowhere
	// Code is what DaRT calls the ticket number, 118-497-589. With an address
	// and its port it is the whole credential: it goes to the admin and to nobody else.
	Code string
	// Listeners are where DaRT listens, in the order of inv32.xml, each with a
	// port of its own; Address and Port are the one that was chosen.
	Listeners    []netip.AddrPort
	HostKeys     []string // fingerprints: SHA256:…
	HostKeyLines []string // type and key in base64, without a host's name
	Serial       string
	UUID         string
	Hostname     string
	System       string
	Kernel       string
	SecureBoot   string // "enabled", "disabled", or "" where nothing is known

	Raw []byte // the last report as it came
}

// String names the ticket, and says nothing of what is in it.
func (t Ticket) String() string {
	return fmt.Sprintf("%s ticket %s of %s", t.Kind, t.ID, t.Machine)
}

// Format keeps every verb of fmt, %+v and %#v too, to what String says: a ticket
// is a credential, and ends up in a log by one careless line.
func (t Ticket) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// MarshalLogObject gives zap what may be in a log.
func (t Ticket) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("ticket", t.ID)
	enc.AddString("kind", string(t.Kind))
	enc.AddString("machine", t.Machine)
	enc.AddString("order", t.Order)
	enc.AddBool("verified", t.Verified)
	return nil
}

// parse reads Raw. What an earlier report said stands where this one says
// nothing that can be read: an old address is better than none.
func (t *Ticket) parse(w where) {
	t.Problem = ""
	var err error
	if t.Kind == DaRT {
		err = t.parseInvitation(w)
	} else {
		err = t.parseReport(w)
	}
	if err != nil {
		t.Problem = err.Error()
	}
}

func (t *Ticket) parseReport(w where) error {
	r, err := ParseReport(t.Raw)
	if err == nil {
		t.User, t.Port, t.Addresses = r.User, r.Port, r.Addresses
		t.HostKeys, t.HostKeyLines = r.HostKeys, r.HostKeyLines
		t.Serial, t.UUID, t.Hostname = r.Serial, r.UUID, r.Hostname
		t.System, t.Kernel, t.SecureBoot = r.System, r.Kernel, r.SecureBoot
	}
	t.Address = w.choose(append([]netip.Addr{t.From.Unmap().WithZone("")}, t.Addresses...), t.From)
	return err
}

func (t *Ticket) parseInvitation(w where) error {
	i, err := ParseInvitation(t.Raw)
	if err != nil {
		return err
	}
	at := i.endpoint(w, t.From)
	t.Code, t.Listeners = i.Code, i.Listeners
	t.Address, t.Port = at.Addr(), int(at.Port())
	t.Addresses = nil
	for _, l := range i.Listeners {
		t.Addresses = append(t.Addresses, l.Addr())
	}
	return nil
}

// listens reports whether the ticket has all of some listeners.
func (t Ticket) listens(all []netip.AddrPort) bool {
	return !slices.ContainsFunc(all, func(l netip.AddrPort) bool { return !slices.Contains(t.Listeners, l) })
}
