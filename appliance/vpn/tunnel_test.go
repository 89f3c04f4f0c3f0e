package vpn

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/dns/dnsmessage"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"rescuebox/appliance/link/linktest"
)

// What leaves by a dead uplink does not arrive; after Use it goes by the other one at once,
// and the hub follows without being asked.
func TestUse(t *testing.T) {
	s := newSite(t, 1, nil)
	s.Echo(t)
	s.start()
	s.reached(20 * time.Second)
	stop, err := s.hubs[0].Meter(5 * time.Millisecond)
	ok(t, err)
	linktest.Pass(500 * time.Millisecond)
	ok(t, s.Silence("wan"))
	linktest.Pass(300 * time.Millisecond)
	s.tunnel.Use("lte")
	linktest.Pass(700 * time.Millisecond)
	ok(t, s.Mend("wan"))
	s.tunnel.Use("wan")
	linktest.Pass(500 * time.Millisecond)
	r, err := stop()
	ok(t, err)
	awake, _ := r.Awake()
	g := awake.Gap(awake.Sent[0])
	t.Logf("longest gap %v, lost %d of %d; %+v", g.Long(), r.Lost(), len(r.Sent), s.tunnel.Status())
	if g.Never || g.Long() < 250*time.Millisecond || g.Long() > 900*time.Millisecond {
		t.Errorf("the gap is %+v", g)
	}
}

// endpoint is where the hub last heard the box.
func (s *site) endpoint(hub int) string {
	s.t.Helper()
	text, err := s.hubs[hub].Device()
	ok(s.t, err)
	for line := range strings.Lines(text) {
		if a, found := strings.CutPrefix(strings.TrimSpace(line), "endpoint="); found {
			return a
		}
	}
	return ""
}

// by reports whether the hub hears the box by an uplink: its address is that of the NAT there.
func (s *site) by(hub int, uplink string) bool {
	prefix := "203.0.113."
	if uplink == "lte" {
		prefix = "198.51.100."
	}
	return strings.HasPrefix(s.endpoint(hub), prefix)
}

// An interface that is made anew under its name, as a modem's is after each redial, is used
// again, and the hub hears of it, without anybody's word.
func TestRecreatedInterface(t *testing.T) {
	s := newSite(t, 1, nil)
	s.start()
	s.reached(20 * time.Second)
	s.tunnel.Use("lte")
	eventually(t, 10*time.Second, "the hub hears the box by lte", func() bool { return s.by(0, "lte") })
	ok(t, s.Remove("lte"))
	eventually(t, 10*time.Second, "what cannot leave by lte leaves by wan", func() bool {
		_ = exec.Command("ping", "-c", "1", "-W", "1", "10.99.0.1").Run() // something has to leave
		return s.by(0, "wan")
	})
	if st := s.tunnel.Status(); st.Uplinks[1].Err == "" {
		t.Errorf("the status does not say that lte is gone: %+v", st.Uplinks)
	}
	ok(t, s.Recreate("lte"))
	eventually(t, 10*time.Second, "the hub hears the box by the new lte", func() bool { return s.by(0, "lte") })
	s.reached(10 * time.Second)
}

// An uplink that died silently is left behind as soon as packets are doubled, and after it
// the other uplink carries no more.
func TestDuplicate(t *testing.T) {
	s := newSite(t, 1, nil)
	s.Echo(t)
	s.start()
	s.reached(20 * time.Second)
	stop, err := s.hubs[0].Meter(5 * time.Millisecond)
	ok(t, err)
	linktest.Pass(200 * time.Millisecond)
	ok(t, s.Silence("wan"))
	doubled := linktest.Now()
	s.tunnel.Duplicate(true)
	eventually(t, 10*time.Second, "lte carries", func() bool { return s.tunnel.Status().Uplinks[1].Tx > 5000 })
	r, err := stop()
	ok(t, err)
	awake, clock := r.Awake()
	if g := awake.Gap(clock(doubled)); g.Never || g.Long() > 250*time.Millisecond {
		t.Errorf("the gap is %+v", g)
	}
	ok(t, s.Mend("wan"))
	s.tunnel.Duplicate(false)
	s.tunnel.Use("wan")
	s.reached(10 * time.Second)
	before := s.tunnel.Status().Uplinks[1].Tx
	for range 5 {
		s.reached(10 * time.Second)
	}
	if after := s.tunnel.Status().Uplinks[1].Tx; after != before {
		t.Errorf("lte carries %d bytes more", after-before)
	}
}

