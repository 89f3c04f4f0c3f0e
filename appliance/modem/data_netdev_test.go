package modem

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A HiLink modem: a router behind a network device. Its DHCP server gives an address, with
// IPv6 beside it; the main table gets no default route of it.
func TestNetworkDevice(t *testing.T) {
	if !alone(t) {
		return
	}
	f := cable(t, "usb0")
	server := f.dnsmasq("--enable-ra", "--dhcp-range=2001:db8:8::,ra-only,64,10m", "--dhcp-option=option6:dns-server,[2001:db8:8::53]")
	n, err := newNetdev("usb0", "")
	if err != nil {
		t.Fatal(err)
	}
	n.term = 3 * time.Second
	h := hold(t, n)
	l := h.up("both families", func(l Link) bool { return len(l.Addresses) == 2 })
	if l.Device != "usb0" || l.Gateway.String() != "192.168.8.1" || !l.Gateway6.IsLinkLocalUnicast() || l.MTU != 1400 {
		t.Errorf("the bearer is %+v", l)
	}
	if !l.Addresses[0].Addr().Is4() || !netip.MustParsePrefix("2001:db8:8::/64").Contains(l.Addresses[1].Addr()) {
		t.Errorf("addresses %v", l.Addresses)
	}
	if want := "[10.9.9.9 10.9.9.8 2001:db8:8::53]"; sprint(l.DNS) != want {
		t.Errorf("DNS %v, want %v", l.DNS, want)
	}
	// The peer's view: it reaches both addresses, and renewals come.
	f.reaches(l.Addresses[0].Addr().String())
	f.reaches(l.Addresses[1].Addr().String())
	eventually(t, "the lease is renewed", func() bool { return strings.Count(server.said(), "DHCPACK(modem0)") > 2 })
	if exchanges := regexp.MustCompile(`(\d+) DHCPDISCOVER`).FindAllStringSubmatch(server.said(), -1); slices.ContainsFunc(exchanges, func(m []string) bool { return m[1] != exchanges[0][1] }) {
		t.Errorf("it asked for a new lease instead of renewing:\n%s", server.said())
	}
	if routes := shell(t, "ip route show default; ip -6 route show default"); routes != "" {
		t.Errorf("default routes in the main table: %s", routes)
	}
	if lft := shell(t, "ip -4 addr show usb0"); strings.Contains(lft, "valid_lft forever") {
		t.Errorf("the address outlives its lease: %s", lft)
	}
	// The daemon stops: the address stays, for the next one to go on with.
	h.end()
	if a := shell(t, "ip -4 addr show usb0"); !strings.Contains(a, l.Addresses[0].String()) {
		t.Errorf("letting go took the address: %s", a)
	}
	h = hold(t, n)
	h.up("again", func(again Link) bool { return again.Addresses[0] == l.Addresses[0] })
	h.end()
	if err := n.down(context.Background()); err != nil {
		t.Error(err)
	}
	if a := shell(t, "ip addr show usb0 scope global"); strings.Contains(a, "inet") {
		t.Errorf("down leaves %s", a)
	}
}

func sprint(list []netip.Addr) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return "[" + strings.Join(s, " ") + "]"
}

// The modem is pulled: noticed at once, and its device has another index when it is back.
func TestNetworkDevicePulled(t *testing.T) {
	if !alone(t) {
		return
	}
	f := cable(t, "usb0")
	f.dnsmasq()
	n, err := newNetdev("usb0", "v4")
	if err != nil {
		t.Fatal(err)
	}
	h := hold(t, n)
	h.up("an address", func(Link) bool { return true })
	f.run("ip link set modem0 down")
	isLost(t, h.lost("no carrier"), "no carrier")
	f.run("ip link set modem0 up")
	h = hold(t, n)
	h.up("an address again", func(Link) bool { return true })
	f.run("ip link del modem0")
	isLost(t, h.lost("no device"), "usb0")
	if err := hold(t, n).lost("still none"); !strings.Contains(err.Error(), "plugged in") {
		t.Errorf("without the device: %v", err)
	}
	f.plug("usb0")
	h = hold(t, n)
	h.up("an address by another index", func(Link) bool { return true })
}

// A modem whose DHCP server is dead, and one that gives an address of nobody's.
func TestNetworkDeviceWithoutServer(t *testing.T) {
	if !alone(t) {
		return
	}
	cable(t, "usb0")
	n, err := newNetdev("usb0", "v4")
	if err != nil {
		t.Fatal(err)
	}
	if err := hold(t, n).lost("no server"); !strings.Contains(err.Error(), "no DHCP server") {
		t.Errorf("it says %v", err)
	}
}

// Somebody else sets the device up: we say what he does, and ask for nothing.
func TestNetworkDeviceOfSomebodyElse(t *testing.T) {
	if !alone(t) {
		return
	}
	f := cable(t, "usb0")
	server := f.dnsmasq()
	shell(t, "ip link set usb0 up; ip addr add 192.168.8.50/24 dev usb0; ip route add default via 192.168.8.1 dev usb0 metric 700")
	n, err := newNetdev("usb0", "v4")
	if err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("usb0")
	if err != nil {
		t.Fatal(err)
	}
	if who := n.owner(link); who != "another program" {
		t.Errorf("the owner is %q", who)
	}
	h := hold(t, n)
	l := h.up("his address", func(l Link) bool { return has([]string{"192.168.8.50/24"}, l) })
	if l.Gateway.String() != "192.168.8.1" {
		t.Errorf("gateway %v", l.Gateway)
	}
	shell(t, "ip addr add 192.168.8.51/24 dev usb0")
	h.up("both", func(l Link) bool { return has([]string{"192.168.8.50/24", "192.168.8.51/24"}, l) })
	h.end()
	if err := n.down(context.Background()); err != nil {
		t.Error(err)
	}
	if a := shell(t, "ip addr show usb0"); !strings.Contains(a, "192.168.8.50/24") {
		t.Errorf("down took his address: %s", a)
	}
	if strings.Contains(server.said(), "DHCPDISCOVER") {
		t.Error("we asked by DHCP on somebody else's device")
	}
}

