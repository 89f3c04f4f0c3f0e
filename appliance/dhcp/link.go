package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"rescuebox/appliance/boot"
)

// The ports. 4011 is where PXE clients ask a boot server (PXE 2.1 section 2.2.3).
const (
	portServer = 67
	portClient = 68
	portBoot   = 4011
)

// receiveBuffer takes the first second of a storm.
const receiveBuffer = 4 << 20

// wire is how packets leave: the edge to the kernel.
type wire interface {
	// frame sends a UDP datagram in an Ethernet frame of our own.
	frame(to boot.MAC, src, dst netip.AddrPort, payload []byte) error
	// udp sends through the kernel's stack, from port 67 or 4011.
	udp(from int, to netip.AddrPort, payload []byte) error
	// arp asks who has an address.
	arp(target netip.Addr) error
	// ether sends a frame as it is.
	ether(frame []byte) error
}

// link is the sockets on one interface, opened together and closed together.
// They are bound to the interface, so that they see and reach nothing else.
type link struct {
	index int
	mac   boot.MAC
	from  []byte // control message: our address and the interface
	main  *net.UDPConn
	boot  *net.UDPConn
	raw   *os.File // IP: answers of other servers in, frames to clients without an address out
	arps  *os.File // ARP in and out
	rs    *os.File // router solicitations in, advertisements out
}

func openLink(name string, self netip.Addr) (_ *link, err error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("open interface %q for DHCP: %w (\"ip link\" lists the interfaces; check [lan] interface)", name, err)
	}
	if len(ifi.HardwareAddr) != len(boot.MAC{}) {
		return nil, fmt.Errorf("open interface %q for DHCP: it is no Ethernet interface; check [lan] interface", name)
	}
	l := &link{index: ifi.Index, mac: boot.MAC(ifi.HardwareAddr), from: packetInfo(ifi.Index, self)}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.main, err = listenUDP(name, portServer); err != nil {
		return nil, err
	}
	if l.boot, err = listenUDP(name, portBoot); err != nil {
		return nil, err
	}
	if l.raw, err = listenPacket(ifi, unix.ETH_P_IP, clientPortFilter()); err != nil {
		return nil, err
	}
	if l.arps, err = listenPacket(ifi, unix.ETH_P_ARP, nil); err != nil {
		return nil, err
	}
	if l.rs, err = listenSolicitations(ifi); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *link) close() {
	for _, c := range []*net.UDPConn{l.main, l.boot} {
		if c != nil {
			c.Close()
		}
	}
	for _, f := range []*os.File{l.raw, l.arps, l.rs} {
		if f != nil {
			f.Close()
		}
	}
}

// frame implements wire.
func (l *link) frame(to boot.MAC, src, dst netip.AddrPort, payload []byte) error {
	_, err := l.raw.Write(udpFrame(l.mac, to, src, dst, payload))
	return err
}

// ether implements wire.
func (l *link) ether(frame []byte) error {
	_, err := l.rs.Write(frame)
	return err
}

// arp implements wire.
func (l *link) arp(target netip.Addr) error {
	_, err := l.arps.Write(arpProbe(l.mac, target))
	return err
}

// udp implements wire.
func (l *link) udp(from int, to netip.AddrPort, payload []byte) error {
	conn := l.main
	if from == portBoot {
		conn = l.boot
	}
	_, _, err := conn.WriteMsgUDPAddrPort(payload, l.from, to)
	return err
}

// listenUDP listens on all addresses, broadcast too, of one interface. No
// SO_REUSEADDR: with it a second DHCP server on this interface would go unnoticed.
func listenUDP(ifname string, port int) (*net.UDPConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, listenError(ifname, port, err)
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("udp %d on %s", port, ifname))
	defer f.Close()
	err = errors.Join(
		unix.BindToDevice(fd, ifname),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: port}),
	)
	if err != nil {
		return nil, listenError(ifname, port, err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // without CAP_NET_ADMIN: what the kernel grants
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, listenError(ifname, port, err)
	}
	return c.(*net.UDPConn), nil
}

func listenError(ifname string, port int, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = fmt.Sprintf(": another DHCP or PXE server runs on this box; \"ss -ulpn sport = :%d\" names it, stop it or keep it off this interface", port)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		hint = ": the daemon needs CAP_NET_BIND_SERVICE, CAP_NET_RAW and CAP_NET_ADMIN"
	}
	return fmt.Errorf("listen on UDP port %d of %s: %w%s", port, ifname, err, hint)
}

// listenPacket opens a packet socket for one protocol. It sees what comes in,
// not what we send.
func listenPacket(ifi *net.Interface, proto uint16, filter []bpf.RawInstruction) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		hint := ""
		if errors.Is(err, syscall.EPERM) {
			hint = ": the daemon needs CAP_NET_RAW"
		}
		return nil, fmt.Errorf("open a packet socket on %s: %w%s", ifi.Name, err, hint)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), "packets of "+ifi.Name)
	if len(filter) > 0 {
		code := make([]unix.SockFilter, len(filter))
		for i, in := range filter {
			code[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
		}
		prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
			f.Close()
			return fail(err)
		}
	}
	network := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, proto))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network, Ifindex: ifi.Index}); err != nil {
		f.Close()
		return fail(err)
	}
	return f, nil
}

// clientPortFilter passes unfragmented UDP to port 68: what DHCP servers send to
// clients. The LAN's other traffic, our downloads among it, stays in the kernel.
func clientPortFilter() []bpf.RawInstruction {
	prog, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: lenEther + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoUDP, SkipFalse: 6},
		bpf.LoadAbsolute{Off: lenEther + 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: lenEther},
		bpf.LoadIndirect{Off: lenEther + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: portClient, SkipFalse: 1},
		bpf.RetConstant{Val: maxPacket + 128},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic(err) // the program is constant: only a change of this function can break it
	}
	return prog
}

// packetInfo makes the kernel send from our address through our interface,
// whatever the routing table says (ip(7), IP_PKTINFO).
func packetInfo(index int, self netip.Addr) []byte {
	return unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(index), Spec_dst: self.As4()})
}
