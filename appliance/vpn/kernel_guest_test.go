package vpn

import (
	"crypto/ecdh"
	"crypto/rand"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"rescuebox/appliance/link/linktest"
	"rescuebox/appliance/link/linktest/guest"
)

// kernelSite is a box with the kernel's engine at the uplinks of linktest, whose hub has the
// kernel's WireGuard too, with the delays of a wire and of LTE.
type kernelSite struct {
	t      *testing.T
	world  *linktest.World
	hub    *linktest.Hub
	setup  setup
	engine engine
}

func newKernelSite(t *testing.T) *kernelSite {
	s := &kernelSite{t: t, world: linktest.New(t)}
	s.must(s.world.Delay("wan", 5*time.Millisecond, 0))
	s.must(s.world.Delay("lte", 30*time.Millisecond, 5*time.Millisecond))
	s.hub = s.world.KernelHub(t)
	s.world.Echo(t)
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	s.must(err)
	public := key(private.PublicKey().Bytes())
	s.must(s.hub.Admit(public.String(), ""))
	s.must(s.world.Branch.IP(
		"route add default via 192.168.1.1 dev wan0 table 7101",
		"route add default via 10.64.0.1 dev lte0 table 7102"))
	s.setup = setup{Interface: "kernel0", MTU: DefaultMTU, PrivateKey: key(private.Bytes()), Hubs: 1,
		Uplinks: []Uplink{{Name: "wan", Table: 7101}, {Name: "lte", Table: 7102}}}
	s.start()
	t.Cleanup(func() { s.must(s.engine.close()) })
	return s
}

// start makes the engine, and does for it what the Tunnel does.
func (s *kernelSite) start() {
	s.t.Helper()
	e, err := newKernel(s.setup, zap.NewNop())
	s.must(err)
	s.engine = e
	s.use(0)
	public, err := parseKey(s.hub.PublicKey)
	s.must(err)
	both := [][]netip.AddrPort{{s.hub.Endpoint}, {s.hub.Endpoint}}
	s.must(e.configure([]peer{{PublicKey: public, Keepalive: 25 * time.Second, Endpoints: both,
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}}}))
	s.must(s.world.Branch.IP("address add "+linktest.BranchInner+"/24 dev kernel0", "link set kernel0 up"))
	if out, err := exec.Command("ping", "-c", "1", "-w", "60", linktest.HubInner).CombinedOutput(); err != nil {
		s.t.Fatalf("the hub is not reached: %v\n%s", err, out)
	}
}

func (s *kernelSite) use(uplink int) {
	s.t.Helper()
	s.must(s.engine.steer(steering{Active: uplink}))
	s.engine.tie([]string{"wan0", "lte0"})
}

