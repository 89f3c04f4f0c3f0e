package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/link/linktest"
)

// twins are two uplinks behind routers of one maker: the same network at both, the same router's address, and maybe the
// same address of the box.
func twins(t *testing.T, address string) *box {
	t.Helper()
	w := linktest.New(t)
	w.Hub(t)
	must(t, w.LTE.ISP.IP("address flush dev lan", "address add 192.168.1.1/24 dev lan"))
	must(t, w.Branch.IP("address flush dev lte0", "address add "+address+"/24 dev lte0"))
	const check = 200 * time.Millisecond
	b := &box{World: w, t: t}
	var err error
	b.watch, err = New(Config{Uplinks: []Uplink{{Name: "wan", Device: "wan0", Check: check}, {Name: "lte", Device: "lte0", Metered: true, Check: check, Gateway: netip.MustParseAddr("192.168.1.1")}},
		Hubs: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} }, Failback: time.Second})
	must(t, err)
	b.run("watch", b.watch.Run)
	return b
}

// Each twin is asked by itself, and what the box says goes by the one that works, whichever that is.
func TestTwins(t *testing.T) {
	for _, address := range []string{"192.168.1.3", "192.168.1.2"} {
		t.Run(address, func(t *testing.T) {
			b := twins(t, address)
			b.calm("wan")
			for _, dead := range []string{"wan", "lte"} {
				works := map[string]string{"wan": "lte", "lte": "wan"}[dead]
				must(t, b.Silence(dead))
				b.until(dead+" is dead, "+works+" works", func(s Status) bool {
					health := map[string]Health{}
					for _, u := range s.Uplinks {
						health[u.Name] = u.Health
					}
					return health[dead] == Dead && health[works] == Alive && s.Active == works
				})
				b.until("the box's own traffic follows", func(Status) bool {
					return strings.Contains(output("ip", "route", "get", "198.18.0.1"), "dev "+works+"0")
				})
				if err := dial(""); err != nil {
					t.Errorf("%s is dead: %v", dead, err)
				}
				at := b.watch.Status().Uplinks[map[string]int{"wan": 0, "lte": 1}[works]].Addresses
				if err := dial(at[0].Addr().String()); err != nil {
					t.Errorf("%s is dead: %v", dead, err)
				}
				for _, device := range []string{"wan0", "lte0"} {
					patience := 2 * time.Second
					if device == works+"0" {
						patience = 20 * time.Second
					}
					err := within(patience, func(ctx context.Context) error { return ping(ctx, device, netip.MustParseAddr("192.0.2.1")) })
					if answers := err == nil; answers != (device == works+"0") {
						t.Errorf("%s is dead, and by %s: %v", dead, device, err)
					}
				}
				must(t, b.Mend(dead))
				b.calm("wan")
			}
		})
	}
}

// Of a lost uplink only those connections are forgotten that no other uplink's can be, and what that means is said.
func TestTwinsFlush(t *testing.T) {
	linktest.Need(t, "conntrack", "conntrack")
	w := linktest.New(t)
	must(t, w.Branch.IP("address add 192.168.1.2/24 dev lte0", "address add 192.168.1.9/24 dev wan0"))
	run(t, "nft", `table inet track { chain out { type filter hook output priority 0; ct state new accept; }; }`)
	t.Cleanup(func() {
		exec.Command("nft", "delete", "table", "inet", "track").Run()
		exec.Command("conntrack", "-F").Run()
		must(t, clearRoutes())
	})
	for _, src := range []string{"192.168.1.2", "192.168.1.9", "10.64.0.2"} {
		run(t, "conntrack", "-I", "-p", "udp", "-s", src, "-d", "198.18.0.1", "--sport", "5000", "--dport", "53", "-t", "600")
	}
	var trouble []string
	p := newPlumber(Config{Uplinks: []Uplink{{Name: "wan"}, {Name: "lte"}}}, func(list []string) { trouble = list })
	both := []sight{look(Uplink{Device: "wan0"}, BearerState{}, sight{}), look(Uplink{Device: "lte0"}, BearerState{}, sight{})}
	left := func() (of []string) {
		list := output("conntrack", "-L", "-d", "198.18.0.1")
		for _, src := range []string{"192.168.1.2", "192.168.1.9", "10.64.0.2"} {
			if strings.Contains(list, "src="+src+" dst=198") {
				of = append(of, src)
			}
		}
		return of
	}
	p.follow(plan{paths: both, active: 0}, nil)
	p.mend(true)
	if got := left(); len(got) != 3 {
		t.Fatalf("the connections are those from %q", got)
	}
	p.follow(plan{paths: both, active: 1}, both[0].addresses)
	p.mend(true)
	if got := left(); !slices.Equal(got, []string{"192.168.1.2", "10.64.0.2"}) {
		t.Errorf("wan0 was lost, and left are connections from %q", got)
	}
	if len(trouble) != 1 || !strings.Contains(trouble[0], "wan0 and lte0 both have the address 192.168.1.2") {
		t.Errorf("trouble: %q", trouble)
	}
	both[1] = sight{device: "lte0", index: both[1].index, addresses: both[1].addresses} // its cable is out
	p.follow(plan{paths: both, active: 0}, nil)
	p.follow(plan{paths: both, active: 1}, both[0].addresses)
	p.mend(true)
	if got := left(); !slices.Equal(got, []string{"10.64.0.2"}) || len(trouble) > 0 {
		t.Errorf("wan0 was lost while lte0 had no carrier, and left are connections from %q; trouble %q", got, trouble)
	}
}

// dial connects to the hub, as any program of the box would.
func dial(from string) error {
	d := net.Dialer{Timeout: 20 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", "192.0.2.1:80")
	if err != nil {
		return fmt.Errorf("connect from %q: %w", from, err)
	}
	return c.Close()
}
