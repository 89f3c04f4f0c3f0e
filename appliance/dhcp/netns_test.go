package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"rescuebox/appliance/boot"
)

// lan is a switch with our server on it and real clients in namespaces:
//
//	srv (192.168.77.1/24) --+      in the test's own namespace
//	                       br0     in dhcp-PID-switch
//	eth0 -------------------+      one namespace dhcp-PID-NAME per peer
type lan struct {
	t  *testing.T
	sw string // the switch's namespace
}

func newLAN(t *testing.T) *lan {
	needRoot(t)
	need(t, "ip", "iproute2")
	run(t, "ip", "link", "set", "lo", "up")
	// Two boxes may stand in this one namespace: each interface answers for itself.
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	l := &lan{t, fmt.Sprintf("dhcp-%d-switch", os.Getpid())}
	run(t, "ip", "netns", "add", l.sw)
	t.Cleanup(func() { try("ip", "netns", "del", l.sw) })
	run(t, "ip", "-n", l.sw, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
	run(t, "ip", "-n", l.sw, "link", "set", "br0", "up")
	l.port("srv", "192.168.77.1/24")
	return l
}

// port puts an interface of ours on the switch.
func (l *lan) port(name, addr string) {
	run(l.t, "ip", "link", "add", name, "type", "veth", "peer", "name", name+"-sw", "netns", l.sw)
	l.t.Cleanup(func() { try("ip", "link", "del", name) })
	run(l.t, "ip", "-n", l.sw, "link", "set", name+"-sw", "master", "br0", "up")
	if addr != "" {
		run(l.t, "ip", "addr", "add", addr, "dev", name)
	}
	run(l.t, "ip", "link", "set", name, "up")
	l.forwards(name)
}

// forwards waits until the switch lets through what comes from and goes to a port. The kernel
// opens it a moment after its cable is in, on a busy machine a long one.
func (l *lan) forwards(name string) {
	l.t.Helper()
	eventually(l.t, time.Minute, "the port of "+name+" forwards", func() bool {
		out, err := try("ip", "-n", l.sw, "-d", "link", "show", name+"-sw")
		return err == nil && strings.Contains(out, "state forwarding")
	})
}

// peer makes a namespace with eth0 on the switch and returns the prefix of
// commands that run in it.
func (l *lan) peer(name string, m boot.MAC, addr string) []string {
	ns := fmt.Sprintf("dhcp-%d-%s", os.Getpid(), name)
	run(l.t, "ip", "netns", "add", ns)
	l.t.Cleanup(func() { try("ip", "netns", "del", ns) })
	run(l.t, "ip", "-n", l.sw, "link", "add", name+"-sw", "type", "veth", "peer", "name", "eth0", "address", m.String(), "netns", ns)
	run(l.t, "ip", "-n", l.sw, "link", "set", name+"-sw", "master", "br0", "up")
	run(l.t, "ip", "-n", ns, "link", "set", "lo", "up")
	run(l.t, "ip", "-n", ns, "link", "set", "eth0", "up")
	if addr != "" {
		run(l.t, "ip", "-n", ns, "addr", "add", addr, "dev", "eth0")
	}
	l.forwards(name)
	return []string{"env", "-i", "PATH=" + os.Getenv("PATH"), "ip", "netns", "exec", ns}
}

// serve runs a server on the LAN until the test ends.
func (l *lan) serve(change func(*Server)) *Server {
	l.t.Helper()
	s, _ := l.serveUntil(change)
	return s
}

// serveUntil runs a server on the LAN until stop or the end of the test.
func (l *lan) serveUntil(change func(*Server)) (s *Server, stop func()) {
	l.t.Helper()
	s = &Server{
		Interface: "srv", Address: netip.MustParsePrefix("192.168.77.1/24"), Mode: Full,
		Range:  Range{netip.MustParseAddr("192.168.77.100"), netip.MustParseAddr("192.168.77.199")},
		Router: netip.MustParseAddr("192.168.77.1"), DNS: []netip.Addr{netip.MustParseAddr("192.168.77.1")},
		Domain: "rescue.example", Store: &store{}, Log: zaptest.NewLogger(l.t, zaptest.Level(zap.WarnLevel)),
	}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan bool), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		l.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	l.t.Cleanup(stop)
	return s, stop
}

