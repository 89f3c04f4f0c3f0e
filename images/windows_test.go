package images

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rescuebox/images/disc"
	"rescuebox/images/wim"
)

// versioned is a program with a version resource.
func versioned(machine uint16, version ...uint16) []byte {
	b := append(peImage(machine, 3), utf16Bytes("VS_VERSION_INFO\x00")...)
	b = append(b, 0, 0) // to a multiple of four
	b = binary.LittleEndian.AppendUint32(b, 0xfeef04bd)
	for _, n := range []uint16{0, 1, version[1], version[0], version[3], version[2]} {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return b
}

// pe is a look-alike of a Windows PE with DaRT: none of its files are Microsoft's.
func pe(machine uint16) map[string][]byte {
	sys := "Windows/System32/"
	files := map[string][]byte{
		sys + "boot/winload.exe": peImage(machine, 16), sys + "boot/winload.efi": peImage(machine, 10), sys + "winload.exe": peImage(machine, 16),
		sys + "ntoskrnl.exe": versioned(machine, 10, 0, 26100, 1742), sys + "wpeinit.exe": peImage(machine, 3), sys + "wpeutil.exe": peImage(machine, 3),
		sys + "cmd.exe": peImage(machine, 3), sys + "startnet.cmd": []byte("wpeinit\r\n"), sys + "bcryptprimitives.dll": peImage(machine, 3),
		sys + "winpeshl.ini":           []byte("[LaunchApps]\r\n\"%windir%\\system32\\netstart.exe -network -remount\"\r\n"),
		sys + "netstart.exe":           peImage(machine, 3),
		sys + "RemoteRecovery.exe":     versioned(machine, 10, 0, 0, 0),
		sys + "WaitForConnection.ex":   nil, // not the file that is looked for
		"sources/recovery/RecEnv.exe":  peImage(machine, 3),
		"Windows/Boot/PXE/pxeboot.n12": []byte("n12"), "Windows/Boot/PXE/bootmgr.exe": peImage(0x14c, 16), "Windows/Boot/PXE/wdsmgfw.efi": peImage(machine, 10),
		"Windows/Boot/EFI/bootmgfw.efi": append(peImage(machine, 10), "2011"...), "Windows/Boot/EFI_EX/bootmgfw_EX.efi": append(peImage(machine, 10), "2023"...),
		"Windows/Boot/EFI/boot.stl": []byte("stl"), "Windows/Boot/DVD/PCAT/boot.sdi": []byte("$SDI0001 of the WIM"), "Windows/Boot/Fonts/wgl4_boot.ttf": []byte("wgl4"),
		"Windows/Boot/Fonts/segmono_boot.ttf": []byte("segmono"), "Windows/Boot/Fonts/other.ttf": []byte("not for loaders"),
	}
	for n := range 50 {
		files[fmt.Sprintf("Windows/inf/driver%02d.inf", n)] = bytes.Repeat([]byte{byte(n)}, 1000*n)
	}
	return files
}

// without is a look-alike with files taken out, or put in with content.
func without(files map[string][]byte, change map[string][]byte) map[string][]byte {
	files = maps.Clone(files)
	for name, content := range change {
		if content == nil {
			delete(files, name)
		} else {
			files[name] = content
		}
	}
	return files
}

func plant(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, content, dir, filepath.FromSlash(name))
	}
	return dir
}

// capture makes a WIM of trees, one image of each.
func capture(t testing.TB, args []string, trees ...map[string][]byte) string {
	t.Helper()
	needTool(t, "wimlib-imagex", "wimtools")
	path := filepath.Join(t.TempDir(), "boot.wim")
	if len(args) == 0 {
		args = []string{"--compress=LZX", "--chunk-size=32K", "--boot"}
	}
	for n, tree := range trees {
		verb := "append"
		use := []string{}
		if n == 0 {
			verb, use = "capture", args
		} else if slices.Contains(args, "--boot") {
			use = []string{"--boot"}
		}
		command(t, "wimlib-imagex", append([]string{verb, plant(t, tree), path, fmt.Sprintf("Image %d", n+1)}, use...)...)
	}
	return path
}

