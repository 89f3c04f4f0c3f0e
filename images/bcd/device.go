package bcd

import (
	"encoding/hex"
	"strings"
)

// Kinds of devices, and what a device's descriptor begins with.
const (
	kindBoot    = 5    // where the boot manager came from
	bootSize    = 0x48 // of a boot device's descriptor
	kindFile    = 3    // a device made of a file
	deviceFrame = 16   // the GUID of options that stands before every descriptor
)

// bootDevice is "boot": the server that the boot manager came from.
func bootDevice() []byte {
	return append(make([]byte, deviceFrame), bootDescriptor()...)
}

func bootDescriptor() []byte {
	b := make([]byte, bootSize)
	le.PutUint32(b, kindBoot)
	le.PutUint32(b[8:], bootSize)
	return b
}

// ramdiskDevice is "ramdisk=[boot]\path,{options}": a disk made of a file of the
// boot device, with the RAM disk's options.
func ramdiskDevice(path string) []byte {
	const (
		kindAt, sizeAt, formAt       = 0x14, 0x18, 0x20
		innerAt, innerSizeAt, typeAt = 0x38, 0x3c, 0x40
		parentAt                     = 0x44
		pathAt                       = parentAt + bootSize
	)
	b := make([]byte, pathAt)
	copy(b, storedGUID(ramdiskOptions))
	b = append(b, text(path)...)
	total := uint32(len(b))
	le.PutUint32(b[kindAt:], 1)
	le.PutUint32(b[sizeAt:], total-deviceFrame)
	le.PutUint32(b[formAt:], kindFile)
	le.PutUint32(b[innerAt:], 1)
	le.PutUint32(b[innerSizeAt:], total-innerAt)
	le.PutUint32(b[typeAt:], kindBoot)
	copy(b[parentAt:], bootDescriptor())
	return b
}

// storedGUID is a GUID as Windows stores it: the first three groups are numbers, least byte first.
func storedGUID(braced string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Trim(braced, "{}"), "-", ""))
	if err != nil || len(b) != 16 {
		return make([]byte, 16)
	}
	return []byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}
