package wim

import (
	"bytes"
	"crypto/sha1"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// wimlib runs the peer: wimlib-imagex, which wrote and reads these files without us.
func wimlib(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryWimlib(t, args...)
	if err != nil {
		t.Fatalf("wimlib-imagex %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// progress is what wimlib overwrites on a terminal.
var progress = regexp.MustCompile(`[^\n]*\r`)

func tryWimlib(t testing.TB, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("wimlib-imagex"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("wimlib-imagex is missing: apt-get install wimtools")
		}
		t.Skip("no wimlib-imagex (Debian: wimtools)")
	}
	out, err := exec.Command("wimlib-imagex", args...).CombinedOutput()
	return progress.ReplaceAllString(string(out), ""), err
}

// files is a directory tree: content by path.
type files map[string][]byte

// peTree is a small Windows PE: what is looked for, contents of every kind and
// size, and neighbours of what will be added.
func peTree(more int) files {
	r := rand.New(rand.NewPCG(1, 2))
	tree := files{
		"Windows/System32/winpeshl.ini":            []byte("[LaunchApp]\r\nAppPath=old.exe\r\n"),
		"Windows/System32/startnet.cmd":            []byte("wpeinit\r\n"),
		"Windows/System32/empty.txt":               {},
		"Windows/System32/drivers/etc/hosts":       []byte("127.0.0.1 localhost\n"),
		"Windows/System32/Boot/winload.efi":        program(r, 300_000),
		"Windows/System32/zzz.dll":                 program(r, 70_001),
		"Windows/Boot/PXE/pxeboot.n12":             program(r, 32_768),
		"Windows/Boot/EFI/bootmgfw.efi":            program(r, 2<<20+5),
		"Windows/Boot/Fonts/wgl4_boot.ttf":         noise(r, 100_000),
		"Windows/Boot/DVD/PCAT/boot.sdi":           make([]byte, 1<<20),
		"sources/recovery/recenv.exe":              program(r, 65_536),
		"Program Files/Ünïcode Ж 漢字/日本.txt":        []byte(strings.Repeat("日本 ", 5000)),
		"Windows/System32/en-US/winpeshl.exe.mui":  noise(r, 1),
		"Windows/System32/of-one-chunk-and-1.bin":  noise(r, 32_769),
		"Windows/System32/of-two-chunks.txt":       []byte(strings.Repeat("0123456789abcde\n", 4096)),
		"Windows/System32/Long Name With Case.Txt": []byte("as it is"),
	}
	for i := range more {
		tree[fmt.Sprintf("Windows/System32/many/%02d/file%04d.txt", i%50, i)] = fmt.Appendf(nil, "file %d %s", i, strings.Repeat("x", i%300))
	}
	return tree
}

// smallTree is one without large files, for tests that are not about packing.
func smallTree() files {
	tree := peTree(0)
	maps.DeleteFunc(tree, func(_ string, b []byte) bool { return len(b) > 100_000 })
	return tree
}

// program is bytes like a program's: words that come again, and calls.
func program(r *rand.Rand, n int) []byte {
	words := make([][]byte, 600)
	for i := range words {
		words[i] = noise(r, 1+r.IntN(24))
	}
	var b []byte
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
		if r.IntN(4) == 0 {
			b = append(b, 0xe8)
		}
		if r.IntN(40) == 0 {
			b = append(b, bytes.Repeat([]byte{byte(r.IntN(3))}, r.IntN(900))...)
		}
	}
	return b[:n]
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// write makes the tree on disk.
func (f files) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range f {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// capture makes a WIM of the tree with options of wimlib.
func (f files) capture(t testing.TB, options ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot.wim")
	wimlib(t, append([]string{"capture", f.write(t), path, "PE", "--threads=2"}, options...)...)
	return path
}

func openPath(t testing.TB, path string) *File {
	t.Helper()
	f, err := tryOpen(t, path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func tryOpen(t testing.TB, path string) (*File, error) {
	t.Helper()
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	info, err := r.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return Open(r, info.Size())
}

// variants are the ways wimlib can pack a WIM that we read.
var variants = []struct {
	name    string
	options []string
	packing string
	chunk   int
}{
	{"none", []string{"--compress=none"}, "none", 0},
	{"xpress-4K", []string{"--compress=XPRESS", "--chunk-size=4K"}, "XPRESS", 4 << 10},
	{"xpress-8K", []string{"--compress=XPRESS", "--chunk-size=8K"}, "XPRESS", 8 << 10},
	{"xpress-16K", []string{"--compress=XPRESS", "--chunk-size=16K"}, "XPRESS", 16 << 10},
	{"xpress-32K", []string{"--compress=XPRESS", "--chunk-size=32K"}, "XPRESS", 32 << 10},
	{"xpress-64K", []string{"--compress=XPRESS", "--chunk-size=64K"}, "XPRESS", 64 << 10},
	{"wimboot", []string{"--wimboot"}, "XPRESS", 4 << 10},
	{"lzx-32K", []string{"--compress=LZX"}, "LZX", 32 << 10},
	{"lzx-32K-slow", []string{"--compress=LZX:100"}, "LZX", 32 << 10},
	{"lzx-32K-fast", []string{"--compress=LZX:10"}, "LZX", 32 << 10},
	{"lzx-64K", []string{"--compress=LZX", "--chunk-size=64K"}, "LZX", 64 << 10},
	{"lzx-128K", []string{"--compress=LZX", "--chunk-size=128K"}, "LZX", 128 << 10},
	{"lzx-256K", []string{"--compress=LZX", "--chunk-size=256K"}, "LZX", 256 << 10},
	{"lzx-512K", []string{"--compress=LZX", "--chunk-size=512K"}, "LZX", 512 << 10},
	{"lzx-1M", []string{"--compress=LZX", "--chunk-size=1M"}, "LZX", 1 << 20},
	{"lzx-2M", []string{"--compress=LZX", "--chunk-size=2M"}, "LZX", 2 << 20},
}

// Everything that wimlib packs is read with its content, however it is packed.
func TestRead(t *testing.T) {
	tree := peTree(300)
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			f := openPath(t, tree.capture(t, v.options...))
			if packing, chunk := f.Packing(); packing != v.packing || chunk != v.chunk {
				t.Errorf("packed %s in chunks of %d", packing, chunk)
			}
			same(t, tree, readAll(t, f, 1))
			var done, total int64
			if err := f.Check(1, func(d, of int64) { done, total = d, of }); err != nil || done != total || total != tree.size() {
				t.Errorf("checked %d of %d bytes, and there are %d: %v", done, total, tree.size(), err)
			}
		})
	}
}

// size is that of the contents, each once.
func (f files) size() (sum int64) {
	once := map[string]bool{}
	for _, b := range f {
		if !once[string(b)] {
			once[string(b)] = true
			sum += int64(len(b))
		}
	}
	return sum
}

// readAll reads all files of an image.
func readAll(t testing.TB, f *File, image int) files {
	t.Helper()
	got := files{}
	err := f.walk(image, func(path string, n node) error {
		e := f.entry(n)
		if e.Dir {
			return nil
		}
		b, err := f.ReadFile(image, strings.ToUpper(path), 64<<20)
		if err == nil && int64(len(b)) != e.Size {
			err = fmt.Errorf("%s has %d bytes, not %d", path, len(b), e.Size)
		}
		got[strings.ReplaceAll(path[1:], `\`, "/")] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// same compares two trees, names with their case.
func same(t testing.TB, want, got files) {
	t.Helper()
	for name, b := range want {
		if g, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if !bytes.Equal(g, b) {
			t.Errorf("%s has other content: %d bytes with SHA-1 %x, not %d with %x", name, len(g), sha1.Sum(g), len(b), sha1.Sum(b))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s should not be there", name)
		}
	}
}

// readDisk reads a directory tree from disk.
func readDisk(t testing.TB, dir string) files {
	t.Helper()
	got := files{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		got[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func sha1Of(s string) [sha1.Size]byte { return sha1.Sum([]byte(s)) }
