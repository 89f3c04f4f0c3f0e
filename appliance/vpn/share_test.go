package vpn

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/link/linktest"
)

// lan is a rescue LAN with one machine, which has no route to anywhere else.
func (s *site) lan() *linktest.Place {
	s.t.Helper()
	run := func(args ...string) {
		s.t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	name := fmt.Sprintf("vpn-machine-%d", os.Getpid()) // the names are the whole system's
	run("ip", "netns", "add", name)
	s.t.Cleanup(func() { run("ip", "netns", "del", name) })
	run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", name)
	s.t.Cleanup(func() { run("ip", "link", "del", "lan0") })
	run("ip", "address", "add", "192.168.77.1/24", "dev", "lan0")
	run("ip", "link", "set", "lan0", "up")
	run("ip", "-n", name, "address", "add", "192.168.77.21/24", "dev", "eth0")
	run("ip", "-n", name, "link", "set", "eth0", "up")
	machine, err := linktest.OpenPlace("/run/netns/" + name)
	ok(s.t, err)
	return machine
}

// rules gives rules to nft.
func rules(t *testing.T, text string) {
	t.Helper()
	_, err := nft(text + "\n")
	ok(t, err)
}

// present is our table, or "".
func present(t *testing.T) string {
	t.Helper()
	if out, err := nft("list tables\n"); err != nil || !strings.Contains(out, filterName) {
		ok(t, err)
		return ""
	}
	out, _ := nft("list table " + filterTable + "\n") // it may just go
	return out
}

func forwarding(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
	ok(t, err)
	return strings.TrimSpace(string(b))
}

// Admins reach the machines of the shared LAN, which answer without a route of theirs;
// nothing else is forwarded, and nothing of it stays.
func TestShareLAN(t *testing.T) {
	lan := netip.MustParsePrefix("192.168.77.0/24")
	s := newSite(t, 1, func(c *Config) { c.ShareLAN, c.LANInterface = []netip.Prefix{lan}, "lan0" })
	machine := s.lan()
	ok(t, s.hubs[0].Share(s.tunnel.keys.public.String(), lan))
	s.start()
	eventuallyPing := func(from *linktest.Place, to string, more ...string) bool {
		return from.Command("ping", append([]string{"-c", "1", "-w", "20", to}, more...)...).Run() == nil
	}
	s.reached(handshakeTime)
	if out, err := s.hubs[0].Command("ip", "route", "replace", lan.String(), "dev", "hub0").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !eventuallyPing(s.hubs[0].Place, "192.168.77.21") {
		out, _ := exec.Command("nft", "list", "ruleset").Output()
		t.Errorf("the admin does not reach the machine\n%s\n%+v", out, s.tunnel.Status())
	}
	// The machine is hostile: it gets no further than the box, even if it has a route.
	if out, err := machine.Command("ip", "route", "add", "default", "via", "192.168.77.1").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, to := range []string{linktest.HubInner, "192.168.1.1"} {
		if machine.Command("ping", "-c", "1", "-W", "1", to).Run() == nil {
			t.Errorf("the machine reaches %s", to)
		}
	}
	// Nor does an admin get any further.
	if out, err := s.hubs[0].Command("ip", "route", "replace", "192.168.1.1/32", "dev", "hub0").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if s.hubs[0].Command("ping", "-c", "1", "-W", "1", "192.168.1.1").Run() == nil {
		t.Error("the admin reaches the branch's router through the box")
	}
	if got := forwarding(t, "ip_forward"); got != "0" {
		t.Errorf("ip_forward of the host is %s", got)
	}
	if !strings.Contains(s.tunnel.Peer(), "10.99.0.2/32, 192.168.77.0/24") {
		t.Errorf("the hub is not told of the LAN:\n%s", s.tunnel.Peer())
	}
	// Somebody restarts nftables, flushes our table, or opens it: it is as it was at once.
	whole := present(t)
	for _, cmd := range []string{"flush ruleset", "flush table " + filterTable, "insert rule " + filterTable + " forward accept"} {
		began := time.Now()
		rules(t, cmd)
		eventually(t, 30*time.Second, "the filter after "+cmd, func() bool { return present(t) == whole })
		took := time.Since(began)
		if t.Logf("the filter was back %v after %s", took, cmd); took > rightEvery/2 {
			t.Error("that is too late")
		}
	}
	if !eventuallyPing(s.hubs[0].Place, "192.168.77.21") {
		t.Error("the admin does not reach the machine after a flush")
	}
	s.stop()
	if got := forwarding(t, "conf/lan0/forwarding"); got != "0" {
		t.Errorf("the LAN's forwarding is still %s", got)
	}
	if present(t) != "" {
		t.Error("the table is still there")
	}
}

// On a host that forwards all, a site's router for one, only what is shared opens the tunnel: neither a LAN that is not
// there yet nor one that is not shared lets admins go elsewhere.
func TestHostForwards(t *testing.T) {
	lan := netip.MustParsePrefix("192.168.77.0/24")
	for name, change := range map[string]func(*Config){
		"the LAN is missing": func(c *Config) { c.ShareLAN, c.LANInterface = []netip.Prefix{lan}, "lan0" },
		"nothing is shared":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 1, change)
			const all = "/proc/sys/net/ipv4/ip_forward"
			ok(t, os.WriteFile(all, []byte("1\n"), 0o644))
			t.Cleanup(func() { ok(t, os.WriteFile(all, []byte("0\n"), 0o644)) })
			// The branch's router knows the way back, and a machine of the LAN knows it by itself.
			ok(t, s.WAN.ISP.IP("route add 10.99.0.0/24 via 192.168.1.2"))
			ok(t, s.hubs[0].IP("route replace 192.168.1.1/32 dev hub0", "route replace 192.168.77.0/24 dev hub0"))
			for _, n := range []netip.Prefix{netip.MustParsePrefix("192.168.1.1/32"), lan} {
				ok(t, s.hubs[0].Share(s.tunnel.keys.public.String(), n))
			}
			s.start()
			s.reached(handshakeTime)
			if s.hubs[0].Command("ping", "-c", "1", "-W", "1", "192.168.1.1").Run() == nil {
				t.Error("the admin reaches the branch's router through the box")
			}
			if missing := strings.Contains(strings.Join(s.tunnel.Status().Notes, "\n"), "lan0"); missing != (change != nil) {
				t.Errorf("the notes are %q", s.tunnel.Status().Notes)
			}
			s.lan()
			tell(s.tunnel.wake)
			patience := map[bool]string{true: "20", false: "3"}[change != nil]
			if got := s.hubs[0].Command("ping", "-c", "1", "-w", patience, "192.168.77.21").Run() == nil; got != (change != nil) {
				t.Errorf("that the admin reaches the LAN, which has come, is %v", got)
			}
			// Without a packet filter nothing is let through at all.
			withoutNFT(t, "delete table "+filterTable)
			eventually(t, 30*time.Second, "that there is no packet filter is said", func() bool {
				return strings.Contains(strings.Join(s.tunnel.Status().Notes, "\n"), "packet filter")
			})
			if s.hubs[0].Command("ping", "-c", "1", "-W", "1", "192.168.1.1").Run() == nil {
				t.Error("the admin reaches the branch's router where no packet filter can be had")
			}
			eventually(t, 30*time.Second, "the test itself: without all of it the router is reached", func() bool {
				ok(t, forward("rescuevpn", true))
				return s.hubs[0].Command("ping", "-c", "1", "-W", "1", "192.168.1.1").Run() == nil
			})
		})
	}
}

