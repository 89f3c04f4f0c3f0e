package ticket

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
)

// sample is a file of testdata.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ports(t testing.TB, list ...string) (ps []netip.AddrPort) {
	for _, s := range list {
		ps = append(ps, netip.MustParseAddrPort(s))
	}
	return ps
}

// samples are what the files of testdata say.
func samples(t testing.TB) map[string]Invitation {
	rai := Invitation{Code: "8rYm30RBW8/4dAWoUsWbFCF5jno/7jr5tNpHQc2goLbw4uuBBJvLsU02YYLlBMg5",
		Listeners: ports(t, "[2001:4898:1a:5:79e2:3356:9b22:3470]:49749", "172.31.250.64:49751")}
	return map[string]Invitation{
		"ms-rai.xml":          rai,
		"ms-rai-indented.xml": rai,
		"freerdp.xml":         {Code: "AuthString", Listeners: ports(t, "[fe80::6cf0:c374:dffd:c82]:51125", "172.16.1.118:51126")},
		"desktop-sharing.xml": {Code: "baseAuth", Listeners: ports(t, "[fe80::dc3d:7c76:b517:75fb]:5247", "192.168.10.175:5248")},
		"sixtofour.xml":       {Code: "ticket", Listeners: ports(t, "[2002:81ba:bcc2::81ba:bcc2]:2851", "129.186.188.194:2852")},
		"dart.xml":            {Code: "118-497-589", Listeners: ports(t, "[fe80::5054:ff:fe12:3456]:49160", "10.5.14.52:49161")},
		"websocket.xml":       {Code: "118-497-589", Websockets: ports(t, "192.168.77.100:8443"), Named: []uint16{3389}},
	}
}

func toUTF16(order binary.AppendByteOrder, text []byte) (b []byte) {
	for _, u := range utf16.Encode([]rune(string(text))) {
		b = order.AppendUint16(b, u)
	}
	return b
}

// encodings are the ways in which one text may stand on a Windows disk.
var encodings = map[string]func([]byte) []byte{
	"as it is":            func(b []byte) []byte { return b },
	"UTF-8 with mark":     func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) },
	"UTF-16LE with mark":  func(b []byte) []byte { return append([]byte("\xff\xfe"), toUTF16(binary.LittleEndian, b)...) },
	"UTF-16LE":            func(b []byte) []byte { return toUTF16(binary.LittleEndian, b) },
	"UTF-16BE with mark":  func(b []byte) []byte { return append([]byte("\xfe\xff"), toUTF16(binary.BigEndian, b)...) },
	"UTF-16BE":            func(b []byte) []byte { return toUTF16(binary.BigEndian, b) },
	"odd UTF-16":          func(b []byte) []byte { return append(toUTF16(binary.LittleEndian, b), '\n') },
	"NULs behind":         func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 100)...) },
	"^Z behind":           func(b []byte) []byte { return append(bytes.Clone(b), "\r\n\x1a"...) },
	"white space before":  func(b []byte) []byte { return append([]byte("\r\n\t "), b...) },
	"CR LF":               func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) },
	"what curl -d makes":  func(b []byte) []byte { return append([]byte("\xff\xfe"), bytes.ReplaceAll(b, []byte("\n"), nil)...) },
	"another declaration": func(b []byte) []byte { return declared(b, `<?xml version="1.0" encoding="UTF-16"?>`) },
	"code page": func(b []byte) []byte {
		return declared(b, `<?xml version="1.0" encoding="windows-1252"?>`+"<!-- \xe4\xf6 -->")
	},
	"spaces between":       func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("><"), []byte(">\t\n <")) },
	"spaces in attributes": func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(` N="`), []byte("\n  N = \" ")) },
	"unknown attributes": func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte("<L "), []byte(`<L x:Y="&lt;" xmlns="urn:z" Q='1' `))
	},
	"unknown elements": func(b []byte) []byte {
		return bytes.Replace(b, []byte("<C>"), []byte(`<B><A ID="no"/><C><T><L P="1" N="1.1.1.1"/></T></C></B><C><X/>text<!-- no --><?pi no?>`), 1)
	},
	"two transports": func(b []byte) []byte {
		return bytes.Replace(b, []byte("</C>"), []byte(`<T ID="2"/></C><C><T/></C><A ID="other"/>`), 1)
	},
}

