package images

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sumHex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// addTest puts an image of the given files into the library; the first is the kernel.
func addTest(t testing.TB, l *Library, name, kernel string) Image {
	t.Helper()
	i, err := l.Add(Image{Name: name, Kind: Linux, Title: "Test", Kernel: "vmlinuz", Initrd: []string{"initrd.img"}, Cmdline: "m={{.Machine}}"},
		map[string]io.Reader{"vmlinuz": strings.NewReader(kernel), "initrd.img": strings.NewReader("initrd")})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// visible lists what a person sees in the directory of the library.
func visible(t *testing.T, l *Library) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAddGetOpen(t *testing.T) {
	l := &Library{Dir: filepath.Join(t.TempDir(), "state", "images")}
	added := addTest(t, l, "rescue", "kernel")
	got, err := l.Get("rescue")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(added, got); diff != "" {
		t.Errorf("Add and Get differ (-add +get):\n%s", diff)
	}
	want := []File{{Name: "initrd.img", Size: 6, SHA256: sumHex("initrd")}, {Name: "vmlinuz", Size: 6, SHA256: sumHex("kernel")}}
	if diff := cmp.Diff(want, got.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	f, file, err := l.Open(got, "vmlinuz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, _ := io.ReadAll(f); string(text) != "kernel" || file.SHA256 != sumHex("kernel") {
		t.Errorf("Open gave %q, %+v", text, file)
	}
	if got.Up != Served || time.Since(got.Added) > time.Minute || got.Size() != 12 {
		t.Errorf("defaults: up %q, added %v, size %d", got.Up, got.Added, got.Size())
	}
	if names := visible(t, l); !cmp.Equal(names, []string{"rescue"}) {
		t.Errorf("library holds %v", names)
	}
}

func TestGetNamesWhatThereIs(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	if _, err := l.Get("dart"); err == nil || !strings.Contains(err.Error(), "library is empty") {
		t.Errorf("empty library: %v", err)
	}
	addTest(t, l, "rescue", "k")
	addTest(t, l, "memtest86+", "k")
	_, err := l.Get("drat")
	if want := `no image "drat": images are memtest86+, rescue`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	var missing *NotFound
	if !errors.As(l.Remove("drat"), &missing) || missing.Name != "drat" {
		t.Errorf("Remove: %v", l.Remove("drat"))
	}
	if _, err := (&Library{Dir: filepath.Join(l.Dir, "none")}).Get("x"); err == nil {
		t.Error("a library that does not exist has an image")
	}
}

func TestNamesStayInside(t *testing.T) {
	l := &Library{Dir: filepath.Join(t.TempDir(), "images")}
	for _, name := range []string{"", ".", "..", "../x", "a/b", `a\b`, "/etc", ".tmp-1", "-x", "a b", "a\n", strings.Repeat("x", 101), "ä", "\x00"} {
		if _, err := l.Get(name); err == nil {
			t.Errorf("Get(%q) succeeded", name)
		}
		if err := l.Remove(name); err == nil {
			t.Errorf("Remove(%q) succeeded", name)
		}
		if _, err := l.Add(Image{Name: name, Kind: BootSet}, map[string]io.Reader{"a": strings.NewReader("")}); err == nil {
			t.Errorf("Add(%q) succeeded", name)
		}
		if _, err := l.Add(Image{Name: "x", Kind: BootSet}, map[string]io.Reader{name: strings.NewReader("")}); err == nil {
			t.Errorf("Add with file %q succeeded", name)
		}
	}
	if names := visible(t, l); len(names) != 0 {
		t.Errorf("refused imports left %v", names)
	}
}

func TestReplaceAndRemove(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	old := addTest(t, l, "rescue", "old")
	f, _, err := l.Open(old, "vmlinuz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	now := addTest(t, l, "rescue", "new")
	if err := l.Verify(now); err != nil {
		t.Error(err)
	}
	if text, _ := io.ReadAll(f); string(text) != "old" {
		t.Errorf("a transfer that was under way got %q", text)
	}
	if _, _, err := l.Open(old, "vmlinuz"); err == nil {
		t.Error("the new file passes for the old one")
	}
	if err := l.Remove("rescue"); err != nil {
		t.Error(err)
	}
	if names := visible(t, l); len(names) != 0 {
		t.Errorf("left %v", names)
	}
}

// While an image is replaced again and again, it is always there, whole.
func TestReplaceIsAtomic(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	addTest(t, l, "rescue", "0")
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := l.Get("rescue"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range 50 {
		addTest(t, l, "rescue", strings.Repeat("x", n))
	}
	close(done)
	wg.Wait()
}

func TestExchangeLeavesNoGap(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	a, b := addTest(t, l, "a", "1").Dir, addTest(t, l, "b", "2").Dir
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 500 {
			if err := exchange(a, b); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5000 {
		if !exists(b) {
			t.Error("the name led nowhere for a moment")
			break
		}
	}
	wg.Wait()
}

func TestExchangeInSteps(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	addTest(t, l, "a", "1")
	addTest(t, l, "b", "2")
	a, b := filepath.Join(l.Dir, "a"), filepath.Join(l.Dir, "b")
	if err := exchangeInSteps(a, b); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(b, "vmlinuz")); string(text) != "1" {
		t.Errorf("b holds %q", text)
	}
	if err := exchangeInSteps(a, b); err == nil || !exists(filepath.Join(b, "vmlinuz")) {
		t.Errorf("a is gone: %v, b must still be there", err)
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func TestChangedFileIsRefused(t *testing.T) {
	changes := map[string]func(path string) error{
		"content, same size and mtime": func(path string) error {
			fi, _ := os.Stat(path)
			if err := os.WriteFile(path, []byte("KERNEL"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(path, fi.ModTime(), fi.ModTime())
		},
		"longer":    func(path string) error { return os.WriteFile(path, []byte("kernel and more"), 0o644) },
		"truncated": func(path string) error { return os.Truncate(path, 0) },
		"gone":      os.Remove,
		"replaced": func(path string) error {
			os.WriteFile(path+".new", []byte("KERNEL"), 0o644)
			return os.Rename(path+".new", path)
		},
		"a directory": func(path string) error { os.Remove(path); return os.Mkdir(path, 0o755) },
		"a link to outside": func(path string) error {
			os.Remove(path)
			outside := filepath.Join(filepath.Dir(path), "..", "..", "outside")
			os.WriteFile(outside, []byte("kernel"), 0o644)
			return os.Symlink("../../outside", path)
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			l := &Library{Dir: filepath.Join(t.TempDir(), "images")}
			i := addTest(t, l, "rescue", "kernel")
			time.Sleep(settled + 20*time.Millisecond) // so that the first Open is remembered
			f, _, err := l.Open(i, "vmlinuz")
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			if err := change(filepath.Join(i.Dir, "vmlinuz")); err != nil {
				t.Fatal(err)
			}
			_, _, err = l.Open(i, "vmlinuz")
			if err == nil || !strings.Contains(err.Error(), "vmlinuz") || !strings.Contains(err.Error(), "rescue") {
				t.Errorf("Open must refuse and name image and file: %v", err)
			}
			if f, _, err := l.Open(i, "initrd.img"); err != nil {
				t.Error("the other file:", err)
			} else {
				f.Close()
			}
			if err := l.Verify(i); err == nil || strings.Contains(err.Error(), "initrd.img") {
				t.Errorf("Verify: %v", err)
			}
		})
	}
}

func fresh(t *testing.T, f *os.File) bool {
	t.Helper()
	fi, err := os.Stat(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return time.Since(fi.ModTime()) < settled
}

// A write in the same tick of the clock as the hash must not be taken for the hashed file.
func TestFreshFileIsNotRemembered(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	for range 20 {
		i := addTest(t, l, "rescue", "kernel")
		f, _, err := l.Open(i, "vmlinuz")
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if h := l.remembered(filepath.Join(i.Dir, "vmlinuz")); h.sum != "" && fresh(t, f) {
			t.Fatal("the hash of a file written just now is remembered")
		}
		if err := os.WriteFile(filepath.Join(i.Dir, "vmlinuz"), []byte("KERNEL"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Open(i, "vmlinuz"); err == nil {
			t.Fatal("a file changed right after it was hashed was served")
		}
	}
}

func TestOpenRemembersAndVerifyDoesNot(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	i := addTest(t, l, "rescue", "kernel")
	time.Sleep(settled + 20*time.Millisecond)
	if err := l.Verify(i); err != nil {
		t.Fatal(err)
	}
	h := l.remembered(filepath.Join(i.Dir, "vmlinuz"))
	if h.sum != sumHex("kernel") {
		t.Fatalf("remembered %q", h.sum)
	}
	h.sum = sumHex("something else")
	if _, _, err := l.Open(i, "vmlinuz"); err == nil {
		t.Error("Open did not use what is remembered")
	}
	if err := l.Verify(i); err != nil {
		t.Error("Verify used what is remembered:", err)
	}
}

// Whatever an image.toml becomes shows with the next Get, though it is remembered:
// whoever has replaced an image, here or in another process, must not boot the old one.
func TestGetSeesEveryChange(t *testing.T) {
	other := func(l *Library) *Library { return &Library{Dir: l.Dir} }
	for name, test := range map[string]struct {
		change func(t *testing.T, l *Library, toml string)
		want   string // its title; "" for an error
	}{
		"nothing":             {func(*testing.T, *Library, string) {}, "Test"},
		"replaced":            {func(t *testing.T, l *Library, _ string) { retitle(t, l, "New!") }, "New!"},
		"by another process":  {func(t *testing.T, l *Library, _ string) { retitle(t, other(l), "New!") }, "New!"},
		"removed":             {func(t *testing.T, l *Library, _ string) { l.Remove("rescue") }, ""},
		"by another's remove": {func(t *testing.T, l *Library, _ string) { other(l).Remove("rescue") }, ""},
		"edited, and its time set back": {func(t *testing.T, l *Library, toml string) {
			was, err := os.Stat(toml)
			text, err2 := os.ReadFile(toml)
			edited := strings.Replace(string(text), "Test", "Best", 1)
			if err := errors.Join(err, err2, os.WriteFile(toml, []byte(edited), 0o644), os.Chtimes(toml, time.Time{}, was.ModTime())); err != nil {
				t.Fatal(err)
			}
		}, "Best"},
		"broken": {func(t *testing.T, l *Library, toml string) { os.WriteFile(toml, []byte("kind = 7"), 0o644) }, ""},
		"gone":   {func(t *testing.T, l *Library, toml string) { os.Remove(toml) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Library{Dir: t.TempDir()}
			i := addTest(t, l, "rescue", "kernel")
			time.Sleep(settled + 20*time.Millisecond)
			for range 2 {
				got, err := l.Get("rescue")
				if err != nil || got.Title != "Test" {
					t.Fatalf("%+v, %v", got, err)
				}
				got.Files[0].SHA256 = "spoilt" // the caller's own
			}
			if _, ok := l.parsed["rescue"]; !ok {
				t.Fatal("nothing is remembered")
			}
			test.change(t, l, filepath.Join(i.Dir, tomlName))
			got, err := l.Get("rescue")
			if got.Title != test.want || (err == nil) != (test.want != "") || err == nil && got.Files[0].SHA256 == "spoilt" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// retitle replaces the test image by one that differs in its title alone.
func retitle(t *testing.T, l *Library, title string) {
	t.Helper()
	if _, err := l.Add(Image{Name: "rescue", Kind: Linux, Title: title, Kernel: "vmlinuz"},
		map[string]io.Reader{"vmlinuz": strings.NewReader("kernel"), "initrd.img": strings.NewReader("initrd")}); err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentOpen(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	i := addTest(t, l, "rescue", strings.Repeat("k", 1<<20))
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for _, name := range i.Loads(false) {
				f, _, err := l.Open(i, name)
				if err != nil {
					t.Error(err)
					return
				}
				f.Close()
			}
			if err := l.Verify(i); err != nil {
				t.Error(err)
			}
			l.List()
		})
	}
	wg.Wait()
}

func TestListNamesBrokenImages(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	addTest(t, l, "good", "k")
	os.MkdirAll(filepath.Join(l.Dir, "empty"), 0o755)
	os.MkdirAll(filepath.Join(l.Dir, "broken"), 0o755)
	os.MkdirAll(filepath.Join(l.Dir, ".tmp-12"), 0o755)
	os.MkdirAll(filepath.Join(l.Dir, "lost+found"), 0o700)
	os.WriteFile(filepath.Join(l.Dir, "a file"), nil, 0o644)
	os.WriteFile(filepath.Join(l.Dir, "broken", tomlName), []byte("kind = 'linux'\ntitel = 'x'\n"), 0o644)
	list, errs := l.List()
	if len(list) != 1 || list[0].Name != "good" {
		t.Errorf("list %v", list)
	}
	text := errors.Join(errs...).Error()
	if len(errs) != 2 || !strings.Contains(text, "image empty: ") || !strings.Contains(text, `image broken: image.toml line 2: key "titel" is not known`) {
		t.Errorf("errors %v", errs)
	}
	if err := l.Remove("broken"); err != nil {
		t.Error("a broken image cannot be removed:", err)
	}
}

func TestAddSaysWhatFailed(t *testing.T) {
	l := &Library{Dir: filepath.Join(t.TempDir(), "images")}
	content := func() map[string]io.Reader { return map[string]io.Reader{"k": strings.NewReader("k")} }
	for _, c := range []struct {
		image Image
		want  string
	}{
		{Image{Kind: Linux}, "needs a kernel"},
		{Image{Kind: "iso", Kernel: "k"}, `kind "iso" is not known`},
		{Image{Kind: Linux, Kernel: "vmlinuz"}, `"vmlinuz" is kernel or initrd, but no [[file]]`},
		{Image{Kind: Linux, Kernel: "k", Initrd: []string{"i"}}, `"i" is kernel or initrd`},
		{Image{Kind: Linux, Kernel: "k", Up: "soon"}, `up "soon"`},
		{Image{Kind: Linux, Kernel: "k", Cmdline: "{{.Nonsense}}"}, "Nonsense"},
		{Image{Kind: Linux, Kernel: "k", Cmdline: `{{index .SHA256 "root"}}`}, `no file "root"`},
		{Image{Kind: Linux, Kernel: "k", Cmdline: "{{"}, "cmdline"},
		{Image{Kind: Linux, Kernel: "k", Cmdline: "a\nb"}, "line break"},
		{Image{Kind: Linux, Kernel: "k", Cmdline: strings.Repeat("x", 2048)}, "longer than the 2047 bytes"},
		{Image{Kind: Linux, Kernel: "k", Cmdline: `{{define "a"}}aaaaaaaaaa{{template "a"}}{{end}}{{template "a"}}`}, "longer than"},
		{Image{Kind: Linux, Kernel: "k", Title: "a\x1b[2J"}, "control character"},
		{Image{Kind: Linux, Kernel: "k", Arch: "AMD/64"}, "architecture"},
		{Image{Kind: BootSet, Kernel: "k"}, "files only"},
	} {
		c.image.Name = "x"
		if _, err := l.Add(c.image, content()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.image, err, c.want)
		}
	}
	if _, err := l.Add(Image{Name: "x", Kind: BootSet}, nil); err == nil {
		t.Error("an image without files was added")
	}
	twice := map[string]io.Reader{"k": strings.NewReader("k"), "K": strings.NewReader("k")}
	if _, err := l.Add(Image{Name: "x", Kind: BootSet}, twice); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("names that differ in case only: %v", err)
	}
	for _, names := range [][2]string{{"k", "K"}, {"K", "k"}} {
		i := Image{Name: "x", Kind: BootSet, Files: []File{{Name: names[0], SHA256: sumHex("")}, {Name: names[1], SHA256: sumHex("")}}}
		if err := i.check(); err == nil {
			t.Errorf("files %v pass", names)
		}
	}
	if _, err := l.Add(Image{Name: "x", Kind: BootSet}, map[string]io.Reader{"k": badReader{}}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source that breaks off: %v", err)
	}
	if names := visible(t, l); len(names) != 0 {
		t.Errorf("failed imports left %v", names)
	}
}

type badReader struct{}

func (badReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestCommandLine(t *testing.T) {
	i := Image{Name: "rescue", Cmdline: `url={{.URL}} sum={{index .SHA256 "root"}} m={{.Machine}}`}
	args := Args{Machine: "srv01", URL: "http://192.168.77.1/boot/525400123456", SHA256: map[string]string{"root": "ab"}}
	got, err := i.CommandLine(args)
	if want := "url=http://192.168.77.1/boot/525400123456 sum=ab m=srv01"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"a b", "a\nb", "a${net0/mac}", `a"`, "a&&b", "ä", "a;b", "a#b"} {
		args.Machine = bad
		if got, err := i.CommandLine(args); err == nil || !strings.Contains(err.Error(), "Machine") {
			t.Errorf("machine %q: %q, %v", bad, got, err)
		}
	}
}

func TestLoads(t *testing.T) {
	i := Image{Kernel: "bios", KernelEFI: "efi", Initrd: []string{"a", "b"}}
	for uefi, want := range map[bool][]string{false: {"bios", "a", "b"}, true: {"efi", "a", "b"}} {
		if got := i.Loads(uefi); !cmp.Equal(got, want) {
			t.Errorf("uefi %v: %v", uefi, got)
		}
	}
	if got := (Image{Kernel: "k"}).Loads(true); !cmp.Equal(got, []string{"k"}) {
		t.Errorf("one kernel for both: %v", got)
	}
	if got := (Image{Initrd: []string{"a"}}).Loads(true); got != nil {
		t.Errorf("no kernel: %v", got)
	}
}

func FuzzImageToml(f *testing.F) {
	f.Add([]byte("kind = 'bootset'\n[[file]]\nname='a'\nsize=1\nsha256='" + sumHex("") + "'\n"))
	f.Add([]byte("kind = 'linux'\nkernel = 'k'\ncmdline = '{{.URL}}'\nup = 'agent'\n[[file]]\nname='k'\nsize=1\nsha256='" + sumHex("") + "'\n"))
	f.Add([]byte("kind = 'linux'\nfoo = 1\n"))
	f.Add([]byte("kind = 'windows'\nup = 'agent'\n[windows]\nwim='w'\nindex=1\ndart='10'\n[[file]]\nname='w'\nsize=1\nsha256='" + sumHex("") + "'\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		i, err := parse("x", text)
		if err != nil {
			if !cmp.Equal(i, Image{}) {
				t.Errorf("error %v and result %+v", err, i)
			}
			return
		}
		if err := i.check(); err != nil {
			t.Error(err)
		}
		if strings.Contains(i.Cmdline, "\n") {
			t.Errorf("command line %q", i.Cmdline)
		}
	})
}
