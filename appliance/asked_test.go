package appliance

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/bmc/bmctest"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
)

// bmcs is a bmc.Memory.
type bmcs struct {
	mu  sync.Mutex
	all map[string]bmc.Known
}

func (m *bmcs) Get(host string) (bmc.Known, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.all[host]
	return k, ok
}

func (m *bmcs) Put(host string, k bmc.Known) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all[host] = k
	return nil
}

// later makes what was refused older.
func (m *bmcs) later(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.all {
		if k.Refused != nil {
			k.Refused.At = k.Refused.At.Add(-by)
		}
	}
}

// By itself the box leaves a controller alone that refused the password; what an admin does has
// it tried at once, and the doctor knows of it.
func TestAskedAtOnce(t *testing.T) {
	service, err := bmctest.New("xcc")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { service.Serve(ctx, l) })
	defer done.Wait()
	defer cancel()

	memory := &bmcs{all: map[string]bmc.Known{}}
	p := &machinePower{config: bmc.Config{Protocol: "redfish", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, User: "rescue",
		Password: func() (string, error) { return "wrong", nil }, Memory: memory}}
	p.bmc = bmc.New(p.config)
	b := &box{metrics: prometheus.NewRegistry(), Options: Options{Log: zap.NewNop(), Config: &config.Config{Machines: []config.Machine{{Name: "srv01", BMC: &config.BMC{}}}}},
		powers: map[string]*machinePower{"srv01": p, "srv02": {}}}
	b.Config.State.Dir = t.TempDir()
	b.press = newPowering(b)
	s := newSwitches(b.Config, b.powers)
	tries := func() int { _, n := service.Sessions(); return n }

	if found := b.checkBMCs(t.Context()); len(found) != 1 || found[0].Level == admin.Failed {
		t.Errorf("the doctor says %+v", found)
	}
	if _, err := p.Power(t.Context()); !errors.Is(err, bmc.ErrRefused) || tries() != 1 {
		t.Fatalf("%v after %d tries", err, tries())
	}
	found := b.checkBMCs(t.Context())
	if len(found) != 1 || found[0].Key != "bmc-refused" || !strings.Contains(found[0].Text, "the BMC of srv01") || strings.Contains(found[0].Text, "wrong") {
		t.Errorf("the doctor says %+v", found)
	}
	for what, do := range map[string]func(){
		"status":  func() { s.State(t.Context(), "srv01", api.ByBMC) },
		"on":      func() { s.Do(t.Context(), "srv01", bmc.PowerOn, api.ByBMC) },
		"soft":    func() { s.Do(t.Context(), "srv01", bmc.SoftOff, api.ByBMC) },
		"connect": func() { s.Services(t.Context(), "srv01") },
		"audit":   func() { s.Audit(t.Context(), "srv01", false) },
		"order":   func() { b.pressFor(boot.Order{Machine: "srv01"}) },
		"console": func() { newConsoles(b).Attach(t.Context(), "srv01", admin.ConsoleAttach{}) },
	} {
		memory.later(2 * time.Minute)
		before := tries()
		if _, err := p.Power(t.Context()); !errors.Is(err, bmc.ErrRefused) || tries() != before {
			t.Errorf("before %s, by itself: %v after %d tries", what, err, tries()-before)
		}
		do()
		p.Power(t.Context()) // what the order and the console do when it is their turn
		p.Power(t.Context())
		if n := tries() - before; n != 1 {
			t.Errorf("%s: %d tries, want one", what, n)
		}
	}
}
