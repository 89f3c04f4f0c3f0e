//go:build go1.26

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// smbios finds serial number and UUID of the machine in what Windows calls
// RawSMBIOSData: eight bytes, then the structures of DMTF DSP0134. Damaged tables
// yield nothing.
func smbios(raw []byte) (serial, uuid string) {
	if len(raw) < 8 {
		return "", ""
	}
	for table := raw[8:]; len(table) >= 4; {
		kind, size := table[0], int(table[1])
		if size < 4 || size > len(table) {
			return "", ""
		}
		texts, rest, ok := bytes.Cut(table[size:], []byte{0, 0})
		if kind == 1 && size >= 0x19 {
			return text(texts, table[7]), guid(table[8:24])
		}
		if !ok {
			return "", ""
		}
		table = rest
	}
	return "", ""
}

// text is the n-th of a structure's strings, from 1 (section 6.1.3).
func text(texts []byte, n byte) string {
	list := bytes.Split(texts, []byte{0})
	if n == 0 || int(n) > len(list) {
		return ""
	}
	return printable(strings.TrimSpace(string(list[n-1])))
}

// guid is written as Linux does it: the first three fields are little-endian
// since SMBIOS 2.6 (section 7.2.1). All ones or zeros say that there is none.
func guid(b []byte) string {
	if bytes.Equal(b, make([]byte, 16)) || bytes.Equal(b, bytes.Repeat([]byte{0xff}, 16)) {
		return ""
	}
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
