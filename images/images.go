// Package images is the library of what machines can boot: one directory per
// image with an image.toml that names every file and its SHA-256.
package images

import (
	"io"
	"os"
	"time"
)

// Kind says how an image is booted.
type Kind string

// The kinds.
const (
	Linux   Kind = "linux"   // kernel and initrd
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
	Name      string    `toml:"-"`
	Kind      Kind      `toml:"kind"`
	Title     string    `toml:"title"`
	Arch      string    `toml:"arch"` // as Debian names it: amd64, arm64; "" for any
	Source    string    `toml:"source"`
	Added     time.Time `toml:"added"`
	Kernel    string    `toml:"kernel,omitempty"`     // file name
	KernelEFI string    `toml:"kernel_efi,omitempty"` // in its place under UEFI, where it differs (memtest86+)
	Initrd    []string  `toml:"initrd,omitempty"`     // file names, in order
	Cmdline   string    `toml:"cmdline,omitempty"`    // text/template over Args
	Up        Signal    `toml:"up,omitempty"`
	Files     []File    `toml:"file"`
	Dir       string    `toml:"-"`
}

// File is one file of an image.
type File struct {
	Name   string `toml:"name"`
	Size   int64  `toml:"size"`
	SHA256 string `toml:"sha256"` // hexadecimal
}

// Args fills a command line's template.
type Args struct {
	Machine string // machine's name
	MAC     string // with colons
	Order   string
	Token   string
	Server  string            // http://192.168.77.1:80
	URL     string            // http://192.168.77.1:80/boot/525400123456: where the image's files are
	SHA256  map[string]string // file name → hexadecimal
}

// CommandLine fills the image's template. Errors name the field that does not exist.
func (i Image) CommandLine(a Args) (string, error) { return "", nil }

// Library is a directory of images. It remembers which files it has hashed.
type Library struct {
	Dir string
}

// List reads every image; those that cannot be read are in errs, each with its name.
func (l *Library) List() (list []Image, errs []error) { return nil, nil }

// Get reads one image. The error for a name that does not exist lists those that do.
func (l *Library) Get(name string) (Image, error) { return Image{}, nil }

// Open opens a file of an image after making sure that it is the one that was imported;
// a file that changed since is refused with its name.
func (l *Library) Open(i Image, file string) (*os.File, File, error) { return nil, File{}, nil }

// Verify hashes every file of an image.
func (l *Library) Verify(i Image) error { return nil }

// Remove deletes an image.
func (l *Library) Remove(name string) error { return nil }

// Add imports an image whole or not at all: files are copied and hashed into a
// temporary directory that becomes the image by one rename. An image of the
// name that exists is replaced.
func (l *Library) Add(i Image, content map[string]io.Reader) (Image, error) { return Image{}, nil }
