package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
)

// Powers switches machines' power; appliance does, by their controllers and switches.
// What a machine does not have is a *boot.Refusal.
type Powers interface {
	Means(machine string) Means
	State(ctx context.Context, machine string, by api.Power) (bmc.State, error)
	Do(ctx context.Context, machine string, a bmc.Action, by api.Power) error
}

// Means is by what a machine's power can be switched.
type Means struct {
	BMC    bool
	Media  bool // the BMC may have virtual media
	Switch bool
	Soft   bool // its system can be asked to shut down
	Plug   bool // the switch pulls the plug: an order that has it do so is to be confirmed
	Texts  bool // the switch is spoken to by text messages, which takes minutes
	// Caution is what a person is told before the switch is used: one sentence, or "".
	Caution string
}

func (m Means) list() (list []api.Power) {
	if m.BMC {
		list = append(list, api.ByBMC)
	}
	if m.Switch {
		list = append(list, api.BySwitch)
	}
	return list
}

// powerLimit is for a controller that answers late, and is asked twice; textLimit for a switch
// that is spoken to by text messages.
const (
	powerLimit = 75 * time.Second
	textLimit  = 16 * time.Minute
)

// How an image comes to a machine.
const (
	viaNetwork = "network"
	viaMedia   = "media"
)

var actions = []bmc.Action{bmc.PowerOn, bmc.PowerOff, bmc.Cycle, bmc.Reset, bmc.SoftOff}

func (h *service) means(machine string) Means {
	if h.Powers == nil {
		return Means{}
	}
	return h.Powers.Means(machine)
}

// power answers GET /v1/machines/{name}/power.
func (h *service) power(c *call) (any, error) {
	m, err := h.findMachine(c.path("name"))
	if err != nil {
		return nil, err
	}
	by, err := h.by(m.Name, api.Power(c.req.URL.Query().Get("by")))
	if err != nil {
		return nil, err
	}
	if err := h.costs(c, m.Name, by); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.req.Context(), h.patience(m.Name, by))
	defer cancel()
	state, err := h.Powers.State(ctx, m.Name, by)
	if err != nil {
		return nil, powerProblem(err)
	}
	return api.PowerState{Machine: m.Name, By: by, State: string(state), Ways: h.means(m.Name).list()}, nil
}

// switchPower answers POST /v1/machines/{name}/power.
func (h *service) switchPower(c *call) (any, error) {
	var ask api.PowerAction
	if err := c.read(&ask); err != nil {
		return nil, err
	}
	name := c.path("name")
	c.note("%s %s by=%s", quoteIfOdd(name), quoteIfOdd(ask.Action), quoteIfOdd(string(ask.By)))
	m, err := h.findMachine(name)
	if err != nil {
		return nil, err
	}
	action := bmc.Action(ask.Action)
	if !slices.Contains(actions, action) {
		return nil, badRequest("%q is nothing that can be done to power: want on, off, cycle, reset or soft", ask.Action)
	}
	by, err := h.by(m.Name, ask.By)
	if action == bmc.SoftOff && ask.By != api.ByBMC {
		by, err = h.softly(m.Name, ask.By)
	}
	if err != nil {
		return nil, err
	}
	c.note("%s %s by=%s", m.Name, action, by)
	// A caller who goes away has pressed the button all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.req.Context()), h.patience(m.Name, by))
	defer cancel()
	if err := h.Powers.Do(ctx, m.Name, action, by); err != nil {
		return nil, powerProblem(err)
	}
	h.Boot.Record(boot.Event{Step: boot.StepPower, Machine: m.Name, Text: fmt.Sprintf("power %s by %s, %s", action, c.who.Name, throughThe(by))})
	return api.PowerDone{Machine: m.Name, Action: string(action), By: by, Who: c.who.Name, Time: time.Now().UTC()}, nil
}

// costs refuses a question that is a text message: it costs money, and one of the messages that a day has, so that somebody
// must mean it.
func (h *service) costs(c *call, machine string, by api.Power) error {
	if !h.byText(machine, by) {
		return nil
	}
	if err := allowed(c.who, api.Operator); err != nil {
		return err
	}
	if text := c.req.URL.Query().Get("confirmed"); text != "true" {
		return newProblem(http.StatusConflict, api.Unconfirmed, "to ask the switch of %s how it is takes a text message, which costs money", machine).
			hint("say that this is meant: confirmed (--yes)")
	}
	return nil
}

