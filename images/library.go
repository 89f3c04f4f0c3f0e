package images

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Library is a directory of images. It remembers which files it has read.
// Its methods may be called by many goroutines, and other processes may change
// the directory meanwhile.
type Library struct {
	Dir string

	mu     sync.Mutex
	hashed map[string]*hashed // by path
	parsed map[string]parsed  // by name
}

// parsed is what an image.toml says: every packet and file of a boot asks for it.
type parsed struct {
	stamp stamp
	image Image
}

// hashed remembers what was read of one file. Its mutex is held while reading, so
// that a big file is never hashed twice at once.
type hashed struct {
	mu    sync.Mutex
	stamp stamp
	sum   string

	look    sync.Mutex // of what follows: a boot packet must not wait for a hash
	looked  stamp      // when program was read
	program PE
}

// stamp is what changes when a file does: writing to a file moves its ctime,
// which, unlike mtime, no program can set.
type stamp struct {
	size  int64
	mtime int64
	ctime int64
	inode uint64
}

// settled is the age a file must have before its stamp can be trusted: a write
// within the same tick of the file system's clock leaves the stamp as it was.
const settled = 100 * time.Millisecond

func (s stamp) old() bool { return time.Since(time.Unix(0, s.ctime)) > settled }

// List reads every image; those that cannot be read are in errs, each with its name.
func (l *Library) List() (list []Image, errs []error) {
	names, err := l.names()
	if err != nil {
		return nil, []error{err}
	}
	for _, name := range names {
		i, err := l.Get(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, i)
	}
	return list, errs
}

