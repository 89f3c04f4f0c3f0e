package appliance

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/boottest"
	"rescuebox/appliance/dhcp"
	"rescuebox/appliance/state"
	"rescuebox/images"
)

// A sound branch: nothing to say about the LAN, and all checks together within
// the time that an admin waits.
func TestDoctorOfASoundSite(t *testing.T) {
	c := newClinic(t)
	c.host("192.168.77.30/24")
	c.open("full", "")
	began := time.Now()
	d, err := api.OverSocket(c.box.Config.Admin.Socket).Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the doctor took %s", took)
	}
	ignored := []string{"clock", "disk"} // of the machine that tests run on
	for _, f := range d.Findings {
		if (f.Key != "" || f.Level == "failed") && !slices.Contains(ignored, f.Check) {
			t.Errorf("%s: %s %s %s", f.Check, f.Level, f.Key, f.Text)
		}
	}
}

// The site's DHCP server says to boot clients what hurts a boot from us.
func TestDoctorOtherDHCP(t *testing.T) {
	c := newClinic(t)
	c.dnsmasq("192.168.77.254/24", "--dhcp-range=192.168.77.50,192.168.77.99,1h", "--dhcp-option-force=60,PXEClient",
		"--dhcp-match=set:bios,option:client-arch,0", "--dhcp-option-force=tag:bios,43,06:01:08", "--dhcp-boot=pxelinux.0,,192.168.77.9")
	c.host("192.168.77.9/24")
	c.open("proxy", "")
	c.expect("other DHCP", "foreign-option60", "foreign-option43", "foreign-bootfile", "wrong-next-server")
	for _, f := range c.ask("other DHCP") {
		for key, words := range map[string]string{"foreign-option60": "UEFI firmware then asks port 4011", "wrong-next-server": "TFTP there does not answer",
			"foreign-option43": "PXE BIOS", "foreign-bootfile": `"pxelinux.0"`} {
			if f.Key == key && !strings.Contains(f.Text, words) {
				t.Errorf("%s does not say %q: %s", key, words, f.Text)
			}
		}
	}
	if leases := c.box.dhcp.Leases(); len(leases) != 0 {
		t.Errorf("leases %v", leases)
	}
}

// A server that only gives addresses hurts nobody, and a probe costs it no lease.
func TestDoctorHarmlessDHCP(t *testing.T) {
	c := newClinic(t)
	c.dnsmasq("192.168.77.254/24", "--dhcp-range=192.168.77.50,192.168.77.99,1h")
	c.open("proxy", "")
	c.expect("other DHCP")
	if text, err := os.ReadFile(c.leases); err != nil || len(text) != 0 {
		t.Errorf("the probe took a lease: %s, %v", text, err)
	}
}

func TestDoctorNoAddressServer(t *testing.T) {
	c := newClinic(t)
	c.open("proxy", "")
	c.expect("other DHCP", "no-address-server")
}

// noOrders is a box that leaves all machines to their own disks.
type noOrders struct{}

func (noOrders) Decide(boot.Client) (boot.Decision, error) {
	return boot.Decision{}, &boot.Refusal{Reason: "nobody ordered anything", Local: true}
}

func (noOrders) Record(boot.Event) {}

// firstBox is another rescuebox, whose address is lower than ours, so that it serves.
func (c *clinic) firstBox() *dhcp.Server {
	c.t.Helper()
	remove, err := c.lan.Port("srv2", "192.168.76.2/23")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(remove)
	first := &dhcp.Server{Interface: "srv2", Address: netip.MustParsePrefix("192.168.76.2/23"), Boot: noOrders{}, Mode: dhcp.Auto,
		Range: dhcp.Range{First: netip.MustParseAddr("192.168.77.200"), Last: netip.MustParseAddr("192.168.77.220")}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = first.Run(ctx, func() {}) })
	c.t.Cleanup(wg.Wait)
	c.t.Cleanup(cancel)
	eventually(c.t, "the first box serves", func() bool { return first.Status().Mode == dhcp.Full })
	return first
}

// Of two boxes one serves: to the other nothing is wrong, and no boot lacks an address for it.
func TestDoctorOfTheSecondBox(t *testing.T) {
	c := newClinic(t)
	first := c.firstBox()
	c.open("auto", "")
	eventually(t, "the second box does not", func() bool { return c.box.dhcp.Status().Mode == dhcp.Proxy })
	c.expect("other DHCP")
	if text := c.ask("other DHCP")[0].Text; !strings.Contains(text, "another rescuebox") {
		t.Errorf("the doctor does not name the other box: %s", text)
	}
	if l := c.box.lan(t.Context()); len(l.Servers) != 1 || l.Servers[0].Addr != first.Address.Addr() || l.Servers[0].Proxy {
		t.Errorf("who gives addresses: %+v", l.Servers)
	}
}

