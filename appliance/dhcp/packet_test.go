package dhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"rescuebox/appliance/boot"
)

func TestClient(t *testing.T) {
	discover := func(change ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		return request(mac(1), dhcpv4.MessageTypeDiscover, change...)
	}
	uuid := boot.UUID{0x4c, 0x4c, 0x45, 0x44, 0, 0x42, 0x35, 0x10, 0x80, 0x54, 0xb4, 0xc0, 0x4f, 0x56, 0x44, 0x32}
	wire := []byte{0, 0x44, 0x45, 0x4c, 0x4c, 0x42, 0, 0x10, 0x35, 0x80, 0x54, 0xb4, 0xc0, 0x4f, 0x56, 0x44, 0x32}
	tests := []struct {
		name   string
		packet *dhcpv4.DHCPv4
		want   boot.Client // zero: no boot client
	}{
		{"running system", discover(text(60, "MSFT 5.0")), boot.Client{}},
		{"nothing at all", discover(), boot.Client{}},
		{"BIOS", discover(bios), boot.Client{Arch: boot.BIOS, Program: boot.Firmware, VendorClass: "PXEClient:Arch:00000:UNDI:002001"}},
		{"UEFI", discover(uefi), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware, VendorClass: "PXEClient:Arch:00007:UNDI:003016"}},
		{"several architectures", discover(text(60, "PXEClient"), opt(93, 0, 7, 0, 9)), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware, VendorClass: "PXEClient"}},
		{"no option 93", discover(text(60, "PXEClient")), boot.Client{Arch: boot.BIOS, Program: boot.Firmware, VendorClass: "PXEClient"}},
		{"no option 93, class tells", discover(text(60, "PXEClient:Arch:00007:UNDI:003016")), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware, VendorClass: "PXEClient:Arch:00007:UNDI:003016"}},
		{"no option 60", discover(opt(93, 0, 7)), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware}},
		{"odd option 93", discover(text(60, "PXEClient"), opt(93, 7)), boot.Client{Arch: boot.BIOS, Program: boot.Firmware, VendorClass: "PXEClient"}},
		{"HTTP Boot", discover(text(60, "HTTPClient:Arch:00016"), opt(93, 0, 16)), boot.Client{Arch: boot.HTTPX64, Program: boot.Firmware, VendorClass: "HTTPClient:Arch:00016"}},
		{"iPXE, raw class", discover(opt(93, 0, 0), text(77, "iPXE")), boot.Client{Arch: boot.BIOS, Program: boot.IPXE, UserClass: "iPXE"}},
		{"iPXE, RFC 3004", discover(opt(93, 0, 0), text(77, "\x04iPXE\x03abc")), boot.Client{Arch: boot.BIOS, Program: boot.IPXE, UserClass: "iPXE"}},
		{"FlexBoot", discover(opt(93, 0, 7), opt(175, 1, 1, 0)), boot.Client{Arch: boot.UEFIX64, Program: boot.IPXE}},
		{"UUID", discover(opt(93, 0, 7), opt(97, wire...)), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware, UUID: uuid}},
		{"UUID of type 1", discover(opt(93, 0, 7), opt(97, append([]byte{1}, wire[1:]...)...)), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware}},
		{"UUID too short", discover(opt(93, 0, 7), opt(97, wire[:9]...)), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware}},
		{"UUID of nobody", discover(opt(93, 0, 7), opt(97, append([]byte{0}, bytes.Repeat([]byte{0xff}, 16)...)...)), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware}},
		{"UUID of everybody", discover(opt(93, 0, 7), opt(97, 0, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9)), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware}},
		{"UUID of everybody, swapped", discover(opt(93, 0, 7), opt(97, 0, 3, 0, 2, 0, 4, 0, 5, 0, 0, 6, 0, 7, 0, 8, 0, 9)), boot.Client{Arch: boot.UEFIX64, Program: boot.Firmware}},
		{"control characters", discover(text(60, "PXEClient\x1b[31m\nx")), boot.Client{Arch: boot.BIOS, Program: boot.Firmware, VendorClass: "PXEClient[31mx"}},
		{"relayed", discover(bios, giaddr("10.5.0.1")), boot.Client{Arch: boot.BIOS, Program: boot.Firmware, VendorClass: "PXEClient:Arch:00000:UNDI:002001", Relay: netip.MustParseAddr("10.5.0.1")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := parse(tt.packet.ToBytes())
			if err != nil {
				t.Fatal(err)
			}
			if tt.want != (boot.Client{}) {
				tt.want.MAC = mac(1)
			}
			if diff := cmp.Diff(tt.want, p.client, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			if (p.notBoot == "") == (tt.want == boot.Client{}) {
				t.Errorf("reason %q", p.notBoot)
			}
		})
	}
}

