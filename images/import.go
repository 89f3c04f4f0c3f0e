package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Import is an image that is not in the library yet, and where its files are.
type Import struct {
	Image   Image
	From    map[string]string // file name in the image → path on this box
	Made    map[string][]byte // files that were made for it, by their names in the image
	SHA256  map[string]string // what files must hash to, as far as it is known
	Without error             // what of use is not in it, and why; may be nil
	// Read are files that lie within another that is open, such as an ISO. Whoever has the
	// Import closes it.
	Read map[string]*io.SectionReader
	// Progress is told how much of a file has been copied; it may be nil.
	Progress func(step string, done, total int64)

	closer io.Closer
}

// Close closes what Read reads from.
func (m Import) Close() error {
	if m.closer == nil {
		return nil
	}
	return m.closer.Close()
}

// Import puts an image into the library, as Add does. Programs whose signature
// does not fit them are refused, and so are boot sets that cannot boot (see bootset.go):
// what is looked at are the very bytes that come in.
func (l *Library) Import(m Import) (Image, error) {
	i, err := l.importFiles(m)
	if err != nil {
		return Image{}, fmt.Errorf("add image %s: %w", m.Image.Name, err)
	}
	return i, nil
}

func (l *Library) importFiles(m Import) (Image, error) {
	content := make(map[string]io.Reader, len(m.From)+len(m.Made)+len(m.Read))
	for name, path := range m.From {
		f, err := os.Open(path)
		if err != nil {
			return Image{}, err
		}
		defer f.Close()
		content[name] = f
	}
	for name, part := range m.Read {
		content[name] = &watched{r: io.NewSectionReader(part, 0, part.Size()), name: name, total: part.Size(), tell: m.Progress}
	}
	for name, made := range m.Made {
		content[name] = bytes.NewReader(made)
	}
	return l.add(m.Image, content, m.check)
}

// watched tells how much of a file has been read.
type watched struct {
	r           io.Reader
	name        string
	done, total int64
	tell        func(step string, done, total int64)
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	w.done += int64(n)
	if w.tell != nil {
		w.tell("copying "+w.name, w.done, w.total)
	}
	return n, err
}

// check has the last word on the files, which are in the library's temporary directory.
func (m Import) check(i *Image, found programs) error {
	for _, f := range i.Files {
		if want, ok := m.SHA256[f.Name]; ok && !strings.EqualFold(want, f.SHA256) {
			return fmt.Errorf("%s has SHA-256 %s, and %s was expected: download it again", f.Name, f.SHA256, want)
		}
		// What lies in a WIM or on an ISO is as whoever made that wanted it: some patch the loader, and
		// do without Secure Boot.
		if _, made := m.Made[f.Name]; made && i.Kind == Windows {
			continue
		}
		if err := found[f.Name].damage(); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	if i.Kind == BootSet {
		return i.checkLoaders(found)
	}
	return nil
}

// Pair is a kernel with its initrds: the image that a person describes.
type Pair struct {
	Name    string
	Title   string // "" is made from the kernel's version
	Kernel  string // path
	Initrd  []string
	Cmdline string // template over Args
	Up      Signal // "" is Served
}

// Import checks the pair's files and names them for the library.
func (p Pair) Import() (Import, error) {
	k, err := ReadKernel(p.Kernel)
	if err != nil {
		return Import{}, fmt.Errorf("kernel: %w", err)
	}
	m := Import{From: make(map[string]string), Image: Image{
		Name: p.Name, Kind: Linux, Title: p.Title, Arch: k.Arch, Source: oneLine(p.Kernel), Cmdline: p.Cmdline, Up: p.Up}}
	if m.Image.Title == "" {
		version, _, _ := strings.Cut(k.Version, " ")
		m.Image.Title = strings.TrimSpace("Linux " + version)
	}
	m.Image.Kernel = filepath.Base(p.Kernel)
	m.From[m.Image.Kernel] = p.Kernel
	for _, path := range p.Initrd {
		if err := checkInitrd(path); err != nil {
			return Import{}, err
		}
		name := filepath.Base(path)
		if _, taken := m.From[name]; taken {
			return Import{}, fmt.Errorf("two files are called %s: rename one", name)
		}
		m.From[name] = path
		m.Image.Initrd = append(m.Image.Initrd, name)
	}
	return m, nil
}

// Missing is the error for a file that a Debian package brings.
type Missing struct {
	Path, Package string
}

func (e *Missing) Error() string {
	return fmt.Sprintf("%s is not there: apt-get install %s brings it", e.Path, e.Package)
}

// firstOf finds the first of several paths that exists.
func firstOf(pkg string, paths ...string) (string, error) {
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", &Missing{Path: paths[0], Package: pkg}
}

// Memtest is memtest86+ of Debian's package, whose two files lie below root ("/" on the box).
// Its kernel follows the Linux boot protocol, so loaders take it for one.
func Memtest(name, root string) (Import, error) {
	const pkg = "memtest86+"
	m := Import{From: make(map[string]string), Image: Image{
		Name: name, Kind: Linux, Title: "memtest86+", Arch: "amd64", Source: "Debian's package " + pkg,
		Kernel: "memtest.bin", KernelEFI: "memtest.efi", Cmdline: "console=ttyS0,115200", Up: Served}}
	// Debian 13 renamed the files.
	for file, places := range map[string][]string{
		"memtest.bin": {"boot/memtest86+x64.bin", "boot/mt86+x64", "boot/mt86+x64.bin"},
		"memtest.efi": {"boot/memtest86+x64.efi", "boot/mt86+x64.efi", "boot/mt86+x64"},
	} {
		for i := range places {
			places[i] = filepath.Join(root, places[i])
		}
		path, err := firstOf(pkg, places...)
		if err != nil {
			return Import{}, err
		}
		if _, err := ReadKernel(path); err != nil {
			return Import{}, err
		}
		m.From[file] = path
	}
	return m, nil
}

// WellKnown makes an image of what a Debian package has put on this box, by
// the image's name: memtest86+ or debian-installer.
func WellKnown(name string) (Import, error) {
	switch name {
	case "memtest86+":
		return Memtest(name, "/")
	case "debian-installer":
		dir, err := newestInstaller("/")
		if err != nil {
			return Import{}, err
		}
		return Netboot(name, dir)
	}
	return Import{}, fmt.Errorf("nothing is known of %q: name a netboot directory or --kernel, or use one of the names %s",
		name, strings.Join(WellKnownNames(), ", "))
}

// WellKnownNames lists what WellKnown knows.
func WellKnownNames() []string { return []string{"debian-installer", "memtest86+"} }
