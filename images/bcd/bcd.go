// Package bcd writes boot configuration data: the small registry hive from
// which Microsoft's boot manager learns what to load. No program of Microsoft's is
// needed for it, and no template: a store is made anew for each machine.
//
// The objects are those of Microsoft's own recipe for a network boot ("Windows PE
// Network Boot Using PXE"): the boot manager, the options of the RAM disk, and
// one loader, which is started without a menu or a key press.
package bcd

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Store is what one machine boots.
type Store struct {
	EFI bool // the loader is one for UEFI
	// Loader is the path of winload in the WIM; "" is \windows\system32\boot\winload.exe
	// or .efi, which is where every Windows PE since Vista's has one.
	Loader string
	// WIM and SDI are paths on the server, as the boot manager shall ask for them:
	// \boot\525400123456\boot.wim.
	WIM, SDI string
	// BlockSize and Window are those of TFTP; 0 is the loader's own default.
	BlockSize, Window int
	// VariableWindow lets the loader change the window while it loads (msftwindow).
	VariableWindow bool
	// LoadOptions are for the kernel. Windows PE finds them, in capitals, in the registry:
	// HKLM\SYSTEM\CurrentControlSet\Control\SystemStartOptions.
	LoadOptions string
	Description string // for people; "" is "Windows PE"
}

// Objects of the store. The first two have the same name in all stores; the loader's is any.
const (
	bootManager    = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
	ramdiskOptions = "{ae5534e0-a924-466c-b836-758539a3ee3a}"
	loader         = "{7619dcc9-fafe-11d9-b411-000476eba25f}"
)

// Types of objects.
const (
	applicationBootManager = 0x10100002
	applicationLoader      = 0x10200003
	deviceOptions          = 0x30000000
)

// Elements, by Microsoft's names. The second digit is the form of the value.
const (
	libraryDevice            = "11000001"
	libraryPath              = "12000002"
	libraryDescription       = "12000004"
	libraryLocale            = "12000005"
	libraryLoadOptions       = "12000030"
	bootmgrDefault           = "23000003"
	bootmgrDisplayOrder      = "24000001"
	bootmgrTimeout           = "25000004"
	bootmgrDisplayMenu       = "26000020"
	loaderOSDevice           = "21000001"
	loaderSystemRoot         = "22000002"
	loaderDetectHAL          = "26000010"
	loaderWinPE              = "26000022"
	deviceSDIDevice          = "31000003"
	deviceSDIPath            = "32000004"
	deviceTFTPBlockSize      = "35000007"
	deviceTFTPWindow         = "35000008"
	deviceTFTPVariableWindow = "3600000b"
)

// Bounds of a store. Over PXE's BIOS interface a file has 127 characters (PXE 2.1,
// TFTP OPEN); a path in a WIM is one of NTFS.
const (
	maxPath   = 127
	maxLoader = 255
	maxText   = 1024
)

// Bytes is the store as a registry hive: the same store is always the same
// bytes, so that what TFTP sends again and HTTP sends in ranges is one file. What
// Check refuses is written as it stands, and will not boot.
func (s Store) Bytes() []byte {
	return encode(&key{name: "NewStoreRoot", keys: []*key{
		{name: "Description", values: []value{{"KeyName", regSZ, text("BCD00000001")}}},
		{name: "Objects", keys: []*key{s.manager(), s.ramdisk(), s.loader()}},
	}})
}

// Check says why the boot manager would not boot the store.
func (s Store) Check() error {
	for _, p := range []struct{ what, path string }{{"WIM", s.WIM}, {"RAM disk's frame (boot.sdi)", s.SDI}} {
		if err := checkPath(p.path, maxPath); err != nil {
			return fmt.Errorf("path of the %s: %w", p.what, err)
		}
	}
	if err := checkPath(s.loaderPath(), maxLoader); err != nil {
		return fmt.Errorf("path of the loader: %w", err)
	}
	if efi := strings.EqualFold(lastOf(s.loaderPath(), 4), ".efi"); efi != s.EFI {
		return fmt.Errorf("%q is no loader for this firmware: UEFI takes winload.efi, and BIOS winload.exe", s.loaderPath())
	}
	if s.BlockSize != 0 && (s.BlockSize < 8 || s.BlockSize > 65464) {
		return fmt.Errorf("TFTP block size %d is not between 8 and 65464 (RFC 2348)", s.BlockSize)
	}
	if s.Window < 0 || s.Window > 65535 {
		return fmt.Errorf("TFTP window %d is not between 1 and 65535 (RFC 7440)", s.Window)
	}
	if !ascii(s.LoadOptions) || len(s.LoadOptions) > maxText {
		return fmt.Errorf("load options are at most %d printable ASCII characters", maxText)
	}
	if len(s.Description) > maxText || strings.ContainsFunc(s.Description, unicode.IsControl) {
		return fmt.Errorf("a description is one line of at most %d bytes", maxText)
	}
	return nil
}

