package images

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2"
)

// tomlName is the file that makes a directory an image.
const tomlName = "image.toml"

// Bounds of an image.toml: far above what is of use, far below what hurts.
const (
	maxToml  = 256 << 10
	maxFiles = 256
	maxName  = 100
	maxText  = 4096
)

// Names are one path element, in the file system and in a URL alike. None
// begins with a dot: those are the library's own (imports that are under way).
var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9_+][A-Za-z0-9._+-]*$`)
	archForm = regexp.MustCompile(`^[a-z0-9]{0,16}$`)
	hashForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// CheckName says why a name cannot be the name of an image or of one of its files.
func CheckName(name string) error {
	if len(name) > maxName || !nameForm.MatchString(name) {
		return fmt.Errorf("%q is no name for an image or file: use letters, digits and . _ + -, beginning with a letter or digit, at most %d", name, maxName)
	}
	return nil
}

// parse reads an image.toml, strictly: a key that is not known is an error.
func parse(name string, text []byte) (Image, error) {
	var i Image
	if len(text) > maxToml {
		return Image{}, fmt.Errorf("%s is larger than %d bytes", tomlName, maxToml)
	}
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&i); err != nil {
		return Image{}, tomlError(err)
	}
	i.Name = name
	if err := i.check(); err != nil {
		return Image{}, fmt.Errorf("%s: %w", tomlName, err)
	}
	return i, nil
}

// tomlError says line and key in one sentence where the parser would draw a picture.
func tomlError(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		line, _ := strict.Errors[0].Position()
		return fmt.Errorf("%s line %d: key %q is not known", tomlName, line, strings.Join(strict.Errors[0].Key(), "."))
	}
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		line, _ := syntax.Position()
		return fmt.Errorf("%s line %d: %w", tomlName, line, err)
	}
	return fmt.Errorf("%s: %w", tomlName, err)
}

// check says what is wrong with an image.
func (i Image) check() error {
	if err := CheckName(i.Name); err != nil {
		return err
	}
	if !archForm.MatchString(i.Arch) {
		return fmt.Errorf("arch %q is no architecture: use Debian's names, such as amd64", i.Arch)
	}
	for _, text := range []string{i.Title, i.Source, i.Cmdline} {
		if err := checkText(text, maxText); err != nil {
			return err
		}
	}
	if err := i.checkFiles(); err != nil {
		return err
	}
	switch i.Kind {
	case Linux:
		return i.checkLinux()
	case BootSet:
		return i.checkBootSet()
	case Windows:
		return i.checkWindows()
	}
	return fmt.Errorf("kind %q is not known: kinds are %s, %s and %s", i.Kind, Linux, Windows, BootSet)
}

func (i Image) checkFiles() error {
	if len(i.Files) == 0 || len(i.Files) > maxFiles {
		return fmt.Errorf("an image has 1 to %d files, this one %d", maxFiles, len(i.Files))
	}
	// Firmware may ask in capitals (see boot.Table.Open), so names that differ
	// in case only are the same.
	seen := map[string]bool{tomlName: true}
	for _, f := range i.Files {
		if err := CheckName(f.Name); err != nil {
			return err
		}
		if seen[strings.ToLower(f.Name)] {
			return fmt.Errorf("file %s: the name is taken", f.Name)
		}
		seen[strings.ToLower(f.Name)] = true
		if f.Size < 0 || !hashForm.MatchString(f.SHA256) {
			return fmt.Errorf("file %s: size or sha256 is missing or malformed", f.Name)
		}
		if err := f.checkProgram(); err != nil {
			return err
		}
	}
	return nil
}

func (f File) checkProgram() error {
	if !archForm.MatchString(f.Arch) {
		return fmt.Errorf("file %s: arch %q is no architecture: use Debian's names, such as amd64", f.Name, f.Arch)
	}
	if len(f.Signers) > maxSignatures {
		return fmt.Errorf("file %s: %d signers are too many", f.Name, len(f.Signers))
	}
	for _, signer := range f.Signers {
		if err := checkText(signer, maxName); err != nil {
			return fmt.Errorf("file %s: %w", f.Name, err)
		}
	}
	return nil
}

func (i Image) checkLinux() error {
	if i.Kernel == "" && i.KernelEFI == "" {
		return errors.New("a linux image needs a kernel")
	}
	if i.Up != Agent && i.Up != Served {
		return fmt.Errorf("up %q is not known: %s or %s tells that the image is up", i.Up, Agent, Served)
	}
	loads := append(i.Loads(false), i.Loads(true)...)
	if len(loads) > 2*maxFiles {
		return fmt.Errorf("%d initrds are too many", len(i.Initrd))
	}
	for _, name := range loads {
		if _, ok := i.File(name); !ok {
			return fmt.Errorf("%q is kernel or initrd, but no [[file]] has that name", name)
		}
	}
	_, err := i.CommandLine(i.sample())
	return err
}

func (i Image) checkBootSet() error {
	if i.Kernel != "" || i.KernelEFI != "" || len(i.Initrd) > 0 || i.Cmdline != "" || i.Up != "" {
		return errors.New("a bootset has files only: no kernel, initrd, cmdline or up")
	}
	return nil
}

// checkText refuses text that does not fit one line.
func checkText(text string, max int) error {
	if len(text) > max {
		return fmt.Errorf("%q… is longer than %d bytes", text[:20], max)
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return fmt.Errorf("%q holds a line break or control character", text)
	}
	return nil
}
