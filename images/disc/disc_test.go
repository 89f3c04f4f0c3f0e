package disc

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func need(t testing.TB, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not there: apt-get install %s", name, pkg)
	}
	t.Skipf("%s is not there: apt-get install %s", name, pkg)
}

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// tree is a directory like that of a Windows ISO, with names that are hard on ISO 9660.
func tree(t testing.TB) (dir string, files map[string]string) {
	t.Helper()
	dir = t.TempDir()
	files = map[string]string{
		"README.TXT": "read me", "sources/boot.wim": strings.Repeat("wim ", 5000), "Boot/boot.sdi": strings.Repeat("sdi", 3000),
		"efi/microsoft/boot/fonts/wgl4_boot.ttf": "font", "efi/boot/bootx64.efi": "efi", "boot/empty": "",
		"sources/Ein langer Name mit Blanks.txt": "long", "sources/Спасение.txt": "Cyrillic", "sources/exact": strings.Repeat("x", 2048),
	}
	for n := range 300 { // a directory of several sectors
		files[fmt.Sprintf("many/file%03d.txt", n)] = fmt.Sprint(n)
	}
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(1.7e9, 0), time.Unix(1.7e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, files
}

func open(t testing.TB, path string) *Disc {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// contents reads everything there is on a disc.
func contents(t testing.TB, d *Disc) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := fs.WalkDir(d, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(d, path)
		got[path] = string(b)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return got
}

// What mastering programs write, in every way that a Windows ISO or one that was packed
// again may have been written. The whole tree is read back, by the rules of io/fs.
func TestMastered(t *testing.T) {
	need(t, "genisoimage", "genisoimage")
	need(t, "xorriso", "xorriso")
	dir, files := tree(t)
	gen := func(args ...string) []string {
		return append(append([]string{"genisoimage", "-quiet", "-input-charset", "utf-8"}, args...), "-o")
	}
	for name, c := range map[string]struct {
		command []string
		volume  string
		short   bool // ISO 9660 alone cannot have all the names
	}{
		"UDF, and ISO 9660 with a README only, as Windows has it": {gen("-udf", "-hide", "sources", "-hide", "Boot", "-hide", "efi", "-hide", "many", "-hide", "boot"), "*disc.udf", false},
		"UDF beside Joliet":          {gen("-udf", "-J", "-joliet-long", "-R"), "*disc.udf", false},
		"Joliet":                     {gen("-J", "-joliet-long"), "*disc.iso9660", false},
		"Rock Ridge":                 {gen("-R"), "*disc.iso9660", false},
		"ISO 9660 level 3":           {gen("-iso-level", "3"), "*disc.iso9660", true},
		"xorriso: Rock Ridge":        {[]string{"xorriso", "-as", "mkisofs", "-quiet", "-o"}, "*disc.iso9660", false},
		"xorriso: Joliet, El Torito": {[]string{"xorriso", "-as", "mkisofs", "-quiet", "-J", "-joliet-long", "-b", "Boot/boot.sdi", "-no-emul-boot", "-o"}, "*disc.iso9660", false},
	} {
		path := filepath.Join(t.TempDir(), "x.iso")
		command(t, c.command[0], append(append([]string{}, c.command[1:]...), path, dir)...)
		d := open(t, path)
		if got := fmt.Sprintf("%T", d.volume); got != c.volume || d.Trouble() != nil {
			t.Errorf("%s: reads %s, want %s, trouble: %v", name, got, c.volume, d.Trouble())
		}
		got := contents(t, d)
		delete(got, "boot.catalog") // of El Torito
		delete(got, "boot.cat")
		if c.short {
			if len(got) != len(files) || got["SOURCES/BOOT.WIM"] != files["sources/boot.wim"] || got["EFI/BOOT/BOOTX64.EFI"] != "efi" {
				t.Errorf("%s: %d files, %q", name, len(got), got["SOURCES/BOOT.WIM"][:4])
			}
			continue
		}
		if diff := cmp.Diff(files, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if err := fstest.TestFS(d, "sources/boot.wim", "efi/boot/bootx64.efi"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := fs.Stat(d, "sources/boot.wim"); err != nil || !info.ModTime().Equal(time.Unix(1.7e9, 0)) {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// An empty UDF of another writer's, with its blocks and versions.
func TestMkudffs(t *testing.T) {
	need(t, "mkudffs", "udftools")
	for _, args := range [][]string{{"--udfrev=0x0102", "--blocksize=2048"}, {"--udfrev=0x0201", "--blocksize=2048"}, {"--udfrev=0x0150", "--blocksize=512"},
		{"--udfrev=0x0201", "--blocksize=4096"}, {"--udfrev=0x0201", "--blocksize=512", "--ad=long"}, {"--udfrev=0x0102", "--blocksize=2048", "--ad=short"}} {
		path := filepath.Join(t.TempDir(), "x.udf")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 16<<20); err != nil {
			t.Fatal(err)
		}
		command(t, "mkudffs", append(append([]string{"--media-type=hd"}, args...), "--label=Спасение", path)...)
		d := open(t, path)
		if list, err := fs.ReadDir(d, "."); err != nil || len(list) > 1 {
			t.Errorf("%v: %v, %v", args, list, err)
		}
	}
	path := filepath.Join(t.TempDir(), "x.udf")
	if err := os.WriteFile(path, make([]byte, 16<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	command(t, "mkudffs", "--media-type=cdr", "--blocksize=2048", path) // a virtual partition
	f, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(bytes.NewReader(f), int64(len(f))); !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, ErrDamaged) {
		t.Errorf("a virtual partition: %v", err)
	}
}

// sparse is an ISO of which only the blocks are kept that are not zero.
type sparse struct {
	blocks map[int64][]byte
	size   int64
}

const sparseBlock = 1 << 16

func readSparse(r io.Reader) (*sparse, error) {
	s, zero := &sparse{blocks: map[int64][]byte{}}, make([]byte, sparseBlock)
	for buf := make([]byte, sparseBlock); ; {
		n, err := io.ReadFull(r, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			s.blocks[s.size/sparseBlock] = bytes.Clone(buf[:n])
		}
		s.size += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return s, nil
		} else if err != nil {
			return nil, err
		}
	}
}

func (s *sparse) ReadAt(p []byte, at int64) (n int, err error) {
	for n < len(p) && at+int64(n) < s.size {
		off := (at + int64(n)) % sparseBlock
		part := p[n:min(len(p), n+int(min(sparseBlock-off, s.size-at-int64(n))))]
		clear(part)
		if b := s.blocks[(at+int64(n))/sparseBlock]; int64(len(b)) > off {
			copy(part, b[off:])
		}
		n += len(part)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// A file of more than 4 GiB has several extents in either format.
func TestLargeFile(t *testing.T) {
	if testing.Short() {
		t.Skip("passes 8 GiB of zeros through pipes")
	}
	t.Parallel()
	need(t, "genisoimage", "genisoimage")
	need(t, "xorriso", "xorriso")
	dir := t.TempDir()
	const size = 4<<30 + 123457
	marks := []int64{0, 1<<30 - 2048, 1<<30 - 3, 2<<30 + 7, 4<<30 - 2048, 4<<30 - 9, 4 << 30, size - 9}
	f, err := os.Create(filepath.Join(dir, "install.wim"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for n, at := range marks {
		if _, err := fmt.Fprintf(io.NewOffsetWriter(f, at), "mark %03d", n); err != nil {
			t.Fatal(err)
		}
	}
	for name, args := range map[string][]string{
		"UDF":      {"genisoimage", "-quiet", "-udf", "-allow-limited-size", dir},
		"ISO 9660": {"xorriso", "-as", "mkisofs", "-quiet", "-iso-level", "3", dir},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		image, err := readSparse(out)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Fatal(err)
		}
		d, err := Open(image, image.size)
		if err != nil {
			t.Fatal(err)
		}
		file, err := d.Open("install.wim")
		if err != nil {
			t.Fatal(err)
		}
		info, _ := file.Stat()
		large := file.(*File)
		if extents := len(large.node.content.extents); info.Size() != size {
			t.Errorf("%s: %d bytes in %d extents", name, info.Size(), extents)
		}
		for n, at := range marks {
			got := make([]byte, 8)
			if _, err := large.ReadAt(got, at); err != nil || string(got) != fmt.Sprintf("mark %03d", n) {
				t.Errorf("%s: at %d is %q, %v", name, at, got, err)
			}
		}
		if n, err := large.ReadAt(make([]byte, 20), size-9); n != 9 || err != io.EOF {
			t.Errorf("%s: at the end: %d, %v", name, n, err)
		}
	}
}

// iso makes a small ISO with UDF, or without.
func iso(t testing.TB, udf bool) []byte {
	t.Helper()
	need(t, "genisoimage", "genisoimage")
	dir := t.TempDir()
	for name, content := range map[string]string{"a.txt": strings.Repeat("a", 5000), "sub/b.txt": "b"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-quiet", "-J", "-R", "-o", filepath.Join(dir, "x.iso")}
	if udf {
		args = append(args, "-udf")
	}
	command(t, "genisoimage", append(args, "-m", "x.iso", dir)...)
	b, err := os.ReadFile(filepath.Join(dir, "x.iso"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readAll reads what can be read, and fails on what no damage may do.
func readAll(t testing.TB, b []byte) (files int, err error) {
	d, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return 0, err
	}
	visited := 0
	walkErr := fs.WalkDir(d, ".", func(path string, e fs.DirEntry, err error) error {
		if visited++; visited > 500 || strings.Count(path, "/") > 20 { // a damaged disc can lead in circles
			return fs.SkipAll
		}
		if err != nil || e.IsDir() {
			return err
		}
		f, err := d.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(sha256.New(), io.LimitReader(f, 1<<20))
		if info, statErr := f.Stat(); err == nil && statErr == nil && n != min(info.Size(), 1<<20) {
			t.Errorf("%s: %d bytes of %d", path, n, info.Size())
		}
		files++
		return err
	})
	return files, walkErr
}

// A download that was cut off is told from one that is whole, wherever it ends.
func TestCutOff(t *testing.T) {
	for _, udf := range []bool{true, false} {
		whole := iso(t, udf)
		if n, err := readAll(t, whole); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		used := bytes.LastIndex(whole, []byte("aaaa")) // behind it is padding
		for size := 0; size < used; size += 1999 {
			_, err := readAll(t, whole[:size])
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoDisc) {
				t.Errorf("UDF %v: %d of %d bytes: %v", udf, size, used, err)
			}
		}
	}
}

// Any byte of a UDF's descriptors is covered by a checksum.
func TestFlippedBytes(t *testing.T) {
	whole := iso(t, true)
	anchor := 256 * sector
	for name, at := range map[string]int{"anchor": anchor + 20, "its tag": anchor + 2} {
		b := bytes.Clone(whole)
		b[at] ^= 1
		if d, err := Open(bytes.NewReader(b), int64(len(b))); err != nil { // the last sector has another anchor, or ISO 9660 is read
			t.Errorf("%s: %v", name, err)
		} else if n, err := readAll(t, b); n != 2 || err != nil {
			t.Errorf("%s: %d files, %v, trouble %v", name, n, err, d.Trouble())
		}
	}
	main := int(binary.LittleEndian.Uint32(whole[anchor+20:])) * sector
	b := bytes.Clone(whole)
	b[main+16+200] ^= 0xff
	if n, err := readAll(t, b); n != 2 || err != nil {
		t.Errorf("the reserve of the volume's descriptors is not used: %d, %v", n, err)
	}
	for at := 0; at+sector <= len(whole); at += sector { // the entry of a.txt, which would be shorter
		if id, ok := checkTag(whole[at : at+sector]); ok && id == tagFile && le32(whole[at+56:]) == 5000 {
			c := bytes.Clone(whole)
			c[at+56] ^= 8
			if _, err := readAll(t, c); !errors.Is(err, ErrDamaged) {
				t.Errorf("a file of another size: %v", err)
			}
		}
	}
	for at := 0; at+sector <= len(b); at += sector {
		if id, ok := checkTag(b[at : at+sector]); ok && id == tagAnchor {
			clear(b[at : at+sector])
		}
	}
	d, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil || !errors.Is(d.Trouble(), ErrDamaged) {
		t.Errorf("UDF without anchors: %+v, %v", d, err)
	}
}

func TestNoDisc(t *testing.T) {
	for name, b := range map[string][]byte{"empty": nil, "text": []byte("no disc"), "zeros": make([]byte, 1<<20), "a WIM": append([]byte("MSWIM\x00\x00\x00"), make([]byte, 1<<16)...)} {
		if _, err := Open(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrNoDisc) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFailingReader(t *testing.T) {
	want := errors.New("the disk is on fire")
	whole := iso(t, true)
	d, err := Open(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Open("a.txt")
	if err != nil {
		t.Fatal(err)
	}
	f.(*File).node.content.blocks.r = failing{want}
	if _, err := io.ReadAll(f); !errors.Is(err, want) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// A seed with its zeros cut out would be small, but a disc's first 256 sectors are mostly zeros: so
// the fuzzer changes bytes of a good disc.
func FuzzDisc(f *testing.F) {
	if _, err := exec.LookPath("genisoimage"); err != nil {
		f.Skip("genisoimage is not there")
	}
	discs := [][]byte{iso(f, true), iso(f, false)}
	f.Add(true, uint32(16*sector), []byte{1}, uint32(257*sector), []byte{0xff})
	f.Add(false, uint32(16*sector+156), []byte{255}, uint32(23*sector), []byte{0x80, 0})
	f.Fuzz(func(t *testing.T, udf bool, at uint32, change []byte, at2 uint32, change2 []byte) {
		b := bytes.Clone(discs[map[bool]int{true: 0, false: 1}[udf]])
		copy(b[int(at)%len(b):], change)
		copy(b[int(at2)%len(b):], change2)
		if udf { // so that changes get behind the checksums
			for s := 0; s+sector <= len(b); s += sector {
				mend(b[s : s+sector])
			}
		}
		readAll(t, b)
	})
}

// mend makes the tag of a changed descriptor right again.
func mend(b []byte) {
	id, covered := le16(b), int(le16(b[10:]))
	if version := le16(b[2:]); id == 0 || id > 300 || version < 2 || version > 3 || 16+covered > len(b) {
		return
	}
	binary.LittleEndian.PutUint16(b[8:], crc16(b[16:16+covered]))
	var sum byte
	for i := range 16 {
		if i != 4 {
			sum += b[i]
		}
	}
	b[4] = sum
}

// A file whose list of extents goes on in other blocks, as the list of a file in many pieces does;
// and a list that leads back to itself.
func TestExtentsElsewhere(t *testing.T) {
	const blocksOf = 40
	disc := make([]byte, blocksOf*sector)
	put := func(block int, descriptors ...uint32) { // an allocation extent descriptor
		b := disc[block*sector : (block+1)*sector]
		binary.LittleEndian.PutUint16(b, tagAllocation)
		binary.LittleEndian.PutUint16(b[2:], 2)
		binary.LittleEndian.PutUint32(b[20:], uint32(4*len(descriptors)))
		for n, d := range descriptors {
			binary.LittleEndian.PutUint32(b[24+4*n:], d)
		}
		mend(b)
	}
	const notRecorded, more = 1 << 30, 3 << 30
	copy(disc[30*sector:], "first")
	copy(disc[20*sector:], "second")
	copy(disc[25*sector:], "third")
	put(5, 2048, 20, notRecorded|4096, 0, more|2048, 6)
	put(6, 2048, 25)
	put(7, more|2048, 7)
	v := &udf{blocks: &blocks{r: bytes.NewReader(disc), size: int64(len(disc))}, block: sector, length: blocksOf}
	list := func(descriptors ...uint32) (b []byte) {
		for _, d := range descriptors {
			b = binary.LittleEndian.AppendUint32(b, d)
		}
		return b
	}
	c := content{blocks: v.blocks}
	if err := v.extents(&c, list(2048, 30, more|2048, 5), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.cut(5*2048 - 3); err != nil || c.size() != 5*2048-3 || len(c.extents) != 4 {
		t.Errorf("%+v, %v", c, err)
	}
	b, err := c.all(1 << 20)
	if err != nil || string(b[:5]) != "first" || string(b[2048:2054]) != "second" || !bytes.Equal(b[4096:8192], make([]byte, 4096)) || string(b[8192:8197]) != "third" {
		t.Errorf("%q, %v", b[8192:8197], err)
	}
	for name, damaged := range map[string][]byte{"a circle": list(more|2048, 7), "beyond the partition": list(2048, blocksOf), "no descriptor": list(more|2048, 8)} {
		if err := v.extents(&content{blocks: v.blocks}, damaged, 0, 0); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := v.extents(&c, nil, 2, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}
