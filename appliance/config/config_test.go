package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/zap/zapcore"
)

// Nobody has the private half of this key.
const annasKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpdzYXIkhQzIs3P3I6Yg/tkk/w5039RfGs1PeevNWt9 anna@laptop"

var (
	compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	comparePorts = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	compareNets  = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	noWarnings   = cmpopts.IgnoreFields(Config{}, "Warnings")
	sameConfig   = cmp.Options{compareAddrs, comparePorts, compareNets, noWarnings, cmpopts.EquateEmpty()}
)

// The least that is a configuration; tests write below it, or replace lines.
const least = `site = "kazan-2"
[lan]
interface = "eth1"
address = "192.168.77.1/24"
range = ["192.168.77.100", "192.168.77.199"]
`

func leastConfig() *Config {
	return &Config{
		Site: "kazan-2",
		LAN: LAN{
			Interface:  "eth1",
			Address:    netip.MustParsePrefix("192.168.77.1/24"),
			DHCP:       Auto,
			Range:      Range{netip.MustParseAddr("192.168.77.100"), netip.MustParseAddr("192.168.77.199")},
			Lease:      time.Hour,
			KnownShare: 25,
		},
		Boot:  Boot{Unknown: "local", TTL: 30 * time.Minute, Chain: "auto"},
		HTTP:  HTTP{Port: 80},
		TFTP:  TFTP{Port: 69, BlockSize: 1468},
		Admin: Admin{Socket: "/run/rescuebox/api.sock", Group: "rescuebox"},
		State: State{Dir: "/var/lib/rescuebox"},
		Log:   Log{Level: zapcore.InfoLevel},
		Link:  Link{Mode: "standby", Failback: time.Minute, MaxSwitches: 12}, Text: Text{Budget: 50},
	}
}

