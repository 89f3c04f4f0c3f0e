package power

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rc4"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	//lint:ignore SA1019 NTLM is made of it
	"golang.org/x/crypto/md4"
)

// ntlm logs in by NTLM version 2 ([MS-NLMP]) and nothing less, and seals messages after. The
// libraries there are take whatever a server agrees to, up to no encryption at all, and panic
// at a malformed challenge.
type ntlm struct {
	domain, user, password string
	hello                  []byte
	in, out                direction
}

// The flags of negotiation ([MS-NLMP] 2.2.2.5). needed is what a server must agree to:
// Unicode, signing and sealing with keys of their own, extended session security,
// target information, 128 bits. asked adds: the target, NTLM, always sign, a version.
const (
	needed = 0x00000001 | 0x00000010 | 0x00000020 | 0x00080000 | 0x00800000 | 0x20000000 | 0x40000000
	asked  = needed | 0x00000004 | 0x00000200 | 0x00008000 | 0x02000000
)

// version is that of Windows 7: servers only log it ([MS-NLMP] 2.2.2.10).
const version = "\x06\x01\xb1\x1d\x00\x00\x00\x0f"

// greet makes the NEGOTIATE_MESSAGE ([MS-NLMP] 2.2.1.1); it names nobody.
func (n *ntlm) greet() []byte {
	n.hello = make([]byte, 40)
	copy(n.hello, "NTLMSSP\x00\x01")
	binary.LittleEndian.PutUint32(n.hello[12:], asked)
	copy(n.hello[32:], version)
	return n.hello
}

// The attributes of a target that count for us ([MS-NLMP] 2.2.2.1).
const (
	attributeEnd     = 0
	attributeFlags   = 6
	attributeTime    = 7
	attributeBinding = 10
)

// prove makes the AUTHENTICATE_MESSAGE ([MS-NLMP] 2.2.1.3, 3.3.2) and the keys. binding is
// what ties it to a channel (RFC 5929), nil where there is none.
func (n *ntlm) prove(challenge, binding []byte) ([]byte, error) {
	target, err := readChallenge(challenge)
	if err != nil {
		return nil, err
	}
	var nonce [8]byte
	key := make([]byte, 16) // of the session
	_, _ = rand.Read(nonce[:])
	_, _ = rand.Read(key)

	hash := md4.New()
	hash.Write(wide(n.password))
	owf := mac(hash.Sum(nil), wide(strings.ToUpper(n.user)+n.domain))
	response := bytes.Join([][]byte{{1, 1, 0, 0, 0, 0, 0, 0}, target.time, nonce[:], make([]byte, 4), target.attributes(binding), make([]byte, 4)}, nil)
	proof := mac(owf, challenge[24:32], response)
	wrapped := make([]byte, 16)
	cipher(mac(owf, proof)).XORKeyStream(wrapped, key)

	message := n.authenticate(target.flags&asked, append(proof, response...), wrapped)
	copy(message[micAt:], mac(key, n.hello, challenge, message)) // over itself with zeros there
	n.out, n.in = newDirection(key, "client-to-server"), newDirection(key, "server-to-client")
	return message, nil
}

// Where an AUTHENTICATE_MESSAGE has its integrity code, and where what its fields point to begins.
const (
	micAt     = 72
	payloadAt = 88
)

func (n *ntlm) authenticate(flags uint32, response, key []byte) []byte {
	b := make([]byte, payloadAt)
	copy(b, "NTLMSSP\x00\x03")
	for i, part := range [][]byte{make([]byte, 24), response, wide(n.domain), wide(n.user), nil, key} { // LM's response is all zeros; no workstation
		at := b[12+8*i:]
		binary.LittleEndian.PutUint16(at, uint16(len(part)))
		binary.LittleEndian.PutUint16(at[2:], uint16(len(part)))
		binary.LittleEndian.PutUint32(at[4:], uint32(len(b)))
		b = append(b, part...)
	}
	binary.LittleEndian.PutUint32(b[60:], flags|asked&0x02000000)
	copy(b[64:], version)
	return b
}

