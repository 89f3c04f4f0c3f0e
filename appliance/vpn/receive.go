package vpn

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// read waits for datagrams and puts them into packets, at most one each. What does not fit
// comes at the next call.
func (s *socket) read(packets [][]byte, sizes []int, from []netip.AddrPort) (int, error) {
	if len(s.pending.data) == 0 {
		if err := s.fetch(); err != nil {
			return 0, err
		}
	}
	d, n := &s.pending, 0
	for n < len(packets) && len(d.data) > 0 {
		one := d.data[:min(d.size, len(d.data))]
		// A longer one than the buffer cannot be: both are as long as a datagram may be.
		sizes[n], from[n] = copy(packets[n], one), d.from
		n++
		d.data = d.data[len(one):]
	}
	return n, nil
}

// fetch waits for a message. One at a time: the kernel has joined what came together, and
// the call for several makes garbage of each address (see gate).
func (s *socket) fetch() error {
	n, control, _, from, err := s.conn.ReadMsgUDPAddrPort(s.incoming, s.beside)
	if err != nil {
		return err
	}
	s.pending = datagrams{data: s.incoming[:n], size: joinedSize(s.beside[:control], n),
		from: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
	return nil
}

// joinedSize is the size of the datagrams in a message, which the kernel tells beside it
// (udp(7): UDP_GRO); all of it where the kernel joined nothing.
func joinedSize(control []byte, all int) int {
	for len(control) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		if header.Level == unix.SOL_UDP && header.Type == unix.UDP_GRO && len(data) >= 4 {
			if size := int(binary.NativeEndian.Uint32(data)); size > 0 {
				return size
			}
		}
		control = rest
	}
	return all
}

// segmentSize tells the kernel to cut a message into datagrams of that size.
func segmentSize(control []byte, size int) []byte {
	control = control[:unix.CmsgSpace(2)]
	clear(control)
	// struct cmsghdr: its length as long as a word, level, type.
	word := unix.SizeofCmsghdr - 8
	if word == 8 {
		binary.NativeEndian.PutUint64(control, uint64(unix.CmsgLen(2)))
	} else {
		binary.NativeEndian.PutUint32(control, uint32(unix.CmsgLen(2)))
	}
	binary.NativeEndian.PutUint32(control[word:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(control[word+4:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(size))
	return control
}
