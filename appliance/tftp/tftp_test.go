package tftp

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"rescuebox/appliance/boot"
)

// treeWith is a tree with a file "f" of so many random bytes.
func treeWith(t *testing.T, size int) (*dirTree, []byte) {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	tree := &dirTree{dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(tree.dir, "f"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return tree, data
}

func TestServesAllSizesOfFilesAndBlocks(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 513, 1456, 2 * 1456, 100_000} {
		tree, data := treeWith(t, size)
		addr, _ := start(t, tree, nil)
		for _, block := range []int{0, 8, 512, 1456, 1468, 8192, 65464} {
			if block == 8 && size > 2000 {
				continue
			}
			fields := []string{"f", "octet", "tsize", "0"}
			want := map[string]string{"tsize": fmt.Sprint(size)}
			if block > 0 {
				fields = append(fields, "BLKSIZE", fmt.Sprint(block))
				want["blksize"] = fmt.Sprint(min(block, 1468))
			}
			var got bytes.Buffer
			options, err := dialTest(t, addr).get(rq(opRRQ, fields...), &got)
			if err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("size %d, blocks of %d: %d bytes came, %v", size, block, got.Len(), err)
			}
			if fmt.Sprint(options) != fmt.Sprint(want) {
				t.Errorf("size %d, blocks of %d: options %v, want %v", size, block, options, want)
			}
		}
		eventually(t, "all are served", func() bool { s, _ := tree.seen(); return len(s) >= 6 })
		if _, events := tree.seen(); len(events) != 0 {
			t.Errorf("size %d: events %v", size, events)
		}
	}
}

func TestBlockNumbersWrap(t *testing.T) {
	tree, data := treeWith(t, 65_700*8)
	addr, _ := start(t, tree, nil)
	var got bytes.Buffer
	if _, err := dialTest(t, addr).get(rq(opRRQ, "f", "octet", "blksize", "8"), &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes came, %v", got.Len(), err)
	}
}

func TestNetascii(t *testing.T) {
	tree, _ := treeWith(t, 0)
	os.WriteFile(filepath.Join(tree.dir, "text"), []byte("a\nb\rc\n"), 0o644)
	addr, _ := start(t, tree, nil)
	var got bytes.Buffer
	options, err := dialTest(t, addr).get(rq(opRRQ, "text", "netascii", "tsize", "0"), &got)
	if err != nil || got.String() != "a\r\nb\r\x00c\r\n" || options["tsize"] != "" {
		t.Errorf("%q, options %v, %v", got.String(), options, err)
	}
}

func TestRefusalsCarryTheirReason(t *testing.T) {
	tree, _ := treeWith(t, 10)
	addr, _ := start(t, tree, nil)
	for _, tc := range []struct {
		packet []byte
		want   wireError
	}{
		{rq(opRRQ, "no order", "octet"), wireError{codeNotFound, "srv01 has no order"}},
		{rq(opRRQ, "missing", "octet"), wireError{codeNotFound, "file not found"}},
		{rq(opRRQ, "broken", "octet"), wireError{codeOther, "the box failed: see its log"}},
		{rq(opRRQ, "short", "octet"), wireError{codeNotFound, "file not found"}},
		{rq(opWRQ, "f", "octet"), wireError{codeAccess, "this box takes no files over TFTP but tickets: inv32.xml"}},
		{rq(opWRQ, "inv32.xml", "octet"), wireError{codeAccess, "this box takes no files over TFTP"}}, // without Tickets
		{rq(opRRQ, "f", "mail"), wireError{codeIllegal, "the mode is neither octet nor netascii"}},
		{rq(opRRQ, strings.Repeat("x", 600), "octet"), wireError{codeIllegal, "the file name is longer than 512 bytes"}},
	} {
		_, err := dialTest(t, addr).get(tc.packet, &bytes.Buffer{})
		var got *wireError
		if !errors.As(err, &got) || *got != tc.want {
			t.Errorf("%q: %v, want %v", tc.packet, err, &tc.want)
		}
	}
	if served, events := tree.seen(); len(served)+len(events) != 0 {
		t.Errorf("served %v, events %v", served, events)
	}
}

