package wim

import (
	"errors"
	"fmt"
	"io"
)

// Layout of the header.
const (
	headerSize      = 208
	headerLength    = 8
	headerVersion   = 12
	headerFlags     = 16
	headerChunk     = 20
	headerPart      = 40
	headerParts     = 42
	headerImages    = 44
	headerTable     = 48
	headerXML       = 72
	headerMetadata  = 96 // of the image that boots
	headerBoot      = 120
	headerIntegrity = 124
)

// Flags of the header. WIMGAPI of Windows 8.1 has a second one for XPRESS.
const (
	fileCompressed = 0x2
	fileSpanned    = 0x8
	fileUnfinished = 0x40
	fileXPRESS     = 0x20000
	fileLZX        = 0x40000
	fileLZMS       = 0x80000
	fileXPRESS2    = 0x200000
)

// Versions of the format. In the usual one the flag of solid resources says nothing.
const (
	versionUsual = 0x10d00
	versionSolid = 0xe00
)

// Bounds. The blob table of a Windows with all its components has 5 MB, its metadata 30 MB.
const (
	maxTable    = 64 << 20
	maxMetadata = 128 << 20
	maxXML      = 4 << 20
	maxImages   = 1000
)

const (
	packedNot    = "none"
	packedXPRESS = "XPRESS"
	packedLZX    = "LZX"
)

// readHeader reads the header and says how many images there are.
func (f *File) readHeader() (images int, err error) {
	h := f.header[:]
	if n, err := f.r.ReadAt(h, 0); n < len(h) {
		if n < 8 || string(h[:8]) != "MSWIM\x00\x00\x00" {
			return 0, ErrNoWIM
		}
		if errors.Is(err, io.EOF) {
			return 0, damaged("it has %d bytes", n)
		}
		return 0, fmt.Errorf("read the header: %w", err)
	}
	if err := f.refuse(h); err != nil {
		return 0, err
	}
	if err := f.setPacking(le32(h[headerFlags:]), int64(le32(h[headerChunk:]))); err != nil {
		return 0, err
	}
	count, boot := le32(h[headerImages:]), le32(h[headerBoot:])
	if count < 1 || count > maxImages {
		return 0, damaged("its header says that it has %d images", count)
	}
	if boot > count {
		return 0, damaged("image %d boots, and there are %d", boot, count)
	}
	f.boot = int(boot)
	return int(count), nil
}

// refuse says why a file is none that could be served.
func (f *File) refuse(h []byte) error {
	switch string(h[:8]) {
	case "MSWIM\x00\x00\x00":
	case "WLPWM\x00\x00\x00":
		return ErrPipable
	default:
		return ErrNoWIM
	}
	flags := le32(h[headerFlags:])
	switch {
	case flags&fileUnfinished != 0:
		return ErrUnfinished
	case le32(h[headerVersion:]) == versionSolid, flags&fileLZMS != 0:
		return ErrSolid
	case flags&fileSpanned != 0, le16(h[headerParts:]) > 1, le16(h[headerPart:]) > 1:
		return fmt.Errorf("%w (it is part %d of %d)", ErrSplit, le16(h[headerPart:]), le16(h[headerParts:]))
	case le32(h[headerVersion:]) != versionUsual, le32(h[headerLength:]) < headerSize:
		return damaged("its header has version %#x and %d bytes", le32(h[headerVersion:]), le32(h[headerLength:]))
	}
	return nil
}

// setPacking notes the compression. Chunks are powers of two: XPRESS's as [MS-XCA] allows,
// LZX's as large as its window can be.
func (f *File) setPacking(flags uint32, chunk int64) error {
	least, most := int64(0), int64(0)
	switch {
	case flags&fileCompressed == 0:
		f.compression = packedNot
		return nil
	case flags&fileLZX != 0:
		f.compression, least, most = packedLZX, 1<<15, 1<<21
	case flags&(fileXPRESS|fileXPRESS2) != 0:
		f.compression, least, most = packedXPRESS, 1<<12, 1<<16
	default:
		return damaged("its header names no compression: flags %#x", flags)
	}
	if chunk < least || chunk > most || chunk&(chunk-1) != 0 {
		return damaged("its header says %s in chunks of %d bytes", f.compression, chunk)
	}
	f.chunk = int(chunk)
	return nil
}
