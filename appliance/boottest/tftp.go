package boottest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// tftpOptions are what a client asks for in its read request. Their order is
// that of EDK2 and of Windows.
type tftpOptions struct {
	size   bool // tsize (RFC 2349)
	block  int  // blksize (RFC 2348); 0: not asked for, 512 bytes
	window int  // windowsize (RFC 7440); 0: not asked for
	ms     bool // Windows' msftwindow beside it: see msAsk
	probe  bool // only the size is wanted: leave behind the OACK, with error 8
	zero   bool // or with error 0
}

// Windows asks for its variable windows by one number and is granted them by
// the other (Wireshark, packet-tftp.c). Each ACK then has one byte more: the next window.
const (
	msAsk   = "31416"
	msGrant = "27182"
)

// Operation codes of RFC 1350 and RFC 2347.
const (
	opRead  = 1
	opData  = 3
	opACK   = 4
	opError = 5
	opOACK  = 6

	errOptions = 8 // RFC 2347: ends a transfer for its options
)

// blocksQueued is how many blocks GRUB takes ahead (net/tftp.c): it opens a file,
// which begins the transfer, and then looks for room for it.
const blocksQueued = 50

// largestData is what fits one Ethernet frame.
const largestData = 1500 - ipUDPHeaders

// TFTPError is a server's error packet.
type TFTPError struct {
	Code int
	Text string
}

func (e *TFTPError) Error() string { return fmt.Sprintf("TFTP error %d: %s", e.Code, e.Text) }

// tftpGet loads a file.
func (m *Machine) tftpGet(from origin, want tftpOptions) (Loaded, error) {
	f, err := m.tftpRead(from, want)
	m.asked("tftp "+from.path+want.String(), f, err, want.probe)
	if err != nil || want.probe {
		return Loaded{}, err
	}
	return m.arrived(from, f), nil
}

// transfer is one read.
type transfer struct {
	m      *Machine
	conn   *net.UDPConn
	server netip.AddrPort // whose port is known from its first packet on
	last   []byte         // sent last, and again when nothing comes
	want   tftpOptions

	file   *memory
	size   int64 // from the OACK; negative: not known
	block  int
	window int
	ms     bool
	next   uint64 // block that is due
	since  int    // blocks since the last ACK
	asked  bool   // for a lost block, by an early ACK
	done   bool
}

// tftpRead reads a file, or with want.probe asks for its size.
func (m *Machine) tftpRead(from origin, want tftpOptions) (*memory, error) {
	conn, err := m.Card.udp(netip.AddrPortFrom(m.address.Addr(), 0))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetReadBuffer(1 << 20)
	t := &transfer{m: m, conn: conn, want: want, file: m.memory(), size: -1, block: 512, window: 1, next: 1,
		server: netip.AddrPortFrom(from.server.Addr(), 69)}
	t.last = readRequest(from.path, want)
	if err := t.run(); err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	if t.size >= 0 && !want.probe && t.size != t.file.size {
		return nil, fmt.Errorf("%s: tsize said %d bytes, %d came", from, t.size, t.file.size)
	}
	return t.file, nil
}

func readRequest(path string, want tftpOptions) []byte {
	p := append([]byte{0, opRead}, path...)
	add := func(s string) { p = append(append(p, s...), 0) }
	p = append(p, 0)
	add("octet")
	option := func(wanted bool, name, value string) {
		if wanted {
			add(name)
			add(value)
		}
	}
	option(want.size, "tsize", "0")
	option(want.block != 0, "blksize", strconv.Itoa(want.block))
	option(want.window != 0, "windowsize", strconv.Itoa(want.window))
	option(want.ms, "msftwindow", msAsk)
	return p
}

// Patience of a TFTP client: EDK2 and iPXE repeat six times, seconds apart.
const (
	tftpRepeats = 6
	tftpTimeout = 2 * time.Second
)

