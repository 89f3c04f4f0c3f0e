// Package wim reads Windows Imaging files and serves them with files added,
// without copying them.
//
// A WIM (Microsoft, "Windows Imaging File Format", 2007) is a header of 208 bytes; blobs, which
// are the contents of files, each stored once however many files have it; a metadata
// resource per image, which is its tree of directories; the blob table, which finds a blob by the
// SHA-1 of its content; and an XML text about the images. Only the header has a fixed place.
//
// So a file can be added in front of a reader's eyes: see [File.Patch]. What is read are bytes that
// somebody else made: every size, count and depth is bounded, and what does not fit is an error.
package wim

import (
	"errors"
	"hash"
	"io"
	"slices"
	"sync"
)

// The reasons why a file is refused. They are wrapped with what was found.
var (
	ErrNoWIM      = errors.New("is no WIM: take sources/boot.wim of a Windows or DaRT ISO")
	ErrPipable    = errors.New("is a pipable WIM of wimlib, which Windows does not boot: convert it with wimlib-imagex export FILE all NEW.wim, and --boot if it has a boot index")
	ErrSolid      = errors.New("is packed solid or with LZMS, as .esd files are, which Windows does not boot: convert it with wimlib-imagex export FILE all NEW.wim --compress=LZX --chunk-size=32K, and --boot if it has a boot index")
	ErrSplit      = errors.New("is one part of a split WIM: join the parts with wimlib-imagex join NEW.wim FILE*.swm")
	ErrUnfinished = errors.New("was not written to its end: copy or capture it again")
	ErrEncrypted  = errors.New("is encrypted (EFS), and only its owner's Windows can read it: capture the image without encryption")
	ErrDamaged    = errors.New("is damaged: copy it again and compare its hash with the source's")
)

// File is an open WIM. Many may use it at once: what it has unpacked, it keeps.
type File struct {
	r           io.ReaderAt
	size        int64
	header      [headerSize]byte
	compression string
	chunk       int // 0 where nothing is compressed
	boot        int // the header's boot index
	images      []Image
	blobs       *blobTable

	mu    sync.Mutex
	trees map[int]tree
	sums  map[int]hash.Cloner // of the trees as they begin in a patch
}

// Image is what the XML text says of an image; what it does not say is empty.
type Image struct {
	Index   int // from 1
	Name    string
	Arch    string // Debian's name: amd64, i386, arm64, armhf
	Version string // of Windows: 10.0.26100.1
}

// Entry is a file or directory of an image.
type Entry struct {
	Name string
	Dir  bool
	Size int64 // of the unnamed stream
}

// Open reads the header, the blob table and the XML text. It neither closes r
// nor keeps a position in it.
func Open(r io.ReaderAt, size int64) (*File, error) {
	f := &File{r: r, size: size, trees: map[int]tree{}, sums: map[int]hash.Cloner{}}
	count, err := f.readHeader()
	if err != nil {
		return nil, err
	}
	table, err := f.read(resourceOf(f.header[headerTable:]), "the blob table", maxTable)
	if err != nil {
		return nil, err
	}
	if f.blobs, err = newBlobTable(table, count, size); err != nil {
		return nil, err
	}
	text, _ := f.read(resourceOf(f.header[headerXML:]), "the XML text", maxXML)
	f.images = imagesOf(text, count)
	return f, nil
}

// Images are all images of the file.
func (f *File) Images() []Image { return slices.Clone(f.images) }

// Boot is the index of the image that boots: the header's boot index, or 1 where it names none.
func (f *File) Boot() int { return max(f.boot, 1) }

// Packing is how the file's blobs are compressed: "none", "XPRESS" or "LZX", and
// the size of the chunks. Microsoft's loaders and wimboot are known to read chunks of 32768 bytes.
func (f *File) Packing() (compression string, chunk int) { return f.compression, f.chunk }
