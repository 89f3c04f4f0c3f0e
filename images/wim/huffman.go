package wim

import "encoding/binary"

// bitReader reads the bits of both compressions: words of 16 bits, little-endian, the most
// significant bit first. It takes no word before it is needed, because bytes lie between
// the words of XPRESS. Behind the end there are zeros: the decoders are bounded
// by what they write, and the SHA-1 says whether it was right.
type bitReader struct {
	src  []byte
	next int    // where the next word begins
	buf  uint64 // bits that were taken and not used, at the top
	n    uint   // their number
}

// need makes sure of n ≤ 32 bits in buf.
func (b *bitReader) need(n uint) {
	for b.n < n {
		if b.next+2 <= len(b.src) {
			b.buf |= uint64(binary.LittleEndian.Uint16(b.src[b.next:])) << (48 - b.n)
		}
		b.next += 2
		b.n += 16
	}
}

// bits reads n ≤ 32 bits as a number.
func (b *bitReader) bits(n uint) int {
	b.need(n)
	v := int(b.buf >> (64 - n))
	b.buf <<= n
	b.n -= n
	return v
}

const (
	maxSymbols = 256 + 8*50 // of LZX's main code at the largest window
	maxLength  = 16         // of a codeword
	fastBits   = 11
)

// prefixCode decodes a canonical Huffman code: short codewords by a table, longer
// ones by comparison with the greatest of each length.
type prefixCode struct {
	fast    [1 << fastBits]uint16 // symbol<<4 | length; 0 for what is longer
	limit   [maxLength + 1]uint32 // first value of 16 bits that is no codeword of this length or a shorter one
	base    [maxLength + 1]int    // what to add to a codeword to have its place in symbols
	symbols [maxSymbols]uint16    // by codeword
	count   int
}

// build makes the code of these lengths; 0 is a symbol that does not occur. It is false if
// there are more codewords than fit. If there are fewer, those that are missing are not
// decoded: Microsoft's encoders write codes of one symbol, and none.
func (c *prefixCode) build(lengths []uint8) bool {
	var counts, places [maxLength + 1]int
	for _, l := range lengths {
		counts[l]++
	}
	c.count = len(lengths) - counts[0]
	counts[0] = 0
	codeword, place := 0, 0
	for l := 1; l <= maxLength; l++ {
		codeword <<= 1
		places[l], c.base[l] = place, place-codeword
		codeword += counts[l]
		place += counts[l]
		c.limit[l] = uint32(codeword) << (maxLength - l)
		if codeword > 1<<l {
			return false
		}
	}
	for symbol, l := range lengths {
		if l > 0 {
			c.symbols[places[l]] = uint16(symbol)
			places[l]++
		}
	}
	c.fill(lengths)
	return true
}

// fill makes the table: the codewords of up to fastBits bits follow each other there.
func (c *prefixCode) fill(lengths []uint8) {
	at := 0
	for _, symbol := range c.symbols[:c.count] {
		l := lengths[symbol]
		if l > fastBits {
			break
		}
		entry, end := symbol<<4|uint16(l), at+1<<(fastBits-l)
		for ; at < end; at++ {
			c.fast[at] = entry
		}
	}
	clear(c.fast[at:])
}

// read decodes a symbol, or −1 if the bits are no codeword.
func (c *prefixCode) read(b *bitReader) int {
	b.need(maxLength)
	if e := c.fast[b.buf>>(64-fastBits)]; e != 0 {
		l := uint(e & 15)
		b.buf <<= l
		b.n -= l
		return int(e >> 4)
	}
	return c.readLong(b)
}

func (c *prefixCode) readLong(b *bitReader) int {
	top := uint32(b.buf >> (64 - maxLength))
	for l := fastBits + 1; l <= maxLength; l++ {
		if top < c.limit[l] {
			i := c.base[l] + int(top>>(maxLength-l))
			b.buf <<= l
			b.n -= uint(l)
			return int(c.symbols[i])
		}
	}
	return -1
}

// repeat copies length bytes from offset bytes before at, which may overlap: what was just
// written is then repeated. It is false if they are not all inside.
func repeat(out []byte, at, offset, length int) bool {
	if offset <= 0 || offset > at || length > len(out)-at {
		return false
	}
	if offset >= length {
		copy(out[at:at+length], out[at-offset:])
		return true
	}
	for i := at; i < at+length; i++ {
		out[i] = out[i-offset]
	}
	return true
}
