package link

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// lab is kernel, network, tunnel and hub in one, in the bubble's time.
type lab struct {
	mu    sync.Mutex
	dead  map[string]bool // by uplink
	gone  map[string]bool
	blind map[string]bool // the kernel cannot be asked
	use   string
	dup   bool
	heard map[string]time.Time
	uses  []string
	asked map[string]int
	held  chan struct{} // whoever asks the kernel waits for it; nil: nobody

	changed func(Event) // nil: nobody is told
	log     *zap.Logger // nil: none
	looks   int         // at the wan while blind
}

func newLab() *lab {
	return &lab{dead: map[string]bool{}, gone: map[string]bool{}, blind: map[string]bool{}, heard: map[string]time.Time{}, asked: map[string]int{}}
}

func (l *lab) Use(uplink string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.use, l.uses = uplink, append(l.uses, uplink)
}

func (l *lab) Duplicate(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dup = on
}

func (l *lab) Heard(uplink string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard[uplink]
}

func (l *lab) Handshake() time.Time { return time.Now() }

func (l *lab) set(what map[string]bool, uplink string, is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	what[uplink] = is
}

// hold lets the kernel answer nobody until release, as while somebody else holds its lock of interfaces.
func (l *lab) hold() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := make(chan struct{})
	l.held = held
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held = nil
		close(held)
	}
}

func (l *lab) wait() {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	if held != nil {
		<-held
	}
}

func (l *lab) look(u Uplink, _ BearerState, _ sight) sight {
	l.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.blind[u.Name] {
		if u.Name == "wan" {
			l.looks++
		}
		return sight{err: unix.EMFILE}
	}
	if l.gone[u.Name] {
		return sight{device: u.Device, why: "it is gone"}
	}
	return sight{device: u.Device, index: 1, carrier: true, v4: way{ok: true, gateway: netip.MustParseAddr("10.0.0.1")}}
}

func (l *lab) leads() ([2]int, error) { l.wait(); return [2]int{}, nil }

func (l *lab) carrier(device string) bool {
	l.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.gone[device[:3]]
}

func (l *lab) ask(ctx context.Context, by path, _ Probe) error {
	l.mu.Lock()
	uplink := by.device[:3]
	l.asked[uplink]++
	dead := l.dead[uplink]
	l.mu.Unlock()
	if dead {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(10 * time.Millisecond)
	return nil
}

func (l *lab) pinger(string, bool) (echoer, error) {
	return &labPinger{lab: l, answers: make(chan uint16, 100), closed: make(chan struct{})}, nil
}

type labPinger struct {
	lab     *lab
	answers chan uint16
	closed  chan struct{}
	once    sync.Once
}

func (p *labPinger) send(_ netip.Addr, seq uint16) error {
	time.AfterFunc(5*time.Millisecond, func() {
		p.lab.mu.Lock()
		defer p.lab.mu.Unlock()
		for _, uplink := range []string{p.lab.use, "wan", "lte"} {
			if (uplink == p.lab.use || p.lab.dup) && !p.lab.dead[uplink] && !p.lab.gone[uplink] {
				p.lab.heard[uplink] = time.Now()
				p.answers <- seq
				return
			}
		}
	})
	return nil
}

func (p *labPinger) receive() (netip.Addr, uint16, error) {
	select {
	case seq := <-p.answers:
		return netip.MustParseAddr("10.99.0.1"), seq, nil
	case <-p.closed:
		return netip.Addr{}, 0, net.ErrClosed
	}
}

func (p *labPinger) close() { p.once.Do(func() { close(p.closed) }) }

// start runs a watch in the lab until stop.
func (l *lab) start(t *testing.T, store Store, reg prometheus.Registerer) (w *Watch, stop func()) {
	t.Helper()
	w, err := New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}},
		InnerDevice: "vpn0", Tunnel: l, Inner: func() netip.Addr { return netip.MustParseAddr("10.99.0.1") },
		Hubs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} }, Store: store, Metrics: reg, Changed: l.changed, Log: l.log})
	must(t, err)
	w.world = l
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	ready := make(chan struct{})
	go func() {
		defer close(done)
		w.loop(ctx, func() { close(ready) })
	}()
	<-ready
	return w, func() { cancel(); <-done }
}

