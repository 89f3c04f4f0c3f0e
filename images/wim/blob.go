package wim

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"slices"
	"sort"
)

// digest is the SHA-1 of a blob's content; all zero is that of an empty file.
type digest [sha1.Size]byte

// Layout of an entry of the blob table.
const (
	blobSize       = 50
	blobPart       = 24
	blobReferences = 26
	blobHash       = 30
)

// blobTable is the blob table as it lies in the file, and how to find things in it.
type blobTable struct {
	raw    []byte
	images []int // where the entries of the images' metadata are, in their order
	sorted []key // those of contents, by their hash
}

// newBlobTable reads the table of a file with that many images.
func newBlobTable(raw []byte, images int, file int64) (*blobTable, error) {
	t := &blobTable{raw: raw[:len(raw)/blobSize*blobSize]}
	for at := 0; at < len(t.raw); at += blobSize {
		r := resourceOf(t.raw[at:])
		if le16(t.raw[at+blobPart:]) != 1 || r.flags&flagFree != 0 || r.original == 0 || digest(t.hashAt(at)) == (digest{}) {
			continue // no blob of this file: what wimboot adds has part 0
		}
		if err := r.check("a content", file); err != nil {
			return nil, err
		}
		if r.flags&flagMetadata == 0 {
			t.sorted = append(t.sorted, t.key(at))
		} else if le32(t.raw[at+blobReferences:]) > 0 {
			// Those of deleted images have no references: Windows PE of the WAIK has such.
			t.images = append(t.images, at)
		}
	}
	if len(t.images) < images {
		return nil, damaged("it should have %d images, and the blob table knows %d", images, len(t.images))
	}
	t.sort()
	return t, nil
}

func (t *blobTable) hashAt(at int) []byte { return t.raw[at+blobHash:][:sha1.Size] }

// key is where an entry is, and how it compares: by the beginning of its hash, by
// the hash, and by the place, because of two with one hash the first one counts.
type key struct {
	begin uint64
	at    uint32
}

func (t *blobTable) key(at int) key {
	return key{binary.BigEndian.Uint64(t.hashAt(at)), uint32(at)}
}

// sort makes the index.
func (t *blobTable) sort() {
	slices.SortFunc(t.sorted, func(a, b key) int {
		if a.begin != b.begin {
			return cmp.Compare(a.begin, b.begin)
		}
		return cmp.Or(bytes.Compare(t.hashAt(int(a.at)), t.hashAt(int(b.at))), cmp.Compare(a.at, b.at))
	})
}

// find is where the entry of a content begins, or −1.
func (t *blobTable) find(h digest) int {
	i := sort.Search(len(t.sorted), func(i int) bool { return bytes.Compare(t.hashAt(int(t.sorted[i].at)), h[:]) >= 0 })
	if i == len(t.sorted) || !bytes.Equal(t.hashAt(int(t.sorted[i].at)), h[:]) {
		return -1
	}
	return int(t.sorted[i].at)
}

// appendBlob appends an entry with one reference.
func appendBlob(table []byte, r resource, h digest) []byte {
	table = append(table, make([]byte, blobSize)...)
	e := table[len(table)-blobSize:]
	r.put(e)
	binary.LittleEndian.PutUint16(e[blobPart:], 1)
	binary.LittleEndian.PutUint32(e[blobReferences:], 1)
	copy(e[blobHash:], h[:])
	return table
}
