package wim

import (
	"encoding/binary"
	"errors"
)

var errXPRESS = errors.New("a chunk is no valid XPRESS data")

// xpress unpacks LZ77+Huffman, as [MS-XCA] 2.2 has it. One Huffman code of 512 symbols is at
// the beginning: 256 bytes of the value itself, and matches.
type xpress struct {
	bitReader
	code    prefixCode
	lengths [512]uint8
}

const xpressHeader = 256 // two lengths in a byte

func (d *xpress) unpack(out, src []byte) error {
	if len(src) < xpressHeader {
		return errXPRESS
	}
	for i, b := range src[:xpressHeader] {
		d.lengths[2*i], d.lengths[2*i+1] = b&15, b>>4
	}
	if !d.code.build(d.lengths[:]) {
		return errXPRESS
	}
	d.bitReader = bitReader{src: src, next: xpressHeader}
	for at := 0; at < len(out); {
		symbol := d.code.read(&d.bitReader)
		if symbol < 0 {
			return errXPRESS
		}
		if symbol < 256 {
			out[at] = byte(symbol)
			at++
			continue
		}
		length, offset := d.match(symbol - 256)
		if !repeat(out, at, offset, length) {
			return errXPRESS
		}
		at += length
	}
	return nil
}

// match is length and offset of a match. Bytes that lengthen it lie in the stream where the
// next word would be if 16 bits were there before the bits of the offset are taken.
func (d *xpress) match(symbol int) (length, offset int) {
	d.need(16)
	length = symbol & 15
	if length == 15 {
		length += d.byteAt()
		if length == 15+255 {
			length = d.byteAt()
			length |= d.byteAt() << 8
		}
	}
	n := uint(symbol >> 4)
	return length + 3, 1<<n | d.bits(n)
}

// byteAt reads a byte past the words that were taken.
func (d *xpress) byteAt() int {
	b := 0
	if d.next < len(d.src) {
		b = int(d.src[d.next])
	}
	d.next++
	return b
}

// le16, le32 and le64 are for what lies in these files.
func le16(b []byte) int    { return int(binary.LittleEndian.Uint16(b)) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
