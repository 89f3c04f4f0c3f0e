package wim

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Added is a file for \Windows\System32. It takes the place of one that has its
// name in any case.
type Added struct {
	Name string
	Data []byte
}

// Patched is a WIM with files added: Header, then the original from byte
// len(Header) to its end, then Tail; Size bytes together.
//
// The tail has the files' contents, the image's new metadata and the new blob table, all
// uncompressed and at multiples of eight. The metadata is the old one, byte for byte, with a new
// listing of System32 behind it, to which the entry of that directory now points; so nothing
// else of the image changes: not the places, the security, the short names, the hard links of the others.
// What is replaced loses its entry only. Its content keeps its references, of which there may be
// one too many from then on: that only keeps bytes, while one too few, as some of Microsoft's own WIMs
// have them, would let a tool throw away what a neighbour needs.
//
// Two forms of this were to choose from. wimboot, which Microsoft's loaders are known to read, leaves the old
// metadata as it is and adds one that no image refers to, as the image behind the last; its
// WIM is only ever seen by these loaders. Ours replaces the metadata in the table, as wimlib and
// DISM do when they change an image, so that every tool finds a WIM without fault, with
// the images it had. Of wimboot's form it takes what is right in both: the metadata is uncompressed,
// the listing is at its end, and what is new comes first in it. The integrity table is
// left away, since it is for other bytes; the XML text stays, though its counts of files are those of before.
type Patched struct {
	Header, Tail []byte
	Size         int64
}

// addedTime is when all added files were made, as a FILETIME: 2024-01-01. Windows wants one, and
// the same order must have the same bytes.
const addedTime = 133_485_408_000_000_000

// system32 is where files are added.
const system32 = `\Windows\System32`

// file is an added file on its way into the image.
type file struct {
	Added
	name, folded []uint16
	hash         hash
}

// With adds files to \Windows\System32 of an image and makes it the one that boots; image 0 is the
// one that boots already. The same files give the same bytes.
func (f *File) With(image int, added []Added) (*Patched, error) {
	if image == 0 {
		image = f.Boot()
	}
	t, err := f.tree(image)
	if err != nil {
		return nil, err
	}
	dir, err := t.find(system32)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !dir.dir() {
		return nil, fmt.Errorf(`image %d has no %s, so it is no Windows PE: name the index of the image that is one`, image, system32)
	}
	if err != nil {
		return nil, err
	}
	files, err := filesOf(added)
	if err != nil {
		return nil, err
	}
	old, err := t.keep(dir, files)
	if err != nil {
		return nil, err
	}
	p := f.patch(files, len(t))
	p.contents(files)
	p.metadata(image, t.with(dir, files, old))
	return p.finish(), nil
}

// filesOf checks what is added, and puts it in the order of the names.
func filesOf(added []Added) ([]file, error) {
	files := make([]file, 0, len(added))
	for _, a := range added {
		n := file{Added: a, name: utf16.Encode([]rune(a.Name))}
		if len(n.name) == 0 || len(n.name) > 255 || !utf8.ValidString(a.Name) ||
			strings.ContainsAny(a.Name, "\x00\\/:*?\"<>|") || strings.Trim(a.Name, ".") == "" {
			return nil, fmt.Errorf("%q is no name for a file in %s", a.Name, system32)
		}
		n.folded = folded(slices.Clone(n.name))
		if len(a.Data) > 0 {
			n.hash = sha1.Sum(a.Data)
		}
		files = append(files, n)
	}
	slices.SortFunc(files, func(a, b file) int { return slices.Compare(a.folded, b.folded) })
	for i := range files[min(1, len(files)):] {
		if slices.Equal(files[i].folded, files[i+1].folded) {
			return nil, fmt.Errorf("%s is added to %s twice", files[i].Name, system32)
		}
	}
	return files, nil
}

// keep is the entries of a directory that no file replaces.
func (t tree) keep(dir node, files []file) (old [][]byte, err error) {
	var clash error
	err = t.list(dir, func(n node) bool {
		i, found := slices.BinarySearchFunc(files, n, func(f file, n node) int {
			return slices.Compare(f.folded, folded(text(n.name())))
		})
		switch {
		case !found:
			old = append(old, n.raw)
		case n.dir():
			clash = fmt.Errorf(`%s\%s is a directory and cannot be replaced by a file`, system32, files[i].Name)
		}
		return clash == nil
	})
	return old, cmp.Or(clash, err)
}

