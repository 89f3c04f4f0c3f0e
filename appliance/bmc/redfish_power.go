package bmc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
	taken := a == Cycle || a == Reset
	var no error
	for _, way := range s.inOrder(ways[a]) {
		if !allows(allowed, way) || a == PowerOn && way[0] == schemas.PushPowerButtonResetType && sys.power() != Off {
			continue
		}
		if taken && s.Taking != nil {
			s.Taking()
		}
		err := s.goOne(ctx, sys, way)
		if err == nil {
			return nil
		}
		if isUnknown(err) {
			s.faulty = way[0]
			done, lost := s.whether(ctx, a, sys, err)
			if done || lost != nil {
				return lost
			}
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

// inOrder has what a fault was the answer to last time at the end: it may be a way that this controller says it
// has, and has not.
func (s *session) inOrder(list [][]reset) [][]reset {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b []reset) int {
		switch s.faulty {
		case a[0]:
			return 1
		case b[0]:
			return -1
		}
		return 0
	})
	return list
}

// goOne goes one way: a reset, or off, wait, and on.
func (s *session) goOne(ctx context.Context, sys *systemView, way []reset) error {
	err := s.reset(ctx, sys, way[0])
	if len(way) == 1 || err != nil && !isUnknown(err) {
		return err
	}
	// Whatever it says, and whether or not somebody still waits, the server is not left without power.
	ctx = context.WithoutCancel(ctx)
	state, _ := s.until(ctx, Off, s.pace.power)
	if state == Off { // what On is to change
		sys.PowerState = string(schemas.OffPowerState)
	}
	onErr := s.reset(ctx, sys, way[1])
	for range 3 {
		if !refusedBy(onErr) || isUnknown(onErr) || s.sleep(ctx) != nil {
			break
		}
		onErr = s.reset(ctx, sys, way[1]) // some are not done with off when they say off
	}
	if onErr != nil {
		if now, _ := s.until(ctx, On, s.pace.power); now == On {
			onErr = nil
		}
	}
	switch {
	case state == Off: // also where the answer to that was lost
		return onErr
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: it was told to switch off, and says that power is %s %s later", ErrNotTaken, state, s.pace.power)
}

// reset asks for one reset type. A controller that is busy is asked again, but not before a look at the server: some
// say so of what they do.
func (s *session) reset(ctx context.Context, sys *systemView, t reset) error {
	target := sys.Actions.Reset.Target
	if target == "" {
		target = sys.link.ID + "/Actions/ComputerSystem.Reset"
	}
	path, err := s.local(target)
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		err := s.changeOnce(func() (*http.Response, error) {
			return s.api.WithContext(ctx).Post(path, map[string]any{"ResetType": t})
		})
		if !isBusy(err) || attempt == 3 || s.sleep(ctx) != nil {
			return err
		}
		if now, lookErr := s.system(ctx); lookErr != nil {
			return fmt.Errorf("%w, %w", err, ErrHalfway)
		} else if sys.wasReset(now) {
			return nil
		}
	}
}

// wasReset reports whether a server was switched or reset between two looks: its power is another, the time of its last
// reset is, or it has used up the boot that was set for once.
func (v *systemView) wasReset(now *systemView) bool {
	return now.PowerState != "" && now.PowerState != v.PowerState || now.LastResetTime != v.LastResetTime ||
		v.Boot.next().Held && !now.Boot.next().Held
}

// isUnknown reports whether something may have been done though it was not said: the answer was lost, or it was a fault
// (500 to 599). What is not implemented was not done.
func isUnknown(err error) bool {
	var no *denial
	switch {
	case errors.Is(err, ErrHalfway):
		return true
	case !errors.As(err, &no) || no.status < http.StatusInternalServerError || no.status == http.StatusNotImplemented, isBusy(err):
		return false
	}
	return !slices.ContainsFunc([]string{"NotSupported", "NotImplemented", "NotInList", "ActionParameter"}, func(id string) bool { return strings.Contains(no.ids, id) })
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

// whether looks what became of a command that may have been done. Where that cannot be seen it is an error, and
// nobody is to send another one: a reset does not show in the power.
func (s *session) whether(ctx context.Context, a Action, before *systemView, lost error) (done bool, err error) {
	if want, ok := map[Action]State{PowerOn: On, PowerOff: Off}[a]; ok {
		if state, err := s.until(ctx, want, s.pace.power); err == nil && state == want {
			return true, nil
		}
		if !errors.Is(lost, ErrHalfway) {
			return false, nil // to switch on what is not on does no harm
		}
		return false, lost
	}
	for deadline := time.Now().Add(s.pace.power); time.Now().Before(deadline) && s.sleep(ctx) == nil; {
		if now, err := s.system(ctx); err == nil && before.wasReset(now) {
			return true, s.verifyOn(ctx)
		}
	}
	if errors.Is(lost, ErrHalfway) {
		return false, lost
	}
	return false, fmt.Errorf("%w, %w", lost, ErrHalfway)
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
		err := s.verifyOn(ctx)
		if err != nil && !errors.Is(err, ErrNotTaken) { // power was cycled, and must not be once more by another protocol
			err = fmt.Errorf("%w, %w", err, ErrHalfway)
		}
		return err
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
