package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/appliance/boot"
)

// sample is as DaRT writes tickets: in one line.
const sample = `<?xml version="1.0"?><E><A KH="x"/><C><T ID="1" SID="0"><L P="3389" N="192.168.77.100"/></T></C></E>`

// desk is where tickets go.
type desk struct {
	err  error
	gate chan struct{} // nil, or a disk that takes its time

	mu  sync.Mutex
	got [][]byte
}

func (d *desk) Ticket(token string, from netip.Addr, raw []byte) error {
	if d.gate != nil {
		<-d.gate
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if token != "" || from != netip.MustParseAddr("127.0.0.1") {
		return fmt.Errorf("token %q from %v", token, from)
	}
	if d.err == nil {
		d.got = append(d.got, raw)
	}
	return d.err
}

// answer is what the desk says from now on.
func (d *desk) answer(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *desk) tickets() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([][]byte(nil), d.got...)
}

func startDesk(t *testing.T, d *desk) netip.AddrPort {
	t.Helper()
	addr, _ := start(t, &dirTree{dir: t.TempDir()}, func(s *Server) {
		s.Tickets, s.patience, s.dally = d, shortPatience, soon // for a client whose last block and the answer to it are lost again and again
	})
	return addr
}

func data(n int, block []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{0, opDATA}, uint16(n)), block...)
}

// put writes a file: a window of blocks, then waits for the acknowledgement, and goes on from there.
func (c *client) put(request []byte, content []byte) (options map[string]string, err error) {
	size, window, acked := plainBlock, 1, -1
	last := len(content)/size + 1
	said := func() { c.request(request) }
	said()
	for silent := 0; acked < last; {
		op, n, rest, err := c.receive(time.Second)
		switch {
		case err != nil:
			if silent++; silent > 15 {
				return options, errors.New("the server is silent")
			}
		case op == opERROR:
			return options, &wireError{n, strings.TrimRight(string(rest), "\x00")}
		case op == opOACK:
			options = map[string]string{}
			f := strings.Split(string(rest), "\x00")
			for i := 0; i+1 < len(f); i += 2 {
				options[f[i]] = f[i+1]
			}
			fmt.Sscan(options["blksize"], &size)
			fmt.Sscan(options["windowsize"], &window)
			last, acked = len(content)/size+1, max(acked, 0)
		case op == opACK && int(n) > acked:
			acked = int(n)
		case op == opACK && n == 0:
		case op == opACK && int(n) < acked:
			continue
		}
		if acked >= 0 {
			from := acked
			said = func() {
				for b := from + 1; b <= min(from+window, last); b++ {
					c.answer(data(b, content[(b-1)*size:min(b*size, len(content))]))
				}
			}
		}
		said()
	}
	return options, nil
}

func TestTicketsAreTaken(t *testing.T) {
	d := &desk{}
	addr := startDesk(t, d)
	long := bytes.Repeat([]byte("0123456789abcdef"), maxTicket/16)
	for _, tc := range []struct {
		fields  []string
		content []byte
		options string
	}{
		{[]string{"inv32.xml", "octet"}, []byte(sample), "map[]"},
		{[]string{`C:\x\INV32.XML`, "octet", "tsize", fmt.Sprint(len(sample))}, []byte(sample), "map[tsize:95]"},
		{[]string{"/a/Inv32.xml", "octet", "blksize", "16", "windowsize", "3", "timeout", "2"}, []byte(sample), "map[blksize:16 timeout:2 windowsize:3]"},
		{[]string{"inv32.xml", "octet", "blksize", "65464", "windowsize", "1000", "timeout", "200"}, long, "map[blksize:1468 windowsize:64]"},
		{[]string{"inv32.xml", "octet", "blksize", "8"}, long, "map[blksize:8]"},
		{[]string{"inv32.xml", "octet"}, long[:1024], "map[]"}, // the last block is empty
	} {
		before := len(d.tickets())
		options, err := dialTest(t, addr).put(rq(opWRQ, tc.fields...), tc.content)
		got := d.tickets()
		if err != nil || len(got) != before+1 || !bytes.Equal(got[before], tc.content) || (fmt.Sprint(options) != strings.ReplaceAll(tc.options, "95", fmt.Sprint(len(sample)))) {
			t.Errorf("%q: %d tickets, options %v, %v", tc.fields, len(got), options, err)
		}
	}
}