func TestFileShorterThanItsEntryIsNoSuccess(t *testing.T) {
	tree, _ := treeWith(t, 10)
	os.WriteFile(filepath.Join(tree.dir, "short"), make([]byte, 3000), 0o644)
	addr, _ := start(t, tree, nil)
	_, err := dialTest(t, addr).get(rq(opRRQ, "short", "octet"), &bytes.Buffer{})
	if err == nil || err.Error() != "error 0: the box failed: see its log" {
		t.Error(err)
	}
	eventually(t, "an event", func() bool { _, e := tree.seen(); return len(e) == 1 })
	if served, _ := tree.seen(); len(served) != 0 {
		t.Errorf("served %v", served)
	}
}

func TestStrayPacketsGetNoAnswer(t *testing.T) {
	tree, _ := treeWith(t, 10)
	reg := prometheus.NewRegistry()
	addr, _ := start(t, tree, func(s *Server) { s.Metrics = reg })
	c := dialTest(t, addr)
	for _, p := range [][]byte{{}, {0}, {0, 9}, ack(0), ack(7), rq(opDATA, "x"), rq(opERROR, "x"), rq(opOACK, "blksize", "9"), bytes.Repeat([]byte{0xff}, 2000)} {
		c.request(p)
	}
	if op, _, _, err := c.receive(300 * time.Millisecond); err == nil {
		t.Errorf("answered with opcode %d", op)
	}
	var got bytes.Buffer
	if _, err := c.get(rq(opRRQ, "f", "octet"), &got); err != nil || got.Len() != 10 {
		t.Errorf("afterwards: %d bytes, %v", got.Len(), err)
	}
	eventually(t, "both are counted", func() bool {
		m := newMetrics(reg)
		return testutil.ToFloat64(m.requests.WithLabelValues("invalid")) == 9 && testutil.ToFloat64(m.requests.WithLabelValues("sent")) == 1
	})
}

func TestSizeProbeIsNoFailureAndNothingServed(t *testing.T) {
	tree, _ := treeWith(t, 5000)
	reg := prometheus.NewRegistry()
	addr, stop := start(t, tree, func(s *Server) { s.Metrics = reg })
	windows := []string{"f", "octet", "tsize", "0", "blksize", "1456", "windowsize", "4", "msftwindow", msftAsks}
	edk2 := []string{"f", "octet", "tsize", "0", "blksize", "1468"}
	probes := []struct {
		request []string
		end     []byte
	}{
		{edk2, []byte{0, opERROR, 0, 8, 'n', 'o', 0}}, // after OACK
		{edk2, []byte{0, opERROR, 0, 0, 0}},           // others
		{edk2, []byte{0, opERROR, 0, 8}},              // without a text
		{windows, []byte{0, opERROR, 0, 8, 0}},
		{windows, []byte{0, opERROR, 0, 0, 0}},
		{[]string{"f", "octet"}, []byte{0, opERROR, 0, 0, 0}}, // after the first block
	}
	var c *client
	for _, probe := range probes {
		c = dialTest(t, addr) // a new port, as firmware does: the old one's transfer may not have ended yet
		c.request(rq(opRRQ, probe.request...))
		if op, _, _, err := c.receive(soon); op != opOACK && (op != opDATA || len(probe.request) > 2) {
			t.Fatalf("opcode %d, %v", op, err)
		}
		c.answer(probe.end)
	}
	counted := newMetrics(reg).requests
	eventually(t, "all are counted", func() bool {
		return testutil.ToFloat64(counted.WithLabelValues("probed")) == float64(len(probes))
	})
	// Nothing is sent again, but for what had its time before the probe's end came: the transfer is over.
	for err := error(nil); err == nil; {
		_, _, _, err = c.receive(10 * time.Millisecond)
	}
	if op, _, _, err := c.receive(800 * time.Millisecond); err == nil {
		t.Errorf("opcode %d after the probe", op)
	}
	stop()
	if served, events := tree.seen(); len(served)+len(events) != 0 {
		t.Errorf("served %v, events %v", served, events)
	}
}

