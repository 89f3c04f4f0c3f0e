package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rescuebox/appliance/boot"
)

// Option numbers that the library has no name for, and limits of the header.
const (
	optIPXE        = 175 // iPXE's encapsulated options
	ipxeNoProxy    = 176 // in it: do not wait for proxyDHCP offers
	pxeControl     = 6   // in option 43: PXE_DISCOVERY_CONTROL (PXE 2.1 table 2-1)
	pxeBootItem    = 71  // in option 43: PXE_BOOT_ITEM
	useBootFile    = 8   // value of pxeControl: load the boot file named here
	maxFile        = 127 // header field file, with its NUL
	minMessageSize = 576 // every client takes that much (RFC 2131 section 2)
	maxMessageSize = 1472
	ipUDPHeaders   = 28
)

// bootPart is what a reply says about booting.
type bootPart struct {
	file    string // boot file name: a path for TFTP, a URL for iPXE and HTTP Boot
	dialect dialect
}

// dialect is how one client wants its boot part said. Firmware differs; the
// defaults are the best known practice.
type dialect struct {
	class   string // option 60 of the answer
	control bool   // option 43 {6: 8}: boot from this offer, ask nobody on 4011
	noProxy bool   // tell iPXE not to wait for proxyDHCP offers
	local   bool   // nothing to boot: a menu whose only item is the machine's own disk
}

// dialectFor chooses by architecture, program and mode.
//
// As proxy: a BIOS wants 43 {6:8}, or it asks for a menu. UEFI gets none: EDK2
// then classes the offer as BINL and asks us on 4011, where nobody else
// answers, while some UEFI firmware ignores proxy offers that have a 43
// (pixiecore, README.booting.md). iPXE takes file and next server as they are.
//
// As the one full server everything is in one offer, the form that boots most
// firmware (bootimus#77): with 43 {6:8} no client looks for a boot server
// elsewhere (edk2#8149).
func dialectFor(c boot.Client, full bool) dialect {
	d := dialect{class: "PXEClient"}
	switch {
	case c.Arch >= boot.HTTPIA32 && c.Arch <= boot.HTTPBIOS:
		// Without this class the firmware takes the offer for a PXE one (xcat#7743).
		d.class = "HTTPClient"
	case c.Program == boot.IPXE:
		d.noProxy = full
	default:
		d.control = full || c.Arch == boot.BIOS
	}
	return d
}

// leaveAlone is what a client is told that has nothing to boot, nil for nothing.
//
// A BIOS ROM gives up at once on an offer without boot file (PXE-E53). EDK2
// takes such an offer for none and asks for a minute more (measured with OVMF:
// 62 s, PXE-E16); a PXE menu of one item, "local boot", and no time to choose
// sends it to its own disk in 4 s (PXE-E21).
func leaveAlone(c boot.Client, full bool) *bootPart {
	if !full || c.Program != boot.Firmware || c.Arch < boot.UEFIIA32 || c.Arch > boot.UEFIARM64 {
		return nil
	}
	return &bootPart{dialect: dialect{class: "PXEClient", local: true}}
}

// localMenu is option 43 (PXE 2.1 table 2-1): no discovery by broadcast or
// multicast, a menu with item type 0 "Local", a prompt that waits 0 seconds.
func localMenu() []byte {
	return []byte("\x06\x01\x03" + "\x09\x08\x00\x00\x05Local" + "\x0a\x02\x00x" + "\xff")
}

// bootFileFor names the file that the client loads. A name too long for the
// header is refused: ROMs that read only the header would load another file.
func bootFileFor(c boot.Client, d boot.Decision, server netip.Addr, httpPort int) (string, error) {
	file := boot.Path(c.MAC, d.File)
	if c.Program == boot.IPXE || (c.Arch >= boot.HTTPIA32 && c.Arch <= boot.HTTPBIOS) {
		host := server.String()
		if httpPort != 0 && httpPort != 80 {
			host = netip.AddrPortFrom(server, uint16(httpPort)).String()
		}
		file = "http://" + host + "/" + file
	}
	if len(file) > maxFile {
		return "", fmt.Errorf("boot file name %q has %d bytes, DHCP carries %d", file, len(file), maxFile)
	}
	return file, nil
}

// answer is all that a reply says.
type answer struct {
	kind    dhcpv4.MessageType
	server  netip.Addr
	yiaddr  netip.Addr    // zero: no address
	lease   time.Duration // zero: none (INFORM, proxy)
	net     *network      // zero: no network parameters
	dns     []byte        // option 6, on the wire
	domain  string
	message string // option 56, of a NAK
	class   string // option 60 of an answer without boot part: another box's probe
	boot    *bootPart
}

// render makes the reply to a request. It is pure.
func render(p *packet, a answer) ([]byte, error) {
	r := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: p.HWType, ClientHWAddr: p.ClientHWAddr,
		TransactionID: p.TransactionID, Flags: p.Flags, GatewayIPAddr: p.GatewayIPAddr,
		Options: make(dhcpv4.Options, 20),
	}
	o := r.Options
	o[dhcpv4.OptionDHCPMessageType.Code()] = []byte{byte(a.kind)}
	o[dhcpv4.OptionServerIdentifier.Code()] = a.server.AsSlice()
	for _, code := range []dhcpv4.OptionCode{
		dhcpv4.OptionClientIdentifier,      // RFC 6842
		dhcpv4.OptionRelayAgentInformation, // RFC 3046
	} {
		mirror(o, p, code)
	}
	if a.kind == dhcpv4.MessageTypeNak {
		return nak(r, a), nil
	}
	if a.kind == dhcpv4.MessageTypeAck {
		r.ClientIPAddr = p.ClientIPAddr
	}
	if a.yiaddr.IsValid() {
		r.YourIPAddr = a.yiaddr.AsSlice()
	}
	addNetwork(o, a)
	if a.class != "" {
		o[dhcpv4.OptionClassIdentifier.Code()] = []byte(a.class)
	}
	if a.boot != nil {
		addBoot(r, p, a)
	}
	return fit(r, p)
}

