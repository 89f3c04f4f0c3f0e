package images

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bzImage is the beginning of a kernel of the version.
func bzImage(version string) []byte {
	b := make([]byte, 0x1000)
	b[0x1fe], b[0x1ff] = 0x55, 0xaa
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x800-0x200)
	b[0x211] = 1
	copy(b[0x800:], version+"\x00")
	return b
}

// peImage is the beginning of a PE file for the machine and subsystem.
func peImage(machine, subsystem uint16) []byte {
	b := make([]byte, 0x200)
	copy(b, "MZ")
	b[0x3c] = 0x40
	copy(b[0x40:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[0x44:], machine)
	b[0x40+20], b[0x40+24], b[0x40+25] = 240, 0x0b, 0x02 // a PE32+ header with all its directories
	binary.LittleEndian.PutUint16(b[0x40+24+68:], subsystem)
	return b
}

// stub is a kernel that is both.
func stub(version string) []byte {
	b := bzImage(version)
	copy(b, "MZ")
	b[0x3c] = 0x82
	copy(b[0x82:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[0x86:], 0x8664)
	b[0x82+20], b[0x82+24], b[0x82+25] = 112, 0x0b, 0x02
	binary.LittleEndian.PutUint16(b[0x82+24+68:], 10)
	return b
}

func TestParseKernel(t *testing.T) {
	old := bzImage("1.0")
	old[0x211] = 0
	far := bzImage("6.1")
	binary.LittleEndian.PutUint16(far[0x20e:], 0xffff)
	for _, c := range []struct {
		name string
		head []byte
		want Kernel
	}{
		{"bzImage", bzImage("6.1.0-50-amd64 (x) #1"), Kernel{BIOS: true, Version: "6.1.0-50-amd64 (x) #1"}},
		{"bzImage with stub", stub("6.1"), Kernel{BIOS: true, EFI: true, Arch: "amd64", Version: "6.1"}},
		{"version off the end", far, Kernel{BIOS: true}},
		{"version with escapes", bzImage("6\x1b[2J\n"), Kernel{BIOS: true, Version: "6[2J"}},
		{"UEFI program", peImage(0xaa64, 10), Kernel{EFI: true, Arch: "arm64"}},
		{"Windows program", peImage(0x8664, 3), Kernel{}},
		{"zImage", old, Kernel{}},
		{"short", bzImage("6")[:0x208], Kernel{}},
		{"PE off the end", peImage(0x8664, 10)[:0x90], Kernel{}},
		{"text", []byte(strings.Repeat("not a kernel\n", 100)), Kernel{}},
		{"empty", nil, Kernel{}},
	} {
		got, err := ParseKernel(c.head)
		if !cmp.Equal(got, c.want) || (err == nil) != (c.want != Kernel{}) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

func FuzzParseKernel(f *testing.F) {
	f.Add(bzImage("6.1"))
	f.Add(stub("6.1"))
	f.Add(peImage(0x14c, 10))
	f.Fuzz(func(t *testing.T, head []byte) {
		k, err := ParseKernel(head)
		if (err == nil) != (k.BIOS || k.EFI) {
			t.Errorf("%+v, %v", k, err)
		}
		if err := checkText(k.Version, maxText); err != nil {
			t.Error(err)
		}
	})
}

// write makes a file below dir and returns its path.
func write(t testing.TB, content []byte, elem ...string) string {
	t.Helper()
	path := filepath.Join(elem...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPair(t *testing.T) {
	dir := t.TempDir()
	kernel := write(t, stub("6.1.0-50-amd64 (debian)"), dir, "vmlinuz")
	initrd := write(t, []byte("\x1f\x8bxxxxxxxx"), dir, "initrd.img")
	text := write(t, []byte("text, and no kernel"), dir, "text")
	twin := write(t, []byte("070701xxx"), dir, "b", "initrd.img")
	l := &Library{Dir: filepath.Join(dir, "library")}
	m, err := Pair{Name: "mine", Kernel: kernel, Initrd: []string{initrd}, Cmdline: "quiet"}.Import()
	if err != nil {
		t.Fatal(err)
	}
	i, err := l.Import(m)
	if err != nil {
		t.Fatal(err)
	}
	if i.Title != "Linux 6.1.0-50-amd64" || i.Arch != "amd64" || i.Up != Served || i.Source != kernel {
		t.Errorf("%+v", i)
	}
	if got := i.Loads(true); !cmp.Equal(got, []string{"vmlinuz", "initrd.img"}) {
		t.Errorf("loads %v", got)
	}
	for _, c := range []struct {
		pair Pair
		want string
	}{
		{Pair{Kernel: text}, "neither a Linux kernel (bzImage) nor a UEFI program"},
		{Pair{Kernel: filepath.Join(dir, "none")}, "no such file"},
		{Pair{Kernel: dir}, "no regular file"},
		{Pair{Kernel: kernel, Initrd: []string{kernel}}, "vmlinuz is no initrd"},
		{Pair{Kernel: kernel, Initrd: []string{initrd, twin}}, "two files are called initrd.img"},
	} {
		if _, err := c.pair.Import(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.pair, err, c.want)
		}
	}
}

// installer makes a directory as Debian's package has it.
func installer(t *testing.T, elem ...string) string {
	dir := filepath.Join(elem...)
	write(t, stub("6.1.0-50-amd64"), dir, "debian-installer", "amd64", "linux")
	write(t, []byte("\x1f\x8binitrd"), dir, "debian-installer", "amd64", "initrd.gz")
	write(t, []byte("Debian version:  12 (bookworm)\nInstaller build: 20230607+deb12u15\n"), dir, "version.info")
	return dir
}

func TestNetboot(t *testing.T) {
	dir := installer(t, t.TempDir(), "te[x]t")
	for _, dir := range []string{dir, filepath.Join(dir, "debian-installer", "amd64")} {
		m, err := Netboot("setup", dir)
		if err != nil {
			t.Fatal(err)
		}
		i, err := (&Library{Dir: t.TempDir()}).Import(m)
		if err != nil {
			t.Fatal(err)
		}
		line, err := i.CommandLine(i.sample())
		if err != nil {
			t.Fatal(err)
		}
		for _, arg := range []string{"rescue/enable=true", "hostname=srv01", "BOOTIF=01-52-54-00-12-34-56", "netcfg/get_nameservers=192.168.177.101", "console=ttyS0,115200n8"} {
			if !strings.Contains(" "+line+" ", " "+arg+" ") {
				t.Errorf("%s is not in %q", arg, line)
			}
		}
		if i.Up != Served || !strings.Contains(i.Title, "rescue mode") {
			t.Errorf("%+v", i)
		}
	}
	m, _ := Netboot("setup", dir)
	if m.Image.Title != "Debian 12 (bookworm) installer, rescue mode" || m.Image.Source != "debian-installer 20230607+deb12u15" {
		t.Errorf("title %q, source %q", m.Image.Title, m.Image.Source)
	}
}

func TestNetbootRefuses(t *testing.T) {
	dir := t.TempDir()
	file := write(t, nil, dir, "file")
	var missing *Missing
	if _, err := Netboot("x", filepath.Join(dir, "none")); !errors.As(err, &missing) || missing.Package != "debian-installer-12-netboot-amd64" {
		t.Errorf("no directory: %v", err)
	}
	if _, err := Netboot("x", dir); err == nil || !strings.Contains(err.Error(), "is no netboot directory") {
		t.Errorf("empty directory: %v", err)
	}
	if _, err := Netboot("x", file); err == nil || !strings.Contains(err.Error(), "is no directory") {
		t.Errorf("file: %v", err)
	}
	two := installer(t, dir, "two")
	write(t, stub("6"), two, "debian-installer", "arm64", "linux")
	if _, err := Netboot("x", two); err == nil || !strings.Contains(err.Error(), "several architectures") {
		t.Errorf("two architectures: %v", err)
	}
}

func TestNewestInstaller(t *testing.T) {
	root := t.TempDir()
	var missing *Missing
	if _, err := newestInstaller(root); !errors.As(err, &missing) {
		t.Errorf("nothing there: %v", err)
	}
	base := filepath.Join(root, "usr/lib/debian-installer/images")
	installer(t, base, "9", "amd64", "text")
	want := installer(t, base, "12", "amd64", "text")
	installer(t, base, "testing", "amd64", "text")
	if got, err := newestInstaller(root); got != want || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestMemtest(t *testing.T) {
	root := t.TempDir()
	var missing *Missing
	if _, err := Memtest("memtest86+", root); !errors.As(err, &missing) || missing.Package != "memtest86+" {
		t.Errorf("nothing there: %v", err)
	}
	write(t, bzImage(""), root, "boot/memtest86+x64.bin")
	write(t, peImage(0x8664, 10), root, "boot/memtest86+x64.efi")
	m, err := Memtest("memtest86+", root)
	if err != nil {
		t.Fatal(err)
	}
	i, err := (&Library{Dir: t.TempDir()}).Import(m)
	if err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(i.Loads(false), []string{"memtest.bin"}) || !cmp.Equal(i.Loads(true), []string{"memtest.efi"}) {
		t.Errorf("loads %v and %v", i.Loads(false), i.Loads(true))
	}
}

func TestDebianIPXE(t *testing.T) {
	root := t.TempDir()
	var missing *Missing
	if _, err := DebianIPXE("ipxe", root); !errors.As(err, &missing) || missing.Package != "ipxe" {
		t.Errorf("nothing there: %v", err)
	}
	write(t, []byte("nbp"), root, "usr/lib/ipxe/undionly.kpxe")
	write(t, peImage(0x8664, 10), root, "usr/lib/ipxe/snponly.efi")
	write(t, peImage(0x8664, 10), root, "boot/ipxe.efi")
	m, err := DebianIPXE("ipxe", root)
	if err != nil {
		t.Fatal(err)
	}
	i, err := (&Library{Dir: t.TempDir()}).Import(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"undionly.kpxe", "snponly.efi", "ipxe.efi"} {
		if _, ok := i.File(name); !ok {
			t.Errorf("no %s in %v", name, i.Files)
		}
	}
	// Debian 13 has more of it: ipxe.efi is a link there, and there is one for arm64.
	write(t, peImage(0xaa64, 10), root, "usr/lib/ipxe/ipxe-arm64.efi")
	write(t, peImage(0x8664, 10), root, "usr/lib/ipxe/ipxe-amd64.efi")
	if err := os.Symlink("ipxe-amd64.efi", filepath.Join(root, "usr/lib/ipxe/ipxe.efi")); err != nil {
		t.Fatal(err)
	}
	if m, err = DebianIPXE("ipxe", root); err != nil || m.From["ipxe-arm64.efi"] == "" || filepath.Dir(m.From["ipxe.efi"]) != filepath.Join(root, "usr/lib/ipxe") {
		t.Errorf("Debian 13: %v, %v", m.From, err)
	}
	write(t, []byte("text"), root, "usr/lib/ipxe/snponly.efi")
	if _, err := DebianIPXE("ipxe", root); err == nil || !strings.Contains(err.Error(), "snponly.efi is no UEFI program") {
		t.Errorf("broken NBP: %v", err)
	}
}

func TestEnsureIPXEKeepsTheAdmins(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	m, err := NBPs("ipxe", "mine", []string{write(t, []byte("my own"), t.TempDir(), "undionly.kpxe")})
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Import(m)
	if err != nil {
		t.Fatal(err)
	}
	if added, err := EnsureIPXE(l, "ipxe"); added || err != nil {
		t.Errorf("added %v, %v", added, err)
	}
	if got, err := l.Get("ipxe"); err != nil || !cmp.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

// The packages themselves, where they are installed.
func TestDebianPackages(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	for _, name := range WellKnownNames() {
		m, err := WellKnown(name)
		var missing *Missing
		if errors.As(err, &missing) && os.Getenv("CI") != "true" {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		i, err := l.Import(m)
		if err != nil {
			t.Fatal(err)
		}
		for uefi, file := range map[bool]string{false: i.Loads(false)[0], true: i.Loads(true)[0]} {
			k, err := ReadKernel(filepath.Join(i.Dir, file))
			if err != nil || (uefi && !k.EFI) || (!uefi && !k.BIOS) {
				t.Errorf("%s, uefi %v: %s is %+v, %v", name, uefi, file, k, err)
			}
		}
	}
	added, err := EnsureIPXE(l, "ipxe")
	if err != nil || !added {
		t.Errorf("iPXE: added %v, %v", added, err)
	}
}
