package images

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// sumsName is the list of hashes that is looked for beside the files of a boot set.
const sumsName = "SHA256SUMS"

// maxSums is more than any list of hashes has.
const maxSums = 1 << 20

// BootFiles is what an admin gives for a boot set.
type BootFiles struct {
	Name   string
	Source string
	Paths  []string          // files, or one directory
	SHA256 map[string]string // what is expected, by file name or by path within the directory
}

// found is a file on its way into a boot set: its path, and what it is called in lists of hashes.
type found struct{ path, listed string }

// Imports finds the files and what they must hash to. A directory that has one directory for
// each architecture, as iPXE's releases have, makes as many boot sets: NAME for amd64 and
// NAME-arm64, since the same names are in both and firmware is given each by its CPU.
func (b BootFiles) Imports() (list []Import, err error) {
	for name, hash := range b.SHA256 {
		if !hashForm.MatchString(strings.ToLower(hash)) {
			return nil, fmt.Errorf("%q is no SHA-256 for %s: 64 hexadecimal digits", hash, name)
		}
	}
	if list, err = b.imports(); err != nil {
		return nil, err
	}
	return list, b.unused(list)
}

func (b BootFiles) imports() ([]Import, error) {
	if len(b.Paths) == 1 {
		if info, err := os.Stat(b.Paths[0]); err == nil && info.IsDir() {
			return b.directory(b.Paths[0])
		}
	}
	var files []found
	for _, path := range b.Paths {
		files = append(files, found{path, filepath.Base(path)})
	}
	m, err := b.set(b.Name, files, nil)
	if err != nil {
		return nil, err
	}
	return []Import{m}, nil
}

// directory makes boot sets of a directory: of itself if UEFI programs are in
// it, otherwise of those below.
func (b BootFiles) directory(dir string) (list []Import, err error) {
	sums, err := readSums(dir)
	if err != nil {
		return nil, err
	}
	own, err := filesOf(dir, "")
	if err != nil {
		return nil, err
	}
	sets := map[string][]found{b.Name: own}
	if !slices.ContainsFunc(own, func(f found) bool { return isEFI(f.path) }) {
		if sets, err = b.architectures(dir, own); err != nil {
			return nil, err
		}
	}
	for name, files := range sets {
		m, err := b.set(name, files, sums)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Import) int { return strings.Compare(a.Image.Name, b.Image.Name) })
	return list, nil
}

// architectures sorts the directories below one by what their programs run on. Where
// there is one with signed programs, called …-sb by iPXE, it is preferred: its programs
// run with Secure Boot off just as well.
func (b BootFiles) architectures(dir string, own []found) (map[string][]found, error) {
	below, err := filepath.Glob(filepath.Join(escape(dir), "*"))
	if err != nil {
		return nil, err
	}
	byArch, from := map[string][]found{}, map[string]string{}
	for _, path := range below {
		sub := filepath.Base(path)
		if slices.Contains(below, path+"-sb") {
			continue
		}
		files, err := filesOf(path, sub)
		if err != nil {
			continue // a file, or not to be read: then it is missed below
		}
		arch := archOf(files)
		if arch == "" {
			continue
		}
		if other, taken := from[arch]; taken {
			return nil, fmt.Errorf("%s and %s in %s are both for %s: name one of them", other, sub, dir, arch)
		}
		byArch[arch], from[arch] = files, sub
	}
	if len(byArch) == 0 && len(own) == 0 {
		return nil, fmt.Errorf("%s holds no boot programs, neither itself nor in directories for one architecture each", dir)
	}
	return b.named(byArch, own), nil
}

// named gives each architecture's files the name of a boot set. Programs for
// the BIOS, which lie above, go with the first.
func (b BootFiles) named(byArch map[string][]found, own []found) map[string][]found {
	first := "amd64"
	if _, ok := byArch[first]; !ok && len(byArch) == 1 {
		for arch := range byArch {
			first = arch
		}
	}
	sets := map[string][]found{}
	for arch, files := range byArch {
		name := b.Name
		if arch != first {
			name += "-" + arch
		}
		sets[name] = files
	}
	if len(own) > 0 {
		sets[b.Name] = append(sets[b.Name], own...)
	}
	return sets
}

