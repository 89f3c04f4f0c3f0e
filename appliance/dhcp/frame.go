package dhcp

import (
	"encoding/binary"
	"net/netip"

	"rescuebox/appliance/boot"
)

// Ethernet, IPv4, UDP and ARP as far as DHCP needs them: a client without an
// address cannot be reached through the kernel's own stack.

const (
	etherIP  = 0x0800
	etherARP = 0x0806
	protoUDP = 17

	lenEther = 14
	lenIP    = 20
	lenUDP   = 8
	lenARP   = 28

	arpRequest = 1
)

// broadcastMAC is a constant in all but the word.
var broadcastMAC = boot.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// udpFrame is an Ethernet frame with one UDP datagram.
func udpFrame(from, to boot.MAC, src, dst netip.AddrPort, payload []byte) []byte {
	f := make([]byte, lenEther+lenIP+lenUDP+len(payload))
	ether(f, from, to, etherIP)
	ip, udp := f[lenEther:], f[lenEther+lenIP:]
	ip[0] = 0x45
	ip[1] = 0xc0 // DSCP CS6: network control, as routers mark it
	binary.BigEndian.PutUint16(ip[2:], uint16(lenIP+lenUDP+len(payload)))
	ip[8], ip[9] = 64, protoUDP
	putAddr(ip[12:], src.Addr())
	putAddr(ip[16:], dst.Addr())
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip[:lenIP]))

	binary.BigEndian.PutUint16(udp[0:], src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(lenUDP+len(payload)))
	copy(udp[lenUDP:], payload)
	pseudo := sum(sum(uint16(protoUDP), ip[12:20]), udp[4:6])
	// A sum that comes out as zero goes out so, which in IPv4 says that there is none. RFC 768 has 0xffff for
	// it, but busybox' udhcpc (1.35) does not take that: it compares it with the zero that it computes. One
	// answer in 65536 is such a one, and so is then each to the same request sent again.
	binary.BigEndian.PutUint16(udp[6:], ^sum(pseudo, udp))
	return f
}

// datagram is a UDP datagram that came in a frame.
type datagram struct {
	mac      boot.MAC // the frame's sender
	src, dst netip.AddrPort
	payload  []byte
}

// readUDP takes a frame apart. Checksums are not looked at: between
// namespaces and virtual machines they are not filled in yet.
func readUDP(f []byte) (datagram, bool) {
	if len(f) < lenEther+lenIP+lenUDP || binary.BigEndian.Uint16(f[12:]) != etherIP {
		return datagram{}, false
	}
	ip := f[lenEther:]
	header := int(ip[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(ip[2:]))
	fragment := binary.BigEndian.Uint16(ip[6:])&0x3fff != 0
	if ip[0]>>4 != 4 || header < lenIP || ip[9] != protoUDP || fragment || total > len(ip) || total < header+lenUDP {
		return datagram{}, false
	}
	udp := ip[header:total]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if size < lenUDP || size > len(udp) {
		return datagram{}, false
	}
	return datagram{
		mac:     boot.MAC(f[6:12]),
		src:     netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), binary.BigEndian.Uint16(udp)),
		dst:     netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), binary.BigEndian.Uint16(udp[2:])),
		payload: udp[lenUDP:size],
	}, true
}

// arpProbe asks who has an address without claiming one (RFC 5227 section 2.1.1).
func arpProbe(from boot.MAC, target netip.Addr) []byte {
	f := make([]byte, lenEther+lenARP)
	ether(f, from, broadcastMAC, etherARP)
	a := f[lenEther:]
	copy(a, []byte{0, 1, etherIP >> 8, etherIP & 0xff, 6, 4, 0, arpRequest})
	copy(a[8:], from[:])
	putAddr(a[24:], target)
	return f
}

// readARP says who claims which address in an ARP packet; a probe, whose
// sender has no address yet, claims its target (RFC 5227 section 2.1.1).
func readARP(f []byte) (mac boot.MAC, addr netip.Addr, ok bool) {
	if len(f) < lenEther+lenARP || binary.BigEndian.Uint16(f[12:]) != etherARP {
		return boot.MAC{}, netip.Addr{}, false
	}
	a := f[lenEther:]
	if binary.BigEndian.Uint16(a) != 1 || binary.BigEndian.Uint16(a[2:]) != etherIP || a[4] != 6 || a[5] != 4 {
		return boot.MAC{}, netip.Addr{}, false
	}
	mac, addr = boot.MAC(a[8:14]), addrOf(a[14:18])
	if !addr.IsValid() {
		addr = addrOf(a[24:28])
	}
	return mac, addr, addr.IsValid()
}

func ether(f []byte, from, to boot.MAC, kind uint16) {
	copy(f, to[:])
	copy(f[6:], from[:])
	binary.BigEndian.PutUint16(f[12:], kind)
}

func putAddr(b []byte, a netip.Addr) {
	v := a.As4()
	copy(b, v[:])
}

// sum adds b to a ones' complement sum (RFC 1071).
func sum(start uint16, b []byte) uint16 {
	s := uint32(start)
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