// Two servers give addresses, the other one from another network.
func TestDoctorTwoServers(t *testing.T) {
	c := newClinic(t)
	c.dnsmasq("10.66.0.1/16", "--dhcp-range=10.66.0.50,10.66.0.99,1h")
	c.open("full", "")
	c.expect("other DHCP", "two-dhcp-servers", "foreign-subnet")
}

// A proxyDHCP server beside us, such as FOG's.
func TestDoctorOtherProxy(t *testing.T) {
	c := newClinic(t)
	c.dnsmasq("192.168.77.254/24", "--dhcp-range=192.168.77.0,proxy", "--pxe-service=x86PC,fog,undionly", "--pxe-service=X86-64_EFI,fog,snponly")
	c.open("full", "")
	eventually(t, "the other one is found", func() bool { return slices.Contains(keysOf(c.ask("other DHCP")), "other-proxydhcp") })
}

// Other hosts have our address, and one of the pool.
func TestDoctorDuplicates(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	c.expect("addresses")
	c.host("192.168.77.1/24")
	c.expect("addresses", "address-duplicate")
	c.host("192.168.77.150/24")
	c.expect("addresses", "address-duplicate", "pool-address-in-use")
}

// Other programs have the ports that machines boot through.
func TestDoctorPorts(t *testing.T) {
	need(t, "socat", "socat")
	c := newClinic(t)
	spawn(t, "socat", "UDP4-RECVFROM:69,fork", "OPEN:/dev/null")
	spawn(t, "socat", "TCP4-LISTEN:80,fork", "OPEN:/dev/null")
	eventually(t, "socat listens", func() bool {
		udp, _ := socketsOn(port{"udp", 69, ""}, c.self())
		tcp, _ := socketsOn(port{"tcp", 80, ""}, c.self())
		return len(udp) > 0 && len(tcp) > 0
	})
	c.open("full", "")
	c.expect("ports", "port-taken")
	for _, f := range c.ask("ports") {
		if !strings.Contains(f.Text, "belongs to socat (process ") {
			t.Errorf("does not name who has it: %s", f.Text)
		}
	}
	c.reports("parts", "part-failed")
	if n := len(c.ask("ports")); n != 2 {
		t.Errorf("%d findings, want one for each port", n)
	}
}

func (c *clinic) self() netip.Addr { return netip.MustParseAddr("192.168.77.1") }

// A part that does not run has no port, although nobody took it.
func TestDoctorPortClosed(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	c.expect("ports")
	c.box.Config.TFTP.Port = 6969
	c.expect("ports", "port-closed")
}

