package dhcp

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rescuebox/appliance/boot"
)

// TestGolden keeps what we answer to the packets of real firmware; run with
// GOLDEN=1 to write the files anew.
func TestGolden(t *testing.T) {
	m := boot.MAC{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}
	for _, name := range []string{"intel-undi-bios", "ovmf-x64", "ipxe-bios", "flexboot", "no-option-93", "ovmf-http"} {
		for _, mode := range []Mode{Full, Proxy} {
			t.Run(name+"-"+string(mode), func(t *testing.T) {
				raw := readHex(t, filepath.Join("testdata", name+".hex"))
				p, err := parse(raw)
				if err != nil {
					t.Fatal(err)
				}
				got := fmt.Sprintf("%s %s %s uuid %s user class %q\n\n", p.kind, p.client.Program, p.client.Arch, p.client.UUID, p.client.UserClass)
				b := &orders{ordered: map[boot.MAC]bool{m: true}}
				bubble(t, func(s *Server) { s.Boot, s.Mode = b, mode }, func(t *testing.T, s *Server, w *fakeWire) {
					s.dispatch(raw, portServer, netip.MustParseAddrPort("0.0.0.0:68"))
					settle()
					for _, r := range w.take() {
						got += fmt.Sprintf("%s to %s %s\n%s\n", r.way, r.to, r.dst, strings.ReplaceAll(r.Summary(), "\x00", `\0`))
					}
				})
				golden(t, filepath.Join("testdata", name+"-"+string(mode)+".golden"), got)
			})
		}
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; now it is\n%s", file, got)
	}
}

// readHex reads a packet as text: hexadecimal digits, comments after #.
func readHex(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parseHex(t, string(b))
}

func parseHex(t testing.TB, s string) (out []byte) {
	t.Helper()
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		for _, f := range strings.Fields(line) {
			var v []byte
			if _, err := fmt.Sscanf(f, "%x", &v); err != nil {
				t.Fatalf("%q: %v", f, err)
			}
			out = append(out, v...)
		}
	}
	return out
}
