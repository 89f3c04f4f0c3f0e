package appliance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/link"
	"rescuebox/appliance/modem"
	"rescuebox/appliance/text"
)

// Link is that of admin.Links.
func (w *wayIn) Link() api.Link {
	to := api.Link{Uplinks: []api.Uplink{}, VPN: w.vpn()}
	if w.watch == nil {
		return to
	}
	s := w.watch.Status()
	to.Mode, to.Active, to.Why, to.Switches, to.Since = string(s.Mode), s.Active, s.Reason, s.Switches, since(s.Since)
	lacks := w.lacks()
	for _, u := range s.Uplinks {
		up := w.uplink(u)
		if why := lacks[u.Name]; why != "" && (u.Health == link.Alive || u.Health == link.Unproven) {
			up.Why += "; but the VPN cannot go by it: " + why
		}
		to.Uplinks = append(to.Uplinks, up)
	}
	return to
}

// lacks is what uplinks would need for the VPN to go by them.
func (w *wayIn) lacks() map[string]string {
	list := map[string]string{}
	if w.tunnel != nil {
		for _, u := range w.tunnel.Status().Uplinks {
			list[u.Name] = u.Lacks
		}
	}
	return list
}

// states are the words for healths, which people take for what can be done about them.
var states = map[link.Health]string{link.Absent: "down", link.Dead: "down", link.Unproven: "unproven", link.Alive: "up", link.Failed: "failed"}

func (w *wayIn) uplink(u link.UplinkStatus) api.Uplink {
	to := api.Uplink{Name: u.Name, Interface: u.Device, Metered: u.Metered, State: states[u.Health], Why: u.Reason, Since: since(u.Since),
		Addresses: prefixes(u.Addresses), Monthly: u.Monthly, Modem: w.modemOf[u.Name], Until: since(u.Until)}
	if u.Gateway.IsValid() {
		to.Gateway = u.Gateway.String()
	}
	if u.RTT > 0 {
		to.RTT = u.RTT.Round(100 * time.Microsecond).String()
	}
	if u.Health == link.Absent && u.Metered && !u.Wanted {
		to.State = "dormant"
	}
	return to
}

// vpn is how the VPN is, or nil.
func (w *wayIn) vpn() *api.VPN {
	if w.tunnel == nil {
		return nil
	}
	s := w.tunnel.Status()
	to := &api.VPN{Kind: s.Kind, Interface: s.Interface, Up: s.Up, Why: s.Reason, PublicKey: s.PublicKey, Hub: s.Hub, Uplink: s.Uplink,
		Handshake: since(s.Handshake), Received: int64(s.Rx), Sent: int64(s.Tx), Endpoint: s.Endpoint, Peer: w.tunnel.Peer()}
	if s.Address.IsValid() {
		to.Address = s.Address.String()
	}
	return to
}

// Change is that of admin.Links.
func (w *wayIn) Change(a api.LinkAction, span time.Duration) error {
	if w.watch == nil {
		return &boot.Refusal{Reason: "the box watches no uplinks", Hint: "add [[uplink]] to the file of the site"}
	}
	switch a.Action {
	case "mode":
		switch mode := link.Mode(a.Mode); mode {
		case link.Standby, link.Dormant, link.LTEOnly:
			return w.watch.Set(mode)
		}
		return &boot.Refusal{Reason: fmt.Sprintf("%q is no mode", a.Mode), Hint: "there are standby, dormant and lte-only"}
	case "restore":
		return refused(w.watch.Restore(a.Uplink))
	}
	return refused(w.watch.Fail(a.Uplink, span))
}

// Drill is that of admin.Links.
func (w *wayIn) Drill(ctx context.Context, uplink string, span time.Duration) (api.LinkReport, error) {
	if w.watch == nil {
		return api.LinkReport{}, &boot.Refusal{Reason: "the box watches no uplinks", Hint: "add [[uplink]] to the file of the site"}
	}
	r, err := w.watch.Test(ctx, uplink, span)
	if err != nil {
		return api.LinkReport{}, refused(err)
	}
	return api.LinkReport{OK: r.Other != "", Uplink: r.Uplink, By: r.Other, Gap: r.Away.Round(time.Millisecond).String(), Lost: r.Lost, Text: r.Result}, nil
}

