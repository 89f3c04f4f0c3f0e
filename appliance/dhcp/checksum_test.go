package dhcp

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestChecksumOfZero: udhcpc takes an answer whose UDP checksum comes out as zero. A server makes one in
// 65536, so here the test is the server, and puts into secs, at which no client looks, what makes it so.
func TestChecksumOfZero(t *testing.T) {
	need(t, "busybox", "busybox")
	l := newLAN(t)
	self := netip.MustParseAddr("192.168.77.1")
	link, err := openLink("srv", self)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.close)
	src, dst := netip.AddrPortFrom(self, portServer), netip.MustParseAddrPort("192.168.77.100:68")
	go func() {
		for buf := make([]byte, maxPacket); ; {
			n, _, err := link.main.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if p, err := parse(buf[:n]); err == nil {
				link.frame(p.mac, src, dst, sumOfZero(plainAnswer(p, self, dst.Addr()), src, dst))
			}
		}
	}()
	if out, err := udhcpc(t, l.peer("a", mac(1), ""), "-t", "3"); err != nil || !strings.Contains(out, "ip=192.168.77.100\n") {
		t.Errorf("udhcpc: %v\n%s", err, out)
	}
}

// plainAnswer offers an address, or gives it.
func plainAnswer(p *packet, self, addr netip.Addr) []byte {
	kind := dhcpv4.MessageTypeOffer
	if p.kind == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	b, err := render(p, answer{kind: kind, server: self, yiaddr: addr, lease: time.Hour, net: &network{prefix: netip.PrefixFrom(addr, 24).Masked()}})
	if err != nil {
		panic(err)
	}
	return b
}

// sumOfZero sets secs so that the checksum of the datagram comes out as zero.
func sumOfZero(payload []byte, src, dst netip.AddrPort) []byte {
	const secs = 8
	binary.BigEndian.PutUint16(payload[secs:], 0)
	f := udpFrame(mac(1), mac(2), src, dst, payload)
	binary.BigEndian.PutUint16(payload[secs:], ^udpSum(f, 0))
	return payload
}

// udpSum is the ones' complement sum over a frame's UDP datagram and pseudo header, with such a checksum.
func udpSum(f []byte, checksum uint16) uint16 {
	udp := f[lenEther+lenIP:]
	binary.BigEndian.PutUint16(udp[6:], checksum)
	pseudo := binary.BigEndian.AppendUint16(append([]byte(nil), f[26:34]...), protoUDP)
	return sum(sum(0, binary.BigEndian.AppendUint16(pseudo, uint16(len(udp)))), udp)
}