// At the start nothing is known of the uplinks: the first handshake goes by all, so that a
// WAN that is linked and dead keeps nobody out.
func TestStartWithDeadWAN(t *testing.T) {
	s := newSite(t, 1, nil)
	ok(t, s.Silence("wan"))
	s.start()
	eventually(t, 20*time.Second, "the hub heard the box by lte", func() bool { return s.by(0, "lte") })
	eventually(t, 20*time.Second, "the box heard the hub by lte", func() bool { return !s.tunnel.Heard("lte").IsZero() })
	if !s.tunnel.Heard("wan").IsZero() {
		t.Errorf("heard by lte %v, by wan %v", s.tunnel.Heard("lte"), s.tunnel.Heard("wan"))
	}
}

// A hub at a name is found by the name servers of each uplink; the address outlives them.
func TestHubAtName(t *testing.T) {
	server := netip.MustParseAddr("192.0.2.1")
	s := newSite(t, 1, func(c *Config) {
		c.Hubs[0].Endpoints = []string{"hub.example:51820"}
		for i := range c.Uplinks {
			c.Uplinks[i].DNS = []netip.Addr{server}
		}
	})
	s.start()
	s.reached(30 * time.Second)
	s.tunnel.Use("lte")
	eventually(t, 10*time.Second, "the hub hears the box by lte", func() bool { return s.by(0, "lte") })
	s.stop()
	again, err := New(s.tunnel.cfg, zap.NewNop())
	ok(t, err)
	again.book.dial = func(string) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no name server") }
	}
	s.tunnel = again
	s.start()
	s.reached(30 * time.Second)
}

// A name server that begins to lie, as that of a line that is not paid for does, breaks no tunnel that lives, and a
// restart neither; a hub that moved is found where its name leads then.
func TestNameLeadsElsewhere(t *testing.T) {
	s := newSite(t, 1, func(c *Config) { c.Hubs[0].Endpoints = []string{"hub.example:51820"} })
	var says atomic.Value
	says.Store("192.0.2.1")
	dial := nameServer(t, func(dnsmessage.Question) []netip.Addr { return []netip.Addr{netip.MustParseAddr(says.Load().(string))} })
	s.tunnel.book.dial = dial
	s.start()
	s.reached(handshakeTime)
	at := func() string { return s.tunnel.Status().Endpoint }
	ask := func(address string) {
		t.Helper()
		says.Store(address)
		s.tunnel.book.again(0)
		eventually(t, 20*time.Second, "the name's new address is known", func() bool {
			return slices.Contains(s.tunnel.Outer(), netip.MustParseAddr(address))
		})
	}
	eventually(t, 20*time.Second, "where the hub is, is kept", func() bool {
		text, _ := os.ReadFile(s.tunnel.cfg.CacheFile)
		return bytes.Contains(text, []byte(`"":{"hub.example":["192.0.2.1"]}`))
	})
	ask("198.18.0.1")
	time.Sleep(2 * lookEvery)
	s.reached(handshakeTime)
	if at() != "192.0.2.1:51820" {
		t.Errorf("the hub that answers is called at %s", at())
	}
	s.stop()
	again, err := New(s.tunnel.cfg, zap.NewNop())
	ok(t, err)
	again.book.dial, s.tunnel = dial, again
	s.start()
	s.reached(handshakeTime)
	// The hub moves.
	if out, err := s.hubs[0].Command("ip", "address", "add", "192.0.2.77/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, u := range []*linktest.Uplink{s.WAN, s.LTE} {
		far := map[string]string{"wan": "203.0.113", "lte": "198.51.100"}[u.Name]
		ok(t, u.ISP.IP("route add 192.0.2.77 via "+far+".1", "route del 192.0.2.1"))
		ok(t, s.hubs[0].IP(fmt.Sprintf("route replace %s.0/28 dev e%d src 192.0.2.77", far, map[string]int{"wan": 1, "lte": 2}[u.Name])))
	}
	ask("192.0.2.77")
	s.reached(60 * time.Second)
	if at() != "192.0.2.77:51820" {
		t.Errorf("the hub moved, and is called at %s", at())
	}
}

