package tftp

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseRequest(t *testing.T) {
	for name, tc := range map[string]struct {
		packet []byte
		want   *request
		code   int // of the refusal; -1: none
	}{
		"plain":             {rq(opRRQ, "f", "octet"), &request{path: "f"}, -1},
		"backslashes stay":  {rq(opRRQ, `\Boot\BCD`, "octet"), &request{path: `\Boot\BCD`}, -1},
		"0xff behind":       {rq(opRRQ, "f\xff\xff", "OcTeT"), &request{path: "f\xff\xff"}, -1},
		"netascii":          {rq(opRRQ, "f", "NETASCII", "tsize", "0"), &request{path: "f", netascii: true}, -1},
		"options":           {rq(opRRQ, "f", "octet", "tsize", "0", "blksize", "1456"), &request{path: "f", tsize: true, blksize: 1456}, -1},
		"names any case":    {rq(opRRQ, "f", "octet", "BlkSize", "1456", "TSIZE", "0"), &request{path: "f", tsize: true, blksize: 1456}, -1},
		"windows":           {rq(opRRQ, "f", "octet", "tsize", "0", "blksize", "1456", "windowsize", "4", "msftwindow", "31416"), &request{path: "f", tsize: true, blksize: 1456, window: 4, msft: true}, -1},
		"EDK2 2022.11":      {rq(opRRQ, "snponly.efi", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4"), &request{path: "snponly.efi", tsize: true, blksize: 1468, window: 4}, -1},
		"window":            {rq(opRRQ, "f", "octet", "WindowSize", "16"), &request{path: "f", window: 16}, -1},
		"window of one":     {rq(opRRQ, "f", "octet", "windowsize", "1"), &request{path: "f", window: 1}, -1},
		"largest window":    {rq(opRRQ, "f", "octet", "windowsize", "65535"), &request{path: "f", window: maxWindow}, -1},
		"window too large":  {rq(opRRQ, "f", "octet", "windowsize", "65536"), &request{path: "f"}, -1},
		"window of none":    {rq(opRRQ, "f", "octet", "windowsize", "0"), &request{path: "f"}, -1},
		"no window in text": {rq(opRRQ, "f", "netascii", "windowsize", "8", "msftwindow", "31416"), &request{path: "f", netascii: true}, -1},
		"other msft number": {rq(opRRQ, "f", "octet", "windowsize", "8", "msftwindow", "27182"), &request{path: "f", window: 8}, -1},
		"msft alone":        {rq(opRRQ, "f", "octet", "msftwindow", "31416"), &request{path: "f"}, -1},
		"first one counts":  {rq(opRRQ, "f", "octet", "blksize", "600", "blksize", "700"), &request{path: "f", blksize: 600}, -1},
		"least block":       {rq(opRRQ, "f", "octet", "blksize", "8"), &request{path: "f", blksize: 8}, -1},
		"too small":         {rq(opRRQ, "f", "octet", "blksize", "7"), &request{path: "f"}, -1},
		"too large":         {rq(opRRQ, "f", "octet", "blksize", "65535"), &request{path: "f", blksize: 65464}, -1},
		"negative":          {rq(opRRQ, "f", "octet", "blksize", "-1"), &request{path: "f"}, -1},
		"huge number":       {rq(opRRQ, "f", "octet", "blksize", strings.Repeat("9", 40)), &request{path: "f"}, -1},
		"timeout":           {rq(opRRQ, "f", "octet", "timeout", "3"), &request{path: "f", timeout: 3 * time.Second}, -1},
		"timeout too long":  {rq(opRRQ, "f", "octet", "timeout", "256"), &request{path: "f"}, -1},
		"option cut off":    {[]byte("\x00\x01f\x00octet\x00blksize"), &request{path: "f"}, -1},
		"no last NUL":       {[]byte("\x00\x01f\x00octet"), &request{path: "f"}, -1},
		"512 bytes of name": {rq(opRRQ, strings.Repeat("x", 512), "octet"), &request{path: strings.Repeat("x", 512)}, -1},
		"513 bytes of name": {rq(opRRQ, strings.Repeat("x", 513), "octet"), nil, codeIllegal},
		"no mode":           {[]byte("\x00\x01f"), nil, codeIllegal},
		"no name":           {rq(opRRQ, "", "octet"), nil, codeIllegal},
		"mail":              {rq(opRRQ, "f", "mail"), nil, codeIllegal},
		"write":             {rq(opWRQ, "f", "octet"), nil, codeAccess},
		"ticket":            {rq(opWRQ, `\\BOX/Tickets\INV32.xml`, "octet", "tsize", "1400", "blksize", "1428", "windowsize", "4", "msftwindow", "31416"), &request{path: `\\BOX/Tickets\INV32.xml`, write: true, tsize: true, size: 1400, blksize: 1428, window: 4}, -1},
		"ticket as text":    {rq(opWRQ, "inv32.xml", "netascii", "tsize", "0"), &request{path: "inv32.xml", write: true, netascii: true, tsize: true}, -1},
		"vast ticket":       {rq(opWRQ, "inv32.xml", "octet", "tsize", "99999999999999999999999"), &request{path: "inv32.xml", write: true, tsize: true, size: math.MaxInt64}, -1},
		"ticket of -1":      {rq(opWRQ, "inv32.xml", "octet", "tsize", "-1"), &request{path: "inv32.xml", write: true}, -1},
		"not quite":         {rq(opWRQ, "inv32.xml/x", "octet"), nil, codeAccess},
		"not quite, either": {rq(opWRQ, "xinv32.xml", "octet"), nil, codeAccess},
		"data":              {rq(opDATA, "f", "octet"), nil, -1},
		"error":             {rq(opERROR, "f", "octet"), nil, -1},
		"oack":              {rq(opOACK, "f", "octet"), nil, -1},
		"nothing":           {nil, nil, -1},
		"one byte":          {[]byte{0}, nil, -1},
	} {
		got, no := parseRequest(tc.packet)
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(request{})); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
		code := -1
		if no != nil {
			code = int(no.code)
		}
		if code != tc.code {
			t.Errorf("%s: refused with code %d, want %d", name, code, tc.code)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(rq(opRRQ, "boot/525400123456/undionly.kpxe", "octet", "tsize", "0", "blksize", "1456"))
	f.Add(rq(opWRQ, "f", "netascii"))
	f.Add(rq(opWRQ, `\x\inv32.xml`, "octet", "tsize", "70000", "windowsize", "9"))
	f.Add(rq(opRRQ, `\Boot\boot.sdi`, "octet", "tsize", "0", "blksize", "1456", "windowsize", "4", "msftwindow", "31416"))
	f.Add([]byte("\x00\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, no := parseRequest(p)
		if r != nil && no != nil {
			t.Fatal("a request and a refusal")
		}
		if no != nil && len(no.packet()) > 4+maxText+1 {
			t.Fatalf("a refusal of %d bytes", len(no.packet()))
		}
		if r == nil {
			return
		}
		if r.write && !strings.HasSuffix(strings.ToLower(r.path), "inv32.xml") || r.size < 0 || r.size > 0 && !r.write {
			t.Fatalf("writes %q, %d bytes", r.path, r.size)
		}
		if r.path == "" || len(r.path) > maxPath || strings.ContainsRune(r.path, 0) {
			t.Fatalf("path %q", r.path)
		}
		if r.blksize != 0 && (r.blksize < minBlock || r.blksize > maxBlock) {
			t.Fatalf("block size %d", r.blksize)
		}
		if r.window < 0 || r.window > maxWindow || r.msft && r.window == 0 {
			t.Fatalf("window %d, set by the client: %v", r.window, r.msft)
		}
		if oack := r.accept(1 << 40); len(oack) > plainBlock {
			t.Fatalf("an OACK of %d bytes", len(oack))
		}
	})
}

func TestRefusalPacketIsPrintable(t *testing.T) {
	got := (&refusal{codeNotFound, "no \"ü\"\n" + strings.Repeat("x", 500)}).packet()
	if len(got) != 4+maxText-1+1 || !bytes.HasPrefix(got, []byte("\x00\x05\x00\x01no \"?\"?xxx")) {
		t.Errorf("%q", got)
	}
}

func TestTimeoutFollowsTheRoundTrip(t *testing.T) {
	var e rtt
	if got := e.timeout(0); got != firstTimeout {
		t.Errorf("first: %v", got)
	}
	for range 50 {
		e.sample(200 * time.Microsecond)
	}
	if got := e.timeout(0); got != minTimeout {
		t.Errorf("on a fast LAN: %v", got)
	}
	for range 50 {
		e.sample(300 * time.Millisecond)
	}
	if got := e.timeout(0); got < 300*time.Millisecond || got > maxTimeout {
		t.Errorf("with slow firmware: %v", got)
	}
	if got := e.timeout(12); got != maxTimeout {
		t.Errorf("at last: %v", got)
	}
	e.fixed = 3 * time.Second
	if got := e.timeout(4); got != e.fixed {
		t.Errorf("as the client wants: %v", got)
	}
}