func (s *kernelSite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// state is what the engine knows.
func (s *kernelSite) state() state {
	s.t.Helper()
	st, err := s.engine.state()
	s.must(err)
	return st
}

// rules are the lines of ip rule that are ours.
func (s *kernelSite) rules() []string {
	s.t.Helper()
	out, err := exec.Command("ip", "rule", "show", "priority", "7100").CombinedOutput()
	s.must(err)
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}

func TestGuestKernelWireGuard(t *testing.T) {
	if !guest.Inside(t) {
		return
	}
	t.Run("switch", kernelSwitch)
	t.Run("state", kernelState)
	t.Run("repair", kernelRepair)
}

// The tunnel moves between the uplinks when it is told to: the hub hears it at once, and back nothing is lost.
func kernelSwitch(t *testing.T) {
	s := newKernelSite(t)
	if st := s.state(); len(st.Peers) != 1 || st.Peers[0].Handshake.IsZero() || st.Peers[0].Rx == 0 || st.NoDuplicates == "" || st.Ways[0].Port == 0 {
		t.Errorf("the state is %+v", st)
	}
	for round := range 3 {
		stop, err := s.hub.Meter(5 * time.Millisecond)
		s.must(err)
		time.Sleep(time.Second)
		s.must(s.world.Silence("wan"))
		cut := linktest.Now()
		time.Sleep(600 * time.Millisecond) // three misses of a probe each 200 ms
		s.use(1)
		s.engine.kick(0)
		switched := linktest.Now()
		time.Sleep(time.Second)
		r, err := stop()
		s.must(err)
		r, clock := r.Awake()
		g := r.Gap(r.Sent[0])
		if deaf := g.To - clock(switched); g.Never || deaf > time.Second {
			t.Errorf("the hub hears nothing %v after the switch", deaf.Round(time.Millisecond))
		}
		t.Logf("round %d: cut, switch after %v: gap %v, never %v", round, (switched - cut).Round(time.Millisecond), g.Long().Round(time.Millisecond), g.Never)
		if dev, err := s.hub.Device(); err != nil || !strings.Contains(dev, "endpoint=198.51.100.2:") {
			t.Errorf("the hub's endpoint is not behind lte: %v\n%s", err, dev)
		}
		s.must(s.world.Mend("wan"))
		stop, err = s.hub.Meter(5 * time.Millisecond)
		s.must(err)
		time.Sleep(500 * time.Millisecond)
		s.use(0)
		s.engine.kick(0)
		time.Sleep(500 * time.Millisecond)
		r, err = stop()
		s.must(err)
		t.Logf("round %d: failback: %d of %d lost", round, r.Lost(), len(r.Sent))
		if r.Lost() > 0 {
			t.Errorf("failback lost %d of %d", r.Lost(), len(r.Sent))
		}
	}
	if rules := s.rules(); len(rules) != 1 || !strings.Contains(rules[0], "fwmark 0x72620001 lookup 7101") {
		t.Errorf("the rules are %q", rules)
	}
}

// What is asked and not answered is seen, and by which uplink something was heard.
func kernelState(t *testing.T) {
	s := newKernelSite(t)
	before := s.state()
	if before.Peers[0].Asked != (time.Time{}) || before.Ways[0].Heard.IsZero() || !before.Ways[1].Heard.IsZero() {
		t.Errorf("with an answer the state is %+v", before)
	}
	s.must(s.world.Silence("wan"))
	_ = exec.Command("ping", "-c", "1", "-W", "1", linktest.HubInner).Run() // fails
	if st := s.state(); st.Peers[0].Asked.IsZero() {
		t.Errorf("without an answer the state is %+v", st)
	}
	s.use(1)
	s.engine.kick(0)
	if out, err := exec.Command("ping", "-c", "1", "-w", "30", linktest.HubInner).CombinedOutput(); err != nil {
		t.Fatalf("not over lte: %s", out)
	}
	if st := s.state(); !st.Peers[0].Asked.IsZero() || st.Ways[1].Heard.IsZero() {
		t.Errorf("with an answer by lte the state is %+v", st)
	}
	before = s.state()
	s.engine.kick(0)
	st := s.state()
	for end := time.Now().Add(10 * time.Second); st.Peers[0].Tx == before.Peers[0].Tx; st = s.state() {
		if time.Now().After(end) {
			t.Fatalf("a kick sends nothing: %+v", st)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !st.Peers[0].Asked.IsZero() {
		t.Errorf("a kick is no question: %+v", st)
	}
}

// What a crash left, or somebody who cleans up took, is put right; what is somebody else's is left alone.
func kernelRepair(t *testing.T) {
	s := newKernelSite(t)
	s.must(leadTo(7102)) // what a daemon that was killed may have left
	s.start()
	if rules := s.rules(); len(rules) != 1 || !strings.Contains(rules[0], "lookup 7101") {
		t.Errorf("after a crash the rules are %q", rules)
	}
	s.must(s.world.Branch.IP("rule del priority 7100"))
	s.state()
	if rules := s.rules(); len(rules) != 1 {
		t.Errorf("the rule that somebody took is not back: %q", rules)
	}
	s.must(s.world.Branch.IP("link del kernel0"))
	if st, err := s.engine.state(); err == nil {
		t.Errorf("the interface is gone, and the state is %+v", st)
	}
	s.must(s.world.Branch.IP("link add kernel0 type dummy"))
	if _, err := newKernel(s.setup, zap.NewNop()); err == nil || !strings.Contains(err.Error(), "no WireGuard") {
		t.Errorf("somebody else's interface: %v", err)
	}
	if _, err := netlink.LinkByName("kernel0"); err != nil {
		t.Errorf("somebody else's interface: %v", err)
	}
	s.must(s.world.Branch.IP("link del kernel0"))
	s.must(s.engine.close())
	if rules := s.rules(); len(rules) != 0 {
		t.Errorf("after the end the rules are %q", rules)
	}
	s.start()
}