// A hub that is dead by every uplink gives way to the next one, also while the disk stands still.
func TestSecondHub(t *testing.T) {
	s := newSite(t, 2, nil)
	stuck, free := make(chan struct{}, 10), make(chan struct{})
	s.tunnel.write = func(string, []byte) error { stuck <- struct{}{}; <-free; return nil } // a disk that stands still
	s.start()
	t.Cleanup(func() { close(free) }) // before the end of the tunnel
	s.reached(20 * time.Second)
	s.hubs[0].Stop()
	asking := exec.Command("ping", "-i", "1", "10.99.0.1")
	ok(t, asking.Start())
	defer func() { _ = asking.Process.Kill(); _ = asking.Wait() }()
	eventually(t, 90*time.Second, "the second hub is used", func() bool {
		st := s.tunnel.Status()
		return st.Hub == s.tunnel.cfg.Hubs[1].Name && st.Up
	})
	s.reached(20 * time.Second)
	if len(stuck) == 0 {
		t.Error("the test itself: nothing was written")
	}
}

// A hub that does not know the box, or has another key than the file says, is told as such.
func TestWrongKey(t *testing.T) {
	s := newSite(t, 1, nil)
	s.hubs[0].Stop()
	ok(t, s.hubs[0].Start()) // it forgot the box
	s.start()
	time.Sleep(2 * time.Second)
	if st := s.tunnel.Status(); st.Up || !strings.Contains(st.Reason, "rescuebox vpn show") {
		t.Errorf("up %v: %s", st.Up, st.Reason)
	}
	ok(t, s.hubs[0].Admit(s.tunnel.keys.public.String(), ""))
	s.reached(30 * time.Second)
}

// A preshared key of a file is used.
func TestPresharedKey(t *testing.T) {
	shared, err := wgtypes.GenerateKey()
	ok(t, err)
	file := filepath.Join(t.TempDir(), "psk")
	writeTo(t, file, shared.String()+"\n")
	s := newSite(t, 1, func(c *Config) { c.Hubs[0].PresharedKeyFile = file })
	ok(t, s.hubs[0].Admit(s.tunnel.keys.public.String(), shared.String()))
	s.start()
	s.reached(20 * time.Second)
}

// What strangers send to the box's port changes nothing.
func TestGarbage(t *testing.T) {
	s := newSite(t, 1, func(c *Config) { c.ListenPort = 51999 })
	s.start()
	s.reached(20 * time.Second)
	heard := s.tunnel.Heard("wan")
	ok(t, s.WAN.ISP.Do(func() error {
		c, err := net.Dial("udp", s.WAN.Address.Addr().String()+":51999")
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range 20000 {
			b := make([]byte, []int{1, 4, 31, 32, 64, 92, 148, 1200}[i%8])
			_, _ = rand.Read(b) // it never fails
			if i%3 == 0 {
				copy(b, []byte{byte(1 + i%4), 0, 0, 0})
			}
			_, _ = c.Write(b)
		}
		return nil
	}))
	if after := s.tunnel.Heard("wan"); after.After(heard.Add(15 * time.Second)) {
		t.Errorf("garbage was heard at %v", after)
	}
	s.reached(20 * time.Second)
	if !s.by(0, "wan") {
		t.Errorf("the hub hears the box from %s", s.endpoint(0))
	}
}

