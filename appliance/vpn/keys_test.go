package vpn

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// plain is a configuration that New takes.
func plain(t *testing.T) Config {
	t.Helper()
	hub, err := wgtypes.GeneratePrivateKey()
	ok(t, err)
	return Config{Interface: "rescuevpn", Address: netip.MustParsePrefix("10.99.0.2/24"), KeyFile: filepath.Join(t.TempDir(), "key"),
		Uplinks: []Uplink{{Name: "wan", Device: "wan0"}},
		Hubs:    []Hub{{Name: "office", PublicKey: hub.PublicKey().String(), Endpoints: []string{"192.0.2.1:51820"}}}}
}

// The key is made once, only the daemon may read it, and it is what WireGuard takes for one.
func TestKey(t *testing.T) {
	cfg := plain(t)
	one, err := New(cfg, zap.NewNop())
	ok(t, err)
	two, err := New(cfg, zap.NewNop())
	ok(t, err)
	if one.Peer() != two.Peer() {
		t.Error("the second start made another key")
	}
	text, err := os.ReadFile(cfg.KeyFile)
	ok(t, err)
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(text)))
	ok(t, err)
	if want := "PublicKey = " + key.PublicKey().String(); !strings.Contains(one.Peer(), want) {
		t.Errorf("%q lacks %q", one.Peer(), want)
	}
	if strings.Contains(one.Peer(), key.String()) {
		t.Error("the stanza for the hub shows the private key")
	}
	info, err := os.Stat(cfg.KeyFile)
	ok(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file has mode %v", info.Mode())
	}
}

// What is wrong is told at once, and never with the key in it.
func TestNewRefuses(t *testing.T) {
	secret, err := wgtypes.GenerateKey()
	ok(t, err)
	for want, change := range map[string]func(*Config){
		"no WireGuard key": func(c *Config) { writeTo(t, c.KeyFile, secret.String()[:40]) },
		"no such file":     func(c *Config) { c.Hubs[0].PresharedKeyFile = filepath.Join(t.TempDir(), "none") },
		"one public key":   func(c *Config) { c.Hubs = append(c.Hubs, c.Hubs[0]) },
		"no host:port":     func(c *Config) { c.Hubs[0].Endpoints = []string{"vpn.example.org"} },
		"no endpoint":      func(c *Config) { c.Hubs[0].Endpoints = nil },
		"needs a hub":      func(c *Config) { c.Hubs = nil },
		"takes IPv4": func(c *Config) {
			c.ShareLAN = []netip.Prefix{netip.MustParsePrefix("fd00::/64")}
			c.LANInterface = "eth1"
		},
		"the box's own": func(c *Config) {
			writeTo(t, c.KeyFile, secret.String())
			c.Hubs[0].PublicKey = secret.PublicKey().String()
		},
	} {
		t.Run(want, func(t *testing.T) {
			cfg := plain(t)
			change(&cfg)
			_, err := New(cfg, zap.NewNop())
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), secret.String()[:20]) {
				t.Error("the error shows the key")
			}
		})
	}
}

func writeTo(t *testing.T, file, text string) {
	t.Helper()
	ok(t, os.WriteFile(file, []byte(text), 0o600))
}

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := plain(t)
		cfg.ClockFile = filepath.Join(filepath.Dir(cfg.KeyFile), "clock")
		keep := func(at time.Time) { writeTo(t, cfg.ClockFile, at.UTC().Format(time.RFC3339Nano)) }
		c := readClock(cfg.ClockFile, zap.NewNop())
		c.shook([]peerState{{Handshake: time.Now().Add(time.Minute)}})
		ok(t, c.save(writeFile))
		tunnel, err := New(cfg, zap.NewNop())
		ok(t, err)
		ready := 0
		waits := func(want time.Duration) *clock {
			t.Helper()
			began := time.Now()
			c := tunnel.waitForClock(t.Context(), func() { ready++ })
			if waited := time.Since(began); waited < want || waited > want+2*clockEvery {
				t.Errorf("it was held back for %v", waited)
			}
			return c
		}
		waits(time.Minute)
		if ready == 0 {
			t.Error("a box whose clock is behind does not get ready")
		}
		// A file from the far future does not keep it away for good,
		keep(time.Now().Add(1000 * time.Hour))
		c = waits(clockPatience)
		if s := tunnel.Status(); s.Up || !strings.Contains(s.Reason, "clock") {
			t.Errorf("%+v", s)
		}
		// and where the hub was restarted and took a handshake, the next start waits for nothing.
		c.shook([]peerState{{Hub: 0, Handshake: time.Now()}, {Hub: 1, Handshake: time.Now().Add(-time.Minute)}, {Hub: 2}})
		if reason := c.behind(time.Now()); reason != "" {
			t.Error(reason)
		}
		<-c.unsaved
		ok(t, c.save(writeFile))
		waits(0)
		for what, damage := range map[string]func(){
			"of zeros":       func() { writeTo(t, cfg.ClockFile, "\x00\x00") },
			"that is empty":  func() { writeTo(t, cfg.ClockFile, "") },
			"of the year 0":  func() { writeTo(t, cfg.ClockFile, "0000-01-01T00:00:00Z") },
			"without an end": func() { writeTo(t, cfg.ClockFile, strings.Repeat("9", 2<<20)) },
			"that cannot be read": func() {
				ok(t, os.RemoveAll(cfg.ClockFile))
				ok(t, os.Mkdir(cfg.ClockFile, 0o700))
			},
		} {
			t.Log("a file " + what)
			damage()
			waits(0)
			ok(t, os.RemoveAll(cfg.ClockFile))
		}
	})
}
