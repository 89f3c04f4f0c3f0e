package boottest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Where the fields of a DHCP message are that are looked at as bytes.
const (
	offFile    = 108
	offCookie  = 236
	offOptions = 240
)

// Sizes that a client counts on (RFC 2131 section 2, RFC 1542 section 2.1).
const (
	leastMessage = 300 // shorter ones some BOOTP relays and ROMs drop
	everybody    = 576 // what every client takes, as an IP datagram
	ipUDPHeaders = 28
)

// chokes lists what is wrong with an answer in a way that some real firmware
// does not survive, although it can be parsed.
func chokes(request *dhcpv4.DHCPv4, a *Answer, payload []byte) (list []string) {
	no := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if len(payload) < leastMessage {
		no("it has %d bytes, some relays and ROMs want %d", len(payload), leastMessage)
	}
	if most := longest(request); len(payload) > most {
		no("it has %d bytes, the client takes %d", len(payload), most)
	}
	if !endsWell(payload[offOptions:]) {
		no("the options have no end")
	}
	if !a.id().IsValid() {
		no("no server identifier (54)")
	} else if a.GatewayIPAddr.IsUnspecified() && a.src.Addr() != a.id() {
		no("it comes from %s but names %s as its server (54)", a.src.Addr(), a.id())
	}
	if a.src.Port() != portServer && a.src.Port() != portBoot {
		no("it comes from port %d", a.src.Port())
	}
	if a.file() != "" && a.MessageType() != dhcpv4.MessageTypeNak {
		chokesOnBoot(request, a, payload, no)
	}
	return list
}

// chokesOnBoot looks at what an answer says about booting.
func chokesOnBoot(request *dhcpv4.DHCPv4, a *Answer, payload []byte, no func(string, ...any)) {
	header, terminated := cutAtNUL(payload[offFile:offCookie])
	if !terminated {
		no("the header's boot file name has no NUL within 128 bytes")
	}
	option := a.Options.Get(dhcpv4.OptionBootfileName)
	switch {
	case len(header) == 0:
		no("no boot file name in the header, where some ROMs look (danderson/pixiecore#21)")
	case len(option) == 0:
		no("no option 67")
	case option[len(option)-1] != 0:
		no("option 67 does not end in NUL: some ROMs read on into the next option (siderolabs/booter#11)")
	case !bytes.Equal(header, bytes.TrimRight(option, "\x00")):
		no("the header's boot file name is %q, option 67 says %q", header, option)
	}
	if want, have := request.Options.Get(dhcpv4.OptionClientMachineIdentifier), a.Options.Get(dhcpv4.OptionClientMachineIdentifier); want != nil && !bytes.Equal(want, have) {
		no("option 97 is %x, the client's is %x", have, want)
	}
	if class := a.Options.Get(dhcpv4.OptionClassIdentifier); len(class) == 0 {
		no("no option 60: firmware takes it for an answer without boot part")
	}
	if a.ServerIPAddr.IsUnspecified() && !strings.HasPrefix(a.file(), "http") {
		no("no next server (siaddr)")
	}
}

// longest is how many bytes the client takes as one message.
func longest(request *dhcpv4.DHCPv4) int {
	size := everybody
	if v := request.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(v) == 2 {
		size = max(size, int(binary.BigEndian.Uint16(v)))
	}
	return size - ipUDPHeaders
}

func cutAtNUL(field []byte) (text []byte, terminated bool) {
	text, _, terminated = bytes.Cut(field, []byte{0})
	return text, terminated
}

// endsWell reports that the options lead to an End option.
func endsWell(options []byte) bool {
	for len(options) > 0 {
		switch code := options[0]; {
		case code == 255:
			return true
		case code == 0:
			options = options[1:]
		case len(options) < 2 || len(options) < 2+int(options[1]):
			return false
		default:
			options = options[2+int(options[1]):]
		}
	}
	return false
}
