package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"rescuebox/appliance/link/linktest"
	"rescuebox/appliance/vpn"
)

func TestMain(m *testing.M) { linktest.Main(m) }

// box is the branch's box with its uplinks watched, and with a real tunnel.
type box struct {
	*linktest.World
	t      *testing.T
	hub    *linktest.Hub
	tunnel *vpn.Tunnel
	watch  *Watch
	store  *memory

	mu     sync.Mutex
	events []Event
	stop   func()
}

// memory is a Store.
type memory struct {
	mu      sync.Mutex
	all     map[string]Kept
	refuses bool // to delete
	held    chan struct{}
}

// hold lets the disk stand still until free.
func (m *memory) hold() (free func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := make(chan struct{})
	m.held = held
	return func() { close(held) }
}

func (m *memory) wait() {
	m.mu.Lock()
	held := m.held
	m.mu.Unlock()
	if held != nil {
		<-held
	}
}

func (m *memory) refuse(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuses = yes
}

func (m *memory) Put(key string, k Kept) error {
	m.wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all[key] = k
	return nil
}

func (m *memory) Delete(key string) error {
	m.wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuses {
		return unix.ENOSPC
	}
	delete(m.all, key)
	return nil
}

func (m *memory) All() (list []Kept, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.all {
		list = append(list, k)
	}
	return list, nil
}

// newBox makes the world, the tunnel and the watch; both run until the end of the test.
func newBox(t *testing.T, change func(*Config)) *box {
	t.Helper()
	b := &box{World: linktest.New(t), t: t, store: &memory{all: map[string]Kept{}}}
	b.hub = b.Hub(t)
	dir := t.TempDir()
	log := zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel))
	tunnel, err := vpn.New(vpn.Config{Interface: "rescuevpn", Address: netip.MustParsePrefix(linktest.BranchInner + "/24"),
		KeyFile: filepath.Join(dir, "key"), ClockFile: filepath.Join(dir, "clock"),
		Uplinks: []vpn.Uplink{{Name: "wan", Device: b.WAN.Device}, {Name: "lte", Device: b.LTE.Device, Metered: true}},
		Hubs: []vpn.Hub{{Name: "hub", PublicKey: b.hub.PublicKey, Endpoints: []string{b.hub.Endpoint.String()},
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}, Keepalive: 25 * time.Second, Ping: netip.MustParseAddr(linktest.HubInner)}}}, log)
	must(t, err)
	b.tunnel = tunnel
	must(t, b.hub.Admit(tunnel.Status().PublicKey, ""))
	b.run("tunnel", tunnel.Run)
	b.restart(change)
	return b
}

// restart runs a new watch in place of the one that runs.
func (b *box) restart(change func(*Config)) {
	b.t.Helper()
	if b.stop != nil {
		b.stop()
	}
	c := Config{Uplinks: []Uplink{{Name: "wan", Device: b.WAN.Device}, {Name: "lte", Device: b.LTE.Device, Metered: true}},
		InnerDevice: "rescuevpn", Tunnel: b.tunnel, Inner: func() netip.Addr { return netip.MustParseAddr(linktest.HubInner) },
		Hubs:  func() []netip.Addr { return []netip.Addr{b.hub.Endpoint.Addr()} },
		Store: b.store, Failback: 3 * time.Second, Log: zaptest.NewLogger(b.t, zaptest.Level(zap.InfoLevel)),
		Changed: func(e Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		}}
	if change != nil {
		change(&c)
	}
	w, err := New(c)
	must(b.t, err)
	b.watch = w
	b.stop = b.run("watch", w.Run)
}

// run runs a part until stop, or the end of the test.
func (b *box) run(name string, part func(context.Context, func()) error) (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- part(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		b.t.Fatalf("the %s does not start: %v", name, err)
	case <-time.After(30 * time.Second):
		b.t.Fatalf("the %s is not ready", name)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Errorf("the %s did not end cleanly: %v", name, err)
		}
	})
	b.t.Cleanup(stop)
	return stop
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// calm waits until the hub answers by an uplink that is active, and the other one is alive.
func (b *box) calm(uplink string) {
	b.t.Helper()
	b.until(uplink+" is active and all is well", func(s Status) bool {
		for _, u := range s.Uplinks {
			if u.Health != Alive {
				return false
			}
		}
		return s.Active == uplink && s.Phase == "steady"
	})
}

func (b *box) until(what string, ok func(Status) bool) {
	b.t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok(b.watch.Status()) {
			return
		}
	}
	b.t.Errorf("did not come: %s\n%+v", what, b.watch.Status())
	if b.tunnel != nil {
		b.t.Errorf("tunnel: %+v", b.tunnel.Status())
	}
	b.t.FailNow()
}

