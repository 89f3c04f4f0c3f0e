package wim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"
)

var errLZX = errors.New("a chunk is no valid LZX data")

// Sizes of LZX's codes and blocks ([MS-PATCH] 2, and where WIM differs from it: the block's size
// has a short form, a chunk knows nothing of the one before, calls are always translated).
const (
	lzxWindow    = 1 << 15 // the smallest
	lzxLengths   = 249
	lzxPre       = 20
	lzxAligned   = 8
	lzxBlock     = 1 << 15 // the size that a single bit says
	lzxFileSize  = 12_000_000
	lzxUncodable = 10 // bytes at the end of a chunk where no call is translated
)

// Kinds of block.
const (
	lzxVerbatim = 1 + iota
	lzxAlignedOffsets
	lzxUncompressed
)

// lzxSlot is a range of offsets: the first one, and the bits that count on from it.
type lzxSlot struct {
	base int
	bits uint
}

// lzxSlots are the ranges up to a window of 2 MiB. The first three are the recent offsets.
var lzxSlots = func() (slots [50]lzxSlot) {
	base := 0
	for i := range slots {
		n := uint(0)
		if i >= 4 {
			n = min(uint(i)/2-1, 17)
		}
		slots[i] = lzxSlot{base, n}
		base += 1 << n
	}
	return slots
}()

// lzx unpacks chunks of LZX.
type lzx struct {
	bitReader
	out                        []byte
	at                         int
	window                     int
	main, length, aligned, pre prefixCode
	mainLengths                []uint8
	lengthLengths              [lzxLengths]uint8
	recent                     [3]int
}

// newLZX is for chunks of at most this size, which is the window.
func newLZX(chunk int) *lzx {
	window := max(lzxWindow, 1<<bits.Len(uint(chunk-1)))
	n := 0
	for n < len(lzxSlots) && lzxSlots[n].base < window {
		n++
	}
	return &lzx{window: window, mainLengths: make([]uint8, 256+8*n)}
}

func (d *lzx) unpack(out, src []byte) error {
	d.bitReader, d.out, d.at, d.recent = bitReader{src: src}, out, 0, [3]int{1, 1, 1}
	clear(d.mainLengths)
	clear(d.lengthLengths[:])
	for d.at < len(out) {
		if !d.block() {
			return errLZX
		}
	}
	untranslate(out)
	return nil
}

// block unpacks a block: its kind, its size, its codes, its content.
func (d *lzx) block() bool {
	kind, size := d.bits(3), lzxBlock
	if d.bits(1) == 0 {
		size = d.bits(16)
		if d.window > 1<<15 {
			size = size<<8 | d.bits(8)
		}
	}
	if size > len(d.out)-d.at {
		return false
	}
	switch kind {
	case lzxUncompressed:
		return d.raw(size)
	case lzxVerbatim:
		return d.codes() && d.matches(d.at+size, false)
	case lzxAlignedOffsets:
		var lengths [lzxAligned]uint8
		for i := range lengths {
			lengths[i] = uint8(d.bits(3))
		}
		return d.aligned.build(lengths[:]) && d.codes() && d.matches(d.at+size, true)
	}
	return false
}

// raw copies a block that is not compressed. It begins at a word, after 1 to 16 bits
// that say nothing, with the three recent offsets; its length is made even.
func (d *lzx) raw(size int) bool {
	d.need(1)
	from := d.next - 2*int((d.n-1)/16) // words that were taken and not begun
	if from < 0 || from+12+size > len(d.src) {
		return false
	}
	for i := range d.recent {
		d.recent[i] = int(le32(d.src[from+4*i:]))
	}
	d.at += copy(d.out[d.at:d.at+size], d.src[from+12:])
	d.bitReader = bitReader{src: d.src, next: from + 12 + size + size&1}
	return true
}

// codes reads the main code, in two parts, and the code of lengths. Each is told as
// the difference from the block before.
func (d *lzx) codes() bool {
	return d.codeLengths(d.mainLengths[:256]) && d.codeLengths(d.mainLengths[256:]) &&
		d.main.build(d.mainLengths) &&
		d.codeLengths(d.lengthLengths[:]) && d.length.build(d.lengthLengths[:])
}

// codeLengths changes lengths as a code of its own says, the pretree.
func (d *lzx) codeLengths(lengths []uint8) bool {
	var pre [lzxPre]uint8
	for i := range pre {
		pre[i] = uint8(d.bits(4))
	}
	if !d.pre.build(pre[:]) {
		return false
	}
	for i := 0; i < len(lengths); {
		n, delta := 1, d.pre.read(&d.bitReader)
		zero := false
		switch delta {
		case 17:
			n, zero = 4+d.bits(4), true
		case 18:
			n, zero = 20+d.bits(5), true
		case 19:
			n = 4 + d.bits(1)
			delta = d.pre.read(&d.bitReader)
		}
		if n > len(lengths)-i || !zero && (delta < 0 || delta > 16) {
			return false
		}
		value := uint8(0)
		if !zero {
			value = uint8((int(lengths[i]) - delta + 17) % 17)
		}
		for end := i + n; i < end; i++ {
			lengths[i] = value
		}
	}
	return true
}

// matches unpacks a block's content up to end.
func (d *lzx) matches(end int, aligned bool) bool {
	for out := d.out[:end]; d.at < end; {
		symbol := d.main.read(&d.bitReader)
		if symbol < 0 {
			return false
		}
		if symbol < 256 {
			out[d.at] = byte(symbol)
			d.at++
			continue
		}
		length := (symbol - 256) & 7
		if length == 7 {
			more := d.length.read(&d.bitReader)
			if more < 0 {
				return false
			}
			length += more
		}
		length += 2
		if !repeat(out, d.at, d.offset((symbol-256)>>3, aligned), length) {
			return false
		}
		d.at += length
	}
	return true
}

// offset reads the rest of a match's offset, and remembers it. It is 0 for what is none.
func (d *lzx) offset(slot int, aligned bool) int {
	if slot < 3 { // a recent one changes places with the most recent
		d.recent[0], d.recent[slot] = d.recent[slot], d.recent[0]
		return d.recent[0]
	}
	s := lzxSlots[slot]
	offset := s.base - 2
	if aligned && s.bits >= 3 {
		offset += d.bits(s.bits-3) << 3
		low := d.aligned.read(&d.bitReader)
		if low < 0 {
			return 0
		}
		offset += low
	} else {
		offset += d.bits(s.bits)
	}
	d.recent = [3]int{offset, d.recent[0], d.recent[1]}
	return offset
}

// untranslate makes the targets of x86 calls (E8) relative again. The encoder makes them
// absolute, as if every chunk were the beginning of a program of 12,000,000 bytes.
func untranslate(b []byte) {
	end := len(b) - lzxUncodable
	for i := 0; i < end; i += 5 {
		next := bytes.IndexByte(b[i:end], 0xe8)
		if next < 0 {
			return
		}
		i += next
		target := int(int32(le32(b[i+1:])))
		if target < -i || target >= lzxFileSize {
			continue
		}
		if target >= 0 {
			target -= i
		} else {
			target += lzxFileSize
		}
		binary.LittleEndian.PutUint32(b[i+1:], uint32(int32(target)))
	}
}
