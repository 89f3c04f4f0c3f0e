package vpn

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// read waits for datagrams and puts them into packets, at most one each. What does not fit
// comes at the next call.
func (s *socket) read(packets [][]byte, sizes []int, from []netip.AddrPort) (int, error) {
	if s.next == len(s.pending) {
		if err := s.fetch(); err != nil {
			return 0, err
		}
	}
	n := 0
	for n < len(packets) && s.next < len(s.pending) {
		d := &s.pending[s.next]
		one := d.data[:min(d.size, len(d.data))]
		// A longer one than the buffer cannot be: both are as long as a datagram may be.
		sizes[n], from[n] = copy(packets[n], one), d.from
		n++
		if d.data = d.data[len(one):]; len(d.data) == 0 {
			s.next++
		}
	}
	return n, nil
}

// fetch waits for messages, and notes where each one's datagrams are.
func (s *socket) fetch() error {
	for i := range s.incoming {
		s.incoming[i].OOB = s.incoming[i].OOB[:cap(s.incoming[i].OOB)]
	}
	n, err := s.batch.ReadBatch(s.incoming, 0)
	if err != nil {
		return err
	}
	s.pending, s.next = s.pending[:0], 0
	for i := range s.incoming[:n] {
		m := &s.incoming[i]
		addr, ok := m.Addr.(*net.UDPAddr)
		if !ok || m.N == 0 {
			continue
		}
		from := addr.AddrPort()
		s.pending = append(s.pending, datagrams{data: m.Buffers[0][:m.N], size: joinedSize(m.OOB[:m.NN], m.N),
			from: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())})
	}
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
