package images

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// importAll imports what an admin gave, and stops at the first error.
func importAll(l *Library, b BootFiles) (list []Image, err error) {
	imports, err := b.Imports()
	if err != nil {
		return nil, err
	}
	for _, m := range imports {
		i, err := l.Import(m)
		if err != nil {
			return list, err
		}
		list = append(list, i)
	}
	return list, err
}

// ipxeRelease lays out a directory as a release of iPXE with Secure Boot has
// it: unsigned programs and signed ones, for two architectures, and one for the BIOS.
func ipxeRelease(t testing.TB) string {
	dir := t.TempDir()
	for sub, machine := range map[string]uint16{"x86_64": 0x8664, "x86_64-sb": 0x8664, "arm64-sb": 0xaa64} {
		arch := map[uint16]string{0x8664: "x64", 0xaa64: "aa64"}[machine]
		for _, name := range []string{"ipxe.efi", "snponly.efi", "ipxe-shim" + arch + ".efi", "snponly-shim" + arch + ".efi"} {
			write(t, append(peImage(machine, 10), sub...), dir, sub, name)
		}
	}
	write(t, []byte("nbp"), dir, "undionly.kpxe")
	return dir
}

func names(i Image) (list []string) {
	for _, f := range i.Files {
		list = append(list, f.Name+" "+f.Arch)
	}
	return list
}

