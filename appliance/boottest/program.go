package boottest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"time"
)

// Kind says what a program does once a machine has loaded it.
type Kind string

// The kinds of program that a simulated machine can run.
const (
	IPXE1 Kind = "ipxe-1" // Debian's of 2019
	IPXE2 Kind = "ipxe-2" // signed, looks for autoexec.ipxe first
	Shim  Kind = "shim"   // starts its second stage from beside itself
	GRUB  Kind = "grub"   // Debian's grubnet: no HTTP, prefix /grub

	PXEBoot       Kind = "pxeboot"        // Windows' pxeboot.n12, for BIOS
	BootmgrBIOS   Kind = "bootmgr-bios"   // Windows' bootmgr.exe
	Bootmgr       Kind = "bootmgr"        // Windows' bootmgfw.efi
	BootmgrBeside Kind = "bootmgr-beside" // the same, if it looks for its configuration beside itself first
	Wimboot       Kind = "wimboot"        // boots a WIM under iPXE
	Kernel        Kind = "kernel"         // the end of the way
)

// mark comes before a program's kind, where the simulator looks for it.
const mark = "\x00boottest program: "

// machines are the PE machine types (PE format, section "Machine Types") by
// Debian's names of the architectures.
var machines = map[string]uint16{"amd64": 0x8664, "arm64": 0xaa64, "i386": 0x14c}

// Program makes a program that a simulated machine can run: a PE file for the
// CPU (Debian's name), or for "" a BIOS program, and behind that filler that no
// compression shortens.
func Program(kind Kind, cpu string, size int) []byte {
	out := make([]byte, max(size, 1024))
	seed := fnv.New64a()
	fmt.Fprint(seed, kind, cpu, size)
	source := rand.NewChaCha8([32]byte(append(binary.LittleEndian.AppendUint64(nil, seed.Sum64()), make([]byte, 24)...)))
	source.Read(out[512:])
	if machine, ok := machines[cpu]; ok {
		peHeader(out, machine)
	}
	copy(out[512:], mark+string(kind)+"\n")
	return out
}

// peHeader writes the headers of an EFI application (PE format, UEFI 2.10 section 2.1.1).
func peHeader(out []byte, machine uint16) {
	const at = 0x80
	le := binary.LittleEndian
	magic, optional := uint16(0x20b), uint16(240) // PE32+
	if machine == machines["i386"] {
		magic, optional = 0x10b, 224
	}
	copy(out, "MZ")
	le.PutUint32(out[0x3c:], at)
	copy(out[at:], "PE\x00\x00")
	le.PutUint16(out[at+4:], machine)
	le.PutUint16(out[at+20:], optional)
	le.PutUint16(out[at+22:], 0x22) // executable, large addresses
	le.PutUint16(out[at+24:], magic)
	le.PutUint16(out[at+24+68:], 10) // subsystem: EFI application
	directories := at + 24 + 108
	if magic == 0x10b {
		directories = at + 24 + 92
	}
	le.PutUint32(out[directories:], 16) // all of them empty
}

// kindOf finds what a loaded file is.
func kindOf(data []byte) (Kind, bool) {
	_, rest, ok := bytes.Cut(data[:min(len(data), 4096)], []byte(mark))
	if !ok {
		return "", false
	}
	kind, _, ok := bytes.Cut(rest, []byte("\n"))
	return Kind(kind), ok
}

// kindByName is what one of Debian's programs is.
func kindByName(name string) (Kind, bool) {
	switch name {
	case "undionly.kpxe", "snponly.efi", "ipxe.efi":
		return IPXE1, true
	case "shimx64.efi", "shimaa64.efi":
		return Shim, true
	case "grubx64.efi", "grubaa64.efi", "grubia32.efi":
		return GRUB, true
	}
	return "", false
}

// madeFor is the CPU that a PE file is made for, "" for any other file.
func madeFor(data []byte) string {
	if len(data) < 0x90 || data[0] != 'M' || data[1] != 'Z' {
		return ""
	}
	at := binary.LittleEndian.Uint32(data[0x3c:])
	if int(at)+6 > len(data) {
		return ""
	}
	for cpu, machine := range machines {
		if binary.LittleEndian.Uint16(data[at+4:]) == machine {
			return cpu
		}
	}
	return "another CPU"
}