// checkPath refuses what would be asked for in another form than it was written:
// boot managers turn names into one byte a character before they ask.
func checkPath(path string, longest int) error {
	switch {
	case path == "":
		return errors.New("it is missing")
	case !ascii(path):
		return fmt.Errorf("%q holds other characters than printable ASCII, which loaders ask for in a code page of their own", path)
	case len(path) > longest:
		return fmt.Errorf("%q… is longer than %d characters", path[:32], longest)
	case path[0] != '\\' || strings.Contains(path, "/"):
		return fmt.Errorf(`%q is not written with backslashes from the root, as \boot\boot.wim`, path)
	}
	return nil
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func lastOf(s string, n int) string { return s[max(0, len(s)-n):] }

func (s Store) loaderPath() string {
	switch {
	case s.Loader != "":
		return s.Loader
	case s.EFI:
		return `\windows\system32\boot\winload.efi`
	}
	return `\windows\system32\boot\winload.exe`
}

func (s Store) manager() *key {
	return object(bootManager, applicationBootManager,
		str(libraryDescription, "Windows Boot Manager"),
		str(libraryLocale, "en-US"),
		str(bootmgrDefault, loader),
		element{bootmgrDisplayOrder, regMultiSZ, texts(loader)},
		integer(bootmgrTimeout, 0),
		boolean(bootmgrDisplayMenu, false))
}

func (s Store) ramdisk() *key {
	elements := []element{{deviceSDIDevice, regBinary, bootDevice()}, str(deviceSDIPath, s.SDI)}
	if s.BlockSize > 0 {
		elements = append(elements, integer(deviceTFTPBlockSize, s.BlockSize))
	}
	if s.Window > 0 {
		elements = append(elements, integer(deviceTFTPWindow, s.Window))
	}
	if s.VariableWindow {
		elements = append(elements, boolean(deviceTFTPVariableWindow, true))
	}
	return object(ramdiskOptions, deviceOptions, elements...)
}

func (s Store) loader() *key {
	description := s.Description
	if description == "" {
		description = "Windows PE"
	}
	elements := []element{
		{libraryDevice, regBinary, ramdiskDevice(s.WIM)},
		str(libraryPath, s.loaderPath()),
		str(libraryDescription, description),
		{loaderOSDevice, regBinary, ramdiskDevice(s.WIM)},
		str(loaderSystemRoot, `\windows`),
		boolean(loaderDetectHAL, true),
		boolean(loaderWinPE, true),
	}
	if s.LoadOptions != "" {
		elements = append(elements, str(libraryLoadOptions, s.LoadOptions))
	}
	return object(loader, applicationLoader, elements...)
}

// element is one value of an object.
type element struct {
	name string
	kind uint32
	data []byte
}

func object(id string, kind uint32, elements ...element) *key {
	below := &key{name: "Elements"}
	for _, e := range elements {
		below.keys = append(below.keys, &key{name: e.name, values: []value{{"Element", e.kind, e.data}}})
	}
	description := &key{name: "Description", values: []value{{"Type", regDWORD, le.AppendUint32(nil, kind)}}}
	return &key{name: id, keys: []*key{description, below}}
}

func str(name, s string) element { return element{name, regSZ, text(s)} }

func integer(name string, n int) element {
	return element{name, regBinary, le.AppendUint64(nil, uint64(n))}
}

func boolean(name string, yes bool) element {
	if yes {
		return element{name, regBinary, []byte{1}}
	}
	return element{name, regBinary, []byte{0}}
}
