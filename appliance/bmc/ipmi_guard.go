package bmc

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"net"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"
)

// guard stands between the library and the network. The library decrypts whatever comes, in a goroutine of its
// own that ends the program where a packet is too short; it believes what is not encrypted at all, takes the late
// answer to an older question for that to its newest, and agrees to whatever algorithms it is offered. So
// an answer gets through only if it is of the kind that was asked for last, and in a session only with the session's
// integrity code (IPMI 2.0 section 13.28.4) over an encrypted payload.
type guard struct {
	net.Conn
	password string

	asked   byte    // the type of what was sent last, with its flags; outside is IPMI 1.5
	offer   [3]byte // the algorithms that were asked for: authentication, integrity, confidentiality
	session uint32  // our number of the session
	rakp1   []byte  // what is in the keys of what we said
	k1, k2  []byte
}

const (
	outsideSession = 0xff // asked: a command in the format of IPMI 1.5
	flagsSession   = 0xc0 // of the type: encrypted and authenticated
	headerPlus     = 16   // of RMCP and a session of IPMI 2.0
)

// guarded has a client's packets go through a guard.
type guarded string

// Dial is that of proxy.Dialer.
func (password guarded) Dial(network, addr string) (net.Conn, error) {
	conn, err := net.Dial(network, addr)
	if err != nil {
		return nil, err
	}
	return &guard{Conn: conn, password: string(password)}, nil
}

// Write looks at what is asked.
func (g *guard) Write(b []byte) (int, error) {
	g.asked = outsideSession
	if len(b) > headerPlus && b[4] == byte(types.AuthTypeRMCPPlus) {
		g.asked = b[5]
		g.begin(b[headerPlus:])
	}
	return g.Conn.Write(b)
}

// begin keeps what a session will be made of.
func (g *guard) begin(payload []byte) {
	switch {
	case g.asked == stepOpen && len(payload) >= 32: // section 13.17
		g.session = binary.LittleEndian.Uint32(payload[4:])
		g.offer = [3]byte{payload[12], payload[20], payload[28]}
	case g.asked == stepRAKP1 && len(payload) >= 28: // section 13.20
		g.rakp1 = bytes.Clone(payload)
	}
}

// Read gives the next packet that is an answer.
func (g *guard) Read(b []byte) (int, error) {
	for {
		n, err := g.Conn.Read(b)
		if err != nil || g.admits(b[:n]) {
			return n, err
		}
	}
}

// admits reports whether a packet may be the answer to what was asked last.
func (g *guard) admits(b []byte) bool {
	switch {
	case len(b) <= headerPlus || b[0] != 6 || b[3] != 7:
		return false
	case b[4] != byte(types.AuthTypeRMCPPlus):
		return g.asked == outsideSession
	}
	end := headerPlus + int(binary.LittleEndian.Uint16(b[14:]))
	if len(b) < end {
		return false
	}
	payload := b[headerPlus:end]
	switch kind := b[5]; {
	case kind&^1 == flagsSession: // a command's answer, or what the console says
		return g.asked&flagsSession == flagsSession && g.isOurs(b, payload)
	case kind&flagsSession != 0 || kind != g.asked+1:
		return false
	case kind == stepOpened: // section 13.18
		return len(payload) < 36 || payload[1] != 0 || [3]byte{payload[16], payload[24], payload[32]} == g.offer
	case kind == stepRAKP2 && len(payload) >= 40 && payload[1] == 0:
		return g.derive(payload)
	}
	return true
}

// derive makes the session's keys (sections 13.31 and 13.32).
func (g *guard) derive(rakp2 []byte) bool {
	if g.rakp1 == nil {
		return false
	}
	var err error
	_, g.k1, g.k2, err = crypto.DeriveSessionKeys(types.AuthAlg(g.offer[0]), g.rakp1[8:24], rakp2[8:24], g.rakp1[24], string(g.rakp1[28:]), crypto.PadPassword20([]byte(g.password)))
	return err == nil
}

// isOurs reports whether a packet is of our session, from who has its keys, and can be decrypted.
func (g *guard) isOurs(b, payload []byte) bool {
	alg := types.IntegrityAlg(g.offer[1])
	size, known := crypto.IntegrityAuthCodeLen(alg)
	end := len(b) - size
	if !known || size == 0 || g.k1 == nil || binary.LittleEndian.Uint32(b[6:]) != g.session || end < headerPlus+len(payload)+2 ||
		len(payload)%16 != 0 { // blocks of AES
		return false
	}
	code, err := crypto.SessionIntegrityAuthCode(alg, b[4:end], g.k1, g.password)
	if err != nil || !hmac.Equal(code, b[end:]) {
		return false
	}
	_, err = crypto.DecryptAESPayload(payload, g.k2)
	return err == nil
}
