package images

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rescuebox/images/wim"
)

// Bounds of what is taken out of a WIM: a loader has 3 MB, boot.sdi too.
const (
	maxLoaderFile = 64 << 20
	maxWinpeshl   = 16 << 10
)

// WindowsFiles is what an admin gives for an image of Windows: an ISO, a WIM, or
// the directory of an ISO that is mounted or unpacked.
type WindowsFiles struct {
	Name  string   // "" is made from the path
	Path  string   // of the ISO, the WIM or the directory
	Index int      // the image in the WIM that boots; 0 is the one that the WIM names
	With  []string // further files, such as boot.sdi, by their own names; they come before those that are found
	// Progress is told how far a step is; it may be nil.
	Progress func(step string, done, total int64)
}

// IsWindows tells whether a path is one that WindowsFiles can mean, by what lies there.
func IsWindows(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	if info.IsDir() {
		return len(rootsOf(os.DirFS(path))) > 0
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".iso", ".wim", ".esd", ".swm":
		return info.Mode().IsRegular()
	}
	head, err := readHead(path, 8)
	return err == nil && (strings.HasPrefix(string(head), "MSWIM\x00") || strings.HasPrefix(string(head), "WLPWM\x00"))
}

// Imports opens what was given, finds what boots in it and what it is, and reads
// every file of the image that boots once, so that damage is found here and not
// when a machine hangs. An ISO for several CPUs, as Microsoft's Media Creation Tool makes it, is
// as many images: NAME for x64 and NAME-i386 for the other. Close the imports when they have come in.
func (w WindowsFiles) Imports() (list []Import, err error) {
	for n, dir := range windowsRoots(w.Path) {
		m, err := w.importFrom(dir)
		if err != nil {
			for _, m := range list {
				m.Close()
			}
			return nil, err
		}
		if n > 0 {
			m.Image.Name += "-" + cmp.Or(m.Image.Arch, dir)
		}
		list = append(list, m)
	}
	return list, nil
}

// importFrom takes what lies below a directory of the ISO.
func (w WindowsFiles) importFrom(below string) (Import, error) {
	src, err := openWindows(w.Path, below)
	if err != nil {
		return Import{}, err
	}
	m, err := w.from(src)
	if err != nil {
		return Import{}, errors.Join(cured(err, src), src.Close())
	}
	return m, nil
}

func (w WindowsFiles) from(src *windowsSource) (Import, error) {
	f, err := wim.Open(src.wim, src.wim.Size())
	if err != nil {
		return Import{}, src.named(err)
	}
	pe, err := choosePE(f, w.Index)
	if err != nil {
		return Import{}, src.named(err)
	}
	if err := f.Check(pe.image.Index, func(done, total int64) { w.progress("checking "+wimName, done, total) }); err != nil {
		return Import{}, src.named(err)
	}
	m := Import{From: map[string]string{}, Made: map[string][]byte{}, Read: map[string]*io.SectionReader{wimName: src.wim},
		Progress: w.Progress, closer: src, Image: Image{Name: w.Name, Kind: Windows, Source: oneLine(w.Path)}}
	if err := w.with(&m); err != nil {
		return Import{}, err
	}
	notes := pe.describe(&m.Image)
	notes = append(notes, pe.take(&m, src)...)
	if m.Image.Name == "" {
		m.Image.Name = windowsName(w.Path, *m.Image.Windows)
	}
	m.Without = errors.Join(append(notes, pe.packing(src))...)
	return m, nil
}

func (w WindowsFiles) progress(step string, done, total int64) {
	if w.Progress != nil {
		w.Progress(step, done, total)
	}
}

// with takes the files that were named.
func (w WindowsFiles) with(m *Import) error {
	for _, path := range w.With {
		name := strings.ToLower(filepath.Base(path))
		if !slices.ContainsFunc(windowsParts, func(p windowsPart) bool { return p.name == name }) {
			return hint(fmt.Errorf("%s is no file that a Windows image has by that name", path), "names are %s", strings.Join(partNames(), ", "))
		}
		head, err := readHead(path, 8)
		if err != nil {
			return err
		}
		if err := checkPart(name, head); err != nil {
			return fmt.Errorf("%s %w", path, err)
		}
		m.From[name] = path
	}
	return nil
}

// windowsName makes a name of a path: that of the file, or, where that is the
// one that all have, of what it is.
func windowsName(path string, pe WindowsPE) string {
	base := strings.ToLower(filepath.Base(filepath.Clean(path)))
	for _, ext := range []string{".iso", ".wim"} {
		base = strings.TrimSuffix(base, ext)
	}
	name := strings.Trim(strings.Join(strings.FieldsFunc(base, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '+')
	}), "-"), "-.")
	switch {
	case name != "" && name != "boot" && name != "sources" && CheckName(name) == nil:
		return name
	case pe.DaRT != "":
		return "dart"
	}
	return "winpe"
}

// windowsPE is the image of a WIM that boots.
type windowsPE struct {
	wim   *wim.File
	image wim.Image
}

// choosePE takes the image that was asked for, or the one that the WIM boots. Where
// that is no Windows PE, as in a WIM that names none, the first that is one is meant.
func choosePE(f *wim.File, index int) (*windowsPE, error) {
	all := f.Images()
	if index < 0 || index > len(all) {
		return nil, hint(fmt.Errorf("has no image %d", index), "%s", imagesInWords(all))
	}
	order := []int{index}
	if index == 0 {
		order = []int{f.Boot()}
		for n := range all {
			order = append(order, n+1)
		}
	}
	for _, n := range order {
		if n < 1 || n > len(all) {
			continue
		}
		pe := &windowsPE{wim: f, image: all[n-1]}
		is, err := pe.isPE()
		if err != nil {
			return nil, err
		}
		if is {
			return pe, nil
		}
	}
	if index > 0 {
		return nil, hint(fmt.Errorf("has no Windows PE in image %d: none of its programs (wpeinit.exe, winpeshl.exe) are in System32", index), "%s", imagesInWords(all))
	}
	return nil, hint(fmt.Errorf("holds no Windows PE: none of its programs (wpeinit.exe, winpeshl.exe) are in \\Windows\\System32"),
		"an installed Windows, as in install.wim, does not boot over the network: take sources/boot.wim (%s)", imagesInWords(all))
}

func imagesInWords(all []wim.Image) string {
	var words []string
	for _, i := range all {
		words = append(words, strings.TrimSpace(fmt.Sprintf("%d %s", i.Index, oneLine(i.Name))))
	}
	return "its images are " + strings.Join(words, ", ")
}

// isPE tells a Windows PE by the programs that only it has.
func (p *windowsPE) isPE() (bool, error) {
	for _, name := range []string{"wpeinit.exe", "winpeshl.exe", "wpeutil.exe"} {
		if ok, err := p.has(`\Windows\System32\` + name); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func (p *windowsPE) has(path string) (bool, error) {
	e, err := p.wim.Entry(p.image.Index, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && !e.Dir, err
}

// first is the first of several paths that are there; "" if none is.
func (p *windowsPE) first(paths ...string) string {
	for _, path := range paths {
		if ok, _ := p.has(path); ok {
			return path
		}
	}
	return ""
}
