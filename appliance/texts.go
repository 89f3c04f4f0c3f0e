package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/link"
	"rescuebox/appliance/modem"
)

// texting does what text messages order; it is text's Acts. Whoever sends them is in the
// timeline as "text message".
type texting struct{ *box }

const (
	byText   = "text message"
	wakeFor  = 30 * time.Minute // the bearers, for whoever asked for the VPN
	powerFor = 5 * time.Minute  // a slow BMC has cycled by then; what is told by text message has its own time
)

// Status is that of text.Acts: the worst first, for one message has 160 letters.
func (o texting) Status(context.Context) string {
	var parts []string
	l := o.in.Link()
	switch {
	case l.VPN != nil && !l.VPN.Up:
		parts = append(parts, "VPN down")
	case l.VPN != nil:
		parts = append(parts, "VPN up")
	}
	for _, u := range l.Uplinks {
		state := u.Name + " " + u.State
		if u.Name == l.Active {
			state += "*"
		}
		parts = append(parts, state)
	}
	for _, m := range o.in.Modems() {
		if m.Signal != nil {
			parts = append(parts, fmt.Sprintf("%s %d dBm", m.Operator, *m.Signal))
		}
	}
	for _, h := range o.sup.Health() {
		if !h.Ready {
			parts = append(parts, h.Part+" fails")
		}
	}
	for _, r := range o.table.AllOrders(orderSearch) {
		if r.State.Open() {
			parts = append(parts, fmt.Sprintf("%s %s %s", r.Machine, r.Image, r.State))
		}
	}
	return strings.Join(parts, ", ")
}

// Boot is that of text.Acts. The desk has asked back where it pulls the plug.
func (o texting) Boot(_ context.Context, machine, image string) (string, error) {
	if _, ok := o.table.Named(machine); !ok {
		return "", fmt.Errorf("no machine is called %s", machine)
	}
	order, err := o.table.Arm(machine, image, byText, 0)
	if err != nil {
		return "", err
	}
	means := newSwitches(o.Config, o.powers).Means(machine)
	by := api.Manual
	switch {
	case means.BMC:
		by = api.ByBMC
	case means.Switch:
		by = api.BySwitch
	}
	if by == api.Manual {
		return fmt.Sprintf("%s boots %s as soon as somebody switches it on", machine, image), nil
	}
	if order, err = o.table.Powered(order.ID, string(by), boot.Press{Confirmed: true}); err != nil {
		return "", err
	}
	o.pressFor(order)
	return fmt.Sprintf("%s is being booted into %s", machine, image), nil
}

// Power is that of text.Acts.
func (o texting) Power(ctx context.Context, machine, action string) (string, error) {
	if _, ok := o.table.Named(machine); !ok {
		return "", fmt.Errorf("no machine is called %s", machine)
	}
	s := newSwitches(o.Config, o.powers)
	means, by := s.Means(machine), api.ByBMC
	if !means.BMC {
		by = api.BySwitch
	}
	if means.BMC || !means.Texts {
		limited, cancel := context.WithTimeout(ctx, powerFor)
		defer cancel()
		ctx = limited
	}
	if action == "status" {
		state, err := s.State(ctx, machine, by)
		return fmt.Sprintf("%s: power is %s", machine, state), err
	}
	if err := s.Do(ctx, machine, bmc.Action(action), by); err != nil {
		return "", err
	}
	o.table.Record(boot.Event{Step: boot.StepPower, Machine: machine, Text: fmt.Sprintf("power %s by %s, through its %s", action, byText, by)})
	return fmt.Sprintf("%s: power %s done", machine, action), nil
}

// Link is that of text.Acts. A metered uplink is preferred from now on, and a wire still stands in for
// it: nobody shall lock himself out. For a wire all is as the file of the site has it, and those before
// it count as failed.
func (o texting) Link(_ context.Context, uplink string) (string, error) {
	if o.in.watch == nil {
		return "", errors.New("the box watches no uplinks")
	}
	list := o.in.watch.Status().Uplinks
	i := slices.IndexFunc(list, func(u link.UplinkStatus) bool { return u.Name == uplink })
	if i < 0 {
		return "", fmt.Errorf("no uplink is called %s", uplink)
	}
	mode := link.Mode("")
	if list[i].Metered {
		mode = link.LTEOnly
	}
	err := o.in.watch.Set(mode)
	for j, u := range list {
		if j < i && !u.Metered && !list[i].Metered {
			err = errors.Join(err, o.in.watch.Fail(u.Name, 0))
		} else {
			err = errors.Join(err, o.in.watch.Restore(u.Name))
		}
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is used as soon as it answers; now %s", uplink, activeOf(o.in.Link())), nil
}

func activeOf(l api.Link) string {
	if l.Active == "" {
		return "none"
	}
	return l.Active
}

// VPN is that of text.Acts: the bearers of metered uplinks come up.
func (o texting) VPN(context.Context) (string, error) {
	if o.in.tunnel == nil {
		return "", errors.New("the box has no VPN")
	}
	if o.in.watch != nil {
		o.in.watch.Wake(wakeFor)
	}
	if v := o.in.vpn(); v.Up {
		return "VPN is up by " + v.Uplink, nil
	}
	return "VPN is being brought up", nil
}

// ResetModem is that of text.Acts: the modems that do not work, or the first where all do. There is one answer, once
// it is done, which for a port that is lent to pppd takes up to a minute: it shows that the modem speaks again. One that
// says that the command came would cost another message, and could not be sent where a reset is needed.
func (o texting) ResetModem(ctx context.Context) (string, error) {
	if len(o.in.modems) == 0 {
		return "", errors.New("the box has no modem")
	}
	list := slices.DeleteFunc(slices.Clone(o.in.modems), func(m *modem.Modem) bool { return modemOf(m).Ready })
	if len(list) == 0 {
		list = o.in.modems[:1]
	}
	said, failed := make([]string, len(list)), make([]error, len(list))
	var wg sync.WaitGroup
	for i, m := range list {
		wg.Go(func() {
			said[i] = fmt.Sprintf("modem %s was reset", m.Name)
			if failed[i] = m.Reset(ctx, ""); failed[i] != nil {
				said[i] = failed[i].Error()
			}
		})
	}
	wg.Wait()
	if !slices.Contains(failed, nil) {
		return "", failed[0]
	}
	return strings.Join(said, "; "), nil
}

// Ticket is that of text.Acts: what takes the machine over, of its newest ticket.
func (o texting) Ticket(_ context.Context, machine string) (string, error) {
	list := o.tickets.List(machine)
	if len(list) == 0 {
		return "", fmt.Errorf("no ticket of %s", machine)
	}
	m := o.ticketMessage(list[0])
	if m.SecretShort != "" {
		return machine + ": " + m.SecretShort, nil
	}
	if t := list[0]; t.Problem == "" && t.Address.IsValid() {
		return fmt.Sprintf("%s: ssh %s@%s", machine, t.User, t.Endpoint()), nil
	}
	return machine + ": " + m.Text, nil
}