// nak is a DHCPNAK: nothing but why. Behind a relay it must be broadcast
// (RFC 2131 section 4.3.2).
func nak(r *dhcpv4.DHCPv4, a answer) []byte {
	r.Options[dhcpv4.OptionMessage.Code()] = []byte(a.message)
	if addrOf(r.GatewayIPAddr).IsValid() {
		r.SetBroadcast()
	}
	return r.ToBytes()
}

func addNetwork(o dhcpv4.Options, a answer) {
	if a.lease > 0 {
		o[dhcpv4.OptionIPAddressLeaseTime.Code()] = seconds(a.lease)
		o[dhcpv4.OptionRenewTimeValue.Code()] = seconds(a.lease / 2)
		o[dhcpv4.OptionRebindingTimeValue.Code()] = seconds(a.lease * 7 / 8)
	}
	if a.net == nil {
		return
	}
	o[dhcpv4.OptionSubnetMask.Code()] = net.CIDRMask(a.net.prefix.Bits(), 32)
	if a.net.router.IsValid() {
		o[dhcpv4.OptionRouter.Code()] = a.net.router.AsSlice()
	}
	if len(a.dns) > 0 {
		o[dhcpv4.OptionDomainNameServer.Code()] = a.dns
	}
	if a.domain != "" {
		o[dhcpv4.OptionDomainName.Code()] = []byte(a.domain)
	}
}

// addBoot says the boot part twice: some ROMs read only the header, some only
// the options. Option 67 ends in NUL: there is firmware that reads on into the
// next option (siderolabs/booter#11, netbootxyz#1198).
func addBoot(r *dhcpv4.DHCPv4, p *packet, a answer) {
	o, d := r.Options, a.boot.dialect
	o[dhcpv4.OptionClassIdentifier.Code()] = []byte(d.class)
	// PXE clients drop an answer that does not repeat their option 97.
	mirror(o, p, dhcpv4.OptionClientMachineIdentifier)
	if d.local {
		o[dhcpv4.OptionVendorSpecificInformation.Code()] = localMenu()
		return
	}
	host := a.server.String()
	r.ServerIPAddr = a.server.AsSlice()
	r.ServerHostName, r.BootFileName = host, a.boot.file
	o[dhcpv4.OptionTFTPServerName.Code()] = []byte(host)
	o[dhcpv4.OptionBootfileName.Code()] = append([]byte(a.boot.file), 0)
	if vendor := vendorOptions(p, d); len(vendor) > 0 {
		o[dhcpv4.OptionVendorSpecificInformation.Code()] = vendor
	}
	if d.noProxy {
		o[optIPXE] = []byte{ipxeNoProxy, 1, 1}
	}
}

// vendorOptions is option 43. A client that asks a boot server for an item of
// a menu wants the item repeated (PXE 2.1 section 2.2.6).
func vendorOptions(p *packet, d dialect) []byte {
	v := dhcpv4.Options{}
	if d.control {
		v[pxeControl] = []byte{useBootFile}
	}
	asked := dhcpv4.Options{}
	_ = asked.FromBytes(p.Options.Get(dhcpv4.OptionVendorSpecificInformation)) // what is malformed is not repeated
	if item := asked[pxeBootItem]; len(item) == 4 {
		v[pxeBootItem] = item
	}
	if len(v) == 0 {
		return nil
	}
	return append(v.ToBytes(), dhcpv4.OptionEnd.Code())
}

func mirror(o dhcpv4.Options, p *packet, code dhcpv4.OptionCode) {
	if v, ok := p.Options[code.Code()]; ok {
		o[code.Code()] = v
	}
}

// fit leaves out what the client can do without until the reply is as short
// as the client wants it (option 57).
func fit(r *dhcpv4.DHCPv4, p *packet) ([]byte, error) {
	limit := minMessageSize
	if v := p.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(v) == 2 {
		limit = min(max(limit, int(binary.BigEndian.Uint16(v))), maxMessageSize)
	}
	limit -= ipUDPHeaders
	b := r.ToBytes()
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionTFTPServerName, dhcpv4.OptionDomainName, dhcpv4.OptionDomainNameServer} {
		if len(b) <= limit {
			return b, nil
		}
		delete(r.Options, code.Code())
		b = r.ToBytes()
	}
	// Longer than the client promised to take, because its own options that we
	// must repeat are long: better than silence while it fits a frame.
	if len(b) > maxMessageSize {
		return nil, fmt.Errorf("reply of %d bytes is too long", len(b))
	}
	return b, nil
}

func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}

// route is the way of a reply to its client.
type route int

// The ways, in the order in which RFC 2131 section 4.1 chooses.
const (
	toRelay     route = iota // UDP to giaddr:67
	toAddress                // UDP to ciaddr:68
	toBroadcast              // frame to everybody
	toMAC                    // frame to chaddr and yiaddr, which the client does not have yet
)

// routeOf chooses the way.
func routeOf(p *packet, kind dhcpv4.MessageType, yiaddr netip.Addr) route {
	switch {
	case p.relay.IsValid():
		return toRelay
	case kind == dhcpv4.MessageTypeNak:
		return toBroadcast
	case p.ciaddr.IsValid():
		return toAddress
	case p.IsBroadcast(), !yiaddr.IsValid():
		return toBroadcast // an offer without address has no other way
	}
	return toMAC
}