// refused is what cannot be done, for whoever asked.
func refused(err error) error {
	if err == nil {
		return nil
	}
	return &boot.Refusal{Reason: err.Error()}
}

// Modems is that of admin.Modems.
func (w *wayIn) Modems() []api.Modem {
	list := []api.Modem{}
	for _, m := range w.modems {
		list = append(list, modemOf(m))
	}
	return list
}

func modemOf(m *modem.Modem) api.Modem {
	s := m.Status()
	to := api.Modem{Name: s.Name, Ready: s.State == modem.Registered || s.State == modem.Lent || s.State == modem.NoPort && s.Why == "", Why: s.Why, Port: s.Device,
		Model: strings.TrimSpace(s.Manufacturer + " " + s.Model), Firmware: s.Firmware, IMEI: s.IMEI, ICCID: s.ICCID,
		Operator: s.Operator, Technology: s.Technology, Network: networkOf(s), Recovery: recoveryOf(s.Recovery), Rungs: m.Rungs()}
	texts := m.Texts()
	to.Texts = cmp.Or(texts.Why, texts.SendError)
	if to.Why == "" && !to.Ready {
		to.Why = string(s.State)
	}
	if s.Signal.Known() {
		dbm := s.Signal.DBm()
		to.Signal = &dbm
	}
	if m.Data != "none" {
		v := m.Volume()
		to.Data = &api.ModemData{Up: s.Data.Link.Device != "", Why: s.Data.Why, Interface: s.Data.Link.Device, Addresses: prefixes(s.Data.Link.Addresses),
			Used: v.Used, Quota: v.Quota, Resets: since(v.Resets), Stopped: v.Stopped}
	}
	return to
}

// networkOf is where a modem is, in a word.
func networkOf(s modem.Status) string {
	switch {
	case s.State == modem.Searching:
		return "searching"
	case s.State == modem.Denied:
		return "denied"
	case s.State != modem.Registered && s.State != modem.Lent:
		return "none"
	case s.Roaming:
		return "roaming"
	}
	return "home"
}

// Texts is that of admin.Modems.
func (w *wayIn) Texts(most int) ([]api.TextMessage, error) {
	list := []api.TextMessage{}
	for _, t := range w.desk.List() {
		if len(list) == most {
			break
		}
		list = append(list, messageOf(t))
	}
	return list, nil
}

// Texting is that of admin.Modems.
func (w *wayIn) Texting() api.Texting {
	s := w.desk.Status()
	to := api.Texting{Budget: s.Budget, Spent: s.Spent, Waiting: s.Waiting, Senders: []api.Sender{}}
	for _, n := range s.Numbers {
		to.Senders = append(to.Senders, api.Sender{Number: n.Number, May: append([]string{}, n.May...), Enrolled: n.Enrolled, Locked: n.Locked, Left: n.Left})
	}
	return to
}

func messageOf(t text.Text) api.TextMessage {
	to := api.TextMessage{ID: t.ID, Number: t.Number, Sent: t.State != text.Received, Time: t.Time, State: string(t.State), Text: t.Text, Why: t.Error}
	switch {
	case to.Sent:
	case t.Error == text.Stranger:
		to.State = "ignored"
	case t.Error != "":
		to.State = "refused"
	default:
		to.State = "taken"
	}
	return to
}

// Send is that of admin.Modems.
func (w *wayIn) Send(to, body string) (api.TextMessage, error) {
	t, err := w.desk.Send(to, body)
	if err != nil {
		return api.TextMessage{}, refused(err)
	}
	return messageOf(t), nil
}

// Enroll is that of admin.Modems.
func (w *wayIn) Enroll(number string) (string, error) {
	uri, err := w.desk.Enroll(number)
	if err != nil {
		return "", refused(err)
	}
	return uri, nil
}

// Forget is that of admin.Modems.
func (w *wayIn) Forget(number string) error {
	err := w.desk.Forget(number)
	if errors.Is(err, text.ErrNoSender) {
		return &boot.Refusal{Reason: err.Error(), Hint: "rescuebox modem sms status lists the numbers that have one"}
	}
	return err
}

func since(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func prefixes(list []netip.Prefix) (texts []string) {
	for _, p := range list {
		texts = append(texts, p.String())
	}
	return texts
}
