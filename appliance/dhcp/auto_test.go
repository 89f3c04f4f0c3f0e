package dhcp

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

var (
	selfAddr = netip.MustParseAddr("192.168.77.1")
	siteDHCP = OtherServer{Addr: netip.MustParseAddr("192.168.77.254")}
)

// TestArbiter plays a LAN: site says from when until when its DHCP server
// answers probes, 50 ms after each; want is our mode over time.
func TestArbiter(t *testing.T) {
	type span struct{ from, to time.Duration }
	type at struct {
		when time.Duration
		mode Mode
	}
	s := time.Second
	tests := []struct {
		name   string
		mode   Mode
		server OtherServer
		alive  []span
		want   []at
	}{
		{"alone", Auto, siteDHCP, nil, []at{{4 * s, Listening}, {5 * s, Full}, {3600 * s, Full}}},
		{"beside a server", Auto, siteDHCP, []span{{0, 4000 * s}}, []at{{s, Proxy}, {3600 * s, Proxy}}},
		{"it dies", Auto, siteDHCP, []span{{0, 100 * s}}, []at{{110 * s, Proxy}, {145 * s, Proxy}, {190 * s, Full}}},
		{"it comes back", Auto, siteDHCP, []span{{0, 100 * s}, {600 * s, 9000 * s}}, []at{{590 * s, Full}, {630 * s, Proxy}, {8000 * s, Proxy}}},
		{"two missed probes are no death", Auto, siteDHCP, []span{{0, 100 * s}, {134 * s, 9000 * s}}, []at{{140 * s, Proxy}, {200 * s, Proxy}}},
		{"a proxy is no server", Auto, OtherServer{Addr: siteDHCP.Addr, Proxy: true}, []span{{0, 9000 * s}}, []at{{5 * s, Full}}},
		{"a box with a higher address steps back itself", Auto, OtherServer{Addr: siteDHCP.Addr, Box: true}, []span{{0, 9000 * s}}, []at{{5 * s, Full}, {60 * s, Full}}},
		{"its port was blocked for 50 s", Auto, siteDHCP, []span{{50 * s, 9000 * s}}, []at{{5 * s, Full}, {49 * s, Full}, {52 * s, Proxy}}},
		{"a box with a lower address serves", Auto, OtherServer{Addr: netip.MustParseAddr("10.0.0.1"), Box: true}, []span{{0, 9000 * s}}, []at{{5 * s, Proxy}}},
		{"full stays full", Full, siteDHCP, []span{{0, 9000 * s}}, []at{{5 * s, Full}, {60 * s, Full}}},
		{"proxy stays proxy", Proxy, siteDHCP, nil, []at{{5 * s, Proxy}, {600 * s, Proxy}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				a := newArbiter(tt.mode, selfAddr, defaultPace(), begin)
				go func() {
					for time.Since(begin) < 9000*s {
						wait := a.probe(time.Now())
						for _, alive := range tt.alive {
							if d := time.Since(begin); d >= alive.from && d < alive.to {
								time.Sleep(50 * time.Millisecond)
								wait -= 50 * time.Millisecond
								a.hear(time.Now(), tt.server)
							}
						}
						time.Sleep(wait)
					}
				}()
				for _, w := range tt.want {
					time.Sleep(time.Until(begin.Add(w.when)))
					synctest.Wait()
					if got := a.now(); got != w.mode {
						t.Errorf("after %v: %s, want %s", w.when, got, w.mode)
					}
				}
				time.Sleep(9500 * s)
			})
		})
	}
}

func TestArbiterForgets(t *testing.T) {
	now := time.Now()
	a := newArbiter(Full, selfAddr, defaultPace(), now)
	for i := range 1000 {
		a.hear(now, OtherServer{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})})
	}
	if _, _, _, list := a.snapshot(now); len(list) != maxServers {
		t.Errorf("%d servers remembered, want %d", len(list), maxServers)
	}
	if _, _, _, list := a.snapshot(now.Add(serverMemory + time.Second)); len(list) != 0 {
		t.Errorf("%d servers remembered for ever", len(list))
	}
}