// One boot set per architecture, the signed programs, and the BIOS one with the first.
func TestBootSetRelease(t *testing.T) {
	dir := ipxeRelease(t)
	l := &Library{Dir: t.TempDir()}
	list, err := importAll(l, BootFiles{Name: "ipxe20", Source: "iPXE 2.0", Paths: []string{dir}})
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	want := [][]string{
		{"ipxe-shimx64.efi amd64", "ipxe.efi amd64", "snponly-shimx64.efi amd64", "snponly.efi amd64", "undionly.kpxe "},
		{"ipxe-shimaa64.efi arm64", "ipxe.efi arm64", "snponly-shimaa64.efi arm64", "snponly.efi arm64"},
	}
	for n, name := range []string{"ipxe20", "ipxe20-arm64"} {
		i, err := l.Get(name)
		if err != nil || i.Arch != []string{"amd64", "arm64"}[n] {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
		if diff := cmp.Diff(want[n], names(i)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for cpu, want := range map[string]string{"amd64": "ipxe20", "arm64": "ipxe20-arm64", "i386": "ipxe20", "": "ipxe20"} {
		if i, err := l.GetFor("ipxe20", cpu); err != nil || i.Name != want {
			t.Errorf("for %q: %s, %v", cpu, i.Name, err)
		}
	}
	if _, err := l.GetFor("none", "amd64"); !errors.As(err, new(*NotFound)) {
		t.Errorf("none: %v", err)
	}
	signed, _ := l.Get("ipxe20")
	if f, _ := signed.File("ipxe.efi"); f.SHA256 != sumHex(string(peImage(0x8664, 10))+"x86_64-sb") {
		t.Error("the unsigned program was taken")
	}
	alone, err := importAll(l, BootFiles{Name: "arm", Paths: []string{filepath.Join(dir, "arm64-sb")}})
	if err != nil || len(alone) != 1 || alone[0].Arch != "arm64" {
		t.Errorf("a directory of one architecture: %+v, %v", alone, err)
	}
}

func TestBootSetRefused(t *testing.T) {
	x64, arm := peImage(0x8664, 10), peImage(0xaa64, 10)
	for name, c := range map[string]struct {
		files map[string][]byte
		sums  map[string]string
		want  string
	}{
		"a page of a web server":  {files: map[string][]byte{"ipxe.efi": []byte("<html>404")}, want: "ipxe.efi is no UEFI program"},
		"a program of Windows":    {files: map[string][]byte{"ipxe.efi": peImage(0x8664, 3)}, want: "no UEFI program"},
		"an unknown machine":      {files: map[string][]byte{"ipxe.efi": peImage(0x5064, 10)}, want: "nothing here boots"},
		"Debian's name":           {files: map[string][]byte{"ipxe.efi": x64, "shimx64.efi.signed": x64}, want: "call it shimx64.efi"},
		"no second stage":         {files: map[string][]byte{"snponly-shimx64.efi": x64, "ipxe.efi": x64}, want: "loads snponly.efi (for amd64), which is not among the files"},
		"another's second stage":  {files: map[string][]byte{"ipxe-shimx64.efi": x64, "ipxe.efi": arm}, want: "loads ipxe.efi (for amd64)"},
		"another hash":            {files: map[string][]byte{"ipxe.efi": x64}, sums: map[string]string{"ipxe.efi": sumHex("")}, want: "was expected"},
		"a hash for nothing":      {files: map[string][]byte{"ipxe.efi": x64}, sums: map[string]string{"ipxe.fi": sumHex("")}, want: "not among the files"},
		"a hash that is none":     {files: map[string][]byte{"ipxe.efi": x64}, sums: map[string]string{"ipxe.efi": "abc"}, want: "is no SHA-256"},
		"sums: another file":      {files: map[string][]byte{"ipxe.efi": x64, sumsName: []byte(sumHex("") + "  x\n")}, want: "nothing vouches"},
		"sums: another hash":      {files: map[string][]byte{"ipxe.efi": x64, sumsName: []byte(sumHex("") + " *ipxe.efi\n")}, want: "was expected"},
		"sums: no list of hashes": {files: map[string][]byte{"ipxe.efi": x64, sumsName: []byte("<html>")}, want: "line 1"},
		"nothing":                 {files: map[string][]byte{"sub/README": []byte("x")}, want: "no boot programs"},
		"two of one architecture": {files: map[string][]byte{"a/ipxe.efi": x64, "b/ipxe.efi": x64}, want: "a and b"},
	} {
		dir, l := t.TempDir(), &Library{Dir: t.TempDir()}
		for file, content := range c.files {
			write(t, content, dir, file)
		}
		list, err := importAll(l, BootFiles{Name: "set", Paths: []string{dir}, SHA256: c.sums})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
		if left, _ := l.List(); len(left) != 0 {
			t.Errorf("%s: %v came in", name, left)
		}
	}
}

// Hashes that fit: of a list, and given one by one, in either case.
func TestBootSetHashes(t *testing.T) {
	dir := ipxeRelease(t)
	var sums strings.Builder
	for _, sub := range []string{"x86_64-sb", "arm64-sb", "."} {
		files, err := filesOf(filepath.Join(dir, sub), sub)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			content, _ := os.ReadFile(f.path)
			sums.WriteString(sumHex(string(content)) + "  ./" + f.listed + "\n")
		}
	}
	write(t, []byte(sums.String()), dir, sumsName)
	x64 := sumHex(string(peImage(0x8664, 10)) + "x86_64-sb")
	l := &Library{Dir: t.TempDir()}
	for _, given := range []map[string]string{nil, {"x86_64-sb/ipxe.efi": x64}, {"x86_64-sb/ipxe.efi": strings.ToUpper(x64)}} {
		if list, err := importAll(l, BootFiles{Name: "set", Paths: []string{dir}, SHA256: given}); err != nil || len(list) != 2 {
			t.Errorf("%v: %v, %v", given, list, err)
		}
	}
	write(t, append(peImage(0xaa64, 10), "changed"...), dir, "arm64-sb", "ipxe.efi")
	if _, err := importAll(l, BootFiles{Name: "set", Paths: []string{dir}}); err == nil || !strings.Contains(err.Error(), "ipxe.efi has SHA-256") {
		t.Errorf("a changed file: %v", err)
	}
}

// Real signatures: an own signed iPXE with its shim comes in; a damaged one does not,
// be it a boot program or a kernel; an unsigned second stage under a signed shim neither.
func TestBootSetSigned(t *testing.T) {
	needTool(t, "sbsign", "sbsigntool")
	needTool(t, "openssl", "openssl")
	needFile(t, unsigned, "ipxe")
	dir, l := t.TempDir(), &Library{Dir: t.TempDir()}
	testKey(t, dir, "own", "Own Key", "")
	set := func(name string) string { return filepath.Join(dir, "set", name) }
	if err := os.Mkdir(set(""), 0o755); err != nil {
		t.Fatal(err)
	}
	sbsign(t, dir, "own", unsigned, set("snponly.efi"))
	sbsign(t, dir, "own", unsigned, set("snponly-shimx64.efi"))
	b := BootFiles{Name: "ipxe20", Paths: []string{filepath.Dir(set("x"))}}
	list, err := importAll(l, b)
	if err != nil || !cmp.Equal(list[0].Files[0].Signers, []string{"Own Key"}) {
		t.Fatalf("%+v, %v", list, err)
	}
	if got, err := l.Get("ipxe20"); err != nil || !cmp.Equal(got, list[0]) {
		t.Errorf("kept as %+v, %v", got, err)
	}
	content, err := os.ReadFile(set("snponly.efi"))
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	write(t, content, set("snponly.efi"))
	if _, err := importAll(l, b); !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), "snponly.efi") {
		t.Errorf("a damaged program: %v", err)
	}
	if _, err := l.Import(Import{Image: Image{Name: "k", Kind: Linux, Kernel: "snponly.efi"}, From: map[string]string{"snponly.efi": set("snponly.efi")}}); !errors.Is(err, ErrUnfit) {
		t.Errorf("a damaged kernel: %v", err)
	}
	plain, _ := os.ReadFile(unsigned)
	write(t, plain, set("snponly.efi"))
	if _, err := importAll(l, b); err == nil || !strings.Contains(err.Error(), "is not signed") {
		t.Errorf("an unsigned second stage: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	for want, signers := range map[string][]string{
		"":                         {MicrosoftUEFI2011, MicrosoftUEFI2023},
		"authority of 2023":        {MicrosoftUEFI2011},
		"not updated since 2023":   {MicrosoftUEFI2023, "Own Key"},
		"ipxe-shimx64.efi is sign": {MicrosoftUEFI2011, DebianSecureBoot},
	} {
		got := strings.Join(Image{Kind: BootSet, Files: []File{{Name: "ipxe-shimx64.efi", Signers: signers}}}.Warnings(), "\n")
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%v: %q", signers, got)
		}
	}
	if got := (Image{Kind: BootSet, Files: []File{{Name: "grubx64.efi", Signers: []string{DebianSecureBoot}}, {Name: "x.kpxe"}}}).Warnings(); got != nil {
		t.Errorf("Debian's own key: %q", got)
	}
}

