package tftp

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"
)

// Opcodes (RFC 1350 section 5, RFC 2347).
const (
	opRRQ   = 1
	opWRQ   = 2
	opDATA  = 3
	opACK   = 4
	opERROR = 5
	opOACK  = 6
)

// Error codes (RFC 1350, appendix).
const (
	codeOther    = 0
	codeNotFound = 1
	codeAccess   = 2
	codeTooLarge = 3
	codeIllegal  = 4
)

// Sizes of a block: what is used when nobody negotiates (RFC 1350), and the
// least and the most that the option can ask for (RFC 2348).
const (
	plainBlock = 512
	minBlock   = 8
	maxBlock   = 65464
)

// maxWindow is the largest window that we grant (RFC 7440 section 3 lets the
// server lower what was asked). More makes no transfer faster, and a burst of
// more overruns the receiver: a Linux socket holds about 90 packets, firmware less.
const maxWindow = 64

// Windows' boot programs offer a window that they set anew with every
// acknowledgement, by a byte behind the block number: the first number asks
// for that, the second agrees. It is in no RFC; this is what WDS and Wireshark know.
const (
	msftAsks   = "31416"
	msftAgrees = 27182
)

// maxPath bounds a file name; the boot file name of DHCP has 128 bytes.
const maxPath = 512

// maxText bounds the text of an error packet: firmware prints one or two lines.
const maxText = 200

// request is a read request after checking, or the write request of a ticket.
type request struct {
	path     string // as the wire had it
	write    bool   // the client has a ticket for us
	size     int64  // of what the client has for us; 0 if it did not say
	netascii bool
	blksize  int           // what the client asked for; 0 if it did not
	tsize    bool          // the client wants to hear the file's size
	timeout  time.Duration // after which the client wants a packet sent again; 0 if it did not say
	window   int           // blocks between two acknowledgements, as far as we grant it; 0 if the client did not ask
	msft     bool          // the client sets the window anew with every acknowledgement
}

// refusal is an answer of "no" on the wire.
type refusal struct {
	code uint16
	text string
}

// parseRequest reads a datagram that came to the server's port. A read request
// comes back as such; what deserves an answer comes with a refusal; all else is
// neither (nil, nil): an answer to a stray packet could start a loop.
//
// Option names are compared without case (RFC 2347 section 2), unknown
// options and values out of range are left out, as if they had not been asked for.
func parseRequest(p []byte) (*request, *refusal) {
	if len(p) < 2 {
		return nil, nil
	}
	switch binary.BigEndian.Uint16(p) {
	case opRRQ, opWRQ:
	default:
		return nil, nil
	}
	fields := strings.Split(string(p[2:]), "\x00")
	if len(fields) < 2 || fields[0] == "" {
		return nil, &refusal{codeIllegal, "the request names no file and mode"}
	}
	if len(fields[0]) > maxPath {
		return nil, &refusal{codeIllegal, "the file name is longer than 512 bytes"}
	}
	r := &request{path: fields[0], write: p[1] == opWRQ}
	if r.write && !isTicket(r.path) {
		return nil, &refusal{codeAccess, "this box takes no files over TFTP but tickets: inv32.xml"}
	}
	switch strings.ToLower(fields[1]) {
	case "octet":
	case "netascii":
		r.netascii = true
	default:
		return nil, &refusal{codeIllegal, "the mode is neither octet nor netascii"}
	}
	r.options(fields[2:])
	return r, nil
}

// isTicket reports whether a file that somebody wants to write is a ticket of
// DaRT, in whatever directory.
func isTicket(path string) bool {
	return strings.EqualFold(path[strings.LastIndexAny(path, `/\\`)+1:], "inv32.xml")
}

// options reads pairs of name and value. The first of a name counts.
func (r *request) options(fields []string) {
	for ; len(fields) >= 2; fields = fields[2:] {
		switch strings.ToLower(fields[0]) {
		case "blksize":
			n, err := strconv.ParseUint(fields[1], 10, 32)
			if err == nil && n >= minBlock && r.blksize == 0 {
				r.blksize = int(min(n, maxBlock))
			}
		case "tsize":
			// Of a size too large for a number ParseInt makes the largest one.
			n, err := strconv.ParseInt(fields[1], 10, 64)
			r.tsize = !r.write || n > 0 || n == 0 && err == nil
			if r.write && r.tsize {
				r.size = n
			}
		case "timeout":
			n, err := strconv.ParseUint(fields[1], 10, 8)
			if err == nil && n > 0 && r.timeout == 0 {
				r.timeout = time.Duration(n) * time.Second
			}
		case "windowsize":
			n, err := strconv.ParseUint(fields[1], 10, 16)
			if err == nil && n > 0 && r.window == 0 {
				r.window = int(min(n, maxWindow))
			}
		case "msftwindow":
			r.msft = fields[1] == msftAsks
		}
	}
	if r.netascii && !r.write {
		r.tsize = false // the size on the wire is not that of the file
		r.window = 0    // no way back in a text that is converted as it goes out
	}
	r.msft = r.msft && r.window > 0 && !r.write
}

// block is the size of the blocks.
func (r *request) block() int {
	if r.blksize > 0 {
		return r.blksize
	}
	return plainBlock
}

// accept is the OACK for the options of a request that we do; nil without any.
func (r *request) accept(size int64) []byte {
	p := []byte{0, opOACK}
	option := func(name string, value int64) {
		p = append(p, name...)
		p = append(p, 0)
		p = strconv.AppendInt(p, value, 10)
		p = append(p, 0)
	}
	if r.blksize > 0 {
		option("blksize", int64(r.blksize))
	}
	if r.tsize {
		option("tsize", size)
	}
	if r.timeout > 0 {
		option("timeout", int64(r.timeout/time.Second))
	}
	if r.window > 0 {
		option("windowsize", int64(r.window))
	}
	if r.msft {
		option("msftwindow", msftAgrees)
	}
	if len(p) == 2 {
		return nil
	}
	return p
}

// packet is the refusal as an error packet, its text in printable ASCII: it
// ends up on the screen of a PXE ROM.
func (r *refusal) packet() []byte {
	p := binary.BigEndian.AppendUint16(nil, opERROR)
	p = binary.BigEndian.AppendUint16(p, r.code)
	return append(append(p, printable(r.text)...), 0)
}

// printable cuts foreign text to what a log line or a screen can bear.
func printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}
