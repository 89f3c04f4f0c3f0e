package bcd

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"
)

// Registry types of values.
const (
	regSZ      = 1
	regBinary  = 3
	regDWORD   = 4
	regMultiSZ = 7
)

// key is a key of a registry hive. Names are ASCII.
type key struct {
	name   string
	values []value
	keys   []*key
}

type value struct {
	name string
	kind uint32
	data []byte
}

// hive is a registry file in the making: one bin of cells. The format is
// that of "Windows registry file format specification" (msuhanov/regf), version 1.3,
// which every Windows with a BCD reads.
type hive struct {
	cells    []byte
	security uint32 // cell of the one security descriptor
	keys     uint32 // how many there are
}

const (
	page      = 4096
	binHeader = 32
	absent    = 0xffffffff
	// written is the one time in all hives, so that equal stores are equal bytes: 2026-01-01 in Windows' count.
	written = (1767225600 + 11644473600) * 10_000_000
)

var le = binary.LittleEndian

// encode writes the hive whose root is the key.
func encode(root *key) []byte {
	h := &hive{cells: make([]byte, binHeader)}
	h.security = h.writeSecurity()
	top := h.writeKey(root, 0, keyRoot)
	le.PutUint32(h.cells[h.security+4+12:], h.keys)
	h.close()
	return append(baseBlock(top, len(h.cells)), h.cells...)
}

// baseBlock is the first page. Both sequence numbers are equal: nothing is to be recovered from a log.
func baseBlock(root uint32, size int) []byte {
	b := make([]byte, page)
	copy(b, "regf")
	for at, v := range map[int]uint32{4: 1, 8: 1, 20: 1, 24: 3, 32: 1, 36: root, 40: uint32(size), 44: 1} {
		le.PutUint32(b[at:], v)
	}
	le.PutUint64(b[12:], written)
	le.PutUint32(b[508:], checksum(b))
	return b
}

func checksum(base []byte) (sum uint32) {
	for at := 0; at < 508; at += 4 {
		sum ^= le.Uint32(base[at:])
	}
	switch sum {
	case 0:
		return 1
	case absent:
		return absent - 1
	}
	return sum
}

// close fills the last page with a free cell and writes the bin's header.
func (h *hive) close() {
	if left := -len(h.cells) & (page - 1); left > 0 {
		free := make([]byte, left)
		le.PutUint32(free, uint32(left))
		h.cells = append(h.cells, free...)
	}
	copy(h.cells, "hbin")
	le.PutUint32(h.cells[8:], uint32(len(h.cells)))
	le.PutUint64(h.cells[20:], written)
}

// cell allocates one that holds the payload, and says where. Its size stands
// before it, negative, since it is in use.
func (h *hive) cell(payload []byte) (at uint32) {
	at = uint32(len(h.cells))
	size := (4 + len(payload) + 7) &^ 7
	h.cells = append(h.cells, make([]byte, size)...)
	le.PutUint32(h.cells[at:], uint32(-size))
	copy(h.cells[at+4:], payload)
	return at
}

// Flags of a key: its name is ASCII; the root, which cannot be deleted either.
const (
	keyASCII = 0x20
	keyRoot  = 0x2c
)

func (h *hive) writeKey(k *key, parent uint32, flags uint16) uint32 {
	h.keys++
	nk := make([]byte, 76+len(k.name))
	at := h.cell(nk) // below it, its place must be known
	copy(nk, "nk")
	le.PutUint16(nk[2:], flags)
	le.PutUint64(nk[4:], written)
	le.PutUint32(nk[16:], parent)
	le.PutUint32(nk[20:], uint32(len(k.keys)))
	le.PutUint32(nk[28:], h.writeKeys(k, at))
	le.PutUint32(nk[32:], absent) // no volatile keys
	le.PutUint32(nk[36:], uint32(len(k.values)))
	le.PutUint32(nk[40:], h.writeValues(k))
	le.PutUint32(nk[44:], h.security)
	le.PutUint32(nk[48:], absent) // no class
	for _, sub := range k.keys {
		le.PutUint32(nk[52:], max(le.Uint32(nk[52:]), uint32(2*len(sub.name))))
	}
	for _, v := range k.values {
		le.PutUint32(nk[60:], max(le.Uint32(nk[60:]), uint32(2*len(v.name))))
		le.PutUint32(nk[64:], max(le.Uint32(nk[64:]), uint32(len(v.data))))
	}
	le.PutUint16(nk[72:], uint16(len(k.name)))
	copy(nk[76:], k.name)
	copy(h.cells[at+4:], nk)
	return at
}