func TestLoader(t *testing.T) {
	i := Image{Files: []File{{Name: "undionly.kpxe"}, {Name: "shimx64.efi", Arch: "amd64"}, {Name: "shimaa64.efi", Arch: "arm64"},
		{Name: "SNPONLY.EFI", Arch: "amd64"}, {Name: "odd.efi"}}}
	for _, c := range []struct {
		cpu, want string
		names     []string
	}{
		{"amd64", "shimx64.efi", []string{"shimx64.efi", "snponly.efi"}},
		{"amd64", "SNPONLY.EFI", []string{"grubx64.efi", "snponly.efi"}},
		{"arm64", "shimaa64.efi", []string{"shimx64.efi", "snponly.efi", "shimaa64.efi"}},
		{"arm64", "", []string{"shimx64.efi", "snponly.efi", "undionly.kpxe"}},
		{"i386", "", []string{"shimx64.efi", "snponly.efi"}},
		{"i386", "undionly.kpxe", []string{"undionly.kpxe"}},
		{"arm64", "", []string{"odd.efi", "absent"}},
		{"i386", "", []string{"odd.efi"}},
		{"", "odd.efi", []string{"odd.efi"}},
		{"amd64", "", nil},
	} {
		f, ok := i.Loader(c.cpu, c.names...)
		if f.Name != c.want || ok != (c.want != "") {
			t.Errorf("%q of %v: %q, %v", c.cpu, c.names, f.Name, ok)
		}
	}
}

