package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
)

// soon is how long a test waits for what must come: long, because the machine may be busy.
const soon = 20 * time.Second

// shortPatience is that of a server whose client falls silent, long enough for
// a client that does not on a busy machine.
const shortPatience = 3 * time.Second

// client is a peer that does exactly what a test says.
type client struct {
	conn   *net.UDPConn
	server netip.AddrPort
	peer   netip.AddrPort // the transfer's port, once it has answered
}

func newClient(server netip.AddrPort) (*client, error) {
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, server: server}, nil
}

func dialTest(t *testing.T, server netip.AddrPort) *client {
	t.Helper()
	c, err := newClient(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// rq is a request packet: opcode, then the fields.
func rq(op byte, fields ...string) []byte {
	return []byte(string([]byte{0, op}) + strings.Join(fields, "\x00") + "\x00")
}

func (c *client) request(p []byte) {
	c.peer = netip.AddrPort{}
	c.conn.WriteToUDPAddrPort(p, c.server)
}

func (c *client) answer(p []byte) { c.conn.WriteToUDPAddrPort(p, c.peer) }

func ack(block uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0, opACK}, block) }

// receive returns the next packet's opcode, number and rest.
func (c *client) receive(wait time.Duration) (op, n uint16, rest []byte, err error) {
	buf := make([]byte, 70000)
	c.conn.SetReadDeadline(time.Now().Add(wait))
	k, from, err := c.conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		return 0, 0, nil, err
	}
	if k < 4 {
		return 0, 0, nil, fmt.Errorf("a packet of %d bytes", k)
	}
	c.peer = from
	if op = binary.BigEndian.Uint16(buf); op == opOACK {
		return op, 0, buf[2:k], nil
	}
	return op, binary.BigEndian.Uint16(buf[2:]), buf[4:k], nil
}

// block is a block's content, which comes next. What was answered already may come once more before it: where
// the answer was late, the server's time was over.
func (c *client) block(t *testing.T, number uint16) []byte {
	t.Helper()
	for {
		op, n, rest, err := c.receive(soon)
		if err == nil && (op == opOACK && number == 1 || op == opDATA && n < number) {
			continue
		}
		if op != opDATA || n != number || err != nil {
			t.Fatalf("opcode %d, block %d, %v; want block %d", op, n, err, number)
		}
		return rest
	}
}

// wireError is an error packet that the server sent.
type wireError struct {
	code uint16
	text string
}

func (e *wireError) Error() string { return fmt.Sprintf("error %d: %s", e.code, e.text) }

// get asks and takes the whole file. It repeats what it sent last when nothing
// comes, as clients do.
func (c *client) get(request []byte, w io.Writer) (options map[string]string, err error) {
	c.request(request)
	last := func() { c.request(request) }
	want, size, silent := uint16(1), plainBlock, 0
	for {
		op, n, rest, err := c.receive(time.Second)
		if err != nil {
			if silent++; silent > 15 {
				return options, errors.New("the server is silent")
			}
			last()
			continue
		}
		silent = 0
		switch op {
		case opERROR:
			return options, &wireError{n, strings.TrimRight(string(rest), "\x00")}
		case opOACK:
			options = map[string]string{}
			f := strings.Split(string(rest), "\x00")
			for i := 0; i+1 < len(f); i += 2 {
				options[f[i]] = f[i+1]
			}
			if v, ok := options["blksize"]; ok {
				fmt.Sscan(v, &size)
			}
			last = func() { c.answer(ack(0)) }
		case opDATA:
			last = func() { c.answer(ack(n)) }
			if n == want {
				w.Write(rest)
				want++
			}
			if n == want-1 && len(rest) < size {
				last()
				return options, nil
			}
		}
		last()
	}
}

// start runs a server on a loopback port until the test ends, or stop is called.
func start(t *testing.T, tree Tree, change func(*Server)) (addr netip.AddrPort, stop func() time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	for tries := 0; ; tries++ {
		s := &Server{Addr: freePort(t), Tree: tree, Log: zap.NewNop()}
		addr = s.Addr
		if change != nil {
			change(s)
		}
		go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
		select {
		case <-ready:
		case err := <-ended:
			if errors.Is(err, syscall.EADDRINUSE) && tries < 20 {
				continue // somebody was quicker
			}
			t.Fatal(err)
		}
		break
	}
	stopped := false
	stop = func() time.Duration {
		if stopped {
			return 0
		}
		stopped = true
		begin := time.Now()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		return time.Since(begin)
	}
	t.Cleanup(func() { stop() })
	return addr, stop
}

// freePort is a port of the loopback interface that was free a moment ago.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	probe, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	return probe.LocalAddr().(*net.UDPAddr).AddrPort()
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited %v in vain for: %s", soon, what)
}