func TestArbiterRestart(t *testing.T) {
	a := newArbiter(Auto, selfAddr, defaultPace(), time.Now())
	for range 4 {
		a.probe(time.Now())
	}
	if a.now() != Full {
		t.Fatal(a.now())
	}
	a.restart(time.Now(), "the cable was out")
	if m, why, _, _ := a.snapshot(time.Now()); m != Listening || why != "the cable was out" {
		t.Errorf("%s (%s), want listening again", m, why)
	}
}

// quick is auto's pace for tests on the wire. Another server has seconds to answer: it may not get to run.
func quick(s *Server) {
	s.Mode = Auto
	s.pace = pace{start: 150 * time.Millisecond, full: 300 * time.Millisecond, proxy: 500 * time.Millisecond, startMisses: 3, proxyMisses: 9}
	s.Log = zap.NewNop()
}

// production is set to run the tests of auto at the pace that sites see, with
// the bounds of the specification: RESCUEBOX_PACE=production go test -v -run 'Takeover|TwoBoxes'.
var production = os.Getenv("RESCUEBOX_PACE") == "production"

// paced is a server in auto mode at the pace of this run.
func paced(s *Server) {
	quick(s)
	if production {
		s.pace = pace{}
	}
}

// Machines are served again so soon after the site's server died, and we are
// silent so soon after it is back.
const (
	takeover = 90 * time.Second
	back     = 30 * time.Second
)

// timed waits for something like eventually, and says in the test's log how long it took.
func timed(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	begin := time.Now()
	eventually(t, within, what, ok)
	t.Logf("%s: after %v", what, time.Since(begin).Round(100*time.Millisecond))
}

// dnsmasq is the site's own DHCP server.
func dnsmasq(t *testing.T, in []string, args ...string) *output {
	t.Helper()
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--dhcp-range") }) {
		args = append(args, "--dhcp-range=192.168.77.50,192.168.77.60,1h")
	}
	leases := filepath.Join(t.TempDir(), "leases")
	cmd := append(in, "dnsmasq", "-d", "-C", "/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces",
		"--dhcp-authoritative", "--no-ping", "--log-dhcp", "--dhcp-leasefile="+leases, "--user=root")
	o := start(t, append(cmd, args...)...)
	eventually(t, time.Minute, "dnsmasq is up", func() bool { return strings.Contains(o.String(), "DHCP, IP range") })
	return o
}

// udhcpcVar is a value that udhcpc's script was told.
func udhcpcVar(out, key string) string {
	_, rest, _ := strings.Cut(out, "\n"+key+"=")
	v, _, _ := strings.Cut(rest, "\n")
	return v
}

