// Package images is the library of what machines can boot: one directory per
// image with an image.toml that names every file and its SHA-256.
//
// An image is put in whole or not at all (see Library.Add), and what is served
// is what was put in: Library.Open refuses a file that changed since.
package images

import (
	"slices"
	"time"
)

// Kind says how an image is booted.
type Kind string

// The kinds.
const (
	Linux   Kind = "linux"   // kernel and initrd
	Windows Kind = "windows" // Windows PE in a WIM, see WindowsPE
	BootSet Kind = "bootset" // network boot programs such as undionly.kpxe; not bootable as an order
)

// Signal is what tells that an image is up.
type Signal string

// The signals.
const (
	Agent  Signal = "agent"  // the rescue agent's report
	Served Signal = "served" // the last of its files was fetched
)

// Image is one image of the library, as image.toml has it.
type Image struct {
	Name      string     `toml:"-"`
	Kind      Kind       `toml:"kind"`
	Title     string     `toml:"title"`
	Arch      string     `toml:"arch"` // as Debian names it: amd64, arm64; "" for any
	Source    string     `toml:"source"`
	Added     time.Time  `toml:"added"`
	Kernel    string     `toml:"kernel,omitempty"`     // file name
	KernelEFI string     `toml:"kernel_efi,omitempty"` // in its place under UEFI, where it differs (memtest86+)
	Initrd    []string   `toml:"initrd,omitempty"`     // file names, in order
	Cmdline   string     `toml:"cmdline,omitempty"`    // text/template over Args
	Up        Signal     `toml:"up,omitempty"`
	ISO       *ISO       `toml:"iso,omitempty"` // the image as one file, for UEFI HTTP Boot and virtual media
	Windows   *WindowsPE `toml:"windows,omitempty"`
	Files     []File     `toml:"file"`
	Dir       string     `toml:"-"`
}

// File is one file of an image.
type File struct {
	Name   string `toml:"name"`
	Size   int64  `toml:"size"`
	SHA256 string `toml:"sha256"` // hexadecimal
	// Of a PE program: what it runs on, as Debian names it, and who has signed
	// it, such as "Microsoft UEFI CA 2023". Both are empty for any other file.
	Arch    string   `toml:"arch,omitempty"`
	Signers []string `toml:"signers,omitempty"`
}

// ISO is a file of the image that firmware boots as a whole: a disk with
// loader, kernel and initrd in it. A GRUB configuration of fixed size lies in
// it at a known place, so that an order's kernel arguments can be put
// over it while it is served.
type ISO struct {
	File     string `toml:"file"`
	ConfigAt int64  `toml:"config_at"` // offset in the file
	// ConfigSize is the size of the place in bytes; what is shorter is filled up with line feeds.
	ConfigSize int64 `toml:"config_size"`
}

// Loads lists the files that a machine's firmware and loaders fetch, in the
// order in which they do: the kernel, then every initrd; of a Windows image the
// RAM disk's frame, then the WIM. An image whose up is "served" is up when all
// of them went out.
func (i Image) Loads(uefi bool) []string {
	if w := i.Windows; w != nil {
		return slices.DeleteFunc([]string{w.SDI, w.WIM}, func(name string) bool { return name == "" })
	}
	kernel := i.Kernel
	if uefi && i.KernelEFI != "" {
		kernel = i.KernelEFI
	}
	if kernel == "" {
		return nil
	}
	return append([]string{kernel}, i.Initrd...)
}

// File finds one of the image's files.
func (i Image) File(name string) (File, bool) {
	n := slices.IndexFunc(i.Files, func(f File) bool { return f.Name == name })
	if n < 0 {
		return File{}, false
	}
	return i.Files[n], true
}

// Size is the sum of the sizes of the image's files.
func (i Image) Size() (sum int64) {
	for _, f := range i.Files {
		sum += f.Size
	}
	return sum
}