func (h *service) byText(machine string, by api.Power) bool {
	return by == api.BySwitch && h.means(machine).Texts
}

// patience is how long what switches a machine may take.
func (h *service) patience(machine string, by api.Power) time.Duration {
	if h.byText(machine, by) {
		return textLimit
	}
	return powerLimit
}

// by is what a machine's power is switched by: what was asked for, else its BMC, else its
// switch. A switch beside a BMC is the last resort, for who asks for it.
func (h *service) by(machine string, asked api.Power) (api.Power, error) {
	list := h.means(machine).list()
	switch {
	case asked != "" && asked != api.ByBMC && asked != api.BySwitch:
		return "", badRequest("by=%s is nothing that switches power: want bmc or switch", quoteIfOdd(string(asked)))
	case len(list) == 0:
		return "", conflict("%s has neither a BMC nor a switch", machine).hint("add [machine.bmc] or [machine.power] to the file of the site; until then a person presses its button")
	case asked == "":
		return list[0], nil
	case !slices.Contains(list, asked):
		return "", conflict("%s has no %s", machine, noun(asked)).hint("it has a %s", noun(list[0]))
	}
	return asked, nil
}

// softly is who shuts a machine's system down: whoever reaches it, by WinRM, ssh or the BMC. A switch does
// not: it knows the plug, and nothing of what runs behind it.
func (h *service) softly(machine string, asked api.Power) (api.Power, error) {
	able := h.means(machine).Soft
	switch {
	case asked != "" && asked != api.BySwitch:
		return h.by(machine, asked)
	case asked == api.BySwitch && able:
		return "", conflict("a switch cannot shut down the system of %s: it takes its power at once", machine).
			hint("leave by=switch (--switch) out, and its system is asked; to cut its power: off")
	case !able:
		return "", conflict("nobody can ask the system of %s to shut down", machine).
			hint("add [machine.shutdown] or [machine.bmc] to the file of the site; a switch can only cut its power: off")
	}
	return api.BySystem, nil
}

func noun(by api.Power) string {
	if by == api.ByBMC {
		return "BMC"
	}
	return string(by)
}

func throughThe(by api.Power) string { return "through the " + noun(by) }

// powerProblem is the answer when a controller or a switch did not do it.
func powerProblem(err error) error {
	if p := problemOf(err); p.body.Status != http.StatusInternalServerError {
		return p
	}
	return newProblem(http.StatusBadGateway, "unreachable", "%s", strings.Join(strings.Fields(err.Error()), " "))
}

// pressedBy is who switches on the machine of a new order. What the order wants and
// the machine has not is said before there is an order.
func (h *service) pressedBy(o api.NewOrder) (api.Power, error) {
	means := h.means(o.Machine)
	list := means.list()
	switch {
	case o.Via != "" && o.Via != viaNetwork && o.Via != viaMedia:
		return "", badRequest("via=%s is no way into a machine: want network or media", quoteIfOdd(o.Via))
	case o.NoPower && o.Soft:
		return "", badRequest("no_power leaves the machine's power alone, and soft does not: want one of them")
	case o.NoPower && o.Via == viaMedia:
		return "", badRequest("virtual media are put in by the BMC when it starts the machine: leave no_power out")
	case o.Via == viaMedia && !means.Media:
		return "", conflict("%s has no virtual media: they need a BMC with Redfish", o.Machine).
			hint("add [machine.bmc] with url = \"auto://HOST\", or write the image to a stick: rescuebox image usb")
	case o.Soft && !means.Soft:
		return "", conflict("nobody can ask the system of %s to shut down", o.Machine).hint("add [machine.bmc] or [machine.shutdown] to the file of the site, or leave soft out")
	case o.NoPower || h.Press == nil || len(list) == 0:
		return api.Manual, nil
	case list[0] == api.BySwitch && means.Plug && !o.Confirmed:
		return "", newProblem(http.StatusConflict, api.Unconfirmed, "the order pulls the plug of %s, whatever it is doing", o.Machine).
			hint("say that this is meant: confirmed (--yes); no_power (--no-power) leaves its power to a person")
	}
	return list[0], nil
}