// udhcpc runs busybox's client once and returns what its script was told. It sends three REQUESTs and
// gives up, so that between them there are seconds for a server that does not get to run.
func udhcpc(t *testing.T, in []string, args ...string) (string, error) {
	script := filepath.Join(t.TempDir(), "script")
	text := "#!/bin/sh\n[ \"$1\" = deconfig ] || { echo \"event=$1\"; env; }\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := append(in, "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "20", "-T", "3", "-s", script)
	return try(append(cmd, args...)...)
}

func TestUdhcpc(t *testing.T) {
	need(t, "busybox", "busybox")
	l := newLAN(t)
	s := l.serve(func(s *Server) { s.Log = zaptest.NewLogger(t) }) // with each answer and its time
	in := l.peer("a", mac(1), "")
	for _, args := range [][]string{nil, {"-B"}} { // unicast to the MAC; then with broadcast flag
		out, err := udhcpc(t, in, args...)
		if err != nil {
			t.Fatalf("udhcpc %v: %v\n%s", args, err, out)
		}
		for _, want := range []string{"event=bound", "ip=192.168.77.100", "subnet=255.255.255.0", "router=192.168.77.1", "dns=192.168.77.1", "domain=rescue.example", "lease=3600", "serverid=192.168.77.1"} {
			if !strings.Contains(out, want+"\n") {
				t.Errorf("udhcpc %v was not told %s:\n%s", args, want, out)
			}
		}
	}
	if l := s.Leases(); len(l) != 1 || l[0].MAC != mac(1) {
		t.Errorf("leases %v, want one", l)
	}
}

// TestUnicast sees on the client's wire that a reply to a client without an
// address and without broadcast flag goes to its MAC and nobody else's.
func TestUnicast(t *testing.T) {
	need(t, "busybox", "busybox")
	need(t, "tcpdump", "tcpdump")
	l := newLAN(t)
	l.serve(nil)
	in := l.peer("a", mac(1), "")
	dump := start(t, append(in, "tcpdump", "-l", "-e", "-n", "-i", "eth0", "udp", "src", "port", "67")...)
	eventually(t, time.Minute, "tcpdump listens", func() bool { return strings.Contains(dump.String(), "listening") })
	if out, err := udhcpc(t, in); err != nil {
		t.Fatal(err, out)
	}
	eventually(t, time.Minute, "OFFER and ACK on the wire", func() bool { return strings.Count(dump.String(), "BOOTP/DHCP, Reply") >= 2 })
	if strings.Contains(dump.String(), "Broadcast") || !strings.Contains(dump.String(), "> "+mac(1).String()) || !strings.Contains(dump.String(), "192.168.77.1.67 > 192.168.77.100.68") {
		t.Errorf("a reply to others than the client's MAC:\n%s", dump)
	}
}

// newDhclient is ISC's client, with files of its own. It is given a minute: its second packet comes after
// up to eight seconds.
func newDhclient(t *testing.T, in []string) func(args ...string) (string, error) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	if err := os.WriteFile(conf, []byte("request subnet-mask, routers, domain-name;\ntimeout 60;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return func(args ...string) (string, error) {
		cmd := append(in, "dhclient", "-v", "-sf", "/bin/true", "-cf", conf, "-lf", dir+"/leases", "-pf", dir+"/pid")
		return try(append(append(cmd, args...), "eth0")...)
	}
}

