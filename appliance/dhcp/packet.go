package dhcp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rescuebox/appliance/boot"
)

// Sizes of what is read. 236 bytes of header and the magic cookie are the
// least; nothing on an Ethernet needs more than the most.
const (
	minPacket = 240
	maxPacket = 2048
	maxMirror = 255 // longest option 61, 82 or 97 that is sent back
)

// Where the header's fields are that are read before a packet is parsed.
const (
	offMAC   = 28
	offSname = 44
	offFile  = 108
	offOpts  = 236
)

// packet is one request, parsed. Below this line nobody reads option numbers
// of requests.
type packet struct {
	*dhcpv4.DHCPv4
	kind      dhcpv4.MessageType
	mac       boot.MAC
	relay     netip.Addr  // giaddr
	ciaddr    netip.Addr  // the address that the client uses already
	requested netip.Addr  // option 50
	server    netip.Addr  // option 54
	host      string      // option 12, printable
	class     string      // option 60
	client    boot.Client // the boot request; only where notBoot is empty
	notBoot   string      // why this is no boot client
}

// badPacket is why a packet was dropped; key is its short name in metrics.
type badPacket struct{ key, reason string }

func (b *badPacket) Error() string { return b.reason }

func bad(key, format string, args ...any) error {
	return &badPacket{key, fmt.Sprintf(format, args...)}
}

// parse reads a request. A packet that is no boot client's is no error: most
// of a LAN's DHCP traffic comes from running systems.
func parse(raw []byte) (*packet, error) {
	if len(raw) < minPacket || len(raw) > maxPacket {
		return nil, bad("size", "packet of %d bytes, want %d to %d", len(raw), minPacket, maxPacket)
	}
	d, err := decode(raw)
	if err != nil {
		return nil, bad("format", "malformed packet: %v", err)
	}
	if err := overload(d, raw); err != nil {
		return nil, bad("format", "malformed options in file or sname: %v", err)
	}
	if err := checkHeader(d); err != nil {
		return nil, err
	}
	p := &packet{DHCPv4: d, kind: d.MessageType(), mac: boot.MAC(d.ClientHWAddr)}
	switch p.kind {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform:
	default:
		return nil, bad("type", "message type %d is no DHCP request (plain BOOTP is not served)", p.kind)
	}
	p.relay, p.ciaddr = addrOf(d.GatewayIPAddr), addrOf(d.ClientIPAddr)
	p.requested = addrOf(d.Options.Get(dhcpv4.OptionRequestedIPAddress))
	p.server = addrOf(d.Options.Get(dhcpv4.OptionServerIdentifier))
	p.host = printable(d.Options.Get(dhcpv4.OptionHostName), 63)
	p.class = printable(d.Options.Get(dhcpv4.OptionClassIdentifier), 255)
	p.client, err = clientFrom(p)
	if err != nil {
		p.notBoot = err.Error()
	}
	return p, nil
}

// decode tolerates a missing End option: some ROMs and relays forget it
// (insomniacslk/dhcp#265 and its cousins), and to refuse it would strand the machine.
func decode(raw []byte) (*dhcpv4.DHCPv4, error) {
	d, err := dhcpv4.FromBytes(raw)
	if err == nil {
		return d, nil
	}
	closed := make([]byte, len(raw)+1)
	closed[copy(closed, raw)] = dhcpv4.OptionEnd.Code()
	if d, again := dhcpv4.FromBytes(closed); again == nil {
		return d, nil
	}
	return nil, err
}

// overload reads the options that option 52 says are in the header's file and
// sname fields, in that order (RFC 2131 section 4.1, RFC 3396 section 5).
func overload(d *dhcpv4.DHCPv4, raw []byte) error {
	v := d.Options.Get(dhcpv4.OptionOptionOverload)
	if len(v) != 1 {
		return nil
	}
	if v[0]&1 != 0 {
		d.BootFileName = ""
		if err := d.Options.FromBytes(raw[offFile:offOpts]); err != nil {
			return err
		}
	}
	if v[0]&2 != 0 {
		d.ServerHostName = ""
		return d.Options.FromBytes(raw[offSname:offFile])
	}
	return nil
}

func checkHeader(d *dhcpv4.DHCPv4) error {
	switch {
	case d.OpCode != dhcpv4.OpcodeBootRequest:
		return bad("op", "op %d is no request", d.OpCode)
	case d.HWType != 1 || len(d.ClientHWAddr) != 6:
		return bad("hardware", "hardware type %d with %d-byte address is not Ethernet", d.HWType, len(d.ClientHWAddr))
	case boot.MAC(d.ClientHWAddr).IsZero() || d.ClientHWAddr[0]&1 != 0:
		return bad("hardware", "%s is no machine's MAC", d.ClientHWAddr)
	case d.HopCount > 16:
		return bad("hops", "%d relays on the way, at most 16 are believed (RFC 1542 section 4.1.1)", d.HopCount)
	}
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, dhcpv4.OptionRelayAgentInformation, dhcpv4.OptionClientMachineIdentifier} {
		if len(d.Options.Get(code)) > maxMirror {
			return bad("option", "option %d is longer than %d bytes", code.Code(), maxMirror)
		}
	}
	return nil
}