// The whole loop over hours: a cut, an hour in which all is dead, a restart in the middle of it, a cable.
func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		store := &memory{all: map[string]Kept{}}
		reg := prometheus.NewRegistry()
		w, stop := l.start(t, store, reg)
		want := func(uplink string) {
			t.Helper()
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			if s := w.Status(); s.Active != uplink || l.use != uplink {
				t.Fatalf("%s is active, the tunnel uses %s, want %s\n%+v", s.Active, l.use, uplink, s)
			}
		}
		time.Sleep(10 * time.Second)
		want("wan")
		l.set(l.dead, "wan", true)
		time.Sleep(time.Second)
		want("lte")
		l.set(l.dead, "lte", true)
		time.Sleep(30 * time.Minute)
		stop()
		w, stop = l.start(t, store, nil)
		time.Sleep(30 * time.Minute)
		uses := len(l.uses)
		if uses > 8 {
			t.Errorf("the tunnel was moved %d times: %q", uses, l.uses)
		}
		l.set(l.dead, "wan", false)
		time.Sleep(90 * time.Second)
		want("wan")
		l.set(l.dead, "lte", false)
		time.Sleep(2 * time.Minute)
		want("wan")
		l.set(l.gone, "wan", true)
		w.look()
		time.Sleep(time.Millisecond)
		want("lte")
		l.set(l.gone, "wan", false)
		w.look()
		must(t, w.Set(LTEOnly))
		time.Sleep(time.Hour)
		want("lte")
		stop()
		if n := testutil.CollectAndCount(reg, "rescuebox_link_switches_total"); n != 2 {
			t.Errorf("%d counters of switches, want one for each uplink", n)
		}
	})
}

// While the kernel cannot be asked, nothing is known, and all goes on as it was; then what happened meanwhile is seen
// soon, although nobody tells of it again.
func TestBlind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		core, said := observer.New(zap.WarnLevel)
		l.log = zap.New(core)
		w, stop := l.start(t, nil, nil)
		defer stop()
		time.Sleep(10 * time.Second)
		l.set(l.blind, "wan", true)
		l.set(l.blind, "lte", true)
		w.look()
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := w.Status(); s.Active != "wan" || s.Uplinks[0].Health != Alive || len(l.uses) != 1 {
			t.Fatalf("the tunnel was put on %q; %+v", l.uses, s)
		}
		l.mu.Lock()
		if l.looks > 70 || said.Len() != 1 {
			t.Errorf("in a minute it was looked at %d times, and that said %d times", l.looks, said.Len())
		}
		l.mu.Unlock()
		l.set(l.blind, "wan", false)
		l.set(l.blind, "lte", false)
		l.set(l.gone, "lte", true)
		time.Sleep(blindFor + time.Millisecond)
		synctest.Wait()
		if h := w.Status().Uplinks[1].Health; h != Absent {
			t.Errorf("lte, which went meanwhile, is %s", h)
		}
	})
}

// Neither a kernel nor a disk that stands still holds up a switch, nor whoever asks how things are; what is ordered
// meanwhile is done once the disk took it.
func TestStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		store := &memory{all: map[string]Kept{}}
		w, stop := l.start(t, store, nil)
		uses := func(want string) {
			t.Helper()
			synctest.Wait()
			if s := w.Status(); s.Active != want || s.Phase != string(steady) {
				t.Errorf("%s is active, %s; want %s", s.Active, s.Phase, want)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.use != want || l.dup {
				t.Errorf("the tunnel uses %s, by all: %v; want %s", l.use, l.dup, want)
			}
		}
		for name, order := range map[string]func() error{
			"fail": func() error { return w.Fail("lte", time.Second) }, "restore": func() error { return w.Restore("lte") },
			"mode": func() error { return w.Set(Dormant) },
		} {
			time.Sleep(10 * time.Second)
			uses("wan")
			release, free := l.hold(), store.hold()
			w.look()
			ordered := make(chan error, 1)
			go func() { ordered <- order() }()
			time.Sleep(time.Second)
			l.set(l.dead, "wan", true)
			time.Sleep(500 * time.Millisecond)
			uses("lte")
			l.set(l.dead, "wan", false)
			time.Sleep(10 * time.Minute)
			uses("wan")
			if len(ordered) > 0 {
				t.Errorf("%s: done, and the disk had not taken it", name)
			}
			l.set(l.gone, "lte", true)
			free()
			must(t, <-ordered)
			release()
			synctest.Wait()
			if h := w.Status().Uplinks[1].Health; h != Absent {
				t.Errorf("%s: lte, which went meanwhile, is %s", name, h)
			}
			l.set(l.gone, "lte", false)
			w.look()
		}
		if m := w.Status().Mode; m != Dormant {
			t.Errorf("the mode is %s", m)
		}
		stop()
	})
}

// A carrier that is lost is seen within the time between two probes, even if the kernel does not come to telling it.
func TestCarrierUntold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		w, stop := l.start(t, nil, nil)
		for phase := range 10 {
			time.Sleep(30*time.Second + time.Duration(phase)*5*time.Millisecond)
			synctest.Wait()
			if s := w.Status(); s.Active != "wan" {
				t.Fatalf("%+v", s)
			}
			l.set(l.gone, "wan", true)
			l.set(l.dead, "wan", true)
			time.Sleep(52 * time.Millisecond)
			synctest.Wait()
			if s := w.Status(); s.Active != "lte" || s.Uplinks[0].Health != Absent {
				t.Errorf("phase %d: %s is active, wan is %s", phase, s.Active, s.Uplinks[0].Health)
			}
			l.set(l.gone, "wan", false)
			l.set(l.dead, "wan", false)
			must(t, w.Restore("wan")) // it need not wait
			w.look()
		}
		stop()
	})
}