func TestDhclient(t *testing.T) {
	need(t, "dhclient", "isc-dhcp-client")
	l := newLAN(t)
	s := l.serve(nil)
	in := l.peer("a", mac(1), "")
	dhclient := newDhclient(t, in)
	if out, err := dhclient("-1"); err != nil || !strings.Contains(out, "bound to 192.168.77.100") {
		t.Fatalf("dhclient: %v\n%s", err, out)
	}
	run(t, append(in, "ip", "addr", "add", "192.168.77.100/24", "dev", "eth0")...)
	if out, err := dhclient("-r"); err != nil || !strings.Contains(out, "DHCPRELEASE of 192.168.77.100") {
		t.Fatalf("dhclient -r: %v\n%s", err, out)
	}
	eventually(t, time.Minute, "the lease is released", func() bool { return len(s.Leases()) == 0 })
}

// TestConflictOnTheWire has a host with the first address of the pool.
func TestConflictOnTheWire(t *testing.T) {
	need(t, "busybox", "busybox")
	l := newLAN(t)
	s := l.serve(nil)
	l.peer("squatter", mac(0xee), "192.168.77.100/24")
	in := l.peer("a", mac(1), "")
	out, err := udhcpc(t, in)
	if err != nil || !strings.Contains(out, "ip=192.168.77.101\n") {
		t.Fatalf("want the address behind the squatter's: %v\n%s", err, out)
	}
	if st := s.Status().Pools[0]; st.Quarantined != 1 {
		t.Errorf("pool %+v", st)
	}
}

func TestDeclineOnTheWire(t *testing.T) {
	need(t, "busybox", "busybox")
	l := newLAN(t)
	s := l.serve(nil)
	in := l.peer("a", mac(1), "")
	// The address counts as probed, as if the squatter had come a second ago.
	s.pool.mu.Lock()
	s.pool.slot(netip.MustParseAddr("192.168.77.100"), s.pool.nets[0]).verified = time.Now()
	s.pool.mu.Unlock()
	l.peer("squatter", mac(0xee), "192.168.77.100/24")
	out, err := udhcpc(t, in, "-r", "192.168.77.100", "-a500", "-A", "1")
	if err != nil || !strings.Contains(out, "ip=192.168.77.101\n") {
		t.Fatalf("want the next address after DECLINE: %v\n%s", err, out)
	}
	if st := s.Status().Pools[0]; st.Quarantined != 1 {
		t.Errorf("pool %+v", st)
	}
}

// TestLinkLost takes the interface down, away, and makes it anew.
func TestLinkLost(t *testing.T) {
	need(t, "busybox", "busybox")
	l := newLAN(t)
	l.serve(nil)
	in := l.peer("a", mac(1), "")
	lease := func(what string) {
		t.Helper()
		eventually(t, time.Minute, "an address "+what, func() bool {
			_, err := udhcpc(t, in)
			return err == nil
		})
	}
	lease("before")
	run(t, "ip", "link", "set", "srv", "down")
	time.Sleep(200 * time.Millisecond)
	run(t, "ip", "link", "set", "srv", "up")
	lease("after down and up")
	run(t, "ip", "link", "del", "srv")
	time.Sleep(200 * time.Millisecond)
	l.port("srv", "192.168.77.1/24")
	lease("after the interface was made anew")
}

func TestBusyPort(t *testing.T) {
	need(t, "dnsmasq", "dnsmasq-base")
	l := newLAN(t)
	start(t, "dnsmasq", "-d", "-C", "/dev/null", "--port=0", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--dhcp-range=192.168.77.50,192.168.77.60")
	eventually(t, time.Minute, "dnsmasq has the port", func() bool {
		out, _ := try("ss", "-uln", "sport", "=", ":67")
		return strings.Contains(out, ":67")
	})
	s := &Server{Interface: "srv", Address: netip.MustParsePrefix("192.168.77.1/24"), Mode: Proxy}
	err := s.Run(context.Background(), func() { l.t.Error("ready on a busy port") })
	if err == nil || !strings.Contains(err.Error(), "port 67 of srv") || !strings.Contains(err.Error(), "ss -ulpn") {
		t.Errorf("error %v, want port, interface and what to do", err)
	}
	s.Interface = "eth9"
	if err := s.Run(context.Background(), func() {}); err == nil || !strings.Contains(err.Error(), `"eth9"`) {
		t.Errorf("error %v, want the interface's name", err)
	}
}
