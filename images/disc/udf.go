package disc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"
	"unicode/utf16"
)

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// Identifiers of descriptor tags (ECMA-167 3/7.2.1 and 4/7.2.1).
const (
	tagAnchor       = 2
	tagPointer      = 3
	tagPartition    = 5
	tagLogical      = 6
	tagTerminator   = 8
	tagFileSet      = 256
	tagFileID       = 257
	tagAllocation   = 258
	tagFile         = 261
	tagExtendedFile = 266
)

// Bounds.
const (
	maxSequence = 64   // descriptors of a volume
	maxChain    = 1024 // blocks that list a file's extents
)

// udf is a volume of one partition that lies on the disc as it is: what mastering
// programs write. Partitions with a table in between are those of discs that are
// written to piece by piece.
type udf struct {
	blocks *blocks
	block  int64 // size of a logical block
	start  int64 // of the partition, in blocks
	length int64
	top    node
}

// place is a long_ad: an extent within the partition (4/14.14.2).
type place struct {
	size  uint32 // the two highest bits say whether it is recorded
	block uint32
	part  uint16
}

func longAD(b []byte) place { return place{le32(b), le32(b[4:]), le16(b[8:])} }

// openUDF follows the anchor to the volume's descriptors, and those to the root directory.
func openUDF(b *blocks) (*udf, error) {
	if !recognized(b) {
		return nil, errNotHere
	}
	v := &udf{blocks: b}
	anchor, err := v.anchor()
	if err != nil {
		return nil, err
	}
	sequences := [][2]uint32{{le32(anchor[16:]), le32(anchor[20:])}, {le32(anchor[24:]), le32(anchor[28:])}}
	var files place
	for _, s := range sequences { // the second is the reserve
		if files, err = v.descriptors(int64(s[0]), int64(s[1])); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	set, err := v.descriptor(files, tagFileSet)
	if err != nil {
		return nil, err
	}
	if v.top, err = v.file(longAD(set[400:])); err == nil && !v.top.dir {
		err = damaged("its root is no directory")
	}
	v.top.name = "."
	return v, err
}

// recognized looks for UDF in the volume recognition sequence (2/8.3).
func recognized(b *blocks) bool {
	for n := range int64(maxDescriptors) {
		d, err := b.read((16+n)*sector, 6)
		if err != nil {
			return false
		}
		switch string(d[1:]) {
		case "NSR02", "NSR03":
			return true
		case "CD001", "BEA01", "BOOT2", "TEA01", "CDW02":
		case "\x00\x00\x00\x00\x00": // where sectors are larger, the descriptors lie farther apart
		default:
			return false
		}
	}
	return false
}

// anchor finds the anchor in one of the places where it must be, in blocks of the disc. Those
// are of 2048 bytes on what is to be burnt, and may be others in an image of a hard disk.
func (v *udf) anchor() ([]byte, error) {
	for _, v.block = range []int64{sector, 512, 4096} {
		last := v.blocks.size/v.block - 1
		for _, at := range []int64{256, last, last - 256, 512} {
			b, err := v.tagged(at*v.block, v.block, tagAnchor)
			if err == nil && int64(le32(b[12:])) == at {
				return b, nil
			}
		}
	}
	return nil, damaged("no anchor of its UDF is to be found")
}

// tagged reads a descriptor whose tag must be right: identifier, checksum, and the CRC of what
// it says to cover.
func (v *udf) tagged(at, size int64, id uint16) ([]byte, error) {
	b, err := v.blocks.read(at, size)
	if err != nil {
		return nil, err
	}
	if got, ok := checkTag(b); got != id || !ok {
		return nil, damaged("a UDF descriptor %d was expected at byte %d", id, at)
	}
	return b, nil
}

// checkTag reads a descriptor's tag (3/7.2).
func checkTag(b []byte) (id uint16, ok bool) {
	if len(b) < 16 {
		return 0, false
	}
	var sum byte
	for i := range 16 {
		if i != 4 {
			sum += b[i]
		}
	}
	covered := int(le16(b[10:]))
	return le16(b), sum == b[4] && 16+covered <= len(b) && crc16(b[16:16+covered]) == le16(b[8:])
}

// crc16 is that of ITU-T V.41, with the polynomial 0x1021.
func crc16(b []byte) (crc uint16) {
	for _, c := range b {
		crc ^= uint16(c) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// descriptors reads a volume descriptor sequence: of those of a kind that
// with the highest number counts. It returns where the file set's descriptor is.
func (v *udf) descriptors(size, at int64) (place, error) {
	var logical, partition []byte
	newer := func(b, than []byte) bool { return than == nil || le32(b[16:]) >= le32(than[16:]) }
	for n := 0; n < maxSequence && size >= v.block; n++ {
		b, err := v.blocks.read(at*v.block, v.block)
		if err != nil {
			return place{}, err
		}
		id, ok := checkTag(b)
		if !ok {
			break // the rest was not written
		}
		at, size = at+1, size-v.block
		switch id {
		case tagPointer:
			size, at = int64(le32(b[20:])), int64(le32(b[24:]))
		case tagPartition:
			if newer(b, partition) {
				partition = b
			}
		case tagLogical:
			if newer(b, logical) {
				logical = b
			}
		case tagTerminator:
			n = maxSequence
		}
	}
	if logical == nil || partition == nil {
		return place{}, damaged("its UDF has no volume")
	}
	return v.logical(logical, partition)
}

// logical takes from a logical volume's descriptor what leads to its files (3/10.6), and from
// the partition's where that is (3/10.5).
func (v *udf) logical(b, partition []byte) (place, error) {
	const maps = 440
	size, count := int64(le32(b[264:])), le32(b[268:])
	if block := int64(le32(b[212:])); block != v.block {
		return place{}, damaged("blocks of %d bytes on a disc with %d", block, v.block)
	}
	if maps+size > int64(len(b)) || size < 6 {
		return place{}, damaged("a table of partitions of %d bytes", size)
	}
	const direct = 1
	if count != 1 || b[maps] != direct || le16(b[maps+4:]) != le16(partition[22:]) {
		return place{}, fmt.Errorf("has a UDF of a kind that is not read here (a partition that is no plain one, as rewritable discs have): %w",
			errors.ErrUnsupported)
	}
	v.start, v.length = int64(le32(partition[188:])), int64(le32(partition[192:]))
	return longAD(b[248:]), nil
}

// place is where a block of the partition lies.
func (v *udf) place(block uint32, size int64) (int64, error) {
	if int64(block) > v.length || (size+v.block-1)/v.block > v.length-int64(block) {
		return 0, damaged("a file beyond the end of its partition")
	}
	return (v.start + int64(block)) * v.block, nil
}

func (v *udf) descriptor(p place, id uint16) ([]byte, error) {
	at, err := v.place(p.block, v.block)
	if err != nil || p.part != 0 {
		return nil, damaged("a descriptor that lies in no partition")
	}
	return v.tagged(at, v.block, id)
}

// file reads a file's entry (4/14.9) or extended entry (4/14.17).
func (v *udf) file(p place) (node, error) {
	at, err := v.place(p.block, v.block)
	if err != nil || p.part != 0 {
		return node{}, damaged("a file that lies in no partition")
	}
	fixed, timeAt := 176, 84
	b, err := v.tagged(at, v.block, tagFile)
	if err != nil {
		fixed, timeAt = 216, 92
		if b, err = v.tagged(at, v.block, tagExtendedFile); err != nil {
			return node{}, err
		}
	}
	const directory, regular = 4, 5
	kind := b[27]
	if kind != directory && kind != regular && kind != 0 {
		return node{}, fmt.Errorf("%w: neither a file nor a directory", fs.ErrInvalid)
	}
	if strategy := le16(b[20:]); strategy != 4 {
		return node{}, fmt.Errorf("is a file of UDF's strategy %d, which is not read here: %w", strategy, errors.ErrUnsupported)
	}
	attributes, list := int64(le32(b[fixed-8:])), int64(le32(b[fixed-4:]))
	from := int64(fixed) + attributes
	if attributes > v.block || list > v.block || from+list > int64(len(b)) {
		return node{}, damaged("a file's entry is longer than its block")
	}
	n := node{dir: kind == directory, time: udfTime(b[timeAt:]), content: content{blocks: v.blocks}}
	const embedded = 3
	if form := le16(b[34:]) & 7; form == embedded { // the entry is also its content
		err = n.content.add(extent{at + from, list})
	} else {
		err = v.extents(&n.content, b[from:from+list], form, p.part)
	}
	if err != nil {
		return n, err
	}
	return n, n.content.cut(int64(binary.LittleEndian.Uint64(b[56:])))
}

// extents reads a file's allocation descriptors: short or long ones, and those
// that lead to more of them (4/14.14.1).
func (v *udf) extents(c *content, list []byte, form uint16, part uint16) error {
	const recorded, more = 0, 3
	width := map[uint16]int{0: 8, 1: 16}[form]
	if width == 0 {
		return fmt.Errorf("has extents of a form that is not read here: %w", errors.ErrUnsupported)
	}
	for chain := 0; len(list) >= width; list = list[width:] {
		p := place{le32(list), le32(list[4:]), part}
		if form == 1 {
			p = longAD(list)
		}
		size, kind := int64(p.size&(1<<30-1)), p.size>>30
		if size == 0 {
			return nil
		}
		if kind != recorded && kind != more { // room without content reads as zeros
			if err := c.add(extent{-1, size}); err != nil {
				return err
			}
			continue
		}
		at, err := v.place(p.block, size)
		if err != nil || p.part != 0 {
			return damaged("a file beyond the end of its partition")
		}
		if kind == recorded {
			if err := c.add(extent{at, size}); err != nil {
				return err
			}
			continue
		}
		if chain++; chain > maxChain {
			return damaged("a file whose list of extents has no end")
		}
		next, err := v.tagged(at, v.block, tagAllocation)
		if err != nil {
			return err
		}
		n := int64(le32(next[20:]))
		if 24+n > int64(len(next)) {
			return damaged("a list of extents of %d bytes", n)
		}
		list = append(make([]byte, width), next[24:24+n]...) // the loop drops the first
	}
	return nil
}

// udfTime is a timestamp (1/7.3).
func udfTime(b []byte) time.Time {
	zone := int(int16(le16(b)<<4) >> 4)
	if zone < -1440 || zone > 1440 {
		zone = 0
	}
	return time.Date(int(int16(le16(b[2:]))), time.Month(b[4]), int(b[5]), int(b[6]), int(b[7]), int(b[8]), 0, time.FixedZone("", zone*60)).UTC()
}

func (v *udf) root() node { return v.top }

// list reads a directory: its file identifier descriptors (4/14.4).
func (v *udf) list(dir node) (list []node, err error) {
	b, err := dir.content.all(maxDirectory)
	if err != nil {
		return nil, err
	}
	const fixed, isDir, deleted, parent = 38, 2, 4, 8
	for len(b) >= fixed {
		if le16(b) != tagFileID {
			return nil, damaged("a directory that is none")
		}
		name, use := int(b[19]), int(le16(b[36:]))
		end := (fixed + use + name + 3) &^ 3
		if fixed+use+name > len(b) {
			return nil, damaged("a name that goes beyond its directory")
		}
		if len(list) >= maxEntries {
			return nil, damaged("a directory of more than %d names", maxEntries)
		}
		if flags := b[18]; flags&(deleted|parent) == 0 {
			icb := longAD(b[20:])
			list = append(list, node{name: dstring(b[fixed+use : fixed+use+name]), dir: flags&isDir != 0, fill: func(n *node) error { return v.fill(n, icb) }})
		}
		b = b[min(end, len(b)):]
	}
	return keep(list), nil
}

func (v *udf) fill(n *node, icb place) error {
	read, err := v.file(icb)
	if err != nil {
		return err
	}
	if read.dir != n.dir {
		return damaged("%q is a directory by its name and none by its entry, or the other way round", n.name)
	}
	n.content, n.time = read.content, read.time
	return nil
}

// dstring decodes OSTA compressed Unicode (UDF 2.1.1): bytes, or two of them for each character.
func dstring(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	var units []uint16
	switch b[0] {
	case 8:
		for _, c := range b[1:] {
			units = append(units, uint16(c))
		}
	case 16:
		for b = b[1:]; len(b) >= 2; b = b[2:] {
			units = append(units, binary.BigEndian.Uint16(b))
		}
	}
	return string(utf16.Decode(units))
}
