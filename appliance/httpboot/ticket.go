package httpboot

import (
	"net/netip"
	"net/url"
)

// Tickets takes what DaRT, or a script in its place, brings. A token may be
// empty: whether that is enough is theirs to say. An error that is a
// *boot.Refusal is told to the machine.
type Tickets interface {
	// Ticket takes an inv32.xml as it came: at most 64 KiB.
	Ticket(token string, from netip.Addr, raw []byte) error
	// MDT takes MDT's monitoring event, and gives the XML document that is its answer.
	MDT(from netip.Addr, q url.Values) (reply string, err error)
	// Say takes a line for the timeline: plain text, at most 4 KiB.
	Say(token string, from netip.Addr, text string) error
}
