package appliance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
)

// fakeOrders is a table with one open order.
type fakeOrders struct {
	order  boot.Order
	open   bool
	told   []string
	events chan boot.Event
	failed string

	closes   time.Time
	steps    []string // that were stored
	timeline []boot.Event
}

func (f *fakeOrders) Pressed(_ string, p boot.Press) {
	f.order.Press = p
	f.steps = append(f.steps, fmt.Sprintf("%s %d", p.Step, p.Tries))
}
func (f *fakeOrders) Timeline(string) ([]boot.Event, error) { return f.timeline, nil }
func (f *fakeOrders) OpenOrder(string) (boot.Order, bool) {
	return f.order, f.open && (f.closes.IsZero() || time.Now().Before(f.closes))
}
func (f *fakeOrders) Record(e boot.Event) {
	text := e.Text
	if len(e.Lines) > 0 {
		text += fmt.Sprintf(" %s", e.Lines)
	}
	f.told = append(f.told, text)
}
func (f *fakeOrders) Watch() (<-chan boot.Event, func()) { return f.events, func() {} }
func (f *fakeOrders) Fail(_, reason string) error {
	f.failed, f.open = reason, false
	return nil
}

// fakeController does as its fields say, and writes down what it was told.
type fakeController struct {
	state    bmc.State
	startErr error
	mediaErr error
	powerErr error

	startsAllTheSame bool
	softErr          error
	softTime         time.Duration // until a soft shutdown is through; 0: never
	started          func(n int)
	log              []string
	starts           int
	changes          []change[*fakeController]
}

// change is what becomes of a fake at a time, as whoever looks next sees it.
type change[T any] struct {
	at time.Time
	do func(T)
}

// due makes the changes whose time has come, and returns the others.
func due[T any](list []change[T], of T) []change[T] {
	return slices.DeleteFunc(list, func(c change[T]) bool {
		if time.Now().Before(c.at) {
			return false
		}
		c.do(of)
		return true
	})
}

func (f *fakeController) Power(context.Context) (bmc.State, error) {
	f.changes = due(f.changes, f)
	return f.state, f.powerErr
}
func (f *fakeController) ShutDown(context.Context) error {
	f.log = append(f.log, "soft")
	if f.softErr == nil && f.softTime > 0 {
		f.changes = append(f.changes, change[*fakeController]{time.Now().Add(f.softTime), func(f *fakeController) { f.state = bmc.Off }})
	}
	return f.softErr
}
func (f *fakeController) Start(_ context.Context, b bmc.Boot) (bmc.Next, error) {
	f.log = append(f.log, fmt.Sprintf("start %s uefi=%t", b.Device, b.UEFI))
	if f.startErr != nil && !f.startsAllTheSame {
		return bmc.Next{}, f.startErr
	}
	f.state = bmc.On
	f.starts++
	if f.started != nil {
		f.started(f.starts)
	}
	return bmc.Next{Boot: b, Held: true}, f.startErr
}
func (f *fakeController) Insert(_ context.Context, url string) error {
	f.log = append(f.log, "insert "+url)
	return f.mediaErr
}
func (f *fakeController) Eject(context.Context) error {
	f.log = append(f.log, "eject")
	return nil
}
func (f *fakeController) Next(context.Context) (bmc.Next, error) {
	return bmc.Next{Boot: bmc.Boot{Device: bmc.Network, UEFI: true}, Held: true}, nil
}

// fakeTaken stores whose power was taken in memory.
type fakeTaken map[string]takenPower

func (f fakeTaken) Put(key string, t takenPower) error { f[key] = t; return nil }
func (f fakeTaken) Delete(key string) error            { delete(f, key); return nil }
func (f fakeTaken) All() ([]takenPower, error)         { return slices.Collect(maps.Values(f)), nil }

// fakePresser presses for machines that boot by UEFI.
func fakePresser(f interface {
	orders
	progress
}) *presser {
	return &presser{orders: f, progress: f, taken: newTaken(fakeTaken{}, zap.NewNop()),
		firmware: func(string) (bool, bool) { return true, true }, lastLine: func(string) string { return "" }, spare: func(string) bool { return false }}
}

