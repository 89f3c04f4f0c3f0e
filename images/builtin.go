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
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// DebianIPXE is the boot set of Debian's package ipxe, whose files lie below
// root ("/" on the box): BIOS and UEFI x64, and from Debian 13 on arm64.
func DebianIPXE(name, root string) (Import, error) {
	const pkg = "ipxe"
	var paths []string
	for _, places := range [][]string{
		{"usr/lib/ipxe/undionly.kpxe"},
		{"usr/lib/ipxe/snponly.efi"},
		{"usr/lib/ipxe/ipxe.efi", "boot/ipxe.efi"},
	} {
		for i := range places {
			places[i] = filepath.Join(root, places[i])
		}
		path, err := firstOf(pkg, places...)
		if err != nil {
			return Import{}, err
		}
		paths = append(paths, path)
	}
	if arm := filepath.Join(root, "usr/lib/ipxe/ipxe-arm64.efi"); present(arm) {
		paths = append(paths, arm)
	}
	m, err := NBPs(name, "Debian's package "+pkg, paths)
	m.Image.Title = "iPXE"
	return m, err
}

// shimLoaders are Debian's loaders for Secure Boot, and what they are called
// where firmware and shim look for them.
type shimLoaders struct {
	goarch         string
	shim, grub, mm string // places
	shimAs, grubAs string // names
	mmAs, grubPkg  string
}

var debianShims = []shimLoaders{
	{goarch: "amd64", grubPkg: "grub-efi-amd64-signed",
		shim: "usr/lib/shim/shimx64.efi.signed", shimAs: "shimx64.efi",
		grub: "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", grubAs: "grubx64.efi",
		mm: "usr/lib/shim/mmx64.efi.signed", mmAs: "mmx64.efi"},
	{goarch: "arm64", grubPkg: "grub-efi-arm64-signed",
		shim: "usr/lib/shim/shimaa64.efi.signed", shimAs: "shimaa64.efi",
		grub: "usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed", grubAs: "grubaa64.efi",
		mm: "usr/lib/shim/mmaa64.efi.signed", mmAs: "mmaa64.efi"},
}

// DebianShim is the boot set of Debian's signed shim and GRUB, whose files lie
// below root ("/" on the box): for amd64 and arm64, whichever are installed, and for
// 32-bit UEFI, which nothing signed exists for, a GRUB made of Debian's modules.
func DebianShim(name, root string) (Import, error) {
	m := Import{From: map[string]string{}, Made: map[string][]byte{}, Image: Image{Name: name, Kind: BootSet, Title: "shim and GRUB",
		Source: "Debian's packages shim-signed and grub-efi-*-signed"}}
	var missing error
	for _, s := range debianShims {
		if err := s.find(m.From, root); err != nil {
			if s.goarch == runtime.GOARCH || missing == nil {
				missing = err
			}
			if !errors.As(err, new(*Missing)) {
				return Import{}, err
			}
		}
	}
	if len(m.From) == 0 {
		return Import{}, missing
	}
	image, err := ia32GRUB(root)
	if err != nil {
		m.Without = fmt.Errorf("no grubia32.efi for 32-bit UEFI: %w", err)
		return m, nil
	}
	m.Made["grubia32.efi"] = image
	return m, nil
}

// find adds the files of one architecture, all that boot or none.
func (s shimLoaders) find(files map[string]string, root string) error {
	shim, err := firstOf("shim-signed", filepath.Join(root, s.shim))
	if err != nil {
		return err
	}
	grub, err := firstOf(s.grubPkg, filepath.Join(root, s.grub))
	if err != nil {
		return err
	}
	files[s.shimAs], files[s.grubAs] = shim, grub
	// MokManager, with which a person at the screen enrols keys: shim starts it where it wants it.
	if mm := filepath.Join(root, s.mm); present(mm) {
		files[s.mmAs] = mm
	}
	return nil
}

