package tftp

import (
	"encoding/binary"
	"io"
)

const headerSize = 4 // of a data packet: opcode and block number

// Bounds of what one send can hold with segmentation offload: packets
// (UDP_MAX_SEGMENTS of the kernel), and bytes, those of a datagram.
const (
	maxSegments = 64
	maxRun      = 65507
)

// stream is a file as data packets. Some of them are in memory, one after
// another as they go out, so that many can leave in one send. Its memory does not depend
// on the window: what is no longer there is read from the file again, that
// is from the page cache.
type stream struct {
	content io.Reader
	seek    func(offset int64) error // nil: the content cannot go back
	block   int

	buf   []byte
	slots int   // packets that buf holds
	first int64 // number of the first one
	count int64 // packets that are there
	bytes int   // of them
	end   int64 // the last block; 0 as long as it was not seen
}

// newStream makes a stream of content that has at most size bytes.
func newStream(content io.Reader, block int, size int64) *stream {
	slots := max(1, min(maxSegments, maxRun/(headerSize+block)))
	slots = int(min(int64(slots), size/int64(block)+1))
	return &stream{content: content, block: block, slots: slots, first: 1, buf: make([]byte, slots*(headerSize+block))}
}

// packets returns blocks as packets one after another: from one to another,
// but only as many as are in memory together, and none after the last.
func (s *stream) packets(from, to int64) ([]byte, error) {
	if from < s.first || from >= s.first+s.count {
		if err := s.fill(from); err != nil {
			return nil, err
		}
	}
	size := int64(headerSize + s.block)
	return s.buf[(from-s.first)*size : min((to+1-s.first)*size, int64(s.bytes))], nil
}

// fill reads the packets from a block on. The content is read in one piece to
// the end of the buffer, and spread from there to the left.
func (s *stream) fill(from int64) error {
	if s.seek != nil && from != s.first+s.count {
		if err := s.seek((from - 1) * int64(s.block)); err != nil {
			return err
		}
	}
	s.first, s.count, s.bytes = from, 0, 0
	data := s.buf[headerSize*s.slots:]
	n, err := io.ReadFull(s.content, data)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	s.count, s.bytes = int64(n/s.block), n+headerSize*(n/s.block)
	if err != nil { // the last block is the one that is not full, if need be empty
		s.end = from + s.count
		s.count++
		s.bytes += headerSize
	}
	for i := range int(s.count) {
		p := s.buf[i*(headerSize+s.block):]
		binary.BigEndian.PutUint16(p, opDATA)
		binary.BigEndian.PutUint16(p[2:], uint16(from+int64(i)))
		copy(p[headerSize:headerSize+s.block], data[i*s.block:min((i+1)*s.block, n)])
	}
	return nil
}
