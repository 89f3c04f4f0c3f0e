package wim

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// order is what a boot order adds: a replaced file in other case, a new one, one whose content is
// there already under another name, an empty one, and one twice.
func order(tree files) []Added {
	return []Added{
		{Name: "WINPESHL.INI", Data: []byte("[LaunchApps]\r\n%SYSTEMROOT%\\system32\\rescue-agent.exe, start\r\n")},
		{Name: "rescue-agent.exe", Data: program(rand.New(rand.NewPCG(3, 4)), 700_001)},
		{Name: "copy of zzz.dll", Data: tree["Windows/System32/zzz.dll"]},
		{Name: "Empty.TXT", Data: nil},
		{Name: "rescue-agent.json", Data: []byte(`{"token":"ab"}`)},
		{Name: "rescue-agent.bak", Data: []byte(`{"token":"ab"}`)},
		{Name: "имя.txt", Data: []byte("x")},
	}
}

// ordered is the tree with what was added.
func ordered(tree files, added []Added) files {
	want := maps.Clone(tree)
	dir := "Windows/System32/"
	for name := range tree { // as this tree spells it
		if p := strings.SplitN(name, "/", 3); len(p) == 3 && strings.EqualFold(p[0]+"/"+p[1]+"/", dir) {
			dir = p[0] + "/" + p[1] + "/"
			break
		}
	}
	for _, a := range added {
		for name := range want {
			if strings.EqualFold(name, dir+a.Name) {
				delete(want, name)
			}
		}
		want[dir+a.Name] = append([]byte{}, a.Data...)
	}
	return want
}

// Patched is a Patch with the tail in one piece.
type Patched struct {
	Header, Tail []byte
	Size         int64
}

// With is Patch with the tail in one piece, which is simpler to compare.
func (f *File) With(image int, added []Added) (*Patched, error) {
	p, err := f.Patch(image, added)
	if err != nil {
		return nil, err
	}
	return &Patched{p.Header, slices.Concat(p.Tail...), p.Size}, nil
}

