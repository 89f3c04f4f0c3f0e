package boottest

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"rescuebox/images"
)

// TestProgram: what looks like a program to us does to whoever imports it.
func TestProgram(t *testing.T) {
	for cpu := range machines {
		b := Program(Shim, cpu, 10_000)
		pe, err := images.ReadPE(bytes.NewReader(b), int64(len(b)))
		if err != nil || pe.Arch != cpu || !pe.EFI {
			t.Errorf("%s: %+v %v", cpu, pe, err)
		}
		if kind, ok := kindOf(b); !ok || kind != Shim || madeFor(b) != cpu || len(b) != 10_000 {
			t.Errorf("%s: %q, made for %q", cpu, kind, madeFor(b))
		}
	}
	if madeFor(Program(IPXE1, "", 100)) != "" {
		t.Error("a BIOS program looks like a PE file")
	}
}

func firmwareOf(arch int) *Machine {
	return &Machine{Card: &Card{MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}}, self: identity{arch: arch}, Hurry: 1000}
}

// TestStartRefuses: a program for another CPU, and what is none.
func TestStartRefuses(t *testing.T) {
	for _, tt := range []struct {
		arch int
		data []byte
		want string
	}{
		{7, Program(Shim, "arm64", 0), `made for "arm64"`},
		{6, Program(GRUB, "amd64", 0), `made for "amd64"`},
		{0, Program(Shim, "amd64", 0), `made for "amd64"`},
		{7, Program(IPXE1, "", 0), `the firmware is "amd64"`},
		{7, []byte("<html>"), "is no program"},
	} {
		err := firmwareOf(tt.arch).start(Loaded{Name: "f", Data: tt.data}, origin{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d: %v, want %s", tt.arch, err, tt.want)
		}
	}
}

// TestScript runs iPXE scripts that load nothing.
func TestScript(t *testing.T) {
	for _, tt := range []struct{ name, script, want string }{
		{"exit", "#!ipxe\nexit 1\n", "started nothing"},
		{"gives up", "#!ipxe\nset n:int32 0\n:again\ninc n\niseq ${n} 12 && goto out ||\ngoto again\n:out\nexit\n", "started nothing"},
		{"unknown command", "#!ipxe\nfrobnicate\n", "command not found"},
		{"for ever", "#!ipxe\n:a\ngoto a\n", "does not end"},
		{"a failure ends it", "#!ipxe\niseq a b\nfrobnicate\n", "failed"},
		{"or saves it", "#!ipxe\niseq a b ||\nexit\n", "started nothing"},
		{"and skips", "#!ipxe\niseq a b && frobnicate ||\nexit\n", "started nothing"},
		{"platform", "#!ipxe\niseq ${platform} efi && exit || frobnicate\n", "started nothing"},
		{"no label", "#!ipxe\ngoto nowhere\n", "failed"},
	} {
		if err := firmwareOf(7).runScript([]byte(tt.script)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// TestGRUB runs configurations that load nothing.
func TestGRUB(t *testing.T) {
	for _, tt := range []struct{ name, config, want string }{
		{"reboot", "set timeout=0\necho \"it's $timeout\"\nreboot\n", "restarts"},
		{"for and if", "for try in 1 2 3; do\n\tif boot; then\n\t\tfrob\n\telse\n\t\techo $try\n\tfi\ndone\nreboot\n", "restarts"},
		{"unknown command", "insmod http\n", `no command "insmod"`},
		{"nothing", "echo\n", "started nothing"},
		{"open quote", "echo 'x\n", "not closed"},
		{"stray fi", "fi\n", "without its beginning"},
		{"quoted words are no keywords' business", "echo 'a;b' \"c d\"\nreboot\n", "restarts"},
	} {
		g := &grub{m: firmwareOf(7), vars: map[string]string{}}
		if err := g.config(tt.config); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func FuzzGRUB(f *testing.F) {
	f.Add("for a in 1 2; do\nif boot; then reboot; else echo '$a'; fi\ndone\n")
	f.Fuzz(func(t *testing.T, config string) {
		if _, err := parseGRUB(config); err != nil && !strings.Contains(err.Error(), "GRUB") {
			t.Error(err)
		}
	})
}

func FuzzScript(f *testing.F) {
	f.Add("#!ipxe\nset a 1\niseq ${a} 1 && exit ||\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "sleep") || strings.Contains(text, "dhcp") || strings.Contains(text, "://") {
			t.Skip()
		}
		firmwareOf(7).runScript([]byte(text))
	})
}
