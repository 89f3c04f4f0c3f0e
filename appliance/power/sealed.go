package power

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// The frame of sealed messages ([MS-WSMV] 2.2.9.1). Windows wants the tabs.
const (
	boundary     = "--Encrypted Boundary"
	sealedType   = `multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"`
	soapType     = "application/soap+xml;charset=UTF-8"
	octets       = "Content-Type: application/octet-stream\r\n"
	lengthPrefix = "Length="
	signatureLen = 16
)

// seal encrypts a message for the wire.
func (n *ntlm) seal(message []byte) []byte {
	sealed, signature := n.out.crypt(message, true)
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\tOriginalContent: type=%s;%s%d\r\n", boundary, soapType, lengthPrefix, len(message))
	fmt.Fprintf(&b, "%s\r\n\t%s", boundary, octets)
	_ = binary.Write(&b, binary.LittleEndian, uint32(signatureLen))
	b.Write(signature)
	b.Write(sealed)
	b.WriteString(boundary + "--\r\n")
	return b.Bytes()
}

var errSealed = errors.New("its encrypted answer is malformed")

// unframe takes the signature and the sealed message out of an answer. What is sealed may
// hold any bytes, so its length says where it ends.
func unframe(body []byte) (signature, sealed []byte, err error) {
	head, rest, found := bytes.Cut(body, []byte(octets))
	_, after, told := bytes.Cut(head, []byte(lengthPrefix))
	number, _, ended := bytes.Cut(after, []byte("\r\n"))
	length, err := strconv.Atoi(string(number))
	if !found || !told || !ended || err != nil || length < 0 || len(rest) < 4+signatureLen || length > len(rest)-4-signatureLen ||
		binary.LittleEndian.Uint32(rest) != signatureLen || !bytes.HasPrefix(rest[4+signatureLen+length:], []byte(boundary)) {
		return nil, nil, errSealed
	}
	rest = rest[4:]
	return rest[:signatureLen], rest[signatureLen:][:length], nil
}

// unseal decrypts an answer.
func (n *ntlm) unseal(body []byte) ([]byte, error) {
	signature, sealed, err := unframe(body)
	if err != nil {
		return nil, err
	}
	message, want := n.in.crypt(sealed, false)
	if !hmac.Equal(signature, want) {
		return nil, errors.New("its encrypted answer was changed on the way")
	}
	return message, nil
}