// windowsISO packs files as Windows' ISOs are: UDF, and ISO 9660 with a README alone.
func windowsISO(t testing.TB, files map[string][]byte, args ...string) string {
	t.Helper()
	needTool(t, "genisoimage", "genisoimage")
	path := filepath.Join(t.TempDir(), "DaRT 10 (x64).iso")
	if len(args) == 0 {
		args = []string{"-udf", "-hide", "sources", "-hide", "boot", "-hide", "efi"}
	}
	command(t, "genisoimage", append(append([]string{"-quiet"}, args...), "-o", path, plant(t, files))...)
	return path
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// addWindows imports into a new library.
func addWindows(t testing.TB, w WindowsFiles) (Image, error, error) {
	t.Helper()
	list, err := w.Imports()
	if err != nil {
		return Image{}, nil, err
	}
	m := list[0]
	defer m.Close()
	l := &Library{Dir: filepath.Join(t.TempDir(), "library")}
	i, err := l.Import(m)
	if err == nil {
		if again, err := l.Get(i.Name); err != nil || !cmp.Equal(again, i) {
			t.Errorf("kept as %+v, %v, was %+v", again, err, i)
		}
		if err := l.Verify(i); err != nil {
			t.Error(err)
		}
	}
	return i, m.Without, err
}

// wantDaRT is what is found in an ISO with pe.
var wantDaRT = WindowsPE{WIM: "boot.wim", SDI: "boot.sdi", Index: 1, Build: "10.0.26100", DaRT: "10",
	WinloadBIOS: `\windows\system32\boot\winload.exe`, WinloadEFI: `\windows\system32\boot\winload.efi`,
	Has:      []string{"netstart.exe", "wpeinit.exe", "remoterecovery.exe", "bcryptprimitives.dll", "winpeshl.ini", "startnet.cmd", "cmd.exe", "wpeutil.exe", "recenv.exe"},
	Winpeshl: "[LaunchApps]\r\n\"%windir%\\system32\\netstart.exe -network -remount\"\r\n",
	Fonts:    []string{"wgl4_boot.ttf", "segmono_boot.ttf", "segoe_slboot.ttf"}}

// The same image from everything that an admin may have it in.
func TestWindowsSources(t *testing.T) {
	content := pe(0x8664)
	wimPath := capture(t, nil, content)
	tree := map[string][]byte{"README.TXT": []byte("no UDF?"), "sources/boot.wim": read(t, wimPath), "boot/boot.sdi": []byte("$SDI0001 of the ISO"),
		"boot/fonts/wgl4_boot.ttf": []byte("of the ISO"), "boot/fonts/segoe_slboot.ttf": []byte("segoe"), "efi/boot/bootx64.efi": peImage(0x8664, 10)}
	unpacked := plant(t, tree)
	capital := map[string][]byte{}
	for name, b := range tree {
		capital[strings.ToUpper(name)] = b
	}
	for name, c := range map[string]struct {
		path, name string
		sdi        string
		fonts      []string
	}{
		"ISO with UDF":           {windowsISO(t, tree), "dart-10-x64", "$SDI0001 of the ISO", wantDaRT.Fonts},
		"ISO with Joliet":        {windowsISO(t, tree, "-J"), "dart-10-x64", "$SDI0001 of the ISO", wantDaRT.Fonts},
		"ISO 9660 in capitals":   {windowsISO(t, capital, "-iso-level", "3"), "dart-10-x64", "$SDI0001 of the ISO", wantDaRT.Fonts},
		"unpacked directory":     {unpacked, "", "$SDI0001 of the ISO", wantDaRT.Fonts},
		"in capitals":            {plant(t, capital), "", "$SDI0001 of the ISO", wantDaRT.Fonts},
		"the WIM in its tree":    {filepath.Join(unpacked, "sources", "boot.wim"), "dart", "$SDI0001 of the ISO", wantDaRT.Fonts},
		"the WIM and nothing":    {wimPath, "dart", "$SDI0001 of the WIM", wantDaRT.Fonts[:2]},
		"the WIM with its frame": {write(t, read(t, wimPath), filepath.Dir(write(t, []byte("$SDI0001 beside"), t.TempDir(), "Boot.SDI")), "mine.wim"), "mine", "$SDI0001 beside", wantDaRT.Fonts[:2]},
	} {
		i, without, err := addWindows(t, WindowsFiles{Path: c.path})
		if err != nil || without != nil {
			t.Errorf("%s: %v, %v", name, without, err)
			continue
		}
		want := wantDaRT
		want.Fonts = c.fonts
		if diff := cmp.Diff(want, *i.Windows); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if i.Name != c.name && c.name != "" || i.Arch != "amd64" || i.Up != Agent || i.Kind != Windows || i.Title != "Microsoft DaRT 10, Windows PE 10.0.26100" {
			t.Errorf("%s: %+v", name, i)
		}
		for file, content := range map[string]string{"boot.wim": string(tree["sources/boot.wim"]), "boot.sdi": c.sdi, "pxeboot.n12": "n12", "boot.stl": "stl",
			"bootmgfw.efi": string(content["Windows/Boot/EFI/bootmgfw.efi"]), "bootmgfw_ex.efi": string(content["Windows/Boot/EFI_EX/bootmgfw_EX.efi"]), "wgl4_boot.ttf": "wgl4"} {
			if f, ok := i.File(file); !ok || f.SHA256 != sumHex(content) {
				t.Errorf("%s: %s is %+v", name, file, f)
			}
		}
		if f, _ := i.File("bootmgfw.efi"); f.Arch != "amd64" {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// What each kind of Windows PE is, and what it lacks.
func TestWindowsKinds(t *testing.T) {
	x64, x86, arm := pe(0x8664), pe(0x14c), pe(0xaa64)
	sys := "Windows/System32/"
	noDaRT := map[string][]byte{sys + "RemoteRecovery.exe": nil, sys + "winpeshl.ini": nil}
	for name, c := range map[string]struct {
		tree     map[string][]byte
		want     func(*WindowsPE)
		arch     string
		warnings []string // one part of each
	}{
		"DaRT 10":       {tree: x64, arch: "amd64", warnings: []string{"bootmgfw.efi has no signature", "bootmgfw_ex.efi has no signature"}},
		"plain":         {tree: without(x64, noDaRT), arch: "amd64", want: func(w *WindowsPE) { w.DaRT, w.Winpeshl = "", "" }},
		"DaRT 7":        {tree: without(x64, map[string][]byte{sys + "RemoteRecovery.exe": versioned(0x8664, 7, 0, 0, 0), sys + "ntoskrnl.exe": versioned(0x8664, 6, 1, 7601, 17514)}), arch: "amd64", want: func(w *WindowsPE) { w.DaRT, w.Build = "7", "6.1.7601" }},
		"DaRT 8.1":      {tree: without(x64, map[string][]byte{sys + "RemoteRecovery.exe": versioned(0x8664, 8, 1, 0, 0)}), arch: "amd64", want: func(w *WindowsPE) { w.DaRT = "8.1" }},
		"by Windows":    {tree: without(x64, map[string][]byte{sys + "RemoteRecovery.exe": peImage(0x8664, 3), sys + "ntoskrnl.exe": versioned(0x8664, 6, 3, 9600, 1)}), arch: "amd64", want: func(w *WindowsPE) { w.DaRT, w.Build = "8.1", "6.3.9600" }},
		"of no version": {tree: without(x64, map[string][]byte{sys + "RemoteRecovery.exe": []byte("?"), sys + "ntoskrnl.exe": nil}), arch: "amd64", want: func(w *WindowsPE) { w.DaRT, w.Build = "yes", "" }},
		"32 bit":        {tree: x86, arch: "i386", warnings: []string{"bootmgfw.efi has no", "bootmgfw_ex.efi has no", "a 32-bit Windows PE boots on UEFI only where"}},
		"arm64": {tree: without(arm, map[string][]byte{sys + "boot/winload.exe": nil, sys + "winload.exe": nil, "Windows/Boot/PXE/pxeboot.n12": nil}), arch: "arm64",
			want: func(w *WindowsPE) { w.WinloadBIOS = "" }, warnings: []string{"bootmgfw.efi has no", "bootmgfw_ex.efi has no"}},
		"no pxeboot": {tree: without(x64, map[string][]byte{"Windows/Boot/PXE/pxeboot.n12": nil}), arch: "amd64",
			warnings: []string{"pxeboot.n12 missing, which BIOS machines need for Microsoft's own way: they boot the image with iPXE and wimboot", "bootmgfw.efi", "bootmgfw_ex.efi"}},
		"no frame": {tree: without(x64, map[string][]byte{"Windows/Boot/DVD/PCAT/boot.sdi": nil}), arch: "amd64", want: func(w *WindowsPE) { w.SDI = "" },
			warnings: []string{"boot.sdi is missing, without which no loader boots the WIM", "bootmgfw.efi", "bootmgfw_ex.efi"}},
		"a frame of ConfigMgr": {tree: without(x64, map[string][]byte{"Windows/Boot/DVD/PCAT/boot.sdi": nil, "sms/Boot/Boot.sdi": []byte("$SDI0001")}), arch: "amd64"},
		"no loaders for UEFI": {tree: without(x64, map[string][]byte{"Windows/Boot/EFI/bootmgfw.efi": nil, "Windows/Boot/EFI_EX/bootmgfw_EX.efi": nil}), arch: "amd64",
			warnings: []string{"bootmgfw.efi is missing, without which UEFI"}},
		"BIOS only": {tree: without(x64, map[string][]byte{sys + "boot/winload.efi": nil}), arch: "amd64", want: func(w *WindowsPE) { w.WinloadEFI = "" },
			warnings: []string{"no winload.efi"}},
		"no way in": {tree: without(x64, map[string][]byte{sys + "boot/winload.efi": nil, sys + "RemoteRecovery.exe": nil, sys + "bcryptprimitives.dll": nil}), arch: "amd64",
			want: func(w *WindowsPE) { w.WinloadEFI, w.DaRT = "", "" }, warnings: []string{"no winload.efi", "no ticket will come"}},
		"winload above": {tree: without(x64, map[string][]byte{sys + "boot/winload.exe": nil}), arch: "amd64", want: func(w *WindowsPE) { w.WinloadBIOS = `\windows\system32\winload.exe` }},
		"of a setup medium": {tree: without(x64, map[string][]byte{"setup.exe": []byte("MZ")}), arch: "amd64",
			want: func(w *WindowsPE) {
				w.Has = append(slices.DeleteFunc(w.Has, func(s string) bool { return s == "setup.exe" }), "setup.exe")
			}},
		"of a deployment": {tree: without(x64, map[string][]byte{"Unattend.xml": []byte("<unattend/>")}), arch: "amd64",
			want: func(w *WindowsPE) {
				w.Has = append(slices.DeleteFunc(w.Has, func(s string) bool { return s == "unattend.xml" }), "unattend.xml")
			}},
		"a code page": {tree: without(x64, map[string][]byte{sys + "winpeshl.ini": []byte("[LaunchApps]\r\nX:\\\xcf\xf3\xf1\xea.exe\r\n")}), arch: "amd64",
			want: func(w *WindowsPE) { w.Winpeshl = "[LaunchApps]\r\nX:\\\uf7cf\uf7f3\uf7f1\uf7ea.exe\r\n" }},
		"UTF-16": {tree: without(x64, map[string][]byte{sys + "winpeshl.ini": append([]byte{0xff, 0xfe}, utf16Bytes("[LaunchApp]\r\nAppPath=x\\Пуск.exe\r\n")...)}), arch: "amd64",
			want: func(w *WindowsPE) { w.Winpeshl = "[LaunchApp]\r\nAppPath=x\\Пуск.exe\r\n" }},
	} {
		i, notes, err := addWindows(t, WindowsFiles{Path: capture(t, nil, c.tree), Name: "x"})
		if err != nil || notes != nil {
			t.Errorf("%s: %v, %v", name, notes, err)
			continue
		}
		want := wantDaRT
		want.Fonts, want.Has = want.Fonts[:2], nil
		for _, program := range windowsPrograms {
			for file := range c.tree {
				if strings.EqualFold("/"+file, strings.ReplaceAll(programPath(program), `\`, "/")) {
					want.Has = append(want.Has, program)
				}
			}
		}
		if c.want != nil {
			c.want(&want)
		}
		if diff := cmp.Diff(want, *i.Windows); diff != "" || i.Arch != c.arch {
			t.Errorf("%s: %s (-want +got):\n%s", name, i.Arch, diff)
		}
		if want := map[bool]Signal{true: Served, false: Agent}[name == "no way in"]; i.Up != want {
			t.Errorf("%s is up when %q says so, not %q", name, i.Up, want)
		}
		got := i.Warnings()
		if c.warnings == nil {
			continue
		}
		for n := range max(len(got), len(c.warnings)) {
			if n >= len(got) || n >= len(c.warnings) || !strings.Contains(got[n], c.warnings[n]) {
				t.Errorf("%s: warnings are %q, want %q", name, got, c.warnings)
				break
			}
		}
	}
}

// The boot.wim of a setup ISO has two images, of which the second boots.
func TestWindowsIndex(t *testing.T) {
	plain := without(pe(0x8664), map[string][]byte{"Windows/System32/RemoteRecovery.exe": nil})
	installed := without(plain, map[string][]byte{"Windows/System32/wpeinit.exe": nil, "Windows/System32/wpeutil.exe": nil})
	two := capture(t, nil, plain, pe(0x8664))
	none := capture(t, []string{"--compress=XPRESS"}, installed, plain)
	for name, c := range map[string]struct {
		path  string
		index int
		want  int
		dart  string
	}{
		"the one that boots": {two, 0, 2, "10"}, "another": {two, 1, 1, ""}, "no boot index, the second is a PE": {none, 0, 2, ""},
	} {
		i, _, err := addWindows(t, WindowsFiles{Path: c.path, Index: c.index, Name: "x"})
		if err != nil || i.Windows.Index != c.want || i.Windows.DaRT != c.dart {
			t.Errorf("%s: %+v, %v", name, i.Windows, err)
		}
	}
	for want, w := range map[string]WindowsFiles{
		"has no image 3":                   {Path: two, Index: 3},
		"has no Windows PE in image 1":     {Path: none, Index: 1},
		"holds no Windows PE":              {Path: capture(t, []string{"--compress=none"}, installed)},
		"has no image -1":                  {Path: two, Index: -1},
		"sdi is not what its name says":    {Path: two, With: []string{write(t, []byte("<html>"), t.TempDir(), "boot.sdi")}},
		"no file that a Windows image has": {Path: two, With: []string{write(t, []byte("x"), t.TempDir(), "boot.ini")}},
		"no such file or directory":        {Path: two, With: []string{"/nowhere/boot.sdi"}},
	} {
		_, _, err := addWindows(t, w)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if h := new(Hinted); strings.HasPrefix(want, "ha") && (!errors.As(err, &h) || !strings.Contains(h.Hint, "1 Image 1")) {
			t.Errorf("%s: hint %q", want, h.Hint)
		}
	}
}

// XML data comes before version resources, but not before the programs' architecture.
func TestWindowsXML(t *testing.T) {
	path := capture(t, nil, pe(0x8664))
	command(t, "wimlib-imagex", "info", path, "1", "--image-property", "WINDOWS/ARCH=0", "--image-property", "WINDOWS/VERSION/MAJOR=10",
		"--image-property", "WINDOWS/VERSION/MINOR=0", "--image-property", "WINDOWS/VERSION/BUILD=19041", "--image-property", "WINDOWS/VERSION/SPBUILD=1")
	i, notes, err := addWindows(t, WindowsFiles{Path: path, Name: "x"})
	if err != nil || i.Windows.Build != "10.0.19041" || i.Arch != "amd64" || notes == nil || !strings.Contains(notes.Error(), "says that it is for i386") {
		t.Errorf("%+v, %v, %v", i, notes, err)
	}
}

// Files that the admin adds take the place of those that are found.
func TestWindowsWith(t *testing.T) {
	bare := without(pe(0x8664), map[string][]byte{"Windows/Boot/DVD/PCAT/boot.sdi": nil, "Windows/Boot/PXE/pxeboot.n12": nil})
	dir := t.TempDir()
	with := []string{write(t, []byte("$SDI0001 mine"), dir, "BOOT.SDI"), write(t, []byte("mine"), dir, "pxeboot.n12"), write(t, append(peImage(0x8664, 10), "mine"...), dir, "bootmgfw_EX.efi")}
	i, _, err := addWindows(t, WindowsFiles{Path: capture(t, nil, bare), With: with, Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"boot.sdi": "$SDI0001 mine", "pxeboot.n12": "mine", "bootmgfw_ex.efi": string(peImage(0x8664, 10)) + "mine"} {
		if f, _ := i.File(name); f.SHA256 != sumHex(want) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if i.Windows.SDI != "boot.sdi" {
		t.Errorf("%+v", i.Windows)
	}
}

// What cannot be served is refused, with the command that cures it.
func TestWindowsRefused(t *testing.T) {
	content := pe(0x8664)
	whole := capture(t, nil, content)
	wimBytes := read(t, whole)
	solid := capture(t, []string{"--solid", "--boot"}, content)
	parts := filepath.Join(t.TempDir(), "boot.swm")
	command(t, "wimlib-imagex", "split", capture(t, []string{"--compress=none"}, content), parts, "0.1")
	noise := make([]byte, 300_000) // does not shrink, so that the middle of the WIM is within it
	rand.NewChaCha8([32]byte{}).Read(noise)
	flipped := read(t, capture(t, nil, without(content, map[string][]byte{"Windows/inf/noise.bin": noise})))
	flipped[len(flipped)/2] ^= 0x55
	dir := t.TempDir()
	odd := windowsISO(t, map[string][]byte{"sources/install.wim": wimBytes, "README.TXT": nil})
	iso := read(t, windowsISO(t, map[string][]byte{"sources/boot.wim": wimBytes}))
	rewritable, stub := write(t, make([]byte, 16<<20), dir, "rewritable.iso"), bytes.Clone(iso)
	needTool(t, "mkudffs", "udftools")
	command(t, "mkudffs", "--media-type=cdrw", "--blocksize=2048", rewritable)
	for at := 256 << 11; at < len(stub); at += 1 << 11 { // the anchors of its UDF
		if stub[at] == 2 && stub[at+1] == 0 {
			stub[at]++
		}
	}
	for name, c := range map[string]struct {
		path string
		is   error
		want string
		hint string
	}{
		"solid":        {write(t, read(t, solid), dir, "install.esd"), wim.ErrSolid, "solid", "wimlib-imagex export " + filepath.Join(dir, "install.esd") + " all boot-lzx.wim --compress=LZX --chunk-size=32K --boot"},
		"solid in ISO": {windowsISO(t, map[string][]byte{"sources/boot.wim": read(t, solid)}), wim.ErrSolid, "sources/boot.wim of ", "sources/boot.wim && wimlib-imagex export boot.wim all"},
		"split":        {parts, wim.ErrSplit, "one part of a split WIM", "wimlib-imagex join boot-whole.wim '" + strings.TrimSuffix(parts, ".swm") + "*.swm'"},
		"damaged":      {write(t, flipped, dir, "flipped.wim"), wim.ErrDamaged, "noise.bin", "compare its SHA-256"},
		"cut off":      {write(t, wimBytes[:len(wimBytes)/2], dir, "cut.wim"), wim.ErrDamaged, "", "compare its SHA-256"},
		"ISO cut off":  {write(t, iso[:len(iso)-len(wimBytes)/2-400<<10], dir, "cut.iso"), disc.ErrDamaged, "", ""},
		"rewritable":   {rewritable, errors.ErrUnsupported, "UDF of a kind that is not read here", "7-Zip"},
		"no UDF":       {write(t, stub, dir, "stub.iso"), disc.ErrDamaged, "no sources/boot.wim in it: ", ""},
		"text":         {write(t, []byte("text"), dir, "text.wim"), wim.ErrNoWIM, "is no WIM", "name the ISO"},
		"empty":        {write(t, nil, dir, "empty.iso"), nil, "is empty", ""},
		"another ISO":  {odd, nil, "no sources/boot.wim in it: in sources are install.wim", "take the ISO that DaRT's wizard made"},
		"nothing":      {filepath.Join(dir, "none.iso"), nil, "no such file", ""},
		"directory":    {t.TempDir(), nil, "no sources/boot.wim in it", ""},
		"a pipe":       {"/dev/null", nil, "is no regular file", ""},
	} {
		_, _, err := addWindows(t, WindowsFiles{Path: c.path})
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		var h *Hinted
		if c.hint != "" && (!errors.As(err, &h) || !strings.Contains(h.Hint, c.hint)) {
			t.Errorf("%s: hint %+v of %v", name, h, err)
		}
	}
}

// The command in the hint does cure a solid WIM.
func TestWindowsCure(t *testing.T) {
	for _, boot := range []string{"--boot", "--no-acls"} { // with a boot index and without
		cure(t, capture(t, []string{"--solid", boot}, pe(0x8664)))
	}
}

func cure(t *testing.T, solid string) {
	t.Helper()
	_, _, err := addWindows(t, WindowsFiles{Path: solid})
	var h *Hinted
	if !errors.As(err, &h) {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(h.Hint, " (Debian")
	dir := t.TempDir()
	command(t, "sh", "-c", "cd "+dir+" && "+line)
	i, _, err := addWindows(t, WindowsFiles{Path: filepath.Join(dir, "boot-lzx.wim"), Name: "x"})
	if err != nil || i.Windows.DaRT != "10" {
		t.Errorf("%+v, %v", i.Windows, err)
	}
}

func TestWindowsChunks(t *testing.T) {
	_, notes, err := addWindows(t, WindowsFiles{Path: capture(t, []string{"--compress=LZX", "--chunk-size=64K", "--boot"}, pe(0x8664))})
	if err != nil || notes == nil || !strings.Contains(notes.Error(), "chunks of 65536 bytes") || !strings.Contains(notes.Error(), "wimlib-imagex export") {
		t.Errorf("%v, %v", notes, err)
	}
}

// Who has signed the loaders. The authorities' keys are not ours: of 2011's the certificate is at
// hand, so that an own key in its name is found out; 2023's name alone counts as unproven.
func TestWindowsSigners(t *testing.T) {
	needTool(t, "sbsign", "sbsigntool")
	needTool(t, "openssl", "openssl")
	needFile(t, unsigned, "ipxe")
	dir := t.TempDir()
	loaders := map[string][]byte{}
	for name, ca := range map[string]string{"false": MicrosoftWindows2011, "2023": MicrosoftWindows2023, "own": "Own CA"} {
		testKey(t, dir, "ca"+name, ca, "")
		testKey(t, dir, name, "Microsoft Windows", "ca"+name)
		sbsign(t, dir, name, unsigned, filepath.Join(dir, name+".efi"))
		loaders[name] = read(t, filepath.Join(dir, name+".efi"))
	}
	const old, ex = "Windows/Boot/EFI/bootmgfw.efi", "Windows/Boot/EFI_EX/bootmgfw_EX.efi"
	patched := bytes.Clone(loaders["2023"])
	patched[len(patched)/2] ^= 1
	for name, c := range map[string]struct {
		change   map[string][]byte
		old, ex  []string
		warnings string
	}{
		"own and 2023": {map[string][]byte{old: loaders["own"], ex: loaders["2023"]}, []string{"Own CA"}, []string{MicrosoftWindows2023 + unproven}, "2023 only: machines whose firmware does not know it"},
		"own":          {map[string][]byte{old: loaders["own"], ex: nil}, []string{"Own CA"}, nil, "signed by Own CA only, as that of Windows 7"},
		"false 2011":   {map[string][]byte{old: loaders["false"], ex: nil}, nil, nil, "bootmgfw.efi has no signature that fits it"},
		"patched":      {map[string][]byte{old: patched, ex: nil}, nil, nil, "bootmgfw.efi has no signature that fits it"},
	} {
		i, _, err := addWindows(t, WindowsFiles{Path: capture(t, nil, without(pe(0x8664), c.change)), Name: "x"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for file, want := range map[string][]string{"bootmgfw.efi": c.old, "bootmgfw_ex.efi": c.ex} {
			if f, _ := i.File(file); !cmp.Equal(f.Signers, want) {
				t.Errorf("%s: %s is signed by %q", name, file, f.Signers)
			}
		}
		got := strings.Join(i.Warnings(), "\n")
		if (got == "") != (c.warnings == "") || !strings.Contains(got, c.warnings) {
			t.Errorf("%s: warnings %q", name, got)
		}
	}
}

func TestLoaderCA(t *testing.T) {
	for want, signers := range map[string][]string{
		"":          {"Own CA", MicrosoftUEFI2011, MicrosoftWindows2011 + "x"},
		"2011":      {MicrosoftWindows2011},
		"2023":      {"Own CA", MicrosoftWindows2023 + unproven},
		"2011 2023": {MicrosoftWindows2023, MicrosoftWindows2011},
	} {
		if got := strings.Join(File{Signers: signers}.LoaderCA(), " "); got != want {
			t.Errorf("%q: %q", signers, got)
		}
		warnings := strings.Join(generationWarnings(signers), "")
		if len(strings.Fields(want)) == 1 != strings.Contains(warnings, want+" only") && want != "" {
			t.Errorf("%q: %q", signers, warnings)
		}
	}
}

// An ISO for several CPUs is several images, each with its own loaders.
func TestWindowsBothArchitectures(t *testing.T) {
	files := map[string][]byte{"setup.exe": []byte("x")}
	for dir, machine := range map[string]uint16{"x64": 0x8664, "x86": 0x14c} {
		files[dir+"/sources/boot.wim"] = read(t, capture(t, nil, pe(machine)))
		files[dir+"/boot/boot.sdi"] = []byte("$SDI0001 of " + dir)
	}
	for name, path := range map[string]string{"ISO": windowsISO(t, files, "-udf"), "directory": plant(t, files)} {
		if !IsWindows(path) {
			t.Errorf("%s: no Windows", name)
		}
		list, err := WindowsFiles{Path: path, Name: "setup"}.Imports()
		if err != nil || len(list) != 2 {
			t.Fatalf("%s: %v, %v", name, list, err)
		}
		l := &Library{Dir: t.TempDir()}
		for _, m := range list {
			defer m.Close()
			if _, err := l.Import(m); err != nil {
				t.Fatal(err)
			}
		}
		for cpu, want := range map[string][2]string{"amd64": {"setup", "$SDI0001 of x64"}, "i386": {"setup-i386", "$SDI0001 of x86"}} {
			i, err := l.GetFor("setup", cpu)
			if f, _ := i.File("boot.sdi"); err != nil || i.Name != want[0] || i.Arch != cpu || f.SHA256 != sumHex(want[1]) {
				t.Errorf("%s for %s: %+v, %v", name, cpu, i, err)
			}
		}
	}
}

// Loaders that the WIM lacks are taken from the ISO: of the image's CPU, and not what is no program.
func TestWindowsLoadersOfTheISO(t *testing.T) {
	bare := read(t, capture(t, nil, without(pe(0x14c), map[string][]byte{"Windows/Boot/EFI/bootmgfw.efi": nil, "Windows/Boot/EFI_EX/bootmgfw_EX.efi": nil})))
	ia32, root := append(peImage(0x14c, 10), "ia32"...), append(peImage(0x14c, 10), "root"...)
	for name, c := range map[string]struct {
		files map[string][]byte
		want  []byte
	}{
		"that of the CPU":  {map[string][]byte{"efi/boot/bootx64.efi": peImage(0x8664, 10), "efi/boot/bootia32.efi": ia32, "bootmgr.efi": root}, ia32},
		"that of the root": {map[string][]byte{"efi/boot/bootx64.efi": peImage(0x8664, 10), "bootmgr.efi": root}, root},
		"none that is one": {map[string][]byte{"bootmgr.efi": []byte("text")}, nil},
	} {
		c.files["sources/boot.wim"] = bare
		i, notes, err := addWindows(t, WindowsFiles{Path: windowsISO(t, c.files), Name: "x"})
		if f, ok := i.File("bootmgfw.efi"); err != nil || ok != (c.want != nil) || ok && f.SHA256 != sumHex(string(c.want)) || (notes == nil) != ok {
			t.Errorf("%s: %+v, %v, %v", name, f, notes, err)
		}
	}
}

func TestWindowsProgress(t *testing.T) {
	last := map[string][2]int64{}
	list, err := WindowsFiles{Path: capture(t, nil, pe(0x8664)), Name: "x", Progress: func(step string, done, total int64) {
		if was := last[step]; done < was[0] || done > total {
			t.Errorf("%s: %d of %d after %v", step, done, total, was)
		}
		last[step] = [2]int64{done, total}
	}}.Imports()
	if err != nil {
		t.Fatal(err)
	}
	m := list[0]
	defer m.Close()
	if _, err := (&Library{Dir: t.TempDir()}).Import(m); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"checking boot.wim", "copying boot.wim"} {
		if got := last[step]; got[0] == 0 || got[0] != got[1] {
			t.Errorf("%s ended at %v", step, got)
		}
	}
}

func TestWindowsName(t *testing.T) {
	for path, want := range map[string]string{"/x/dart.iso": "dart", "DaRT 10 (x64).ISO": "dart-10-x64", "boot.wim": "dart", "/mnt/Sources": "dart", "Спасение.iso": "dart",
		"-.iso": "dart", ".hidden.iso": "hidden", "/a/win11_24h2.wim": "win11_24h2", strings.Repeat("a", 200) + ".iso": "dart"} {
		if got := windowsName(path, WindowsPE{DaRT: "10"}); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := windowsName("boot.wim", WindowsPE{}); got != "winpe" {
		t.Error(got)
	}
}

// Image.toml may be a stranger's.
func TestCheckWindows(t *testing.T) {
	good := func() Image {
		return Image{Name: "x", Kind: Windows, Up: Agent, Windows: &WindowsPE{WIM: "boot.wim", Index: 1}, Files: []File{{Name: "boot.wim", SHA256: sumHex("")}}}
	}
	for want, change := range map[string]func(*Image){
		"":                             func(*Image) {},
		"needs a [windows] table":      func(i *Image) { i.Windows = nil },
		"has no kernel":                func(i *Image) { i.Kernel = "boot.wim" },
		"up \"\" is not known":         func(i *Image) { i.Up = "" },
		"index 0 is no image":          func(i *Image) { i.Windows.Index = 0 },
		"no [[file]] has that name":    func(i *Image) { i.Windows.WIM = "other.wim" },
		`sdi "boot.sdi"`:               func(i *Image) { i.Windows.SDI = "boot.sdi" },
		"is longer than 260 bytes":     func(i *Image) { i.Windows.WinloadEFI = strings.Repeat("a", 261) },
		"line break or control":        func(i *Image) { i.Windows.Has = []string{"a\nb"} },
		"more than 256":                func(i *Image) { i.Windows.Has = make([]string, 257) },
		"winpeshl.ini holds control":   func(i *Image) { i.Windows.Winpeshl = "a\x00" },
		"winpeshl.ini is longer than ": func(i *Image) { i.Windows.Winpeshl = strings.Repeat("a", maxWinpeshl+1) },
		`"x.ttf" is the WIM or a font`: func(i *Image) { i.Windows.Fonts = []string{"x.ttf"} },
	} {
		i := good()
		change(&i)
		if err := i.check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func FuzzFileVersion(f *testing.F) {
	f.Add(versioned(0x8664, 10, 0, 26100, 1))
	f.Add(utf16Bytes("VS_VERSION_INFO\x00VS_VERSION_INFO\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v := fileVersion(b); v != "" && strings.Count(v, ".") != 3 {
			t.Error(v)
		}
	})
}

func FuzzDecodeText(f *testing.F) {
	f.Add([]byte{0xff, 0xfe, 'a', 0, 0, 0xd8})
	f.Add([]byte("\xef\xbb\xbfПуск"))
	f.Add([]byte("\x8f\xe3"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if text := decodeText(b); strings.ToValidUTF8(text, "") != text {
			t.Errorf("%q", text)
		}
	})
}

var _ io.ReaderAt = (*disc.File)(nil)
