package dhcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Option numbers that the library has no name for, and limits of the header.
const (
	optIPXE        = 175    // iPXE's encapsulated options
	ipxeNoProxy    = 176    // in it: do not wait for proxyDHCP offers
	pxeControl     = 6      // in option 43: PXE_DISCOVERY_CONTROL (PXE 2.1 table 2-1)
	pxeBootServers = 8      // in option 43: PXE_BOOT_SERVERS
	pxeBootMenu    = 9      // in option 43: PXE_BOOT_MENU
	pxeMenuPrompt  = 10     // in option 43: PXE_MENU_PROMPT
	pxeBootItem    = 71     // in option 43: PXE_BOOT_ITEM
	useBootFile    = 8      // value of pxeControl: load the boot file named here
	useListOnly    = 7      // value of pxeControl: no broadcast, no multicast, only the boot servers listed
	itemLocal      = 0      // boot item type: the machine's own disk
	itemOurs       = 0x8000 // boot item type of our one menu item, from the vendors' range
	maxFile        = 127    // header field file, with its NUL
	minMessageSize = 576    // every client takes that much (RFC 2131 section 2)
	maxMessageSize = 1472
	ipUDPHeaders   = 28
)

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
	on4011  bool // the client asked the boot server
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

// addBoot says the boot part, in most dialects twice: some ROMs read only the
// header, some only the options. Option 67 ends in NUL: there is firmware that
// reads on into the next option (siderolabs/booter#11, netbootxyz#1198).
func addBoot(r *dhcpv4.DHCPv4, p *packet, a answer) {
	o, d := r.Options, a.boot.dialect
	o[dhcpv4.OptionClassIdentifier.Code()] = []byte(a.boot.class)
	// PXE clients drop an answer that does not repeat their option 97.
	mirror(o, p, dhcpv4.OptionClientMachineIdentifier)
	if a.boot.local && a.boot.file == "" {
		o[dhcpv4.OptionVendorSpecificInformation.Code()] = pxeMenu(nil, itemLocal, netip.Addr{}, "Local", "x")
		return
	}
	host := a.server.String()
	r.ServerIPAddr = a.server.AsSlice()
	if vendor := vendorOptions(p, a, d); len(vendor) > 0 {
		o[dhcpv4.OptionVendorSpecificInformation.Code()] = vendor
	}
	if a.boot.noProxy {
		o[optIPXE] = []byte{ipxeNoProxy, 1, 1}
	}
	if d.File == File4011 && !a.on4011 {
		return
	}
	if d.File != FileOption {
		r.ServerHostName, r.BootFileName = host, a.boot.file
	}
	if d.File != FileHeader {
		o[dhcpv4.OptionTFTPServerName.Code()] = []byte(host)
		o[dhcpv4.OptionBootfileName.Code()] = append([]byte(a.boot.file), 0)
	}
}

// vendorOptions is option 43. A client that asks a boot server for an item of
// a menu wants the item repeated (PXE 2.1 section 2.2.6).
func vendorOptions(p *packet, a answer, d Dialect) []byte {
	if d.Menu && !a.on4011 {
		return pxeMenu([]byte{useListOnly}, itemOurs, a.server, "rescuebox", "rescuebox")
	}
	v := dhcpv4.Options{}
	if d.Control {
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

// pxeMenu is option 43 (PXE 2.1 table 2-1) with a menu of one item and a prompt
// that waits 0 seconds. The discovery control that is the default here allows
// neither broadcast nor multicast.
func pxeMenu(discovery []byte, item uint16, server netip.Addr, text, prompt string) []byte {
	if discovery == nil {
		discovery = []byte{3}
	}
	kind := binary.BigEndian.AppendUint16(nil, item)
	entry := func(code byte, parts ...[]byte) []byte {
		v := bytes.Join(parts, nil)
		return append([]byte{code, byte(len(v))}, v...)
	}
	menu := entry(pxeControl, discovery)
	if server.IsValid() {
		menu = append(menu, entry(pxeBootServers, kind, []byte{1}, server.AsSlice())...)
	}
	menu = append(menu, entry(pxeBootMenu, kind, []byte{byte(len(text))}, []byte(text))...)
	menu = append(menu, entry(pxeMenuPrompt, []byte{0}, []byte(prompt))...)
	return append(menu, dhcpv4.OptionEnd.Code())
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
