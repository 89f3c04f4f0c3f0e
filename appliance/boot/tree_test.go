package boot

import (
	"net/netip"
	"os"
	"strings"
	"testing"
)

func overwrite(path, text string) error {
	return os.WriteFile(path, []byte(text), 0o644)
}

// Every spelling that firmware and boot programs use finds the file; nothing
// leads out of the tree.
func TestOpenPaths(t *testing.T) {
	c := testConfig(t, newMemory())
	here := netip.MustParseAddr("192.168.77.100")
	c.MACOf = func(a netip.Addr) (MAC, bool) { return mac1, a == here }
	table := New(c)
	arm(t, table, "rescue", 0)
	for _, test := range []struct{ path, want string }{
		{"boot/525400123456/undionly.kpxe", "bios nbp"},
		{"/boot/525400123456/undionly.kpxe", "bios nbp"},
		{"//boot//525400123456//undionly.kpxe", "bios nbp"},
		{"BOOT/525400123456/UNDIONLY.KPXE", "bios nbp"},
		{`\boot\525400123456\undionly.kpxe`, "bios nbp"},
		{"boot/52-54-00-12-34-56/undionly.kpxe", "bios nbp"},
		{"boot/525400123456/undionly.kpxe\xff", "bios nbp"},
		{"boot/525400123456/undionly.kpxe\x00octet", "bios nbp"},
		{"boot/525400123456/./undionly.kpxe", "bios nbp"},
		{"boot/525400123457/snponly.efi", "MZ uefi nbp"}, // its other MAC
		{"boot/525400123456/EFI/BOOT/snponly.efi", "MZ uefi nbp"},
		{"undionly.kpxe", "bios nbp"}, // by the peer's address
		{"/EFI/BOOT/snponly.efi", "MZ uefi nbp"},
		{"boot/525400123456/vmlinuz", "kernel"},
		{"boot/525400123456/../vmlinuz", "refused: the path"},
		{`..\..\etc\passwd`, "refused: the path"},
		{"boot/525400123456/image.toml", "refused: srv01 boots rescue, which has no file"},
		{"boot/525400123456/linux", "refused: srv01 boots rescue, which has no file"}, // another image's
		{"boot/020202020202/vmlinuz", "refused: no machine has the MAC"},
		{"", "refused: the path names no file"},
		{"/", "refused: the path names no file"},
		{"\xff\xff", "refused: the path names no file"},
		{strings.Repeat("a/", 300), "refused: the path has 600 bytes"},
	} {
		f, err := table.Open(test.path, here)
		got := ""
		if err != nil {
			got = "refused: " + err.Error()
		} else {
			b := make([]byte, 64)
			n, _ := f.Read(b)
			got = string(b[:n])
			f.Close()
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.path, got, test.want)
		}
	}
	if _, err := table.Open("undionly.kpxe", netip.MustParseAddr("192.168.77.7")); err == nil {
		t.Error("a path without a machine was served to an unknown address")
	}
}

func TestScript(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	o := arm(t, table, "rescue", 0)
	got := strings.ReplaceAll(fetch(t, table, Path(mac1b, "boot.ipxe")), o.Token, "TOKEN")
	want := `#!ipxe
echo
echo rescuebox boots Rescue on srv01. You need not do anything.
echo
set tries:int32 0
:load
ifopen ||
imgfree
iseq ${platform} efi && set kernel vmlinuz || set kernel vmlinuz
kernel http://192.168.77.1/boot/525400123457/${kernel} initrd=initrd.img rescuebox.url=http://192.168.77.1/boot/525400123457/root.squashfs rescuebox.sha256=4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2 rescuebox.token=TOKEN || goto again
initrd http://192.168.77.1/boot/525400123457/initrd.img || goto again
imgfetch --name loaded http://192.168.77.1/boot/525400123457/loaded && imgfree loaded ||
boot || goto again
`
	if !strings.HasPrefix(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if same := fetch(t, table, Path(mac1b, "autoexec.ipxe")); strings.ReplaceAll(same, o.Token, "TOKEN") != got {
		t.Error("autoexec.ipxe is another script")
	}
}

func FuzzOpen(f *testing.F) {
	for _, s := range []string{"boot/525400123456/undionly.kpxe", `\boot\525400123456\..\x`, "\xff", "boot//x", strings.Repeat("/", 513)} {
		f.Add(s)
	}
	table := New(testConfig(f, newMemory()))
	arm(f, table, "rescue", 0)
	f.Fuzz(func(t *testing.T, path string) {
		file, err := table.Open(path, netip.Addr{})
		if (file == nil) == (err == nil) {
			t.Fatalf("%q: file %v, error %v", path, file, err)
		}
		if file != nil {
			file.Close()
		}
		if p, err := cleanPath(path); err == nil && (strings.HasPrefix(p, "/") || strings.Contains(p, "..") && strings.Contains("/"+p+"/", "/../")) {
			t.Fatalf("%q became %q", path, p)
		}
	})
}

func FuzzParseMAC(f *testing.F) {
	f.Add("52:54:00:12:34:56")
	f.Add("5254.0012.3456")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		if again, err := ParseMAC(m.String()); err != nil || again != m {
			t.Fatalf("%q → %v → %v, %v", s, m, again, err)
		}
	})
}

// The script has the order's token in it: whose address belongs to another
// card does not get it; its own second card, and who is not known, do.
func TestScriptIsForItsMachine(t *testing.T) {
	c := testConfig(t, newMemory())
	at := map[netip.Addr]MAC{netip.MustParseAddr("192.168.77.100"): mac1, netip.MustParseAddr("192.168.77.101"): mac1b,
		netip.MustParseAddr("192.168.77.66"): foreign}
	c.MACOf = func(a netip.Addr) (MAC, bool) { m, ok := at[a]; return m, ok }
	table := New(c)
	arm(t, table, "rescue", 0)
	for addr, want := range map[string]bool{"192.168.77.100": true, "192.168.77.101": true, "192.168.77.66": false, "10.9.9.9": true} {
		f, err := table.Open(Path(mac1, "boot.ipxe"), netip.MustParseAddr(addr))
		if (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
		if f != nil {
			f.Close()
		}
	}
	if f, err := table.Open(Path(mac1, "vmlinuz"), netip.MustParseAddr("192.168.77.66")); err != nil {
		t.Errorf("a file without a secret: %v", err)
	} else {
		f.Close()
	}
}
