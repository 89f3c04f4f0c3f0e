package boottest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Card is a machine's network card: eth0 of a namespace of its own. Without
// an address it speaks in raw frames, as firmware does; with one, through the
// kernel's UDP and TCP.
type Card struct {
	MAC net.HardwareAddr
	ns  *namespace
}

// Plug makes a card and connects it with the LAN.
func (l *LAN) Plug(mac net.HardwareAddr) (*Card, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	return &Card{MAC: mac, ns: ns}, l.cable(ns.file, "eth0", mac, "")
}

// Namespace is where nsenter --net finds the card's, while this process lives: for
// programs that run on the machine.
func (c *Card) Namespace() string { return c.ns.path() }

// Unplug takes the card away.
func (c *Card) Unplug() { c.ns.close() }

// setAddress gives the card the address of a DHCP answer, and takes what it had.
func (c *Card) setAddress(address netip.Prefix, router netip.Addr) error {
	return c.ns.do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := flush(link); err != nil || !address.IsValid() {
			return err
		}
		if err := addAddress("eth0", address.String()); err != nil || !router.IsValid() {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: router.AsSlice()})
	})
}

func flush(link netlink.Link) error {
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	for _, a := range list {
		err = errors.Join(err, netlink.AddrDel(link, &a))
	}
	return err
}

// udp opens a UDP socket of the card.
func (c *Card) udp(local netip.AddrPort) (conn *net.UDPConn, err error) {
	err = c.ns.do(func() error {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(local))
		return err
	})
	return conn, err
}

// firmwareWindow is how much a firmware's TCP takes before its program reads.
const firmwareWindow = 64 << 10

// dial opens a TCP connection of the card.
func (c *Card) dial(to netip.AddrPort) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: 30 * time.Second, Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, firmwareWindow)
		}), err)
	}}
	err = c.ns.do(func() error {
		conn, err = d.Dial("tcp4", to.String())
		return err
	})
	return conn, err
}

// Where things are in a frame: Ethernet, IPv4 without options, UDP.
const (
	lenEther   = 14
	lenHeaders = lenEther + 20 + 8
	ethIPv4    = 0x0800
	protoUDP   = 17
	portServer = 67
	portClient = 68
	portBoot   = 4011
)

// raw opens a socket for whole frames to the DHCP client's port.
func (c *Card) raw() (*os.File, error) {
	var file *os.File
	err := c.ns.do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		file = os.NewFile(uintptr(fd), "frames of "+c.MAC.String())
		if err := attach(fd, clientFilter()); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(ethIPv4), Ifindex: ifi.Index})
	})
	return file, err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// clientFilter passes UDP to the ports 68 and 4011, which EDK2 also asks from,
// and fragments of UDP behind the first, whose port nobody knows.
func clientFilter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: lenEther + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: lenEther + 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 5},
		bpf.LoadMemShift{Off: lenEther},
		bpf.LoadIndirect{Off: lenEther + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: portClient, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: portBoot, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1 << 16},
	}
}

func attach(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// broadcastFrame is a DHCP message of a client without an address.
func broadcastFrame(mac net.HardwareAddr, payload []byte) []byte {
	f := make([]byte, lenHeaders, lenHeaders+len(payload))
	copy(f, "\xff\xff\xff\xff\xff\xff")
	copy(f[6:], mac)
	binary.BigEndian.PutUint16(f[12:], ethIPv4)
	ip := f[lenEther:]
	ip[0], ip[8], ip[9] = 0x45, 64, protoUDP
	binary.BigEndian.PutUint16(ip[2:], uint16(20+8+len(payload)))
	copy(ip[16:], "\xff\xff\xff\xff")
	binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:20]))
	udp := ip[20:]
	binary.BigEndian.PutUint16(udp, portClient)
	binary.BigEndian.PutUint16(udp[2:], portServer)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload))) // no checksum, which RFC 768 allows
	return append(f, payload...)
}

// sum16 is the one's complement sum of RFC 1071.
func sum16(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// datagram is what came in a frame.
type datagram struct {
	to       net.HardwareAddr
	src, dst netip.AddrPort
	payload  []byte
}

// errFragment is a datagram in pieces. Firmware has no memory to put them together.
var errFragment = errors.New("it came as IP fragments")

// parseFrame takes a frame apart.
func parseFrame(f []byte) (datagram, error) {
	if len(f) < lenHeaders || binary.BigEndian.Uint16(f[12:]) != ethIPv4 || f[lenEther]>>4 != 4 {
		return datagram{}, errors.New("no IPv4 frame")
	}
	ip := f[lenEther:]
	header, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	switch {
	case binary.BigEndian.Uint16(ip[6:])&0x3fff != 0:
		return datagram{}, errFragment
	case header < 20 || total < header+8 || total > len(ip) || ip[9] != protoUDP:
		return datagram{}, errors.New("no UDP datagram")
	case sum16(ip[:header]) != 0xffff:
		return datagram{}, errors.New("the IP header's checksum is wrong")
	}
	udp := ip[header:total]
	if n := int(binary.BigEndian.Uint16(udp[4:])); n < 8 || n > len(udp) {
		return datagram{}, errors.New("the UDP length is wrong")
	}
	return datagram{
		to:      net.HardwareAddr(f[:6]),
		src:     netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), binary.BigEndian.Uint16(udp)),
		dst:     netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), binary.BigEndian.Uint16(udp[2:])),
		payload: udp[8:binary.BigEndian.Uint16(udp[4:])],
	}, nil
}
