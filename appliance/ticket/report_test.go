package ticket

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

// testKey is a host key made of one repeated byte.
func testKey(t testing.TB, b byte) (signer ssh.Signer, line, fingerprint string) {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune(b)), ed25519.SeedSize))))
	if err != nil {
		t.Fatal(err)
	}
	key := signer.PublicKey()
	return signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), ssh.FingerprintSHA256(key)
}

// report is an honest report with some fields changed; nil drops a field.
func report(t testing.TB, changes map[string]any) []byte {
	t.Helper()
	_, line, print := testKey(t, 'a')
	fields := map[string]any{
		"kind": "ssh", "user": "root", "port": 22,
		"addresses": []string{"192.168.77.100", "fe80::5054:ff:fe12:3456%eth0"},
		"hostkeys":  []string{print}, "hostkey_lines": []string{line + " root@rescue"},
		"serial": "CZ1234", "uuid": "4c4c4544-0042-3510-8054-b4c04f564432", "hostname": "rescue",
		"system": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.1.0-28-amd64",
	}
	maps.Copy(fields, changes)
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	raw, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseReport(t *testing.T) {
	_, line, print := testKey(t, 'a')
	_, line2, print2 := testKey(t, 'b')
	want := Report{
		Kind: SSH, User: "root", Port: 22,
		Addresses: []netip.Addr{netip.MustParseAddr("192.168.77.100"), netip.MustParseAddr("fe80::5054:ff:fe12:3456")},
		HostKeys:  []string{print}, HostKeyLines: []string{line},
		Serial: "CZ1234", UUID: "4c4c4544-0042-3510-8054-b4c04f564432", Hostname: "rescue",
		System: "Debian GNU/Linux 12 (bookworm)", Kernel: "6.1.0-28-amd64",
	}
	with := func(change func(*Report)) Report {
		r := want
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		changes map[string]any
		want    Report
	}{
		"honest":              {nil, want},
		"defaults":            {map[string]any{"user": nil, "port": nil}, want},
		"newer agent":         {map[string]any{"load": 0.3}, want},
		"fingerprints only":   {map[string]any{"hostkey_lines": nil}, with(func(r *Report) { r.HostKeyLines = nil })},
		"lines only":          {map[string]any{"hostkeys": nil}, want},
		"address twice":       {map[string]any{"addresses": []string{"10.0.0.1", "::ffff:10.0.0.1"}}, with(func(r *Report) { r.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.1")} })},
		"escape sequence":     {map[string]any{"serial": " \x1b]0;x\x07CZ\n\u202e1\u00a0\ufffd "}, with(func(r *Report) { r.Serial = "]0;xCZ1" })},
		"long text":           {map[string]any{"hostname": strings.Repeat("ж", 1000)}, with(func(r *Report) { r.Hostname = strings.Repeat("ж", maxText) })},
		"two keys, any order": {map[string]any{"hostkeys": []string{print2, print}, "hostkey_lines": []string{line, line2}}, with(func(r *Report) { r.HostKeys = []string{print, print2}; r.HostKeyLines = []string{line, line2} })},
	} {
		got, err := ParseReport(report(t, c.changes))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if d := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%s: -want +got\n%s", name, d)
		}
	}
}

func TestParseReportRefuses(t *testing.T) {
	_, line, print := testKey(t, 'a')
	_, _, print2 := testKey(t, 'b')
	many := func(n int, s string) []string { return slices.Repeat([]string{s}, n) }
	for want, changes := range map[string]map[string]any{
		"kind is not":        {"kind": "dart"},
		"no user name":       {"user": "-oProxyCommand=reboot"},
		"port is not within": {"port": 65536},
		`field "port" has`:   {"port": "22"},
		`field "addresses"`:  {"addresses": "192.168.77.100"},
		"address 2 of":       {"addresses": []string{"10.0.0.1", "10.0.0.1; reboot"}},
		"65 addresses":       {"addresses": many(65, "10.0.0.1")},
		"more than 16 host":  {"hostkeys": many(17, print)},
		"no host key":        {"hostkeys": nil, "hostkey_lines": nil},
		"host key 1 of":      {"hostkeys": []string{print[:len(print)-1]}, "hostkey_lines": nil},
		"not those of its":   {"hostkeys": []string{print2}},
		"fingerprints are":   {"hostkeys": []string{print, print2}},
		"line 1 of the":      {"hostkey_lines": []string{"ssh-ed25519 AAAA' -o ProxyCommand=reboot"}},
		"plain public key":   {"hostkey_lines": []string{line + "\n" + line}},
		"line 2 of the":      {"hostkey_lines": []string{line, `command="reboot" ` + line}},
	} {
		got, err := ParseReport(report(t, changes))
		if err == nil || !strings.Contains(err.Error(), want) || !cmp.Equal(got, Report{}) {
			t.Errorf("want an error with %q, got %v, %+v", want, err, got)
		}
	}
	for want, raw := range map[string]string{
		"JSON of a rescue agent":      "\xff\xfe<E>",
		"unexpected end":              `{"kind":"ssh"`,
		"after top-level":             string(report(t, nil)) + "{}",
		fmt.Sprint(MaxReport + 1):     string(report(t, nil)) + strings.Repeat(" ", MaxReport+1-len(report(t, nil))),
		"the report's kind is not \"": `null`,
	} {
		if _, err := ParseReport([]byte(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// FuzzParseReport: whatever comes, what is let through is bounded, safe in a
// shell's command line and a terminal, and reads the same when written again.
func FuzzParseReport(f *testing.F) {
	_, line, print := testKey(f, 'a')
	f.Add(report(f, nil))
	f.Add(report(f, map[string]any{"port": 2222, "user": "", "hostkeys": nil}))
	f.Add([]byte(fmt.Sprintf(`{"kind":"ssh","KIND":"ssh","hostkey_lines":["# x\n%s"],"hostkeys":["%s"],"addresses":["::1%%$(reboot)"]}`, line, print)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ParseReport(raw)
		if err != nil {
			if !cmp.Equal(r, Report{}) {
				t.Fatalf("half a result beside %v: %+v", err, r)
			}
			return
		}
		if len(r.Addresses) > maxAddresses || len(r.HostKeys) > maxHostKeys || len(r.HostKeyLines) > maxHostKeys {
			t.Fatalf("not bounded: %+v", r)
		}
		for _, s := range []string{r.Serial, r.UUID, r.Hostname, r.System, r.Kernel} {
			if len([]rune(s)) > maxText || strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) {
				t.Fatalf("%q is not clean", s)
			}
		}
		tk := Ticket{Raw: raw, From: netip.MustParseAddr("192.168.77.100")}
		tk.parse(where{lan: netip.MustParsePrefix("192.168.77.0/24")})
		if cmd := Command(tk); !commandForm.MatchString(cmd) {
			t.Fatalf("command %q", cmd)
		}
		again, err := json.Marshal(wireReport{
			Kind: "ssh", User: r.User, Port: &r.Port, Addresses: texts(r.Addresses), HostKeys: r.HostKeys, HostKeyLines: r.HostKeyLines,
			Serial: r.Serial, UUID: r.UUID, Hostname: r.Hostname, System: r.System, Kernel: r.Kernel,
		})
		if err != nil {
			t.Fatal(err)
		}
		r2, err := ParseReport(again)
		if err != nil || fmt.Sprint(r) != fmt.Sprint(r2) {
			t.Fatalf("%+v read again is %+v, %v", r, r2, err)
		}
	})
}

func texts(addrs []netip.Addr) (list []string) {
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}