// A failure for a time ends then, also where the daemon restarts meanwhile, or is down as it ends; a clock that is
// wrong after the start does not make it longer.
func TestFailForATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		store := &memory{all: map[string]Kept{}}
		w, stop := l.start(t, store, nil)
		time.Sleep(10 * time.Second)
		active := func(want string) {
			t.Helper()
			synctest.Wait()
			if s := w.Status(); s.Active != want {
				t.Fatalf("%s is active, want %s\n%+v", s.Active, want, s)
			}
		}
		kept := func(want int) {
			t.Helper()
			if list, _ := store.All(); len(list) != want {
				t.Fatalf("kept: %+v, want %d", list, want)
			}
		}
		again := func(down time.Duration) {
			stop()
			time.Sleep(down)
			w, stop = l.start(t, store, nil)
			time.Sleep(10 * time.Second)
		}
		must(t, w.Fail("wan", time.Hour))
		time.Sleep(20 * time.Minute)
		again(20 * time.Minute)
		active("lte")
		if u := w.Status().Uplinks[0]; u.Health != Failed || time.Until(u.Until) > 20*time.Minute {
			t.Errorf("%+v", u)
		}
		kept(1)
		time.Sleep(20 * time.Minute)
		active("wan")
		kept(0) // a clock that is behind after the next start cannot bring it back
		again(0)
		active("wan")

		must(t, w.Fail("wan", time.Hour))
		again(2 * time.Hour)
		active("wan")
		kept(0)

		must(t, w.Fail("wan", time.Hour))
		time.Sleep(30 * time.Minute)
		must(t, w.Fail("wan", time.Hour)) // the newest word counts
		time.Sleep(45 * time.Minute)
		active("lte")
		kept(1)
		store.refuse(true) // the disk is full just as it ends
		time.Sleep(20 * time.Minute)
		active("wan")
		kept(1)
		store.refuse(false)
		time.Sleep(untidy)
		synctest.Wait()
		kept(0)

		must(t, w.Fail("wan", time.Hour))
		k := store.all[keyUplink+"wan"]
		k.At, k.Until = k.At.Add(24*time.Hour), k.Until.Add(24*time.Hour) // the clock is a day behind now
		must(t, store.Put(keyUplink+"wan", k))
		again(0)
		active("lte")
		time.Sleep(time.Hour)
		active("wan")
		kept(0)
		stop()
	})
}

// The only uplink that works can be failed for a time only, and is used all the same; a drill is of the active one.
func TestFailTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab()
		l.dead["lte"] = true
		w, stop := l.start(t, &memory{all: map[string]Kept{}}, nil)
		time.Sleep(time.Hour)
		if err := w.Fail("wan", 0); err == nil || !strings.Contains(err.Error(), "cut off") {
			t.Errorf("the last uplink failed for good: %v", err)
		}
		must(t, w.Fail("wan", time.Minute))
		time.Sleep(10 * time.Second)
		if s := w.Status(); s.Active != "wan" || s.Uplinks[0].Health != Failed {
			t.Errorf("%+v", s)
		}
		if _, err := w.Test(t.Context(), "dsl", time.Second); err == nil || !strings.Contains(err.Error(), "no uplink") {
			t.Errorf("a drill of nothing: %v", err)
		}
		stop()
	})
}

// lateHub answers each ping after so long, until it is dead.
type lateHub struct {
	*labPinger
	takes time.Duration
	dead  bool
}

func (h *lateHub) send(_ netip.Addr, seq uint16) error {
	if !h.dead {
		time.AfterFunc(h.takes, func() { h.answers <- seq })
	}
	return nil
}

// A drill is refused where the hub does not answer, and not where its answers take more than a second, or where this
// machine stood still for one: to whoever asks that is the same.
func TestDrillsHub(t *testing.T) {
	for takes, want := range map[time.Duration]bool{5 * time.Millisecond: true, 1200 * time.Millisecond: true, 0: false} {
		synctest.Test(t, func(t *testing.T) {
			h := &lateHub{labPinger: &labPinger{answers: make(chan uint16, 1000), closed: make(chan struct{})}, takes: takes, dead: !want}
			m := &measure{conn: h, hub: netip.MustParseAddr("10.99.0.1"), sent: map[uint16]time.Time{}}
			go m.listen()
			if got := m.usual(t.Context()); got != want {
				t.Errorf("a hub that answers after %v: %v", takes, got)
			}
			time.Sleep(2 * time.Second)
			h.close()
		})
	}
}

