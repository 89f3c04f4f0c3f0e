package appliance

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"rescuebox/appliance/boot"
	"rescuebox/appliance/ticket"
)

// agents answers the agents in booted systems; it is httpboot's Agents.
type agents struct{ *box }

// errStranger refuses who is neither a booted machine nor at the address of a known one.
var errStranger = &boot.Refusal{Reason: "the token belongs to no order, and no machine is known at this address",
	Hint: "only a machine that rescuebox booted, or that is in the file of the site, can report"}

// Keys is what the booted system's authorized_keys shall hold: public keys, so
// a known machine's address is proof enough.
func (a agents) Keys(token string, from netip.Addr) ([]byte, error) {
	if _, _, _, ok := a.who(token, from); !ok {
		return nil, errStranger
	}
	return []byte(strings.Join(append(a.Config.Rescue.SSHKeys, ""), "\n")), nil
}

// Up takes a report in: the ticket is stored first, then the order ends. A
// report without the token is kept as unverified, and ends no order: anybody
// on the LAN can send one.
func (a agents) Up(token string, from netip.Addr, report []byte) error {
	return a.take(token, from, report, a.tickets.Report)
}

// Ticket is Up for an inv32.xml.
func (a agents) Ticket(token string, from netip.Addr, raw []byte) error {
	return a.take(token, from, raw, a.tickets.DaRT)
}

// taking is a way of the desk to take a report in.
type taking func(machine, order string, verified bool, from netip.Addr, raw []byte) (ticket.Ticket, error)

func (a agents) take(token string, from netip.Addr, raw []byte, take taking) error {
	machine, order, verified, ok := a.who(token, from)
	if !ok {
		return errStranger
	}
	if o, open := a.table.OpenOrder(machine); open && verified && o.ID == order {
		a.table.Record(boot.Event{Step: boot.StepUp, Machine: machine, Order: order,
			Text: fmt.Sprintf("%s is up and reports from %s", machine, from)})
	}
	t, err := take(machine, order, verified, from, raw)
	if errors.Is(err, ticket.ErrTooMany) { // the sender's fault, not the box's
		err = &boot.Refusal{Reason: err.Error(), Err: err}
	}
	if verified { // even where the ticket is not on disk yet: the machine is up, and shall not boot this twice
		a.table.NoteSecureBoot(machine, secureBootOf[t.SecureBoot])
		err = errors.Join(err, a.table.Up(order))
	}
	return err
}

// MDT takes a monitoring event of Microsoft's deployment scripts, which tell their
// ticket in it, and no token.
func (a agents) MDT(from netip.Addr, q url.Values) (string, error) {
	machine, _, _, ok := a.who("", from)
	if !ok {
		if _, has := ticket.MDT(q); has {
			return "", errStranger
		}
		return ticket.MDTReply(q), nil // without a GUID the scripts stop
	}
	if note := ticket.MDTNote(q); note != "" {
		a.table.Says(machine, note, false)
	}
	raw, ok := ticket.MDT(q)
	if !ok {
		return ticket.MDTReply(q), nil
	}
	return ticket.MDTReply(q), a.take("", from, raw, a.tickets.DaRT)
}

// Say puts a line of a booted machine's agent into the timeline.
func (a agents) Say(token string, from netip.Addr, text string) error {
	machine, _, verified, ok := a.who(token, from)
	if !ok {
		return errStranger
	}
	a.table.Says(machine, text, verified)
	return nil
}

// secureBootOf translates the agent's words.
var secureBootOf = map[string]boot.SecureBoot{"enabled": boot.SecureBootOn, "disabled": boot.SecureBootOff}

// who finds the machine by its order's token, else by its address: one that runs for days may make
// another ticket when its order is forgotten.
func (a agents) who(token string, from netip.Addr) (machine, order string, verified, ok bool) {
	if o, found := a.table.ByToken(token); found {
		return o.Machine, o.ID, true, true
	}
	machine, found := a.machineAt(from)
	return machine, "", false, found
}

// machineAt names the machine that has an address.
func (b *box) machineAt(a netip.Addr) (string, bool) {
	mac, found := b.dhcp.MACOf(a)
	if !found {
		return "", false
	}
	return b.table.MachineOf(mac)
}

// announce puts a new or changed ticket into the timeline, that it is here, not
// what it says: a ticket is a credential, and viewers read timelines. Then people are told.
func (b *box) announce(t ticket.Ticket) error {
	text, hint := fmt.Sprintf("ticket %s is here", t.ID), ""
	if t.Machine == "" {
		text += ", of no known machine"
	}
	switch {
	case t.Problem != "":
		text += ", but it cannot be read: " + t.Problem
	case !t.Verified:
		text += ", unverified: the report did not bear the order's token"
		hint = "it ends no order; to look at it: rescuebox ticket show " + t.ID
	}
	b.table.Record(boot.Event{Step: boot.StepTicket, Machine: t.Machine, Order: t.Order, Text: text, Hint: hint})
	return b.outbox.Put(b.ticketMessage(t))
}