// A library from before has no arch and signers: they are read when it is.
func TestLibraryFromBefore(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	added, err := l.Add(Image{Name: "old", Kind: BootSet}, map[string]io.Reader{
		"snponly.efi": strings.NewReader(string(peImage(0xaa64, 10))), "undionly.kpxe": strings.NewReader("nbp")})
	if err != nil || added.Files[0].Arch != "arm64" {
		t.Fatal(added, err)
	}
	path := filepath.Join(added.Dir, tomlName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := strings.Replace(string(text), "arch = 'arm64'\n", "", 1)
	if before == string(text) {
		t.Fatalf("no arch in %s", text)
	}
	write(t, []byte(before), path)
	for range 2 {
		if got, err := l.Get("old"); err != nil || !cmp.Equal(got, added) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	write(t, peImage(0x8664, 10), added.Dir, "snponly.efi")
	if got, err := l.Get("old"); err != nil || got.Files[0].Arch != "amd64" {
		t.Errorf("the file is another: %+v, %v", got, err)
	}
}

func FuzzParseSums(f *testing.F) {
	f.Add([]byte(sumHex("") + "  ./a b\n" + sumHex("") + " *c\r\n\n# x\n"))
	f.Add([]byte(sumHex("") + "  ./"))
	f.Fuzz(func(t *testing.T, text []byte) {
		sums, err := parseSums(text)
		for name, hash := range sums {
			if err == nil && (name == "" || !hashForm.MatchString(hash)) {
				t.Errorf("%q: %q", name, hash)
			}
		}
	})
}

// debianRoot is a root directory with some of Debian's files, by their places.
func debianRoot(t testing.TB, places ...string) string {
	root := t.TempDir()
	for _, place := range places {
		machine := uint16(0x8664)
		if strings.Contains(place, "aa64") {
			machine = 0xaa64
		}
		write(t, append(peImage(machine, 10), place...), root, place)
	}
	return root
}

func TestDebianShim(t *testing.T) {
	x64, arm := debianShims[0], debianShims[1]
	for name, c := range map[string]struct {
		places  []string
		missing string
		want    []string
	}{
		"nothing":      {missing: "shim-signed"},
		"no GRUB":      {places: []string{x64.shim}, missing: "grub-efi-amd64-signed"},
		"amd64":        {places: []string{x64.shim, x64.grub}, want: []string{"grubx64.efi", "shimx64.efi"}},
		"arm64":        {places: []string{arm.shim, arm.grub, arm.mm}, want: []string{"grubaa64.efi", "mmaa64.efi", "shimaa64.efi"}},
		"both":         {places: []string{x64.shim, x64.grub, arm.shim, arm.grub}, want: []string{"grubaa64.efi", "grubx64.efi", "shimaa64.efi", "shimx64.efi"}},
		"half of both": {places: []string{x64.shim, x64.grub, arm.shim}, want: []string{"grubx64.efi", "shimx64.efi"}},
	} {
		m, err := DebianShim("shim", debianRoot(t, c.places...))
		var missing *Missing
		if errors.As(err, &missing); (missing == nil) != (c.missing == "") || missing != nil && missing.Package != c.missing {
			t.Errorf("%s: %v", name, err)
		}
		if got := slices.Sorted(maps.Keys(m.From)); !cmp.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The real packages: who signed what, and that the 32-bit GRUB is one and always the same.
func TestEnsureShim(t *testing.T) {
	needFile(t, debianShim, "shim-signed")
	needFile(t, debianGRUB, "grub-efi-amd64-signed")
	needFile(t, "/usr/lib/grub/i386-efi/efinet.mod", "grub-efi-ia32-bin")
	needTool(t, "grub-mkimage", "grub-common")
	l := &Library{Dir: t.TempDir()}
	if added, err := EnsureShim(l, "shim"); err != nil || !added {
		t.Fatal(added, err)
	}
	i, err := l.Get("shim")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]File{
		"shimx64.efi":  {Arch: "amd64", Signers: []string{MicrosoftUEFI2011, MicrosoftUEFI2023}},
		"grubx64.efi":  {Arch: "amd64", Signers: []string{DebianSecureBoot}},
		"mmx64.efi":    {Arch: "amd64", Signers: []string{DebianSecureBoot}},
		"grubia32.efi": {Arch: "i386"},
	} {
		f, ok := i.File(name)
		if !ok || f.Arch != want.Arch || !cmp.Equal(f.Signers, want.Signers) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if i.Warnings() != nil || i.Arch != "" {
		t.Errorf("warnings %q, arch %q", i.Warnings(), i.Arch)
	}
	if added, err := EnsureShim(l, "shim"); err != nil || added {
		t.Errorf("again: %v, %v", added, err)
	}
}

// A built-in boot set follows its packages; one of the admin's stays.
func TestFollow(t *testing.T) {
	l, root := &Library{Dir: t.TempDir()}, debianRoot(t, debianShims[0].shim, debianShims[0].grub)
	packaged := func(name, _ string) (Import, error) { return DebianShim(name, root) }
	follow := func(want bool) {
		t.Helper()
		if added, err := l.follow("shim", packaged); added != want || err != nil {
			t.Errorf("added %v, %v", added, err)
		}
	}
	follow(true)
	follow(false)
	for name, damage := range map[string]func(path string) error{
		"grubx64.efi": os.Remove,
		"shimx64.efi": func(path string) error { return os.WriteFile(path, []byte("?"), 0o644) },
	} {
		if err := damage(filepath.Join(l.Dir, "shim", name)); err != nil {
			t.Fatal(err)
		}
		follow(true)
		if i, err := l.Get("shim"); err != nil || l.Verify(i) != nil {
			t.Errorf("%s was damaged and is not mended: %+v, %v", name, i, err)
		}
	}
	upgraded := append(peImage(0x8664, 10), "upgraded"...)
	write(t, upgraded, root, debianShims[0].grub)
	follow(true)
	if i, err := l.Get("shim"); err != nil || i.Files[0].SHA256 != sumHex(string(upgraded)) {
		t.Errorf("%+v, %v", i, err)
	}
	if err := os.Remove(filepath.Join(root, debianShims[0].shim)); err != nil {
		t.Fatal(err)
	}
	follow(false) // what was imported outlives its package
	own := write(t, upgraded, t.TempDir(), "shimx64.efi")
	if _, err := importAll(l, BootFiles{Name: "shim", Source: "files", Paths: []string{own}}); err != nil {
		t.Fatal(err)
	}
	write(t, upgraded, root, debianShims[0].shim)
	follow(false)
	write(t, []byte("kind = 7"), l.Dir, "shim", tomlName)
	if _, err := l.follow("shim", packaged); err == nil || !strings.Contains(err.Error(), "rescuebox image rm shim") {
		t.Errorf("a boot set that cannot be read: %v", err)
	}
}
