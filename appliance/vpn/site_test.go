package vpn

import (
	"context"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"rescuebox/appliance/link/linktest"
)

// site is a box with its tunnel in the world of two uplinks.
type site struct {
	*linktest.World
	t      *testing.T
	hubs   []*linktest.Hub
	tunnel *Tunnel
	cancel context.CancelFunc
	ended  chan error
}

// newSite makes the world, with so many hubs, and a tunnel that change may still alter. The
// tunnel runs when start is called.
func newSite(t *testing.T, hubs int, change func(*Config)) *site {
	t.Helper()
	s := &site{World: linktest.New(t), t: t}
	dir := t.TempDir()
	cfg := Config{
		Interface: "rescuevpn", Address: netip.MustParsePrefix(linktest.BranchInner + "/24"),
		KeyFile: filepath.Join(dir, "key"), ClockFile: filepath.Join(dir, "clock"), CacheFile: filepath.Join(dir, "cache"),
		Uplinks: []Uplink{{Name: "wan", Device: s.WAN.Device}, {Name: "lte", Device: s.LTE.Device, Metered: true}},
	}
	for range hubs {
		h := s.Hub(t)
		s.hubs = append(s.hubs, h)
		cfg.Hubs = append(cfg.Hubs, Hub{Name: h.Endpoint.Addr().String(), PublicKey: h.PublicKey, Endpoints: []string{h.Endpoint.String()},
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}, Keepalive: 25 * time.Second, Ping: netip.MustParseAddr(linktest.HubInner)})
	}
	if change != nil {
		change(&cfg)
	}
	tunnel, err := New(cfg, zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)))
	if err != nil {
		t.Fatal(err)
	}
	s.tunnel = tunnel
	for _, h := range s.hubs {
		if err := h.Admit(tunnel.keys.public.String(), ""); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// start runs the tunnel until stop, or the end of the test.
func (s *site) start() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.ended = cancel, make(chan error, 1)
	ready := make(chan struct{})
	go func() { s.ended <- s.tunnel.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-s.ended:
		s.t.Fatal("the tunnel does not start:", err)
	case <-time.After(30 * time.Second):
		s.t.Fatal("the tunnel is not ready")
	}
	s.t.Cleanup(s.stop)
}

func (s *site) stop() {
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.cancel = nil
	if err := <-s.ended; err != nil {
		s.t.Error("the tunnel did not end cleanly:", err)
	}
}

// reached waits until the box reaches the hub inside of the tunnel.
func (s *site) reached(patience time.Duration) {
	s.t.Helper()
	if out, err := exec.Command("ping", "-c", "1", "-i", "0.2", "-w", seconds(patience), linktest.HubInner).CombinedOutput(); err != nil {
		s.t.Fatalf("the hub is not reached: %v\n%s\n%+v", err, out, s.tunnel.Status())
	}
}

// eventually waits until f is true.
func eventually(t *testing.T, patience time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("did not come:", what)
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }

// handshakeTime is what a handshake may take where one is lost.
const handshakeTime = 20 * time.Second

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
