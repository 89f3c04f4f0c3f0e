package images

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
)

// Kernel is what the header of a kernel or boot program tells about it.
type Kernel struct {
	BIOS    bool   // a Linux bzImage, which loaders start without UEFI
	EFI     bool   // a UEFI application, or a kernel with an EFI stub
	Arch    string // as Debian names it; "" if the header does not tell
	Version string // of a Linux kernel: 6.1.0-37-amd64 …
}

// kernelHead is how much of a kernel is read: all of the real-mode part, in
// which the version is, and the PE header, which stands before it.
const kernelHead = 64 << 10

// ParseKernel reads the beginning of a kernel or boot program: the Linux boot
// protocol's header (Documentation/arch/x86/boot.rst) and the PE header of UEFI.
func ParseKernel(head []byte) (Kernel, error) {
	k := Kernel{}
	k.parsePE(head)
	k.parseBzImage(head)
	if !k.BIOS && !k.EFI {
		return Kernel{}, errors.New("is neither a Linux kernel (bzImage) nor a UEFI program")
	}
	return k, nil
}

// parseBzImage wants the boot sector's magic, "HdrS", protocol 2.00 and a
// kernel that is loaded high: a zImage of the last century is not.
func (k *Kernel) parseBzImage(head []byte) {
	const (
		bootFlag  = 0x1fe
		magic     = 0x202
		protocol  = 0x206
		version   = 0x20e // counted from 0x200
		loadflags = 0x211
		end       = 0x212
	)
	if len(head) < end || head[bootFlag] != 0x55 || head[bootFlag+1] != 0xaa || string(head[magic:magic+4]) != "HdrS" {
		return
	}
	if le16(head[protocol:]) < 0x200 || head[loadflags]&1 == 0 {
		return
	}
	k.BIOS = true
	if at := le16(head[version:]); at != 0 && at+0x200 < len(head) {
		text, _, _ := bytes.Cut(head[at+0x200:min(at+0x300, len(head))], []byte{0})
		k.Version = oneLine(string(text))
	}
}

func (k *Kernel) parsePE(head []byte) {
	if len(head) < 0x40 || head[0] != 'M' || head[1] != 'Z' {
		return
	}
	at := int64(binary.LittleEndian.Uint32(head[0x3c:]))
	const (
		machine   = 4
		optional  = 24            // optional header, of PE32 and PE32+ alike
		subsystem = optional + 68 // 10 is "EFI application"
	)
	if at+subsystem+2 > int64(len(head)) || string(head[at:at+4]) != "PE\x00\x00" || le16(head[at+subsystem:]) != 10 {
		return
	}
	k.EFI = true
	k.Arch = machines[binary.LittleEndian.Uint16(head[at+machine:])]
}

func le16(b []byte) int { return int(binary.LittleEndian.Uint16(b)) }

// oneLine keeps what can be printed.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// ReadKernel reads a kernel's header from its file.
func ReadKernel(path string) (Kernel, error) {
	head, err := readHead(path, kernelHead)
	if err != nil {
		return Kernel{}, err
	}
	k, err := ParseKernel(head)
	if err != nil {
		return Kernel{}, fmt.Errorf("%s %w", path, err)
	}
	return k, nil
}

func readHead(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, n))
}

// initrdForms are the beginnings of what a kernel unpacks as an initrd: a cpio
// archive, plain or compressed (usr/Kconfig of the kernel lists them).
var initrdForms = []string{
	"070701", "070702", // cpio
	"\x1f\x8b",         // gzip
	"\xfd7zXZ",         // xz
	"\x28\xb5\x2f\xfd", // zstd
	"BZh",              // bzip2
	"\x5d\x00\x00",     // lzma
	"\x02\x21\x4c\x18", // lz4
	"\x89LZO",          // lzo
}

// checkInitrd catches what is given as an initrd and cannot be one, such as a kernel.
func checkInitrd(path string) error {
	head, err := readHead(path, 8)
	if err != nil {
		return err
	}
	for _, form := range initrdForms {
		if strings.HasPrefix(string(head), form) {
			return nil
		}
	}
	return fmt.Errorf("%s is no initrd: it is no cpio archive, plain or compressed", path)
}
