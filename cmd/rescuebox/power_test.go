//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/relay"
)

// testBMC is the controller and the switch of srv01, and maybe the socket of srv02.
type testBMC struct {
	socket bool // which obeys text messages

	mu    sync.Mutex
	state bmc.State
	sound atomic.Bool // nothing bad is found
	table *boot.Table
	last  string // id of the order that pressed last

	services []bmc.Service
	dial     func(ctx context.Context, target netip.AddrPort) (net.Conn, error)
}

// wire gives a daemon the controller.
func (b *testBMC) wire(s *admin.Server, table *boot.Table) {
	if b == nil {
		return
	}
	b.table = table
	s.Powers, s.BMCs, s.Press = b, b, b.press
	s.Relays = testRelays{&relay.Relay{Networks: []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24")}, Dial: b.dial}}
}

func (b *testBMC) press(o boot.Order) {
	b.table.Record(boot.Event{Step: boot.StepPower, Machine: o.Machine, Order: o.ID, Text: fmt.Sprintf("pressed soft=%t media=%t", o.Press.Soft, o.Press.Media)})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = o.ID
}

// pressed waits until a machine's open order has pressed the button.
func (b *testBMC) pressed(machine string) error {
	for range 3000 {
		o, ok := b.table.OpenOrder(machine)
		b.mu.Lock()
		last := b.last
		b.mu.Unlock()
		if ok && o.ID == last {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("no order pressed the button of " + machine)
}

func (b *testBMC) Means(machine string) admin.Means {
	const caution = "It pulls the plug by text message."
	switch {
	case machine == "srv01":
		return admin.Means{BMC: true, Switch: true, Plug: true, Media: true, Soft: true, Texts: true, Caution: caution}
	case b.socket:
		return admin.Means{Switch: true, Plug: true, Soft: true, Texts: true, Caution: caution}
	}
	return admin.Means{}
}

func (b *testBMC) State(_ context.Context, _ string, by api.Power) (bmc.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if by == api.BySwitch {
		return bmc.Unknown, nil
	}
	return b.state, nil
}

func (b *testBMC) Do(_ context.Context, _ string, a bmc.Action, by api.Power) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case by == api.BySwitch && a == bmc.Reset:
		return &boot.Refusal{Reason: "the switch of srv01 cannot reset", Hint: "cycle does"}
	case a == bmc.PowerOff, a == bmc.SoftOff:
		b.state = bmc.Off
	default:
		b.state = bmc.On
	}
	return nil
}

func (b *testBMC) Services(context.Context, string) (netip.Addr, []bmc.Service, error) {
	return netip.MustParseAddr("10.0.9.21"), b.services, nil
}

func (b *testBMC) Audit(_ context.Context, _ string, lan bool) (bmc.Audit, error) {
	a := bmc.Audit{Findings: []bmc.Finding{
		{Machine: "srv01", Host: "10.0.9.21", Check: "tls", Level: bmc.Good, Text: "its certificate is new"},
		{Machine: "srv01", Host: "10.0.9.21", Check: "rakp-hash", Level: bmc.Note, Text: "a hash is told", Hint: "a long password"}}}
	if !b.sound.Load() {
		a.Findings = append(a.Findings, bmc.Finding{Machine: "srv01", Host: "10.0.9.21", Check: "cipher-0", Level: bmc.Bad, Text: "no password\x1b[2J is needed", Hint: "switch it off"})
	}
	if lan {
		a.Swept = 253
		a.Findings = append(a.Findings, bmc.Finding{Host: "192.168.77.33", Check: "network", Level: bmc.Note, Text: "no machine names it"})
	}
	return a, nil
}

func (b *testBMC) Trust(context.Context, string) (string, error) {
	return strings.Repeat("ab", 32), nil
}

func (b *testBMC) Forget(string) ([]string, error) { return []string{"10.0.9.40:443"}, nil }

// testRelays is the box's own relay, as the daemon has it.
type testRelays struct{ *relay.Relay }

func (r testRelays) Open(ctx context.Context, g admin.Grant) (admin.Relayed, error) {
	s, err := r.Relay.Open(ctx, relay.Grant(g))
	if err != nil {
		return nil, err
	}
	return testRelayed{s}, nil
}

func (r testRelays) Find(id string) (admin.Relayed, bool) {
	s, ok := r.Relay.Find(id)
	return testRelayed{s}, ok
}

type testRelayed struct{ *relay.Session }

func (r testRelayed) Info() (api.Relay, string) {
	return api.Relay{ID: r.ID, Machine: r.Machine, Service: r.Service, Target: r.Target.String(), Expires: r.Expires}, r.By
}

func (r testRelayed) Dial(ctx context.Context) (func(net.Conn), error) {
	stream, err := r.Session.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return func(conn net.Conn) {
		if conn == nil {
			stream.Close()
			return
		}
		stream.Join(conn)
	}, nil
}

func (r testRelayed) Close(why error) admin.RelayTotals {
	t := r.Session.Close(why)
	return admin.RelayTotals{Streams: t.Streams, Sent: t.Sent, Received: t.Received, Why: r.Why()}
}

// Who is to be asked before power is cut does not wait for a dead controller: it may take the command all the same.
func TestPowerLooksShortly(t *testing.T) {
	b := &testBMC{state: bmc.On}
	s := startSite(t, b)
	p := &powerer{cli: &cli{socket: s.socket()}, machine: "srv01", look: 100 * time.Millisecond}
	var err error
	if p.client, err = p.connect(); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock() // until then it does not answer
	defer b.mu.Unlock()
	if got := p.now(t.Context()); got != "Whether it is on is not known (no answer within 100ms)." {
		t.Error(got)
	}
}

// The pages of a BMC, outside of the rescue LAN, by the URL that connect prints; they end with it.
func TestConnectBMC(t *testing.T) {
	pages := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the pages") }))
	defer pages.Close()
	var reached sync.Map
	b := &testBMC{state: bmc.On, services: []bmc.Service{{Name: "https", Port: 443}, {Name: "console", Port: 5900}},
		dial: func(ctx context.Context, target netip.AddrPort) (net.Conn, error) {
			reached.Store(target.String(), true)
			return (&net.Dialer{}).DialContext(ctx, "tcp", pages.Listener.Addr().String())
		}}
	s := startSite(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errOut lockedBuffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"--socket", s.socket(), "connect", "srv01", "bmc"}, strings.NewReader(""), &out, &errOut)
	}()
	line := regexp.MustCompile(`(?m)^https +10\.0\.9\.21:443 +(https://127\.0\.0\.1:[0-9]+/)\nconsole +10\.0\.9\.21:5900 +127\.0\.0\.1:[0-9]+$`)
	for deadline := time.Now().Add(30 * time.Second); !line.MatchString(out.String()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no URL in %s %s", out.String(), errOut.String())
		}
	}
	resp, err := pages.Client().Get(line.FindStringSubmatch(out.String())[1])
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(text) != "the pages" {
		t.Errorf("through the box: %q", text)
	}
	if _, ok := reached.Load("10.0.9.21:443"); !ok {
		t.Error("another port was reached")
	}
	pages.Client().CloseIdleConnections()
	cancel() // Ctrl-C
	select {
	case c := <-code:
		if c != 0 {
			t.Errorf("exit code %d: %s", c, errOut.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
	if _, err := pages.Client().Get(line.FindStringSubmatch(out.String())[1]); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the port is open: %v", err)
	}
}

// lockedBuffer is written by one and read by another.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