func TestTicketsThatAreNotTaken(t *testing.T) {
	d := &desk{}
	addr := startDesk(t, d)
	for _, tc := range []struct {
		fields  []string
		content []byte
		err     error
		want    wireError
	}{
		{[]string{"inv32.xml", "octet", "tsize", "65537"}, nil, nil, wireError{codeTooLarge, "the ticket is larger than 64 KiB"}},
		{[]string{"inv32.xml", "octet"}, make([]byte, maxTicket+1), nil, wireError{codeTooLarge, "the ticket is larger than 64 KiB"}},
		{[]string{"inv32.xml", "octet"}, nil, nil, wireError{codeOther, "the ticket is empty"}},
		{[]string{"inv32.xml", "octet"}, []byte(sample), &boot.Refusal{Reason: "no machine of this site"}, wireError{codeAccess, "no machine of this site"}},
		{[]string{"inv32.xml", "octet"}, []byte(sample), errors.New("disk /dev/sda is full"), wireError{codeOther, "the box failed: see its log"}},
		{[]string{"inv32.xml.exe", "octet"}, []byte(sample), nil, wireError{codeAccess, "this box takes no files over TFTP but tickets: inv32.xml"}},
		{[]string{"inv32.xml", "mail"}, []byte(sample), nil, wireError{codeIllegal, "the mode is neither octet nor netascii"}},
	} {
		d.answer(tc.err)
		_, err := dialTest(t, addr).put(rq(opWRQ, tc.fields...), tc.content)
		var got *wireError
		if !errors.As(err, &got) || *got != tc.want {
			t.Errorf("%q: %v, want %v", tc.fields, err, &tc.want)
		}
	}
	if got := d.tickets(); len(got) != 0 {
		t.Errorf("%d tickets", len(got))
	}
}

// Whoever has the last acknowledgement may forget the ticket: it is on disk.
func TestLastAcknowledgementComesAfterTheDisk(t *testing.T) {
	d := &desk{gate: make(chan struct{})}
	addr := startDesk(t, d)
	stored := sync.OnceFunc(func() { close(d.gate) })
	t.Cleanup(stored) // before the server is stopped, which waits for the disk
	c := dialTest(t, addr)
	c.request(rq(opWRQ, "inv32.xml", "octet"))
	if op, n, _, err := c.receive(soon); op != opACK || n != 0 {
		t.Fatal(op, n, err)
	}
	c.answer(data(1, []byte(sample)))
	answer := func(wait time.Duration) (op, n uint16, err error) { // the server may have repeated its first acknowledgement
		for op, n = opACK, 0; err == nil && op == opACK && n == 0; {
			op, n, _, err = c.receive(wait)
		}
		return op, n, err
	}
	if op, _, err := answer(300 * time.Millisecond); err == nil {
		t.Fatalf("opcode %d before the ticket is stored", op)
	}
	stored()
	for range 3 { // the answer was lost: each time that the block comes again, it does
		if op, n, err := answer(soon); op != opACK || n != 1 {
			t.Fatal(op, n, err)
		}
		c.answer(data(1, []byte(sample)))
	}
	if got := d.tickets(); len(got) != 1 {
		t.Errorf("%d tickets", len(got))
	}
}

func TestTicketsArriveWithLoss(t *testing.T) {
	d := &desk{}
	addr := startDesk(t, d)
	content := bytes.Repeat([]byte(sample), 100)
	for i, window := range []string{"1", "5"} {
		c := dialTest(t, lossy(t, addr, some(0.1)))
		_, err := c.put(rq(opWRQ, "inv32.xml", "octet", "windowsize", window), content)
		if got := d.tickets(); err != nil || len(got) != i+1 || !bytes.Equal(got[i], content) {
			t.Errorf("window %s: %d tickets, %v", window, len(got), err)
		}
	}
}

