package modem

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// wireGuard is a packet of the kind that it is named by, n bytes long.
func wireGuard(kind byte, n int) []byte {
	b := make([]byte, n)
	b[0] = kind
	return b
}

// A bearer whose quota is used up: the peer gets the tunnel's handshakes and keepalives, a
// little of what is in the tunnel, and nothing else.
func TestFence(t *testing.T) {
	if !alone(t) {
		return
	}
	needTool(t, "nft", "nftables")
	f := cable(t, "wwan0")
	shell(t, "ip link set wwan0 up; ip addr add 192.168.8.100/24 dev wwan0; sysctl -qw net.ipv4.ping_group_range='0 0'")
	count(f)
	eventually(t, "the cable works", func() bool {
		conn, err := net.Dial("udp", "192.168.8.1:9")
		if err != nil {
			return false
		}
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		return err == nil && got(t, f) > 0
	})
	conn, err := net.ListenPacket("udp", "192.168.8.100:0") // not connected: the peer's refusals are no errors
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	hub := &net.UDPAddr{IP: net.IPv4(192, 168, 8, 1), Port: 51820}
	arrives := func(b []byte) bool {
		before := got(t, f)
		if _, err := conn.WriteTo(b, hub); err != nil && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		for range 10 { // looks, and not a time that may pass between two of them
			if got(t, f) > before {
				return true
			}
			time.Sleep(20 * time.Millisecond)
		}
		return false
	}
	fence := &fence{modem: "lte 1"}
	if !arrives([]byte("hello")) {
		t.Fatal("without a fence nothing arrives")
	}
	if err := fence.put(t.Context(), "wwan0", time.Now()); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		b    []byte
		want bool
	}{
		"handshake":               {wireGuard(1, 148), true},
		"answer":                  {wireGuard(2, 92), true},
		"cookie":                  {wireGuard(3, 64), true},
		"keepalive":               {wireGuard(4, 32), true},
		"an admin's typing":       {wireGuard(4, 96), true},
		"a handshake that is big": {wireGuard(1, 1200), false},
		"a name for somebody":     {make([]byte, 60), false},
		"anything":                {[]byte("hello"), false},
	} {
		if got := arrives(tt.b); got != tt.want {
			t.Errorf("%s arrives: %v, want %v", name, got, tt.want)
		}
	}
	passed := 0
	for range 2000 {
		if _, err := conn.WriteTo(wireGuard(4, 1200), hub); err == nil {
			passed++
		}
	}
	if budget := 1 << 20 / 1228; passed < budget/2 || passed > budget+100 {
		t.Errorf("%d packets of 2000 passed in a day, the budget is %d", passed, budget)
	}
	if !arrives(wireGuard(4, 32)) || arrives(wireGuard(4, 96)) {
		t.Error("with the budget gone the keepalive must pass, and nothing else in the tunnel")
	}
	tomorrow := time.Now().AddDate(0, 0, 1) // a day may have 25 hours
	if err := fence.put(t.Context(), "wwan0", tomorrow); err != nil {
		t.Fatal(err)
	}
	if !arrives(wireGuard(4, 96)) {
		t.Error("a new day has no new budget")
	}
	shell(t, "nft flush ruleset") // the firewall of the box is loaded anew
	if err := fence.put(t.Context(), "wwan0", tomorrow); err != nil {
		t.Fatal(err)
	}
	if arrives([]byte("hello")) {
		t.Error("who loads the box's firewall anew lifts the quota")
	}
	if err := fence.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !arrives([]byte("hello")) {
		t.Error("it stands after its removal")
	}
	if left := shell(t, "nft list ruleset"); strings.Contains(left, "chain") || strings.Contains(left, "quota lte") {
		t.Errorf("it left %s", left)
	}
}

// count has the modem count what comes to a hub or to port 9, and nothing of what the kernels tell each other.
func count(f *far) {
	f.run(`echo "add table ip count; add chain ip count in { type filter hook input priority 0; }; add rule ip count in udp dport { 9, 51820 } counter" | nft -f -`)
}

// got is how many of them came.
func got(t *testing.T, f *far) int {
	t.Helper()
	text := f.run("nft list chain ip count in")
	var n int
	if _, after, ok := strings.Cut(text, "counter packets "); ok {
		fmt.Sscan(after, &n)
	}
	return n
}

// Two modems have fences of their own.
func TestFencesOfTwoModems(t *testing.T) {
	if !alone(t) {
		return
	}
	needTool(t, "nft", "nftables")
	a, b := &fence{modem: "lte"}, &fence{modem: "lte2"}
	for _, f := range []*fence{a, b} {
		if err := f.put(t.Context(), "ppp-"+f.modem, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rules := shell(t, "nft list ruleset"); strings.Contains(rules, `"ppp-lte"`) || !strings.Contains(rules, `"ppp-lte2"`) {
		t.Errorf("one took the other's: %s", rules)
	}
	// A daemon that was killed left one: the next knows nothing of it and takes it away.
	if err := (&fence{modem: "lte2"}).remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rules := shell(t, "nft list ruleset"); strings.Contains(rules, "ppp-lte2") {
		t.Errorf("it is left: %s", rules)
	}
	if err := (&fence{modem: "lte", program: "/nowhere/nft"}).put(t.Context(), "x", time.Now()); err == nil || !strings.Contains(err.Error(), "nftables") {
		t.Errorf("without nft: %v", err)
	}
}

// A kernel that has more news of links than are heard, as while the disk stands still, costs no bearer, and what was carried
// meanwhile is counted.
func TestMoreNewsThanHeard(t *testing.T) {
	if !alone(t) {
		return
	}
	shell(t, "ip link add w0 type veth peer name w1; ip link set w0 up; ip link set w1 up; ip addr add 10.0.0.1/24 dev w0; ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev w0")
	q := newQuota(0, 1, nil, nil, zap.NewNop())
	if err := q.use("8970"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	held, free := make(chan struct{}), make(chan struct{})
	n, ended := 0, make(chan error, 1)
	go func() {
		ended <- q.run(ctx, func() string {
			if n++; n == 2 {
				close(held)
				<-free
			}
			return "w0"
		})
	}()
	<-held
	link, err := netlink.LinkByName("w0")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		if err := netlink.LinkSetMTU(link, 1400+i%2); err != nil {
			t.Fatal(err)
		}
	}
	close(free)
	before := q.status().Used
	eventually(t, "what is sent is counted", func() bool {
		if conn, err := net.Dial("udp", "10.0.0.2:9"); err == nil {
			_, _ = conn.Write(make([]byte, 1000))
			conn.Close()
		}
		return q.status().Used >= before+1000
	})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ended: %v", err)
	}
}
