package vpn

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/link/linktest"
)

// A unit is started a while after its VPN went down, and ever more seldom if that brings nothing.
func TestStarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starts := 0
		s := &starter{unit: "other.service", pause: firstPause, start: func(context.Context, string) error {
			starts++
			return errors.New("start other.service: no")
		}}
		said := ""
		for range 3600 / 2 {
			said = s.step(t.Context(), time.Now(), false)
			time.Sleep(2 * time.Second)
		}
		if starts < 5 || starts > 12 {
			t.Errorf("%d starts in an hour", starts)
		}
		if said != "start other.service: no" {
			t.Errorf("it says %q", said)
		}
		s.step(t.Context(), time.Now(), true)
		starts = 0
		for range 4 {
			s.step(t.Context(), time.Now(), false)
			time.Sleep(2 * time.Second)
		}
		if starts != 0 {
			t.Error("no time to come up by itself")
		}
		s.wg.Wait()
	})
}

// Somebody else's VPN is seen as it comes and goes, and nothing of ours is done to it.
func TestExternal(t *testing.T) {
	w := linktest.New(t)
	tunnel, err := New(Config{External: "other0"}, zap.NewNop())
	ok(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- tunnel.Run(ctx, func() { close(ready) }) }()
	<-ready
	if s := tunnel.Status(); s.Up || !strings.Contains(s.Reason, "no interface other0") {
		t.Errorf("%+v", s)
	}
	ok(t, w.Branch.IP("link add other0 type veth peer name other1", "link set other1 up", "address add 100.64.0.7/32 dev other0", "link set other0 up"))
	eventually(t, 10*time.Second, "it is up", func() bool { return tunnel.Status().Up })
	if s := tunnel.Status(); s.Kind != "external" || s.Address.String() != "100.64.0.7/32" {
		t.Errorf("%+v", s)
	}
	for _, f := range []func(){func() { tunnel.Use("wan") }, func() { tunnel.Duplicate(true) }, func() { tunnel.SetDevice("wan", "x") }} {
		f()
	}
	ok(t, w.Branch.IP("link set other0 down"))
	eventually(t, 10*time.Second, "it is down", func() bool { return strings.Contains(tunnel.Status().Reason, "down") })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("ip", "link", "del", "other0").CombinedOutput(); err != nil {
		t.Errorf("the interface is gone: %s", out)
	}
}

// What came in before the first look says nothing of now; only what comes after it is heard.
func TestExternalHeard(t *testing.T) {
	w := linktest.New(t)
	comes := func() { // a question for an address that nobody has, from the other end
		_ = exec.Command("ping", "-c", "1", "-W", "1", "-I", "other1", "100.64.0.99").Run()
	}
	ok(t, w.Branch.IP("link add other0 type veth peer name other1", "address add 100.64.0.8/24 dev other1", "link set other1 up", "link set other0 up"))
	t.Cleanup(func() { ok(t, w.Branch.IP("link del other0")) })
	var e external
	eventually(t, 20*time.Second, "something came in", func() bool {
		comes()
		e = seeExternal("other0", external{}, time.Now())
		return e.rx > 0
	})
	if !e.heard.IsZero() {
		t.Error("what came in once was heard just now, at the first look")
	}
	if again := seeExternal("other0", external{index: e.index - 1, rx: e.rx - 1}, time.Now()); !again.heard.IsZero() {
		t.Error("what came in by an interface that was made anew was heard just now")
	}
	eventually(t, 20*time.Second, "it is heard", func() bool {
		comes()
		e = seeExternal("other0", e, time.Now())
		return !e.heard.IsZero()
	})
}
