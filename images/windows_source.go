package images

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"rescuebox/images/disc"
)

// windowsSource is an open ISO, WIM or directory.
type windowsSource struct {
	path    string            // what was given
	wimPath string            // of the WIM, for people: within the ISO or directory
	wim     *io.SectionReader // its bytes, wherever they are
	tree    fs.FS             // of the ISO; nil for a WIM by itself
	beside  string            // the directory of a WIM by itself
	iso     bool
	trouble error // why only half of the disc can be read
	close   []io.Closer
}

func (s *windowsSource) Close() error {
	var errs []error
	for _, c := range s.close {
		errs = append(errs, c.Close())
	}
	s.close = nil
	return errors.Join(errs...)
}

// named puts the WIM's name before an error.
func (s *windowsSource) named(err error) error {
	if s.wimPath == s.path {
		return fmt.Errorf("%s %w", s.path, err)
	}
	return fmt.Errorf("%s of %s %w", s.wimPath, s.path, err)
}

// windowsRoots are the directories of what was given that have a Windows each: mostly one,
// itself, which is "". So is what has none: to open it says why.
func windowsRoots(path string) []string {
	s := &windowsSource{path: path}
	defer s.Close()
	if tree, err := s.open(); err == nil && tree != nil {
		if roots := rootsOf(tree); len(roots) > 0 {
			return roots
		}
	}
	return []string{""}
}

func rootsOf(tree fs.FS) (roots []string) {
	if _, err := bootWIM(tree); err == nil {
		return []string{""}
	}
	for _, cpu := range []string{"x64", "x86", "arm64"} {
		dir, err := lookup(tree, cpu)
		if err != nil {
			continue
		}
		if below, err := fs.Sub(tree, dir); err == nil {
			if _, err := bootWIM(below); err == nil {
				roots = append(roots, dir)
			}
		}
	}
	return roots
}

// openWindows opens what an admin has, or what lies below a directory of it.
func openWindows(path, below string) (*windowsSource, error) {
	s := &windowsSource{path: path}
	tree, err := s.open()
	if err == nil && below != "" {
		tree, err = fs.Sub(tree, below)
	}
	if err == nil && tree != nil {
		err = s.openTree(tree)
	}
	if err != nil && s.trouble != nil {
		err = fmt.Errorf("%w; and the disc's UDF cannot be read: it %w", err, s.trouble)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		err = hint(err, "mount or unpack it, 7-Zip does, and add the directory: rescuebox image add DIR")
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open looks at the first bytes, not at the name. The tree is nil for a WIM by itself.
func (s *windowsSource) open() (fs.FS, error) {
	info, err := os.Stat(s.path)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return os.DirFS(s.path), nil
	case !info.Mode().IsRegular(): // a pipe would be waited for
		return nil, fmt.Errorf("%s is no regular file", s.path)
	case info.Size() == 0:
		return nil, fmt.Errorf("%s is empty", s.path)
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, f)
	d, err := disc.Open(f, info.Size())
	if errors.Is(err, disc.ErrNoDisc) { // then it is a WIM, or package wim says what it is not
		s.wim, s.wimPath = io.NewSectionReader(f, 0, info.Size()), s.path
		s.openBeside()
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s %w", s.path, err)
	}
	s.iso, s.trouble = true, d.Trouble()
	return d, nil
}

// openBeside looks for the rest of an unpacked ISO around a WIM.
func (s *windowsSource) openBeside() {
	s.beside = filepath.Dir(s.path)
	if abs, err := filepath.Abs(s.path); err == nil && strings.EqualFold(filepath.Base(filepath.Dir(abs)), "sources") {
		s.tree = os.DirFS(filepath.Dir(filepath.Dir(abs)))
	}
}

func (s *windowsSource) openTree(tree fs.FS) error {
	name, err := bootWIM(tree)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	f, err := tree.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	s.close = append(s.close, f)
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	r, ok := f.(io.ReaderAt)
	if !ok || !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %s is no regular file", s.path, name)
	}
	s.tree, s.wim, s.wimPath = tree, io.NewSectionReader(r, 0, info.Size()), name
	return nil
}

// bootWIM finds the WIM that boots in the tree of an ISO.
func bootWIM(tree fs.FS) (string, error) {
	for _, name := range []string{"sources/boot.wim", "boot/boot.wim", "boot.wim"} {
		found, err := lookup(tree, name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return found, err
		}
	}
	about := "it is none of Windows or DaRT"
	if there := wimsIn(tree, "sources"); len(there) > 0 {
		about = "in sources are " + strings.Join(there, ", ")
	}
	return "", hint(fmt.Errorf("there is no sources/boot.wim in it: %s", about),
		"take the ISO that DaRT's wizard made, or Windows' own; a WIM of another name can be given by itself. "+
			"A netboot directory of Debian's installer needs a name before it: rescuebox image add NAME DIR")
}

func wimsIn(tree fs.FS, dir string) (names []string) {
	dir, err := lookup(tree, dir)
	if err != nil {
		return nil
	}
	list, _ := fs.ReadDir(tree, dir)
	for _, e := range list {
		switch strings.ToLower(path.Ext(e.Name())) {
		case ".wim", ".esd", ".swm":
			names = append(names, oneLine(e.Name()))
		}
	}
	return names
}

// lookup finds a name in any case, as Windows would: ISOs have Sources, sources and SOURCES.
func lookup(tree fs.FS, name string) (string, error) {
	at := "."
	for part := range strings.SplitSeq(name, "/") {
		list, err := fs.ReadDir(tree, at)
		if err != nil {
			return "", err
		}
		n := slices.IndexFunc(list, func(e fs.DirEntry) bool { return strings.EqualFold(e.Name(), part) })
		if n < 0 {
			return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		at = path.Join(at, list[n].Name())
	}
	return at, nil
}

// read reads a file of the tree, or one beside a WIM by itself; nil if it is not there.
func (s *windowsSource) read(name string) ([]byte, error) {
	tree := s.tree
	if beside, ok := strings.CutPrefix(name, besideWIM); ok {
		if s.beside == "" {
			return nil, nil
		}
		tree, name = os.DirFS(s.beside), beside
	}
	if tree == nil {
		return nil, nil
	}
	found, err := lookup(tree, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	f, err := tree.Open(found)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLoaderFile+1))
	if err == nil && len(b) > maxLoaderFile {
		err = fmt.Errorf("%s is larger than %d bytes", found, maxLoaderFile)
	}
	return b, err
}
