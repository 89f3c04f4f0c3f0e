package boottest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestCaptures replays what real firmware sent, as it was captured on its
// wire, and compares our answers with golden text. To add a firmware, put its capture into testdata:
//
//	tcpdump -i eth1 -s 0 -w testdata/NAME.pcap 'udp port 67 or udp port 68 or udp port 4011'
//
// or as text, tcpdump -nn -xx in place of -w, and run the test with GOLDEN=1.
// The machine is ordered to boot, the box has the addresses that the
// client's packets speak of: those of the site in this package and in scripts/lab.
// Beside another DHCP server the client speaks to both; of the capture only its
// DISCOVERs and what it asks on port 4011 fit there.
func TestCaptures(t *testing.T) {
	files, err := filepath.Glob("testdata/*.[pt]*")
	if err != nil || len(files) == 0 {
		t.Fatal("no captures in testdata", err)
	}
	for _, file := range files {
		for _, m := range modes[:2] {
			name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)) + "-" + m.name
			t.Run(name, func(t *testing.T) {
				golden(t, filepath.Join("testdata", name+".golden"), replay(t, m, requests(t, file)))
			})
		}
	}
}

// replay sends a client's packets to a box and returns what it answered.
func replay(t *testing.T, m mode, frames [][]byte) string {
	mac := net.HardwareAddr(frames[0][6:12])
	s := newSite(t, m, fmt.Sprintf("[[machine]]\nname = \"srv01\"\nmac = [%q]\n", mac.String()))
	s.order("srv01", "rescue")
	machine := s.machine(mac, 1)
	defer machine.Card.Unplug()
	fresh := map[dhcpv4.TransactionID]dhcpv4.TransactionID{}
	var out strings.Builder
	for _, f := range frames {
		d := messageOf(t, f)
		port := binary.BigEndian.Uint16(f[lenEther+22:])
		if m.server && d.MessageType() != dhcpv4.MessageTypeDiscover && port != portBoot {
			continue
		}
		if _, known := fresh[d.TransactionID]; !known {
			fresh[d.TransactionID] = newXID()
		}
		fmt.Fprintf(&out, "> %s, secs %d, to port %d\n", d.MessageType(), d.NumSeconds, port)
		d.TransactionID = fresh[d.TransactionID]
		copy(f[lenHeaders+4:], d.TransactionID[:])
		answer := machine.resend(t, f, d)
		out.WriteString(strings.ReplaceAll(strings.ReplaceAll(answer, d.TransactionID.String(), "(the client's)"), "\x00", `\0`) + "\n")
	}
	for _, c := range machine.out.Complaints {
		t.Errorf("chokes: %s", c)
	}
	return out.String()
}