func TestParse(t *testing.T) {
	good := request(mac(1), dhcpv4.MessageTypeDiscover, uefi).ToBytes()
	change := func(f func([]byte) []byte) []byte { return f(bytes.Clone(good)) }
	set := func(at int, v ...byte) []byte {
		return change(func(b []byte) []byte { copy(b[at:], v); return b })
	}
	end := bytes.LastIndexByte(good, 255)
	tests := []struct {
		name string
		raw  []byte
		key  string // "" is good
	}{
		{"good", good, ""},
		{"no End option", good[:end], ""},
		{"options in the file field", overloaded(good), ""},
		{"short", good[:239], "size"},
		{"long", make([]byte, maxPacket+1), "size"},
		{"a reply", set(0, 2), "op"},
		{"no Ethernet", set(1, 6), "hardware"},
		{"16-byte address", set(2, 16), "hardware"},
		{"no address", set(28, 0, 0, 0, 0, 0, 0), "hardware"},
		{"multicast address", set(28, 1), "hardware"},
		{"17 relays", set(3, 17), "hops"},
		{"no cookie", set(236, 0), "format"},
		{"option past the end", append(bytes.Clone(good[:end]), 60, 200, 1), "format"},
		{"BOOTP", request(mac(1), dhcpv4.MessageTypeNone).ToBytes(), "type"},
		{"an offer", request(mac(1), dhcpv4.MessageTypeOffer).ToBytes(), "type"},
		{"client identifier of 300 bytes", request(mac(1), dhcpv4.MessageTypeDiscover, opt(61, make([]byte, 300)...)).ToBytes(), "option"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := parse(tt.raw)
			var b *badPacket
			if errors.As(err, &b); (b == nil) != (tt.key == "") || b != nil && b.key != tt.key {
				t.Errorf("error %v, want %q", err, tt.key)
			}
			if err == nil && p.client.Arch != boot.UEFIX64 {
				t.Errorf("client %+v", p.client)
			}
		})
	}
}

// overloaded moves the options of a packet into its file field.
func overloaded(b []byte) []byte {
	opts := b[240 : bytes.LastIndexByte(b, 255)+1]
	out := append(bytes.Clone(b[:240]), 52, 1, 1, 255)
	copy(out[offFile:offOpts], opts)
	return out
}

func TestLongFileNameIsRefused(t *testing.T) {
	c := boot.Client{MAC: mac(1), Program: boot.IPXE}
	self := netip.MustParseAddr("192.168.77.1")
	if f, err := bootFileFor(c, boot.Decision{File: strings.Repeat("x", 100)}, self, 80); err == nil {
		t.Errorf("name of %d bytes would be cut", len(f))
	}
	if f, err := bootFileFor(c, boot.Decision{File: "boot.ipxe"}, self, 8080); err != nil || f != "http://192.168.77.1:8080/boot/525400000001/boot.ipxe" {
		t.Error(f, err)
	}
}

// TestReplyFits: a client's own long options do not push the boot file out.
func TestReplyFits(t *testing.T) {
	a := answer{
		kind: dhcpv4.MessageTypeOffer, server: netip.MustParseAddr("192.168.77.1"), yiaddr: netip.MustParseAddr("192.168.77.100"), lease: time.Hour,
		net: &network{prefix: netip.MustParsePrefix("192.168.77.0/24")}, dns: make([]byte, 120), domain: strings.Repeat("d", 60),
		boot: &bootPart{file: strings.Repeat("f", maxFile), class: "PXEClient", dialect: Dialect{Control: true}},
	}
	for _, size := range []uint16{0, 576, 1472, 65280} {
		change := []dhcpv4.Modifier{bios, opt(82, make([]byte, 60)...)}
		if size > 0 {
			change = append(change, opt(57, byte(size>>8), byte(size)))
		}
		p, err := parse(request(mac(1), dhcpv4.MessageTypeDiscover, change...).ToBytes())
		if err != nil {
			t.Fatal(err)
		}
		b, err := render(p, a)
		if limit := max(576, min(int(size), 1472)) - 28; err != nil || len(b) > limit {
			t.Errorf("option 57 = %d: reply of %d bytes, %v; want at most %d", size, len(b), err, limit)
		}
		r, err := dhcpv4.FromBytes(b)
		if err != nil || r.BootFileName != a.boot.file || !r.Options.Has(dhcpv4.OptionBootfileName) {
			t.Errorf("option 57 = %d: boot file is lost: %v", size, err)
		}
	}
}