// The admin's side of a silent cut, of a way back, and of a cable that is pulled.
func TestFailover(t *testing.T) {
	b := newBox(t, nil)
	b.calm("wan")
	b.Echo(t)
	meter := func() (stop func() linktest.Reading) {
		ask, err := b.hub.Meter(5 * time.Millisecond)
		must(t, err)
		linktest.Pass(time.Second)
		return func() linktest.Reading {
			r, err := ask()
			must(t, err)
			return r
		}
	}

	stop := meter()
	cut := linktest.Now()
	must(t, b.Silence("wan"))
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" && s.Phase == "steady" })
	linktest.Pass(300 * time.Millisecond)
	back := linktest.Now()
	must(t, b.Mend("wan"))
	b.calm("wan")
	linktest.Pass(300 * time.Millisecond)
	r := stop()
	silent, lost := gap(r, cut, back), 0
	for i, at := range r.Sent {
		if at > back && r.Answered[i] == 0 {
			lost++
		}
	}

	stop = meter()
	pulled := linktest.Now()
	must(t, b.Unplug("wan"))
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" })
	linktest.Pass(300 * time.Millisecond)
	carrier := gap(stop(), pulled, linktest.Now())
	t.Logf("silent cut: %v, way back: %d lost, cable pulled: %v", silent, lost, carrier)
	if silent > time.Second || carrier > time.Second || lost > 0 { // what it is on a machine at rest, the bench says
		t.Errorf("silent cut: %v, way back: %d lost, cable pulled: %v", silent, lost, carrier)
	}
}

// gap is the longest time without an answer within a part of a reading, not counting while the machine stood still.
func gap(r linktest.Reading, from, to time.Duration) time.Duration {
	r, clock := r.Awake()
	part := linktest.Reading{}
	for i, at := range r.Sent {
		if at < clock(to) {
			part.Sent, part.Answered = append(part.Sent, at), append(part.Answered, r.Answered[i])
		}
	}
	return part.Gap(clock(from)).Long()
}

func output(args ...string) string {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A drill cuts the WAN off for real, measures, and puts all back. The kernel ends the cut even if nobody
// else does.
func TestDrill(t *testing.T) {
	b := newBox(t, func(c *Config) { c.Uplinks[1].Check = time.Second })
	b.calm("wan")
	if _, err := b.watch.Test(context.Background(), "", time.Millisecond); err == nil {
		t.Error("a drill of a millisecond began")
	}
	if _, err := b.watch.Test(context.Background(), "lte", time.Second); err == nil || !strings.Contains(err.Error(), "lte is not in use") {
		t.Errorf("a drill of an uplink that stands by: %v", err)
	}
	b.Echo(t)
	ask, err := b.hub.Meter(5 * time.Millisecond)
	must(t, err)
	var r Report
	ended := make(chan error, 1)
	drill := func(ctx context.Context, d time.Duration) {
		var err error
		r, err = b.watch.Test(ctx, "wan", d)
		ended <- err
	}
	takesOver := func(s Status) bool {
		if len(ended) > 0 && s.Active != "lte" {
			t.Fatalf("the drill ended before lte was active: %v", <-ended)
		}
		return s.Active == "lte"
	}
	go drill(context.Background(), 5*time.Second)
	b.until("lte is active", takesOver)
	if list, _ := b.store.All(); len(list) > 0 {
		t.Errorf("a drill is kept over restarts: %+v", list)
	}
	must(t, <-ended)
	seen, err := ask()
	must(t, err)
	stood := seen.Stood(0, linktest.Now()) // the machine itself, all in all
	t.Logf("%+v; the machine stood still for %v", r, stood)
	if r.Uplink != "wan" || r.Other != "lte" || r.Away <= 20*time.Millisecond || r.Away > 2*time.Second+stood || r.Back > 2*time.Second+stood || r.Sent < 100 {
		t.Errorf("%+v", r)
	}
	b.calm("wan")
	if s := b.watch.Status(); s.LastDrill == nil || *s.LastDrill != r {
		t.Errorf("the status shows %+v", s.LastDrill)
	}
	// What somebody orders during a drill stands after it.
	ctx, cancel := context.WithCancel(context.Background())
	go drill(ctx, time.Minute)
	b.until("lte is active", takesOver)
	must(t, b.watch.Fail("wan", time.Hour))
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if h := b.watch.Status().Uplinks[0].Health; h != Failed {
		t.Errorf("wan, which somebody failed during a drill, is %s after it", h)
	}
	must(t, b.watch.Restore("wan"))
	b.calm("wan")
	// The daemon dies in a drill: nobody mends.
	must(t, nft(cut("wan0", 10*time.Second))) // longer than a machine stands still
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" })
	b.until("the kernel ended the cut", func(s Status) bool { return s.Uplinks[0].Health == Alive })
	// It is started again while the cut lasts: that is over then.
	b.stop()
	must(t, nft(cut("wan0", longestDrill)))
	b.restart(func(c *Config) { c.Uplinks[1].Check = time.Second })
	b.calm("wan")

	must(t, b.Silence("lte"))
	b.until("wan is active", func(s Status) bool { return s.Active == "wan" && s.Phase == "steady" && s.Uplinks[1].Health == Dead })
	if _, err := b.watch.Test(context.Background(), "", 3*time.Second); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a drill without another uplink: %v", err)
	}
}

