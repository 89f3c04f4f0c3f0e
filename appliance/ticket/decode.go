package ticket

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"
)

// decode makes UTF-8 of a Windows program's text file: UTF-16 in either order,
// UTF-8, or some code page, each with a byte order mark or without. Of a code page only
// ASCII is read, and nothing of a ticket is anything else: which page it is,
// nobody needs to know. What does not fit becomes U+FFFD, and NULs at the end go:
// some programs write their whole buffer.
func decode(raw []byte) []byte {
	order, text := orderOf(raw)
	if order != nil {
		text = fromUTF16(order, text)
	}
	text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	return bytes.TrimRight(bytes.TrimLeft(text, " \t\r\n"), "\x00\x1a \t\r\n") // ^Z ends a file of DOS
}

// orderOf tells UTF-16 by its mark, else by where the NULs of its first ASCII
// characters stand; nil for what has eight bits. (A newer curl -d drops the NULs of a
// file, and then its mark alone says nothing.)
func orderOf(raw []byte) (binary.ByteOrder, []byte) {
	mark, text := 0, raw
	if len(raw) >= 2 {
		mark = int(binary.LittleEndian.Uint16(raw))
	}
	if mark == 0xFEFF || mark == 0xFFFE {
		text = raw[2:]
	}
	if len(text) < 2 {
		return nil, text
	}
	switch {
	case text[0] != 0 && text[1] == 0:
		return binary.LittleEndian, text
	case text[0] == 0 && text[1] != 0:
		return binary.BigEndian, text
	}
	return nil, text
}

func fromUTF16(order binary.ByteOrder, b []byte) []byte {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	return []byte(string(utf16.Decode(units)))
}
