package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"rescuebox/appliance/link/linktest"
)

// A name server of the provider's, which says what it is told to.
type nameServer struct {
	answers atomic.Pointer[[]string] // nil: it is dead
	asked   chan struct{}            // one for each question, of the first hundred
	takes   time.Duration
}

// serveNames serves at the router of the WAN.
func serveNames(t *testing.T, w *linktest.World, s *nameServer) *names {
	t.Helper()
	s.asked = make(chan struct{}, 100)
	at := netip.AddrPortFrom(w.WAN.Gateway, 53)
	var c *net.UDPConn
	must(t, w.WAN.ISP.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { c.Close() })
	go func() {
		for buf := make([]byte, 1500); ; {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			select {
			case s.asked <- struct{}{}:
			default:
			}
			if b, err := s.answer(buf[:n]); err == nil {
				time.AfterFunc(s.takes, func() { _, _ = c.WriteToUDPAddrPort(b, from) })
			}
		}
	}()
	n := &names{}
	n.servers([]netip.Addr{at.Addr()})
	return n
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true})
	_, _, _ = b.StartQuestions(), b.Question(q), b.StartAnswers()
	answers := s.answers.Load()
	if answers == nil {
		return nil, errSilent
	}
	for _, text := range *answers {
		a := netip.MustParseAddr(text)
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			_ = b.AResource(head, dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			_ = b.AAAAResource(head, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	return b.Finish()
}

func within(d time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return f(ctx)
}

// An uplink whose name server is dead is not dead itself: what a name led to is asked, and the name beside it.
func TestNameServerDead(t *testing.T) {
	w := linktest.New(t)
	s := &nameServer{}
	s.answers.Store(&[]string{w.WAN.Gateway.String()})
	n := serveNames(t, w, s)
	router := Probe{Kind: ICMP, Host: "router.example"}
	ask := func(ctx context.Context) error {
		return path{device: "wan0", v4: true, names: n}.ask(ctx, router)
	}
	must(t, within(10*time.Second, ask))
	for len(s.asked) > 0 {
		<-s.asked
	}
	n.mu.Lock()
	n.known[router.Host].at = time.Now().Add(-freshName - time.Minute)
	n.known[router.Host].tried = n.known[router.Host].at
	n.mu.Unlock()
	s.answers.Store(nil)
	for range 5 {
		if err := within(lookupFor-time.Second, ask); err != nil {
			t.Errorf("with a dead name server, an uplink that works: %v", err)
		}
	}
	select {
	case <-s.asked:
	case <-time.After(10 * time.Second):
		t.Error("the name was not asked for again")
	}
}

// A name server may take longer than a round: the answer counts in the next one.
func TestNameServerSlow(t *testing.T) {
	w := linktest.New(t)
	s := &nameServer{takes: 500 * time.Millisecond}
	s.answers.Store(&[]string{w.WAN.Gateway.String()})
	n := serveNames(t, w, s)
	ask := func(ctx context.Context) error {
		return path{device: "wan0", v4: true, names: n}.ask(ctx, Probe{Kind: ICMP, Host: "router.example"})
	}
	began := time.Now()
	for within(250*time.Millisecond, ask) != nil {
		if time.Since(began) > 20*time.Second {
			t.Fatal("the answer never counted")
		}
	}
}

// What no probe can be asked at is not taken from a name server, nor more than can be tried; an address that
// answered once is asked again when what the name leads to now does not.
func TestNamesBelieved(t *testing.T) {
	w := linktest.New(t)
	s := &nameServer{}
	n := serveNames(t, w, s)
	by := path{device: "wan0", v4: true, names: n}
	router := Probe{Kind: ICMP, Host: "router.example"}
	said := func(answers ...string) []netip.Addr {
		t.Helper()
		s.answers.Store(&answers)
		n.lookUp(t.Context(), by, router.Host, n.dns)
		n.mu.Lock()
		defer n.mu.Unlock()
		return append([]netip.Addr(nil), n.known[router.Host].list...)
	}
	n.known = map[string]*known{router.Host: {}}
	nowhere := []string{"127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "169.254.1.1", "::1", "::", "fe80::1", "ff02::1",
		"::ffff:127.0.0.1", w.WAN.Address.Addr().String()}
	if got := said(nowhere...); len(got) != 0 {
		t.Errorf("believed: %v", got)
	}
	if err := within(5*time.Second, func(ctx context.Context) error { return by.ask(ctx, router) }); err == nil {
		t.Error("an uplink works because its name server lies")
	}
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("192.168.1.%d", 100+i), fmt.Sprintf("2001:db8::%d", i))
	}
	if got := said(many...); len(got) != 2*mostNamed {
		t.Errorf("%d addresses of 40 are taken: %v", len(got), got)
	}
	said(w.WAN.Gateway.String())
	must(t, within(5*time.Second, func(ctx context.Context) error { return by.ask(ctx, router) }))
	if got := said(nowhere...); len(got) == 0 || got[0] != w.WAN.Gateway {
		t.Errorf("for a lie what was good was forgotten: %v", got)
	}
	said("192.168.1.99") // a portal's, say, that answers no ping
	if err := within(200*time.Millisecond, func(ctx context.Context) error { return by.ask(ctx, router) }); err == nil {
		t.Fatal("the portal answered: the test proves nothing")
	}
	if err := within(5*time.Second, func(ctx context.Context) error { return by.ask(ctx, router) }); err != nil {
		t.Errorf("the address that was good is not asked any more: %v", err)
	}
}