func TestTicketsOfOneAddressAreRare(t *testing.T) {
	addr, _ := start(t, &dirTree{dir: t.TempDir()}, func(s *Server) { s.Tickets, s.dally = &desk{}, time.Millisecond })
	write := func() error {
		for {
			_, err := dialTest(t, addr).put(rq(opWRQ, "inv32.xml", "octet"), []byte(sample))
			if err == nil || !strings.Contains(err.Error(), "busy") {
				return err // else some that were written before have not quite ended
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	for i := range writesEach {
		if err := write(); err != nil {
			t.Errorf("ticket %d: %v", i+1, err)
		}
	}
	if err := write(); err == nil || !strings.Contains(err.Error(), tooOften) {
		t.Errorf("one ticket too many: %v", err)
	}
}

func TestWritersAreForgotten(t *testing.T) {
	var w writers
	now := time.Unix(1e9, 0)
	addr := netip.MustParseAddr("10.0.0.0")
	for range maxWriters {
		addr = addr.Next()
		if !w.admit(addr, now) {
			t.Fatal("no room for", addr)
		}
	}
	if w.admit(addr.Next(), now) {
		t.Error("one address too many")
	}
	if later := now.Add(writesTime); !w.admit(addr.Next(), later) || len(w.seen) != 1 {
		t.Errorf("%d addresses are still known", len(w.seen))
	}
}

func TestPeersWriteTickets(t *testing.T) {
	text := "<E>\r\n <T ID=\"1\"/>\n</E>\n"
	for name, tc := range map[string]struct {
		tool, pkg string
		command   func(host, port, file string) []string
	}{
		"atftp": {"atftp", "atftp", func(host, port, file string) []string {
			return []string{"atftp", "--put", "-l", file, "-r", `share\inv32.xml`, host, port}
		}},
		"atftp with options": {"atftp", "atftp", func(host, port, file string) []string {
			return []string{"atftp", "--put", "--option", "tsize 0", "--option", "blksize 1428", "--option", "windowsize 8", "-l", file, "-r", "Inv32.xml", host, port}
		}},
		"tftp-hpa": {"tftp", "tftp-hpa", func(host, port, file string) []string {
			return []string{"tftp", "-m", "binary", host, port, "-c", "put", file, "/x/inv32.xml"}
		}},
		"tftp-hpa netascii": {"tftp", "tftp-hpa", func(host, port, file string) []string {
			return []string{"tftp", "-m", "ascii", host, port, "-c", "put", file, "inv32.xml"}
		}},
		"busybox": {"busybox", "busybox", func(host, port, file string) []string {
			return []string{"busybox", "tftp", "-p", "-l", file, "-r", "INV32.XML", host, port}
		}},
		"curl": {"curl", "curl", func(host, port, file string) []string {
			return []string{"curl", "-q", "-sS", "--noproxy", "*", "-T", file, "tftp://" + host + ":" + port + "//inv32.xml"}
		}},
		"curl netascii": {"curl", "curl", func(host, port, file string) []string {
			return []string{"curl", "-q", "-sS", "--noproxy", "*", "-B", "-T", file, "tftp://" + host + ":" + port + "//inv32.xml"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			tool(t, tc.tool, tc.pkg)
			d := &desk{}
			addr := startDesk(t, d)
			for i, content := range []string{sample, text, strings.Repeat(text, 2000)} {
				file := filepath.Join(t.TempDir(), "inv32.xml")
				os.WriteFile(file, []byte(content), 0o600)
				args := tc.command(addr.Addr().String(), fmt.Sprint(addr.Port()), file)
				said, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
				got := d.tickets()
				if err != nil || len(got) != i+1 {
					t.Fatalf("%d tickets, %v: %s", len(got), err, said)
				}
				if name == "curl netascii" { // it sends the file as it is; in XML a CR LF is a new line
					content = strings.ReplaceAll(content, "\r\n", "\n")
				}
				if string(got[i]) != content {
					t.Errorf("%d bytes came of %d: %.100q", len(got[i]), len(content), got[i])
				}
			}
			d.answer(&boot.Refusal{Reason: "no machine of this site"})
			file := filepath.Join(t.TempDir(), "inv32.xml")
			os.WriteFile(file, []byte(sample), 0o600)
			args := tc.command(addr.Addr().String(), fmt.Sprint(addr.Port()), file)
			said, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
			t.Logf("%v: %s", err, said)
			if err == nil && !strings.Contains(string(said), "no machine of this site") {
				t.Errorf("took a refused ticket for a stored one")
			}
		})
	}
}

func TestNetasciiOfTickets(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nb\r\x00c":                         "a\nb\rc",
		"\xff\xfea\x00\r\x00\n\x00":             "\xff\xfea\x00\r\x00\n\x00",       // Windows' tftp sends it as it is
		"\xff\xfea\x00\r\x00\x00\r\n\x00":       "\xff\xfea\x00\r\x00\n\x00",       // others do not
		"\xfe\xff\x00a\x00\r\x00\x00\r\nno end": "\xfe\xff\x00a\x00\r\x00\nno end", // big endian
	} {
		if got := fromNetascii([]byte(in)); string(got) != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// writer is a wire whose client sends its n-th packet so much later than the last.
type writer struct {
	packets func(n int) ([]byte, time.Duration)
	n       int
	next    time.Time
	sent    [][]byte
}

func (w *writer) sendAll(p []byte, _ int) error { w.sent = append(w.sent, bytes.Clone(p)); return nil }
func (w *writer) wait(time.Duration) bool       { return true }
func (w *writer) receive(p []byte, timeout time.Duration) (int, error) {
	packet, pause := w.packets(w.n)
	if w.next.IsZero() {
		w.next = time.Now().Add(pause)
	}
	if left := time.Until(w.next); left > timeout {
		time.Sleep(timeout)
		return 0, errTimeout
	} else if left > 0 {
		time.Sleep(left)
	}
	w.n, w.next = w.n+1, time.Time{}
	return copy(p, packet), nil
}

func TestSlowWritersAreBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		packets func(n int) ([]byte, time.Duration)
		want    string
		least   time.Duration
		most    time.Duration
	}{
		"silent":        {func(int) ([]byte, time.Duration) { return nil, time.Hour }, errSilent.Error(), defaultPatience, defaultPatience + 2*time.Second},
		"a block a 10s": {func(n int) ([]byte, time.Duration) { return data(n+1, make([]byte, plainBlock)), 10 * time.Second }, "longer than a minute", time.Minute, 71 * time.Second},
		"old blocks":    {func(n int) ([]byte, time.Duration) { return data(7, nil), time.Second }, "longer than a minute", time.Minute, 62 * time.Second},
		"gives up":      {func(n int) ([]byte, time.Duration) { return []byte("\x00\x05\x00\x08no\x00"), time.Second }, "error 8: no", 0, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := &receiver{wire: &writer{packets: tc.packets}, patience: defaultPatience, heard: func() {}}
				begin := time.Now()
				_, err := u.receive(&request{write: true})
				if took := time.Since(begin); err == nil || !strings.Contains(err.Error(), tc.want) || took < tc.least || took > tc.most {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}

func FuzzReceiver(f *testing.F) {
	f.Add([]byte("\x00\x03\x00\x01<E/>"), uint16(512), uint8(1), false)
	f.Add([]byte("\x00\x03\x00\x0112345678\xff\x00\x03\x00\x02x"), uint16(8), uint8(4), true)
	f.Add([]byte("\x00\x05\x00\x08no"), uint16(8), uint8(4), true)
	f.Fuzz(func(t *testing.T, p []byte, block uint16, window uint8, netascii bool) {
		packets := bytes.Split(p, []byte{0xff})
		w := &writer{packets: func(n int) ([]byte, time.Duration) {
			if n < len(packets) {
				return packets[n], 0
			}
			return []byte("\x00\x05\x00\x00end"), 0
		}}
		u := &receiver{wire: w, patience: time.Second, heard: func() {}}
		raw, err := u.receive(&request{write: true, blksize: max(minBlock, int(block)), window: int(window), netascii: netascii})
		if (err == nil) == (len(raw) == 0) || len(raw) > maxTicket {
			t.Fatalf("%d bytes, %v", len(raw), err)
		}
		if len(w.sent) > len(packets)+2 {
			t.Fatalf("%d packets in answer to %d", len(w.sent), len(packets))
		}
	})
}
