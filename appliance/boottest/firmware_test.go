package boottest

import (
	"net"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// offer makes one: its options, its address, its boot file.
func offer(name, addr, class, vendor, file string) *Answer {
	r := &dhcpv4.DHCPv4{YourIPAddr: net.ParseIP(addr).To4(), BootFileName: file, ServerHostName: name, Options: dhcpv4.Options{54: {10, 0, 0, 1}}}
	if class != "" {
		r.Options[60] = []byte(class)
	}
	if vendor != "" {
		r.Options[43] = []byte(vendor)
	}
	return &Answer{DHCPv4: r}
}

const (
	none     = "0.0.0.0"
	pxe      = "PXEClient"
	control8 = "\x06\x01\x08\xff"
)

func nameOf(a *Answer) string {
	if a == nil {
		return "-"
	}
	return a.ServerHostName
}

// TestSelect: which offers the firmwares take. The rows about EDK2 are those
// of PxeBcSelectDhcp4Offer; what no row takes leaves the firmware without a boot.
func TestSelect(t *testing.T) {
	site := offer("site", "10.0.0.5", "", "", "")
	stray := offer("stray", "10.0.0.5", pxe, "", "") // a DHCP server that sends option 60 to all (edk2#8149)
	file := offer("file", "10.0.0.5", "", "", "x.efi")
	whole := offer("whole", "10.0.0.5", pxe, control8, "x.efi")
	binl := offer("binl", none, pxe, "", "x.efi")
	pxe10 := offer("pxe10", none, pxe, control8, "x.efi")
	mute := offer("mute", none, "", "", "x.efi")
	web := offer("web", none, "HTTPClient", "", "http://10.0.0.1/x.iso")
	webWhole := offer("webwhole", "10.0.0.5", "HTTPClient", "", "http://10.0.0.1/x.iso")
	tests := []struct {
		name   string
		offers []*Answer
		want   string // EDK2 old, EDK2 new, iPXE, HTTP Boot
	}{
		{"nobody", nil, "- -, - -, - -, - -"},
		{"the site's only", []*Answer{site}, "- -, - -, site -, - -"},
		{"the site's names a file", []*Answer{file}, "file -, file -, file -, - -"},
		{"proxy without 43", []*Answer{site, binl}, "site binl, site binl, site binl, - -"},
		{"proxy first", []*Answer{binl, site}, "site binl, site binl, site binl, - -"},
		{"proxy with 43", []*Answer{site, pxe10}, "- -, site pxe10, site pxe10, - -"},
		{"proxy without 60", []*Answer{site, mute}, "- -, - -, site -, - -"},
		{"complete", []*Answer{whole}, "whole -, whole -, whole -, - -"},
		{"complete beside the site's", []*Answer{site, whole}, "whole -, whole -, site -, - -"},
		{"a stray option 60 wins over our proxy", []*Answer{stray, binl}, "stray -, stray -, stray binl, - -"},
		{"proxy for HTTP Boot", []*Answer{site, web}, "- -, - -, site -, site web"},
		{"HTTP Boot whole", []*Answer{webWhole}, "webwhole -, webwhole -, webwhole -, webwhole -"},
		{"PXE answer to HTTP Boot", []*Answer{site, binl}, "site binl, site binl, site binl, - -"},
	}
	for _, tt := range tests {
		var got []string
		for _, choose := range []func([]*Answer) (*Answer, *Answer){
			func(o []*Answer) (*Answer, *Answer) { return edk2Select(o, true) },
			func(o []*Answer) (*Answer, *Answer) { return edk2Select(o, false) }, ipxeSelect, httpSelect,
		} {
			plain, proxy := choose(tt.offers)
			got = append(got, nameOf(plain)+" "+nameOf(proxy))
		}
		if got := strings.Join(got, ", "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestLocalMenu: the menu that sends firmware to its disk, and others that do not.
func TestLocalMenu(t *testing.T) {
	for vendor, want := range map[string]bool{
		"\x06\x01\x03\x09\x08\x00\x00\x05Local\x0a\x02\x00x\xff": true,
		"\x06\x01\x03\x09\x08\x00\x01\x05Local\x0a\x02\x00x\xff": false, // another item
		"\x06\x01\x03\x09\x08\x00\x00\x05Local\x0a\x02\x05x\xff": false, // waits 5 s
		control8: false, "": false,
	} {
		if got := offer("x", "10.0.0.5", pxe, vendor, "").localMenu(); got != want {
			t.Errorf("%x: %t", vendor, got)
		}
	}
}