// with is the metadata with another listing of a directory behind it.
func (t tree) with(dir node, files []file, old [][]byte) []byte {
	listing := align8(len(t))
	size := listing + 8
	for _, f := range files {
		size += f.entrySize()
	}
	for _, b := range old {
		size += align8(len(b))
	}
	b := make([]byte, 0, size)
	b = append(b, t...)
	b = pad(b)
	for _, f := range files {
		b = f.appendEntry(b)
	}
	for _, e := range old {
		b = pad(append(b, e...))
	}
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	binary.LittleEndian.PutUint64(b[dir.at+entryListing:], uint64(listing))
	return b
}

// pad makes the length a multiple of eight.
func pad(b []byte) []byte { return append(b, make([]byte, align8(len(b))-len(b))...) }

// entrySize is the length of the file's directory entry: its name has a NUL behind it.
func (f *file) entrySize() int { return align8(entrySize + 2*len(f.name) + 2) }

// appendEntry appends the file's directory entry: no security descriptor, no short name, no link.
func (f *file) appendEntry(b []byte) []byte {
	e := make([]byte, f.entrySize())
	binary.LittleEndian.PutUint64(e, uint64(len(e)))
	binary.LittleEndian.PutUint32(e[entryAttributes:], attributeNormal)
	binary.LittleEndian.PutUint32(e[entrySecurity:], 1<<32-1)
	for _, at := range []int{entryCreated, entryAccessed, entryWritten} {
		binary.LittleEndian.PutUint64(e[at:], addedTime)
	}
	copy(e[entryHash:], f.hash[:])
	binary.LittleEndian.PutUint16(e[entryName:], uint16(2*len(f.name)))
	for i, u := range f.name {
		binary.LittleEndian.PutUint16(e[entrySize+2*i:], u)
	}
	return append(b, e...)
}

// patch is a header, blob table and tail that are being made.
type patch struct {
	*File
	header, table []byte
	tail          []byte
}

func (f *File) patch(files []file, metadata int) *patch {
	p := &patch{File: f, header: bytes.Clone(f.header[:])}
	p.table = append(make([]byte, 0, len(f.blobs.raw)+len(files)*blobSize), f.blobs.raw...)
	size := metadata + metadata/4 + cap(p.table)
	for _, n := range files {
		size += len(n.Data) + 1<<10
	}
	p.tail = make([]byte, 0, size)
	return p
}

// append puts a resource at the end of the file.
func (p *patch) append(b []byte, flags byte) resource {
	end := p.size + int64(len(p.tail))
	p.tail = append(p.tail, make([]byte, align8(end)-end)...)
	at := p.size + int64(len(p.tail))
	p.tail = append(p.tail, b...)
	return resource{size: int64(len(b)), at: at, original: int64(len(b)), flags: flags}
}

// contents appends those contents that the file does not have: each has one entry in the
// table, however many files have it. An empty one has none.
func (p *patch) contents(files []file) {
	fresh := map[hash]int{}
	for _, n := range files {
		if n.hash == (hash{}) {
			continue
		}
		at, known := fresh[n.hash]
		if !known {
			at = p.blobs.find(n.hash)
		}
		if at >= 0 {
			refer(p.table, at)
			continue
		}
		fresh[n.hash] = len(p.table)
		p.table = appendBlob(p.table, p.append(n.Data, 0), n.hash)
	}
}

// metadata appends an image's metadata, and makes it the one that boots.
func (p *patch) metadata(image int, b []byte) {
	r, at := p.append(b, flagMetadata), p.blobs.images[image-1]
	h := sha1.Sum(b)
	r.put(p.table[at:])
	copy(p.table[at+blobHash:], h[:])
	r.put(p.header[headerMetadata:])
	binary.LittleEndian.PutUint32(p.header[headerBoot:], uint32(image))
}

// finish appends the table.
func (p *patch) finish() *Patched {
	p.append(p.table, flagMetadata).put(p.header[headerTable:])
	clear(p.header[headerIntegrity:][:resourceSize])
	return &Patched{Header: p.header, Tail: p.tail, Size: p.size + int64(len(p.tail))}
}
