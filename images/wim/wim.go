// Package wim reads Windows Imaging files and serves them with files added,
// without copying them.
//
// A WIM (Microsoft, "Windows Imaging File Format", 2007) is a header of 208 bytes; blobs, which
// are the contents of files, each stored once however many files have it; a metadata
// resource per image, which is its tree of directories; the blob table, which finds a blob by the
// SHA-1 of its content; and an XML text about the images. Only the header has a fixed place.
//
// So a file can be added in front of a reader's eyes: see [File.With]. What is read are bytes that
// somebody else made: every size, count and depth is bounded, and what does not fit is an error.
package wim

import (
	"errors"
	"io"
	"time"
)

// The reasons why a file is refused. They are wrapped with what was found.
var (
	ErrNoWIM      = errors.New("is no WIM: take sources/boot.wim of a Windows or DaRT ISO")
	ErrPipable    = errors.New("is a pipable WIM of wimlib, which Windows does not boot: convert it with wimlib-imagex export FILE all NEW.wim --boot")
	ErrSolid      = errors.New("is packed solid or with LZMS, as .esd files are, which Windows does not boot: convert it with wimlib-imagex export FILE all NEW.wim --compress=LZX --chunk-size=32K --boot")
	ErrSplit      = errors.New("is one part of a split WIM: join the parts with wimlib-imagex join NEW.wim FILE*.swm")
	ErrUnfinished = errors.New("was not written to its end: copy or capture it again")
	ErrEncrypted  = errors.New("is encrypted (EFS), and only its owner's Windows can read it: capture the image without encryption")
	ErrDamaged    = errors.New("is damaged: copy it again and compare its hash with the source's")
)

// File is an open WIM. Many may use it at once: what it has unpacked, it keeps.
type File struct{}

// Image is what the XML text says of an image; what it does not say is empty.
type Image struct {
	Index       int // from 1
	Name        string
	Description string
	Arch        string // Debian's name: amd64, i386, arm64, armhf
	Version     string // of Windows: 10.0.26100.1
	Type        string // INSTALLATIONTYPE: WindowsPE, Client, Server
	Edition     string // EDITIONID
	Languages   []string
}

// Entry is a file or directory of an image.
type Entry struct {
	Name       string
	Dir        bool
	Size       int64 // of the unnamed stream
	Attributes uint32
	Modified   time.Time
}

// Added is a file for \Windows\System32. It takes the place of one that has its
// name in any case.
type Added struct {
	Name string
	Data []byte
}

// Patched is a WIM with files added: Header, then the original from byte
// len(Header) to its end, then Tail; Size bytes together.
type Patched struct {
	Header, Tail []byte
	Size         int64
}

var errSoon = errors.New("not there yet")

// Open reads the header, the blob table and the XML text. It neither closes r
// nor keeps a position in it.
func Open(r io.ReaderAt, size int64) (*File, error) { return nil, errSoon }

// Images are all images of the file.
func (f *File) Images() []Image { return nil }

// Boot is the index of the image that boots: the header's boot index, or 1 where it names none.
func (f *File) Boot() int { return 1 }

// Packing is how the file's blobs are compressed: "none", "XPRESS" or "LZX", and
// the size of the chunks. Microsoft's loaders and wimboot are known to read chunks of 32768 bytes.
func (f *File) Packing() (compression string, chunk int) { return "", 0 }

// Entry finds a file or directory by its path, with \ or / between the names, in any case. The error
// wraps fs.ErrNotExist if there is none. Image 0 is the one that boots.
func (f *File) Entry(image int, path string) (Entry, error) { return Entry{}, errSoon }

// ReadDir lists a directory in the order of the file; "" or \ is the root.
func (f *File) ReadDir(image int, path string) ([]Entry, error) { return nil, errSoon }

// Walk calls fn for everything below the root, directories before what is in
// them, with the path as \Windows\System32. It ends with the first error of fn.
func (f *File) Walk(image int, fn func(path string, e Entry) error) error { return errSoon }

// ReadFile reads a file of at most max bytes and compares it with its SHA-1.
func (f *File) ReadFile(image int, path string, max int64) ([]byte, error) { return nil, errSoon }

// With adds files to \Windows\System32 of an image and makes it the one that boots; image 0 is the
// one that boots already. The same files give the same bytes.
func (f *File) With(image int, added []Added) (*Patched, error) { return nil, errSoon }