func TestFrame(t *testing.T) {
	src, dst := netip.MustParseAddrPort("192.168.77.1:67"), netip.MustParseAddrPort("192.168.77.100:68")
	for _, payload := range []string{"odd", "even", strings.Repeat("\xff", 301)} {
		f := udpFrame(mac(1), mac(2), src, dst, []byte(payload))
		if s := sum(0, f[lenEther:lenEther+lenIP]); s != 0xffff {
			t.Errorf("IP checksum: sum is %#x", s)
		}
		if s := udpSum(bytes.Clone(f), binary.BigEndian.Uint16(f[lenEther+lenIP+6:])); s != 0xffff {
			t.Errorf("UDP checksum: sum is %#x", s)
		}
		d, ok := readUDP(f)
		if !ok || d.mac != mac(1) || d.src != src || d.dst != dst || string(d.payload) != payload {
			t.Errorf("read back %+v", d)
		}
	}
	zero := udpFrame(mac(1), mac(2), src, dst, sumOfZero(make([]byte, 300), src, dst))
	if got := binary.BigEndian.Uint16(zero[lenEther+lenIP+6:]); got != 0 {
		t.Errorf("a checksum of zero goes out as %#x", got)
	}
	m, a, ok := readARP(arpProbe(mac(3), dst.Addr()))
	if !ok || m != mac(3) || a != dst.Addr() {
		t.Errorf("a probe claims %v %v %v, want its target", m, a, ok)
	}
}

// seeds are packets to begin fuzzing with.
func seeds(f *testing.F, add func([]byte)) {
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		add(parseHex(f, string(text)))
	}
	add(overloaded(request(mac(1), dhcpv4.MessageTypeRequest, uefi).ToBytes()))
}

func FuzzParse(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := parse(raw)
		if (p == nil) != (err != nil) {
			t.Fatal("a result and an error, or neither")
		}
		if p != nil && (p.notBoot == "") == (p.client == boot.Client{}) {
			t.Errorf("client %+v, reason %q", p.client, p.notBoot)
		}
	})
}

// FuzzReply: whatever parses is answered by something that parses, short
// enough for a frame, with the boot file whole, on a way that exists.
func FuzzReply(f *testing.F) {
	seeds(f, func(b []byte) { f.Add(b, byte(2), true) })
	f.Fuzz(func(t *testing.T, raw []byte, kind byte, full bool) {
		p, err := parse(raw)
		if err != nil {
			return
		}
		a := answer{
			kind: dhcpv4.MessageType(2 + kind%5), server: netip.MustParseAddr("192.168.77.1"), yiaddr: netip.MustParseAddr("192.168.77.100"),
			net: &network{prefix: netip.MustParsePrefix("192.168.77.0/24")}, message: "no",
		}
		var rest []Dialect
		if p.notBoot == "" {
			rest = ladderOf(p.client, full)
		}
		d := append(rest, Dialect{})[int(kind/5)%(len(rest)+1)]
		a.boot = partFor(p.client, "boot/525400123456/snponly.efi", d, full)
		if local := leaveAlone(p.client, full, a.server, 80); local != nil && kind&0x80 != 0 {
			a.boot = local
		}
		b, err := render(p, a)
		if err != nil {
			return
		}
		r, err := dhcpv4.FromBytes(b)
		if err != nil || len(b) > maxMessageSize || r.TransactionID != p.TransactionID {
			t.Fatalf("reply of %d bytes: %v", len(b), err)
		}
		if inHeader := a.boot.local || d.File == FileBoth || d.File == FileHeader; a.kind != dhcpv4.MessageTypeNak && (!a.boot.local || a.boot.file != "") && inHeader != (r.BootFileName == a.boot.file) {
			t.Errorf("boot file %q in dialect %+v", r.BootFileName, d)
		}
		routeOf(p, a.kind, a.yiaddr)
	})
}

// FuzzFrame: frames of others, as UDP, ARP and as another server's answer.
func FuzzFrame(f *testing.F) {
	f.Add(arpProbe(mac(1), netip.MustParseAddr("192.168.77.9")))
	seeds(f, func(b []byte) {
		f.Add(udpFrame(mac(1), mac(2), netip.MustParseAddrPort("192.168.77.9:67"), netip.MustParseAddrPort("255.255.255.255:68"), b))
	})
	f.Fuzz(func(t *testing.T, frame []byte) {
		readARP(frame)
		dg, ok := readUDP(frame)
		if !ok {
			return
		}
		if d, err := decode(dg.payload); err == nil {
			if o, ok := otherServer(d, dg); ok && !o.Addr.IsValid() {
				t.Error("a server without address")
			}
		}
	})
}
