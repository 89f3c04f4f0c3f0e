package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rescuebox/appliance/bmc"
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

// Behind a switch the machine's own boot order counts; Wake-on-LAN can only switch on.
func TestSwitchStarts(t *testing.T) {
	outlet := &fakeSwitch{}
	p := &machinePower{outlet: outlet}
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