// join writes the patched file.
func join(t testing.TB, base string, p *Patched) string {
	t.Helper()
	b, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	joined := append(append(bytes.Clone(p.Header), b[len(p.Header):]...), p.Tail...)
	if int64(len(joined)) != p.Size {
		t.Errorf("the joined file has %d bytes, and Size is %d", len(joined), p.Size)
	}
	path := filepath.Join(t.TempDir(), "joined.wim")
	if err := os.WriteFile(path, joined, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// patched adds files to the WIM at a path and gives the path of the result.
func patched(t testing.TB, base string, image int, added []Added) string {
	t.Helper()
	p, err := openPath(t, base).With(image, added)
	if err != nil {
		t.Fatal(err)
	}
	return join(t, base, p)
}

// extracted is an image of a WIM as wimlib extracts it, without a word of warning.
func extracted(t testing.TB, path string, image int) files {
	t.Helper()
	dir := t.TempDir()
	if out := wimlib(t, "extract", path, strconv.Itoa(image), "--dest-dir="+dir); strings.Contains(out, "WARNING") {
		t.Errorf("wimlib extract: %s", out)
	}
	return readDisk(t, dir)
}

// verified lets wimlib check a WIM. That there is no integrity table is what it may warn of, and
// that is what shall be: one would be for other bytes.
func verified(t testing.TB, path string) {
	t.Helper()
	out := wimlib(t, "verify", path)
	if strings.Count(out, "WARNING") != 1 || !strings.Contains(out, "does not contain integrity information") || !strings.Contains(out, "was successfully verified") {
		t.Errorf("wimlib verify: %s", out)
	}
}

// listed is the paths that wimlib lists.
func listed(t testing.TB, path string, image int) []string {
	return strings.Split(strings.TrimSpace(wimlib(t, "dir", path, strconv.Itoa(image))), "\n")
}

// sound lets the peer check everything of a patched WIM: its hashes, its list, its
// content, and what is left when wimlib writes it anew from its counts of references.
func sound(t testing.TB, path string, image int, want files) {
	t.Helper()
	verified(t, path)
	seen := map[string]int{}
	for _, name := range listed(t, path, image) {
		seen[strings.TrimPrefix(name, "/")]++
	}
	for name := range want {
		if seen[name] != 1 {
			t.Errorf("wimlib dir lists %s %d times", name, seen[name])
		}
	}
	same(t, want, extracted(t, path, image))
	same(t, want, readAll(t, openPath(t, path), image))
	if boot := bootIndex(t, path); boot != image {
		t.Errorf("image %d boots, not %d", boot, image)
	}
}

func bootIndex(t testing.TB, path string) int {
	t.Helper()
	m := regexp.MustCompile(`Boot Index: +(\d+)`).FindStringSubmatch(wimlib(t, "info", path))
	if m == nil {
		t.Fatal("wimlib info names no boot index")
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// However a WIM is packed, files can be added, and wimlib finds it sound.
func TestWith(t *testing.T) {
	tree := peTree(200)
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			base := tree.capture(t, append(v.options, "--boot")...)
			added := order(tree)
			joined := patched(t, base, 0, added)
			want := ordered(tree, added)
			sound(t, joined, 1, want)

			rewritten := filepath.Join(t.TempDir(), "new.wim")
			wimlib(t, "export", joined, "1", rewritten, "--boot", "--recompress", "--compress=LZX:20")
			same(t, want, extracted(t, rewritten, 1))
			wimlib(t, "optimize", joined)
			sound(t, joined, 1, want)
		})
	}
}

// What a WIM went through before, and how it is built, does not matter.
func TestWithHistories(t *testing.T) {
	small := files{"Windows/System32/notepad.exe": []byte("not a program"), "Windows/notepad.exe": []byte("other")}
	for name, test := range map[string]struct {
		tree  files
		image int // of With
		boot  int // of the result
		base  func(t *testing.T, tree files) string
	}{
		"integrity table": {smallTree(), 0, 1, func(t *testing.T, tree files) string {
			return tree.capture(t, "--check", "--boot")
		}},
		"no boot index": {smallTree(), 0, 1, func(t *testing.T, tree files) string {
			base := tree.capture(t)
			if bootIndex(t, base) != 0 {
				t.Fatal("wimlib set a boot index")
			}
			return base
		}},
		"two images, the second boots": {smallTree(), 0, 2, func(t *testing.T, tree files) string {
			base := small.capture(t)
			wimlib(t, "append", tree.write(t), base, "Setup", "--boot")
			return base
		}},
		"two images, the first boots": {smallTree(), 0, 1, func(t *testing.T, tree files) string {
			base := tree.capture(t, "--boot")
			wimlib(t, "append", small.write(t), base, "Setup")
			return base
		}},
		"two images, none boots, the second is wanted": {smallTree(), 2, 2, func(t *testing.T, tree files) string {
			base := small.capture(t)
			wimlib(t, "append", tree.write(t), base, "Setup")
			return base
		}},
		"two images, another boots": {smallTree(), 2, 2, func(t *testing.T, tree files) string {
			base := small.capture(t, "--boot")
			wimlib(t, "append", tree.write(t), base, "Setup", "--check")
			return base
		}},
		"deleted image": {smallTree(), 0, 1, func(t *testing.T, tree files) string {
			base := small.capture(t)
			wimlib(t, "append", tree.write(t), base, "PE2", "--boot")
			wimlib(t, "delete", base, "1", "--soft")
			return base
		}},
		"updated": {ordered(smallTree(), []Added{{"new.txt", []byte("new")}}), 0, 1, func(t *testing.T, tree files) string {
			base := smallTree().capture(t, "--boot")
			add := filepath.Join(t.TempDir(), "new.txt")
			if err := os.WriteFile(add, []byte("new"), 0o644); err != nil {
				t.Fatal(err)
			}
			wimlib(t, "update", base, "1", "--command=add "+add+" /Windows/System32/new.txt")
			return base
		}},
		"exported": {smallTree(), 0, 1, func(t *testing.T, tree files) string {
			base := filepath.Join(t.TempDir(), "exported.wim")
			wimlib(t, "export", tree.capture(t, "--compress=XPRESS"), "all", base, "--compress=LZX", "--chunk-size=32K", "--recompress")
			return base
		}},
		"optimized": {smallTree(), 0, 1, func(t *testing.T, tree files) string {
			base := tree.capture(t, "--boot", "--check")
			wimlib(t, "optimize", base, "--recompress")
			return base
		}},
		"solid once": {smallTree(), 0, 1, func(t *testing.T, tree files) string {
			base := filepath.Join(t.TempDir(), "exported.wim")
			wimlib(t, "export", tree.capture(t, "--solid", "--boot"), "all", base, "--compress=LZX", "--chunk-size=32K", "--boot")
			return base
		}},
		"patched before": {ordered(smallTree(), order(smallTree())), 0, 1, func(t *testing.T, _ files) string {
			return patched(t, smallTree().capture(t), 0, order(smallTree()))
		}},
		"other case": {files{"WINDOWS/system32/WinPEshl.ini": []byte("old"), "WINDOWS/system32/Other": []byte("o"), "x": []byte("y")}, 0, 1, func(t *testing.T, tree files) string {
			return tree.capture(t)
		}},
		"empty System32": {files{"Windows/System32/empty.txt": nil, "x": []byte("y")}, 0, 1, func(t *testing.T, tree files) string {
			return tree.capture(t)
		}},
		"3000 files in System32": {manyFiles(3000), 0, 1, func(t *testing.T, tree files) string {
			return tree.capture(t, "--boot")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := test.base(t, test.tree)
			added := order(test.tree)
			joined := patched(t, base, test.image, added)
			sound(t, joined, test.boot, ordered(test.tree, added))
			for i := range openPath(t, base).Images() {
				if i+1 != test.boot {
					same(t, extracted(t, base, i+1), extracted(t, joined, i+1))
				}
			}
		})
	}
}

func manyFiles(n int) files {
	tree := smallTree()
	for i := range n {
		tree[fmt.Sprintf("Windows/System32/lib%04d.dll", i)] = fmt.Appendf(nil, "library %d", i%2500)
	}
	return tree
}

// Files that share a content share its blob, with a reference each, and hard links to a
// replaced file keep what it had.
func TestWithReferences(t *testing.T) {
	tree := files{"Windows/System32/winpeshl.ini": []byte("old"), "Windows/System32/a": []byte("once")}
	dir := tree.write(t)
	link := filepath.Join(dir, "Windows", "linked.ini")
	if err := os.Link(filepath.Join(dir, "Windows/System32/winpeshl.ini"), link); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(t.TempDir(), "boot.wim")
	wimlib(t, "capture", dir, base, "--boot")
	joined := patched(t, base, 0, []Added{
		{"winpeshl.ini", []byte("new")}, {"b", []byte("once")}, {"c", []byte("twice")}, {"d", []byte("twice")}, {"e", nil},
	})
	want := files{"Windows/linked.ini": []byte("old"), "Windows/System32/winpeshl.ini": []byte("new"), "Windows/System32/a": []byte("once"),
		"Windows/System32/b": []byte("once"), "Windows/System32/c": []byte("twice"), "Windows/System32/d": []byte("twice"), "Windows/System32/e": nil}
	sound(t, joined, 1, want)

	got := map[string]int{} // references by size and hash
	var key string
	for line := range strings.Lines(wimlib(t, "info", "--blobs", joined)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch strings.TrimSpace(name) {
		case "Hash":
			key = strings.TrimSpace(value)
		case "Reference Count":
			got[key], _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	for content, references := range map[string]int{"old": 2, "new": 1, "once": 2, "twice": 2} {
		key := fmt.Sprintf("0x%x", sha1Of(content))
		if got[key] != references {
			t.Errorf("%q has %d references, not %d", content, got[key], references)
		}
	}
	if len(got) != 5 {
		t.Errorf("the table has %d blobs, not 4 and the metadata", len(got))
	}
}

// The same order gives the same bytes, in whatever order its files come.
func TestWithIsDeterministic(t *testing.T) {
	tree := smallTree()
	base := tree.capture(t)
	added := order(tree)
	first, err := openPath(t, base).With(0, added)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(added); i += 2 {
		added[0], added[i] = added[i], added[0]
	}
	f := openPath(t, base)
	for range 2 {
		again, err := f.With(1, added)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Header, again.Header) || !bytes.Equal(first.Tail, again.Tail) || first.Size != again.Size {
			t.Error("the same order gave other bytes")
		}
	}
	if len(first.Header) != headerSize || first.Size != f.size+int64(len(first.Tail)) {
		t.Errorf("a header of %d bytes, %d together", len(first.Header), first.Size)
	}
}

func TestWithRefuses(t *testing.T) {
	pe := openPath(t, files{"Windows/System32/drivers/x": []byte("x"), "Windows/System32/y": nil}.capture(t))
	other := openPath(t, files{"Windows/System33/x": []byte("x"), "Windows/SysWOW64/x": nil}.capture(t))
	file := openPath(t, files{"Windows/System32": []byte("x")}.capture(t))
	for name, test := range map[string]struct {
		f     *File
		image int
		added []Added
		want  string
	}{
		"no System32":            {other, 0, nil, `image 1 has no \Windows\System32, so it is no Windows PE: name the index of the image that is one`},
		"System32 is a file":     {file, 0, nil, `image 1 has no \Windows\System32, so it is no Windows PE: name the index of the image that is one`},
		"no such image":          {pe, 2, nil, "no image 2: the file has images 1 to 1"},
		"a path":                 {pe, 0, []Added{{`drivers\x`, nil}}, `"drivers\\x" is no name for a file in \Windows\System32`},
		"no name":                {pe, 0, []Added{{``, nil}}, `"" is no name for a file in \Windows\System32`},
		"the directory above":    {pe, 0, []Added{{`..`, nil}}, `".." is no name for a file in \Windows\System32`},
		"a name that is no text": {pe, 0, []Added{{"a\xff", nil}}, `"a\xff" is no name for a file in \Windows\System32`},
		"a long name":            {pe, 0, []Added{{strings.Repeat("x", 256), nil}}, `"` + strings.Repeat("x", 256) + `" is no name for a file in \Windows\System32`},
		"twice":                  {pe, 0, []Added{{"a", nil}, {"b", nil}, {"A", nil}}, `is added to \Windows\System32 twice`},
		"a directory":            {pe, 0, []Added{{"DRIVERS", nil}}, `\Windows\System32\DRIVERS is a directory and cannot be replaced by a file`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := test.f.With(test.image, test.added)
			if err == nil || p != nil || !strings.HasSuffix(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	if p, err := pe.With(0, nil); err != nil || p == nil {
		t.Errorf("nothing added: %v", err)
	}
}

// What cannot be served is refused by its name.
func TestOpenRefuses(t *testing.T) {
	tree := peTree(0)
	good := tree.capture(t)
	for name, test := range map[string]struct {
		want error
		path func() string
	}{
		"solid":    {ErrSolid, func() string { return tree.capture(t, "--solid") }},
		"LZMS":     {ErrSolid, func() string { return tree.capture(t, "--compress=LZMS") }},
		"pipable":  {ErrPipable, func() string { return tree.capture(t, "--pipable") }},
		"no WIM":   {ErrNoWIM, func() string { return changed(t, good, 0, 'X') }},
		"empty":    {ErrNoWIM, func() string { return os.DevNull }},
		"writing":  {ErrUnfinished, func() string { return changed(t, good, headerFlags, fileUnfinished|fileCompressed) }},
		"cut":      {ErrDamaged, func() string { return cut(t, good, 300_000) }},
		"header":   {ErrDamaged, func() string { return cut(t, good, 100) }},
		"no image": {ErrDamaged, func() string { return changed(t, good, headerImages, 0) }},
		"images":   {ErrDamaged, func() string { return changed(t, good, headerImages, 2) }},
		"boot":     {ErrDamaged, func() string { return changed(t, good, headerBoot, 2) }},
		"chunk":    {ErrDamaged, func() string { return changed(t, good, headerChunk+1, 0x81) }},
		"split": {ErrSplit, func() string {
			part := filepath.Join(t.TempDir(), "p.swm")
			wimlib(t, "split", good, part, "0.2")
			return part
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryOpen(t, test.path())
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			t.Log(err)
		})
	}
}

// changed is a copy of a file with another byte.
func changed(t testing.TB, path string, at int, to byte) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] = to
	return stored(t, b)
}

func cut(t testing.TB, path string, size int) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return stored(t, b[:size])
}

func stored(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "changed.wim")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// The XML text tells of the images; paths are found in any case and with both strokes.
func TestImages(t *testing.T) {
	base := smallTree().capture(t, "--image-property=WINDOWS/ARCH=9",
		"--image-property=WINDOWS/VERSION/MAJOR=10", "--image-property=WINDOWS/VERSION/MINOR=0", "--image-property=WINDOWS/VERSION/BUILD=26100",
		"--image-property=WINDOWS/VERSION/SPBUILD=1742")
	wimlib(t, "append", files{"x": nil}.write(t), base, "Rettung & Ж", "--boot", "--image-property=WINDOWS/ARCH=12")
	f := openPath(t, base)
	got := fmt.Sprintf("%+v", f.Images())
	want := "[{Index:1 Name:PE Arch:amd64 Version:10.0.26100.1742} {Index:2 Name:Rettung & Ж Arch:arm64 Version:}]"
	if got != want {
		t.Errorf("images are\n%s\nnot\n%s", got, want)
	}
	if f.Boot() != 2 {
		t.Errorf("image %d boots", f.Boot())
	}
	for _, path := range []string{`\windows\SYSTEM32\ZZZ.DLL`, "Windows/System32/zzz.dll", "/program files/ÜNÏCODE ж 漢字/日本.TXT"} {
		if e, err := f.Entry(1, path); err != nil || e.Dir || e.Size == 0 {
			t.Errorf("%s: %+v, %v", path, e, err)
		}
	}
	for _, path := range []string{`\Windows\winload.efi`, `\Windows\System32\zzz.dll\x`, `..`} {
		if _, err := f.Entry(1, path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := f.ReadFile(1, `\Windows`, 1<<20); err == nil {
		t.Error("a directory was read as a file")
	}
	if _, err := f.ReadFile(1, `\Windows\System32\zzz.dll`, 70_000); err == nil {
		t.Error("a file was read beyond its bound")
	}
}

// A patch takes little memory of its own, however large the image is and what is added; a hundred
// machines may boot at once.
func TestPatchSharesMemory(t *testing.T) {
	f := openPath(t, manyFiles(3000).capture(t))
	added := []Added{{"agent.exe", make([]byte, 8<<20)}, {"lib0002.dll", []byte("new")}}
	first, err := f.Patch(0, added)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	second, err := f.Patch(0, added)
	runtime.ReadMemStats(&after)
	if err != nil || first.Sum != second.Sum || !bytes.Equal(bytes.Join(first.Tail, nil), bytes.Join(second.Tail, nil)) {
		t.Errorf("the second patch is another one: %v", err)
	}
	if len(second.Tail) > 12 {
		t.Errorf("the tail has %d parts", len(second.Tail))
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
		t.Errorf("a patch took %d bytes", got)
	}
}