// withoutNFT takes the program nft away until the end of the test, after a last command.
func withoutNFT(t *testing.T, last string) {
	t.Helper()
	nft, err := exec.LookPath("nft")
	ok(t, err)
	dir := t.TempDir()
	for _, name := range []string{"nsenter", "ping"} {
		path, err := exec.LookPath(name)
		ok(t, err)
		ok(t, os.Symlink(path, filepath.Join(dir, name)))
	}
	t.Setenv("PATH", dir)
	if out, err := exec.Command(nft, last).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// A daemon that was killed left the LAN's forwarding on; the next one knows that it was not
// the site's.
func TestShareAfterCrash(t *testing.T) {
	s := newSite(t, 1, func(c *Config) {
		c.ShareLAN, c.LANInterface = []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24")}, "lan0"
	})
	s.lan()
	left := filter{Interface: "rescuevpn", LAN: "lan0", Share: s.tunnel.cfg.ShareLAN, MSS4: 1240, MSS6: 1220, WasOff: true}
	rules(t, left.text())
	ok(t, forward("lan0", true))
	s.start()
	s.stop()
	if got := forwarding(t, "conf/lan0/forwarding"); got != "0" {
		t.Errorf("the LAN's forwarding is still %s", got)
	}
	// Where it was on before, it stays.
	ok(t, forward("lan0", true))
	s.start()
	s.stop()
	if got := forwarding(t, "conf/lan0/forwarding"); got != "1" {
		t.Errorf("the site's forwarding is now %s", got)
	}
}

// The rules are such that nft takes them, whatever is shared.
func TestFilterText(t *testing.T) {
	linktest.Need(t, "nft", "nftables")
	for name, f := range map[string]filter{
		"nothing":   {},
		"shared":    {LAN: "eth1", Share: []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24"), netip.MustParsePrefix("10.1.0.0/16")}},
		"all of it": {LAN: "eth1", Share: []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24")}, WasOff: true},
	} {
		t.Run(name, func(t *testing.T) {
			f.Interface, f.MSS4, f.MSS6 = "rescuevpn", 1240, 1220
			cmd := exec.CommandContext(context.Background(), "nft", "--check", "-f", "-")
			cmd.Stdin = strings.NewReader(f.text())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s\n%s", err, out, f.text())
			}
		})
	}
}
