package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"rescuebox/appliance/link/linktest"
)

// adminsRules is what somebody else has in the kernel: nothing of it may change.
func adminsRules(t *testing.T) string {
	t.Helper()
	return output("ip", "rule", "show") + output("ip", "route", "show", "table", "all") + output("ip", "-6", "rule", "show") + output("nft", "list", "ruleset")
}

// While the watch runs, each uplink has its table and rules; after it, all is as before, and what a crash
// left is put right by the next start.
func TestRoutes(t *testing.T) {
	w := linktest.New(t)
	for _, cmd := range []string{"ip rule add from 10.64.0.2 pref 7115 table 7050 protocol static", "ip route add 10.1.0.0/16 via 192.168.1.7 dev wan0 table 7050",
		"ip route add 10.2.0.0/16 via 192.168.1.8 dev wan0", "ip route add default via 192.168.1.9 dev wan0 table 7150"} {
		if out := output(strings.Fields(cmd)...); out != "" {
			t.Fatal(out)
		}
	}
	t.Cleanup(func() { exec.Command("ip", "rule", "del", "pref", "7115").Run() })
	before := adminsRules(t)
	watch := func() *Watch {
		x, err := New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}}})
		must(t, err)
		return x
	}
	b := &box{World: w, t: t}
	b.watch = watch()
	stop := b.run("watch", b.watch.Run)
	rule := func(want string) func(Status) bool {
		return func(Status) bool { return strings.Contains(output("ip", "rule", "show"), want) }
	}
	b.until("rules", rule("from all oif lte0 lookup 7101 proto 114"))
	if got := output("ip", "route", "show", "table", "7101"); !strings.HasPrefix(got, "default via 10.64.0.1 dev lte0 proto 114 onlink") {
		t.Errorf("table 7101: %s", got)
	}
	if got := output("ip", "rule", "show"); strings.Contains(got, "iif lo") {
		t.Errorf("the box's own traffic is led although the first uplink works:\n%s", got)
	}
	// The admin's own route of the device stays in force for what is bound to it.
	if got := output("ip", "route", "get", "10.2.3.4", "oif", "wan0"); !strings.Contains(got, "via 192.168.1.8") {
		t.Errorf("a route of the admin's is passed over: %s", got)
	}
	must(t, w.Deafen("wan"))
	b.until("lte is active", func(s Status) bool { return s.Active == "lte" })
	b.until("the box's own traffic follows", rule("7121:\tfrom all iif lo lookup 7101"))
	if got := output("ip", "route", "get", "198.18.0.1"); !strings.Contains(got, "via 10.64.0.1 dev lte0") {
		t.Errorf("the box's own traffic goes by %s", got)
	}
	if got := output("ip", "route", "get", "10.2.3.4"); !strings.Contains(got, "via 192.168.1.8 dev wan0") {
		t.Errorf("what the admin routed goes by %s", got)
	}
	stop()
	if after := adminsRules(t); after != before {
		t.Errorf("after the end:\n%s\nbefore the start:\n%s", after, before)
	}

	// A crash left these.
	for _, cmd := range []string{"ip rule add oif gone0 pref 7100 table 7107 protocol 114", "ip route add default via 192.168.1.77 dev wan0 table 7107 proto 114",
		"ip route add default via 10.64.0.99 dev lte0 onlink table 7101 proto 114", "ip -6 rule add from fd00::1 pref 7110 table 7101 protocol 114"} {
		if out := output(strings.Fields(cmd)...); out != "" {
			t.Fatal(out)
		}
	}
	run(t, "nft", "table inet rescuebox_link { chain input { type filter hook input priority 0; drop; }; }")
	must(t, w.Mend("wan"))
	b.watch = watch()
	stop = b.run("watch", b.watch.Run)
	b.until("rules", rule("from all oif lte0 lookup 7101 proto 114"))
	b.until("leftovers are gone", func(Status) bool {
		all := output("ip", "rule", "show") + output("ip", "-6", "rule", "show") + output("ip", "route", "show", "table", "all")
		return !strings.Contains(all, "7107") && !strings.Contains(all, "fd00::1") && !strings.Contains(all, "10.64.0.99")
	})
	stop()
	if after := adminsRules(t); after != before {
		t.Errorf("after the second end:\n%s\nbefore the start:\n%s", after, before)
	}
}

// What somebody takes away of ours comes back by the kernel's news of it, and not with the next look at everything: of
// those there is one in all the time that this test may take. Whoever takes it away again and again has it back twice a
// second, and not as fast as both can.
func TestTakenAway(t *testing.T) {
	w := linktest.New(t)
	wanted, cmds := []string{"oif lte0 lookup 7101", "default via 10.64.0.1"}, []string{"ip rule flush", "ip route flush table 7101"}
	if len(families()) > 1 {
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/lte0/disable_ipv6", []byte("0"), 0o644))
		run(t, "ip", "address", "add", "2001:db8:2::2/64", "dev", "lte0", "nodad")
		run(t, "ip", "-6", "route", "add", "default", "via", "2001:db8:2::1", "dev", "lte0")
		wanted = append(wanted, "from 2001:db8:2::2 lookup 7101", "default via 2001:db8:2::1")
		cmds = append(cmds, "ip -6 rule flush", "ip -6 route flush table 7101")
	}
	var err error
	b := &box{World: w, t: t}
	b.watch, err = New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}}})
	must(t, err)
	ours := func() (all string) {
		for _, family := range []string{"-4", "-6"} {
			all += output("ip", family, "rule", "show") + output("ip", family, "route", "show", "table", "7100") + output("ip", family, "route", "show", "table", "7101")
		}
		return all
	}
	t.Cleanup(func() { // what a flush takes of others'
		for _, family := range []string{"-4", "-6"} {
			for pref, table := range map[string]string{"32766": "main", "32767": "default"} {
				exec.Command("ip", family, "rule", "add", "pref", pref, "table", table).Run()
			}
		}
	})
	b.run("watch", b.watch.Run)
	b.until("rules", func(Status) bool {
		return !slices.ContainsFunc(wanted, func(s string) bool { return !strings.Contains(ours(), s) })
	})
	began := time.Now()
	for _, cmd := range cmds {
		before := ours()
		run(t, strings.Fields(cmd)...)
		lost := strings.Contains(cmd, "rule")
		b.until("back after "+cmd, func(Status) bool {
			now := ours()
			for line := range strings.Lines(before) { // main's and default's stay away
				if !strings.Contains(now, line) && (!lost || strings.Contains(line, "proto 114")) {
					return false
				}
			}
			return true
		})
	}
	if took := time.Since(began); took > putRight-5*time.Second {
		t.Errorf("all was back after %v", took)
	}

	began = time.Now()
	times := 0
	for times < 6 {
		if time.Since(began) > 60*time.Second {
			t.Fatalf("back %d times in a minute", times)
		}
		if exec.Command("ip", "rule", "del", "oif", "lte0", "table", "7101").Run() == nil {
			times++
		}
		time.Sleep(5 * time.Millisecond)
	}
	if took := time.Since(began); took < 4*respite || took > putRight-5*time.Second {
		t.Errorf("back 5 times in %v", took)
	}
}