func declared(b []byte, declaration string) []byte {
	if bytes.HasPrefix(b, []byte("<?")) {
		b = b[bytes.Index(b, []byte("?>"))+2:]
	}
	return append([]byte(declaration), b...)
}

var sameAddr = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// TestParseInvitation reads every known shape in every encoding.
func TestParseInvitation(t *testing.T) {
	for name, want := range samples(t) {
		for how, encode := range encodings {
			got, err := ParseInvitation(encode(sample(t, name)))
			if d := cmp.Diff(want, got, sameAddr); err != nil || d != "" {
				t.Errorf("%s, %s: %v, -want +got\n%s", name, how, err, d)
			}
		}
	}
}

func TestParseInvitationListeners(t *testing.T) {
	for listeners, want := range map[string]Invitation{
		`<L P="3389" N="10.0.0.1"/><L P="3389" N="10.0.0.1"/>`:                                                         {Listeners: ports(t, "10.0.0.1:3389")},
		`<L P="1" N="::ffff:10.0.0.1"/><L P="2" N="[fd00::1]"/>`:                                                       {Listeners: ports(t, "10.0.0.1:1", "[fd00::1]:2")},
		`<L P="0" N="10.0.0.1"/><L P="65536" N="10.0.0.2"/><L P="3" N="10.0.0.3"/>`:                                    {Listeners: ports(t, "10.0.0.3:3")},
		`<L P="4" N="fe80::1%$(reboot)"/>`:                                                                             {Listeners: ports(t, "[fe80::1]:4")},
		`<L P="5" N="PE-7"/><L P="5" N="pe-7.test"/><L P="7"/>`:                                                        {Named: []uint16{5}},
		`<L N="10.0.0.1" U="wss://pe-7/x"/><L N="pe-7" U="ws://[fd00::1%25eth0]/"/>`:                                   {Websockets: ports(t, "10.0.0.1:443", "[fd00::1]:80")},
		`<L U="wss://10.0.0.1:99999/"/><L U="ftp://10.0.0.1"/><L U="::"/><L P="8" U="wss://10.0.0.1:9" N="10.0.0.1"/>`: {Listeners: ports(t, "10.0.0.1:8")},
	} {
		got, err := ParseInvitation([]byte(`<E><A ID="118-497-589"/><C><T>` + listeners + `</T></C></E>`))
		want.Code = "118-497-589"
		if d := cmp.Diff(want, got, sameAddr); err != nil || d != "" {
			t.Errorf("%s: %v, -want +got\n%s", listeners, err, d)
		}
	}
}

