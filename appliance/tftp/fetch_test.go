package tftp

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fetch is a peer that knows windows (RFC 7440), fast enough to measure
// servers with: it reads in its own thread, without Go's network poller.
type fetch struct {
	server netip.AddrPort
	local  netip.Addr // zero: any
	path   string
	block  int
	window int         // 0: it does not ask for one
	msft   func() byte // it asks for Windows' own window, and sets it to this with every acknowledgement
	nag    bool        // says with every block that is not the next one what it lacks, as EDK2 does
	early  int         // acknowledges after so many blocks, whatever was agreed

	fd      int
	timeout time.Duration // 0 is a second
	said    []byte        // sent last
	options map[string]string
	got     int // data packets
	next    int64
	size    int // of the window now
	since   int // blocks since the last acknowledgement
	gap     bool
}

func (f *fetch) request() []byte {
	fields := []string{f.path, "octet", "tsize", "0", "blksize", fmt.Sprint(f.block)}
	if f.window > 0 {
		fields = append(fields, "windowsize", fmt.Sprint(f.window))
	}
	if f.msft != nil {
		fields = append(fields, "msftwindow", msftAsks)
	}
	return rq(opRRQ, fields...)
}

// get fetches the file.
func (f *fetch) get(w io.Writer) error {
	if err := f.open(); err != nil {
		return err
	}
	return f.run(w)
}

// open makes the socket.
func (f *fetch) open() (err error) {
	if f.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if f.timeout == 0 {
		f.timeout = time.Second
	}
	unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	tv := unix.NsecToTimeval(int64(f.timeout))
	unix.SetsockoptTimeval(f.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if f.local.IsValid() {
		return unix.Bind(f.fd, &unix.SockaddrInet4{Addr: f.local.As4()})
	}
	return nil
}

// run asks for the file and takes it.
func (f *fetch) run(w io.Writer) error {
	defer unix.Close(f.fd)
	f.said, f.next, f.size = f.request(), 1, 1
	server := &unix.SockaddrInet4{Addr: f.server.Addr().As4(), Port: int(f.server.Port())}
	unix.Sendto(f.fd, f.said, 0, server)
	buf := make([]byte, 65536)
	for silent, connected := 0, false; ; {
		n, from, err := f.receive(buf, connected)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			if silent++; err != unix.EAGAIN || silent > 15 {
				return fmt.Errorf("after %d blocks: %w", f.next-1, err)
			}
			if connected {
				unix.Write(f.fd, f.said)
			} else {
				unix.Sendto(f.fd, f.said, 0, server)
			}
			continue
		}
		if silent = 0; !connected {
			if err := unix.Connect(f.fd, from); err != nil {
				return err
			}
			connected = true
		}
		if done, err := f.take(buf[:n], w); done || err != nil {
			return err
		}
	}
}

func (f *fetch) receive(buf []byte, connected bool) (int, unix.Sockaddr, error) {
	if connected { // the quick way
		n, err := unix.Read(f.fd, buf)
		return n, nil, err
	}
	return unix.Recvfrom(f.fd, buf, 0)
}

// take handles a packet.
func (f *fetch) take(p []byte, w io.Writer) (done bool, err error) {
	switch code := binary.BigEndian.Uint16(p[2:]); binary.BigEndian.Uint16(p) {
	case opERROR:
		return false, &wireError{code, strings.TrimRight(string(p[4:]), "\x00")}
	case opOACK:
		if f.options != nil {
			f.say(0)
			return false, nil
		}
		f.options = map[string]string{}
		o := strings.Split(string(p[2:]), "\x00")
		for i := 0; i+1 < len(o); i += 2 {
			f.options[o[i]] = o[i+1]
		}
		fmt.Sscan(f.options["blksize"], &f.block)
		fmt.Sscan(f.options["windowsize"], &f.size)
		f.say(0)
	case opDATA:
		f.got++
		if code != uint16(f.next) {
			if f.nag || !f.gap {
				f.say(uint16(f.next - 1))
			}
			f.gap = true
			return false, nil
		}
		w.Write(p[4:])
		f.next++
		f.gap = false
		done = len(p) < headerSize+f.block
		if f.since++; done || f.since >= f.size || f.since == f.early {
			f.say(code)
		}
	}
	return done, nil
}

// say acknowledges.
func (f *fetch) say(block uint16) {
	f.said, f.since = ack(block), 0
	if f.msft != nil && f.options["msftwindow"] != "" {
		w := f.msft()
		f.said, f.size = append(f.said, w), int(w)
	}
	unix.Write(f.fd, f.said)
}

// measure runs as many fetches at once as the words say ("server:port block
// window first-local-address clients path", %d in the path is the client's
// number) and prints how many MB per second came in all, by how many percent
// the slowest took longer than the quickest, and how many MB came.
//
// All stand ready before the first asks, and each one's time is its own, from its
// request to its last block. Each stands for a machine with a processor of its own: no
// scheduler but the kernel's shall decide which of them runs.
func measure(words string) error {
	var server, local, path string
	var block, window, clients int
	if _, err := fmt.Sscan(words, &server, &block, &window, &local, &clients, &path); err != nil {
		return err
	}
	runtime.GOMAXPROCS(clients + 2)
	type result struct {
		begin, end time.Time
		err        error
	}
	results, start, total := make(chan result), make(chan struct{}), &counter{}
	addr := netip.MustParseAddr(local)
	var ready sync.WaitGroup
	for i := range clients {
		f := &fetch{server: netip.MustParseAddrPort(server), local: addr, block: block, path: strings.ReplaceAll(path, "%d", fmt.Sprint(101+i))}
		if window > 1 {
			f.window = window
		}
		if err := f.open(); err != nil {
			return err
		}
		addr = addr.Next()
		ready.Add(1)
		go func() {
			runtime.LockOSThread()
			n := &counter{}
			ready.Done()
			<-start
			r := result{begin: time.Now()}
			r.err = f.run(n)
			r.end = time.Now()
			total.add(n.n)
			results <- r
		}()
	}
	ready.Wait()
	close(start)
	var first, last time.Time
	var all []time.Duration
	for range clients {
		r := <-results
		if r.err != nil {
			return r.err
		}
		all = append(all, r.end.Sub(r.begin))
		if first.IsZero() || r.begin.Before(first) {
			first = r.begin
		}
		last = r.end
	}
	slices.Sort(all)
	spread := 100 * (all[len(all)-1].Seconds()/all[0].Seconds() - 1)
	fmt.Printf("%.0f %.0f %d\n", float64(total.n)/1e6/last.Sub(first).Seconds(), spread, total.n/1e6)
	return nil
}

type counter struct {
	mu sync.Mutex
	n  int64
}

func (c *counter) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
}

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }
