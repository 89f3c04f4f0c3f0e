package wim

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf16"
)

// crafted is a WIM that is put together byte by byte, for what wimlib does not write
// on Linux: short names, named streams, security, EFS, leftovers of Microsoft's tools.
type crafted struct {
	flags, chunk uint32
	body, table  []byte
	metadata     []byte
	secure       bool // every entry has the security descriptor
}

// thing is a file or directory to be crafted.
type thing struct {
	name, short string
	attributes  uint32
	content     []byte
	inStream    bool              // the content's hash lies in a stream
	streams     map[string][]byte // at most one
	children    []thing
}

// pad makes the length a multiple of eight.
func pad(b []byte) []byte { return append(b, make([]byte, align8(len(b))-len(b))...) }

func utf16le(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// blob adds bytes as they are in the file.
func (c *crafted) blob(raw []byte, original int, flags byte, references uint32, h digest) {
	r := resource{size: int64(len(raw)), at: int64(headerSize + len(c.body)), original: int64(original), flags: flags}
	c.body = append(c.body, raw...)
	c.table = appendBlob(c.table, r, h)
	binary.LittleEndian.PutUint32(c.table[len(c.table)-blobSize+blobReferences:], references)
}

func (c *crafted) content(b []byte) (h digest) {
	if len(b) == 0 {
		return h
	}
	h = sha1.Sum(b)
	c.blob(b, len(b), 0, 1, h)
	return h
}

// entry appends a directory entry, and says where its listing's offset lies.
func (c *crafted) entry(th thing) (listing int) {
	name, short := utf16le(th.name), utf16le(th.short)
	size := entrySize + len(name) + 2
	if len(short) > 0 {
		size += len(short) + 2
	}
	e := make([]byte, align8(size))
	binary.LittleEndian.PutUint64(e, uint64(len(e)))
	if th.children != nil {
		th.attributes |= attributeDirectory
	}
	binary.LittleEndian.PutUint32(e[entryAttributes:], th.attributes)
	if !c.secure {
		binary.LittleEndian.PutUint32(e[entrySecurity:], 1<<32-1)
	}
	for _, at := range []int{entryCreated, entryAccessed, entryWritten} {
		binary.LittleEndian.PutUint64(e[at:], uint64(at)<<48)
	}
	h := c.content(th.content)
	if !th.inStream {
		copy(e[entryHash:], h[:])
	}
	binary.LittleEndian.PutUint16(e[entryShort:], uint16(len(short)))
	binary.LittleEndian.PutUint16(e[entryName:], uint16(len(name)))
	copy(e[entrySize:], name)
	if len(name) > 0 {
		copy(e[entrySize+len(name)+2:], short)
	}
	listing = len(c.metadata) + entryListing
	at := len(c.metadata)
	c.metadata = append(c.metadata, e...)
	if th.inStream {
		c.stream("", h)
	}
	for name, b := range th.streams {
		c.stream(name, c.content(b))
	}
	n := len(th.streams)
	if th.inStream {
		n++
	}
	binary.LittleEndian.PutUint16(c.metadata[at+entryStreams:], uint16(n))
	return listing
}

func (c *crafted) stream(name string, h digest) {
	s := make([]byte, align8(streamSize+2*len(name)+2))
	binary.LittleEndian.PutUint64(s, uint64(len(s)))
	copy(s[streamHash:], h[:])
	binary.LittleEndian.PutUint16(s[streamName:], uint16(2*len(name)))
	copy(s[streamSize:], utf16le(name))
	c.metadata = append(c.metadata, s...)
}

// list appends listings below a directory.
func (c *crafted) list(listing int, children []thing) {
	binary.LittleEndian.PutUint64(c.metadata[listing:], uint64(len(c.metadata)))
	places := make([]int, len(children))
	for i, th := range children {
		places[i] = c.entry(th)
	}
	c.metadata = append(c.metadata, make([]byte, 8)...)
	for i, th := range children {
		if th.children != nil {
			c.list(places[i], th.children)
		}
	}
}

// tree makes the metadata, with one security descriptor.
func (c *crafted) tree(root []thing) {
	descriptor := []byte{1, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	c.metadata = binary.LittleEndian.AppendUint32(c.metadata, uint32(16+len(descriptor)))
	c.metadata = binary.LittleEndian.AppendUint32(c.metadata, 1)
	c.metadata = binary.LittleEndian.AppendUint64(c.metadata, uint64(len(descriptor)))
	c.metadata = pad(append(c.metadata, descriptor...))
	c.list(c.entry(thing{children: []thing{{}}}), root)
}

// bytes is the whole file.
func (c *crafted) bytes() []byte {
	if c.metadata != nil {
		c.blob(c.metadata, len(c.metadata), flagMetadata, 1, sha1.Sum(c.metadata))
	}
	metadata := resourceOf(c.table[len(c.table)-blobSize:])
	h := make([]byte, headerSize)
	copy(h, "MSWIM\x00\x00\x00")
	binary.LittleEndian.PutUint32(h[headerLength:], headerSize)
	binary.LittleEndian.PutUint32(h[headerVersion:], versionUsual)
	binary.LittleEndian.PutUint32(h[headerFlags:], c.flags)
	binary.LittleEndian.PutUint32(h[headerChunk:], c.chunk)
	binary.LittleEndian.PutUint16(h[headerPart:], 1)
	binary.LittleEndian.PutUint16(h[headerParts:], 1)
	binary.LittleEndian.PutUint32(h[headerImages:], 1)
	binary.LittleEndian.PutUint32(h[headerBoot:], 1)
	metadata.put(h[headerMetadata:])
	xml := utf16le("\ufeff" + `<WIM><IMAGE INDEX="1"><NAME>PE</NAME></IMAGE></WIM>`)
	b := append(h, c.body...)
	for _, part := range []struct {
		b     []byte
		at    int
		flags byte
	}{{c.table, headerTable, flagMetadata}, {xml, headerXML, flagMetadata}} {
		resource{size: int64(len(part.b)), at: int64(len(b)), original: int64(len(part.b)), flags: part.flags}.put(b[part.at:])
		b = append(b, part.b...)
	}
	return b
}

func openBytes(t testing.TB, b []byte) *File {
	t.Helper()
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// windowsPE is a tree with what only Windows writes.
func windowsPE() *crafted {
	c := &crafted{secure: true}
	old := []byte("metadata of an image that was deleted")
	c.blob(old, len(old), flagMetadata, 0, sha1.Sum(old)) // WAIK's Windows PE
	c.blob([]byte("solid?"), 6, 0x10, 1, sha1.Sum([]byte("solid?")))
	c.tree([]thing{
		{name: "Windows", children: []thing{
			{name: "System32", short: "", children: []thing{
				{name: "a long name.ini", short: "ALONGN~1.INI", attributes: attributeNormal, content: []byte("long")},
				{name: "streams.txt", attributes: attributeNormal, content: []byte("unnamed"), inStream: true, streams: map[string][]byte{"Zone.Identifier": []byte("named")}},
				{name: "winpeshl.ini", short: "WINPES~1.INI", attributes: attributeNormal, content: []byte("old"), streams: map[string][]byte{"x": []byte("lost")}},
				{name: "drivers", children: []thing{{name: "disk.sys", attributes: attributeNormal, content: []byte("driver")}}},
				{name: "secret.txt", attributes: attributeEncrypted, content: []byte("encrypted")},
				{name: "zero", attributes: attributeNormal},
			}},
			{name: "SysWOW64", children: []thing{{name: "winpeshl.ini", attributes: attributeNormal, content: []byte("not this one")}}},
		}},
	})
	return c
}

// Of the neighbours of what is added, wimlib finds everything as it was: attributes, times, short
// names, streams, hashes, references.
func TestNeighboursStay(t *testing.T) {
	b := windowsPE().bytes()
	base := stored(t, b)
	before := details(t, base)
	f := openBytes(t, b)
	p, err := f.With(0, []Added{{"WinPEshl.ini", []byte("new")}, {"added.txt", []byte("added")}})
	if err != nil {
		t.Fatal(err)
	}
	joined := join(t, base, p)
	verified(t, joined)
	after := details(t, joined)
	replaced := "/Windows/System32/winpeshl.ini"
	if !strings.Contains(before[replaced], "WINPES~1.INI") || !strings.Contains(before["/Windows/System32/streams.txt"], "Zone.Identifier") {
		t.Fatalf("wimlib does not see what was crafted:\n%v", before)
	}
	for path, want := range before {
		if path == replaced {
			continue
		}
		if after[path] != want {
			t.Errorf("%s was\n%s\nand is\n%s", path, want, after[path])
		}
	}
	if len(after) != len(before)+1 {
		t.Errorf("%d paths, not %d", len(after), len(before)+1)
	}
	fresh := after["/Windows/System32/WinPEshl.ini"]
	if fresh == "" || strings.Contains(fresh, "WINPES") || strings.Contains(fresh, "Named data stream") || !strings.Contains(fresh, "FILE_ATTRIBUTE_NORMAL") || strings.Contains(fresh, "1601") {
		t.Errorf("the new file is\n%s", fresh)
	}
	if _, err := f.ReadFile(1, `windows\system32\secret.txt`, 100); !errors.Is(err, ErrEncrypted) {
		t.Errorf("an encrypted file: %v", err)
	}
	for path, want := range map[string]string{`windows\system32\streams.txt`: "unnamed", `windows\system32\zero`: ""} {
		if got, err := f.ReadFile(1, path, 100); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// details is what wimlib knows of every path.
func details(t testing.TB, path string) map[string]string {
	t.Helper()
	list := map[string]string{}
	for block := range strings.SplitSeq(wimlib(t, "dir", "--detailed", path, "1"), strings.Repeat("-", 76)) {
		if _, rest, ok := strings.Cut(block, `Full Path           = "`); ok {
			name, _, _ := strings.Cut(rest, `"`)
			list[name] = block
		}
	}
	return list
}

// bitWriter writes bits as LZX has them.
type bitWriter struct {
	b    []byte
	word uint16
	n    int
}

func (w *bitWriter) bits(v, n int) {
	for i := n - 1; i >= 0; i-- {
		w.word = w.word<<1 | uint16(v>>i&1)
		if w.n++; w.n == 16 {
			w.b = binary.LittleEndian.AppendUint16(w.b, w.word)
			w.word, w.n = 0, 0
		}
	}
}

// align skips 1 to 16 bits.
func (w *bitWriter) align() {
	for first := true; first || w.n != 0; first = false {
		w.bits(0, 1)
	}
}

// code writes lengths of which two are 1, as differences from lengths that were.
func (w *bitWriter) code(size int, fresh bool, symbols ...int) {
	for i := range lzxPre {
		w.bits(map[int]int{0: 1, 16: 1}[i], 4)
	}
	for i := range size {
		one := 0
		if fresh && (i == symbols[0] || i == symbols[len(symbols)-1]) {
			one = 1
		}
		w.bits(one, 1)
	}
}

// verbatim writes a block of literals A and, if match, one more of 19 bytes at the most recent offset.
func (w *bitWriter) verbatim(literals int, match, fresh bool) {
	size := literals
	if match {
		size += 19
	}
	w.bits(lzxVerbatim, 3)
	w.bits(0, 1)
	w.bits(size, 16)
	w.code(256, fresh, 'A')
	w.code(240, fresh, 7)
	w.code(lzxLengths, fresh, 10, 248)
	w.bits(0, literals)
	if match {
		w.bits(1, 1) // the match
		w.bits(0, 1) // its length
	}
}

// raw writes a block that is not compressed.
func (w *bitWriter) raw(b []byte, recent ...uint32) {
	w.bits(lzxUncompressed, 3)
	w.bits(0, 1)
	w.bits(len(b), 16)
	w.align()
	for _, r := range recent {
		w.b = binary.LittleEndian.AppendUint32(w.b, r)
	}
	w.b = append(w.b, b...)
	if len(b)%2 != 0 {
		w.b = append(w.b, 0)
	}
}

// Blocks that are not compressed, which Microsoft writes and wimlib only reads, begin at a
// word behind 1 to 16 bits, and change the recent offsets.
func TestUncompressedBlocks(t *testing.T) {
	c := &crafted{flags: fileCompressed | fileLZX, chunk: 1 << 15}
	var children []thing
	want := files{}
	for shift := range 40 {
		var w bitWriter
		w.verbatim(900+shift, true, true)
		w.raw([]byte("12345"), 3, 2, 1)
		w.verbatim(200, false, false)
		w.raw([]byte("abcd"), 2, 7, 9)
		w.verbatim(0, true, false)
		w.bits(0, 16)
		content := []byte(strings.Repeat("A", 900+shift+19) + "12345" + strings.Repeat("A", 200) + "abcd" + "cdcdcdcdcdcdcdcdcdc")
		c.blob(w.b, len(content), flagCompressed, 1, sha1.Sum(content))
		name := fmt.Sprintf("%02d", shift)
		want[name] = content
		children = append(children, thing{name: name, attributes: attributeNormal})
	}
	c.tree(children)
	at := bytes.Index(c.metadata, utf16le("00"))
	for i := range children { // their contents are there already
		e := c.metadata[at-entrySize+i*align8(entrySize+4+2):]
		copy(e[entryHash:], c.table[i*blobSize+blobHash:][:sha1.Size])
	}
	b := c.bytes()
	path := stored(t, b)
	verified(t, path)
	same(t, want, extracted(t, path, 1))
	same(t, want, readAll(t, openBytes(t, b), 1))
}

// Whatever is wrong with a file is an error, at once.
func TestDamaged(t *testing.T) {
	good := windowsPE().bytes()
	f := openBytes(t, good)
	metadata := resourceOf(f.blobs.raw[f.blobs.images[0]:])
	content := resourceOf(f.blobs.raw[f.blobs.find(sha1Of("driver")):])
	for name, test := range map[string]struct {
		at int64
		do func(f *File) error
	}{
		"metadata": {metadata.at + 200, func(f *File) error { _, err := f.Entry(1, ""); return err }},
		"content":  {content.at, func(f *File) error { _, err := f.ReadFile(1, "Windows/System32/drivers/disk.sys", 100); return err }},
	} {
		b := bytes.Clone(good)
		b[test.at] ^= 1
		if err := test.do(openBytes(t, b)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := bytes.Clone(good)
	f = openBytes(t, b)
	f.r = brokenDisk{}
	if _, err := f.With(0, nil); err == nil || errors.Is(err, ErrDamaged) || !errors.Is(err, os.ErrClosed) {
		t.Errorf("a disk that fails: %v", err)
	}
	f.r = bytes.NewReader(b) // and the next time it does not
	if _, err := f.With(0, nil); err != nil {
		t.Error(err)
	}
}

type brokenDisk struct{}

func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, os.ErrClosed }

// A directory that is its own child is no tree without end.
func TestLoop(t *testing.T) {
	c := windowsPE()
	tr := tree(c.metadata)
	root, err := tr.root()
	if err != nil {
		t.Fatal(err)
	}
	windows, err := tr.child(root, "windows")
	if err != nil {
		t.Fatal(err)
	}
	copy(c.metadata[windows.at+entryListing:][:8], root.raw[entryListing:])
	f := openBytes(t, c.bytes())
	n := 0
	err = f.walk(1, func(string, node) error { n++; return nil })
	if !errors.Is(err, ErrDamaged) || n > 1000 {
		t.Errorf("after %d entries: %v", n, err)
	}
	if _, err := f.With(0, nil); err == nil {
		t.Error("System32 was found")
	}
}
