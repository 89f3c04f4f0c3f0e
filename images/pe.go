package images

import (
	"bytes"
	"cmp"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// PE is what a program in Microsoft's portable executable format says of
// itself: UEFI programs, Windows programs, and kernels with an EFI stub are such.
type PE struct {
	Arch       string // as Debian names it; "" for a machine type that has no name there
	EFI        bool   // the subsystem is one of UEFI's
	Signatures []Signature
}

// errNoPE is the error for what is no PE program at all.
var errNoPE = errors.New("is no PE program")

// Bounds of a PE program. Windows takes 96 sections at most, and a signature
// with all its certificates and time stamps has 10 kB.
const (
	maxOptional   = 1 << 10
	maxSections   = 96
	maxCertTable  = 1 << 20
	maxSignatures = 16
)

// machines are the machine types of the PE format that Debian runs on. 0x1c2 is
// what UEFI calls ARM (Thumb mixed), 0x1c4 the ARMv7 of Windows.
var machines = map[uint16]string{0x8664: "amd64", 0xaa64: "arm64", 0x14c: "i386", 0x1c2: "armhf", 0x1c4: "armhf"}

// span is a part of the file.
type span struct{ at, size int64 }

// peFile is a PE program with what its header says of the file's layout.
type peFile struct {
	r        io.ReaderAt
	size     int64
	machine  uint16
	efi      bool
	checksum int64 // where the field lies
	certDir  int64 // where the directory entry of the signatures lies; 0 if the header ends before it
	headers  int64 // size of all headers
	certs    span
	sections []span // as they lie in the file
}

// ReadPE reads a PE program: its header, and its signatures, which are checked against
// the bytes of the file. A signature that does not fit is no error of ReadPE: see
// Signature.Err. With an error comes what could be read.
func ReadPE(r io.ReaderAt, size int64) (PE, error) {
	f, err := readPEHeader(r, size)
	p := PE{Arch: machines[f.machine], EFI: f.efi}
	if err != nil {
		return p, err
	}
	p.Signatures, err = f.signatures()
	return p, err
}

// part reads a part of the file.
func (f *peFile) part(s span) ([]byte, error) {
	if s.at < 0 || s.size < 0 || s.at > f.size || s.size > f.size-s.at {
		return nil, errors.New("ends before its header says")
	}
	b := make([]byte, s.size)
	if _, err := f.r.ReadAt(b, s.at); err != nil && !(errors.Is(err, io.EOF) && s.at+s.size == f.size) {
		return nil, err
	}
	return b, nil
}

// readPEHeader reads the headers ("PE Format" of Microsoft's documentation): the DOS header's
// pointer, the COFF header, the optional header and the table of sections.
func readPEHeader(r io.ReaderAt, size int64) (*peFile, error) {
	f := &peFile{r: r, size: size}
	dos, err := f.part(span{0, 0x40})
	if err != nil || dos[0] != 'M' || dos[1] != 'Z' {
		return f, errNoPE
	}
	at := int64(binary.LittleEndian.Uint32(dos[0x3c:]))
	coff, err := f.part(span{at, 24})
	if err != nil || string(coff[:4]) != "PE\x00\x00" {
		return f, errNoPE
	}
	f.machine = binary.LittleEndian.Uint16(coff[4:])
	n, optional := le16(coff[6:]), int64(le16(coff[20:]))
	if n > maxSections || optional > maxOptional {
		return f, fmt.Errorf("has a PE header of %d sections and %d bytes, more than there are", n, optional)
	}
	at += 24
	if err := f.readOptional(span{at, optional}); err != nil {
		return f, err
	}
	return f, f.readSections(span{at + optional, int64(n) * 40})
}

// readOptional reads the optional header, whose two forms differ in the width of addresses.
func (f *peFile) readOptional(s span) error {
	h, err := f.part(s)
	if err != nil {
		return err
	}
	const (
		sizeOfHeaders = 60
		checksum      = 64
		subsystem     = 68
		entry         = 8 // bytes of a directory entry
		certificates  = 4 // number of the signatures' entry
	)
	directories := 96 // of PE32
	if len(h) >= 2 && le16(h) == 0x20b {
		directories = 112 // of PE32+
	}
	if len(h) < directories {
		return errors.New("has a PE header that is cut off")
	}
	f.headers = int64(binary.LittleEndian.Uint32(h[sizeOfHeaders:]))
	f.checksum = s.at + checksum
	subsys := le16(h[subsystem:])
	f.efi = subsys >= 10 && subsys <= 13 // application, boot driver, runtime driver, ROM
	if at := directories + certificates*entry; len(h) >= at+entry && binary.LittleEndian.Uint32(h[directories-4:]) > certificates {
		f.certDir = s.at + int64(at)
		f.certs = span{int64(binary.LittleEndian.Uint32(h[at:])), int64(binary.LittleEndian.Uint32(h[at+4:]))}
	}
	return nil
}

func (f *peFile) readSections(s span) error {
	table, err := f.part(s)
	if err != nil {
		return err
	}
	for ; len(table) > 0; table = table[40:] {
		section := span{int64(binary.LittleEndian.Uint32(table[20:])), int64(binary.LittleEndian.Uint32(table[16:]))}
		if section.size > 0 {
			f.sections = append(f.sections, section)
		}
	}
	slices.SortStableFunc(f.sections, func(a, b span) int { return cmp.Compare(a.at, b.at) })
	return nil
}

// hashed lists the parts of the file that its signatures are made over: all but
// the checksum, the directory entry of the signatures, and the signatures. It follows the
// letter of "Windows Authenticode Portable Executable Signature Format" as firmware
// does (HashPeImage of EDK2), so that we and the firmware agree on odd files too.
func (f *peFile) hashed() ([]span, error) {
	if f.certDir == 0 || f.headers < f.certDir+8 || f.headers > f.size {
		return nil, errors.New("has a header that no signature fits")
	}
	spans := []span{{0, f.checksum}, {f.checksum + 4, f.certDir - f.checksum - 4}, {f.certDir + 8, f.headers - f.certDir - 8}}
	done := f.headers
	for _, s := range f.sections {
		done += s.size
		if s.at > f.size || s.size > f.size-s.at || done > f.size {
			return nil, errors.New("has sections that lie over each other or beyond its end")
		}
		spans = append(spans, s)
	}
	if rest := f.size - f.certs.size - done; rest > 0 {
		spans = append(spans, span{done, rest})
	}
	return spans, nil
}

// digest is the hash that a signature of the file must have in it.
func (f *peFile) digest(h crypto.Hash) ([]byte, error) {
	spans, err := f.hashed()
	if err != nil {
		return nil, err
	}
	sum := h.New()
	for _, s := range spans {
		if _, err := io.Copy(sum, io.NewSectionReader(f.r, s.at, s.size)); err != nil {
			return nil, err
		}
	}
	return sum.Sum(nil), nil
}

// signatures reads the table of signatures: WIN_CERTIFICATE structures, one
// behind the other. Firmware looks at each in turn, so that a shim can have one
// for the authority of 2011 and one for that of 2023.
func (f *peFile) signatures() (list []Signature, err error) {
	if f.certs.size == 0 {
		return nil, nil
	}
	if f.certs.size > maxCertTable {
		return nil, fmt.Errorf("has %d bytes of signatures, more than %d", f.certs.size, maxCertTable)
	}
	table, err := f.part(f.certs)
	if err != nil {
		return nil, fmt.Errorf("%w (its table of signatures lies beyond its end: %w)", ErrUnfit, err)
	}
	check := checker{file: f, authorities: knownAuthorities()}
	for len(table) >= 8 && len(list) < maxSignatures {
		n := int(binary.LittleEndian.Uint32(table))
		if n < 8 || n > len(table) {
			return nil, fmt.Errorf("%w (its table of signatures is broken)", ErrUnfit)
		}
		if der := signedDataOf(table[:n]); der != nil {
			list = append(list, check.signature(der)...)
		}
		table = table[min((n+7)&^7, len(table)):]
	}
	return list, nil
}

// signedDataOf is the PKCS#7 structure in a WIN_CERTIFICATE, in either of the forms that
// UEFI knows (specification 2.10, section 32.2.4): as Authenticode has it, or with a GUID.
func signedDataOf(certificate []byte) []byte {
	const (
		pkcsSignedData = 0x0002
		efiGUID        = 0x0ef1
	)
	pkcs7GUID := []byte{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}
	body := certificate[8:]
	switch le16(certificate[6:]) {
	case pkcsSignedData:
		return body
	case efiGUID:
		if der, ok := bytes.CutPrefix(body, pkcs7GUID); ok {
			return der
		}
	}
	return nil
}
