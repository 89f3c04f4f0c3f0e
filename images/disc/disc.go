// Package disc reads the files of an ISO image by their names: UDF, ISO 9660 and
// its Joliet and Rock Ridge names.
//
// Windows' own ISOs are UDF with a stub of ISO 9660 beside it that holds a
// README alone, which is why bsdtar and most libraries find nothing in
// them. 7-Zip reads both, but writes what it finds to a disk: an import would need
// room for a boot.wim twice, a program that is not on every admin's Windows or Mac,
// and another process fed with a stranger's file. To find a file by its name takes
// few structures of either format, so they are read here, from anything that
// is an [io.ReaderAt], and what is read is handed out as extents of the ISO itself.
//
// The formats are those of ECMA-119 (ISO 9660), ECMA-167 with OSTA UDF 1.02 to 2.01, Joliet
// and IEEE P1282. An ISO is a stranger's: what its structures say is bounded and checked
// before it is followed, and nothing is read that a name did not ask for.
package disc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"
)

// Errors of an ISO as a whole.
var (
	ErrNoDisc  = errors.New("is no ISO image: neither UDF nor ISO 9660 is in it")
	ErrDamaged = errors.New("is damaged or was not copied to its end: copy it again and compare its size and hash with the source's")
)

// Bounds, far above what real discs have.
const (
	maxDirectory = 16 << 20 // bytes
	maxEntries   = 1 << 17  // in one directory
	maxExtents   = 1 << 16  // of one file
)

// Disc is an ISO. It is an [fs.FS] whose files can be read at any place, as
// [io.ReaderAt], by many at once. Names are as the disc has them: the case is Windows' whim.
type Disc struct {
	volume  volume
	trouble error
}

// volume is one file system of a disc.
type volume interface {
	root() node
	list(dir node) ([]node, error)
}

// node is a file or directory. A UDF directory does not say how large its files are:
// then they are looked at with fill.
type node struct {
	name    string
	dir     bool
	content content
	time    time.Time
	fill    func(*node) error // nil once content is known
}

func (n *node) filled() error {
	if n.fill == nil {
		return nil
	}
	fill := n.fill
	n.fill = nil
	return fill(n)
}

// Open finds the best file system of an ISO: UDF, then Joliet, then ISO 9660. It keeps r,
// and does not close it.
func Open(r io.ReaderAt, size int64) (*Disc, error) {
	b := &blocks{r: r, size: size}
	udf, err := openUDF(b)
	if err == nil {
		return &Disc{volume: udf}, nil
	}
	iso, isoErr := openISO9660(b)
	if isoErr == nil {
		if errors.Is(err, errNotHere) {
			err = nil
		}
		return &Disc{volume: iso, trouble: err}, nil
	}
	if errors.Is(err, errNotHere) && errors.Is(isoErr, errNotHere) {
		return nil, ErrNoDisc
	}
	if errors.Is(err, errNotHere) {
		err = isoErr
	}
	return nil, err
}

// errNotHere is that a disc does not have one kind of file system.
var errNotHere = errors.New("no such file system")

// Trouble is why the disc's UDF cannot be read and its ISO 9660 is read in its
// place, which may be a stub; nil if there is nothing to say.
func (d *Disc) Trouble() error { return d.trouble }

// Open opens a file or directory, as fs.FS has it.
func (d *Disc) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	n, err := d.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if n.dir {
		return &dir{node: n, volume: d.volume}, nil
	}
	return &File{SectionReader: io.NewSectionReader(n.content, 0, n.content.size()), node: n}, nil
}

// find walks from the root. A disc cannot make it longer than the name is.
func (d *Disc) find(name string) (node, error) {
	at := d.volume.root()
	if name == "." {
		return at, nil
	}
	for name != "" {
		var first string
		first, name = cut(name)
		if !at.dir {
			return node{}, fs.ErrNotExist
		}
		list, err := d.volume.list(at)
		if err != nil {
			return node{}, err
		}
		i := slices.IndexFunc(list, func(n node) bool { return n.name == first })
		if i < 0 {
			return node{}, fs.ErrNotExist
		}
		at = list[i]
		if err := at.filled(); err != nil {
			return node{}, err
		}
	}
	return at, nil
}

func cut(name string) (first, rest string) {
	for i := range len(name) {
		if name[i] == '/' {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

// File is a file of a disc.
type File struct {
	*io.SectionReader
	node node
}

// Stat is that of fs.File.
func (f *File) Stat() (fs.FileInfo, error) { return info{f.node}, nil }

// Close does nothing: the disc is open as long as its reader.
func (f *File) Close() error { return nil }

// dir is an open directory.
type dir struct {
	node   node
	volume volume
	left   []fs.DirEntry
	read   bool
}

func (d *dir) Stat() (fs.FileInfo, error) { return info{d.node}, nil }
func (d *dir) Close() error               { return nil }
func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.node.name, Err: errors.New("is a directory")}
}

// ReadDir is that of fs.ReadDirFile.
func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		list, err := d.volume.list(d.node)
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.node.name, Err: err}
		}
		for _, n := range list {
			d.left = append(d.left, entry{n})
		}
		d.read = true
	}
	if n > 0 && len(d.left) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.left) {
		n = len(d.left)
	}
	out := d.left[:n]
	d.left = d.left[n:]
	return out, nil
}

// entry is a name in a directory; its size is looked for when it is asked for.
type entry struct{ node node }

func (e entry) Name() string      { return e.node.name }
func (e entry) IsDir() bool       { return e.node.dir }
func (e entry) Type() fs.FileMode { return info(e).Mode().Type() }
func (e entry) Info() (fs.FileInfo, error) {
	n := e.node
	err := n.filled()
	return info{n}, err
}

type info struct{ node node }

func (i info) Name() string       { return path.Base(i.node.name) }
func (i info) Size() int64        { return i.node.content.size() }
func (i info) IsDir() bool        { return i.node.dir }
func (i info) ModTime() time.Time { return i.node.time }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.node.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// keep drops from a list what cannot be named in a path, and the second of a name.
func keep(list []node) []node {
	slices.SortStableFunc(list, func(a, b node) int {
		switch {
		case a.name < b.name:
			return -1
		case a.name > b.name:
			return 1
		}
		return 0
	})
	list = slices.DeleteFunc(list, func(n node) bool { return !fs.ValidPath(n.name) || n.name == "." || path.Base(n.name) != n.name })
	return slices.CompactFunc(list, func(a, b node) bool { return a.name == b.name })
}

// damaged says where an ISO is not as it should be.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w (%s)", ErrDamaged, fmt.Sprintf(format, args...))
}
