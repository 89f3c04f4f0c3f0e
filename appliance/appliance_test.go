package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"rescuebox/appliance/config"
)

// site is a configuration on loopback, with a LAN interface that is not there.
func site(t *testing.T, dir string) *config.Config {
	t.Helper()
	at := ownAddress()
	cfg, err := config.Parse("test.toml", []byte(`
site = "test"
[lan]
interface = "nosuch0"
address = "`+at+`/8"
dhcp = "full"
range = ["127.0.0.100", "127.0.0.199"]
[http]
port = `+freePort(t, "tcp", at)+`
[tftp]
port = `+freePort(t, "udp", at)+`
[state]
dir = "`+dir+`"
[admin]
socket = "`+filepath.Join(dir, "api.sock")+`"
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
`))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// ownAddress is one of the loopback that nobody else has: a port of it that is free remains so.
func ownAddress() string { return fmt.Sprintf("127.%d.%d.1", rand.IntN(256), 1+rand.IntN(255)) }

func freePort(t *testing.T, network, at string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", at+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, port, _ := net.SplitHostPort(c.LocalAddr().String())
		return port
	}
	l, err := net.Listen("tcp", at+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// The cheapest test of the wiring: which parts a file makes.
func TestParts(t *testing.T) {
	b, err := assemble(Options{Config: site(t, t.TempDir()), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.db.Close()
	var names []string
	for _, p := range b.parts() {
		names = append(names, p.name)
	}
	if want := []string{"orders", "dhcp", "tftp", "http", "power", "consoles", "notices", "notify", "admin"}; !slices.Equal(names, want) {
		t.Errorf("parts %v, want %v", names, want)
	}
}

// A missing interface costs DHCP, with one clear sentence; the rest runs, says
// so, and ends quickly.
func TestMissingInterface(t *testing.T) {
	dir := t.TempDir()
	cfg := site(t, dir)
	said := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Config: cfg, Version: "test", Log: zap.NewNop(), Notify: func(s string) { said <- s }})
	}()
	if s := <-said; !strings.HasPrefix(s, "READY=1\nSTATUS=not running: dhcp") {
		t.Errorf("systemd hears %q", s)
	}
	resp, err := http.Get("http://" + cfg.LAN.Address.Addr().String() + ":" + strconv.Itoa(cfg.HTTP.Port) + "/boot/525400123456/boot.ipxe")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "srv01 has no order") {
		t.Errorf("HTTP says %d: %s", resp.StatusCode, body)
	}
	api := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "api.sock"))
	}}}
	resp, err = api.Get("http://box/v1/doctor")
	if err != nil {
		t.Fatal(err)
	}
	body, _ = io.ReadAll(resp.Body)
	resp.Body.Close()
	if !strings.Contains(string(body), "there is no interface nosuch0") {
		t.Errorf("the doctor says %s", body)
	}
	began := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second { // Run itself says which parts do not end at once
		t.Errorf("ended after %s", took)
	}
}

// A machine that stands still while the box stops costs none of its parts the time that they have for their end.
func TestStopOnABusyHost(t *testing.T) {
	b, err := assemble(Options{Config: site(t, t.TempDir()), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.db.Close()
	ctx, cancel := context.WithCancel(t.Context())
	b.sup.start(ctx, []part{{"slow", func(ctx context.Context, ready func()) error {
		ready()
		<-ctx.Done()
		out, err := exec.Command("sh", "-c", "kill -STOP $PPID; sleep 3; kill -CONT $PPID").CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		time.Sleep(100 * time.Millisecond)
		return nil
	}}})
	cancel()
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	b.sup.wait()
}

// A state directory that cannot be used ends the start with its name.
func TestStateDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := site(t, t.TempDir())
	cfg.State.Dir = file
	err := Run(t.Context(), Options{Config: cfg, Log: zap.NewNop()})
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

// A part that is restarted registers its metrics again.
func TestReplacingRegistry(t *testing.T) {
	r := replacing{prometheus.NewRegistry()}
	for range 3 {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "x_total", Help: "x"})
		r.MustRegister(c)
		c.Inc()
	}
	all, err := r.Gather()
	if err != nil || len(all) != 1 || all[0].Metric[0].Counter.GetValue() != 1 {
		t.Errorf("gathered %v, %v", all, err)
	}
	bad := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x_total", Help: "other"}, []string{"label"})
	if err := r.Register(bad); err == nil || errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		t.Errorf("another metric of the same name: %v", err)
	}
}
