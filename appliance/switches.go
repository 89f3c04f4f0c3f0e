package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/power"
)

// switches lets the API at what switches the machines; it is admin's Powers and BMCs.
type switches struct {
	powers  map[string]*machinePower
	auditor *bmc.Auditor
}

func newSwitches(c *config.Config, powers map[string]*machinePower) switches {
	a := &bmc.Auditor{LAN: c.LAN.Address.Masked(), Own: c.LAN.Address.Addr()}
	for _, m := range c.Machines {
		if p := powers[m.Name]; p != nil && p.bmc != nil {
			a.Targets = append(a.Targets, bmc.Target{Machine: m.Name, Config: p.config, Controller: p.bmc})
		}
	}
	return switches{powers, a}
}

// Means is that of admin.Powers.
func (s switches) Means(machine string) admin.Means {
	p := s.powers[machine]
	if p == nil {
		return admin.Means{}
	}
	return admin.Means{BMC: p.bmc != nil, Media: p.bmc != nil && p.config.Protocol != "ipmi",
		Switch: p.outlet != nil, Soft: p.shutdown != nil || p.bmc != nil, Texts: p.texts, Plug: power.PullsPlug(p.outlet), Caution: power.Warning(p.outlet)}
}

// State is that of admin.Powers.
func (s switches) State(ctx context.Context, machine string, by api.Power) (bmc.State, error) {
	p, err := s.find(machine, by)
	if err != nil {
		return bmc.Unknown, err
	}
	if by == api.ByBMC {
		p.ask()
		return p.bmc.Power(ctx)
	}
	state, err := p.outlet.State(ctx)
	return bmc.State(state), bySwitch(err)
}

// Do is that of admin.Powers.
func (s switches) Do(ctx context.Context, machine string, a bmc.Action, by api.Power) error {
	if a == bmc.SoftOff && by == api.BySystem { // by whichever way it takes
		p := s.powers[machine]
		if p == nil {
			return noSwitch(machine, "BMC or shutdown")
		}
		p.ask()
		return p.ShutDown(ctx)
	}
	p, err := s.find(machine, by)
	if err != nil {
		return err
	}
	switch a {
	case bmc.PowerOff: // the newest word counts: nobody gives power back after it
		p.switching.Lock()
		defer p.switching.Unlock()
		p.taken.back(machine)
	case bmc.Cycle, bmc.Reset:
		err := p.taken.cycle(machine, func() error { return p.do(ctx, a, by) })
		if err == nil {
			p.taken.back(machine)
		}
		p.taken.owe(machine)
		return err
	}
	return p.do(ctx, a, by)
}

// do switches by one of the two.
func (p *machinePower) do(ctx context.Context, a bmc.Action, by api.Power) error {
	if by == api.ByBMC {
		p.ask()
		return p.bmc.Do(ctx, a)
	}
	switch a {
	case bmc.PowerOn:
		return bySwitch(p.outlet.On(ctx))
	case bmc.PowerOff:
		return bySwitch(p.outlet.Off(ctx))
	case bmc.Cycle, bmc.Reset: // a switch knows no other reset
		return bySwitch(p.outlet.Cycle(ctx))
	}
	return fmt.Errorf("%w: a switch knows no power %s, it takes power and gives it", bmc.ErrUnsupported, a)
}

// ask has a password that the BMC refused lately tried once more: a person does something. What the box
// does by itself waits, longer after each refusal, so that the account is not locked.
func (p *machinePower) ask() {
	if p != nil && p.bmc != nil {
		p.bmc.Ask()
	}
}

// find is what a machine has to be switched by.
func (s switches) find(machine string, by api.Power) (*machinePower, error) {
	p := s.powers[machine]
	switch {
	case by == api.ByBMC && (p == nil || p.bmc == nil):
		return nil, noSwitch(machine, "bmc")
	case by == api.BySwitch && (p == nil || p.outlet == nil):
		return nil, noSwitch(machine, "power")
	case by != api.ByBMC && by != api.BySwitch:
		return nil, &boot.Refusal{Reason: fmt.Sprintf("%q is no way to switch %s", by, machine)}
	}
	return p, nil
}

func noSwitch(machine, table string) error {
	return &boot.Refusal{Reason: fmt.Sprintf("%s has no %s", machine, table), Hint: fmt.Sprintf("add [machine.%s] to the file of the site", table)}
}

// Services is that of admin.BMCs.
func (s switches) Services(ctx context.Context, machine string) (netip.Addr, []bmc.Service, error) {
	p, err := s.find(machine, api.ByBMC)
	if err != nil {
		return netip.Addr{}, nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", p.config.Host)
	if err != nil || len(addrs) == 0 {
		return netip.Addr{}, nil, fmt.Errorf("find the address of the BMC of %s: %w", machine, err)
	}
	p.ask()
	list, err := p.bmc.Services(ctx)
	return addrs[0].Unmap(), list, err
}

// Audit is that of admin.BMCs.
func (s switches) Audit(ctx context.Context, machine string, lan bool) (bmc.Audit, error) {
	for name, p := range s.powers {
		if machine == "" || machine == name {
			p.ask()
		}
	}
	return s.auditor.Run(ctx, machine, lan)
}

// Trust is that of admin.BMCs.
func (s switches) Trust(ctx context.Context, machine string) (string, error) {
	p, err := s.find(machine, api.ByBMC)
	if err != nil {
		return "", err
	}
	return p.bmc.Trust(ctx)
}

// Forget is that of admin.BMCs.
func (s switches) Forget(machine string) (hosts []string, err error) {
	p, able := s.powers[machine], false
	if p == nil {
		p = &machinePower{}
	}
	for _, of := range p.forgetters() {
		host, err := of.Forget()
		switch {
		case errors.Is(err, power.ErrUnsupported):
			continue
		case err != nil:
			return hosts, err
		case host != "":
			hosts = append(hosts, host)
		}
		able = true
	}
	if !able {
		return nil, &boot.Refusal{Reason: machine + " has nothing whose certificate is pinned",
			Hint: "a BMC, a PiKVM and WinRM over HTTPS have one; the SSH key of a shutdown is host_key in the file of the site"}
	}
	return hosts, nil
}

// forgetters are what of a machine's switches may have a certificate pinned.
func (p *machinePower) forgetters() (list []power.Forgetter) {
	if of, ok := p.outlet.(power.Forgetter); ok {
		list = append(list, of)
	}
	if p.shutdown != nil {
		list = append(list, p.shutdown)
	}
	return list
}

// pressFor has an order's machine switched on. Where that cannot be, the order fails with the reason.
func (b *box) pressFor(o boot.Order) {
	b.powers[o.Machine].ask()
	err := b.press.Press(o)
	if err == nil {
		return
	}
	if failed := b.table.Fail(o.ID, err.Error()); failed != nil && !errors.As(failed, new(*boot.Refusal)) {
		b.press.tell(o, fmt.Sprintf("%v; the order could not be ended: %v", err, failed))
	}
}

// diskFor is where a controller finds an order's rescue disk.
func (b *box) diskFor(o boot.Order) (string, error) {
	path, err := b.table.MediaPath(o.ID)
	return serverURL(b.Config) + "/" + path, err
}