// cpu is what the firmware runs, "" for a BIOS.
func (m *Machine) cpu() string {
	switch m.self.arch {
	case 6, 15:
		return "i386"
	case 7, 9, 16, 17:
		return "amd64"
	case 11, 19:
		return "arm64"
	}
	return ""
}

// maxPrograms is far more than any chain has: more is a loop (ipxe#922).
const maxPrograms = 6

// start runs a loaded program to the end of what it does.
func (m *Machine) start(f Loaded, from origin) error {
	kind, ok := kindOf(f.Data)
	if m.Real {
		kind, ok = kindByName(f.Name)
	}
	if !ok {
		return fmt.Errorf("%s is no program", f.Name)
	}
	if cpu := madeFor(f.Data); cpu != m.cpu() && kind != BootmgrBIOS { // which firmware does not start itself
		return fmt.Errorf("%s is made for %q, the firmware is %q: it refuses", f.Name, cpu, m.cpu())
	}
	if !m.starts(f) {
		return fmt.Errorf("%s: security violation", f.Name)
	}
	if m.programs++; m.programs > maxPrograms {
		return fmt.Errorf("a loop: %s starts again and again", strings.Join(m.stages(), " → "))
	}
	m.out.Stages = append(m.out.Stages, string(kind))
	m.logf("starts %s", kind)
	m.deaf = m.deaf || kind == m.Deaf
	switch kind {
	case IPXE1, IPXE2:
		return m.runIPXE(kind, from)
	case Shim:
		return m.runShim(f, from)
	case GRUB:
		return m.runGRUB(from)
	case PXEBoot, BootmgrBIOS, Bootmgr, BootmgrBeside:
		return m.runWindows(kind, from)
	}
	return fmt.Errorf("%s cannot be started by firmware", kind)
}

func (m *Machine) stages() []string { return m.out.Stages }

// notFoundWithin is how soon a "no" must come: loaders ask for a dozen files
// that are not there, and silence costs a time-out for each. A busy test machine may lose
// a request or two.
const notFoundWithin = 5 * time.Second

// optional asks for a file that the program can do without.
func (m *Machine) optional(from origin, want tftpOptions) (Loaded, bool) {
	begin := time.Now()
	get := func() (Loaded, error) { return m.tftpGet(from, want) }
	if from.scheme == "http" {
		get = func() (Loaded, error) { return m.httpGet(from) }
	}
	f, err := get()
	if err == nil {
		return f, true
	}
	var no *TFTPError
	var noHTTP *HTTPError
	if took := time.Since(begin); !errors.As(err, &no) && !errors.As(err, &noHTTP) || took > notFoundWithin {
		m.complain("%s is not there, and that took %s to say: %v", from, took.Round(time.Millisecond), err)
	}
	return f, false
}

// suffix is how EFI programs name the CPU.
func suffix(cpu string) string {
	return map[string]string{"amd64": "x64", "arm64": "aa64", "i386": "ia32"}[cpu]
}

// runShim is shim 16: it looks for revocations, then starts grub<cpu>.efi from
// beside itself; iPXE's build of it takes "-shim<cpu>" out of its own name
// in place of that. Its TFTP asks for no options (shim#618).
func (m *Machine) runShim(f Loaded, from origin) error {
	cpu := suffix(m.cpu())
	second := "grub" + cpu + ".efi"
	if strings.Contains(f.Name, "-shim"+cpu) {
		second = strings.Replace(f.Name, "-shim"+cpu, "", 1)
	}
	if from.scheme == "http" {
		next := from.beside(second)
		f, err := m.httpGet(next)
		if err != nil {
			return err
		}
		return m.start(f, next)
	}
	m.optional(from.beside("revocations_sbat.efi"), tftpOptions{})
	next := from.beside(second)
	next2, err := m.tftpGet(next, tftpOptions{size: true})
	if err != nil {
		return err
	}
	return m.start(next2, next)
}