// writeKeys writes the keys below one, and their list, in which Windows searches by halves.
func (h *hive) writeKeys(k *key, parent uint32) uint32 {
	if len(k.keys) == 0 {
		return absent
	}
	sorted := slices.SortedFunc(slices.Values(k.keys), func(a, b *key) int {
		return cmp.Compare(strings.ToUpper(a.name), strings.ToUpper(b.name))
	})
	list := le.AppendUint16([]byte("lf"), uint16(len(sorted)))
	for _, sub := range sorted {
		hint := make([]byte, 4)
		copy(hint, sub.name)
		list = append(le.AppendUint32(list, h.writeKey(sub, parent, keyASCII)), hint...)
	}
	return h.cell(list)
}

func (h *hive) writeValues(k *key) uint32 {
	if len(k.values) == 0 {
		return absent
	}
	var list []byte
	for _, v := range k.values {
		list = le.AppendUint32(list, h.writeValue(v))
	}
	return h.cell(list)
}

func (h *hive) writeValue(v value) uint32 {
	const inline, asciiName = 0x80000000, 1
	vk := make([]byte, 20+len(v.name))
	copy(vk, "vk")
	le.PutUint16(vk[2:], uint16(len(v.name)))
	le.PutUint32(vk[4:], uint32(len(v.data)))
	if len(v.data) <= 4 {
		le.PutUint32(vk[4:], uint32(len(v.data))|inline)
		copy(vk[8:12], v.data)
	} else {
		le.PutUint32(vk[8:], h.cell(v.data))
	}
	le.PutUint32(vk[12:], v.kind)
	le.PutUint16(vk[16:], asciiName)
	copy(vk[20:], v.name)
	return h.cell(vk)
}

// writeSecurity writes the descriptor of all keys, the only one in the ring of descriptors.
func (h *hive) writeSecurity() uint32 {
	sd := descriptor()
	sk := make([]byte, 20+len(sd))
	copy(sk, "sk")
	le.PutUint32(sk[16:], uint32(len(sd)))
	copy(sk[20:], sd)
	at := h.cell(sk)
	le.PutUint32(h.cells[at+4+4:], at)
	le.PutUint32(h.cells[at+4+8:], at)
	return at
}

// descriptor gives administrators and the system full access ([MS-DTYP] 2.4.6,
// self-relative): an ACL of two entries, then owner and group.
func descriptor() []byte {
	const selfRelativeProtectedDACL, inherited, fullAccess = 0x9004, 2, 0xf003f
	administrators := []byte{1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0} // S-1-5-32-544
	system := []byte{1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0}                        // S-1-5-18
	allow := func(who []byte) []byte {
		ace := le.AppendUint16([]byte{0, inherited}, uint16(8+len(who)))
		return append(le.AppendUint32(ace, fullAccess), who...)
	}
	entries := append(allow(administrators), allow(system)...)
	acl := le.AppendUint16([]byte{2, 0}, uint16(8+len(entries)))
	acl = append(le.AppendUint32(acl, 2), entries...)
	const header = 20
	owner := uint32(header + len(acl))
	sd := le.AppendUint16([]byte{1, 0}, selfRelativeProtectedDACL)
	for _, at := range []uint32{owner, owner + uint32(len(administrators)), 0, header} {
		sd = le.AppendUint32(sd, at)
	}
	return slices.Concat(sd, acl, administrators, system)
}

// text is a string as the registry has it: UTF-16 with a NUL.
func text(s string) (b []byte) {
	for _, unit := range utf16.Encode([]rune(s + "\x00")) {
		b = le.AppendUint16(b, unit)
	}
	return b
}

// texts is a list of strings: one more NUL ends it.
func texts(list ...string) (b []byte) {
	for _, s := range list {
		b = append(b, text(s)...)
	}
	return append(b, 0, 0)
}
