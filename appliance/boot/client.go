package boot

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// MAC is an Ethernet address. The zero value means "not known".
type MAC [6]byte

// ParseMAC reads a MAC with colons, dashes, dots or no separators at all, as
// firmware, scripts and paths write it; upper and lower case are equal.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	hexDigits := strings.NewReplacer(":", "", "-", "", ".", "").Replace(s)
	b, err := hex.DecodeString(hexDigits)
	if err != nil || len(b) != len(m) {
		return MAC{}, fmt.Errorf("%q is no MAC address: want six bytes such as 52:54:00:12:34:56", s)
	}
	copy(m[:], b)
	return m, nil
}

// String is the MAC in lower case with colons.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Plain is the MAC as twelve lower-case digits: its name in a path.
func (m MAC) Plain() string { return hex.EncodeToString(m[:]) }

// IsZero reports whether the MAC is not known.
func (m MAC) IsZero() bool { return m == MAC{} }

// MarshalText writes the MAC as String does; the zero MAC is empty.
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return nil, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText reads what ParseMAC reads; empty text is the zero MAC.
func (m *MAC) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*m = MAC{}
		return nil
	}
	*m, err = ParseMAC(string(text))
	return err
}

// UUID is a machine's SMBIOS UUID as it is written in text form (big endian;
// whoever reads it off a packet in another order converts it there). The zero
// value means "not known".
type UUID [16]byte

// ParseUUID reads a UUID in its text form, with or without dashes.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return UUID{}, fmt.Errorf("%q is no UUID: want 32 hexadecimal digits such as 4c4c4544-0042-3510-8054-b4c04f564432", s)
	}
	copy(u[:], b)
	return u, nil
}

// String is the UUID in lower case with dashes.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// MarshalText writes the UUID as String does; the zero UUID is empty.
func (u UUID) MarshalText() ([]byte, error) {
	if u.IsZero() {
		return nil, nil
	}
	return []byte(u.String()), nil
}

// UnmarshalText reads what ParseUUID reads; empty text is the zero UUID.
func (u *UUID) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*u = UUID{}
		return nil
	}
	*u, err = ParseUUID(string(text))
	return err
}

// IsZero reports whether the UUID is not known.
func (u UUID) IsZero() bool { return u == UUID{} }

// Arch is a client architecture, DHCP option 93 (RFC 4578 section 2.1 and the
// IANA registry "Processor Architecture Types").
type Arch uint16

// The architectures by their IANA numbers. In the wild x64 firmware sends 7
// and, some of it, 9; the registry's names for the two are swapped.
const (
	BIOS        Arch = 0
	UEFIIA32    Arch = 6
	UEFIX64     Arch = 7
	UEFIEBC     Arch = 9
	UEFIARM32   Arch = 10
	UEFIARM64   Arch = 11
	HTTPIA32    Arch = 15
	HTTPX64     Arch = 16
	HTTPEBC     Arch = 17
	HTTPARM32   Arch = 18
	HTTPARM64   Arch = 19
	HTTPBIOS    Arch = 20
	UnknownArch Arch = 0xffff // the client did not say
)

// String is the architecture in words with its number.
func (a Arch) String() string {
	switch a {
	case BIOS:
		return "BIOS (0)"
	case UEFIIA32:
		return "UEFI ia32 (6)"
	case UEFIX64:
		return "UEFI x64 (7)"
	case UEFIEBC:
		return "UEFI x64 (9)"
	case UEFIARM32:
		return "UEFI arm32 (10)"
	case UEFIARM64:
		return "UEFI arm64 (11)"
	case UnknownArch:
		return "unknown architecture"
	}
	if a >= HTTPIA32 && a <= HTTPBIOS {
		return fmt.Sprintf("UEFI HTTP Boot (%d)", uint16(a))
	}
	return fmt.Sprintf("architecture %d", uint16(a))
}

// UEFI reports whether the architecture is any UEFI, by PXE or by HTTP Boot.
func (a Arch) UEFI() bool {
	return a == UEFIIA32 || a == UEFIX64 || a >= UEFIEBC && a <= UEFIARM64 || a >= HTTPIA32 && a <= HTTPARM64
}

// HTTP reports whether the client loads everything by HTTP: UEFI HTTP Boot
// (UEFI specification 2.10, section 24.7).
func (a Arch) HTTP() bool { return a >= HTTPIA32 && a <= HTTPBIOS }

// CPU is what programs for the architecture are made for, as Debian names it;
// "" if that is not known. EBC is what some x64 firmware calls itself.
func (a Arch) CPU() string {
	switch a {
	case BIOS, UEFIX64, UEFIEBC, HTTPX64, HTTPEBC, HTTPBIOS:
		return "amd64"
	case UEFIARM64, HTTPARM64:
		return "arm64"
	case UEFIIA32, HTTPIA32:
		return "i386"
	case UEFIARM32, HTTPARM32:
		return "armhf"
	}
	return ""
}

// Program is what sent a boot request.
type Program string

// The programs that ask us during a boot.
const (
	Firmware Program = "firmware" // the machine's own PXE ROM
	IPXE     Program = "ipxe"     // user class "iPXE" or option 175
)

// Client is one boot request, parsed once from a DHCP packet or from the path
// and address of a TFTP or HTTP request. Only the MAC is always there.
type Client struct {
	MAC         MAC
	UUID        UUID
	Arch        Arch
	Program     Program
	VendorClass string     // option 60 as sent, at most 255 bytes
	UserClass   string     // option 77, first class
	Addr        netip.Addr // the client's address where it is known
	Relay       netip.Addr // giaddr, if it came through a relay
	// NextServerElsewhere: its lease comes from a DHCP server that names another
	// next server than us, or none. Firmware and iPXE know better by proxyDHCP;
	// GRUB 2.06 goes by the lease alone (savannah #55636).
	NextServerElsewhere bool
}