// A round is good when as many targets answer as are needed; one that can say nothing counts for neither.
func TestNeed(t *testing.T) {
	ok, silent := error(nil), errSilent
	for _, c := range []struct {
		name    string
		answers []error
		need    int
		good    bool
	}{
		{"one of one", []error{ok}, 1, true},
		{"none of one", []error{silent}, 1, false},
		{"one of two", []error{silent, ok}, 1, true},
		{"one of two, two needed", []error{silent, ok}, 2, false},
		{"two of three", []error{ok, silent, ok}, 2, true},
		{"more needed than there are", []error{ok}, 2, true},
		{"says nothing", []error{errAbstain}, 1, true},
		{"says nothing beside a silent one", []error{errAbstain, silent}, 1, false},
		{"says nothing beside a good one, two needed", []error{errAbstain, ok}, 2, true},
		{"nothing to ask", nil, 1, true},
	} {
		w, err := New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}}})
		must(t, err)
		answers := map[string]error{}
		var probes []Probe
		for i, a := range c.answers {
			host := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String()
			answers[host] = a
			probes = append(probes, Probe{Kind: ICMP, Host: host})
		}
		w.world = answering(answers)
		if err := w.askAll(t.Context(), 0, path{}, probes, c.need); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

type answering map[string]error

func (answering) look(Uplink, BearerState, sight) sight          { return sight{} }
func (answering) leads() ([2]int, error)                         { return [2]int{}, nil }
func (answering) carrier(string) bool                            { return true }
func (answering) pinger(string, bool) (echoer, error)            { return nil, errSilent }
func (a answering) ask(_ context.Context, _ path, p Probe) error { return a[p.Host] }

func TestMonthly(t *testing.T) {
	lte := Uplink{Name: "lte", Metered: true}
	lte.complete()
	standing := monthly(lte, []Probe{{Kind: ICMP}}, false)
	if standing > 1<<20 {
		t.Errorf("standing by, LTE's probes cost %d bytes a month", standing)
	}
	if active := monthly(lte, []Probe{{Kind: ICMP}}, true); active < 30<<20 || active > 40<<20 {
		t.Errorf("active, LTE's probes cost %d bytes a month", active)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []Config{
		{Uplinks: []Uplink{{Name: "wan"}, {Name: "wan"}}},
		{Uplinks: []Uplink{{}}},
		{Mode: "sometimes"},
		{Uplinks: make([]Uplink, 200)},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

// Only an answer to our own question counts: somebody on the way must not make a dead uplink live.
func TestEcho(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := &pinger{v6: v6, id: 7, secret: [lenSecret]byte{1, 2, 3}}
		good := p.request(300)
		if v6 {
			good[0] = 129
		} else {
			good[0] = 0
			good[2], good[3] = 0, 0
			sum := checksum(good)
			good[2], good[3] = byte(sum>>8), byte(sum)
		}
		if seq, ok := p.reply(good); !ok || seq != 300 {
			t.Fatalf("v6 %v: a good answer is %d, %v", v6, seq, ok)
		}
		for i := range good {
			bad := append([]byte(nil), good...)
			bad[i] ^= 1
			if _, ok := p.reply(bad); ok && !(v6 && (i == 2 || i == 3 || i == 6 || i == 7)) { // the kernel checks ICMPv6's sum; the number is read, not checked
				t.Errorf("v6 %v: an answer with byte %d changed counts", v6, i)
			}
		}
		if _, ok := p.reply(good[:len(good)-1]); ok {
			t.Error("a short answer counts")
		}
	}
}

func FuzzEcho(f *testing.F) {
	p := &pinger{id: 7}
	f.Add(p.request(1), true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		q := &pinger{v6: v6, id: 7, secret: [lenSecret]byte{9}}
		if _, ok := q.reply(b); ok && len(b) != lenEcho {
			t.Error("counts, and is not as long as the question")
		}
	})
}

func FuzzAnswer(f *testing.F) {
	q := question{7, dnsmessage.MustNewName("x1.example.com.")}
	good := q.packet()
	good[2] |= 0x80
	good[3] |= 3
	if code, ok := q.answered(good); !ok || code != dnsmessage.RCodeNameError {
		f.Fatal("NXDOMAIN does not count")
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ok := q.answered(b); ok && (len(b) < 12 || b[1] != 7 || b[2]&0x80 == 0) {
			t.Errorf("%x counts", b)
		}
	})
}

func FuzzNetlink(f *testing.F) {
	f.Add([]byte{16, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) { ofDevices(b); ofFilter(b) })
}

func TestBare(t *testing.T) {
	if err := bare(&net.OpError{Err: context.DeadlineExceeded}); !errors.Is(err, errSilent) {
		t.Errorf("%v", err)
	}
}
