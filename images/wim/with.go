package wim

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// Added is a file for \Windows\System32. It takes the place of one that has its
// name in any case.
type Added struct {
	Name string
	Data []byte
}

// Patch is a WIM with files added: Header, then the original from byte len(Header)
// to its end, then the parts of Tail; Size bytes together.
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
type Patch struct {
	Header []byte
	// Tail is in parts, of which all but a few hundred bytes are those of the File and of Added.Data: a hundred
	// patches take no more memory than one. They must not be changed.
	Tail [][]byte
	Size int64
	// Sum is the SHA-1 of the image's metadata, where the hashes of all contents are: with the
	// original's hash it says which file this is.
	Sum [sha1.Size]byte
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
	hash         digest
}

// Patch adds files to \Windows\System32 of an image and makes it the one that boots; image 0 is the
// one that boots already. The same files give the same bytes. What lies in the file is read for the
// first patch of an image only: for the next ones, its reader may be closed.
func (f *File) Patch(image int, added []Added) (*Patch, error) {
	if image == 0 {
		image = f.Boot()
	}
	files, err := filesOf(added)
	if err != nil {
		return nil, err
	}
	hashed := hashAll(files)
	t, err := f.tree(image)
	hashed.Wait()
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
	old, err := t.keep(dir, files)
	if err != nil {
		return nil, err
	}
	p := newPatch(f)
	p.contents(files)
	if err := p.metadata(image, t.until(dir), listing(files, old)); err != nil {
		return nil, err
	}
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

// hashAll starts to hash the contents, each for itself; an empty one has no hash.
func hashAll(files []file) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range files {
		if len(files[i].Data) > 0 {
			wg.Go(func() { files[i].hash = sha1.Sum(files[i].Data) })
		}
	}
	return &wg
}

// keep is the entries of a directory that no file replaces.
func (t tree) keep(dir node, files []file) (old [][]byte, err error) {
	var clash error
	end := 0 // of the last one that was kept
	err = t.list(dir, func(n node) bool {
		i := slices.IndexFunc(files, func(f file) bool { return n.named(f.folded) })
		switch {
		case i >= 0 && n.dir():
			clash = fmt.Errorf(`%s\%s is a directory and cannot be replaced by a file`, system32, files[i].Name)
		case i >= 0:
		case end == n.at && len(old) > 0: // it goes on behind it
			last := &old[len(old)-1]
			*last = t[n.at-len(*last) : n.at+len(n.raw)]
			end += len(n.raw)
		default:
			old = append(old, n.raw)
			end = n.at + len(n.raw)
		}
		return clash == nil
	})
	return old, cmp.Or(clash, err)
}

// until is the metadata up to a new listing of a directory.
func (t tree) until(dir node) (p parts) {
	at := binary.LittleEndian.AppendUint64(nil, uint64(align8(len(t))))
	p.add(t[:dir.at+entryListing], at, t[dir.at+entryListing+len(at):])
	p.align()
	return p
}

// listing is a new listing of a directory.
func listing(files []file, old [][]byte) (p parts) {
	for _, f := range files {
		p.add(f.entry())
	}
	for _, b := range old {
		p.add(b)
		p.align()
	}
	p.add(make([]byte, 8))
	return p
}

// entry is the file's directory entry, with a NUL behind the name: no security descriptor, no short name, no link.
func (f *file) entry() []byte {
	e := make([]byte, align8(entrySize+2*len(f.name)+2))
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
	return e
}

// parts is bytes in parts that lie elsewhere.
type parts struct {
	list [][]byte
	size int64
}

func (p *parts) add(list ...[]byte) {
	for _, b := range list {
		p.list = append(p.list, b)
		p.size += int64(len(b))
	}
}

// align makes the size a multiple of eight.
func (p *parts) align() { p.add(make([]byte, align8(p.size)-p.size)) }

// small parts are put together, since each part is sent for itself.
const small = 4 << 10