// messageOf is the DHCP message in a frame.
func messageOf(t *testing.T, frame []byte) *dhcpv4.DHCPv4 {
	d, err := dhcpv4.FromBytes(frame[lenHeaders:])
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// answerWithin is how long an answer is waited for; silence takes so long.
const answerWithin = 4 * time.Second

// resend sends a frame as it is, but for its addresses on the Ethernet, and
// returns the box's answer as text.
func (m *Machine) resend(t *testing.T, frame []byte, d *dhcpv4.DHCPv4) string {
	copy(frame, "\xff\xff\xff\xff\xff\xff")
	copy(frame[lenEther+26:], "\x00\x00") // no checksum: the xid has changed
	m.self.broadcast = d.IsBroadcast()
	if own := addrOf(d.ClientIPAddr.To4()); own.IsValid() && !own.IsUnspecified() {
		m.Card.setAddress(netip.PrefixFrom(own, 24), netip.Addr{}) // so that the kernel answers ARP for it
	}
	card, err := m.Card.raw()
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	if _, err := card.Write(frame); err != nil {
		t.Fatal(err)
	}
	card.SetReadDeadline(time.Now().Add(answerWithin))
	buf := make([]byte, 1<<16)
	for {
		n, err := card.Read(buf)
		if err != nil {
			return "nothing\n"
		}
		if a := m.hear(d, bytes.Clone(buf[:n])); a != nil && a.id().String() == "192.168.77.1" {
			return fmt.Sprintf("from %s, to all: %t\n%s", a.src, a.toAll, a.Summary())
		}
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Error(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; now it is\n%s", file, got)
	}
}

// requests are the frames of a capture that a client sent to DHCP servers.
func requests(t *testing.T, file string) (list [][]byte) {
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all, err := readCapture(content)
	if err != nil {
		t.Fatal(file, err)
	}
	for _, f := range all {
		if g, err := parseFrame(f); err == nil && (g.dst.Port() == portServer || g.dst.Port() == portBoot) && len(g.payload) > offOptions {
			list = append(list, f)
		}
	}
	if len(list) == 0 {
		t.Fatalf("%s has no DHCP requests on Ethernet", file)
	}
	return list
}

var errCapture = errors.New("no capture of whole Ethernet frames: neither pcap nor the text of tcpdump -xx")

// readCapture reads pcap (the format of tcpdump -w, with micro- or
// nanoseconds), or the text of tcpdump -xx.
func readCapture(content []byte) (frames [][]byte, err error) {
	const fileHeader, recordHeader, ethernet = 24, 16, 1
	if len(content) < fileHeader {
		return nil, errCapture
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch binary.BigEndian.Uint32(content) {
	case 0xd4c3b2a1, 0x4d3cb2a1:
	case 0xa1b2c3d4, 0xa1b23c4d:
		order = binary.BigEndian
	default:
		return readDump(string(content))
	}
	if order.Uint32(content[20:]) != ethernet {
		return nil, errCapture
	}
	for rest := content[fileHeader:]; len(rest) >= recordHeader; {
		n := order.Uint32(rest[8:])
		if uint64(n)+recordHeader > uint64(len(rest)) || n != order.Uint32(rest[12:]) {
			return nil, errCapture // cut short: -s 0 was forgotten
		}
		frames = append(frames, bytes.Clone(rest[recordHeader:recordHeader+n]))
		rest = rest[recordHeader+n:]
	}
	return frames, nil
}

// readDump reads lines such as "	0x0010:  0190 0000 0000"; 0x0000 begins a frame.
func readDump(text string) (frames [][]byte, err error) {
	for line := range strings.Lines(text) {
		at, data, ok := strings.Cut(strings.TrimSpace(line), ":  ")
		if !ok || !strings.HasPrefix(at, "0x") {
			continue
		}
		b, err := hex.DecodeString(strings.ReplaceAll(data, " ", ""))
		if err != nil {
			return nil, errCapture
		}
		if at == "0x0000" {
			frames = append(frames, nil)
		}
		if len(frames) == 0 {
			return nil, errCapture
		}
		last := &frames[len(frames)-1]
		*last = append(*last, b...)
	}
	if len(frames) == 0 {
		return nil, errCapture
	}
	return frames, nil
}

// TestReadCapture reads one frame in every form.
func TestReadCapture(t *testing.T) {
	frame := broadcastFrame(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, []byte("payload"))
	pcap := func(order binary.AppendByteOrder, magic uint32) []byte {
		b := order.AppendUint32(nil, magic)
		b = append(b, make([]byte, 16)...)
		b = order.AppendUint32(b, 1)
		b = append(b, make([]byte, 8)...)
		b = order.AppendUint32(order.AppendUint32(b, uint32(len(frame))), uint32(len(frame)))
		return append(b, frame...)
	}
	text := "12:00:00 IP 0.0.0.0.68 > 255.255.255.255.67\n"
	for i := 0; i < len(frame); i += 16 {
		text += fmt.Sprintf("\t0x%04x:  %x\n", i, frame[i:min(i+16, len(frame))])
	}
	for name, content := range map[string][]byte{"little": pcap(binary.LittleEndian, 0xa1b2c3d4), "big": pcap(binary.BigEndian, 0xa1b23c4d), "text": []byte(text)} {
		if got, err := readCapture(content); err != nil || len(got) != 1 || !bytes.Equal(got[0], frame) {
			t.Errorf("%s: %x %v", name, got, err)
		}
		if name != "text" {
			if _, err := readCapture(content[:len(content)-1]); err == nil {
				t.Errorf("%s: cut short and read", name)
			}
		}
	}
}

func FuzzReadCapture(f *testing.F) {
	f.Add([]byte("\t0x0000:  ffff ffff ffff 5254\n\t0x0008:  00\n"))
	f.Add(binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4))
	f.Fuzz(func(t *testing.T, content []byte) {
		frames, err := readCapture(content)
		if err != nil && frames != nil {
			t.Error("an error and frames")
		}
	})
}