// A tunnel whose interface somebody takes away, or down, is a failure with that reason, and
// the next start puts all right.
func TestInterfaceTaken(t *testing.T) {
	s := newSite(t, 1, nil)
	for _, how := range []struct{ command, reason string }{
		{"link del rescuevpn", "taken away"}, {"link set rescuevpn down", "taken down"},
	} {
		s.start()
		s.reached(20 * time.Second)
		ok(t, s.Branch.IP(how.command))
		select {
		case err := <-s.ended:
			s.cancel()
			s.cancel = nil
			if err == nil || !strings.Contains(err.Error(), how.reason) && !strings.Contains(err.Error(), "closed") {
				t.Errorf("%s: %v", how.command, err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nobody noticed", how.command)
		}
	}
	s.start()
	s.reached(20 * time.Second)
	ok(t, s.Branch.IP("address flush dev rescuevpn"))
	eventually(t, 30*time.Second, "the address is there again", func() bool {
		out, _ := exec.Command("ip", "address", "show", "dev", "rescuevpn").Output()
		return strings.Contains(string(out), linktest.BranchInner)
	})
}

// A restart of the daemon breaks no stream of the admin's.
func TestRestart(t *testing.T) {
	s := newSite(t, 1, nil)
	s.Echo(t)
	s.start()
	s.reached(20 * time.Second)
	typed, err := s.hubs[0].Stream(50 * time.Millisecond)
	ok(t, err)
	time.Sleep(500 * time.Millisecond)
	s.stop()
	s.start()
	s.reached(20 * time.Second)
	time.Sleep(time.Second)
	r, err := typed()
	ok(t, err)
	t.Logf("worst keystroke %v", r.Worst())
	if r.Err != "" || r.Worst() > 10*time.Second {
		t.Errorf("worst %v, %s", r.Worst(), r.Err)
	}
	s.stop()
	if out, _ := exec.Command("nft", "list", "ruleset").Output(); strings.Contains(string(out), "rescuebox_vpn") {
		t.Errorf("left behind:\n%s", out)
	}
}

// NAT that forgets a quiet flow after 10 s is kept awake by a keepalive of 3 s; and a path
// that drops what is longer than 1400 bytes without a word carries all that the tunnel does.
func TestNATAndHole(t *testing.T) {
	s := newSite(t, 1, func(c *Config) { c.Hubs[0].Keepalive = 3 * time.Second })
	s.Echo(t)
	for _, u := range []string{"wan", "lte"} {
		ok(t, s.Age(u, 10*time.Second)) // a machine may stand still between two keepalives
		ok(t, s.Hole(u, 1400))
	}
	s.start()
	s.reached(20 * time.Second)
	time.Sleep(14 * time.Second)
	if out, err := s.hubs[0].Command("ping", "-c", "3", "-i", "0.3", "-W", "3", linktest.BranchInner).CombinedOutput(); err != nil {
		t.Errorf("the box is not reached after a quiet while: %v\n%s", err, out)
	}
	for _, size := range []string{"500", "1252"} { // 1252 and 28 are 1280
		if out, err := exec.Command("ping", "-c", "2", "-W", "10", "-M", "do", "-s", size, linktest.HubInner).CombinedOutput(); err != nil {
			t.Errorf("%s bytes: %v\n%s", size, err, out)
		}
	}
}

// An operator that has only IPv6 is no obstacle: the hub's other address is used there.
func TestIPv6OnlyUplink(t *testing.T) {
	s := newSite(t, 1, func(c *Config) { c.Hubs[0].Endpoints = append(c.Hubs[0].Endpoints, "[2001:db8:2::1]:51820") })
	sh := func(p *linktest.Place, script string) {
		t.Helper()
		if out, err := p.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	sh(s.LTE.ISP, `cd /proc/sys/net/ipv6/conf; echo 0 >lan/disable_ipv6; echo 0 >net0/disable_ipv6; echo 1 >all/forwarding
		ip address add fd64::1/64 dev lan nodad; ip address add 2001:db8:2::2/64 dev net0 nodad`)
	sh(s.hubs[0].Place, `cd /proc/sys/net/ipv6/conf; echo 0 >e2/disable_ipv6
		ip address add 2001:db8:2::1/64 dev e2 nodad`)
	sh(s.Branch, `echo 0 >/proc/sys/net/ipv6/conf/lte0/disable_ipv6
		ip address flush dev lte0; ip address add fd64::2/64 dev lte0 nodad; ip -6 route add default via fd64::1 dev lte0
		ping -c 1 -w 10 -I lte0 2001:db8:2::1`)
	s.start()
	s.reached(20 * time.Second)
	if !s.by(0, "wan") {
		t.Errorf("the hub hears the box from %s", s.endpoint(0))
	}
	ok(t, s.Silence("wan"))
	s.tunnel.Use("lte")
	s.reached(12 * time.Second) // not as late as WireGuard's own next handshake
	if e := s.endpoint(0); !strings.HasPrefix(e, "[2001:db8:2::2]") {
		t.Errorf("the hub hears the box from %s", e)
	}
	ok(t, s.Mend("wan"))
	s.tunnel.Use("wan")
	s.reached(12 * time.Second)
}
