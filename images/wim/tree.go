package wim

import (
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf16"
)

// Attributes of a file that matter here (FILE_ATTRIBUTE_…).
const (
	attributeDirectory = 0x10
	attributeNormal    = 0x80
	attributeReparse   = 0x400
	attributeEncrypted = 0x4000
)

// Layout of a directory entry, and of a stream that follows it.
const (
	entrySize       = 102
	entryAttributes = 8
	entrySecurity   = 12
	entryListing    = 16
	entryCreated    = 40
	entryAccessed   = 48
	entryWritten    = 56
	entryHash       = 64
	entryStreams    = 96
	entryShort      = 98
	entryName       = 100

	streamSize = 38
	streamHash = 16
	streamName = 36
)

// Bounds of a tree. Windows' own are a path of 32,767 characters, and some 300,000 files.
const (
	maxDepth   = 128
	maxEntries = 1 << 21
)

// tree is the metadata of an image: security descriptors, then the root's entry,
// then listings of directories, each of which ends with eight zero bytes.
type tree []byte

// node is a directory entry: its bytes, with those of its streams, and where they begin.
type node struct {
	at  int
	raw []byte
}

func align8[T int | int64](n T) T { return (n + 7) &^ 7 }

// root is the root's entry.
func (t tree) root() (node, error) {
	if len(t) < 8 {
		return node{}, damaged("an image's metadata has %d bytes", len(t))
	}
	n, err := t.node(align8(max(int64(le32(t)), 8)))
	if err == nil && n.raw == nil {
		err = damaged("an image has no root")
	}
	return n, err
}

// node reads the entry at a place; without bytes it is the end of a listing.
func (t tree) node(at int64) (node, error) {
	if at < 0 || at > int64(len(t))-8 {
		return node{}, damaged("a directory is not in the metadata")
	}
	b := t[at:]
	length := le64(b)
	if length <= 8 {
		return node{at: int(at)}, nil
	}
	if length < entrySize || length > uint64(len(b)) ||
		length < uint64(entrySize+le16(b[entryName:])+le16(b[entryShort:])) {
		return node{}, damaged("a directory entry of %d bytes", length)
	}
	end := align8(int(length))
	for range le16(b[entryStreams:]) {
		if end > len(b)-streamSize {
			return node{}, damaged("a stream is not in the metadata")
		}
		n := le64(b[end:])
		if n < streamSize || n > uint64(len(b)-end) || n < uint64(streamSize+le16(b[end+streamName:])) {
			return node{}, damaged("a stream's entry of %d bytes", n)
		}
		end += align8(int(n))
	}
	return node{int(at), b[:min(end, len(b))]}, nil
}

// list calls fn for every entry of a directory until it is false.
func (t tree) list(dir node, fn func(node) bool) error {
	at := int64(min(le64(dir.raw[entryListing:]), 1<<62))
	for at != 0 {
		n, err := t.node(at)
		if err != nil || n.raw == nil || !fn(n) {
			return err
		}
		at += int64(len(n.raw))
	}
	return nil
}

// find is the entry of a path, in any case. Of two whose names differ in case only, it is the first.
func (t tree) find(path string) (node, error) {
	n, err := t.root()
	for _, name := range split(path) {
		if err != nil {
			break
		}
		n, err = t.child(n, name)
	}
	if err != nil {
		return n, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '\\' || r == '/' })
}

// child is the entry of a name in a directory.
func (t tree) child(dir node, name string) (found node, err error) {
	want := folded(utf16.Encode([]rune(name)))
	if dir.dir() {
		err = t.list(dir, func(n node) bool {
			if n.named(want) {
				found = n
			}
			return found.raw == nil
		})
	}
	if err == nil && found.raw == nil {
		err = fs.ErrNotExist
	}
	return found, err
}

func (n node) attributes() uint32 { return le32(n.raw[entryAttributes:]) }
func (n node) dir() bool          { return n.attributes()&attributeDirectory != 0 }
func (n node) name() []byte       { return n.raw[entrySize:][:le16(n.raw[entryName:])] }
func (n node) text() string       { return string(utf16.Decode(text(n.name()))) }

// named is whether the entry has this folded name.
func (n node) named(folded []uint16) bool {
	name := n.name()
	if len(name) != 2*len(folded) {
		return false
	}
	for i, want := range folded {
		if fold(binary.LittleEndian.Uint16(name[2*i:])) != want {
			return false
		}
	}
	return true
}

// fold is a unit of UTF-16 in upper case, as Windows compares names: unit by unit.
func fold(u uint16) uint16 {
	if u < 0x80 {
		if 'a' <= u && u <= 'z' {
			u -= 'a' - 'A'
		}
		return u
	}
	if up := unicode.ToUpper(rune(u)); up <= 0xffff {
		return uint16(up)
	}
	return u
}