// A bound socket reaches the Internet by each uplink, even where the kernel's reverse path filter is
// strict and main's default route leads elsewhere.
func TestReversePath(t *testing.T) {
	w := linktest.New(t)
	w.Hub(t)
	strictly := func(value string) {
		for _, of := range []string{"all", "default", "wan0", "lte0"} {
			must(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/rp_filter", []byte(value), 0o644))
		}
	}
	strictly("1")
	t.Cleanup(func() { strictly("0") })
	hub := netip.MustParseAddr("192.0.2.1")
	ask := func(patience time.Duration) error {
		return within(patience, func(ctx context.Context) error { return ping(ctx, "lte0", hub) })
	}
	if err := ask(2 * time.Second); err == nil {
		t.Fatal("without our rules an answer came in: the test proves nothing")
	}
	b := &box{World: w, t: t}
	var err error
	b.watch, err = New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}}, Hubs: func() []netip.Addr { return []netip.Addr{hub} }})
	must(t, err)
	stop := b.run("watch", b.watch.Run)
	b.until("both uplinks are alive", func(s Status) bool { return s.Uplinks[0].Health == Alive && s.Uplinks[1].Health == Alive })
	if err := ask(20 * time.Second); err != nil {
		t.Error(err)
	}
	if s := b.watch.Status(); len(s.Trouble) > 0 {
		t.Errorf("trouble: %q", s.Trouble)
	}
	stop()
	// A rule of the admin's that comes before ours leads the answers' check elsewhere: that is said.
	run(t, "ip", "rule", "add", "from", "10.64.0.2", "pref", "50", "table", "main")
	defer run(t, "ip", "rule", "del", "pref", "50")
	b.watch, err = New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}}})
	must(t, err)
	b.run("watch", b.watch.Run)
	b.until("trouble is said", func(s Status) bool {
		return slices.ContainsFunc(s.Trouble, func(s string) bool { return strings.Contains(s, "rp_filter is strict") })
	})
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Each kind of probe against the hub's side, by each uplink, and with the uplink dead.
func TestProbes(t *testing.T) {
	w := linktest.New(t)
	w.Hub(t)
	b := &box{World: w, t: t}
	var err error
	b.watch, err = New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}}})
	must(t, err)
	b.run("watch", b.watch.Run)
	b.until("rules", func(Status) bool { return strings.Contains(output("ip", "rule", "show"), "lookup 7101") })
	ask := func(device string, p Probe) error {
		n := &names{}
		n.servers([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
		return within(20*time.Second, func(ctx context.Context) error { return path{device: device, v4: true, names: n}.ask(ctx, p) })
	}
	probes := []Probe{{Kind: ICMP, Host: "192.0.2.1"}, {Kind: DNS, Host: "192.0.2.1"}, {Kind: TCP, Host: "192.0.2.1", Port: 80},
		{Kind: TCP, Host: "192.0.2.1", Port: 81}, {Kind: HTTP, Host: "192.0.2.1", Path: "/generate_204"}, {Kind: HTTP, Host: "hub.example", Path: "/"}, {Kind: ICMP, Host: "hub.example"}}
	for _, p := range probes {
		for _, device := range []string{"wan0", "lte0"} {
			if err := ask(device, p); err != nil {
				t.Errorf("%s by %s: %v", p, device, err)
			}
		}
	}
	if err := ask("wan0", Probe{Kind: ICMP, Host: "nobody.example"}); err == nil {
		t.Error("a name that nobody has was asked")
	}
	must(t, w.Silence("lte"))
	for _, p := range probes[:5] {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		err := path{device: "lte0", v4: true, names: &names{}}.ask(ctx, p)
		cancel()
		if !errors.Is(err, errSilent) {
			t.Errorf("%s by a dead uplink: %v", p, err)
		}
	}
	if err := ask("wan0", probes[0]); err != nil {
		t.Errorf("the other uplink: %v", err)
	}
}

// On the metered uplink nothing comes in that nobody asked for; the wire is none of our business.
func TestFilter(t *testing.T) {
	w := linktest.New(t)
	w.Hub(t)
	b := &box{World: w, t: t}
	var err error
	b.watch, err = New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0"}, {Name: "lte", Device: "lte0", Metered: true}}, Ports: func() []int { return []int{51820} }})
	must(t, err)
	b.run("watch", b.watch.Run)
	b.until("the filter", func(Status) bool {
		return strings.Contains(output("nft", "list", "table", "inet", filterTable), `"lte0"`)
	})
	reaches := func(isp *linktest.Place, address, patience string) bool {
		return isp.Command("ping", "-c", "1", "-W", patience, address).Run() == nil
	}
	if !reaches(w.WAN.ISP, "192.168.1.2", "20") {
		t.Error("the wire is closed")
	}
	if reaches(w.LTE.ISP, "10.64.0.2", "1") {
		t.Error("LTE is open")
	}
	for port, open := range map[int]bool{51820: true, 51821: false} {
		patience := map[bool]time.Duration{true: 20 * time.Second, false: time.Second}[open]
		if got := hears(t, w.LTE.ISP, port, patience); got != open {
			t.Errorf("by LTE something comes in at port %d: %v", port, got)
		}
	}
	if err := exec.Command("ping", "-c", "1", "-W", "20", "-I", "lte0", "192.0.2.1").Run(); err != nil {
		t.Error("what the box asks by LTE is not answered:", err)
	}
	// Somebody flushes the ruleset, as a restart of nftables does, or our table, or opens it: it is put right at once, and
	// not with the next look at everything.
	whole := output("nft", "list", "table", "inet", filterTable)
	for _, cmd := range []string{"flush ruleset", "flush table inet rescuebox_link", "delete element inet rescuebox_link metered { lte0 }", "insert rule inet rescuebox_link input accept"} {
		began := time.Now()
		run(t, append([]string{"nft"}, strings.Fields(cmd)...)...)
		b.until("the filter is back after "+cmd, func(Status) bool { return output("nft", "list", "table", "inet", filterTable) == whole })
		took := time.Since(began)
		if t.Logf("the filter was back %v after %s", took, cmd); took > putRight/2 {
			t.Error("that is too late")
		}
	}
}

// A new metered device that nft did not take is taken soon, although the table of the old one is there.
func TestFilterAgain(t *testing.T) {
	linktest.New(t)
	troubles := make(chan []string, 100)
	p := newPlumber(Config{Uplinks: []Uplink{{Name: "wan", Metered: true}, {Name: "lte", Metered: true}}}, func(list []string) { troubles <- list })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx) }()
	t.Cleanup(func() { stop(); must(t, <-ended) })
	p.follow(plan{active: -1, paths: []sight{{device: "wan0"}, {}}}, nil)
	w, err := New(Config{})
	must(t, err)
	b := &box{t: t, watch: w}
	guards := func(device string) func(Status) bool {
		return func(Status) bool {
			return strings.Contains(output("nft", "list", "table", "inet", filterTable), `"`+device+`"`)
		}
	}
	b.until("wan0 is guarded", guards("wan0"))
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	p.follow(plan{active: -1, paths: []sight{{device: "wan0"}, {device: "lte0"}}}, nil)
	for said := false; !said; {
		said = slices.ContainsFunc(<-troubles, func(s string) bool { return strings.Contains(s, "nft is missing") })
	}
	must(t, os.Setenv("PATH", path))
	began := time.Now()
	b.until("lte0 is guarded", guards("lte0"))
	if took := time.Since(began); took > putRight/2 {
		t.Errorf("lte0 was guarded after %v", took)
	}
}

