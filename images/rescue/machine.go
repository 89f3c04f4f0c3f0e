package rescue

import (
	"bytes"
	"debug/pe"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// machine is what differs between the architectures that the image is built for.
type machine struct {
	efi      string // how UEFI calls it in file names: BOOTX64.EFI
	grub     string // folder of GRUB's signed images below usr/lib/grub
	bios     bool   // there are such machines without UEFI
	consoles string // the end of the kernel command line
	binfmt   string // how qemu-user-static calls it
}

// The serial consoles come last, and what is last is /dev/console. The kernel
// takes one ttyS only, the one that is named first; what people read goes to
// ttyS1 too, where many BMCs have their serial line. A server by ARM's rules (SBSA) has ttyAMA0.
var (
	amd64 = machine{efi: "x64", grub: "x86_64-efi-signed", bios: true, binfmt: "x86_64",
		consoles: "console=tty0 console=ttyS0,115200n8 loglevel=4 panic=60"}
	arm64 = machine{efi: "aa64", grub: "arm64-efi-signed", binfmt: "aarch64",
		consoles: "console=tty0 console=ttyS0,115200n8 console=ttyAMA0,115200n8 loglevel=4 panic=60"}
)

func machineOf(arch string) (machine, error) {
	switch arch {
	case "amd64":
		return amd64, nil
	case "arm64":
		return arm64, nil
	}
	return machine{}, fmt.Errorf("build the rescue image: no recipe for the architecture %q: there are amd64 and arm64", arch)
}

// ImageName is what an image of an architecture is called, so that an order of
// the first name finds it: "rescue" on amd64, "rescue-arm64" on arm64.
func ImageName(arch string) string {
	if arch == "amd64" {
		return "rescue"
	}
	return "rescue-" + arch
}

// canRun makes sure that this machine runs the packages' installation scripts,
// which are programs of the image's architecture.
func canRun(arch string) error {
	if arch == runtime.GOARCH {
		return nil
	}
	m, err := machineOf(arch)
	if err != nil {
		return err
	}
	const binfmt = "/proc/sys/fs/binfmt_misc/"
	emulator := "qemu-" + m.binfmt
	status, err := os.ReadFile(binfmt + emulator)
	known := err == nil && bytes.HasPrefix(status, []byte("enabled"))
	var missing []string
	if _, err := exec.LookPath("arch-test"); err != nil { // mmdebstrap asks it
		missing = append(missing, "arch-test")
	}
	if _, err := exec.LookPath(emulator + "-static"); err != nil && !known {
		missing = append(missing, "qemu-user-static")
	}
	if missing != nil {
		return fmt.Errorf("build the rescue image for %s on %s: the packages' programs must be emulated: apt-get install --no-install-recommends %s",
			arch, runtime.GOARCH, strings.Join(missing, " "))
	}
	if known {
		return nil
	}
	var todo []string
	if _, err := os.Stat(binfmt + "register"); err != nil {
		todo = append(todo, "mount -t binfmt_misc binfmt_misc "+strings.TrimSuffix(binfmt, "/"))
	}
	todo = append(todo, fmt.Sprintf("cat /usr/lib/binfmt.d/%s.conf >%sregister", emulator, binfmt))
	return fmt.Errorf("build the rescue image for %s on %s: the kernel does not know yet that qemu runs programs for %s: as root %s", arch, runtime.GOARCH, arch, strings.Join(todo, " && "))
}

// loaderFiles are the names of the loaders that firmware asks for with Secure Boot
// on or off, and where Debian's packages have them. GRUB's is the one for a network.
func (m machine) loaderFiles() map[string]string {
	return map[string]string{
		"shim" + m.efi + ".efi": "usr/lib/shim/shim" + m.efi + ".efi.signed",
		"mm" + m.efi + ".efi":   "usr/lib/shim/mm" + m.efi + ".efi.signed",
		"grub" + m.efi + ".efi": "usr/lib/grub/" + m.grub + "/grubnet" + m.efi + ".efi.signed",
	}
}

// loaders makes the loaders files of the image: of the same day as its kernel, so
// that what shim trusts and revokes fits it.
func (b *build) loaders(all *tree) error {
	for name, from := range b.machine.loaderFiles() {
		data, err := all.read(from)
		if err != nil {
			return err
		}
		if !signed(data) {
			return fmt.Errorf("%s of Debian's packages is not signed", from)
		}
		if err := b.write(name, data); err != nil {
			return err
		}
	}
	return nil
}

// signed says whether a UEFI program has a signature at all; who signed it is
// read where the image is put into the library.
func signed(program []byte) bool {
	f, err := pe.NewFile(bytes.NewReader(program))
	if err != nil {
		return false
	}
	defer f.Close()
	h, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	return ok && h.NumberOfRvaAndSizes > pe.IMAGE_DIRECTORY_ENTRY_SECURITY &&
		h.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size > 0
}