// clientFrom is the boot request in a packet, or why there is none.
//
// PXE clients say so in option 60. FlexBoot and some ROMs leave out one or
// another field, so option 93 alone is taken as a boot client too.
func clientFrom(p *packet) (boot.Client, error) {
	ipxe := isIPXE(p.DHCPv4)
	known := bootClass(p.class)
	arch, said := archOf(p)
	if !known && !ipxe && !said {
		return boot.Client{}, errors.New("neither option 60 PXEClient nor option 93 nor iPXE: a running system")
	}
	c := boot.Client{
		MAC: p.mac, Arch: arch, Program: boot.Firmware, VendorClass: p.class,
		UserClass: userClass(p.DHCPv4), Addr: p.ciaddr, Relay: p.relay,
	}
	if ipxe {
		c.Program = boot.IPXE
	}
	c.UUID = uuidOf(p.Options.Get(dhcpv4.OptionClientMachineIdentifier))
	return c, nil
}

// archOf reads option 93, the first of several (RFC 4578 section 2.1). Without
// it the vendor class may tell ("PXEClient:Arch:00007:UNDI:003016"); without
// both a PXE client is a BIOS, which was all there was when ROMs left it out.
func archOf(p *packet) (arch boot.Arch, said bool) {
	if v := p.Options.Get(dhcpv4.OptionClientSystemArchitectureType); len(v) >= 2 {
		return boot.Arch(uint16(v[0])<<8 | uint16(v[1])), true
	}
	if _, rest, ok := strings.Cut(p.class, ":Arch:"); ok {
		digits, _, _ := strings.Cut(rest, ":")
		if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return boot.Arch(n), false
		}
	}
	if p.class != "" && !strings.HasPrefix(p.class, "PXEClient") && !isIPXE(p.DHCPv4) {
		return boot.UnknownArch, false
	}
	return boot.BIOS, false
}

// isIPXE recognises iPXE by its user class, in the raw form that it sends and
// in that of RFC 3004, and by its encapsulated options (175): an iPXE with an
// embedded class of its own still sends these.
func isIPXE(d *dhcpv4.DHCPv4) bool {
	return d.Options.Has(dhcpv4.GenericOptionCode(optIPXE)) || userClass(d) == "iPXE"
}

// userClass is the first user class in either form.
func userClass(d *dhcpv4.DHCPv4) string {
	v := d.Options.Get(dhcpv4.OptionUserClassInformation)
	if len(v) > 1 && int(v[0]) < len(v) && v[0] > 0 && wholeClasses(v) {
		v = v[1 : 1+int(v[0])]
	}
	return printable(v, 255)
}

// wholeClasses reports whether v divides into length-prefixed classes without a rest.
func wholeClasses(v []byte) bool {
	for len(v) > 0 {
		n := int(v[0])
		if n == 0 || n >= len(v) {
			return false
		}
		v = v[1+n:]
	}
	return true
}

// sharedUUIDs are what makers have left in whole series of boards: to know a machine by
// one would boot its neighbour.
var sharedUUIDs = []string{
	"03000200-0400-0500-0006-000700080009", // of AMI's, on boards of many makers (oshi#2417, fusioninventory-for-glpi#689)
	"00020003-0004-0005-0006-000700080009", // the same from firmware that has swapped it
	"6ab5b300-538d-1014-9fb5-b0684d007b53", // of HP (fusioninventory-for-glpi#689)
}

// uuidOf reads option 97: type 0 and 16 bytes (RFC 4578 section 2.3). Firmware
// sends the bytes as SMBIOS has them, the first three fields little-endian, and
// so does iPXE (measured: testdata). Anything else, and the UUIDs of boards that nobody
// programmed, often of one byte again and again, is as good as none.
func uuidOf(v []byte) boot.UUID {
	if len(v) != 17 || v[0] != 0 || bytes.Count(v[1:], v[1:2]) == 16 {
		return boot.UUID{}
	}
	u := boot.UUID(v[1:])
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	if slices.Contains(sharedUUIDs, u.String()) {
		return boot.UUID{}
	}
	return u
}

// printable cuts a text of the wire at its first NUL and drops what would not
// be safe in a log line.
func printable(v []byte, most int) string {
	v, _, _ = bytes.Cut(v, []byte{0})
	if len(v) > most {
		v = v[:most]
	}
	clean := func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}
	return strings.Map(clean, string(v))
}

// addrOf is an IPv4 address of the wire; 0.0.0.0 and wrong lengths are none.
func addrOf(b []byte) netip.Addr {
	if len(b) != net.IPv4len {
		return netip.Addr{}
	}
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