// TestTakeover is the whole of auto beside the site's dnsmasq, which gives
// addresses of our range: it dies, and comes back. Meanwhile machines get addresses
// that nobody has, and their boot part, from us, and only then.
func TestTakeover(t *testing.T) {
	need(t, "dnsmasq", "dnsmasq-base")
	need(t, "busybox", "busybox")
	l := newLAN(t)
	site, in := l.peer("site", mac(0xfe), "192.168.77.254/24"), l.peer("a", mac(1), "")
	l.peer("static", mac(0xee), "192.168.77.100/24") // an address in use inside our range
	awake, asleep := l.peer("awake", mac(0xa1), ""), l.peer("asleep", mac(0xa2), "")
	const theirs = "--dhcp-range=192.168.77.101,192.168.77.106,1h"
	d := dnsmasq(t, site, theirs)
	b := &orders{ordered: map[boot.MAC]bool{mac(0xb0): true}}
	s := l.serve(func(s *Server) { paced(s); s.Boot = b })
	l.peer("srv01", mac(0xb0), "")
	mode := func(m Mode) func() bool { return func() bool { return s.Status().Mode == m } }
	gets := func(in []string, from string) string {
		t.Helper()
		out, err := udhcpc(t, in)
		if err != nil || !strings.Contains(out, "serverid="+from+"\n") {
			t.Fatalf("want an address from %s: %v\n%s", from, err, out)
		}
		return udhcpcVar(out, "ip")
	}
	timed(t, time.Minute, "proxy beside dnsmasq", mode(Proxy))
	if st := s.Status(); len(st.Servers) != 1 || st.Servers[0].Addr.String() != "192.168.77.254" || st.Servers[0].MAC != mac(0xfe) || !strings.Contains(st.Why, "192.168.77.254") {
		t.Errorf("status %+v", st)
	}
	inUse := map[string]string{"192.168.77.100": "the static host", gets(asleep, "192.168.77.254"): "the host that sleeps"}
	addr := gets(awake, "192.168.77.254")
	inUse[addr] = "the host with a lease"
	run(t, append(awake, "ip", "addr", "add", addr+"/24", "dev", "eth0")...)
	run(t, append(asleep, "ip", "link", "set", "eth0", "down")...)
	if n := len(s.Leases()); n != 0 {
		t.Errorf("%d leases given in proxy mode", n)
	}
	for line := range strings.Lines(d.String()) {
		if strings.Contains(line, "DHCPREQUEST") && !strings.Contains(line, mac(0xa1).String()) && !strings.Contains(line, mac(0xa2).String()) {
			t.Errorf("our probes cost the site leases:\n%s", line)
		}
	}

	d.stop()
	timed(t, takeover, "addresses from us after dnsmasq died", func() bool {
		out, err := udhcpc(t, in)
		return err == nil && udhcpcVar(out, "serverid") == "192.168.77.1"
	})
	for n := range 6 { // as many as could be given wrongly
		m := mac(0xc0, byte(n))
		got := gets(l.peer(fmt.Sprint("c", n), m, ""), "192.168.77.1")
		if who := inUse[got]; who != "" {
			t.Errorf("%s gets %s, the address of %s", m, got, who)
		}
		inUse[got] = m.String()
	}
	c := bootClient(t, "srv01")
	if o := exchange(t, c, request(mac(0xb0), dhcpv4.MessageTypeDiscover, bios), isOffer); o.BootFileName != "boot/5254000000b0/undionly.kpxe" || o.YourIPAddr.IsUnspecified() {
		t.Error("the ordered machine is offered", o.Summary())
	}
	run(t, append(asleep, "ip", "link", "set", "eth0", "up")...)
	if got := gets(asleep, "192.168.77.1"); inUse[got] != "the host that sleeps" {
		t.Errorf("who slept gets %s, which is not the address it had", got)
	}

	dnsmasq(t, site, theirs)
	timed(t, back, "stepping back", mode(Proxy))
	gets(in, "192.168.77.254")
}

func isOffer(d *dhcpv4.DHCPv4) bool { return d.MessageType() == dhcpv4.MessageTypeOffer }

// After a power cut the box is up before the site's router: what it gives in auto holds
// no longer than it has been the server itself, so that the office goes by the router again soon.
func TestFirstLeasesAreShort(t *testing.T) {
	given := func(t *testing.T, s *Server, w *fakeWire, m boot.MAC) time.Duration {
		t.Helper()
		o := one(t, s, w, request(m, dhcpv4.MessageTypeDiscover))
		if o == nil {
			t.Fatal("no offer")
		}
		a := one(t, s, w, request(m, dhcpv4.MessageTypeRequest, want(o.YourIPAddr.String()), server("192.168.77.1")))
		if a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
			t.Fatalf("no lease: %v", a)
		}
		return a.IPAddressLeaseTime(0)
	}
	bubble(t, func(s *Server) { s.Mode = Auto }, func(t *testing.T, s *Server, w *fakeWire) {
		for range 4 {
			s.arbiter.probe(time.Now())
		}
		for _, step := range []struct{ after, from, to time.Duration }{
			{0, firstLease, firstLease},
			{20 * time.Minute, 20 * time.Minute, 21 * time.Minute},
			{3 * time.Hour, time.Hour, time.Hour},
		} {
			time.Sleep(step.after)
			if got := given(t, s, w, mac(1)); got < step.from || got > step.to {
				t.Errorf("%v later a lease of %v, want %v to %v", step.after, got, step.from, step.to)
			}
		}
	})
	bubble(t, func(s *Server) { s.Lease = 2 * time.Minute; s.Mode = Auto }, func(t *testing.T, s *Server, w *fakeWire) {
		for range 4 {
			s.arbiter.probe(time.Now())
		}
		if got := given(t, s, w, mac(1)); got != 2*time.Minute {
			t.Errorf("a lease of %v, want no more than is configured", got)
		}
	})
	bubble(t, nil, func(t *testing.T, s *Server, w *fakeWire) {
		if got := given(t, s, w, mac(1)); got != time.Hour {
			t.Errorf("the configured server gives %v", got)
		}
	})
}