// names lists the directories that should be images. A library that does not
// exist yet is empty.
func (l *Library) names() (names []string, err error) {
	entries, err := os.ReadDir(l.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read image library: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.Name() == "lost+found" {
			continue
		}
		if fi, err := os.Stat(filepath.Join(l.Dir, e.Name())); err == nil && fi.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Get reads one image. The error for a name that does not exist lists those that do.
func (l *Library) Get(name string) (Image, error) {
	if err := CheckName(name); err != nil {
		return Image{}, err
	}
	dir := filepath.Join(l.Dir, name)
	i, err := l.read(name, dir)
	// The directory that was opened may have been replaced since, and taken
	// apart: then the name leads to the new one.
	for try := 0; try < 5 && errors.Is(err, fs.ErrNotExist); try++ {
		i, err = l.read(name, dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if fi, statErr := os.Stat(dir); statErr != nil || !fi.IsDir() {
			return Image{}, l.missing(name)
		}
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	i.Dir = dir
	i.Files = slices.Clone(i.Files) // what is remembered stays as it was read
	l.addPrograms(&i)
	return i, nil
}

// read reads an image.toml, or remembers what it said if it is as it was then.
func (l *Library) read(name, dir string) (Image, error) {
	f, err := openIn(dir, tomlName)
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	s, err := stampOf(f)
	if err != nil {
		return Image{}, err
	}
	l.mu.Lock()
	have, ok := l.parsed[name]
	l.mu.Unlock()
	if ok && have.stamp == s {
		return have.image, nil
	}
	text, err := io.ReadAll(io.LimitReader(f, maxToml+1))
	if err != nil {
		return Image{}, err
	}
	i, err := parse(name, text)
	if err != nil {
		return Image{}, err
	}
	if after, err := stampOf(f); err == nil && after == s && s.old() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.parsed == nil {
			l.parsed = map[string]parsed{}
		}
		l.parsed[name] = parsed{s, i}
	}
	return i, nil
}

// NotFound is the error for an image that the library does not have.
type NotFound struct {
	Name string
	Have []string // the images that it has
}

func (e *NotFound) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("no image %q: the library is empty; put one in with rescuebox image add or build", e.Name)
	}
	return fmt.Sprintf("no image %q: images are %s", e.Name, strings.Join(e.Have, ", "))
}

func (l *Library) missing(name string) error {
	have, _ := l.names()
	return &NotFound{Name: name, Have: have}
}

// Open opens a file of an image after making sure that it is the one that was imported;
// a file that changed since is refused with its name.
func (l *Library) Open(i Image, file string) (*os.File, File, error) {
	return l.open(i, file, false)
}

func (l *Library) open(i Image, file string, fresh bool) (*os.File, File, error) {
	want, ok := i.File(file)
	if !ok {
		return nil, File{}, fmt.Errorf("image %s has no file %q", i.Name, file)
	}
	f, err := openIn(i.Dir, want.Name)
	if err != nil {
		return nil, File{}, fmt.Errorf("image %s: %w; add the image again", i.Name, err)
	}
	if err := l.checkFile(f, i, want, fresh); err != nil {
		f.Close()
		return nil, File{}, err
	}
	return f, want, nil
}

// openIn opens a regular file of a directory. Links that lead out of the
// directory are not followed, and what is no file (a pipe, say) is not waited for.
func openIn(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fi, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	return root.Open(name)
}

func (l *Library) checkFile(f *os.File, i Image, want File, fresh bool) error {
	sum, err := l.sum(f, want, fresh)
	if err != nil {
		return fmt.Errorf("image %s: file %s: %w", i.Name, want.Name, err)
	}
	if sum != want.SHA256 {
		return &Changed{Image: i.Name, File: want.Name}
	}
	return nil
}

// Changed is the error for a file that is not the one that was imported.
type Changed struct {
	Image, File string
}

func (e *Changed) Error() string {
	return fmt.Sprintf("file %s of image %s changed since it was added: add or build the image again (rescuebox image verify %s looks at all its files)",
		e.File, e.Image, e.Image)
}

// sum is the hash of a file: the remembered one if the file is as it was then,
// and no fresh one is asked for. A file of another size than wanted is not read at all.
func (l *Library) sum(f *os.File, want File, fresh bool) (string, error) {
	h := l.remembered(f.Name())
	h.mu.Lock()
	defer h.mu.Unlock()
	s, err := stampOf(f)
	if err != nil {
		return "", err
	}
	if s.size != want.Size {
		return "", nil
	}
	if h.sum != "" && h.stamp == s && !fresh {
		return h.sum, nil
	}
	h.sum, h.stamp = "", s
	sum, err := hash(f)
	if err != nil {
		return "", err
	}
	if after, err := stampOf(f); err == nil && after == s && s.old() {
		h.sum = sum
	}
	return sum, nil
}

func (l *Library) remembered(path string) *hashed {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hashed == nil {
		l.hashed = make(map[string]*hashed)
	}
	h := l.hashed[path]
	if h == nil {
		h = new(hashed)
		l.hashed[path] = h
	}
	return h
}

// forget drops what is remembered of an image's files.
func (l *Library) forget(dir string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for path := range l.hashed {
		if filepath.Dir(path) == dir {
			delete(l.hashed, path)
		}
	}
	delete(l.parsed, filepath.Base(dir))
}

// hash reads a file from its beginning and leaves it there.
func hash(f *os.File) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	_, err := f.Seek(0, io.SeekStart)
	return hex.EncodeToString(h.Sum(nil)), err
}

func stampOf(f *os.File) (stamp, error) {
	fi, err := f.Stat()
	if err != nil {
		return stamp{}, err
	}
	s := stamp{size: fi.Size(), mtime: fi.ModTime().UnixNano()}
	s.ctime, s.inode = changeOf(fi)
	return s, nil
}

// Verify hashes every file of an image, whatever is remembered of them. The
// error has one line for each file that is missing or changed.
func (l *Library) Verify(i Image) error {
	var errs []error
	for _, want := range i.Files {
		f, _, err := l.open(i, want.Name, true)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.Close()
	}
	return errors.Join(errs...)
}

// Remove deletes an image, readable or not.
func (l *Library) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	dir := filepath.Join(l.Dir, name)
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		return l.missing(name)
	}
	tmp, err := l.tempDir()
	if err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	defer tmp.discard()
	if err := os.Rename(dir, filepath.Join(tmp.path, name)); err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	l.forget(dir)
	return syncDir(l.Dir)
}