func TestParseValues(t *testing.T) {
	tests := []struct {
		name string
		toml string
		want func(c *Config)
	}{
		{"defaults", "", func(c *Config) {}},
		{"lan", `router = "192.168.77.254"
dns = ["192.168.77.1", "9.9.9.9"]
domain = "kazan.example.org"
lease = "1h30m"
known_share = 0
`, func(c *Config) {
			c.LAN.Router = netip.MustParseAddr("192.168.77.254")
			c.LAN.DNS = []netip.Addr{netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("9.9.9.9")}
			c.LAN.Domain = "kazan.example.org"
			c.LAN.Lease = 90 * time.Minute
			c.LAN.KnownShare = 0
		}},
		{"relay", `[[lan.relay]]
network = "10.1.0.0/16"
range = ["10.1.0.10", "10.1.0.20"]
router = "10.1.0.1"
`, func(c *Config) {
			c.LAN.Relays = []Relay{{
				Network: netip.MustParsePrefix("10.1.0.0/16"),
				Range:   Range{netip.MustParseAddr("10.1.0.10"), netip.MustParseAddr("10.1.0.20")},
				Router:  netip.MustParseAddr("10.1.0.1"),
			}}
		}},
		{"everything else", `[boot]
unknown = "rescue"
ttl = "45m"
chain = "ipxe"
bootset = "ipxe2"
[http]
port = 8080
rate_limit = "20MiB/s"
[tftp]
port = 6969
block_size = 512
[rescue]
ssh_keys = ["` + annasKey + `"]
[admin]
socket = "/run/other.sock"
group = "admins"
listen = "[fd00::1]:8443"
[state]
dir = "/srv/rescuebox/"
[log]
level = "debug"
`, func(c *Config) {
			c.Boot = Boot{Unknown: "rescue", TTL: 45 * time.Minute, Chain: "ipxe", BootSet: "ipxe2"}
			c.HTTP = HTTP{Port: 8080, RateLimit: 20 << 20}
			c.TFTP = TFTP{Port: 6969, BlockSize: 512}
			c.Rescue.SSHKeys = []string{annasKey}
			c.Admin = Admin{Socket: "/run/other.sock", Group: "admins", Listen: netip.MustParseAddrPort("[fd00::1]:8443")}
			c.State.Dir = "/srv/rescuebox"
			c.Log.Level = zapcore.DebugLevel
		}},
		{"machines", `[[machine]]
name = "srv01"
mac = ["52-54-00-12-34-56", "5254.0012.34AB"]
address = "192.168.77.100"
  [machine.bmc]
  url = "ipmi://192.168.77.21:6230"
  user = "rescue"
  password_file = "/etc/rescuebox/secrets/srv01"
[[machine]]
name = "7"
uuid = "4C4C4544-0042-3510-8054-B4C04F564432"
image = "rescue"
chain = "shim"
bootset = "ipxe-arm64"
secure_boot = "off"
dialect = "binl"
loader_ca = "2023"
`, func(c *Config) {
			c.Machines = []Machine{{
				Name: "srv01", MACs: []string{"52:54:00:12:34:56", "52:54:00:12:34:ab"}, Chain: "auto",
				Address: netip.MustParseAddr("192.168.77.100"),
				BMC:     &BMC{Protocol: "ipmi", Host: "192.168.77.21", Port: 6230, User: "rescue", PasswordFile: "/etc/rescuebox/secrets/srv01"},
			}, {
				Name: "7", UUID: "4c4c4544-0042-3510-8054-b4c04f564432", Image: "rescue", Chain: "shim", BootSet: "ipxe-arm64", SecureBoot: "off", Dialect: "binl", LoaderCA: "2023",
			}}
		}},
		{"drop directory", `[ticket]
drop_dir = "/srv/tickets/"
`, func(c *Config) { c.Ticket.DropDir = "/srv/tickets" }},
		{"inline tables", `[http]
[[machine]]
name = "a"
mac = ["52:54:00:12:34:56"]
bmc = { url = "redfish://bmc.example.org", user = "u", password_file = "/p", system = "Blade3" }
`, func(c *Config) {
			c.Machines = []Machine{{Name: "a", MACs: []string{"52:54:00:12:34:56"}, Chain: "auto",
				BMC: &BMC{Protocol: "redfish", Host: "bmc.example.org", User: "u", PasswordFile: "/p", System: "Blade3"}}}
		}},
		{"a machine's address behind a relay", `[[lan.relay]]
network = "10.1.0.0/16"
range = ["10.1.0.10", "10.1.0.20"]
router = "10.1.0.1"
[[machine]]
name = "a"
mac = ["52:54:00:12:34:56"]
address = "10.1.255.254"
`, func(c *Config) {
			c.LAN.Relays = []Relay{{
				Network: netip.MustParsePrefix("10.1.0.0/16"),
				Range:   Range{netip.MustParseAddr("10.1.0.10"), netip.MustParseAddr("10.1.0.20")},
				Router:  netip.MustParseAddr("10.1.0.1"),
			}}
			c.Machines = []Machine{{Name: "a", MACs: []string{"52:54:00:12:34:56"}, Chain: "auto", Address: netip.MustParseAddr("10.1.255.254")}}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := leastConfig()
			tt.want(want)
			got, err := Parse("site.toml", []byte(least+tt.toml))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, sameConfig); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The smallest file that the design promises to take.
func TestParseExampleOfTheDesign(t *testing.T) {
	got, err := Parse("site.toml", []byte(`site = "kazan-2"

[lan]
interface = "eth1"
address   = "192.168.77.1/24"
dhcp      = "auto"                               # auto | full | proxy | off
range     = ["192.168.77.100", "192.168.77.199"]

[[machine]]
name = "srv01"
mac  = ["52:54:00:12:34:56"]
  [machine.bmc]
  url           = "ipmi://192.168.77.21"         # or redfish://
  user          = "rescue"
  password_file = "/etc/rescuebox/secrets/srv01"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := leastConfig()
	want.Machines = []Machine{{Name: "srv01", MACs: []string{"52:54:00:12:34:56"}, Chain: "auto",
		BMC: &BMC{Protocol: "ipmi", Host: "192.168.77.21", User: "rescue", PasswordFile: "/etc/rescuebox/secrets/srv01"}}}
	if diff := cmp.Diff(want, got, sameConfig); diff != "" {
		t.Error(diff)
	}
}

func TestParseOtherForms(t *testing.T) {
	for name, text := range map[string]string{
		"byte order mark": "\ufeff" + least,
		"line ends":       strings.ReplaceAll(least, "\n", "\r\n"),
		"dotted keys": `site = "kazan-2"
lan.interface = "eth1"
lan.address = "192.168.77.1/24"
lan.range = ["192.168.77.100", "192.168.77.199"]`,
		"inline": `site = "kazan-2"
lan = { interface = "eth1", address = "192.168.77.1/24", range = ["192.168.77.100", "192.168.77.199"] }`,
	} {
		got, err := Parse("site.toml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(leastConfig(), got, sameConfig); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "none": 0, "1MB": 1e6, "1MB/s": 1e6, "20MiB/s": 20 << 20, "20 MiB/s": 20 << 20, "64KiB/s": 64 << 10,
		"1.5GB": 15e8, "1GiB": 1 << 30, "200Mbit/s": 25e6, "1Gbit": 125e6, "900kB/s": 9e5, "800kbit/s": 1e5,
	} {
		if got, f := rate(s); f != nil || got != want {
			t.Errorf("rate(%q) = %d, %v; want %d", s, got, f, want)
		}
	}
	for _, s := range []string{"", "20", "MiB", "-1MB", "1e9B", "20mib", "1TB", "1B/s", "99999999999999GiB", "20MiB/h", "NaNMB", "1MB/s/s"} {
		if got, f := rate(s); f == nil {
			t.Errorf("rate(%q) = %d, want an error", s, got)
		}
	}
}

func TestRange(t *testing.T) {
	r := Range{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.1.4")}
	if r.Size() != 256 || !r.Contains(r.First) || !r.Contains(r.Last) || r.Contains(r.Last.Next()) || r.Contains(r.First.Prev()) {
		t.Errorf("%v: size %d", r, r.Size())
	}
	if none := (Range{}); none.Size() != 0 || none.Contains(netip.Addr{}) || !none.IsZero() {
		t.Error("the zero range is not empty")
	}
}

func TestWarnings(t *testing.T) {
	keys := "[rescue]\nssh_keys = [\"" + annasKey + "\"]\n"
	tests := []struct{ name, toml, want string }{
		{"none", least + keys, ""},
		{"no keys", least, `site.toml:1: rescue.ssh_keys: nobody can log in to a booted rescue system: it takes keys only, and there is none (hint: put the admins' public keys there: ssh_keys = ["ssh-ed25519 AAAA… you@laptop"])`},
		{"reservation", least + "dhcp = \"proxy\"\n" + keys + "[[machine]]\nname = \"a\"\nmac = [\"52:54:00:12:34:56\"]\naddress = \"192.168.77.5\"\n",
			`site.toml:12: machine "a": address: not used: with dhcp = "proxy" the box gives no addresses (hint: reserve it in the site's own DHCP server)`},
		{"API everywhere", least + keys + "[admin]\nlisten = \"0.0.0.0:8443\"\n",
			`site.toml:9: admin.listen: the API can be reached from the rescue LAN, where any machine may be hostile (hint: name the address of the network that the admins come from)`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := Parse("site.toml", []byte(tt.toml))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range cfg.Warnings {
				got = append(got, w.Error())
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	large := write("large", strings.Repeat("#\n", maxSize/2+1))
	missing := filepath.Join(dir, "missing")
	for path, want := range map[string]string{
		write("good", least): "",
		missing:              fmt.Sprintf("read the site's configuration: stat %s: no such file or directory (hint: check the path; /usr/share/doc/rescuebox/minimal.toml is one to begin with)", missing),
		dir:                  fmt.Sprintf("read the site's configuration: %s is no regular file", dir),
		pipe:                 fmt.Sprintf("read the site's configuration: %s is no regular file", pipe),
		large:                large + ":1: the file is larger than 1024 KiB (hint: this is hardly a configuration: check the path)",
	} {
		cfg, err := Load(path)
		if got := text(err); got != want || (err == nil) != (cfg != nil) {
			t.Errorf("Load(%s) = %v, %s; want %s", path, cfg, got, want)
		}
	}
}

func TestSSHKeysFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "authorized_keys")
	parse := func(content string) (*Config, error) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return Parse("site.toml", []byte(least+"[rescue]\nssh_keys_file = \""+file+"\"\n"))
	}
	restricted := `from="10.8.0.0/24" ` + annasKey
	cfg, err := parse("# admins\n\n" + annasKey + "\r\n  " + restricted + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{annasKey, restricted}, cfg.Rescue.SSHKeys); diff != "" {
		t.Error(diff)
	}
	where := "site.toml:7: rescue.ssh_keys_file: "
	for content, want := range map[string]string{
		"\n" + annasKey + "\nssh-rsa hunter2\n": where + file + ":3: this is no SSH public key (hint: one line of a .pub file: ssh-ed25519 AAAA… you@laptop)",
		annasKey + "\n-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n": where + file +
			" holds a private key (hint: name the .pub file, and make a new key pair if others could read this one)",
		strings.Repeat("#", maxSize+1): where + file + " is larger than 1024 KiB (hint: name a file with one public key on each line)",
	} {
		if _, err := parse(content); text(err) != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	os.Remove(file)
	_, err = Parse("site.toml", []byte(least+"[rescue]\nssh_keys_file = \""+file+"\"\n"))
	if want := where + "cannot read " + file + ": no such file or directory (hint: the daemon reads it as user rescuebox: keep it in /etc/rescuebox)"; text(err) != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