// archOf is the one architecture that the UEFI programs of a directory have.
func archOf(files []found) (arch string) {
	for _, f := range files {
		if !isEFI(f.path) {
			continue
		}
		k, err := ReadKernel(f.path)
		if err != nil || arch != "" && k.Arch != arch {
			return ""
		}
		arch = k.Arch
	}
	return arch
}

// filesOf lists the files of a directory that go into a boot set.
func filesOf(dir, below string) (files []found, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), sumsName) {
			continue
		}
		files = append(files, found{path, filepath.ToSlash(filepath.Join(below, e.Name()))})
	}
	return files, nil
}

// set makes one boot set; sums is the list of hashes of its directory, if there is one.
func (b BootFiles) set(name string, files []found, sums map[string]string) (Import, error) {
	var paths []string
	for _, f := range files {
		paths = append(paths, f.path)
	}
	m, err := NBPs(name, b.Source, paths)
	if err != nil {
		return Import{}, err
	}
	m.SHA256 = map[string]string{}
	for _, f := range files {
		base := filepath.Base(f.path)
		want, ok := b.SHA256[f.listed]
		if !ok {
			want, ok = b.SHA256[base]
		}
		if !ok {
			want, ok = sums[f.listed]
		}
		if !ok && sums != nil {
			return Import{}, fmt.Errorf("%s is not in %s: nothing vouches for it", f.listed, sumsName)
		}
		if ok {
			m.SHA256[base] = want
		}
	}
	return m, nil
}

// unused says which expected hash belongs to no file: a slip of the pen must not pass as checked.
func (b BootFiles) unused(list []Import) error {
	for name, hash := range b.SHA256 {
		if !slices.ContainsFunc(list, func(m Import) bool { return m.SHA256[filepath.Base(name)] == hash }) {
			return fmt.Errorf("a SHA-256 was given for %s, which is not among the files", name)
		}
	}
	return nil
}

// readSums reads the list of hashes of a directory; nil if it has none.
func readSums(dir string) (map[string]string, error) {
	path := filepath.Join(dir, sumsName)
	if _, err := os.Stat(path); err != nil {
		return nil, nil
	}
	text, err := readHead(path, maxSums)
	if err != nil {
		return nil, err
	}
	sums, err := parseSums(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return sums, nil
}

// parseSums reads what sha256sum writes: a hash, a blank, a blank or "*", a path.
func parseSums(text []byte) (map[string]string, error) {
	sums := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimRight(lines.Text(), "\r")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		hash, name, ok := strings.Cut(line, " ")
		hash = strings.ToLower(hash)
		name = strings.TrimPrefix(strings.TrimLeft(name, " *"), "./")
		if !ok || !hashForm.MatchString(hash) || name == "" {
			return nil, fmt.Errorf("line %d is no line of sha256sum: a hash and a file name", n)
		}
		if old, twice := sums[name]; twice && old != hash {
			return nil, fmt.Errorf("line %d has another hash for %s than a line before", n, name)
		}
		sums[name] = hash
	}
	return sums, lines.Err()
}

// NBPs makes a boot set of files that firmware loads.
func NBPs(name, source string, paths []string) (Import, error) {
	m := Import{From: make(map[string]string), Image: Image{Name: name, Kind: BootSet, Title: "network boot programs", Source: source}}
	for _, path := range paths {
		if err := checkNBP(path); err != nil {
			return Import{}, err
		}
		m.From[filepath.Base(path)] = path
	}
	if len(m.From) != len(paths) {
		return Import{}, errors.New("two of the files have the same name")
	}
	return m, nil
}