// hears reports whether what an isp sends to a port of the branch's LTE is heard there.
func hears(t *testing.T, isp *linktest.Place, port int, patience time.Duration) bool {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	must(t, err)
	defer c.Close()
	must(t, isp.Do(func() error {
		from, err := net.Dial("udp4", fmt.Sprintf("10.64.0.2:%d", port))
		if err != nil {
			return err
		}
		defer from.Close()
		_, err = from.Write([]byte("hello"))
		return err
	}))
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err = c.Read(make([]byte, 10))
	return err == nil
}

// Of a lost uplink the connections are forgotten, of the other one they stay.
func TestFlush(t *testing.T) {
	linktest.Need(t, "conntrack", "conntrack")
	linktest.New(t)
	run(t, "nft", `table inet track { chain out { type filter hook output priority 0; ct state new accept; }; }`)
	t.Cleanup(func() { exec.Command("nft", "delete", "table", "inet", "track").Run() })
	for n, src := range []string{"192.168.1.2", "10.64.0.2"} {
		port := fmt.Sprint(5000 + n)
		run(t, "conntrack", "-I", "-p", "udp", "-s", src, "-d", "198.18.0.1", "--sport", port, "--dport", "53", "-t", "600")
		// One that the box hides behind its address.
		run(t, "conntrack", "-I", "-p", "tcp", "-s", "192.168.77.9", "-d", "198.18.0.2", "--sport", port, "--dport", "22",
			"-q", src, "-r", "198.18.0.2", "--reply-port-src", "22", "--reply-port-dst", port, "-t", "600", "--state", "ESTABLISHED")
	}
	count := func() (wan, lte int) {
		list := output("conntrack", "-L")
		return strings.Count(list, "port=5000 dport"), strings.Count(list, "port=5001 dport")
	}
	if wan, lte := count(); wan != 2 || lte != 2 {
		t.Fatalf("%d and %d connections were made, want 2 and 2:\n%s", wan, lte, output("conntrack", "-L"))
	}
	must(t, flush([]netip.Prefix{netip.MustParsePrefix("192.168.1.2/24")}))
	if wan, lte := count(); wan != 0 || lte != 2 {
		t.Errorf("%d connections of the lost uplink and %d of the other are left, want 0 and 2:\n%s", wan, lte, output("conntrack", "-L"))
	}
	exec.Command("conntrack", "-F").Run()
}

