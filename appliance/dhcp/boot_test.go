package dhcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"

	"rescuebox/appliance/boot"
)

// insideOf runs f in a peer's namespace: the sockets that it opens stay there.
func insideOf(t *testing.T, peer string, f func()) {
	t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	ns, err := os.Open(fmt.Sprintf("/var/run/netns/dhcp-%d-%s", os.Getpid(), peer))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	runtime.UnlockOSThread()
}

// bootClient is a DHCP client in a peer's namespace.
func bootClient(t *testing.T, peer string) *nclient4.Client {
	t.Helper()
	var c *nclient4.Client
	var err error
	insideOf(t, peer, func() {
		c, err = nclient4.New("eth0", nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(20))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends a packet by broadcast and waits for the answer that ok takes.
func exchange(t *testing.T, c *nclient4.Client, d *dhcpv4.DHCPv4, ok func(*dhcpv4.DHCPv4) bool) *dhcpv4.DHCPv4 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer, err := c.SendAndRead(ctx, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}, d, ok)
	if err != nil {
		t.Fatalf("%s: %v", d.MessageType(), err)
	}
	return answer
}

func TestBootFull(t *testing.T) {
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	l := newLAN(t)
	l.serve(func(s *Server) { s.Boot = b })
	l.peer("srv01", mac(1), "")
	l.peer("srv02", mac(2), "")
	c := bootClient(t, "srv01")
	lease, err := c.Request(t.Context(), bios)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*dhcpv4.DHCPv4{lease.Offer, lease.ACK} {
		if file := "boot/525400000001/undionly.kpxe"; r.BootFileName != file || string(r.Options.Get(dhcpv4.OptionBootfileName)) != file+"\x00" ||
			r.ServerIPAddr.String() != "192.168.77.1" || r.ClassIdentifier() != "PXEClient" {
			t.Error(r.Summary())
		}
	}
	// An unordered machine gets an address and nothing that makes its firmware wait.
	c = bootClient(t, "srv02")
	for _, tt := range []struct {
		client            dhcpv4.Modifier
		class, file, menu string
	}{
		{bios, "", "", ""},
		{uefi, "PXEClient", "", "\x06\x01\x03\x09\x08\x00\x00\x05Local\x0a\x02\x00x\xff"},
		{ipxe, "", "", ""},
		{httpClient, "HTTPClient", "http://192.168.77.1/boot/525400000002/boots-own-disk", ""},
	} {
		lease, err = c.Request(t.Context(), tt.client)
		if err != nil {
			t.Fatal(err)
		}
		r := lease.ACK
		if r.BootFileName != tt.file || r.ClassIdentifier() != tt.class || r.BootFileNameOption() != tt.file || r.ServerIPAddr.IsUnspecified() != (tt.file == "") ||
			string(r.Options.Get(dhcpv4.OptionVendorSpecificInformation)) != tt.menu {
			t.Error("told to a machine that nobody ordered:", r.Summary())
		}
	}
}

// TestBootProxy boots beside dnsmasq: BIOS from the offer alone, UEFI by way of
// port 4011, iPXE with its script.
func TestBootProxy(t *testing.T) {
	need(t, "dnsmasq", "dnsmasq-base")
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	l := newLAN(t)
	dnsmasq(t, l.peer("site", mac(0xfe), "192.168.77.254/24"))
	s := l.serve(func(s *Server) { s.Boot, s.Mode, s.Machines = b, Proxy, func() []boot.Machine { return nil } })
	in := l.peer("srv01", mac(1), "")
	c := bootClient(t, "srv01")
	ours := func(d *dhcpv4.DHCPv4) bool { return d.ServerIdentifier().String() == "192.168.77.1" }
	theirs := func(d *dhcpv4.DHCPv4) bool { return d.ServerIdentifier().String() == "192.168.77.254" }
	for _, tt := range []struct {
		name    string
		client  dhcpv4.Modifier
		file    string
		control string
	}{
		{"BIOS", bios, "boot/525400000001/undionly.kpxe", "\x06\x01\x08\xff"},
		{"UEFI", uefi, "boot/525400000001/snponly.efi", ""},
		{"iPXE", ipxe, "http://192.168.77.1/boot/525400000001/boot.ipxe", ""},
	} {
		o := exchange(t, c, request(mac(1), dhcpv4.MessageTypeDiscover, tt.client), ours)
		if !o.YourIPAddr.IsUnspecified() || o.BootFileName != tt.file || o.ClassIdentifier() != "PXEClient" || string(o.Options.Get(dhcpv4.OptionVendorSpecificInformation)) != tt.control {
			t.Errorf("%s: %s", tt.name, o.Summary())
		}
	}

	offer := exchange(t, c, request(mac(1), dhcpv4.MessageTypeDiscover, uefi), theirs)
	ack := exchange(t, c, request(mac(1), dhcpv4.MessageTypeRequest, uefi, want(offer.YourIPAddr.String()), server("192.168.77.254")), theirs)
	run(t, append(in, "ip", "addr", "add", ack.YourIPAddr.String()+"/24", "dev", "eth0")...)
	r := ask4011(t, "srv01", request(mac(1), dhcpv4.MessageTypeRequest, uefi, ciaddr(ack.YourIPAddr.String()), opt(43, 71, 4, 0, 0, 0, 0, 255)))
	if r.MessageType() != dhcpv4.MessageTypeAck || r.BootFileName != "boot/525400000001/snponly.efi" || string(r.Options.Get(dhcpv4.OptionVendorSpecificInformation)) != "\x47\x04\x00\x00\x00\x00\xff" {
		t.Error("on port 4011:", r.Summary())
	}
	addr, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if m, ok := s.MACOf(addr); !ok || m != mac(1) {
		t.Errorf("MACOf(%s) = %v %v, want what the REQUEST showed", addr, m, ok)
	}
}

// ask4011 asks the boot server as firmware does, from port 68 of its address, and again where no answer comes.
func ask4011(t *testing.T, peer string, d *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	var conn *net.UDPConn
	var err error
	insideOf(t, peer, func() {
		conn, err = net.DialUDP("udp4", &net.UDPAddr{Port: 68}, &net.UDPAddr{IP: ip("192.168.77.1"), Port: portBoot})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf, n := make([]byte, 2048), 0
	eventually(t, time.Minute, "an answer on port 4011", func() bool {
		if _, err := conn.Write(d.ToBytes()); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		n, err = conn.Read(buf)
		return err == nil
	})
	r, err := dhcpv4.FromBytes(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRelayOnTheWire has dnsmasq relay a second network to us.
func TestRelayOnTheWire(t *testing.T) {
	need(t, "dnsmasq", "dnsmasq-base")
	need(t, "busybox", "busybox")
	l := newLAN(t)
	l.serve(func(s *Server) {
		s.Relays = []Relay{{Network: netip.MustParsePrefix("10.5.0.0/24"), Router: netip.MustParseAddr("10.5.0.1"),
			Range: Range{netip.MustParseAddr("10.5.0.50"), netip.MustParseAddr("10.5.0.60")}}}
	})
	in := l.peer("relay", mac(0xfd), "192.168.77.253/24")
	far := fmt.Sprintf("dhcp-%d-far", os.Getpid())
	run(t, "ip", "netns", "add", far)
	t.Cleanup(func() { try("ip", "netns", "del", far) })
	run(t, append(in, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", far)...)
	run(t, append(in, "ip", "addr", "add", "10.5.0.1/24", "dev", "eth1")...)
	run(t, append(in, "ip", "link", "set", "eth1", "up")...)
	run(t, "ip", "-n", far, "link", "set", "eth0", "up")
	run(t, "ip", "route", "add", "10.5.0.0/24", "via", "192.168.77.253")
	relay := start(t, append(in, "dnsmasq", "-d", "-C", "/dev/null", "--port=0", "--dhcp-relay=10.5.0.1,192.168.77.1", "--user=root")...)
	eventually(t, time.Minute, "the relay is up", func() bool { return strings.Contains(relay.String(), "relay from") })
	out, err := udhcpc(t, []string{"env", "-i", "PATH=" + os.Getenv("PATH"), "ip", "netns", "exec", far})
	if err != nil || !strings.Contains(out, "ip=10.5.0.50\n") || !strings.Contains(out, "router=10.5.0.1\n") {
		t.Fatalf("behind the relay: %v\n%s\n%s", err, out, relay)
	}
}

// TestNoRouter: a machine that boots hears at once that there is no IPv6
// router, from a real kernel's point of view; others hear nothing.
func TestNoRouter(t *testing.T) {
	need(t, "tcpdump", "tcpdump")
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	l := newLAN(t)
	l.serve(func(s *Server) { s.Boot = b })
	for _, tt := range []struct {
		peer string
		mac  boot.MAC
		want bool
	}{{"srv01", mac(1), true}, {"srv02", mac(2), false}} {
		in := l.peer(tt.peer, tt.mac, "")
		if _, err := bootClient(t, tt.peer).DiscoverOffer(t.Context(), bios); err != nil {
			t.Fatal(err)
		}
		dump := start(t, append(in, "tcpdump", "-l", "-e", "-n", "-vv", "-i", "eth0", "icmp6", "and", "ip6[40]", ">=", "133", "and", "ip6[40]", "<=", "134")...)
		eventually(t, time.Minute, "tcpdump listens", func() bool { return strings.Contains(dump.String(), "listening") })
		run(t, append(in, "ip", "link", "set", "eth0", "down")...)
		run(t, append(in, "ip", "link", "set", "eth0", "up")...) // the kernel solicits with its address
		eventually(t, time.Minute, "a solicitation", func() bool { return strings.Contains(dump.String(), "router solicitation") })
		answered := func() bool { return strings.Contains(dump.String(), "router advertisement") }
		if !tt.want {
			time.Sleep(300 * time.Millisecond)
			if answered() {
				t.Errorf("%s: answered\n%s", tt.peer, dump)
			}
			continue
		}
		eventually(t, time.Minute, "an advertisement", answered)
		for _, want := range []string{"[icmp6 sum ok]", "router lifetime 0s", "> " + tt.mac.String()} {
			if !strings.Contains(dump.String(), want) {
				t.Errorf("no %q in\n%s", want, dump)
			}
		}
	}
}

func TestTimeline(t *testing.T) {
	known := boot.Machine{Name: "srv01", MACs: []boot.MAC{mac(1)}}
	tests := []struct {
		name    string
		ordered bool
		refuse  string
		client  boot.MAC
		want    []boot.Step
	}{
		{"ordered", true, "", mac(1), []boot.Step{boot.StepDiscover, boot.StepOffer, boot.StepRequest}},
		{"left alone", false, "", mac(1), []boot.Step{boot.StepLocal}},
		{"refused", true, "image drat is gone", mac(1), []boot.Step{boot.StepRefused}},
		{"stranger", false, "", mac(2), nil},
		{"stranger refused", true, "no", mac(2), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &orders{ordered: map[boot.MAC]bool{mac(1): tt.ordered}, refuse: tt.refuse}
			bubble(t, func(s *Server) { s.Boot, s.Machines = b, func() []boot.Machine { return []boot.Machine{known} } },
				func(t *testing.T, s *Server, w *fakeWire) {
					for range 20 { // twenty boots in a row are no reason to fill the store
						lease(t, s, w, tt.client, uefi)
					}
					got := b.steps()
					if tt.ordered && tt.refuse == "" && tt.client == mac(1) {
						got = got[:min(3, len(got))]
					}
					if !slices.Equal(got, tt.want) {
						t.Errorf("timeline %v, want %v", got, tt.want)
					}
				})
		})
	}
}

// TestUnknownArchitecture: refused with its reason, but with an address.
func TestUnknownArchitecture(t *testing.T) {
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	bubble(t, func(s *Server) {
		s.Boot, s.Machines = b, func() []boot.Machine { return []boot.Machine{{Name: "srv01", MACs: []boot.MAC{mac(1)}}} }
	}, func(t *testing.T, s *Server, w *fakeWire) {
		o := one(t, s, w, request(mac(1), dhcpv4.MessageTypeDiscover, text(60, "PXEClient"), opt(93, 0, 0x27)))
		if o == nil || o.YourIPAddr.IsUnspecified() || o.BootFileName != "" || o.ClassIdentifier() != "" {
			t.Fatalf("offer %v", o)
		}
		if len(b.events) != 1 || b.events[0].Step != boot.StepRefused || !strings.Contains(b.events[0].Text, "architecture 39") {
			t.Errorf("events %+v", b.events)
		}
	})
}

// TestProxySilence: in proxy mode nobody hears us but who has something to boot.
func TestProxySilence(t *testing.T) {
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	bubble(t, func(s *Server) { s.Boot, s.Mode = b, Proxy }, func(t *testing.T, s *Server, w *fakeWire) {
		for _, d := range []*dhcpv4.DHCPv4{
			request(mac(2), dhcpv4.MessageTypeDiscover, uefi),
			request(mac(1), dhcpv4.MessageTypeDiscover),
			request(mac(1), dhcpv4.MessageTypeRequest, bios, want("10.0.0.5")),
			request(mac(1), dhcpv4.MessageTypeInform, ciaddr("192.168.77.9")),
		} {
			if r := one(t, s, w, d); r != nil {
				t.Errorf("answer in proxy mode to %s:\n%s", d.Summary(), r.Summary())
			}
		}
		s.receive(request(mac(2), dhcpv4.MessageTypeRequest, uefi), portBoot, "192.168.77.50:68")
		synctest.Wait()
		if out := w.take(); len(out) != 0 {
			t.Error("answer on 4011 to a machine that nobody ordered")
		}
		s.receive(request(mac(1), dhcpv4.MessageTypeRequest, uefi), portBoot, "192.168.77.50:68")
		synctest.Wait()
		if out := w.take(); len(out) != 1 || out[0].dst.String() != "192.168.77.50:68" {
			t.Errorf("on 4011: %v", out)
		}
	})
}

// TestListening: before its first verdict auto answers nobody.
func TestListening(t *testing.T) {
	b := &orders{ordered: map[boot.MAC]bool{mac(1): true}}
	bubble(t, func(s *Server) { s.Boot, s.Mode = b, Auto }, func(t *testing.T, s *Server, w *fakeWire) {
		if r := one(t, s, w, request(mac(1), dhcpv4.MessageTypeDiscover, bios)); r != nil {
			t.Error("answered while listening")
		}
	})
}
