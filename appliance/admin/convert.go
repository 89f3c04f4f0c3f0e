package admin

import (
	"net/netip"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/ticket"
	"rescuebox/images"
)

// optional is a time that may not have come yet.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// text is an address, or "" for none.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// orderOf leaves the order's token behind.
func orderOf(o boot.Order) api.Order {
	power := api.Power(o.Power)
	if power == "" {
		power = api.Manual
	}
	return api.Order{
		ID: o.ID, Machine: o.Machine, Image: o.Image, State: string(o.State), Reason: o.Reason, By: o.By,
		Power: power, Created: o.Created, Expires: o.Expires, Started: optional(o.Started), Ended: optional(o.Ended),
	}
}

// eventOf is an event for a caller of some role. What a console said only those see who
// may look at the console itself.
func eventOf(e boot.Event, role api.Role) api.Event {
	out := api.Event{
		Seq: e.Seq, Time: e.Time, Step: string(e.Step), Machine: e.Machine, Order: e.Order, Text: e.Text,
		Key: e.Key, Hint: e.Hint, File: e.File, Bytes: e.Bytes, Total: e.Total, Transient: e.Transient,
	}
	if !e.MAC.IsZero() {
		out.MAC = e.MAC.String()
	}
	if rank(role) >= rank(api.Operator) {
		out.Lines = e.Lines
	}
	return out
}

func seenOf(s boot.Sighting) api.Seen {
	out := api.Seen{
		MAC: s.Client.MAC.String(), Machine: s.Machine, Arch: s.Client.Arch.String(), Program: string(s.Client.Program),
		Vendor: s.Client.VendorClass, Address: text(s.Client.Addr), Relay: text(s.Client.Relay),
		First: s.First, Last: s.Last, Count: s.Count, Answer: s.Answer,
	}
	if !s.Client.UUID.IsZero() {
		out.UUID = s.Client.UUID.String()
	}
	return out
}

func machineOf(m boot.Machine) api.Machine {
	out := api.Machine{Name: m.Name, MACs: []string{}, Image: m.Image, Chain: string(m.Chain), BootSet: m.BootSet, Dialect: m.Dialect,
		Adopted: m.Adopted, Address: text(m.Address)}
	for _, mac := range m.MACs {
		out.MACs = append(out.MACs, mac.String())
	}
	if !m.UUID.IsZero() {
		out.UUID = m.UUID.String()
	}
	return out
}

func imageOf(i images.Image) api.Image {
	out := api.Image{
		Name: i.Name, Kind: string(i.Kind), Title: i.Title, Arch: i.Arch, Source: i.Source, Added: i.Added, Size: i.Size(),
		Up: string(i.Up), Kernel: i.Kernel, KernelEFI: i.KernelEFI, Initrd: i.Initrd, Cmdline: i.Cmdline, Files: []api.File{},
	}
	for _, f := range i.Files {
		out.Files = append(out.Files, api.File{Name: f.Name, Size: f.Size, SHA256: f.SHA256, Arch: f.Arch, Signers: f.Signers})
	}
	if w := i.Windows; w != nil {
		out.Windows = &api.Windows{Index: w.Index, Build: w.Build, DaRT: w.DaRT, SDI: w.SDI,
			WinloadBIOS: w.WinloadBIOS, WinloadEFI: w.WinloadEFI, Has: w.Has, Winpeshl: w.Winpeshl}
	}
	return out
}

func ticketOf(t ticket.Ticket) api.Ticket {
	out := api.Ticket{
		ID: t.ID, Kind: string(t.Kind), Machine: t.Machine, Order: t.Order, Created: t.Created, Updated: t.Updated,
		From: text(t.From), Verified: t.Verified, Problem: t.Problem, User: t.User, Port: t.Port, Address: text(t.Address),
		HostKeys: t.HostKeys, KnownHosts: ticket.KnownHosts(t), Command: ticket.Command(t),
		Serial: t.Serial, UUID: t.UUID, Hostname: t.Hostname, System: t.System, Kernel: t.Kernel, SecureBoot: t.SecureBoot,
	}
	for _, a := range t.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	out.Code = t.Code
	for _, l := range t.Listeners {
		out.Listeners = append(out.Listeners, l.String())
	}
	return out
}

func tokenOf(t Token) api.Token {
	return api.Token{ID: t.ID, Name: t.Name, Role: t.Role, By: t.By, Created: t.Created, Expires: t.Expires}
}
