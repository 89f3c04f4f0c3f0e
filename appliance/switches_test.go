package appliance

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/power"
	"rescuebox/appliance/state"
)

// The certificates of a machine's switch and of its system are forgotten, those of no other, nor of a BMC of
// the same name; and a machine that has none says what has.
func TestForgetPins(t *testing.T) {
	db, err := state.Open(t.TempDir() + "/state.db")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	memory := &remembered{table: state.NewTable[knownBMC](db, "bmcs", state.Durable), all: map[string]bmc.Known{}}
	of := pins{memory}
	for _, host := range []string{"kvm01:443", "kvm02:443", "dc01:5986"} {
		if err := errors.Join(of.Put(host, strings.Repeat("ab", 32)), memory.Put(host, bmc.Known{CertSHA256: "cd"})); err != nil {
			t.Fatal(err)
		}
	}
	kvm, err := power.New(power.Config{Kind: "pikvm", URL: "https://kvm01", User: "admin", Password: secret("x"), Pins: of})
	if err != nil {
		t.Fatal(err)
	}
	s := switches{powers: map[string]*machinePower{
		"srv01": {outlet: kvm, shutdown: &power.Shutdown{Kind: "winrm", Host: "dc01", Pins: of}},
		"srv02": {outlet: &fakeSwitch{}, shutdown: &power.Shutdown{Kind: "ssh", Host: "dc01", Pins: of}},
	}}
	if hosts, err := s.Forget("srv01"); err != nil || !slices.Equal(hosts, []string{"kvm01:443", "dc01:5986"}) {
		t.Errorf("forgot %q, %v", hosts, err)
	}
	again, _ := memory.Get("kvm01:443")
	if of.Get("kvm01:443") != "" || of.Get("dc01:5986") != "" || of.Get("kvm02:443") == "" || again.CertSHA256 != "cd" {
		t.Errorf("left are %v", memory.all)
	}
	if hosts, err := s.Forget("srv01"); err != nil || len(hosts) != 0 {
		t.Errorf("a second time: %q, %v", hosts, err)
	}
	for _, machine := range []string{"srv02", "srv03"} {
		if _, err := s.Forget(machine); !errors.As(err, new(*boot.Refusal)) || !strings.Contains(err.Error(), "nothing whose certificate is pinned") {
			t.Errorf("%s: %v", machine, err)
		}
	}
}
