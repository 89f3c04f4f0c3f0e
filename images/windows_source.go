package images

import (
	"bytes"
	"encoding/binary"
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
	"rescuebox/images/wim"
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
func windowsRoots(path string) ([]string, error) {
	s := &windowsSource{path: path}
	defer s.Close()
	tree, err := s.open()
	if err != nil {
		return nil, err
	}
	if tree != nil {
		if roots := rootsOf(tree); len(roots) > 0 {
			return roots, nil
		}
	}
	return []string{""}, nil
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

// besideWIM marks a path as one in the directory of a WIM that was given by itself.
const besideWIM = "./"

// windowsPart is a file of a Windows image beside the WIM.
type windowsPart struct {
	name string
	font bool
	form string   // what it begins with
	wim  []string // where it is in the WIM
	disc []string // where it is on the ISO; {arch} is UEFI's name of the CPU
	iso  bool     // the ISO's comes first
}

// windowsParts are all that Microsoft's loaders fetch and we have a place for. cdboot.efi
// and etfsboot.com of an ISO are left where they are: they load from a CD and from nothing else.
var windowsParts = []windowsPart{
	{name: "pxeboot.n12", wim: []string{`\Windows\Boot\PXE\pxeboot.n12`}},
	{name: "bootmgr.exe", form: "MZ", wim: []string{`\Windows\Boot\PXE\bootmgr.exe`}},
	{name: "wdsmgfw.efi", form: "MZ", wim: []string{`\Windows\Boot\PXE\wdsmgfw.efi`}},
	{name: "bootmgfw.efi", form: "MZ", wim: []string{`\Windows\Boot\EFI\bootmgfw.efi`}, disc: []string{"efi/boot/boot{arch}.efi", "bootmgr.efi"}},
	{name: "bootmgfw_ex.efi", form: "MZ", wim: []string{`\Windows\Boot\EFI_EX\bootmgfw_EX.efi`}},
	{name: sdiName, form: "$SDI0001", iso: true, disc: []string{"boot/boot.sdi", besideWIM + sdiName},
		wim: []string{`\Windows\Boot\DVD\PCAT\boot.sdi`, `\Windows\Boot\DVD\EFI\boot.sdi`, `\sms\boot\boot.sdi`}},
	font("wgl4_boot.ttf"), font("segmono_boot.ttf"), font("segoen_slboot.ttf"), font("segoe_slboot.ttf"),
	{name: "boot.stl", wim: []string{`\Windows\Boot\EFI\boot.stl`}, disc: []string{"efi/microsoft/boot/boot.stl"}},
}

func font(name string) windowsPart {
	return windowsPart{name: name, font: true, wim: []string{`\Windows\Boot\Fonts\` + name}, disc: []string{"boot/fonts/" + name, "efi/microsoft/boot/fonts/" + name}}
}

func partNames() (names []string) {
	for _, p := range windowsParts {
		names = append(names, p.name)
	}
	return names
}

// checkPart makes sure that a file begins as it must.
func checkPart(name string, head []byte) error {
	if len(head) == 0 {
		return errors.New("is empty")
	}
	n := slices.IndexFunc(windowsParts, func(p windowsPart) bool { return p.name == name })
	if n >= 0 && !bytes.HasPrefix(head, []byte(windowsParts[n].form)) {
		return fmt.Errorf("is not what its name says: it does not begin with %q", windowsParts[n].form)
	}
	return nil
}

// efiNames are UEFI's names of CPUs, as in bootx64.efi.
var efiNames = map[string]string{"amd64": "x64", "i386": "ia32", "arm64": "aa64", "armhf": "arm"}

// take finds the files that the loaders need, in the WIM and on the ISO. One
// that cannot be read is said, and is as one that is not there.
func (p *windowsPE) take(m *Import, src *windowsSource) (notes []error) {
	for _, part := range windowsParts {
		if m.From[part.name] == "" {
			b, err := p.find(part, m.Image.Arch, src)
			if err != nil {
				notes = append(notes, fmt.Errorf("%s is left out: %w", part.name, err))
			}
			if b != nil {
				m.Made[part.name] = b
			}
		}
		if m.From[part.name] == "" && m.Made[part.name] == nil {
			continue
		}
		if part.font {
			m.Image.Windows.Fonts = append(m.Image.Windows.Fonts, part.name)
		}
		if part.name == sdiName {
			m.Image.Windows.SDI = sdiName
		}
	}
	return notes
}

func (p *windowsPE) find(part windowsPart, arch string, src *windowsSource) ([]byte, error) {
	fromWIM := func() ([]byte, error) {
		path := p.first(part.wim...)
		if path == "" {
			return nil, nil
		}
		return p.read(path, maxLoaderFile)
	}
	fromDisc := func() ([]byte, error) {
		for _, name := range part.disc {
			b, err := src.read(strings.ReplaceAll(name, "{arch}", efiNames[arch]))
			if b != nil || err != nil {
				return b, err
			}
		}
		return nil, nil
	}
	places := []func() ([]byte, error){fromWIM, fromDisc}
	if part.iso {
		slices.Reverse(places)
	}
	var errs []error
	for _, place := range places {
		b, err := place()
		if err == nil && b != nil {
			err = checkPart(part.name, b)
		}
		if err == nil && b != nil {
			return b, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// packing says of a WIM that loaders are not known to read how it is made one that they are.
func (p *windowsPE) packing(src *windowsSource) error {
	compression, chunk := p.wim.Packing()
	if chunk == 0 || chunk == 32<<10 {
		return nil
	}
	return fmt.Errorf("%s is %s in chunks of %d bytes, and Microsoft's loaders are known to read those of 32768: if it does not boot, %s",
		wimName, compression, chunk, src.convert())
}

// cured adds to an error of a WIM what to do about it.
func cured(err error, src *windowsSource) error {
	var has *Hinted
	if errors.As(err, &has) {
		return err
	}
	switch {
	case errors.Is(err, wim.ErrSolid), errors.Is(err, wim.ErrPipable):
		return hint(err, "%s", src.convert())
	case errors.Is(err, wim.ErrSplit):
		stem := strings.TrimRight(strings.TrimSuffix(src.wimPath, filepath.Ext(src.wimPath)), "0123456789")
		return hint(err, "wimlib-imagex join boot-whole.wim '%s*.swm' (Debian's package wimtools), and add boot-whole.wim", stem)
	case errors.Is(err, wim.ErrNoWIM):
		return hint(err, "name the ISO of DaRT or Windows, its sources/boot.wim, or a directory that has it")
	case errors.Is(err, wim.ErrDamaged), errors.Is(err, disc.ErrDamaged), errors.Is(err, wim.ErrUnfinished):
		return hint(err, "compare its SHA-256 with that of the place it came from; wimlib-imagex verify names every damaged file of a WIM")
	}
	return err
}

// convert is the command that makes any WIM one that Windows boots. Without --boot the new
// one would name no image that boots; where the old one names none, wimlib refuses it (1.13).
func (s *windowsSource) convert() string {
	const bootIndex = 120 // in the header
	from, first, boot := s.wimPath, "", ""
	if b := make([]byte, 4); wimReads(s.wim, b, bootIndex) && binary.LittleEndian.Uint32(b) > 0 {
		boot = " --boot"
	}
	if s.iso {
		from = path.Base(s.wimPath)
		first = fmt.Sprintf("7z e %s %s && ", quote(s.path), quote(s.wimPath))
	} else if s.wimPath != s.path {
		from = filepath.Join(s.path, filepath.FromSlash(s.wimPath))
	}
	return fmt.Sprintf("%swimlib-imagex export %s all boot-lzx.wim --compress=LZX --chunk-size=32K%s (Debian's package wimtools), and add boot-lzx.wim", first, quote(from), boot)
}

func wimReads(r io.ReaderAt, b []byte, at int64) bool {
	n, _ := r.ReadAt(b, at)
	return n == len(b)
}

// quote makes a path one word of a shell.
func quote(path string) string {
	if nameForm.MatchString(strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "")) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