// begin takes the first blocks of a file and stops answering.
func begin(t *testing.T, addr netip.AddrPort, blocks uint16) *client {
	t.Helper()
	c := dialTest(t, addr)
	c.request(rq(opRRQ, "f", "octet"))
	for b := uint16(1); b <= blocks; b++ {
		c.block(t, b)
		c.answer(ack(b))
	}
	return c
}

func brokeOff(bytes int64, why string) func(*testing.T, *dirTree) {
	return func(t *testing.T, tree *dirTree) {
		t.Helper()
		eventually(t, "an event", func() bool { _, e := tree.seen(); return len(e) > 0 })
		served, events := tree.seen()
		if len(served) != 0 || len(events) != 1 {
			t.Fatalf("served %v, events %v", served, events)
		}
		e := events[0]
		if e.Step != boot.StepFile || e.File != "f" || e.Bytes != bytes || e.Total != 5000 || !strings.Contains(e.Text, why) {
			t.Errorf("event %+v, want %d bytes and %q", e, bytes, why)
		}
	}
}

func TestBrokenTransferIsRecorded(t *testing.T) {
	for name, tc := range map[string]struct {
		end   func(*client)
		check func(*testing.T, *dirTree)
	}{
		"silent":     {func(*client) {}, brokeOff(1024, "no longer answers")},
		"error":      {func(c *client) { c.answer([]byte("\x00\x05\x00\x03disk\x07full\x00")) }, brokeOff(1024, "broke off with error 3: disk?full")},
		"closed":     {func(c *client) { c.conn.Close() }, brokeOff(1024, "closed its port")},
		"asks again": {func(c *client) { c.request(rq(opRRQ, "g", "octet")) }, brokeOff(1024, "something else")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree, _ := treeWith(t, 5000)
			addr, _ := start(t, tree, func(s *Server) { s.patience = shortPatience })
			tc.end(begin(t, addr, 2))
			tc.check(t, tree)
		})
	}
}

func TestLastAcknowledgementMayBeMissing(t *testing.T) {
	for _, closes := range []bool{true, false} {
		tree, _ := treeWith(t, 600)
		addr, _ := start(t, tree, func(s *Server) { s.patience = shortPatience })
		c := begin(t, addr, 1)
		if rest := c.block(t, 2); len(rest) != 88 {
			t.Fatal(len(rest))
		}
		if closes {
			c.conn.Close() // what is sent again meets a closed port
		}
		eventually(t, "served", func() bool { s, _ := tree.seen(); return len(s) == 1 })
	}
}

func TestUnheardAnswerIsNothingServed(t *testing.T) {
	tree, _ := treeWith(t, 100)
	addr, _ := start(t, tree, func(s *Server) { s.patience = shortPatience })
	begin(t, addr, 0)
	eventually(t, "an event", func() bool { _, e := tree.seen(); return len(e) == 1 })
	if served, _ := tree.seen(); len(served) != 0 {
		t.Errorf("served %v", served)
	}
}

func TestStopCutsTransfers(t *testing.T) {
	tree, _ := treeWith(t, 5000)
	addr, stop := start(t, tree, nil)
	c := begin(t, addr, 2)
	if d := stop(); d > defaultPatience/2 {
		t.Errorf("stopped after %v", d)
	}
	brokeOff(1024, "the box is stopping")(t, tree)
	for {
		op, _, rest, err := c.receive(soon)
		if err != nil {
			t.Fatal("the client was not told:", err)
		}
		if op == opERROR {
			if !strings.Contains(string(rest), "the box is stopping") {
				t.Errorf("%q", rest)
			}
			return
		}
	}
}