func TestPress(t *testing.T) {
	const discoverAfter = 40 * time.Second
	for _, c := range []struct {
		name       string
		controller fakeController
		soft       bool
		media      string
		console    string
		spare      bool
		heardAt    int // the press after which the machine is heard of; 0: never
		log        []string
		told       string // joined
		failed     string
		took       time.Duration
	}{
		{name: "at once", heardAt: 1, log: []string{"start network uefi=true"}, took: discoverAfter,
			told: "power is cycled, to boot once from network, UEFI"},
		{name: "second press", heardAt: 2, log: []string{"start network uefi=true", "start network uefi=true"}, took: bootPatience + discoverAfter,
			told: "srv01 was not heard of within 3m0s; power is on and the next boot is network, UEFI; once more"},
		{name: "the console knows why", console: "No bootable device, token=s3cret", heardAt: 2, log: []string{"start network uefi=true", "start network uefi=true"}, took: bootPatience + discoverAfter,
			told: "once more [No bootable device, token=[token]]"},
		{name: "never", log: []string{"start network uefi=true", "start network uefi=true"}, took: 2 * bootPatience,
			failed: "srv01 was power cycled 2 times and did not ask for a network boot: power is on and the next boot is network, UEFI"},
		{name: "no BMC", controller: fakeController{startErr: bmc.ErrSilent}, log: []string{"start network uefi=true"}, failed: "power: the controller does not answer"},
		{name: "a BMC that is dead, beside a switch", spare: true, controller: fakeController{startErr: bmc.ErrSilent}, log: []string{"start network uefi=true"},
			failed: "power: the controller does not answer; without its BMC: rescuebox boot srv01 dart --no-power, then rescuebox power srv01 cycle --switch"},
		{name: "soft", controller: fakeController{state: bmc.On, softTime: 12 * time.Second}, soft: true, heardAt: 1, took: 15*time.Second + discoverAfter,
			log: []string{"soft", "start network uefi=true"}, told: "the system is asked to shut down|the system has shut down"},
		{name: "soft does not help", controller: fakeController{state: bmc.On}, soft: true, heardAt: 1, took: softPatience + discoverAfter,
			log: []string{"soft", "start network uefi=true"}, told: "the system was not seen to shut down within 2m0s, power is cut"},
		{name: "soft is unknown", controller: fakeController{state: bmc.On, softErr: bmc.ErrUnsupported}, soft: true, heardAt: 1, took: discoverAfter,
			log: []string{"soft", "start network uefi=true"}, told: "no orderly shutdown, power is cut: the controller cannot do that"},
		{name: "virtual media", media: "http://192.168.77.1/media/x/rescue.iso", heardAt: 2, took: mediaPatience + discoverAfter,
			log:  []string{"insert http://192.168.77.1/media/x/rescue.iso", "start cd uefi=true", "start cd uefi=true", "eject"},
			told: "the rescue disk is in the BMC's virtual drive"},
		{name: "no virtual media", media: "http://192.168.77.1/media/x/rescue.iso", controller: fakeController{mediaErr: bmc.ErrUnsupported},
			log: []string{"insert http://192.168.77.1/media/x/rescue.iso"}, failed: "virtual media: the controller cannot do that"},
		{name: "soft where power cannot be asked", controller: fakeController{powerErr: bmc.ErrUnsupported}, soft: true, heardAt: 1, took: softPatience + discoverAfter,
			log: []string{"soft", "start network uefi=true"}, told: "whether it is down cannot be seen: the controller cannot do that|the system was not seen"},
		{name: "an answer that is lost", controller: fakeController{startErr: fmt.Errorf("%w, %w", bmc.ErrSilent, bmc.ErrHalfway), startsAllTheSame: true}, heardAt: 1, took: discoverAfter,
			log: []string{"start network uefi=true"}, told: "power may be cycled, nobody knows: the controller does not answer"},
		{name: "soft on a machine that is off", controller: fakeController{state: bmc.Off}, soft: true, heardAt: 1, took: discoverAfter,
			log: []string{"start network uefi=true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeOrders{order: boot.Order{ID: "ab", Machine: "srv01", Image: "dart", State: boot.Armed, Token: "s3cret"}, open: true, events: make(chan boot.Event, 10)}
				f.order.Press = boot.Press{Soft: c.soft, Media: c.media != "", Step: boot.PressOrdered}
				c.controller.started = func(n int) {
					f.events <- boot.Event{Step: boot.StepPower, Order: "ab"}
					f.events <- boot.Event{Step: boot.StepDiscover, Order: "another"}
					if n == c.heardAt {
						step := boot.StepDiscover
						if c.media != "" {
							step = boot.StepUp
						}
						f.events <- boot.Event{Step: boot.StepFile, Order: "another"}
						time.AfterFunc(discoverAfter, func() { f.events <- boot.Event{Step: step, Order: "ab"} })
					}
				}
				p := fakePresser(f)
				p.lastLine = func(string) string { return c.console }
				p.spare = func(string) bool { return c.spare }
				begun := time.Now()
				p.press(t.Context(), f.order, &c.controller, c.media)
				if took := time.Since(begun); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if !slices.Equal(c.controller.log, c.log) {
					t.Errorf("the controller got %q, want %q", c.controller.log, c.log)
				}
				if told := strings.Join(f.told, "|"); !strings.Contains(told, c.told) {
					t.Errorf("told %q, want %q", told, c.told)
				}
				if f.failed != c.failed {
					t.Errorf("failed %q, want %q", f.failed, c.failed)
				}
			})
		})
	}
}

// plugButton is a switch that pulls the plug.
type plugButton struct {
	*fakeController
	untold bool
	asked  *int // for its state
}

func (b plugButton) Power(ctx context.Context) (bmc.State, error) {
	if b.asked != nil {
		*b.asked++
	}
	return b.fakeController.Power(ctx)
}

func (plugButton) PullsPlug() bool { return true }
func (b plugButton) Untold() bool  { return b.untold }

