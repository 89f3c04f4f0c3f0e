package bmc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"
)

// reset is a ResetType of the standard (ComputerSystem.Reset).
type reset = schemas.ResetType

// ways are how each action is asked for, the best first. A way of two is off, wait, on.
var ways = map[Action][][]reset{
	PowerOn:  {{schemas.OnResetType}, {schemas.ForceOnResetType}, {schemas.PushPowerButtonResetType}},
	PowerOff: {{schemas.ForceOffResetType}},
	Cycle:    {{schemas.PowerCycleResetType}, {schemas.ForceRestartResetType}, {schemas.ForceOffResetType, schemas.OnResetType}},
	Reset:    {{schemas.ForceRestartResetType}, {schemas.PowerCycleResetType}, {schemas.ForceOffResetType, schemas.OnResetType}},
	SoftOff:  {{schemas.GracefulShutdownResetType}, {schemas.PushPowerButtonResetType}},
}

// Power is that of Controller.
func (r *Redfish) Power(ctx context.Context) (State, error) {
	state := Unknown
	err := r.operation(ctx, "ask for power", redfishAsk, func(ctx context.Context, s *session) error {
		sys, err := s.system(ctx)
		if err == nil {
			state = sys.power()
		}
		return err
	})
	return state, err
}

// power reads PowerState; "PoweringOn" and what is no word of the standard are neither.
func (v *systemView) power() State {
	switch schemas.PowerState(v.PowerState) {
	case schemas.OnPowerState:
		return On
	case schemas.OffPowerState:
		return Off
	}
	return Unknown
}

// Do is that of Controller.
func (r *Redfish) Do(ctx context.Context, a Action) error {
	return r.operation(ctx, "power "+string(a), redfishChange, func(ctx context.Context, s *session) error {
		return s.do(ctx, a)
	})
}

// do asks for an action in the ways that the controller says it allows, until one is taken.
func (s *session) do(ctx context.Context, a Action) error {
	if _, known := ways[a]; !known {
		return fmt.Errorf("%w: %q", ErrUnsupported, a)
	}
	sys, err := s.system(ctx)
	if err != nil {
		return err
	}
	switch {
	case sys.power() == Off && a == SoftOff: // the power button would switch it on
		return nil
	case sys.power() == Off && (a == Cycle || a == Reset): // HPE iLO refuses, others do nothing
		a = PowerOn
	}
	allowed := s.allowed(ctx, sys)
	var no error
	for _, way := range ways[a] {
		if !allows(allowed, way) || a == PowerOn && way[0] == schemas.PushPowerButtonResetType && sys.power() != Off {
			continue
		}
		err := s.goOne(ctx, sys, way)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrHalfway) {
			return s.whether(ctx, a, err)
		}
		if !refusedBy(err) {
			return err
		}
		no = err
		if done, err := s.already(ctx, a); done || err != nil {
			return err
		}
	}
	if no == nil {
		return fmt.Errorf("%w: power %s; it allows %s", ErrUnsupported, a, s.clip(join(allowed)))
	}
	return no
}

// goOne goes one way: a reset, or off, wait, and on.
func (s *session) goOne(ctx context.Context, sys *systemView, way []reset) error {
	err := s.reset(ctx, sys, way[0])
	if len(way) == 1 || err != nil && !errors.Is(err, ErrHalfway) {
		return err
	}
	state, err := s.until(ctx, Off, s.pace.power)
	// Whatever it says, and whether or not somebody still waits, the server is not left without power.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.pace.power)
	defer cancel()
	onErr := s.reset(ctx, sys, way[1])
	for range 3 {
		if !refusedBy(onErr) || s.sleep(ctx) != nil {
			break
		}
		onErr = s.reset(ctx, sys, way[1]) // some are not done with off when they say off
	}
	switch {
	case err != nil:
		return err
	case state != Off:
		return fmt.Errorf("%w: it was told to switch off, and says that power is %s %s later", ErrNotTaken, state, s.pace.power)
	}
	return onErr
}

func (s *session) reset(ctx context.Context, sys *systemView, t reset) error {
	target := sys.Actions.Reset.Target
	if target == "" {
		target = sys.link.ID + "/Actions/ComputerSystem.Reset"
	}
	return s.post(ctx, target, map[string]any{"ResetType": t})
}

// allowed are the reset types that the controller says it allows, itself or in its ActionInfo;
// none is not said.
func (s *session) allowed(ctx context.Context, sys *systemView) []string {
	if action := sys.Actions.Reset; len(action.Types) > 0 || action.Info == "" {
		return action.Types
	}
	var info actionInfo
	if _, err := s.get(ctx, sys.Actions.Reset.Info, &info); err != nil {
		return nil
	}
	for _, p := range info.Parameters {
		if p.Name == "ResetType" {
			return p.AllowableValues
		}
	}
	return nil
}

func allows(allowed []string, way []reset) bool {
	return len(allowed) == 0 || !slices.ContainsFunc(way, func(t reset) bool { return !slices.Contains(allowed, string(t)) })
}

func join(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

// already reports whether power is as the action would make it, after the controller refused it: many
// refuse to switch on what is on. A cycle of what turns out to be off is switched on.
func (s *session) already(ctx context.Context, a Action) (bool, error) {
	sys, err := s.system(ctx)
	if err != nil {
		return false, err
	}
	switch state := sys.power(); {
	case a == PowerOn && state == On, (a == PowerOff || a == SoftOff) && state == Off:
		return true, nil
	case (a == Cycle || a == Reset) && state == Off:
		return true, s.do(ctx, PowerOn)
	}
	return false, nil
}

// whether looks what became of a command whose answer was lost.
func (s *session) whether(ctx context.Context, a Action, lost error) error {
	want, ok := map[Action]State{PowerOn: On, PowerOff: Off}[a]
	if !ok {
		return lost
	}
	if state, err := s.until(ctx, want, s.pace.power); err != nil || state != want {
		return lost
	}
	return nil
}

// until waits for a state and returns the last one. What cannot be read for a while (the controller itself
// restarts with some servers) is waited for as well.
func (s *session) until(ctx context.Context, want State, limit time.Duration) (State, error) {
	deadline := time.Now().Add(limit)
	state := Unknown
	for {
		sys, err := s.system(ctx)
		if err == nil {
			state = sys.power()
		}
		if state == want || time.Now().After(deadline) {
			return state, err
		}
		if s.sleep(ctx) != nil {
			return state, fmt.Errorf("%w in time (power is %s)", ErrSilent, state)
		}
	}
}

// Start is that of Controller.
func (r *Redfish) Start(ctx context.Context, b Boot) (next Next, err error) {
	err = r.operation(ctx, "boot "+string(b.Device)+" now", redfishChange, func(ctx context.Context, s *session) error {
		if next, err = s.setBoot(ctx, b); err != nil {
			return err
		}
		if err := s.do(ctx, Cycle); err != nil {
			return err
		}
		return s.verifyOn(ctx)
	})
	return next, err
}

// verifyOn sees to it that a server has power after a cycle. One of which the controller
// does not say either is believed to.
func (s *session) verifyOn(ctx context.Context) error {
	state, err := s.until(ctx, On, s.pace.power)
	if err != nil || state != Off {
		return err
	}
	if err := s.do(ctx, PowerOn); err != nil {
		return err
	}
	if state, err = s.until(ctx, On, s.pace.power); err != nil || state != Off {
		return err
	}
	return fmt.Errorf("%w: it was told to switch on twice, and says that power is off %s later", ErrNotTaken, s.pace.power)
}