// merged is the parts with neighbours that are small as one, and none that is empty.
func (p *parts) merged() (list [][]byte) {
	grows := false // the last one is a copy
	for _, b := range p.list {
		switch {
		case len(b) == 0:
		case len(b) >= small:
			list, grows = append(list, b), false
		case grows:
			list[len(list)-1] = append(list[len(list)-1], b...)
		default:
			list, grows = append(list, bytes.Clone(b)), true
		}
	}
	return list
}

func (p *parts) writeTo(h io.Writer) {
	for _, b := range p.list {
		h.Write(b)
	}
}

// patch is a header, blob table and tail that are being made.
type patch struct {
	*File
	header  []byte
	tail    parts
	entries map[int][]byte // of the blob table that change, by where they are
	fresh   []byte         // entries behind them
	hash    digest
}

func newPatch(f *File) *patch {
	return &patch{File: f, header: bytes.Clone(f.header[:]), entries: map[int][]byte{}}
}

// append puts a resource at the end of the file.
func (p *patch) append(b parts, flags byte) resource {
	end := p.size + p.tail.size
	p.tail.add(make([]byte, align8(end)-end))
	at := p.size + p.tail.size
	p.tail.add(b.list...)
	return resource{size: b.size, at: at, original: b.size, flags: flags}
}

// entry is an entry of the blob table, to be changed.
func (p *patch) entry(at int) []byte {
	if at >= len(p.blobs.raw) {
		return p.fresh[at-len(p.blobs.raw):][:blobSize]
	}
	if p.entries[at] == nil {
		p.entries[at] = bytes.Clone(p.blobs.raw[at:][:blobSize])
	}
	return p.entries[at]
}

// contents appends those contents that the file does not have: each has one entry in the
// table, however many files have it. An empty one has none.
func (p *patch) contents(files []file) {
	fresh := map[digest]int{}
	for _, n := range files {
		if n.hash == (digest{}) {
			continue
		}
		at, known := fresh[n.hash]
		if !known {
			at = p.blobs.find(n.hash)
		}
		if at >= 0 {
			references := p.entry(at)[blobReferences:]
			binary.LittleEndian.PutUint32(references, le32(references)+1)
			continue
		}
		fresh[n.hash] = len(p.blobs.raw) + len(p.fresh)
		var content parts
		content.add(n.Data)
		p.fresh = appendBlob(p.fresh, p.append(content, 0), n.hash)
	}
}

// metadata appends an image's metadata, and makes it the one that boots.
func (p *patch) metadata(image int, until, listing parts) error {
	h, err := p.sum(image, until)
	if err != nil {
		return err
	}
	listing.writeTo(h)
	h.Sum(p.hash[:0])
	until.add(listing.list...)
	r, e := p.append(until, flagMetadata), p.entry(p.blobs.images[image-1])
	r.put(e)
	copy(e[blobHash:], p.hash[:])
	r.put(p.header[headerMetadata:])
	binary.LittleEndian.PutUint32(p.header[headerBoot:], uint32(image))
	return nil
}

// sum is the SHA-1 of an image's metadata up to where the new listing begins: it is the same
// for every patch, and most of the work.
func (f *File) sum(image int, until parts) (hash.Hash, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sums[image] == nil {
		h := sha1.New()
		until.writeTo(h)
		c, ok := h.(hash.Cloner)
		if !ok {
			return h, nil
		}
		f.sums[image] = c
	}
	return f.sums[image].Clone()
}

// finish appends the table.
func (p *patch) finish() *Patch {
	var table parts
	from := 0
	for _, at := range slices.Sorted(maps.Keys(p.entries)) {
		table.add(p.blobs.raw[from:at], p.entries[at])
		from = at + blobSize
	}
	table.add(p.blobs.raw[from:], p.fresh)
	p.append(table, flagMetadata).put(p.header[headerTable:])
	clear(p.header[headerIntegrity:][:resourceSize])
	return &Patch{Header: p.header, Tail: p.tail.merged(), Size: p.size + p.tail.size, Sum: p.hash}
}