// What somebody ordered outlives a restart.
func TestOrders(t *testing.T) {
	b := newBox(t, nil)
	b.calm("wan")
	if err := b.watch.Fail("adsl", 0); err == nil || !strings.Contains(err.Error(), "lte, wan") {
		t.Errorf("an uplink that is none: %v", err)
	}
	must(t, b.watch.Fail("wan", 0))
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" && s.Uplinks[0].Health == Failed })
	if err := b.watch.Fail("lte", 0); err == nil {
		t.Error("the last uplink was failed")
	}
	b.restart(nil)
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" && s.Phase == "steady" })
	if h := b.watch.Status().Uplinks[0].Health; h != Failed {
		t.Errorf("after a restart wan is %s", h)
	}
	must(t, b.watch.Restore("wan"))
	b.calm("wan")
	must(t, b.watch.Set(LTEOnly))
	b.calm("lte")
	b.restart(nil)
	b.calm("lte")
	if err := b.watch.Set("always"); err == nil {
		t.Error("a mode that is none was set")
	}
	must(t, b.watch.Set(""))
	b.calm("wan")
	if len(b.store.all) != 0 {
		t.Errorf("kept: %+v", b.store.all)
	}
}

// Devices that go and come, with another index, as ppp0 and wwan0 do.
func TestRecreated(t *testing.T) {
	b := newBox(t, nil)
	b.calm("wan")
	must(t, b.Remove("lte"))
	b.until("lte is absent", func(s Status) bool { return s.Uplinks[1].Health == Absent && s.Active == "wan" })
	must(t, b.Recreate("lte"))
	b.calm("wan")
	must(t, b.Silence("wan"))
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" && s.Phase == "steady" })
	must(t, b.Mend("wan"))
	b.calm("wan")
	must(t, b.Remove("wan"))
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" && s.Phase == "steady" })
	must(t, b.Recreate("wan"))
	b.calm("wan")
}

// A hub that is down is no reason to leave an uplink, and it is heard again when it is back.
func TestHubReboots(t *testing.T) {
	b := newBox(t, nil)
	b.calm("wan")
	b.hub.Stop()
	b.until("the hub is silent", func(s Status) bool { return !s.Silent.IsZero() })
	time.Sleep(3 * time.Second)
	if s := b.watch.Status(); s.Active != "wan" || s.Switches != 0 {
		t.Errorf("%+v", s)
	}
	must(t, b.hub.Start())
	must(t, b.hub.Admit(b.tunnel.Status().PublicKey, ""))
	b.calm("wan")
}

// In mode dormant the bearer is called when the WAN is dead, and let go after it is back.
func TestBearer(t *testing.T) {
	called := make(chan bool, 10)
	b := newBox(t, func(c *Config) {
		c.Mode = Dormant
		c.Uplinks[1].Device = ""
		c.Bearers = map[string]Bearer{"lte": dialler(called)}
	})
	b.until("wan is active", func(s Status) bool { return s.Active == "wan" && s.Phase == "steady" })
	must(t, b.Silence("wan"))
	if on := <-called; !on {
		t.Fatal("the bearer is hung up")
	}
	b.watch.Bearer("lte", BearerState{Device: "lte0", Gateway: netip.MustParseAddr("10.64.0.1")})
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" && s.Phase == "steady" })
	must(t, b.Mend("wan"))
	b.until("wan is active", func(s Status) bool { return s.Active == "wan" && s.Phase == "steady" })
	if on := <-called; on {
		t.Fatal("the bearer is called again")
	}
	b.watch.Bearer("lte", BearerState{Err: context.Canceled})
	b.until("lte is absent", func(s Status) bool {
		return s.Uplinks[1].Health == Absent && strings.Contains(s.Uplinks[1].Reason, "its bearer is down")
	})
}

type dialler chan bool

func (d dialler) Want(up bool) { d <- up }