// TestParseInvitationRefuses: what is refused gives no half result, and a
// reason in which nothing of the file stands.
func TestParseInvitationRefuses(t *testing.T) {
	const good = `<E><A ID="118-497-589"/><C><T><L P="3389" N="10.5.14.52"/></T></C></E>`
	laughs := `<!DOCTYPE E [<!ENTITY a "118-497-589">`
	for i := range 10 {
		laughs += fmt.Sprintf(`<!ENTITY %c "%s">`, 'b'+i, strings.Repeat(fmt.Sprintf("&%c;", 'a'+i), 10))
	}
	for name, c := range map[string]struct{ raw, want string }{
		"billion laughs":   {laughs + `]>` + strings.Replace(good, "118-497-589", "&k;", 1), "document type"},
		"external entity":  {`<!DOCTYPE E SYSTEM "file:///etc/118-497-589">` + good, "document type"},
		"DOCTYPE in UTF16": {string(toUTF16(binary.LittleEndian, []byte(`<!DOCTYPE E>`+good))), "document type"},
		"own entity":       {strings.Replace(good, "118-497-589", "&ticket;", 1), "no XML"},
		"deep":             {"<E>" + strings.Repeat("<x>", maxDepth) + strings.Repeat("</x>", maxDepth) + good[3:], "levels"},
		"very deep":        {strings.Repeat("<x>", MaxReport/3), "levels"},
		"long attribute":   {strings.Replace(good, "ID=", `CE="`+strings.Repeat("A", maxAttr+1)+`" ID=`, 1), "attributes"},
		"many attributes":  {strings.Replace(good, "ID=", strings.Repeat(`X="" `, maxAttrs)+"ID=", 1), "attributes"},
		"many listeners":   {strings.Replace(good, "<L", manyListeners()+"<L", 1), "listeners"},
		"too long":         {good + strings.Repeat(" ", MaxReport), fmt.Sprint(MaxReport)},
		"empty":            {"", "no element E"},
		"NULs":             {strings.Repeat("\x00", 64), "no element E"},
		"no XML":           {"Ticket: 118-497-589", "no element E"},
		"cut":              {good[:len(good)-10], "no XML"},
		"crossed":          {strings.Replace(good, "</T></C>", "</C></T>", 1), "no XML"},
		"another root":     {"<X>" + good + "</X>", "no element E"},
		"no ticket":        {strings.Replace(good, `ID="118-497-589"`, "", 1), "no ticket number"},
		"empty ticket":     {strings.Replace(good, "118-497-589", " ", 1), "no ticket number"},
		"a command":        {strings.Replace(good, "118-497-589", "118-497-589&amp;calc", 1), "form"},
		"an option":        {strings.Replace(good, "118-497-589", "-118-497-589", 1), "form"},
		"a line break":     {strings.Replace(good, "118-497-589", "118&#10;497-589", 1), "form"},
		"no network":       {strings.Replace(good, `<L P="3389" N="10.5.14.52"/>`, "", 1), "no address with a port"},
		"no port":          {strings.Replace(good, `P="3389"`, `P="rdp"`, 1), "no address with a port"},
	} {
		got, err := ParseInvitation([]byte(c.raw))
		if err == nil || !strings.Contains(err.Error(), c.want) || !cmp.Equal(got, Invitation{}, sameAddr) {
			t.Errorf("%s: want an error with %q, got %v, %+v", name, c.want, err, got)
		} else if strings.Contains(err.Error(), "118") || strings.Contains(err.Error(), "10.5.14") || strings.Contains(err.Error(), "rdp") {
			t.Errorf("%s: the error tells what stands in the file: %v", name, err)
		}
	}
}

func manyListeners() string {
	var b strings.Builder
	for i := range maxListeners {
		fmt.Fprintf(&b, `<L P="%d" N="10.0.0.1"/>`, i+1)
	}
	return b.String()
}

