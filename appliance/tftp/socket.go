package tftp

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

var (
	errTimeout = errors.New("no answer in time")
	errCut     = errors.New("the transfer was cut")
	errGone    = errors.New("the machine has closed its port")
	errSegment = errors.New("the kernel cannot segment here")
)

// socket is one transfer's own (the transfer identifier of RFC 1350 section
// 4): bound to the address that the request was sent to, because firmware
// drops answers from another one, and connected to the client, so that the kernel
// drops everybody else's packets.
//
// It blocks its thread. In lock-step every packet waits for one, and the way
// through Go's network poller (a read in vain, epoll, the wake-up of a
// goroutine) made transfers slower by a third to a half; the number of
// transfers, and so of threads, is bounded.
type socket struct {
	fd      int
	timeout time.Duration // set in the kernel
	segment int           // size of the packets that the kernel cuts what is sent into; 0: it does not
	single  bool          // it cannot, on the way to this client

	isCut  atomic.Bool
	mu     sync.Mutex // guards fd against cut after close
	closed bool
}

func dial(local netip.Addr, peer netip.AddrPort) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: local.As4()}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind a socket to %s: %w", local, err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: peer.Addr().As4(), Port: int(peer.Port())}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect a socket to %s: %w", peer, err)
	}
	return &socket{fd: fd}, nil
}

// mtu is that of the way to the client: of its route, its interface, and what
// the kernel has learned from ICMP.
func (s *socket) mtu() int {
	mtu, err := unix.GetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_MTU)
	if err != nil {
		return ethernetMTU
	}
	return mtu
}

// last sends one packet even on a socket that was cut.
func (s *socket) last(p []byte) {
	s.setSegment(0) // it may be longer than a block
	unix.Write(s.fd, p)
}

// setSegment makes the kernel cut what is sent into packets of a size (UDP
// generic segmentation offload, Linux 4.18): a window takes one way through the
// network stack, not one per block. Zero, or a kernel without it: packets go out
// one by one.
func (s *socket) setSegment(size int) {
	if size == s.segment || s.single && size > 0 {
		return
	}
	if unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) != nil {
		size, s.single = 0, true
	}
	s.segment = size
}

// sendAll sends packets that lie one after another; all but the last have the size.
func (s *socket) sendAll(p []byte, size int) error {
	if len(p) > size {
		s.setSegment(size)
	}
	for len(p) > 0 {
		n := min(size, len(p))
		if s.segment == size {
			n = len(p)
		}
		err := s.send(p[:n])
		if err == errSegment {
			s.setSegment(0)
			s.single = true
			continue
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// send sends one packet. A packet that cannot leave for lack of memory or of
// an interface counts as lost: it is sent again.
func (s *socket) send(p []byte) error {
	for {
		if s.isCut.Load() {
			return errCut
		}
		_, err := unix.Write(s.fd, p)
		switch err {
		case unix.EINTR:
			continue
		case unix.ECONNREFUSED:
			return errGone
		case unix.EIO, unix.EINVAL, unix.EMSGSIZE:
			// The interface computes no checksums, or the way's MTU has shrunk: the
			// kernel cannot segment for it.
			if s.segment > 0 {
				return errSegment
			}
		}
		return nil
	}
}

// receive waits for one packet.
func (s *socket) receive(p []byte, timeout time.Duration) (int, error) {
	if timeout != s.timeout {
		tv := unix.NsecToTimeval(max(timeout, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return 0, fmt.Errorf("set a time-out: %w", err)
		}
		s.timeout = timeout
	}
	n, err := unix.Read(s.fd, p)
	if err == unix.EINTR { // Go's own signals come here
		n, err = s.readOn(p, timeout)
	}
	switch {
	case err == unix.EAGAIN, err == unix.EINTR:
		return 0, errTimeout
	case err == unix.ECONNREFUSED:
		return 0, errGone
	case err != nil:
		return 0, fmt.Errorf("receive: %w", err)
	case n == 0 && s.isCut.Load():
		return 0, errCut
	}
	return n, nil
}

// wait reports whether something came within a time that is shorter than what
// the time-out of a socket can measure.
func (s *socket) wait(d time.Duration) bool {
	begin := time.Now()
	for {
		ts := unix.NsecToTimespec(max(0, d-time.Since(begin)).Nanoseconds())
		n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, &ts, nil)
		if err != unix.EINTR {
			return n > 0
		}
	}
}

// readOn goes on after a signal, no longer than the time-out in total.
func (s *socket) readOn(p []byte, timeout time.Duration) (n int, err error) {
	begin := time.Now()
	for err = unix.EINTR; err == unix.EINTR && time.Since(begin) < timeout; {
		n, err = unix.Read(s.fd, p)
	}
	return n, err
}

// cut ends the transfer: send and receive fail from now on.
func (s *socket) cut() {
	s.isCut.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		unix.Shutdown(s.fd, unix.SHUT_RD)
	}
}

func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		unix.Close(s.fd)
	}
	s.closed = true
}
