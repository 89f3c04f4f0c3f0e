// Package linktest is a branch with two ways to the Internet, in network
// namespaces, for the tests of everything that uses them:
//
//	         ┌── wan0 ──── lan  isp1  net0 ── 203.0.113.0/28 ── e1 ──┐
//	branch ──┤   192.168.1.2   NAT                                   ├── hub 192.0.2.1
//	         └── lte0 ──── lan  isp2  net0 ── 198.51.100.0/28 ─ e2 ──┘   inside 10.99.0.1
//	             10.64.0.2       NAT
//
// The branch is the namespace of the test itself: Main, called by TestMain, moves the
// whole test into one of its own, so that everything in the test's process is on the box.
// The isps and the hub are namespaces without a name, that go when the process does.
//
// What a test does to the uplinks: Silence, Unplug, Lose, Mend; Age, Hole, Recreate,
// Remove. What the admin sees at the other end of the tunnel: Hub.Meter and Hub.Stream.
package linktest

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Uplink is one of the branch's ways to the Internet.
type Uplink struct {
	Name    string       // "wan" or "lte"
	Device  string       // its interface in the branch
	Address netip.Prefix // of the branch
	Gateway netip.Addr   // of the isp
	ISP     *Place       // behind it; its interfaces are lan, and netN towards hub N
	metric  int
	outside string // the first three bytes of its addresses towards the hubs
	side    int    // its interface at the hubs: e1 or e2
}

// World is the branch, its uplinks and what is at their other end.
type World struct {
	Branch  *Place
	WAN     *Uplink
	LTE     *Uplink
	hubs    []*Place
	started int // of the hubs
	closers []func()
}

// New makes the world around the test's own namespace, until the test ends. It
// skips the test where there is no namespace to play in, and fails it there if CI is true.
func New(t testing.TB) *World {
	t.Helper()
	if os.Getenv(inside) == "" {
		skip(t, "needs root, for network namespaces; and linktest.Main in TestMain")
	}
	Need(t, "ip", "iproute2")
	Need(t, "nft", "nftables")
	Need(t, "nsenter", "util-linux")
	branch, err := here()
	if err != nil {
		t.Fatal(err)
	}
	w, err := Around(branch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// Around makes the world around a namespace that has no uplinks yet.
func Around(branch *Place) (*World, error) {
	w := &World{Branch: branch}
	w.WAN = &Uplink{Name: "wan", Device: "wan0", metric: 100, outside: "203.0.113", side: 1,
		Address: netip.MustParsePrefix("192.168.1.2/24"), Gateway: netip.MustParseAddr("192.168.1.1")}
	w.LTE = &Uplink{Name: "lte", Device: "lte0", metric: 200, outside: "198.51.100", side: 2,
		Address: netip.MustParsePrefix("10.64.0.2/24"), Gateway: netip.MustParseAddr("10.64.0.1")}
	err := branch.sysctl(map[string]string{
		"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "ipv4/ip_forward": "0"})
	if err == nil {
		err = branch.IP("link set lo up")
	}
	for _, u := range []*Uplink{w.WAN, w.LTE} {
		if err == nil {
			err = w.connect(u)
		}
	}
	if err == nil {
		_, err = w.addHub()
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// connect makes an uplink's isp and plugs the branch in.
func (w *World) connect(u *Uplink) (err error) {
	if u.ISP, err = newPlace(); err != nil {
		return err
	}
	w.onClose(u.ISP.close)
	if err := u.ISP.sysctl(map[string]string{"ipv4/ip_forward": "1"}); err != nil {
		return err
	}
	if err := u.ISP.nft(ispRules); err != nil {
		return err
	}
	w.onClose(func() { _ = w.Branch.IP("link del " + u.Device) }) // gone already is as good
	return w.plug(u)
}

// plug makes the cable between the branch and an isp.
func (w *World) plug(u *Uplink) error {
	// The kernel tells of a lost carrier at once if it takes the cable's ends for two devices, by their
	// index. Else it may wait for a second, if anything on this machine had a carrier that changed just
	// before: linkwatch_urgent_event in its net/core/link_watch.c.
	if err := w.Branch.IP("link add " + u.Device + " type veth peer name lan index 1000 netns " + u.ISP.File()); err != nil {
		return err
	}
	if err := w.Branch.sysctl(map[string]string{"ipv6/conf/" + u.Device + "/disable_ipv6": "1"}); err != nil {
		return err
	}
	if err := u.ISP.IP(fmt.Sprintf("address add %s/%d dev lan", u.Gateway, u.Address.Bits()), "link set lan up"); err != nil {
		return err
	}
	return w.Branch.IP(
		fmt.Sprintf("address add %s dev %s", u.Address, u.Device),
		"link set "+u.Device+" up",
		fmt.Sprintf("route add default via %s dev %s metric %d", u.Gateway, u.Device, u.metric))
}

// addHub makes the next hub's namespace, 192.0.2.1 the first, which both isps reach.
func (w *World) addHub() (*Place, error) {
	p, err := newPlace()
	if err != nil {
		return nil, err
	}
	n := len(w.hubs)
	w.hubs = append(w.hubs, p)
	w.onClose(p.close)
	if err := p.IP(fmt.Sprintf("address add %s/32 dev lo", hubAddress(n))); err != nil {
		return nil, err
	}
	for _, u := range []*Uplink{w.WAN, w.LTE} {
		net, far, dev := fmt.Sprintf("net%d", n), fmt.Sprintf("%s.%d", u.outside, 16*n+1), fmt.Sprintf("e%d", u.side)
		near, subnet := fmt.Sprintf("%s.%d", u.outside, 16*n+2), fmt.Sprintf("%s.%d/28", u.outside, 16*n)
		err := errors.Join(
			u.ISP.IP("link add "+net+" type veth peer name "+dev+" netns "+p.File(),
				"address add "+near+"/28 dev "+net, "link set "+net+" up",
				fmt.Sprintf("route add %s via %s", hubAddress(n), far)),
			// WireGuard in Go answers from the address that the route says, since it forgets
			// where a packet was sent to when UDP GRO joins several (amnezia-vpn/amneziawg-go#144).
			p.IP("address add "+far+"/28 dev "+dev, "link set "+dev+" up",
				"route replace "+subnet+" dev "+dev+" src "+hubAddress(n)))
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func hubAddress(n int) string { return fmt.Sprintf("192.0.2.%d", 1+n) }

// Uplink finds an uplink by its name.
func (w *World) Uplink(name string) *Uplink {
	if name == w.LTE.Name {
		return w.LTE
	}
	return w.WAN
}

func (w *World) onClose(f func()) { w.closers = append(w.closers, f) }

// Close takes everything away.
func (w *World) Close() {
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
	w.closers = nil
}

// Need skips a test whose tool is missing; CI must have it.
func Need(t testing.TB, tool, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		skip(t, fmt.Sprintf("%s is missing: apt-get install %s", tool, debianPackage))
	}
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// run runs a command to its end, with an input.
func run(cmd *exec.Cmd, input string) (string, error) {
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s%s", strings.Join(cmd.Args, " "), err, out.String(), input)
	}
	return out.String(), nil
}