func present(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// ia32Modules are what GRUB on 32-bit firmware needs to fetch and start a
// kernel, which may be one for 64 bits (CONFIG_EFI_MIXED). The first load it: efinet,
// tftp, http. The others are what boot scripts use.
var ia32Modules = []string{"efinet", "net", "tftp", "http", "linux", "normal", "configfile", "boot", "chain", "loopback", "iso9660", "fat",
	"part_gpt", "part_msdos", "search", "search_fs_file", "search_fs_uuid", "search_label", "echo", "test", "true", "regexp", "sleep", "cat", "ls",
	"reboot", "halt", "serial", "terminal", "all_video", "efi_gop", "gzio", "minicmd", "probe"}

// ia32GRUB makes a GRUB for 32-bit UEFI that looks for its configuration where Debian's signed one does.
func ia32GRUB(root string) ([]byte, error) {
	modules := filepath.Join(root, "usr/lib/grub/i386-efi")
	if _, err := firstOf("grub-efi-ia32-bin", filepath.Join(modules, "efinet.mod")); err != nil {
		return nil, err
	}
	tool := filepath.Join(root, "usr/bin/grub-mkimage")
	if _, err := firstOf("grub-common", tool); err != nil {
		return nil, err
	}
	out, err := os.CreateTemp("", "grubia32-*.efi") // grub-mkimage syncs it, so it can be no pipe
	if err != nil {
		return nil, fmt.Errorf("make a GRUB for 32-bit UEFI: %w", err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	args := append([]string{"-O", "i386-efi", "-d", modules, "-p", "/grub", "-o", out.Name()}, ia32Modules...)
	cmd := exec.Command(tool, args...)
	cmd.Env = []string{"LC_ALL=C"}
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make a GRUB for 32-bit UEFI: %w: %s", err, oneLine(string(said)))
	}
	if p, err := peOf(out); err != nil || p.Arch != "i386" || !p.EFI {
		return nil, errors.New("grub-mkimage made no program for 32-bit UEFI")
	}
	return io.ReadAll(out)
}

// EnsureIPXE puts Debian's iPXE into the library under the name, and again when
// its package was upgraded. The admin's own boot set of the name stays.
func EnsureIPXE(l *Library, name string) (added bool, err error) {
	return l.follow(name, DebianIPXE)
}

// EnsureShim does for Debian's shim and GRUB what EnsureIPXE does for iPXE.
func EnsureShim(l *Library, name string) (added bool, err error) {
	return l.follow(name, DebianShim)
}

// follow keeps a boot set as the packages of this box have it, and mends it from them.
func (l *Library) follow(name string, packaged func(name, root string) (Import, error)) (added bool, err error) {
	have, err := l.Get(name)
	there := !errors.As(err, new(*NotFound))
	if there && err != nil { // whose it is cannot be read either
		return false, fmt.Errorf("%w: rescuebox image rm %s, then restart rescueboxd", err, name)
	}
	m, err := packaged(name, "/")
	if there && errors.As(err, new(*Missing)) {
		return false, nil // what was imported outlives its package
	}
	if err != nil || there && have.Source != m.Image.Source {
		return false, err
	}
	if there {
		if same, err := m.same(have); same && l.Verify(have) == nil || err != nil {
			return false, err
		}
		m.Image.Title = have.Title
	}
	if _, err = l.Import(m); err != nil {
		return false, err
	}
	if m.Without != nil && !errors.As(m.Without, new(*Missing)) {
		return true, m.Without
	}
	return true, nil
}

// same reports whether an import would bring what an image has.
func (m Import) same(i Image) (bool, error) {
	sums := map[string]string{}
	for name, made := range m.Made {
		sum := sha256.Sum256(made)
		sums[name] = hex.EncodeToString(sum[:])
	}
	for name, path := range m.From {
		f, err := os.Open(path)
		if err != nil {
			return false, err
		}
		sums[name], err = hash(f)
		f.Close()
		if err != nil {
			return false, err
		}
	}
	have := map[string]string{}
	for _, f := range i.Files {
		have[f.Name] = strings.ToLower(f.SHA256)
	}
	return maps.Equal(sums, have), nil
}