func TestNinthTransferOfOneAddressIsRefused(t *testing.T) {
	tree, _ := treeWith(t, 5000)
	addr, _ := start(t, tree, nil)
	for range maxPerAddress {
		begin(t, addr, 1).block(t, 2) // so it was heard
	}
	_, err := dialTest(t, addr).get(rq(opRRQ, "f", "octet"), &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "busy") {
		t.Error(err)
	}
}

func TestRepeatedRequestIsOneTransfer(t *testing.T) {
	tree, _ := treeWith(t, 5000)
	addr, _ := start(t, tree, nil)
	c := dialTest(t, addr)
	c.request(rq(opRRQ, "f", "octet"))
	c.request(rq(opRRQ, "f", "octet"))
	_, _, _, err := c.receive(soon)
	first := c.peer
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // what comes is the same block, sent again
		if _, n, _, err := c.receive(soon); err != nil || n != 1 || c.peer != first {
			t.Fatalf("block %d from %v (first %v), %v", n, c.peer, first, err)
		}
	}
}

func TestPanicIsContained(t *testing.T) {
	tree, data := treeWith(t, 1000)
	addr, _ := start(t, tree, nil)
	c := dialTest(t, addr)
	c.request(rq(opRRQ, "panic", "octet"))
	var got bytes.Buffer
	if _, err := dialTest(t, addr).get(rq(opRRQ, "f", "octet"), &got); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Error(err)
	}
}

func TestAnswersComeFromTheAddressThatWasAsked(t *testing.T) {
	tree, _ := treeWith(t, 1000)
	addr, _ := start(t, tree, func(s *Server) { s.Addr = netip.AddrPortFrom(netip.IPv4Unspecified(), s.Addr.Port()) })
	asked := netip.MustParseAddr("127.0.0.53")
	for _, path := range []string{"f", "no order", ""} {
		c := dialTest(t, netip.AddrPortFrom(asked, addr.Port()))
		c.request(rq(opRRQ, path, "octet"))
		if _, _, _, err := c.receive(soon); err != nil || c.peer.Addr() != asked {
			t.Errorf("%q: answer from %v, asked %v, %v", path, c.peer, asked, err)
		}
	}
}

func TestOversizedAndStrayAnswersDuringATransfer(t *testing.T) {
	tree, data := treeWith(t, 5000)
	addr, _ := start(t, tree, nil)
	c := dialTest(t, addr)
	c.request(rq(opRRQ, "f", "octet", "timeout", "20")) // or a block that comes twice was only overdue
	if op, _, _, err := c.receive(soon); op != opOACK {
		t.Fatal(op, err)
	}
	c.answer(ack(0))
	got := c.block(t, 1)
	c.answer(ack(1))
	c.answer(make([]byte, 9000))
	c.answer(ack(0))
	c.answer(ack(60000))
	c.answer(ack(1))
	c.answer([]byte{})
	for b := uint16(2); ; b++ {
		op, n, rest, err := c.receive(soon)
		if op != opDATA || n != b {
			t.Fatalf("opcode %d, block %d, %v; want block %d once", op, n, err, b)
		}
		got = append(got, rest...)
		c.answer(ack(b))
		if len(rest) < plainBlock {
			break
		}
	}
	if !bytes.Equal(got, data) {
		t.Error("other bytes came")
	}
}

func TestBusyPortIsNamed(t *testing.T) {
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.LocalAddr().(*net.UDPAddr).AddrPort()
	for want, a := range map[string]netip.AddrPort{
		addr.String():              addr,
		"no interface of this box": netip.MustParseAddrPort("192.0.2.1:69"),
		"firmware boots over IPv4": netip.MustParseAddrPort("[::1]:69"),
	} {
		err := (&Server{Addr: a}).Run(t.Context(), func() { t.Error("ready") })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", a, err, want)
		}
	}
}