// checkNBP makes sure that what is named .efi is a UEFI program. BIOS programs
// have no form that tells them from other bytes.
func checkNBP(path string) error {
	head, err := readHead(path, kernelHead)
	if err != nil {
		return err
	}
	if len(head) == 0 {
		return fmt.Errorf("%s is empty", path)
	}
	if !isEFI(path) {
		return nil
	}
	if k, err := ParseKernel(head); err != nil || !k.EFI {
		return noUEFIProgram(path)
	}
	return nil
}

// noUEFIProgram is mostly a web server's page that says that there is no such file.
func noUEFIProgram(name string) error {
	return hint(fmt.Errorf("%s is no UEFI program", name), "look at what it is, with file %s, and download it again; programs for the BIOS are not called .efi", filepath.Base(name))
}

// shimForm is how iPXE's own shim is called: it takes "-shimx64" out of its own
// name, as it was loaded, to know what to load next.
var shimForm = regexp.MustCompile(`(?i)^(.+)-shim[a-z0-9]*\.efi$`)

// secondStage is the name of what a program of iPXE's kind of shim loads; "" for other programs.
func secondStage(name string) string {
	if m := shimForm.FindStringSubmatch(name); m != nil {
		return m[1] + ".efi"
	}
	return ""
}

// checkLoaders says why a boot set would not boot, and notes its architecture if it has one.
func (i *Image) checkLoaders(found programs) error {
	archs := map[string]bool{}
	for _, f := range i.Files {
		p, ok := found[f.Name]
		if !isEFI(f.Name) {
			if plain, _, more := strings.Cut(f.Name, ".efi."); ok && p.EFI && more { // as Debian's packages call what is signed
				return fmt.Errorf("no firmware or loader looks for the UEFI program %s by that name: call it %s.efi", f.Name, plain)
			}
			continue
		}
		if !ok || !p.EFI {
			return noUEFIProgram(f.Name)
		}
		if p.err != nil {
			return fmt.Errorf("%s %w", f.Name, p.err)
		}
		if f.Arch == "" {
			return fmt.Errorf("%s is for a machine type that nothing here boots", f.Name)
		}
		archs[f.Arch] = true
		if err := i.checkSecondStage(f); err != nil {
			return err
		}
	}
	if len(archs) == 1 && i.Arch == "" {
		for i.Arch = range archs {
		}
	}
	return nil
}

func (i *Image) checkSecondStage(shim File) error {
	next := secondStage(shim.Name)
	if next == "" {
		return nil
	}
	f, ok := i.Loader(shim.Arch, next)
	if !ok {
		return hint(fmt.Errorf("%s loads %s (for %s), which is not among the files", shim.Name, next, shim.Arch),
			"%s takes its name for what it loads: name %s of the same release beside it, or the release's directory for %s", shim.Name, next, shim.Arch)
	}
	if len(shim.Signers) > 0 && len(f.Signers) == 0 {
		return fmt.Errorf("%s is not signed, so that %s refuses it wherever Secure Boot is on: take the signed one", f.Name, shim.Name)
	}
	return nil
}

// Warnings says what of a boot set or of an image of Windows will not boot everywhere. Microsoft's
// authority of 2011 ended in June 2026, and firmware differs in which it trusts: older
// machines know 2011 only, the newest 2023 only (FOGProject/fogproject#960).
func (i Image) Warnings() (list []string) {
	if i.Kind == Windows {
		return i.windowsWarnings()
	}
	if i.Kind != BootSet {
		return nil
	}
	for _, f := range i.Files {
		old, young := slices.Contains(f.Signers, MicrosoftUEFI2011), slices.Contains(f.Signers, MicrosoftUEFI2023)
		switch {
		case old && !young:
			list = append(list, fmt.Sprintf("%s is signed by %s only: machines that trust only the authority of 2023, as new ones do, refuse it under Secure Boot; take a build that both have signed",
				f.Name, MicrosoftUEFI2011))
		case young && !old:
			list = append(list, fmt.Sprintf("%s is signed by %s only: machines whose firmware was not updated since 2023 refuse it under Secure Boot; take a build that both have signed",
				f.Name, MicrosoftUEFI2023))
		}
	}
	return list
}
