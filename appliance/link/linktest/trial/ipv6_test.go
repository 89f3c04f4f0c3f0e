package trial

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/link/linktest"
	"rescuebox/appliance/modem/modemtest"
)

// What the operator's addresses are; its NAT64 is at nat64 (RFC 6052).
const (
	hubSix = "2001:db8:2::1"
	ispSix = "2001:db8:2::2"
	apnSix = "2001:db8:64::"
	nat64  = "2001:db8:64:ff9b::"
)

// An operator gives IPv6 only. A hub with an IPv6 address is reached by it, one without through the operator's
// NAT64; and where there is no way to the hub, the status says why.
func TestIPv6OnlyOperator(t *testing.T) {
	for _, c := range []struct {
		sixOnly
		from string // the hub hears the box
	}{
		{sixOnly{name: "hub with IPv6", hub: "[" + hubSix + "]:51820"}, "[" + ispSix + "]"},
		{sixOnly{name: "hub with IPv4 only, NAT64", nat64: true}, "198.51.100.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.start(t)
			time.Sleep(3 * time.Second) // the tunnel looks each second what an uplink has
			m.eventually("the VPN can go by lte", func() bool { return !strings.Contains(m.uplink("lte").Why, "the VPN cannot go by it") })
			r := m.meter(func() {
				linktest.Pass(time.Second)
				m.must(m.w.Silence("wan"))
				linktest.Pass(6 * time.Second)
			})
			g := r.Gap(r.Sent[0])
			if g.Never || g.Long() > 5*time.Second {
				t.Errorf("the gap is %v, never %v; the status: %+v", g.Long(), g.Never, m.link())
			}
			t.Logf("longest gap %v", g.Long())
			if text, err := m.h.Device(); err != nil || !strings.Contains(text, "endpoint="+c.from+":") {
				t.Errorf("%v: the hub hears the box not from %s:\n%s", err, c.from, text)
			}
			m.must(m.w.Mend("wan"))
			m.eventually("back on the wan", func() bool { way, err := m.h.Way(); return err == nil && way == "wan" })
		})
	}
	for _, c := range []sixOnly{
		{name: "WAN dead from the start", hub: "[" + hubSix + "]:51820", dead: true},
		{name: "WAN dead from the start, NAT64", nat64: true, dead: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			c.start(t)
			t.Logf("all of it started, and the VPN up by lte, in %v", time.Since(began).Round(10*time.Millisecond))
		})
	}
	t.Run("no way to the hub", func(t *testing.T) {
		m := sixOnly{}.start(t)
		m.eventually("lte says why the VPN cannot go by it", func() bool { return strings.Contains(m.uplink("lte").Why, "IPv6 only") })
		m.must(m.w.Silence("wan"))
		m.eventually("the VPN says why it is down", func() bool {
			v := m.link().VPN
			return !v.Up && strings.Contains(v.Why, "not reached by lte: it has IPv6 only")
		})
		m.must(m.w.Mend("wan"))
		if !m.reached(3 * patience) {
			t.Fatalf("the box is not back by wan: %+v", m.link())
		}
		m.eventually("the VPN is up again", func() bool { return m.link().VPN.Up })
	})
}

// sixOnly is a branch with a whole daemon and a modem whose operator gives IPv6 only, by router
// advertisements; its name server knows the way through its NAT64, if it has one.
type sixOnly struct {
	name  string
	hub   string // one more address of it
	nat64 bool
	dead  bool // the WAN
}

// start starts it, until the hub reaches the box and LTE is up.
func (c sixOnly) start(t *testing.T) *measurement {
	t.Helper()
	linktest.Need(t, "dnsmasq", "dnsmasq-base")
	m := &measurement{T: t, w: linktest.New(t)}
	m.h = m.w.Hub(t)
	m.w.Echo(t)
	isp := m.w.LTE.ISP
	m.in(m.w.Branch, "ip address flush dev lte0", "echo 0 >/proc/sys/net/ipv6/conf/lte0/disable_ipv6")
	m.in(isp, "ip address flush dev lan", "cd /proc/sys/net/ipv6/conf", "echo 0 >lan/disable_ipv6", "echo 0 >net0/disable_ipv6", "echo 1 >all/forwarding",
		"ip address add "+apnSix+"1/64 dev lan nodad", "ip address add "+ispSix+"/64 dev net0 nodad")
	m.in(m.h.Place, "echo 0 >/proc/sys/net/ipv6/conf/e2/disable_ipv6", "ip address add "+hubSix+"/64 dev e2 nodad")
	names := "--no-hosts"
	if c.nat64 {
		names = "--host-record=ipv4only.arpa,192.0.0.170," + nat64 + "c000:aa" // RFC 7050
		m.translate(isp)
	}
	m.start(isp, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--log-facility=-",
		"--bind-interfaces", "--interface=lan", "--except-interface=lo", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"),
		"--enable-ra", "--dhcp-range="+apnSix+",ra-only,64", "--dhcp-option=option6:dns-server,["+apnSix+"1]", names)
	if c.dead {
		m.must(m.w.Silence("wan"))
	}
	fake := modemtest.Start(t)
	m.startBoxOf(boxConfig{Kind: "daemon", Hub: m.h.Endpoint.String() + " " + c.hub,
		LTE: byModem(fake.Path, "data = \"netdev\"\ninterface = \"lte0\"")})
	t.Cleanup(m.box.stop)
	m.reach()
	m.eventually("lte is up", func() bool { return m.uplink("lte").State == "up" })
	return m
}

// translate is the operator's NAT64: tayga, whose pool of IPv4 addresses is behind the NAT that is there.
func (m *measurement) translate(isp *linktest.Place) {
	m.Helper()
	linktest.Need(m, "tayga", "tayga")
	file := filepath.Join(m.TempDir(), "tayga.conf")
	m.must(os.WriteFile(file, fmt.Appendf(nil, "tun-device nat64\nipv4-addr 192.168.255.1\nipv6-addr %s1\nprefix %s/96\ndynamic-pool 192.168.255.0/24\n",
		"2001:db8:64:1::", nat64), 0o644))
	m.in(isp, "tayga --mktun -c "+file, "echo 0 >/proc/sys/net/ipv6/conf/nat64/disable_ipv6", "ip link set nat64 up",
		"ip route add 192.168.255.0/24 dev nat64", "ip route add "+nat64+"/96 dev nat64")
	m.start(isp, "tayga", "-d", "-c", file)
}

// in runs lines of a shell in a place.
func (m *measurement) in(p *linktest.Place, lines ...string) {
	m.Helper()
	if out, err := p.Command("sh", "-ec", strings.Join(lines, "\n")).CombinedOutput(); err != nil {
		m.Fatalf("%v: %v: %s", lines, err, out)
	}
}

// start runs a server in a place until the test ends, and shows what it said where the test failed.
func (m *measurement) start(p *linktest.Place, name string, args ...string) {
	m.Helper()
	var said strings.Builder
	cmd := p.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	m.must(cmd.Start())
	m.Cleanup(func() {
		m.must(cmd.Process.Kill())
		_ = cmd.Wait() // killed
		if m.Failed() {
			m.Logf("%s: %s", name, said.String())
		}
	})
}

// link is what the daemon says of its uplinks.
func (m *measurement) link() api.Link {
	m.Helper()
	l, err := api.OverSocket(filepath.Join(m.config.Dir, "api.sock")).Link(m.Context())
	m.must(err)
	return l
}

func (m *measurement) uplink(name string) api.Uplink {
	for _, u := range m.link().Uplinks {
		if u.Name == name {
			return u
		}
	}
	return api.Uplink{}
}