// TestTwoBoxes: two boxes in auto on one LAN, started one after the other, then
// one killed, back again, and both started together. The lower address serves,
// somebody always does soon, and there are never two full servers but for a moment.
func TestTwoBoxes(t *testing.T) {
	l := newLAN(t)
	l.port("srv2", "192.168.77.2/24")
	first := func() (*Server, func()) { return l.serveUntil(paced) }
	second := func() (*Server, func()) {
		return l.serveUntil(func(s *Server) {
			paced(s)
			s.Interface, s.Address = "srv2", netip.MustParsePrefix("192.168.77.2/24")
		})
	}
	b, stopB := second()
	timed(t, time.Minute, "the second box serves alone", func() bool { return b.Status().Mode == Full })
	a, stopA := first()
	agree := func() bool { return a.Status().Mode == Full && b.Status().Mode == Proxy }
	both := func(what string, within time.Duration, ok func() bool) {
		t.Helper()
		two := time.Duration(0) // how long there were two full servers
		last := time.Now()
		timed(t, within, what, func() bool {
			now := time.Now()
			if a.Status().Mode == Full && b.Status().Mode == Full {
				two += now.Sub(last)
			}
			last = now
			return ok()
		})
		if two > 5*time.Second { // a busy machine keeps packets waiting
			t.Errorf("%s: two full servers for %v", what, two)
		}
	}
	both("the first box, with the lower address, comes and serves", back, agree)
	begin := time.Now()
	both("and it stays so", back, func() bool {
		if !agree() {
			t.Fatalf("%s and %s", a.Status().Mode, b.Status().Mode)
		}
		return time.Since(begin) > 2*time.Second
	})
	if st := b.Status(); len(st.Servers) == 0 || !st.Servers[0].Box || st.Servers[0].Addr.String() != "192.168.77.1" {
		t.Errorf("what the second box says: %+v", st)
	}
	if st := a.Status().Pools[0]; st.Offered != 0 {
		t.Errorf("the other box's probes took addresses: %+v", st)
	}
	stopA()
	timed(t, takeover, "the second box takes over when the first is killed", func() bool { return b.Status().Mode == Full })
	a, stopA = first()
	both("the first box is back and serves", back, agree)
	stopA()
	stopB()
	a, _ = first()
	b, _ = second()
	both("both started together agree", back, agree)
}

// A box is known by its probes, whatever it tells clients; if it is to give way it says
// nothing to our probe, and if it is not it answers that like any server.
func TestBoxIsKnownByItsProbes(t *testing.T) {
	bubble(t, func(s *Server) { s.Mode = Auto }, func(t *testing.T, s *Server, w *fakeWire) {
		for range 4 {
			s.arbiter.probe(time.Now())
		}
		own, peer := mac(0xe1), mac(0xe5)
		says := func(kind dhcpv4.MessageType, to boot.MAC) {
			d := request(to, kind, server("192.168.77.5"), dhcpv4.WithYourIP(ip("192.168.77.150")), text(60, "PXEClient"))
			d.OpCode = dhcpv4.OpcodeBootReply
			s.hearServer(own, udpFrame(peer, broadcastMAC, netip.MustParseAddrPort("192.168.77.5:67"), netip.MustParseAddrPort("255.255.255.255:68"), d.ToBytes()))
		}
		one(t, s, w, request(peer, dhcpv4.MessageTypeInform, ciaddr("192.168.77.5"), text(60, boxClass+" 192.168.77.5")))
		says(dhcpv4.MessageTypeOffer, mac(1))
		says(dhcpv4.MessageTypeAck, mac(1))
		says(dhcpv4.MessageTypeOffer, own)
		if st := s.Status(); st.Mode != Full || len(st.Servers) != 1 || !st.Servers[0].Box {
			t.Errorf("a box with a higher address is to give way: %s: %s, %+v", st.Mode, st.Why, st.Servers)
		}
		says(dhcpv4.MessageTypeAck, own)
		if st := s.Status(); st.Mode != Proxy || st.Servers[0].Box {
			t.Errorf("the box does not give way: %s, %+v", st.Mode, st.Servers)
		}
	})
}