func folded(name []uint16) []uint16 {
	for i, u := range name {
		name[i] = fold(u)
	}
	return name
}

// hash is that of the unnamed stream. It may lie in a stream of its own: Windows writes it
// there where a file has named ones, too.
func (n node) hash() (h digest) {
	if copy(h[:], n.raw[entryHash:]); h != (digest{}) {
		return h
	}
	at := align8(int(le64(n.raw)))
	for range le16(n.raw[entryStreams:]) {
		s := n.raw[at:]
		if le16(s[streamName:]) == 0 {
			if copy(h[:], s[streamHash:]); h != (digest{}) {
				return h
			}
		}
		at += align8(int(le64(s)))
	}
	return h
}

// tree is the metadata of an image, unpacked and compared with its SHA-1. Image 0 is the one that boots.
func (f *File) tree(image int) (tree, error) {
	if image == 0 {
		image = f.Boot()
	}
	if image < 1 || image > len(f.images) {
		return nil, fmt.Errorf("no image %d: the file has images 1 to %d", image, len(f.images))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if t, ok := f.trees[image]; ok {
		return t, nil
	}
	at := f.blobs.images[image-1]
	what := fmt.Sprintf("the metadata of image %d", image)
	b, err := f.read(resourceOf(f.blobs.raw[at:]), what, maxMetadata)
	if err != nil {
		return nil, err
	}
	if sha1.Sum(b) != digest(f.blobs.hashAt(at)) {
		return nil, damaged("%s has another SHA-1 than it should", what)
	}
	f.trees[image] = b
	return b, nil
}

// entry is a node as others see it.
func (f *File) entry(n node) Entry {
	e := Entry{Name: n.text(), Dir: n.dir()}
	if at := f.blobs.find(n.hash()); at >= 0 && !e.Dir {
		e.Size = resourceOf(f.blobs.raw[at:]).original
	}
	return e
}

// Entry finds a file or directory by its path, with \ or / between the names, in any case. The error
// wraps fs.ErrNotExist if there is none. Image 0 is the one that boots.
func (f *File) Entry(image int, path string) (Entry, error) {
	t, err := f.tree(image)
	if err != nil {
		return Entry{}, err
	}
	n, err := t.find(path)
	if err != nil {
		return Entry{}, err
	}
	return f.entry(n), nil
}

// walk calls fn for everything below the root, directories before what is in
// them, with the path as \Windows\System32. It ends with the first error of fn.
func (f *File) walk(image int, fn func(path string, n node) error) error {
	t, err := f.tree(image)
	if err != nil {
		return err
	}
	root, err := t.root()
	if err != nil {
		return err
	}
	w := walk{tree: t, fn: fn}
	return w.dir(root, "", 0)
}

// walk goes through a tree. It counts, because directories that share a listing
// could make a small file a tree without end.
type walk struct {
	tree    tree
	fn      func(path string, n node) error
	entries int
}

func (w *walk) dir(dir node, path string, depth int) error {
	if depth > maxDepth {
		return damaged("directories are nested more than %d deep", maxDepth)
	}
	var failed error
	err := w.tree.list(dir, func(n node) bool {
		failed = w.visit(n, path, depth)
		return failed == nil
	})
	return cmp.Or(failed, err)
}

func (w *walk) visit(n node, path string, depth int) error {
	if w.entries++; w.entries > maxEntries {
		return damaged("an image has more than %d files", maxEntries)
	}
	path += `\` + n.text()
	if err := w.fn(path, n); err != nil || !n.dir() {
		return err
	}
	return w.dir(n, path, depth+1)
}

// ReadFile reads a file of at most max bytes and compares it with its SHA-1.
func (f *File) ReadFile(image int, path string, max int64) ([]byte, error) {
	t, err := f.tree(image)
	if err != nil {
		return nil, err
	}
	n, err := t.find(path)
	if err != nil {
		return nil, err
	}
	b, err := f.content(n, max)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func (f *File) content(n node, most int64) ([]byte, error) {
	switch a := n.attributes(); {
	case a&attributeDirectory != 0:
		return nil, fmt.Errorf("is a directory")
	case a&attributeEncrypted != 0:
		return nil, ErrEncrypted
	case a&attributeReparse != 0:
		return nil, fmt.Errorf("is a link or another reparse point, which are not followed")
	}
	h := n.hash()
	if h == (digest{}) {
		return []byte{}, nil
	}
	at := f.blobs.find(h)
	if at < 0 {
		return nil, damaged("no blob has the content")
	}
	b, err := f.read(resourceOf(f.blobs.raw[at:]), "the content", most)
	if err == nil && sha1.Sum(b) != h {
		err = damaged("the content has another SHA-1 than it should")
	}
	return b, err
}