// The packet filter drops what machines send: by a rule, by its policy, and
// in a way that our reading of the rules cannot see.
func TestDoctorFirewall(t *testing.T) {
	need(t, "nft", "nftables")
	c := newClinic(t)
	c.open("full", "")
	c.expect("firewall")
	for name, test := range map[string]struct {
		rules string
		want  []string
	}{
		"a rule for TFTP":         {"chain in { type filter hook input priority 0; iifname \"srv\" udp dport 69 drop; }", []string{"UDP port 69"}},
		"a policy":                {"chain in { type filter hook input priority 0; policy drop; iif lo accept; ct state established accept; iifname \"s*\" udp dport { 67, 4011 } accept; }", []string{"UDP port 69", "TCP port 80"}},
		"one that lets all in":    {"chain in { type filter hook input priority 0; policy drop; ct state vmap { invalid : drop, new : jump fresh }; }; chain fresh { udp dport { 60-70, 4011 } accept; ip saddr 192.168.77.0/24 tcp dport 80 accept; }", nil},
		"for other interfaces":    {"chain in { type filter hook input priority 0; iifname != \"srv\" drop; }", nil},
		"only the kernel can say": {"chain in { type filter hook input priority 0; udp dport 67 meta length > 100 drop; }", []string{"UDP port 67"}},
		"at the interface":        {"chain in { type filter hook prerouting priority -300; udp dport { 67, 69 } ip daddr { 255.255.255.255, 192.168.77.1 } drop; }", []string{"UDP port 67", "UDP port 69"}},
	} {
		file := filepath.Join(t.TempDir(), "rules")
		rules := strings.ReplaceAll(strings.ReplaceAll(test.rules, ";", "\n"), "{ type", "{\n type")
		parts := strings.Split(rules, "chain fresh")
		if len(parts) == 2 { // a chain stands before who jumps to it
			rules = "chain fresh" + parts[1] + "\n" + parts[0]
		}
		if err := os.WriteFile(file, []byte("flush ruleset\ntable inet clinic {\n"+rules+"\n}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, "nft", "-f", file)
		eventually(t, fmt.Sprintf("%s drops %q", name, test.want), func() bool {
			got := c.portsIn("firewall", "firewall-drops")
			if !slices.Equal(got, test.want) {
				t.Logf("%s: drops %q, want %q", name, got, test.want)
			}
			return slices.Equal(got, test.want)
		})
	}
	run(t, "nft", "flush", "ruleset")
}

// portsIn are the ports that a check's findings of a key name.
func (c *clinic) portsIn(check, key string) (list []string) {
	c.t.Helper()
	for _, f := range c.ask(check) {
		for _, p := range c.box.ports() {
			if f.Key == key && strings.Contains(f.Text, p.String()) {
				list = append(list, p.String())
			}
		}
	}
	return list
}

// A host behind a link with a smaller MTU answers small packets only.
func TestDoctorMTU(t *testing.T) {
	c := newClinic(t)
	h := c.dnsmasq("192.168.77.254/24", "--dhcp-range=192.168.77.50,192.168.77.99,1h")
	c.open("proxy", "")
	c.ask("other DHCP") // so that the server is known
	c.expect("mtu")
	run(t, h.Command("ip", "link", "set", "eth0", "mtu", "1400")...)
	c.expect("mtu", "full-frames-lost")
	run(t, "ip", "link", "set", "srv", "mtu", "1400")
	c.expect("interface", "small-mtu")
}

// The interface itself: gone, down, without its address, without a cable.
func TestDoctorInterface(t *testing.T) {
	c := newClinic(t)
	c.open("off", "")
	c.expect("interface")
	run(t, "ip", "addr", "del", "192.168.77.1/24", "dev", "srv")
	c.expect("interface", "address-missing")
	run(t, "ip", "addr", "add", "192.168.77.1/24", "dev", "srv")
	run(t, "ip", "link", "set", "srv", "down")
	c.expect("interface", "interface-down")
	run(t, "ip", "link", "del", "srv")
	c.expect("interface", "interface-missing")
	run(t, "ip", "link", "add", "srv", "type", "veth", "peer", "name", "far0") // and its far end stays down
	run(t, "ip", "addr", "add", "192.168.77.1/24", "dev", "srv")
	run(t, "ip", "link", "set", "srv", "up")
	c.expect("interface", "no-carrier")
}

// The link goes down and up, and the switch speaks old spanning tree.
func TestDoctorLink(t *testing.T) {
	if os.Getenv(inside) == "" {
		skip(t, "needs root for network namespaces")
	}
	need(t, "ip", "iproute2")
	ns := fmt.Sprintf("doctor-%d", os.Getpid())
	run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
	run(t, "ip", "-n", ns, "link", "add", "lan", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	run(t, "ip", "-n", ns, "link", "set", "lan", "up")
	lan, err := boottest.OpenLAN(filepath.Join("/run/netns", ns), "lan")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lan.Close)
	c := plug(t, lan)
	c.open("off", "")
	c.expect("link")
	for range manyFlaps {
		run(t, "ip", "link", "set", "srv", "down")
		run(t, "ip", "link", "set", "srv", "up")
	}
	c.expect("link", "link-flaps")
	run(t, "ip", "-n", ns, "link", "set", "lan", "type", "bridge", "forward_delay", "1500")
	run(t, "ip", "-n", ns, "link", "set", "lan", "type", "bridge", "stp_state", "1")
	c.expect("link", "link-flaps", "spanning-tree")
}

// A TAP device can be told to run at half duplex.
func TestDoctorHalfDuplex(t *testing.T) {
	c := newClinic(t)
	need(t, "ethtool", "ethtool")
	c.open("off", "")
	run(t, "ip", "link", "del", "srv")
	run(t, "ip", "tuntap", "add", "srv", "mode", "tap")
	t.Cleanup(func() { run(t, "ip", "link", "del", "srv") })
	run(t, "ip", "link", "set", "srv", "up")
	run(t, "ethtool", "-s", "srv", "speed", "10", "duplex", "half", "autoneg", "off")
	if found := keysOf(c.ask("link")); !slices.Contains(found, "half-duplex") {
		t.Errorf("keys %q", found)
	}
}

// The box's own bridge keeps ports shut.
func TestDoctorOwnBridge(t *testing.T) {
	c := newClinic(t)
	c.open("off", "")
	run(t, "ip", "link", "del", "srv")
	run(t, "ip", "link", "add", "srv", "type", "bridge", "stp_state", "1", "forward_delay", "1500")
	run(t, "ip", "link", "set", "srv", "up")
	if found := keysOf(c.ask("link")); !slices.Contains(found, "bridge-delay") {
		t.Errorf("keys %q", found)
	}
}

// The way to the machines leads elsewhere; strict, the kernel drops what they send.
func TestDoctorRouting(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	c.expect("routing")
	run(t, "ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1")
	t.Cleanup(func() { run(t, "ip", "link", "del", "other0") })
	run(t, "ip", "addr", "add", "172.16.5.1/24", "dev", "other0")
	run(t, "ip", "link", "set", "other0", "up")
	run(t, "ip", "link", "set", "other1", "up")
	run(t, "ip", "route", "add", "192.168.77.128/25", "dev", "other0")
	c.strict("0")
	c.expect("routing", "route-elsewhere")
	c.strict("1")
	c.expect("routing", "rp-filter")
}

func (c *clinic) strict(level string) {
	c.t.Helper()
	for _, dir := range []string{"all", "srv"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+dir+"/rp_filter", []byte(level), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
}

// What is stored comes from the future: the clock of the box is behind.
func TestDoctorClock(t *testing.T) {
	c := newClinic(t)
	c.open("off", "")
	if found := keysOf(c.ask("clock")); slices.Contains(found, "clock-behind") {
		t.Errorf("of a sound clock: %q", found)
	}
	c.box.table.Record(boot.Event{})
	then := time.Now().Add(24 * time.Hour)
	orders := state.NewTable[boot.Order](c.box.db, "orders", state.Durable)
	if err := orders.Put("1", boot.Order{ID: "1", Machine: "srv01", Image: "rescue", State: boot.Done, Created: then, Expires: then, Ended: then}); err != nil {
		t.Fatal(err)
	}
	c.box.table = c.box.bootTable() // as after a restart
	c.expect("clock", "clock-behind")
}

// The pool is used up, or somebody sits in it.
func TestDoctorPool(t *testing.T) {
	c := newClinic(t)
	need(t, "busybox", "busybox")
	c.open("full", "")
	c.expect("pool")
	c.host("192.168.77.100/24")
	h := c.host("")
	spawn(t, h.Command("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-s", "/bin/true")...)
	c.expect("pool", "pool-conflicts")
}

func TestDoctorKeys(t *testing.T) {
	c := newClinic(t)
	c.open("off", "")
	c.expect("ssh keys")
	c.box.Config.Rescue.SSHKeys = nil
	c.expect("ssh keys", "no-ssh-key")
	c.expect("boot set")
	file := filepath.Join(c.box.library.Dir, "ipxe", "snponly.efi")
	if err := os.WriteFile(file, []byte("MZ other"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.expect("boot set", "bootset-damaged")
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	c.expect("boot set", "bootset-missing")
	c.add(images.Image{Name: "ipxe", Kind: images.BootSet}, map[string][]byte{"undionly.kpxe": mute})
	c.expect("boot set")
	if err := os.RemoveAll(filepath.Join(c.box.library.Dir, "shim")); err != nil {
		t.Fatal(err)
	}
	c.expect("boot set", "bootset-missing") // what Secure Boot needs
}

// A daemon that may not see the other processes still names their user.
func TestParseSocket(t *testing.T) {
	for line, want := range map[string]string{
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode": "",
		" 3: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 4242 2 0 0":         "0.0.0.0:67 4242",
		" 3: 014DA8C0:0045 00000000:0000 07 00000000:00000000 00:00000000 00000000 7 0 4243 2 0 0":         "192.168.77.1:69 4243",
		" 3: 014DA8C0:00:45 x y z 1 2 3 4 5 6":                                                             "",
		"":                                                                                                 "",
	} {
		s, at, ok := parseSocket("udp", line)
		if got := fmt.Sprint(at, " ", s.inode); ok && got != want || !ok && want != "" {
			t.Errorf("%q: %q, %v", line, got, ok)
		}
	}
	if s := (socket{inode: "0", uid: "0"}); s.owner() != "a process of root" {
		t.Errorf("owner %q", s.owner())
	}
}
