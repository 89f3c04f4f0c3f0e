package boottest

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// goodReply is an offer that no firmware chokes on, and the request before it.
func goodReply() (request *dhcpv4.DHCPv4, reply *dhcpv4.DHCPv4) {
	m := &Machine{Card: &Card{MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}}, self: uefiX64, UUID: [16]byte{1}}
	m.self.maxSize = 0
	request = m.packet(dhcpv4.MessageTypeDiscover, dhcpv4.TransactionID{1, 2, 3, 4}, 0)
	reply = &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootReply, HWType: 1, ClientHWAddr: m.Card.MAC, TransactionID: request.TransactionID,
		ServerIPAddr: net.IP{192, 168, 77, 1}, GatewayIPAddr: net.IPv4zero, BootFileName: "boot/x.efi", Options: dhcpv4.Options{
			53: {2}, 54: {192, 168, 77, 1}, 60: []byte("PXEClient"), 67: []byte("boot/x.efi\x00"), 97: append([]byte{0, 1}, make([]byte, 15)...)}}
	return request, reply
}

// TestChokes breaks a good answer in each way that some firmware does not
// survive, and wants it told.
func TestChokes(t *testing.T) {
	drop := func(code uint8) func(*dhcpv4.DHCPv4) {
		return func(r *dhcpv4.DHCPv4) { delete(r.Options, code) }
	}
	put := func(code uint8, v string) func(*dhcpv4.DHCPv4) {
		return func(r *dhcpv4.DHCPv4) { r.Options[code] = []byte(v) }
	}
	tests := []struct {
		name   string
		change func(*dhcpv4.DHCPv4)
		bytes  func([]byte) []byte
		from   string
		want   string
	}{
		{"good", nil, nil, "", ""},
		{"97 missing", drop(97), nil, "", "option 97"},
		{"97 of another", put(97, "\x00another machine's"), nil, "", "option 97"},
		{"67 without NUL", put(67, "boot/x.efi"), nil, "", "does not end in NUL"},
		{"67 missing", drop(67), nil, "", "no option 67"},
		{"67 and header differ", put(67, "boot/y.efi\x00"), nil, "", "header's boot file name"},
		{"60 missing", drop(60), nil, "", "no option 60"},
		{"54 missing", drop(54), nil, "", "no server identifier"},
		{"no file in the header", func(r *dhcpv4.DHCPv4) { r.BootFileName = "" }, nil, "", "no boot file name in the header"},
		{"header without NUL", nil, func(b []byte) []byte {
			copy(b[offFile:offCookie], bytes.Repeat([]byte("x"), 128))
			return b
		}, "", "no NUL within 128 bytes"},
		{"no next server", func(r *dhcpv4.DHCPv4) { r.ServerIPAddr = net.IPv4zero }, nil, "", "no next server"},
		{"another's address", nil, nil, "192.168.77.9:67", "comes from 192.168.77.9"},
		{"another port", nil, nil, "192.168.77.1:1067", "comes from port 1067"},
		{"too long", put(43, strings.Repeat("x", 255)), func(b []byte) []byte { return append(b, make([]byte, 100)...) }, "", "the client takes 548"},
		{"too short", nil, func(b []byte) []byte { return bytes.TrimRight(b, "\x00") }, "", "want 300"},
		{"no end", nil, func(b []byte) []byte { return bytes.Replace(b, []byte{255}, []byte{0}, 1) }, "", "no end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			request, reply := goodReply()
			if tt.change != nil {
				tt.change(reply)
			}
			payload := reply.ToBytes()
			if tt.bytes != nil {
				payload = tt.bytes(payload)
			}
			a := &Answer{DHCPv4: reply, src: netip.MustParseAddrPort("192.168.77.1:67")}
			if tt.from != "" {
				a.src = netip.MustParseAddrPort(tt.from)
			}
			got := strings.Join(chokes(request, a, payload), "; ")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("told %q, want %q", got, tt.want)
			}
		})
	}
}

// TestFragments: firmware cannot put a datagram together again.
func TestFragments(t *testing.T) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	f := broadcastFrame(mac, []byte("x"))
	if g, err := parseFrame(f); err != nil || string(g.payload) != "x" || g.dst.Port() != portServer {
		t.Fatalf("own frame: %+v %v", g, err)
	}
	f[lenEther+6] |= 0x20 // more fragments
	m := &Machine{Card: &Card{MAC: mac}}
	if m.hear(m.packet(dhcpv4.MessageTypeDiscover, dhcpv4.TransactionID{}, 0), f) != nil || len(m.out.Complaints) != 1 {
		t.Errorf("a fragment: %v", m.out.Complaints)
	}
}

// TestBroadcastOnly: who asked for broadcasts does not hear what is sent to it alone.
func TestBroadcastOnly(t *testing.T) {
	request, reply := goodReply()
	m := &Machine{Card: &Card{MAC: request.ClientHWAddr}, self: uefiX64}
	f := broadcastFrame(request.ClientHWAddr, reply.ToBytes())
	copy(f[lenEther+12:], []byte{192, 168, 77, 1})
	f[lenEther+10], f[lenEther+11] = 0, 0
	sum := ^sum16(f[lenEther : lenEther+20])
	f[lenEther+10], f[lenEther+11] = byte(sum>>8), byte(sum)
	f[lenEther+21], f[lenEther+23] = portServer, portClient
	if a := m.hear(request, f); a == nil || len(m.out.Complaints) != 0 {
		t.Fatalf("a broadcast: %v %v", a, m.out.Complaints)
	}
	copy(f, request.ClientHWAddr)
	if m.hear(request, f) != nil || len(m.out.Complaints) != 1 {
		t.Errorf("sent to one: %v", m.out.Complaints)
	}
}

func FuzzFrame(f *testing.F) {
	request, reply := goodReply()
	f.Add(broadcastFrame(request.ClientHWAddr, reply.ToBytes()))
	f.Fuzz(func(t *testing.T, frame []byte) {
		m := &Machine{Card: &Card{MAC: request.ClientHWAddr}, self: uefiX64}
		if a := m.hear(request, frame); a != nil {
			edk2KindOf(a)
			a.localMenu()
			a.next()
		}
	})
}