// target is what a challenge says.
type target struct {
	flags uint32
	info  []byte // attributes without their end, flags and binding
	marks uint32 // the attribute of flags
	time  []byte // the server's, or ours as a FILETIME
}

// attributes are the target's for the response: an integrity code follows (2), and what
// the login is bound to ([MS-NLMP] 3.1.5.1.2).
func (t target) attributes(binding []byte) []byte {
	b := bytes.Clone(t.info)
	b = append(b, attributeFlags, 0, 4, 0)
	b = binary.LittleEndian.AppendUint32(b, t.marks|2)
	b = append(append(b, attributeBinding, 0, 16, 0), bound(binding)...)
	return append(b, attributeEnd, 0, 0, 0)
}

// maxChallenge bounds a server's challenge; real ones have some hundred bytes.
const maxChallenge = 8 << 10

var errChallenge = errors.New("its NTLM challenge is malformed")

// readChallenge reads a CHALLENGE_MESSAGE ([MS-NLMP] 2.2.1.2).
func readChallenge(b []byte) (target, error) {
	if len(b) < 48 || len(b) > maxChallenge || !bytes.HasPrefix(b, []byte("NTLMSSP\x00\x02\x00\x00\x00")) {
		return target{}, errChallenge
	}
	t := target{flags: binary.LittleEndian.Uint32(b[20:])}
	if t.flags&needed != needed {
		return target{}, fmt.Errorf("it does not agree to NTLM version 2 with encryption (flags %08x)", t.flags)
	}
	length, offset := uint64(binary.LittleEndian.Uint16(b[40:])), uint64(binary.LittleEndian.Uint32(b[44:]))
	if offset+length > uint64(len(b)) {
		return target{}, errChallenge
	}
	if err := t.read(b[offset:][:length]); err != nil {
		return target{}, err
	}
	if t.time == nil {
		t.time = binary.LittleEndian.AppendUint64(nil, uint64(time.Now().UnixNano()/100)+116444736000000000) // 1601 to 1970
	}
	return t, nil
}

// read reads attributes up to their end.
func (t *target) read(b []byte) error {
	for len(b) >= 4 {
		id, length := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if id == attributeEnd {
			return nil
		}
		if length > len(b)-4 {
			return errChallenge
		}
		value, whole := b[4:4+length], b[:4+length]
		b = b[4+length:]
		switch {
		case id == attributeFlags && length == 4:
			t.marks = binary.LittleEndian.Uint32(value)
			continue
		case id == attributeTime && length == 8:
			t.time = value
		case id == attributeFlags, id == attributeTime, id == attributeBinding:
			return errChallenge
		}
		t.info = append(t.info, whole...)
	}
	return errChallenge
}

// direction is one of a session's two ways ([MS-NLMP] 3.4).
type direction struct {
	signing []byte
	sealing *rc4.Cipher
	count   uint32
}

func newDirection(key []byte, way string) direction {
	derive := func(what string) []byte {
		sum := md5.Sum(append(bytes.Clone(key), "session key to "+way+" "+what+" key magic constant\x00"...))
		return sum[:]
	}
	return direction{signing: derive("signing"), sealing: cipher(derive("sealing"))}
}

// crypt encrypts or decrypts a message; what is signed is always its plain text.
func (d *direction) crypt(text []byte, sealing bool) (result, signature []byte) {
	result = make([]byte, len(text))
	d.sealing.XORKeyStream(result, text)
	plain := result
	if sealing {
		plain = text
	}
	number := binary.LittleEndian.AppendUint32(nil, d.count)
	d.count++
	sum := mac(d.signing, number, plain)[:8]
	d.sealing.XORKeyStream(sum, sum)
	return result, bytes.Join([][]byte{{1, 0, 0, 0}, sum, number}, nil)
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func cipher(key []byte) *rc4.Cipher {
	c, err := rc4.NewCipher(key)
	if err != nil {
		panic(err) // of 16 bytes always
	}
	return c
}

// wide is UTF-16.
func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
