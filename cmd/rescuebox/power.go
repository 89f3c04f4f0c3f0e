package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

// powerActions are the actions and what they are called before they are done.
// Those that cut power, or end what runs, are asked about.
var powerActions = []struct{ action, ask string }{
	{"status", ""},
	{"on", ""},
	{"off", "Cut the power of %s"},
	{"cycle", "Cut the power of %s, and switch it on again"},
	{"reset", "Reset %s, without a shutdown"},
	{"soft", "Ask the system of %s to shut down"},
}

// powerer is one call of power.
type powerer struct {
	*cli
	client   *api.Client
	machine  string
	action   string
	by       api.Power
	question string // "" where nothing is lost
	yes      bool
	look     time.Duration // 0: nowLimit
}

func (c *cli) powerCommand() *cobra.Command {
	p := &powerer{cli: c}
	var bySwitch bool
	cmd := &cobra.Command{
		Use:   "power MACHINE [on|off|cycle|reset|soft|status]",
		Short: "Switch a machine's power, through its BMC or its switch",
		Long: `Switch a machine's power through its BMC, or through its switch (PDU, PiKVM,
Wake-on-LAN, command) where it has no BMC. A switch beside a BMC is the last resort:
--switch asks for it. soft asks the machine's system to shut down, by WinRM, ssh or its
BMC, and is done when it was asked; a switch can only cut its power.

What cuts power or ends what runs is asked about first, and so is what costs a text
message to a switch. Scripts say --yes.`,
		Example: `  rescuebox power srv01
  rescuebox power srv01 cycle
  rescuebox power srv01 off --switch --yes`,
		Args:              p.arguments,
		ValidArgsFunction: c.complete(machineNames, powerNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			p.client = client
			if bySwitch {
				p.by = api.BySwitch
			}
			return p.run(cmd.Context())
		}),
	}
	cmd.Flags().BoolVar(&bySwitch, "switch", false, "through its switch, though it has a BMC")
	cmd.Flags().BoolVarP(&p.yes, "yes", "y", false, "do not ask")
	return cmd
}

func powerNames(context.Context, *api.Client) (names []string, err error) {
	for _, a := range powerActions {
		names = append(names, a.action)
	}
	return names, nil
}

// arguments takes MACHINE and an action, status where none is given.
func (p *powerer) arguments(cmd *cobra.Command, args []string) error {
	if err := cobra.RangeArgs(1, 2)(cmd, args); err != nil {
		return err
	}
	args = append(slices.Clip(args), "status")
	p.machine, p.action = args[0], args[1]
	names, _ := powerNames(cmd.Context(), nil)
	i := slices.Index(names, p.action)
	if i < 0 {
		return hinted(fmt.Errorf("%q is nothing that can be done to power", p.action), "there are %s", strings.Join(names, ", "))
	}
	p.question = powerActions[i].ask
	if bySwitch, _ := cmd.Flags().GetBool("switch"); bySwitch && p.action == "soft" {
		return hinted(errors.New("a switch cannot shut a system down: it takes its power at once"),
			"rescuebox power %s soft asks the system itself, rescuebox power %s off --switch cuts its power", p.machine, p.machine)
	}
	return nil
}

func (p *powerer) run(ctx context.Context) error {
	switch {
	case p.action == "status":
		return p.status(ctx)
	case p.question == "" || p.yes:
	case !isTerminal(p.in):
		return &usageError{hinted(fmt.Errorf("power %s is asked about first, and nobody is here to answer", p.action), "in a script: rescuebox power %s %s --yes", p.machine, p.action)}
	default:
		if err := p.confirm(ctx); err != nil {
			return err
		}
	}
	done, err := p.client.SwitchPower(ctx, p.machine, api.PowerAction{Action: p.action, By: p.by})
	if err != nil {
		return err
	}
	return p.show(done, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: power %s, by %s through its %s\n", done.Machine, done.Action, clean(done.Who), byName(done.By))
		return err
	})
}

// status asks how it is, and about the cost first, where that is one.
func (p *powerer) status(ctx context.Context) error {
	s, err := p.client.Power(ctx, p.machine, p.by, p.yes)
	if no := (*api.Error)(nil); errors.As(err, &no) && no.Code == api.Unconfirmed {
		if !isTerminal(p.in) {
			return &usageError{hinted(err, "in a script: rescuebox power %s status --yes", p.machine)}
		}
		p.question = "Send a text message, which costs money, to ask the switch of %s"
		if err := p.confirm(ctx); err != nil {
			return err
		}
		s, err = p.client.Power(ctx, p.machine, p.by, true)
	}
	if err != nil {
		return err
	}
	return p.show(s, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: power is %s, says its %s\n", s.Machine, s.State, byName(s.By))
		return err
	})
}

// confirm asks, with all that a person should know before: which machine, where, and what it is doing.
func (p *powerer) confirm(ctx context.Context) error {
	m, err := p.client.Machine(ctx, p.machine)
	if err != nil {
		return err
	}
	at := ""
	if s, err := p.client.Status(ctx); err == nil {
		at = " at " + s.Site
	}
	fmt.Fprintf(p.errOut, "%s%s?%s", clean(fmt.Sprintf(p.question, m.Name)), clean(at), p.before(ctx, m))
	if o := m.Order; o != nil {
		fmt.Fprintf(p.errOut, " Its order of %s by %s is %s.", clean(o.Image), clean(o.By), clean(o.State))
	}
	fmt.Fprint(p.errOut, " [y/N] ")
	line, err := readLine(p.in)
	if answer := strings.ToLower(line); err != nil || answer != "y" && answer != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}

// before is what a person should know. A switch that calls for caution is not asked how it is: that costs a text
// message and a minute.
func (p *powerer) before(ctx context.Context, m api.Machine) string {
	switch {
	case p.action == "status":
		return ""
	case m.Caution != "" && (p.by == api.BySwitch || !slices.Contains(m.Power, api.ByBMC)) && p.action != "soft":
		return " " + clean(m.Caution)
	}
	return " " + p.now(ctx)
}

// nowLimit is how long somebody who is to be asked waits for how it is: a dead controller takes a minute.
const nowLimit = 10 * time.Second

// now is a sentence about the power. A controller that does not answer may still take a command.
func (p *powerer) now(ctx context.Context) string {
	limit := cmp.Or(p.look, nowLimit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := p.client.Power(ctx, p.machine, p.by, false)
	switch {
	case ctx.Err() != nil:
		return fmt.Sprintf("Whether it is on is not known (no answer within %s).", limit)
	case err != nil:
		return clean(fmt.Sprintf("Whether it is on is not known (%s).", err))
	}
	return fmt.Sprintf("Its %s says that it is %s.", byName(s.By), clean(s.State))
}

// byName is what switches power, for people.
func byName(by api.Power) string {
	return cmp.Or(map[api.Power]string{api.ByBMC: "BMC", api.BySwitch: "switch"}[by], clean(string(by)))
}