// TestEndpoint: address and port come as one pair, the one that the admin can reach.
func TestEndpoint(t *testing.T) {
	for _, c := range []struct{ name, listeners, from, want string }{
		{"IPv4 on the LAN, behind all others", "[fe80::1]:1 169.254.3.4:2 172.16.0.5:3 [fd00::1]:4 192.168.77.100:5", "", "192.168.77.100:5"},
		{"of two on the LAN the source", "192.168.77.100:1 192.168.77.101:2", "192.168.77.101", "192.168.77.101:2"},
		{"the LAN before a source elsewhere", "172.16.0.5:1 192.168.77.100:2", "172.16.0.5", "192.168.77.100:2"},
		{"the source before another IPv4", "10.1.1.1:1 172.16.0.5:2", "172.16.0.5", "172.16.0.5:2"},
		{"a source that is not listed is no listener", "10.1.1.1:1", "172.16.0.5", "10.1.1.1:1"},
		{"IPv4 before IPv6", "[2001:db8::1]:1 10.1.1.1:2", "", "10.1.1.1:2"},
		{"a source of IPv6 that is listed", "[2001:db8::1]:1 10.1.1.1:2", "2001:db8::1", "[2001:db8::1]:1"},
		{"without a way last", "10.99.0.1:1 [2001:db8::1]:2", "", "[2001:db8::1]:2"},
		{"without a way, and nothing else", "10.99.0.1:1", "", "10.99.0.1:1"},
		{"never this box", "192.168.77.1:1 10.1.1.1:2", "", "10.1.1.1:2"},
		{"written before DHCP: the source, with its family's port", "[fe80::1]:1 169.254.3.4:2", "192.168.77.100", "192.168.77.100:2"},
		{"the source through a socket of both families", "169.254.3.4:2", "::ffff:192.168.77.100", "192.168.77.100:2"},
		{"written before DHCP, source unknown", "[fe80::1]:1 169.254.3.4:2", "", "invalid AddrPort"},
	} {
		i := Invitation{Listeners: ports(t, strings.Fields(c.listeners)...)}
		from, _ := netip.ParseAddr(c.from)
		w := where{netip.MustParsePrefix("192.168.77.1/24"), func(a netip.Addr) bool { return !netip.MustParsePrefix("10.99.0.0/16").Contains(a) }}
		if got := i.endpoint(w, from).String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	odd := samples(t)["websocket.xml"]
	w := where{lan: netip.MustParsePrefix("192.168.77.1/24")}
	if got := odd.endpoint(w, netip.Addr{}).String(); got != "192.168.77.100:8443" {
		t.Errorf("only a websocket can be reached: %s", got)
	}
	if got := odd.endpoint(w, srv01).String(); got != "192.168.77.100:3389" {
		t.Errorf("a listener by name, and the source is known: %s", got)
	}
}

// FuzzParseInvitation: whatever comes, what is let through is bounded and safe
// in a command line, and is read again from an inv32.xml made of it.
func FuzzParseInvitation(f *testing.F) {
	for name := range samples(f) {
		for _, encode := range encodings {
			f.Add(encode(sample(f, name)))
		}
	}
	f.Add([]byte(`<!DOCTYPE E [<!ENTITY a "b">]><E><A ID="&a;"/></E>`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		i, err := ParseInvitation(raw)
		if err != nil {
			if !cmp.Equal(i, Invitation{}, sameAddr) {
				t.Fatalf("half a result beside %v", err)
			}
			return
		}
		if len(i.Listeners)+len(i.Websockets)+len(i.Named) > maxListeners {
			t.Fatalf("%d listeners", len(i.Listeners))
		}
		tk := Ticket{Kind: DaRT, Raw: raw, From: srv01}
		tk.parse(where{lan: netip.MustParsePrefix("192.168.77.1/24")})
		if cmd := Command(tk); tk.Problem != "" || !viewerForm.MatchString(cmd) {
			t.Fatalf("command %q, problem %q", cmd, tk.Problem)
		}
		var ls strings.Builder
		for _, l := range i.Listeners {
			fmt.Fprintf(&ls, `<L P="%d" N="%s"/>`, l.Port(), l.Addr())
		}
		for _, l := range i.Websockets {
			fmt.Fprintf(&ls, `<L U="ws://%s"/>`, l)
		}
		for _, p := range i.Named {
			fmt.Fprintf(&ls, `<L P="%d" N="pe"/>`, p)
		}
		again, err := ParseInvitation([]byte(`<E><A ID="` + i.Code + `"/><C><T>` + ls.String() + `</T></C></E>`))
		if d := cmp.Diff(i, again, sameAddr); err != nil || d != "" {
			t.Fatalf("read again: %v\n%s", err, d)
		}
	})
}
