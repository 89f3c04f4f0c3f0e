package appliance

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/modem"
	"rescuebox/appliance/modem/modemtest"
)

// "reset modem" resets each that does not work; one that cannot be reset keeps nobody from the others, and hides nothing.
func TestResetByText(t *testing.T) {
	fake := modemtest.Start(t)
	fake.Insert(modemtest.WantsPUK)
	router := modem.New(modem.Config{Name: "router", Data: "none"}, zap.NewNop())
	stick := modem.New(modem.Config{Name: "stick", Device: fake.Path, Data: "none"}, zap.NewNop())
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { _ = stick.Run(ctx, func() {}) })
	fake.Wait(t, "a locked SIM", func() bool { return stick.Status().State == modem.Locked })
	o := texting{&box{in: &wayIn{modems: []*modem.Modem{router, stick}}}}
	said, err := o.ResetModem(ctx)
	if err != nil || !strings.Contains(said, "modem router cannot be reset") || !strings.Contains(said, "modem stick was reset") {
		t.Errorf("%q, %v", said, err)
	}
	if fake.Count("+CFUN=") == 0 {
		t.Errorf("the modem heard %q", fake.Log())
	}
}

// What is asked of a modem by its name is refused with a reason, or done.
func TestModemByItsName(t *testing.T) {
	sim := modem.New(modem.Config{Name: "stick", Device: "/nowhere/modem", Data: "ppp", Quota: 1e6}, zap.NewNop())
	router := modem.New(modem.Config{Name: "router", Data: "netdev", NetDevice: "rbnone0", Quota: 1e6}, zap.NewNop())
	free := modem.New(modem.Config{Name: "free", Data: "none", Device: "/nowhere/other"}, zap.NewNop())
	w := &wayIn{modems: []*modem.Modem{sim, router, free}}
	for _, c := range []struct {
		err  error
		want string
	}{
		{w.Allow("lte", 0), "no modem is called"},
		{w.Allow("free", 0), "has no quota"},
		{w.Allow("stick", 0), "does not know its SIM yet"},
		{w.Reset("lte", ""), "no modem is called"},
		{w.Reset("stick", "hammer"), "there are attach, bearer, radio, restart, usb"},
		{w.Reset("free", "reboot"), "cannot be reset by"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { _ = router.Run(ctx, func() {}) })
	for end := time.Now().Add(30 * time.Second); w.Allow("router", 500) != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("its volume is never known: %v", w.Allow("router", 500))
		}
	}
	list := w.Modems()
	if got := list[1].Data.Quota; got != 1e6+500 {
		t.Errorf("the quota is %d", got)
	}
	if err := w.Allow("router", 0); err != nil || w.Modems()[1].Data.Quota != 0 {
		t.Errorf("%v; the quota is %d", err, w.Modems()[1].Data.Quota)
	}
}
