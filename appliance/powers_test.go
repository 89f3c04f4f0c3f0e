package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/power"
)

// fakeSwitch writes down what it was told.
type fakeSwitch struct {
	log      []string
	cycleErr error
}

func (f *fakeSwitch) State(context.Context) (power.State, error) { return power.On, nil }
func (f *fakeSwitch) On(context.Context) error                   { f.log = append(f.log, "on"); return nil }
func (f *fakeSwitch) Off(context.Context) error                  { f.log = append(f.log, "off"); return nil }
func (f *fakeSwitch) Cycle(context.Context) error {
	f.log = append(f.log, "cycle")
	return f.cycleErr
}

// A blade is found by what the file of the site says of it.
func TestSystemOfChassis(t *testing.T) {
	c := &config.Config{Machines: []config.Machine{{Name: "srv01", MACs: []string{"52:54:00:12:34:56"},
		BMC: &config.BMC{Protocol: "redfish", Host: "192.0.2.1", User: "rescue", PasswordFile: "/p", System: "Blade3"}}}}
	all, err := powersOf(c, nil, &taken{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := all["srv01"].config; got.System != "Blade3" || got.Host != "192.0.2.1" {
		t.Errorf("%+v", got)
	}
}

// Behind a switch the machine's own boot order counts; Wake-on-LAN can only switch on.
func TestSwitchStarts(t *testing.T) {
	outlet := &fakeSwitch{}
	p := &machinePower{name: "srv01", outlet: outlet, taken: newTaken(fakeTaken{}, zap.NewNop())}
	next, err := p.Start(t.Context(), bmc.Boot{Device: bmc.Network, UEFI: true})
	if err != nil || next.String() != "its own boot order, UEFI" || strings.Join(outlet.log, " ") != "cycle" {
		t.Errorf("%s, %v, %q", next, err, outlet.log)
	}
	outlet.cycleErr = power.ErrUnsupported
	if _, err := p.Start(t.Context(), bmc.Boot{Device: bmc.Network}); err != nil || strings.Join(outlet.log, " ") != "cycle cycle on" {
		t.Errorf("%v, %q", err, outlet.log)
	}
	outlet.cycleErr = fmt.Errorf("%w: outlet 3", power.ErrSilent)
	if _, err := p.Start(t.Context(), bmc.Boot{Device: bmc.Network}); !errors.Is(err, bmc.ErrSilent) || !errors.Is(err, power.ErrSilent) || err.Error() != "the switch does not answer: outlet 3" {
		t.Errorf("a switch that is silent: %v", err)
	}
	if _, err := p.Start(t.Context(), bmc.Boot{Device: bmc.VirtualCD}); !errors.Is(err, bmc.ErrUnsupported) {
		t.Errorf("a switch with a CD: %v", err)
	}
	if err := p.ShutDown(t.Context()); !errors.Is(err, bmc.ErrUnsupported) {
		t.Errorf("a switch shuts nothing down: %v", err)
	}
}

// slowButton starts nothing before ctx is done, or a minute is over.
type slowButton struct {
	fakeController
	began chan string
}

func (b *slowButton) Start(ctx context.Context, _ bmc.Boot) (bmc.Next, error) {
	b.began <- "start"
	select {
	case <-ctx.Done():
		return bmc.Next{}, ctx.Err()
	case <-time.After(time.Minute):
		return bmc.Next{}, errors.New("power is cut")
	}
}

// An order that is over is not pressed any more, and its disk is ejected before the next one's is inserted.
func TestPressesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &movingOrders{now: "old", watchers: map[chan boot.Event]bool{}}
		p := &powering{presser: *fakePresser(f), all: func() []boot.Order { return nil }, disk: func(o boot.Order) (string, error) { return o.ID, nil }}
		turn, b := &sync.Mutex{}, &slowButton{began: make(chan string, 10)}
		press := func(id string) func() {
			return func() { p.inTurn(t.Context(), turn, b, boot.Order{ID: id, Machine: "srv01"}) }
		}
		var wg sync.WaitGroup
		wg.Go(press("old"))
		<-b.began
		begun := time.Now()
		f.replace("new")
		wg.Go(press("new"))
		<-b.began
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the old order was pressed for %s more", took)
		}
		f.replace("none")
		wg.Wait()
		if want := []string{"insert old", "eject", "insert new", "eject"}; !slices.Equal(b.log, want) {
			t.Errorf("%q, want %q", b.log, want)
		}
		p.inTurn(t.Context(), turn, b, boot.Order{ID: "old", Machine: "srv01"})
		if len(b.log) != 4 || f.failed != "" {
			t.Errorf("an order that is over: %q, failed %q", b.log, f.failed)
		}
	})
}

// movingOrders is a table whose one open order is replaced.
type movingOrders struct {
	mu       sync.Mutex
	now      string
	failed   string
	watchers map[chan boot.Event]bool
}

func (f *movingOrders) OpenOrder(machine string) (boot.Order, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return boot.Order{ID: f.now, Machine: machine, State: boot.Armed, Press: boot.Press{Media: true, Step: boot.PressOrdered}}, f.now != "none"
}

func (f *movingOrders) replace(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.now
	f.now = id
	for w := range f.watchers {
		w <- boot.Event{Step: boot.StepFailed, Order: old}
	}
}

func (f *movingOrders) Record(boot.Event)                     {}
func (f *movingOrders) Pressed(string, boot.Press)            {}
func (f *movingOrders) Timeline(string) ([]boot.Event, error) { return nil, nil }
func (f *movingOrders) Fail(id, reason string) error {
	f.failed = reason
	return nil
}

func (f *movingOrders) Watch() (<-chan boot.Event, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := make(chan boot.Event, 10)
	f.watchers[w] = true
	return w, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}
}

// A password file is read each time, and what is wrong with it is said without showing it.
func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "srv01")
	read := secret(path)
	if _, err := read(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	for text, want := range map[string]string{"hunter2\n": "hunter2", "hunter2\r\n": "hunter2", " spaces count ": " spaces count ", "": "", "two\nlines\n": "", strings.Repeat("x", maxSecret+1): ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := read()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.20q: %.20q, %v", text, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), "lines") || strings.Contains(err.Error(), "xxx")) {
			t.Errorf("the error shows what is in the file: %v", err)
		}
	}
}
