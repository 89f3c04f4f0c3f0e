package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Lengths of an echo request and its reply: header, and a payload that nobody can guess.
const (
	lenHeader = 8
	lenSecret = 8
	lenEcho   = lenHeader + lenSecret
)

// pinger sends ICMP echo requests through one device and takes the answers to its own.
type pinger struct {
	conn   *net.IPConn
	v6     bool
	id     uint16
	secret [lenSecret]byte
}

// newPinger opens a raw socket that is bound to the device.
func newPinger(device string, v6 bool) (*pinger, error) {
	p := &pinger{v6: v6, id: uint16(rand.Uint32())}
	binary.NativeEndian.PutUint64(p.secret[:], rand.Uint64())
	network, filter := "ip4:icmp", onlyReplies4
	if v6 {
		network, filter = "ip6:ipv6-icmp", onlyReplies6
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return onSocket(c, func(fd int) error { return errors.Join(unix.BindToDevice(fd, device), filter(fd)) })
	}}
	conn, err := lc.ListenPacket(context.Background(), network, "")
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: the daemon needs CAP_NET_RAW", err)
		}
		return nil, fmt.Errorf("open a socket for ping on %s: %w", device, err)
	}
	p.conn = conn.(*net.IPConn)
	return p, nil
}

func (p *pinger) close() { p.conn.Close() }

// send sends the request of a number. It never waits: where what was sent before is stuck in the kernel, as in a tunnel
// whose hub is dead, a raw socket says so at once, and the packet is lost like one that is lost on the way.
func (p *pinger) send(to netip.Addr, seq uint16) error {
	_, err := p.conn.WriteToIP(p.request(seq), &net.IPAddr{IP: to.WithZone("").AsSlice(), Zone: to.Zone()})
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// receive waits for the next answer to a request of ours, of whatever number.
func (p *pinger) receive() (from netip.Addr, seq uint16, err error) {
	buf := make([]byte, 256)
	for {
		n, addr, err := p.conn.ReadFromIP(buf)
		if err != nil {
			return netip.Addr{}, 0, err
		}
		if seq, ok := p.reply(buf[:n]); ok {
			ip, _ := netip.AddrFromSlice(addr.IP)
			return ip.Unmap(), seq, nil
		}
	}
}

// request is an echo request (RFC 792, RFC 4443 section 4.1). The kernel fills in
// the checksum of ICMPv6.
func (p *pinger) request(seq uint16) []byte {
	b := make([]byte, lenEcho)
	b[0] = byte(ipv4.ICMPTypeEcho)
	if p.v6 {
		b[0] = byte(ipv6.ICMPTypeEchoRequest)
	}
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], seq)
	copy(b[lenHeader:], p.secret[:])
	if !p.v6 {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// reply reads the number of an answer to a request of ours. Everything else on the device is
// somebody else's: other pings, and whoever would have a dead uplink seem alive.
func (p *pinger) reply(b []byte) (seq uint16, ok bool) {
	kind := byte(ipv4.ICMPTypeEchoReply)
	if p.v6 {
		kind = byte(ipv6.ICMPTypeEchoReply)
	}
	if len(b) != lenEcho || b[0] != kind || b[1] != 0 || binary.BigEndian.Uint16(b[4:]) != p.id || !bytes.Equal(b[lenHeader:], p.secret[:]) {
		return 0, false
	}
	if !p.v6 && checksum(b) != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b[6:]), true
}

// checksum is that of RFC 1071 over an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}

// ping asks one address through one device, once.
func ping(ctx context.Context, device string, to netip.Addr) error {
	p, err := newPinger(device, to.Is6())
	if err != nil {
		return err
	}
	defer p.close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = p.conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := p.send(to, 1); err != nil {
		return fmt.Errorf("ping %s: %w", to, bare(err))
	}
	for {
		from, _, err := p.receive()
		if err != nil {
			return fmt.Errorf("ping %s: %w", to, bare(err))
		}
		if from == to.WithZone("") {
			return nil
		}
	}
}

// onlyReplies4 keeps all ICMP but echo replies in the kernel.
func onlyReplies4(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_RAW, 1 /* ICMP_FILTER of linux/icmp.h */, ^(1 << ipv4.ICMPTypeEchoReply))
}

func onlyReplies6(fd int) error {
	var f unix.ICMPv6Filter
	for i := range f.Data {
		f.Data[i] = 1<<32 - 1
	}
	t := ipv6.ICMPTypeEchoReply
	f.Data[t>>5] &^= 1 << (uint(t) & 31)
	return unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &f)
}

func onSocket(c syscall.RawConn, f func(fd int) error) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// errSilent is that no answer came.
var errSilent = errors.New("no answer")

// bare leaves out what the net package says of addresses and calls: the probe's name says it.
func bare(err error) error {
	var timeout interface{ Timeout() bool }
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return errSilent
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}
