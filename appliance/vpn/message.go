package vpn

import "encoding/binary"

// The kinds of WireGuard messages: the first byte; the next three are zero (whitepaper,
// section 5.4). All but transport have one length each.
const (
	initiation = 1
	response   = 2
	cookie     = 3
	transport  = 4

	initiationSize = 148
	responseSize   = 92
	cookieSize     = 64
	keepaliveSize  = 32 // a transport message without content
)

// message is what a WireGuard message shows in the clear. The indices are random and of 32
// bits: who sees none of our packets does not know them.
type message struct {
	kind     byte
	sender   uint32 // of initiation and response: the index that its sender wants to be answered under
	receiver uint32 // of all others and response: the index that its receiver gave
	empty    bool   // a keepalive: a transport message that asks for no answer
}

// parseMessage reads the header of a datagram. What is no WireGuard message is not ok.
func parseMessage(b []byte) (m message, ok bool) {
	if len(b) < keepaliveSize || b[1]|b[2]|b[3] != 0 {
		return m, false
	}
	m.kind = b[0]
	first := binary.LittleEndian.Uint32(b[4:])
	switch {
	case m.kind == initiation && len(b) == initiationSize:
		m.sender = first
	case m.kind == response && len(b) == responseSize:
		m.sender, m.receiver = first, binary.LittleEndian.Uint32(b[8:])
	case m.kind == cookie && len(b) == cookieSize:
		m.receiver = first
	case m.kind == transport && len(b)%16 == 0:
		m.receiver, m.empty = first, len(b) == keepaliveSize
	default:
		return message{}, false
	}
	return m, true
}

// asks reports that the hub has to answer: a handshake, or what is not only a keepalive. An
// answer to data comes within ten seconds, as a keepalive if as nothing else (section 6.5).
func (m message) asks() bool { return m.kind == initiation || m.kind == transport && !m.empty }
