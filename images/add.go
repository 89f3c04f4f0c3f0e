package images

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// tempPrefix begins the names of directories in which an image is made or
// taken apart. They are hidden from List and Get.
const tempPrefix = ".tmp-"

// young is the age below which a temporary directory is never taken for a leftover:
// its owner may be just about to lock it.
const young = time.Minute

// Add imports an image whole or not at all: files are copied and hashed into a
// temporary directory that becomes the image by one rename. An image of the
// name that exists is replaced. i.Files is made from content, with what the
// PE programs among it say of themselves; Added and Up have defaults (now, Served).
func (l *Library) Add(i Image, content map[string]io.Reader) (Image, error) {
	i, err := l.add(i, content, nil)
	if err != nil {
		return Image{}, fmt.Errorf("add image %s: %w", i.Name, err)
	}
	return i, nil
}

// add is Add with a last word on the image, which is asked when all files are written.
func (l *Library) add(i Image, content map[string]io.Reader, check func(*Image, programs) error) (Image, error) {
	if err := CheckName(i.Name); err != nil {
		return i, err
	}
	if err := l.make(); err != nil {
		return i, err
	}
	l.sweep()
	tmp, err := l.tempDir()
	if err != nil {
		return i, err
	}
	defer tmp.discard()
	if i, err = tmp.fill(i, content, check); err != nil {
		return i, err
	}
	i.Dir = filepath.Join(l.Dir, i.Name)
	if err := replace(tmp.image(), i.Dir); err != nil {
		return i, err
	}
	l.forget(i.Dir)
	return i, syncDir(l.Dir)
}

// make makes the library's directory, owned as the nearest directory above it
// that exists.
func (l *Library) make() error {
	above := filepath.Clean(l.Dir)
	for {
		_, err := os.Stat(above)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("image library: %w", err)
		}
		above = filepath.Dir(above)
	}
	if above == filepath.Clean(l.Dir) {
		return nil
	}
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return fmt.Errorf("image library: %w", err)
	}
	return ownLike(above, l.Dir)
}

// temp is a temporary directory. It holds the image in the making in a
// directory below, so that it can stay locked until after the rename.
type temp struct {
	path  string
	owner string   // whose owner the files get
	lock  *os.File // held as long as this process lives
}

func (l *Library) tempDir() (temp, error) {
	path, err := os.MkdirTemp(l.Dir, tempPrefix)
	if err != nil {
		return temp{}, err
	}
	t := temp{path: path, owner: l.Dir}
	t.lock, err = lockDir(path)
	if err == nil {
		err = ownLike(t.owner, path)
	}
	if err != nil {
		t.discard()
		return temp{}, err
	}
	return t, nil
}

// image is the directory that becomes the image; after an exchange it is the
// image that was replaced.
func (t temp) image() string { return filepath.Join(t.path, "image") }

func (t temp) discard() {
	os.RemoveAll(t.path)
	if t.lock != nil {
		t.lock.Close()
	}
}

// sweep removes what imports left that were interrupted: temporary directories
// that no living process has locked.
func (l *Library) sweep() {
	left, _ := filepath.Glob(filepath.Join(l.Dir, tempPrefix+"*"))
	for _, path := range left {
		fi, err := os.Stat(path)
		if err != nil || time.Since(fi.ModTime()) < young {
			continue
		}
		if lock, err := lockDir(path); err == nil && lock != nil {
			temp{path: path, lock: lock}.discard()
		}
	}
}

// fill writes the files and image.toml, and brings them to the disk.
func (t temp) fill(i Image, content map[string]io.Reader, check func(*Image, programs) error) (Image, error) {
	if err := os.Mkdir(t.image(), 0o755); err != nil {
		return i, err
	}
	i.Files = nil
	found := programs{}
	for _, name := range slices.Sorted(maps.Keys(content)) {
		if err := CheckName(name); err != nil {
			return i, err
		}
		f, err := t.write(name, content[name])
		if err != nil {
			return i, fmt.Errorf("file %s: %w", name, err)
		}
		if p, ok := found.read(filepath.Join(t.image(), name)); ok {
			f.Arch, f.Signers = p.Arch, p.signers()
		}
		i.Files = append(i.Files, f)
	}
	if check != nil {
		if err := check(&i, found); err != nil {
			return i, err
		}
	}
	if err := t.describe(&i); err != nil {
		return i, err
	}
	if err := ownLike(t.owner, t.image()); err != nil {
		return i, err
	}
	return i, errors.Join(os.Chmod(t.image(), 0o755), syncDir(t.image()))
}

// describe writes image.toml and makes sure that it can be read again.
func (t temp) describe(i *Image) error {
	if i.Up == "" && i.Kind == Linux {
		i.Up = Served
	}
	if i.Added.IsZero() {
		i.Added = time.Now()
	}
	i.Added = i.Added.UTC().Truncate(time.Second)
	if err := i.check(); err != nil {
		return err
	}
	text, err := toml.Marshal(i)
	if err != nil {
		return err
	}
	if _, err := parse(i.Name, text); err != nil {
		return err
	}
	_, err = t.write(tomlName, strings.NewReader(string(text)))
	return err
}

// write copies and hashes one file. The error of a full disk is the system's,
// which names the file.
func (t temp) write(name string, from io.Reader) (File, error) {
	path := filepath.Join(t.image(), name)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), from)
	if err != nil {
		return File{}, err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return File{}, err
	}
	return File{Name: name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, ownLike(t.owner, path)
}

// replace moves a directory to a name; one that has the name takes its place.
func replace(from, to string) error {
	err := os.Rename(from, to)
	if err == nil {
		return nil
	}
	if _, statErr := os.Lstat(to); statErr != nil {
		return err
	}
	return exchange(from, to)
}

// exchangeInSteps is exchange without the system's help: between its steps b does not exist.
func exchangeInSteps(a, b string) error {
	aside := a + ".old"
	if err := os.Rename(b, aside); err != nil {
		return err
	}
	if err := os.Rename(a, b); err != nil {
		return errors.Join(err, os.Rename(aside, b))
	}
	return nil
}