// A kernel that has more news than are heard, as while the disk stands still, is heard afterwards all the same.
func TestMoreNewsOfADeviceThanHeard(t *testing.T) {
	if !alone(t) {
		return
	}
	f := cable(t, "usb0")
	shell(t, "ip link set usb0 up; ip addr add 192.168.8.50/24 dev usb0")
	n, err := newNetdev("usb0", "v4")
	if err != nil {
		t.Fatal(err)
	}
	h := hold(t, n)
	h.up("his address", func(Link) bool { return true })
	var changes strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&changes, "link set usb0 mtu %d\n", 1400+i%2)
	}
	file := filepath.Join(t.TempDir(), "changes")
	if err := os.WriteFile(file, []byte(changes.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, "kill -STOP $PPID; ip -batch "+file+" || true; kill -CONT $PPID")
	f.run("ip link set modem0 down")
	eventually(t, "the lost carrier is told", func() bool { l := h.last(); return l.Err != nil && strings.Contains(l.Err.Error(), "no carrier") })
	f.run("ip link set modem0 up")
	h.up("the carrier is back", func(Link) bool { return true })
}

func TestWhoSetsADeviceUp(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("3", "# This is private data. Do not parse.\nADMIN_STATE=configured\nOPER_STATE=routable\n")
	write("4", "ADMIN_STATE=unmanaged\nOPER_STATE=routable\n")
	write("5", "ADMIN_STATE=configuring\n")
	write("ifstate.eth0", "eth0\n")
	write("ifstate.eth1", "")
	for index, want := range map[int]bool{3: true, 4: false, 5: true, 6: false} {
		if got := networkdHas(dir, index); got != want {
			t.Errorf("networkd has %d: %v", index, got)
		}
	}
	for name, want := range map[string]bool{"eth0": true, "eth1": false, "eth2": false} {
		if got := ifupdownHas(dir, name); got != want {
			t.Errorf("ifupdown has %s: %v", name, got)
		}
	}
}

// An APN or a router with IPv6 only: the bearer is up without a DHCP server. The daemon's
// sandbox does not let it write to /proc/sys, so the kernel makes a default route: it goes again.
func TestNetworkDeviceWithIPv6Only(t *testing.T) {
	if !alone(t) {
		return
	}
	shell(t, "mount --make-rprivate /; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; ! echo 0 2>/dev/null >/proc/sys/net/ipv6/conf/all/accept_ra")
	f := cable(t, "usb0")
	needTool(t, "dnsmasq", "dnsmasq-base")
	f.start("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root", "--bind-dynamic", "--interface=modem0", "--pid-file=",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--enable-ra", "--dhcp-range=2001:db8:8::,ra-only,64,10m")
	for _, ipType := range []string{"v6", "v4v6"} {
		n, err := newNetdev("usb0", ipType)
		if err != nil {
			t.Fatal(err)
		}
		h := hold(t, n)
		l := h.up(ipType, func(l Link) bool { return len(l.Addresses) == 1 })
		if !l.Addresses[0].Addr().Is6() || !l.Gateway.IsLinkLocalUnicast() {
			t.Errorf("%s: the bearer is %+v", ipType, l)
		}
		f.reaches(l.Addresses[0].Addr().String())
		eventually(t, "no default route in the main table", func() bool { return shell(t, "ip -6 route show default") == "" })
		h.end()
		if err := n.down(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// What the kernel tells of addresses and routes is asked for again where something changed while it told: else another
// device's change costs the bearer, or somebody else's device is taken for nobody's.
func TestAddressesOfOthersChange(t *testing.T) {
	if !alone(t) {
		return
	}
	cable(t, "usb0")
	shell(t, "ip link set usb0 up; ip addr add 192.168.8.50/24 dev usb0; ip route add default via 192.168.8.1 dev usb0; ip link add other type veth peer name another; ip link set other up")
	link, err := device("usb0").find()
	if err != nil {
		t.Fatal(err)
	}
	other, err := device("other").find()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 { // more than the kernel tells at once
		if err := put(other, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32), 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range 2 {
		wg.Go(func() {
			for mine := netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/32", i+1)); ctx.Err() == nil; {
				_ = put(other, mine, 0)
				remove(other, mine)
			}
		})
	}
	s := &setup{name: "usb0", link: link}
	eventually(t, "a link-local address", func() bool { _, err := s.interfaceID(); return err == nil })
	for range 20 {
		found, err := addressesOn(link)
		if err != nil || len(found) != 1 {
			t.Fatalf("addresses %v: %v", found, err)
		}
		if !strangerOn(link) {
			t.Fatal("somebody's address is nobody's")
		}
		if _, err := s.interfaceID(); err != nil {
			t.Fatal(err)
		}
		if via := gatewayOn(link, netlink.FAMILY_V4); via.String() != "192.168.8.1" {
			t.Fatalf("the gateway is %v", via)
		}
	}
}
