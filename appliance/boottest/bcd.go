package boottest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

// plan is what a boot manager reads in its configuration.
type plan struct {
	loader   string // \windows\system32\boot\winload.exe
	wim, sdi string // as it asks for them
	block    int    // of TFTP; 0: its own default
	window   int
	variable bool // the window may change while it loads
}

// hive is a registry hive as a boot manager reads it: cells by their offsets
// behind the base block. It is written from the format, not from our own writer.
type hive []byte

var errHive = errors.New("the BCD is no registry hive (0xc000000f)")

// readBCD takes the default loader and the options of its RAM disk.
func readBCD(data []byte) (p plan, err error) {
	defer func() {
		if recover() != nil {
			err = errHive // an offset that leads out of it
		}
	}()
	var sum uint32
	for i := 0; i < 508; i += 4 {
		sum ^= binary.LittleEndian.Uint32(data[i:])
	}
	if string(data[:4]) != "regf" || binary.LittleEndian.Uint32(data[508:]) != sum || binary.LittleEndian.Uint32(data[4:]) != binary.LittleEndian.Uint32(data[8:]) {
		return p, errHive
	}
	h := hive(data[4096:])
	objects := h.sub(binary.LittleEndian.Uint32(data[36:]), "Objects")
	element := func(object, id string) []byte {
		elements := h.sub(h.sub(objects, object), "Elements")
		if !h.has(elements, id) {
			return nil
		}
		return h.value(h.sub(elements, id), "Element")
	}
	loader := wide(element("{9dea862c-5cdd-4e70-acc1-f32b344d4795}", "23000003"))
	device, options := element(loader, "11000001"), "{ae5534e0-a924-466c-b836-758539a3ee3a}"
	if len(device) < 0x8e || binary.LittleEndian.Uint32(device[0x18:]) != uint32(len(device)-0x10) {
		return p, fmt.Errorf("the BCD names no RAM disk: % x", device)
	}
	number := func(id string) int {
		if v := element(options, id); len(v) == 8 {
			return int(binary.LittleEndian.Uint64(v))
		}
		return 0
	}
	variable := element(options, "3600000b")
	return plan{loader: wide(element(loader, "12000002")), wim: wide(device[0x8c:]), sdi: wide(element(options, "32000004")),
		block: number("35000007"), window: number("35000008"), variable: len(variable) == 1 && variable[0] == 1}, nil
}

// cell is the content of an allocated cell.
func (h hive) cell(at uint32) []byte {
	size := int32(binary.LittleEndian.Uint32(h[at:]))
	return h[at+4 : at+uint32(-size)]
}

// has reports whether a key has a subkey.
func (h hive) has(key uint32, name string) bool { _, ok := h.find(key, name); return ok }

// sub is the offset of a key's subkey; a name that is not there panics, as every wrong offset does.
func (h hive) sub(key uint32, name string) uint32 {
	at, ok := h.find(key, name)
	if !ok {
		panic(name)
	}
	return at
}

func (h hive) find(key uint32, name string) (uint32, bool) {
	k := h.cell(key)
	list := h.cell(binary.LittleEndian.Uint32(k[28:]))
	for i := range binary.LittleEndian.Uint16(list[2:]) {
		at := binary.LittleEndian.Uint32(list[4+8*int(i):])
		sub := h.cell(at)
		if n := int(binary.LittleEndian.Uint16(sub[72:])); n == len(name) && strings.EqualFold(string(sub[76:76+n]), name) {
			return at, true
		}
	}
	return 0, false
}

// value is a key's value, nil if there is none.
func (h hive) value(key uint32, name string) []byte {
	k := h.cell(key)
	list := h.cell(binary.LittleEndian.Uint32(k[40:]))
	for i := range binary.LittleEndian.Uint32(k[36:]) {
		v := h.cell(binary.LittleEndian.Uint32(list[4*i:]))
		if string(v[20:20+binary.LittleEndian.Uint16(v[2:])]) != name {
			continue
		}
		size := binary.LittleEndian.Uint32(v[4:])
		if size&(1<<31) != 0 {
			return v[8 : 8+size&^(1<<31)]
		}
		return h.cell(binary.LittleEndian.Uint32(v[8:]))[:size]
	}
	return nil
}

// wide is UTF-16 up to its NUL.
func wide(b []byte) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := binary.LittleEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
