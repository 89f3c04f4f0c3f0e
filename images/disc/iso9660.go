package disc

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf16"
)

// sector is the unit of ISO 9660, and where descriptors lie.
const sector = 2048

// maxDescriptors is more volume descriptors than any disc has.
const maxDescriptors = 64

// iso9660 is a volume of ECMA-119, or its second tree with Joliet's names.
type iso9660 struct {
	blocks *blocks
	block  int64
	top    record
	joliet bool
}

// record is a directory record (ECMA-119 9.1).
type record struct {
	extent extent
	flags  byte
	name   []byte
	system []byte // use of the system: Rock Ridge
	time   time.Time
}

// Flags of a record.
const (
	recordDir  = 0x02
	recordMore = 0x80 // another record has the file's next extent
)

// openISO9660 looks through the volume descriptors, which begin at sector 16.
func openISO9660(b *blocks) (*iso9660, error) {
	var best *iso9660
	for n := range int64(maxDescriptors) {
		d, err := b.read((16+n)*sector, sector)
		if err != nil || string(d[1:6]) != "CD001" && !bytes.HasPrefix(d[1:], []byte("BEA01")) {
			break // of UDF's descriptors the first may stand among them
		}
		const primary, supplementary, terminator = 1, 2, 255
		joliet := d[0] == supplementary && isJoliet(d[88:120])
		if d[0] == terminator {
			break
		}
		if d[0] != primary && !joliet || best != nil && (best.joliet || !joliet) {
			continue
		}
		v := &iso9660{blocks: b, block: int64(le16(d[128:])), joliet: joliet}
		if v.block < 512 || v.block > 1<<16 {
			return nil, damaged("blocks of %d bytes", v.block)
		}
		if v.top, _, err = v.record(d[156:190]); err != nil {
			return nil, err
		}
		best = v
	}
	if best == nil {
		return nil, errNotHere
	}
	return best, nil
}

// isJoliet knows the escape sequences of UCS-2 level 1, 2 and 3.
func isJoliet(escapes []byte) bool {
	e := string(bytes.TrimRight(escapes, "\x00"))
	return e == "%/@" || e == "%/C" || e == "%/E"
}

// record reads one directory record; size 0 means that the rest of the sector is empty.
func (v *iso9660) record(b []byte) (r record, size int, err error) {
	const fixed = 33
	size = int(b[0])
	if size == 0 {
		return r, 0, nil
	}
	if size > len(b) || size < fixed || fixed+int(b[32]) > size {
		return r, 0, damaged("a directory record of %d bytes", size)
	}
	if b[26] != 0 || b[27] != 0 {
		return r, 0, damaged("an interleaved file, as nobody writes it since the CD-I")
	}
	r.extent = extent{at: (int64(le32(b[2:])) + int64(b[1])) * v.block, size: int64(le32(b[10:]))}
	r.flags, r.time = b[25], recordTime(b[18:25])
	r.name = b[fixed : fixed+int(b[32])]
	r.system = b[min(size, (fixed+len(r.name)+1)&^1):size]
	return r, size, nil
}

func recordTime(b []byte) time.Time {
	zone := time.FixedZone("", int(int8(b[6]))*15*60)
	return time.Date(1900+int(b[0]), time.Month(b[1]), int(b[2]), int(b[3]), int(b[4]), int(b[5]), 0, zone).UTC()
}

func (v *iso9660) root() node {
	n, err := v.node([]record{v.top})
	if err != nil {
		n.fill = func(*node) error { return err }
	}
	n.name, n.dir = ".", true
	return n
}

// node makes one of the records of a file, of which each has an extent.
func (v *iso9660) node(records []record) (node, error) {
	first := records[0]
	n := node{name: v.name(first), dir: first.flags&recordDir != 0, time: first.time, content: content{blocks: v.blocks}}
	for _, r := range records {
		if err := n.content.add(r.extent); err != nil {
			return n, err
		}
	}
	return n, nil
}

// list reads a directory. A damaged extent makes only its own file unreadable.
func (v *iso9660) list(dir node) (list []node, err error) {
	if err := dir.filled(); err != nil {
		return nil, err
	}
	b, err := dir.content.all(maxDirectory)
	if err != nil {
		return nil, err
	}
	var file []record
	for at := 0; at < len(b); {
		end := min(len(b), (at/sector+1)*sector)
		r, size, err := v.record(b[at:end])
		if err != nil {
			return nil, err
		}
		if size == 0 { // a record never crosses a sector's end
			at = end
			continue
		}
		at += size
		if len(r.name) == 1 && r.name[0] <= 1 { // the directory itself and the one above
			continue
		}
		file = append(file, r)
		if r.flags&recordMore != 0 && len(file) < maxExtents {
			continue
		}
		if len(list) >= maxEntries {
			return nil, damaged("a directory of more than %d names", maxEntries)
		}
		n, err := v.node(file)
		if err != nil {
			n.fill = func(*node) error { return err }
		}
		list, file = append(list, n), nil
	}
	return keep(list), nil
}

// name is Rock Ridge's or Joliet's, or that of ISO 9660 without its version.
func (v *iso9660) name(r record) string {
	name := string(r.name)
	if v.joliet {
		units := make([]uint16, len(r.name)/2)
		for i := range units {
			units[i] = uint16(r.name[2*i])<<8 | uint16(r.name[2*i+1])
		}
		name = string(utf16.Decode(units))
	} else if long := rockRidge(r.system); long != "" {
		return long
	}
	name, _, _ = strings.Cut(name, ";")
	return strings.TrimSuffix(name, ".")
}

// rockRidge finds the name in the entries NM (IEEE P1282 4.1.4). Where it goes on elsewhere on
// the disc it is not followed: then the short name counts.
func rockRidge(system []byte) (name string) {
	const more = 1
	for len(system) >= 4 {
		size := int(system[2])
		if size < 4 || size > len(system) {
			return name
		}
		if string(system[:2]) == "CE" {
			return ""
		}
		if string(system[:2]) == "NM" && size > 5 {
			name += string(system[5:size])
			if system[4]&more == 0 {
				return name
			}
		}
		system = system[size:]
	}
	return name
}
