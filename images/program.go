package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// programs are the PE programs of an image that is being added, by file name.
type programs map[string]program

// program is a PE program, and what is wrong with it as a whole.
type program struct {
	PE
	err error
}

// read looks into a file; ok tells that it is a PE program.
func (p programs) read(path string) (found PE, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return PE{}, false
	}
	defer f.Close()
	found, err = peOf(f)
	if errors.Is(err, errNoPE) {
		return PE{}, false
	}
	p[filepath.Base(path)] = program{found, err}
	return found, true
}

func peOf(f *os.File) (PE, error) {
	info, err := f.Stat()
	if err != nil {
		return PE{}, err
	}
	return ReadPE(f, info.Size())
}

// damage is why a program must not come in: firmware that enforces Secure Boot would refuse
// it, and firmware that does not would run what nobody has signed. A signature of
// a kind that cannot be checked here is no reason.
func (p program) damage() error {
	errs := []error{p.err}
	for _, s := range p.Signatures {
		if !s.Nested {
			errs = append(errs, s.Err)
		}
	}
	for _, err := range errs {
		if errors.Is(err, ErrUnfit) || errors.Is(err, ErrForged) {
			return fmt.Errorf("%w: take it from its source again", err)
		}
	}
	return nil
}

// addPrograms reads what the image.toml of a library does not say that was filled
// before File had Arch and Signers: only files that can be programs are looked at, and each once.
func (l *Library) addPrograms(i *Image) {
	for n := range i.Files {
		f := &i.Files[n]
		if f.Arch != "" || !isEFI(f.Name) && f.Name != i.Kernel && f.Name != i.KernelEFI {
			continue
		}
		if p, err := l.program(i.Dir, f.Name); err == nil {
			f.Arch, f.Signers = p.Arch, p.signers()
		}
	}
}

// program reads a PE program of the library, or remembers it.
func (l *Library) program(dir, name string) (PE, error) {
	f, err := openIn(dir, name)
	if err != nil {
		return PE{}, err
	}
	defer f.Close()
	h := l.remembered(f.Name())
	h.look.Lock()
	defer h.look.Unlock()
	s, err := stampOf(f)
	if err != nil || h.looked == s {
		return h.program, err
	}
	h.program, err = peOf(f)
	if err != nil && !errors.Is(err, errNoPE) && !errors.Is(err, ErrUnfit) && h.program.Arch == "" {
		return PE{}, err // the disk's, perhaps: not to be remembered
	}
	h.looked = s
	return h.program, nil
}

func isEFI(name string) bool { return strings.EqualFold(filepath.Ext(name), ".efi") }

// GetFor reads an image as Get does, or what the library has of it for the CPU: "ipxe20" is
// "ipxe20-arm64" for an arm64 machine, if that is there. "" is any CPU.
func (l *Library) GetFor(name, cpu string) (Image, error) {
	i, err := l.Get(name)
	if err != nil || cpu == "" || i.Arch == "" || i.Arch == cpu {
		return i, err
	}
	if own, err := l.Get(name + "-" + cpu); err == nil && own.Kind == i.Kind && own.Arch == cpu {
		return own, nil
	}
	return i, nil
}

// Loader finds the first of several files that runs on a machine: a program for
// UEFI is taken only if it is one for the machine's CPU (as Debian names it; "" for
// not known), since firmware gives no reason when it refuses another.
func (i Image) Loader(cpu string, names ...string) (File, bool) {
	for _, name := range names {
		for _, f := range i.Files {
			if strings.EqualFold(f.Name, name) && f.runsOn(cpu) {
				return f, true
			}
		}
	}
	return File{}, false
}

// runsOn takes what does not say what it is for a program of the PC: those for the BIOS do not.
func (f File) runsOn(cpu string) bool {
	if f.Arch == "" {
		return cpu == "" || cpu == "amd64" || cpu == "i386" && !isEFI(f.Name)
	}
	return cpu == "" || f.Arch == cpu
}
