package vpn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Sizes of a socket's queues. The kernel joins datagrams of one flow into messages of up to
// 64 KiB each way (udp(7): UDP_SEGMENT, UDP_GRO), which is what makes userspace fast.
const (
	socketBuffer = 2 << 20
	maxDatagram  = 1<<16 - 1
	maxPayload   = maxDatagram - 40 - 8
	maxSegments  = 64
)

// socket is a UDP socket tied to a device, for both families. It never blocks its sender:
// what the device's queue does not take is dropped, as a router would.
type socket struct {
	conn  *net.UDPConn
	batch batcher
	raw   syscall.RawConn
	v6    bool // both families; else the kernel has no IPv6, and only IPv4
	index int  // of the device that it is tied to: the kernel keeps that, not the name
	port  int

	closed chan struct{} // when it is

	gso atomic.Bool

	sendMu   sync.Mutex
	outgoing []ipv6.Message
	to       *net.UDPAddr // of the last ones

	// Of the one reader.
	incoming []byte
	beside   []byte    // what the kernel says of incoming
	pending  datagrams // what of it was not read yet
}

// batcher is what ipv4.PacketConn and ipv6.PacketConn have in common.
type batcher interface {
	WriteBatch([]ipv6.Message, int) (int, error)
}

// datagrams are those of one message: all of one size, but for the last.
type datagrams struct {
	data []byte
	size int
	from netip.AddrPort
}

// openSocket opens a socket tied to device. It asks for port, so that the hub and the NATs
// on the way know us again, and takes another one if somebody has it and wish is false.
func openSocket(device string, port int, must bool) (*socket, error) {
	conn, v6, err := listenOn(device, port)
	if errors.Is(err, unix.EADDRINUSE) && !must {
		conn, v6, err = listenOn(device, 0)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("there is no interface %s now", device)
	}
	if err != nil {
		return nil, fmt.Errorf("open a socket on %s: %w", device, err)
	}
	s := &socket{conn: conn, v6: v6, port: conn.LocalAddr().(*net.UDPAddr).Port, closed: make(chan struct{})}
	if s.raw, err = conn.SyscallConn(); err == nil {
		err = s.control(func(fd int) (err error) {
			s.index, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
			return err
		})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open a socket on %s: ask what it is tied to: %w", device, err)
	}
	if s.batch = batcher(ipv6.NewPacketConn(conn)); !v6 {
		s.batch = ipv4.NewPacketConn(conn)
	}
	s.offload()
	s.incoming, s.beside = make([]byte, maxDatagram), make([]byte, unix.CmsgSpace(4))
	return s, nil
}

// control runs f on the socket's descriptor.
func (s *socket) control(f func(fd int) error) error {
	var inner error
	err := s.raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// tiedTo reports whether the socket is tied to the device that has the name now. It asks by
// ioctl, which waits for nobody: netlink does for whoever changes an interface just then.
func (s *socket) tiedTo(device string) bool {
	var index uint32
	err := s.control(func(fd int) error {
		r, err := unix.NewIfreq(device)
		if err == nil {
			err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r)
			index = r.Uint32()
		}
		return err
	})
	return err == nil && int(index) == s.index
}

// listenOn opens a socket for both families, or for IPv4 where the kernel has no IPv6.
func listenOn(device string, port int) (conn *net.UDPConn, v6 bool, err error) {
	for _, network := range []string{"udp6", "udp4"} {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return tie(c, device, network == "udp6") }}
		var p net.PacketConn
		if p, err = lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(port)); err == nil {
			return p.(*net.UDPConn), network == "udp6", nil
		}
		if !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	return nil, false, err
}

// tie sets the options that must be there before the socket has its port: two sockets may
// have one port if each is tied to a device of its own.
func tie(c syscall.RawConn, device string, v6 bool) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device); err != nil {
			err = fmt.Errorf("tie the socket to %s: %w", device, err)
			return
		}
		if v6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
		}
		// Like the kernel's WireGuard: no DF, and no belief in ICMP that says how long a
		// packet may be. 1280 and what is around it pass nearly everywhere; where they do
		// not, a fragment is better than silence.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
		for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, socketBuffer) // smaller is slower, no more
		}
	}); e != nil {
		return e
	}
	return err
}

// offload turns on what this kernel can of joining datagrams.
func (s *socket) offload() {
	_ = s.control(func(fd int) error {
		_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.gso.Store(err == nil)
		return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}) // a kernel older than 5.0 has none
}

func (s *socket) close() {
	close(s.closed)
	_ = s.conn.Close() // there is nothing to lose in it
}

// send sends datagrams to one address. What the device's queue has no room for is lost, and
// no error. An error says that this uplink takes nothing now.
func (s *socket) send(bufs [][]byte, to netip.AddrPort) error {
	if to.Addr().Is6() && !s.v6 {
		return unix.EAFNOSUPPORT
	}
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	joined := s.gso.Load()
	err := s.write(bufs, to, joined)
	if joined && err != nil && !lasting(err) {
		// Some devices cannot sum (EIO), or are too narrow for one of the joined
		// datagrams (EMSGSIZE, EINVAL): then each goes by itself, from now on.
		s.gso.Store(false)
		err = s.write(bufs, to, false)
	}
	return err
}

// lasting reports an error that has nothing to do with how datagrams were joined.
func lasting(err error) bool {
	return !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.EINVAL)
}

func (s *socket) write(bufs [][]byte, to netip.AddrPort, joined bool) error {
	if s.to == nil || s.to.AddrPort() != to {
		s.to = net.UDPAddrFromAddrPort(to)
	}
	messages := s.pack(bufs, s.to, joined)
	for len(messages) > 0 {
		n, err := s.batch.WriteBatch(messages, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
			return nil
		}
		if err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

// pack makes messages of datagrams, as few as the kernel allows if they may be joined: runs
// of one size, of which the last may be shorter.
func (s *socket) pack(bufs [][]byte, to *net.UDPAddr, joined bool) []ipv6.Message {
	n := 0
	for len(bufs) > 0 {
		run := 1
		if joined {
			run = runLength(bufs)
		}
		if n == len(s.outgoing) {
			s.outgoing = append(s.outgoing, ipv6.Message{OOB: make([]byte, 0, unix.CmsgSpace(2))})
		}
		m := &s.outgoing[n]
		m.Addr, m.Buffers, m.OOB = to, bufs[:run], m.OOB[:0]
		if run > 1 {
			m.OOB = segmentSize(m.OOB, len(bufs[0]))
		}
		bufs = bufs[run:]
		n++
	}
	return s.outgoing[:n]
}

// runLength is how many of the datagrams, from the first on, can be one message.
func runLength(bufs [][]byte) int {
	size, total := len(bufs[0]), 0
	for i, b := range bufs {
		total += len(b)
		if len(b) > size || total > maxPayload || i == maxSegments {
			return i
		}
		if len(b) < size {
			return i + 1
		}
	}
	return len(bufs)
}
