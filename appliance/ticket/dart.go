package ticket

import (
	"errors"
	"net/netip"
	"net/url"
)

// Invitation is what inv32.xml says, checked. Its shape is that of MS-RAI
// 2.2.2, "Remote Assistance Connection String 2".
type Invitation struct {
	Code      string           // the ticket number: E/A@ID
	Listeners []netip.AddrPort // where a plain TCP connection is taken, as listed
}

// ParseInvitation reads inv32.xml. Errors never say what stands in it.
func ParseInvitation(raw []byte) (Invitation, error) {
	return Invitation{}, errors.New("not read yet")
}

// DaRT takes an inv32.xml in, as Report does with the report of an agent. An
// unverified one never changes what the machine said with its token. machine is
// "" where it cannot be told whose it is, from the zero Addr where nobody knows.
func (d *Desk) DaRT(machine, order string, verified bool, from netip.Addr, raw []byte) (Ticket, error) {
	return Ticket{}, errors.New("not taken yet")
}

// MDT makes an inv32.xml of the query of MDT's monitoring event; ok is false
// for one without a ticket.
func MDT(q url.Values) (raw []byte, ok bool) { return nil, false }

// MDTReply is the answer that MDT's scripts expect to any monitoring event, an
// XML document (Content-Type application/xml) with the GUID by which they call themselves from now on.
func MDTReply(q url.Values) string { return "" }

// MDTNote is the line of the timeline for a monitoring event, or "" for one of no interest.
func MDTNote(q url.Values) string { return "" }
