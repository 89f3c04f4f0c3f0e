package rescue

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// tree is a file system before it is packed: names to entries, the data still in
// the tar file it came from. Names have no leading slash.
type tree struct {
	entries map[string]*entry
}

type entry struct {
	head tar.Header
	data *io.SectionReader // of a regular file
}

// readTree indexes a tar file. Hard links become files with the data of their
// target: squashfs stores equal files once, and the order of entries is free.
func readTree(f *os.File) (*tree, error) {
	t := &tree{entries: map[string]*entry{}}
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		// The reader does not buffer: the file stands at the entry's data.
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := t.index(*h, io.NewSectionReader(f, at, h.Size)); err != nil {
			return nil, fmt.Errorf("read %s: %w", f.Name(), err)
		}
	}
}

func (t *tree) index(h tar.Header, data *io.SectionReader) error {
	h.Name = clean(h.Name)
	if h.Name == "." || h.Name == "" {
		return nil
	}
	e := &entry{head: h}
	switch h.Typeflag {
	case tar.TypeReg:
		e.data = data
	case tar.TypeLink:
		target := t.entries[clean(h.Linkname)]
		if target == nil || target.data == nil {
			return fmt.Errorf("hard link %s to %s, which is not there", h.Name, h.Linkname)
		}
		e.data = target.data
		e.head.Typeflag, e.head.Linkname, e.head.Size = tar.TypeReg, "", target.head.Size
	}
	t.entries[h.Name] = e
	return nil
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// names lists all names, sorted.
func (t *tree) names() []string {
	list := make([]string, 0, len(t.entries))
	for name := range t.entries {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// without is the tree without what the patterns match.
func (t *tree) without(p patterns) *tree {
	left := &tree{entries: map[string]*entry{}}
	for name, e := range t.entries {
		if !p.match(name) {
			left.entries[name] = e
		}
	}
	return left
}

// addFile adds or replaces a file, with the folders above it.
func (t *tree) addFile(name string, mode int64, data []byte) {
	t.addData(name, mode, io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))))
}

func (t *tree) addData(name string, mode int64, data *io.SectionReader) {
	t.addParents(name)
	t.entries[name] = &entry{
		head: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: data.Size()},
		data: data,
	}
}

func (t *tree) addLink(name, target string) {
	t.addParents(name)
	t.entries[name] = &entry{head: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func (t *tree) addDir(name string, mode int64) {
	t.addParents(name)
	t.entries[name] = &entry{head: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func (t *tree) addParents(name string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if t.entries[dir] == nil {
			t.entries[dir] = &entry{head: tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}}
		}
	}
}

// read is a file's content.
func (t *tree) read(name string) ([]byte, error) {
	e := t.entries[name]
	if e == nil || e.data == nil {
		return nil, fmt.Errorf("the packages brought no file %s", name)
	}
	return io.ReadAll(io.NewSectionReader(e.data, 0, e.data.Size()))
}

// one finds the single name that a pattern matches.
func (t *tree) one(pattern string) (string, error) {
	var found []string
	for name := range t.entries {
		if wildcard(pattern, name) {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("want one %s in the packages, have %d", pattern, len(found))
	}
	return found[0], nil
}

// newest is the newest time of the licence texts, which every package brings
// and no installation script writes: the same packages give the same time.
func (t *tree) newest() time.Time {
	var newest time.Time
	for name, e := range t.entries {
		if wildcard("usr/share/doc/*/copyright", name) && e.head.ModTime.After(newest) {
			newest = e.head.ModTime
		}
	}
	return newest.UTC().Truncate(time.Second)
}

// writeTar writes the tree sorted, owners by number, no time later than epoch.
func (t *tree) writeTar(w io.Writer, epoch time.Time) error {
	tw := tar.NewWriter(w)
	for _, name := range t.names() {
		e := t.entries[name]
		h := tar.Header{
			Typeflag: e.head.Typeflag, Name: name, Linkname: e.head.Linkname, Size: e.head.Size,
			Mode: e.head.Mode, Uid: e.head.Uid, Gid: e.head.Gid,
			Devmajor: e.head.Devmajor, Devminor: e.head.Devminor,
			ModTime: epoch, Format: tar.FormatGNU,
		}
		if err := tw.WriteHeader(&h); err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
		if e.data == nil {
			continue
		}
		if _, err := io.Copy(tw, io.NewSectionReader(e.data, 0, e.data.Size())); err != nil {
			return fmt.Errorf("pack %s: %w", name, err)
		}
	}
	return tw.Close()
}
