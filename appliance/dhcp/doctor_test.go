package dhcp

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"rescuebox/appliance/boot"
)

// What a server's answer to one kind of client does to it.
func TestEffects(t *testing.T) {
	self, site, next := netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("192.168.77.254"), netip.MustParseAddr("10.0.0.9")
	kinds := Kinds()
	plain, bios, uefi, http := kinds[0], kinds[1], kinds[2], kinds[3]
	for name, test := range map[string]struct {
		said Said
		want []string
	}{
		"addresses only":                {Said{Kind: uefi}, nil},
		"option 60 to UEFI":             {Said{Kind: uefi, OtherServer: OtherServer{VendorClass: "PXEClient"}}, []string{"foreign-option60"}},
		"option 60 to BIOS":             {Said{Kind: bios, OtherServer: OtherServer{VendorClass: "PXEClient"}}, nil},
		"option 60 and 43 to UEFI":      {Said{Kind: uefi, Vendor: []byte{6, 1, 8}, OtherServer: OtherServer{VendorClass: "PXEClient"}}, []string{"foreign-option43"}},
		"boot file":                     {Said{Kind: bios, OtherServer: OtherServer{BootFile: "pxelinux.0"}}, []string{"foreign-bootfile"}},
		"boot file on us":               {Said{Kind: bios, OtherServer: OtherServer{BootFile: "ours", NextServer: self}}, nil},
		"next server elsewhere":         {Said{Kind: uefi, OtherServer: OtherServer{NextServer: next}}, []string{"wrong-next-server"}},
		"next server itself":            {Said{Kind: uefi, OtherServer: OtherServer{NextServer: site}}, nil},
		"proxyDHCP":                     {Said{Kind: uefi, OtherServer: OtherServer{VendorClass: "PXEClient", Proxy: true}}, []string{"other-proxydhcp"}},
		"another box":                   {Said{Kind: uefi, OtherServer: OtherServer{VendorClass: "PXEClient", Box: true}}, nil},
		"HTTP Boot with a URL":          {Said{Kind: http, OtherServer: OtherServer{VendorClass: "HTTPClient", BootFile: "http://x/y.efi"}}, []string{"foreign-bootfile"}},
		"a running system's boot file":  {Said{Kind: plain, OtherServer: OtherServer{BootFile: "pxelinux.0"}}, nil},
		"all wrong, as one server does": {Said{Kind: bios, Vendor: []byte{6, 1, 8}, OtherServer: OtherServer{BootFile: "x", NextServer: next}}, []string{"foreign-option43", "foreign-bootfile", "wrong-next-server"}},
	} {
		test.said.Addr = site
		var got []string
		for _, e := range test.said.Effects(self) {
			got = append(got, e.Key)
			if e.Text == "" || e.Hint == "" {
				t.Errorf("%s: %+v", name, e)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// stp is a configuration BPDU as Linux' bridge sends it.
var stp = append([]byte{0x01, 0x80, 0xc2, 0, 0, 0, 0x52, 0x54, 0, 0, 0, 1, 0, 38, 0x42, 0x42, 3,
	0, 0, 0, 0, 0, 0x80, 0, 0x52, 0x54, 0, 0, 0, 1, 0, 0, 0, 0, 0x80, 0, 0x52, 0x54, 0, 0, 0, 1, 0x80, 1,
	0, 0, 20, 0, 2, 0, 15, 0}, make([]byte, 8)...)

func TestReadBPDU(t *testing.T) {
	got, ok := readBPDU(stp)
	if d := cmp.Diff(BPDU{Version: 0, ForwardDelay: 15 * time.Second}, got); d != "" || !ok {
		t.Error(ok, d)
	}
	rapid := slices.Clone(stp)
	rapid[19], rapid[20] = 2, 2
	if got, ok := readBPDU(rapid); !ok || got.Version != 2 {
		t.Errorf("rapid spanning tree: %+v, %v", got, ok)
	}
	change := slices.Clone(stp)
	change[20] = 0x80 // topology change
	if _, ok := readBPDU(change); ok {
		t.Error("a topology change has no timers")
	}
}

func FuzzReadBPDU(f *testing.F) {
	f.Add(stp)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if b, ok := readBPDU(frame); ok && (b.ForwardDelay < 0 || b.ForwardDelay > 256*time.Second) {
			t.Errorf("%+v", b)
		}
	})
}

// The answers of other servers are foreign bytes.
func FuzzAnswerTo(f *testing.F) {
	own := boot.MAC{2, 0, 0, 0, 0, 1}
	d, err := discoverAs(Kinds()[2], own)
	if err != nil {
		f.Fatal(err)
	}
	asked := map[dhcpv4.TransactionID]Kind{d.TransactionID: Kinds()[2]}
	reply := *d
	reply.OpCode = dhcpv4.OpcodeBootReply
	reply.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeOffer))
	offer := udpFrame(boot.MAC{2, 0, 0, 0, 0, 2}, own, netip.MustParseAddrPort("192.168.77.254:67"), netip.MustParseAddrPort("255.255.255.255:68"), reply.ToBytes())
	if _, ok := answerTo(asked, own, offer); !ok {
		f.Error("the seed is no answer")
	}
	f.Add(offer)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if a, ok := answerTo(asked, own, frame); ok {
			a.Effects(netip.MustParseAddr("192.168.77.1"))
		}
	})
}