// What the kernel's routes say of a device's router, whoever wrote them.
func TestLook(t *testing.T) {
	linktest.New(t)
	run(t, "ip", "route", "flush", "default")
	wan := Uplink{Name: "wan", Device: "wan0"}
	gateway := func(u Uplink, b BearerState, last sight) string {
		s := look(u, b, last)
		switch {
		case !s.routed():
			return s.why
		case s.v6.ok && !s.v4.ok:
			return s.v6.gateway.String()
		}
		return s.v4.gateway.String()
	}
	check := func(what, want, got string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	check("no route", "no default route", gateway(wan, BearerState{}, sight{}))
	run(t, "ip", "route", "add", "default", "via", "192.168.1.1", "dev", "wan0", "proto", "dhcp", "metric", "20100")
	before := look(wan, BearerState{}, sight{})
	check("networkd's", "192.168.1.1", gateway(wan, BearerState{}, sight{}))
	check("configured", "192.168.1.5", gateway(Uplink{Device: "wan0", Gateway: netip.MustParseAddr("192.168.1.5")}, BearerState{}, sight{}))
	run(t, "ip", "route", "flush", "default")
	check("route gone for a renewal", "192.168.1.1", gateway(wan, BearerState{}, before))
	check("bearer's", "192.168.1.6", gateway(wan, BearerState{Gateway: netip.MustParseAddr("192.168.1.6")}, sight{}))
	run(t, "ip", "route", "add", "default", "nexthop", "via", "192.168.1.1", "dev", "wan0", "nexthop", "via", "10.64.0.1", "dev", "lte0")
	check("multipath", "10.64.0.1", gateway(Uplink{Device: "lte0"}, BearerState{}, sight{}))
	run(t, "ip", "route", "flush", "default")
	run(t, "ip", "route", "add", "default", "dev", "wan0")
	check("without a router", "invalid IP", gateway(wan, BearerState{}, sight{}))
	run(t, "ip", "route", "flush", "default")
	run(t, "ip", "address", "flush", "dev", "wan0")
	check("no address", "has no address", gateway(wan, BearerState{}, before))
	run(t, "ip", "link", "set", "wan0", "down")
	check("down", "is down", look(wan, BearerState{}, sight{}).why)
	check("none", "no interface", look(Uplink{Device: "none0"}, BearerState{}, sight{}).why)
	check("bearer down", "no SIM", look(Uplink{}, BearerState{Err: errors.New("no SIM")}, sight{}).why)
}

// ppp0 and raw-IP devices have no router: the other end is all there is.
func TestPointToPoint(t *testing.T) {
	linktest.New(t)
	dev, err := tun.CreateTUN("ptp0", 1280)
	must(t, err)
	t.Cleanup(func() { dev.Close() })
	run(t, "ip", "address", "add", "10.9.9.9", "peer", "10.9.9.1", "dev", "ptp0")
	run(t, "ip", "address", "add", "2001:db8::9/128", "dev", "ptp0", "nodad")
	run(t, "ip", "link", "set", "ptp0", "up")
	s := look(Uplink{Device: "ptp0"}, BearerState{}, sight{})
	if !s.v4.ok || s.v4.gateway.IsValid() || !s.v6.ok || !s.carrier {
		t.Fatalf("%+v", s)
	}
	must(t, route(plan{paths: []sight{s}, active: 0}))
	t.Cleanup(func() { must(t, clearRoutes()) })
	if got := output("ip", "route", "get", "198.18.0.1", "oif", "ptp0"); !strings.Contains(got, "dev ptp0") || strings.Contains(got, "via") {
		t.Errorf("IPv4: %s", got)
	}
	if got := output("ip", "-6", "route", "get", "2001:db8:5::1", "from", "2001:db8::9"); !strings.Contains(got, "dev ptp0") {
		t.Errorf("IPv6: %s", got)
	}
}

// IPv6: a router's advertisement gave the route, probes go by address and name, and own traffic follows.
func TestIPv6(t *testing.T) {
	w := linktest.New(t)
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("the kernel has no IPv6")
	}
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/lte0/disable_ipv6", []byte("0"), 0o644))
	run(t, "ip", "address", "add", "2001:db8:2::2/64", "dev", "lte0", "nodad")
	both := look(Uplink{Device: "lte0"}, BearerState{Gateway: netip.MustParseAddr("10.64.0.7"), Gateway6: netip.MustParseAddr("fe80::1")}, sight{})
	if both.v4.gateway.String() != "10.64.0.7" || both.v6.gateway.String() != "fe80::1" {
		t.Errorf("a bearer of both families leaves by %v and %v", both.v4, both.v6)
	}
	if out, err := w.LTE.ISP.Command("sh", "-c", "for f in all default lan lo; do echo 0 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, w.LTE.ISP.IP("address add 2001:db8:2::1/64 dev lan nodad", "address add 2001:db8:99::1/128 dev lo nodad", "link set lo up"))
	run(t, "ip", "address", "flush", "dev", "lte0", "scope", "global", "to", "10.64.0.0/16")
	b := &box{World: w, t: t}
	var err error
	run(t, "ip", "-6", "route", "add", "default", "via", "2001:db8:2::1", "dev", "lte0", "proto", "ra", "metric", "1024")
	probe := []Probe{{Kind: ICMP, Host: "2001:db8:99::1"}, {Kind: TCP, Host: "2001:db8:99::1", Port: 9}}
	b.watch, err = New(Config{Uplinks: []Uplink{{Name: "lte", Device: "lte0", Metered: true, Probes: probe, Need: 2}}})
	must(t, err)
	stop := b.run("watch", b.watch.Run)
	b.until("lte is alive", func(s Status) bool { return s.Uplinks[0].Health == Alive })
	b.until("rules", func(Status) bool {
		return strings.Contains(output("ip", "-6", "rule", "show"), "from 2001:db8:2::2 lookup 7100") &&
			strings.Contains(output("ip", "-6", "route", "show", "table", "7100"), "default via 2001:db8:2::1 dev lte0")
	})
	must(t, w.LTE.ISP.IP("address del 2001:db8:99::1/128 dev lo"))
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := ping(ctx, "lte0", netip.MustParseAddr("2001:db8:99::1")); err == nil {
		t.Error("an address that is gone answers")
	}
	stop()
	if got := output("ip", "-6", "rule", "show") + output("ip", "-6", "route", "show", "table", "all"); strings.Contains(got, "71") && strings.Contains(got, "proto 114") {
		t.Errorf("left behind:\n%s", got)
	}
}

// An uplink that the kernel could not be asked for is not one that is not there.
func TestLookWithoutDescriptors(t *testing.T) {
	linktest.New(t)
	before := look(Uplink{Device: "wan0"}, BearerState{}, sight{})
	var usual unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &usual))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: usual.Max}))
	blind := look(Uplink{Device: "wan0"}, BearerState{}, before)
	_, err := leads()
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &usual))
	if !errors.Is(blind.err, unix.EMFILE) || !errors.Is(err, unix.EMFILE) || !before.carrier || before.err != nil {
		t.Errorf("seen without descriptors %+v, the default routes %v; with them %+v", blind, err, before)
	}
}