// TestProxyBoxAsksForNoWay: a box that is configured as proxy never serves. One in
// auto beside it, whatever its address, does, and the proxy knows it as the server.
func TestProxyBoxAsksForNoWay(t *testing.T) {
	l := newLAN(t)
	l.port("srv2", "192.168.77.2/24")
	a, _ := l.serveUntil(func(s *Server) { paced(s); s.Mode = Proxy })
	b, _ := l.serveUntil(func(s *Server) {
		paced(s)
		s.Interface, s.Address = "srv2", netip.MustParsePrefix("192.168.77.2/24")
	})
	heard := func(s *Server, addr string) (last time.Time) {
		for _, o := range s.Status().Servers {
			if o.Addr.String() == addr {
				last = o.Last
			}
		}
		return last
	}
	timed(t, time.Minute, "the box in auto serves", func() bool { return b.Status().Mode == Full })
	timed(t, time.Minute, "the proxy has heard it", func() bool { return !heard(a, "192.168.77.2").IsZero() })
	since := b.Status().Since
	for range 3 {
		last := heard(b, "192.168.77.1")
		eventually(t, time.Minute, "another probe of the proxy", func() bool { return heard(b, "192.168.77.1").After(last) })
		if st := b.Status(); st.Mode != Full || st.Since != since {
			t.Fatalf("after a probe of the proxy: %s since %v: %s", st.Mode, st.Since, st.Why)
		}
	}
	if st := b.Status(); !st.Servers[0].Box || !st.Servers[0].Proxy {
		t.Errorf("what the serving box says: %+v", st.Servers)
	}
}

// TestCableOut: what happened on the LAN while we were cut off is not known.
func TestCableOut(t *testing.T) {
	l := newLAN(t)
	s := l.serve(func(s *Server) {
		quick(s)
		s.pace.start = time.Second
	})
	eventually(t, time.Minute, "serves alone", func() bool { return s.Status().Mode == Full })
	run(t, "ip", "-n", l.sw, "link", "set", "srv-sw", "down")
	time.Sleep(5 * time.Second) // it looks every second
	run(t, "ip", "-n", l.sw, "link", "set", "srv-sw", "up")
	eventually(t, time.Minute, "listens first", func() bool { return s.Status().Mode == Listening })
	eventually(t, time.Minute, "serves again", func() bool { return s.Status().Mode == Full })
}

// Whose an address is says the kernel, too: with dhcp = "off" it is the only one to know, and
// without it no script's ticket is of any machine.
func TestMACOf(t *testing.T) {
	for _, mode := range []Mode{Proxy, Off} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLAN(t)
			s := l.serve(func(s *Server) { s.Mode = mode })
			in := l.peer("a", boot.MAC{0x52, 0x54, 0, 1, 2, 3}, "192.168.77.33/24")
			eventually(t, time.Minute, "the neighbour is heard", func() bool {
				_, err := try(append(in, "busybox", "ping", "-c1", "-W2", "192.168.77.1")...)
				return err == nil
			})
			if m, ok := s.MACOf(netip.MustParseAddr("192.168.77.33")); !ok || m != (boot.MAC{0x52, 0x54, 0, 1, 2, 3}) {
				t.Errorf("neighbour: %v %v", m, ok)
			}
			if m, ok := s.MACOf(netip.MustParseAddr("192.168.77.34")); ok {
				t.Errorf("nobody's address belongs to %v", m)
			}
		})
	}
}