// A portal may say what it likes, as long as it likes.
func TestHTTPProbeBounded(t *testing.T) {
	w := linktest.New(t)
	var l net.Listener
	must(t, w.WAN.ISP.Do(func() (err error) {
		l, err = net.Listen("tcp4", "192.168.1.1:0")
		return err
	}))
	followed := atomic.Bool{}
	mux := http.NewServeMux()
	mux.HandleFunc("/header", func(r http.ResponseWriter, _ *http.Request) {
		r.Header().Set("X-Much", strings.Repeat("x", 1<<20))
		r.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/body", func(r http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(r, strings.Repeat("x", 1<<16))
		}
	})
	mux.HandleFunc("/login", func(r http.ResponseWriter, q *http.Request) { http.Redirect(r, q, "/fine", http.StatusFound) })
	mux.HandleFunc("/fine", func(r http.ResponseWriter, _ *http.Request) {
		followed.Store(true)
		r.WriteHeader(http.StatusNoContent)
	})
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	for _, page := range []string{"/header", "/body", "/login"} {
		p := Probe{Kind: HTTP, Host: "192.168.1.1", Port: l.Addr().(*net.TCPAddr).Port, Path: page}
		err := within(20*time.Second, func(ctx context.Context) error { return path{device: "wan0", v4: true, names: &names{}}.ask(ctx, p) })
		if err == nil || errors.Is(err, errSilent) {
			t.Errorf("%s: %v", page, err)
		}
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

// The hubs' names may lead to many addresses: a round asks some of them.
func TestHubsProbed(t *testing.T) {
	var hubs []netip.Addr
	for i := range 50 {
		hubs = append(hubs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}))
	}
	w, err := New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}}, Hubs: func() []netip.Addr { return hubs }})
	must(t, err)
	for want, s := range map[int]sight{4: {v4: way{ok: true}}, 8: {v4: way{ok: true}, v6: way{ok: true}}} {
		if got := w.probes(w.c.Uplinks[0], s); len(got) != want || got[0].Host != "192.0.2.0" {
			t.Errorf("%d probes, want %d: %v", len(got), want, got)
		}
	}
}

// A ping that finds no room, because what was sent before is stuck in the kernel, is lost: nobody waits for it.
func TestPingWithoutRoom(t *testing.T) {
	linktest.New(t)
	must(t, os.WriteFile("/proc/sys/net/ipv4/neigh/wan0/mcast_solicit", []byte("1000"), 0o644)) // packets wait so long for a neighbour
	p, err := newPinger("wan0", false)
	must(t, err)
	defer p.close()
	must(t, p.conn.SetWriteBuffer(1))
	sent := make(chan error, 1)
	go func() {
		for seq := range uint16(500) {
			if err := p.send(netip.MustParseAddr("192.168.1.77"), seq); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("a ping waits for room")
	}
}
