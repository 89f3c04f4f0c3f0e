package config

import (
	"net/mail"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func configFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("../../configs/*.toml")
	if err != nil || len(files) < 4 {
		t.Fatalf("configs/ has %q, %v", files, err)
	}
	return files
}

func TestEveryFileInConfigsParses(t *testing.T) {
	for _, name := range configFiles(t) {
		cfg, err := Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, w := range cfg.Warnings {
			if w.Key != "rescue.ssh_keys" { // nobody's key may be in a file that others copy
				t.Errorf("%v", w)
			}
		}
	}
}

const reference = "../../configs/reference.toml"

// commented is a line "#key = default" or "#[[table]]" of the reference.
var commented = regexp.MustCompile(`(?m)^#(\[|[a-z_]+ *= )`)

func TestReferenceNamesEveryKey(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	full := commented.ReplaceAll(text, []byte("$1"))
	s := newShape(full, func(line int, path string, f fault) { t.Errorf("%s:%d: %s: %s", reference, line, path, f.text) })
	s.scan(full)
	index := regexp.MustCompile(`\[\d+\]`)
	named := map[string]bool{}
	for path := range s.at {
		for ; path != ""; path = outer(path) { // [[notify.webhook]] names notify too
			named[index.ReplaceAllString(path, "")] = true
		}
	}
	for _, path := range rawPaths(rawType, "") {
		if !named[path] {
			t.Errorf("%s does not name %s", reference, path)
		}
	}
}

// rawPaths lists every key and table that the raw structs know.
func rawPaths(t reflect.Type, path string) []string {
	var paths []string
	for name, ft := range fieldsOf(t) {
		paths = append(paths, under(path, name))
		if ft.Kind() == reflect.Slice {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct {
			paths = append(paths, rawPaths(ft, under(path, name))...)
		}
	}
	return paths
}

// What the reference shows as defaults, in comments, is what the code fills in.
func TestReferenceShowsTheDefaults(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Parse(reference, text)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(reference, commented.ReplaceAll(text, []byte("$1")))
	if err != nil {
		t.Fatal(err)
	}
	// The comments that show examples.
	want.LAN.Relays = []Relay{{
		Network: netip.MustParsePrefix("192.168.78.0/24"),
		Range:   Range{netip.MustParseAddr("192.168.78.100"), netip.MustParseAddr("192.168.78.199")},
		Router:  netip.MustParseAddr("192.168.78.1"),
	}}
	want.Notify = Notify{
		Webhooks: []Webhook{{Name: "chat.example.org", URL: "https://chat.example.org/hooks/rescue", Kinds: UsualKinds}},
		Mails: []Mail{{Name: "mail", Server: "mail.example.org:587", From: mail.Address{Name: "rescuebox kazan-2", Address: "rescue@example.org"},
			To: []string{"anna@example.org"}, TLS: "starttls", Kinds: UsualKinds}},
		Texts: []Texting{{Name: "text", To: []string{"+79161234567"}, Kinds: UsualKinds}},
	}
	want.Uplinks = []Uplink{{Name: "wan", Interface: "eth0", Interval: wireInterval}, {Name: "lte", Modem: "lte", Metered: true, Interval: meterInterval}}
	inner := netip.MustParsePrefix("10.99.0.2/24")
	want.VPN = &VPN{Kind: "userspace", Interface: "rescuevpn", Address: inner, MTU: 1280, Hubs: []Hub{{Name: "192.0.2.1",
		PublicKey: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", Endpoints: []string{"192.0.2.1:51820"},
		AllowedIPs: []netip.Prefix{inner.Masked()}, Keepalive: 25 * time.Second, Ping: netip.MustParseAddr("10.99.0.1")}}}
	want.Modems = []Modem{{Name: "lte", Port: "/dev/serial/by-id/usb-Quectel_EG25-G-if02-port0", Auth: "none", IP: "v4v6", Data: "ppp",
		Profile: "generic", BillingDay: 1}}
	want.Text.Senders = []Sender{{Number: "+79161234567", Name: "anna", May: Commands}}
	example := func(name, mac string, m Machine) Machine {
		m.Name, m.MACs, m.Chain = name, []string{"52:54:00:12:34:" + mac}, "auto"
		return m
	}
	const secrets = "/etc/rescuebox/secrets/"
	outlet := func(args ...string) []string { return append([]string{"/usr/local/bin/outlet", "5"}, args...) }
	want.Machines = append(want.Machines,
		example("pc02", "60", Machine{Power: &Power{Kind: "pikvm", URL: "https://192.168.77.30", User: "admin", PasswordFile: secrets + "pikvm"}}),
		example("nas03", "61", Machine{Power: &Power{Kind: "pdu", Host: "192.168.77.40", Model: "apc", Outlet: 3, CommunityFile: secrets + "pdu"}}),
		example("pc04", "62", Machine{Power: &Power{Kind: "wol"}}),
		example("pc05", "63", Machine{Power: &Power{Kind: "command", On: outlet("on"), Off: outlet("off"), Cycle: outlet("cycle"), Status: outlet()}}),
		example("pc09", "67", Machine{Power: &Power{Kind: "gsm-socket", Model: "simpal", Number: "+79167654321"}}),
		example("dc06", "64", Machine{Shutdown: &Shutdown{Kind: "winrm", Host: "192.168.77.16", User: "rescue", PasswordFile: secrets + "dc06-windows"}}),
		example("fs08", "66", Machine{Shutdown: &Shutdown{Kind: "winrm", Host: "fs08.example.org", User: "rescue@EXAMPLE.ORG", PasswordFile: secrets + "fs08-windows", KDC: []string{"dc01.example.org"}}}),
		example("db07", "65", Machine{Shutdown: &Shutdown{Kind: "ssh", Host: "192.168.77.17", User: "rescue", KeyFile: secrets + "db07-ssh", HostKey: someKey}}))
	if diff := cmp.Diff(want, got, sameConfig); diff != "" {
		t.Error(diff)
	}
}

// A key with a comment of its own stands above every key of the reference.
func TestReferenceExplainsEveryKey(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`^\s*#?([a-z_]+) *= `)
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		m := key.FindStringSubmatch(line)
		if m == nil || i == 0 {
			continue
		}
		// Keys may stand in one block below one comment, as those of a relay do.
		above := strings.TrimSpace(lines[i-1])
		if !strings.HasPrefix(above, "# ") && !key.MatchString(above) && !strings.HasPrefix(above, "#[") && !strings.HasPrefix(above, "#   ") {
			t.Errorf("%s:%d: %s has no comment above it", reference, i+1, m[1])
		}
	}
}