func (t *transfer) run() error {
	if err := t.send(t.last); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for repeats := 0; !t.done; {
		t.conn.SetReadDeadline(time.Now().Add(tftpTimeout))
		n, src, err := t.conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && repeats < cmp.Or(t.m.Repeats, tftpRepeats):
			repeats++
			err = t.send(t.last)
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = errors.New("the server is silent (PXE-E32)")
		case err == nil && t.known(src, n):
			repeats = 0
			err = t.packet(buf[:n])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *transfer) send(p []byte) error {
	t.last = p
	_, err := t.conn.WriteToUDPAddrPort(p, t.server)
	return err
}

// known reports that a datagram is the server's; firmware drops others.
func (t *transfer) known(src netip.AddrPort, size int) bool {
	src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
	if src.Addr() != t.server.Addr() {
		t.m.complain("TFTP answer from %s, asked was %s", src, t.server)
		return false
	}
	if size > largestData {
		t.m.complain("TFTP datagram of %d bytes comes in fragments", size)
	}
	if t.server.Port() == 69 {
		t.server = src
	}
	return src == t.server
}

func (t *transfer) packet(p []byte) error {
	if len(p) < 4 {
		return errors.New("a TFTP packet is cut short")
	}
	switch binary.BigEndian.Uint16(p) {
	case opError:
		text, _ := cutAtNUL(p[4:])
		return &TFTPError{Code: int(binary.BigEndian.Uint16(p[2:])), Text: string(text)}
	case opOACK:
		return t.oack(p[2:])
	case opData:
		return t.dataBlock(binary.BigEndian.Uint16(p[2:]), p[4:])
	}
	return fmt.Errorf("TFTP packet with operation %d", binary.BigEndian.Uint16(p))
}

// oack takes what the server grants: never more than was asked for (RFC 2347).
func (t *transfer) oack(options []byte) error {
	if t.next > 1 {
		return nil // a repetition
	}
	fields := strings.Split(strings.TrimSuffix(string(options), "\x00"), "\x00")
	for i := 0; i+1 < len(fields); i += 2 {
		if err := t.granted(strings.ToLower(fields[i]), fields[i+1]); err != nil {
			return err
		}
	}
	if t.want.probe {
		t.done = true
		code := byte(errOptions)
		if t.want.zero {
			code = 0
		}
		return t.send(append([]byte{0, opError, 0, code}, "User aborted the transfer\x00"...))
	}
	return t.ack()
}

func (t *transfer) granted(name, value string) error {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return fmt.Errorf("TFTP option %s is %q", name, value)
	}
	switch {
	case name == "tsize" && t.want.size:
		t.size = n
	case name == "blksize" && n >= 8 && int(n) <= t.want.block:
		t.block = int(n)
	case name == "windowsize" && n >= 1 && int(n) <= t.want.window:
		t.window = int(n)
	case name == "msftwindow" && t.want.ms && value == msGrant:
		t.ms = true
	default:
		return fmt.Errorf("TFTP option %s=%s was not asked for so", name, value)
	}
	return nil
}

// dataBlock takes the block that is due. With windows a gap is told at once,
// by the ACK of the last block in order (RFC 7440 section 4).
func (t *transfer) dataBlock(number uint16, data []byte) error {
	if number != uint16(t.next) {
		if !t.asked {
			t.asked = true
			return t.ack()
		}
		return nil
	}
	if len(data) > t.block {
		return fmt.Errorf("TFTP block of %d bytes, agreed were %d", len(data), t.block)
	}
	t.file.Write(data)
	t.next++
	t.since++
	t.asked = false
	if t.next > blocksQueued && t.m.fits(t.size) != nil {
		return errors.Join(errMemory, t.send(append([]byte{0, opError, 0, 0}, "closed\x00"...)))
	}
	t.done = len(data) < t.block
	if t.done || t.since >= t.window {
		return t.ack()
	}
	return nil
}

func (t *transfer) ack() error {
	t.since = 0
	p := binary.BigEndian.AppendUint16([]byte{0, opACK}, uint16(t.next-1))
	if t.ms {
		p = append(p, byte(t.window))
	}
	return t.send(p)
}