// A plug is pulled once for one yes: not without it, not again for a machine that was not heard of, which may be at
// work by then, and not again after a restart of the box, as far as can be known.
func TestPressPullsPlugOnce(t *testing.T) {
	const discoverAfter = 40 * time.Second
	for _, c := range []struct {
		name   string
		press  boot.Press
		untold bool
		state  bmc.State
		heard  bool
		starts int
		told   string
		failed string
		took   time.Duration
	}{
		{name: "confirmed", press: boot.Press{Confirmed: true, Step: boot.PressOrdered}, heard: true, starts: 1, took: discoverAfter},
		{name: "not heard of", press: boot.Press{Confirmed: true, Step: boot.PressOrdered}, starts: 1, took: 2 * bootPatience,
			failed: "srv01 was power cycled once and did not ask for a network boot: power is on and the next boot is network, UEFI; its plug is not pulled again unasked"},
		{name: "nobody was asked", press: boot.Press{Step: boot.PressOrdered}, failed: "its plug would be pulled, and nobody was asked about that: order it again"},
		{name: "restart while it waits", press: boot.Press{Confirmed: true, Step: boot.PressWait, Tries: 1}, state: bmc.On, took: 2 * bootPatience, failed: "power cycled once"},
		{name: "restart in the press", press: boot.Press{Confirmed: true, Step: boot.PressPower, Tries: 1}, untold: true, state: bmc.On, took: 2 * bootPatience,
			told: "power may have been switched already, nobody knows: it is waited for", failed: "power cycled once"},
		{name: "restart in the press, and it is off", press: boot.Press{Confirmed: true, Step: boot.PressPower, Tries: 1}, untold: true, state: bmc.Off, heard: true, starts: 1, took: discoverAfter},
		{name: "restart before the press", press: boot.Press{Confirmed: true, Step: boot.PressPower, Tries: 1}, state: bmc.On, heard: true, starts: 1, took: discoverAfter,
			told: "its power was not touched yet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.press.Since = time.Now().Add(-time.Hour); c.press.Step == boot.PressOrdered {
					c.press.Since = time.Now()
				}
				f := &fakeOrders{order: boot.Order{ID: "ab", Machine: "srv01", State: boot.Armed, Press: c.press}, open: true, events: make(chan boot.Event, 10)}
				b := &fakeController{state: c.state, started: func(int) {
					if c.heard {
						time.AfterFunc(discoverAfter, func() { f.events <- boot.Event{Step: boot.StepDiscover, Order: "ab"} })
					}
				}}
				begun := time.Now()
				fakePresser(f).press(t.Context(), f.order, plugButton{b, c.untold, nil}, "")
				if b.starts != c.starts {
					t.Errorf("its plug was pulled %d times, want %d", b.starts, c.starts)
				}
				if took := time.Since(begun); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if told := strings.Join(f.told, "|"); !strings.Contains(told, c.told) {
					t.Errorf("told %q, want %q", told, c.told)
				}
				if !strings.Contains(f.failed, c.failed) || c.failed == "" && f.failed != "" {
					t.Errorf("failed %q, want %q", f.failed, c.failed)
				}
			})
		})
	}
}

// Each question to a socket costs a text message, and none says whether a system has shut down.
func TestSoftAsksNoSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeOrders{order: boot.Order{ID: "ab", Machine: "srv01", State: boot.Armed, Press: boot.Press{Soft: true, Confirmed: true, Step: boot.PressOrdered}}, open: true, events: make(chan boot.Event, 10)}
		asked := 0
		b := &fakeController{state: bmc.On, started: func(int) { f.events <- boot.Event{Step: boot.StepDiscover, Order: "ab"} }}
		begun := time.Now()
		fakePresser(f).press(t.Context(), f.order, plugButton{b, true, &asked}, "")
		if told := strings.Join(f.told, "|"); asked > 0 || time.Since(begun) != softPatience || !strings.Contains(told, "whether it is down cannot be seen: its socket knows the plug") {
			t.Errorf("asked %d times in %s, told %q", asked, time.Since(begun), told)
		}
		if log := strings.Join(b.log, " "); log != "soft start network uefi=true" {
			t.Errorf("it got %q", log)
		}
	})
}

// A cancelled order is not pressed again, and does not fail once more.
func TestPressCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeOrders{order: boot.Order{ID: "ab", Machine: "srv01", State: boot.Armed}, open: true, events: make(chan boot.Event, 10)}
		c := &fakeController{}
		f.closes = time.Now().Add(time.Minute)
		fakePresser(f).press(t.Context(), f.order, c, "")
		if len(c.log) != 1 || f.failed != "" {
			t.Errorf("%q, failed %q", c.log, f.failed)
		}
	})
}

// What was asked for stands first; what a controller keeps of it only where it is less.
func TestBootText(t *testing.T) {
	asked := bmc.Boot{Device: bmc.Network, UEFI: true}
	for want, set := range map[string]bmc.Next{
		"network, UEFI": {Boot: asked, Held: true},
		"network, UEFI (the BMC reads back: network, BIOS, not marked as valid)": {Boot: bmc.Boot{Device: bmc.Network}},
		"its own boot order, UEFI": {Boot: bmc.Boot{Device: ownOrder, UEFI: true}, Held: true},
	} {
		if got := bootText(asked, set); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
