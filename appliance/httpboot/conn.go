package httpboot

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// listener bounds the connections, in total and for one address.
type listener struct {
	*net.TCPListener
	refused func(netip.Addr)
	unread  prometheus.Counter // connections that sent no request that could be read

	mu   sync.Mutex
	all  int
	open map[netip.Addr]int
}

// Accept waits for a connection that is within the bounds. Others are reset:
// a client that opens so many does not read what we would say.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if l.admit(from) {
			return &conn{TCPConn: c, from: from, listener: l}, nil
		}
		c.SetLinger(0)
		c.Close()
		l.refused(from)
	}
}

func (l *listener) admit(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConns || l.open[from] >= maxConnsPerAddr {
		return false
	}
	if l.open == nil {
		l.open = map[netip.Addr]int{}
	}
	l.all++
	l.open[from]++
	return true
}

func (l *listener) release(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

// conn is a connection that is counted. The *net.TCPConn inside keeps its
// ReadFrom in sight of net/http: that is the way to sendfile.
type conn struct {
	*net.TCPConn
	from     netip.Addr
	listener *listener
	asking   atomic.Bool // bytes came, and no handler has seen a request in them yet
	once     sync.Once
}

// connKey is where a request's context has its conn.
type connKey struct{}

func connOf(r *http.Request) *conn { return r.Context().Value(connKey{}).(*conn) }

// noteState marks connections on which a request has begun. Requests that
// net/http cannot read reach no handler; they are counted when the connection ends.
func noteState(c net.Conn, s http.ConnState) {
	if s == http.StateActive {
		c.(*conn).asking.Store(true)
	}
}

// Close frees the connection's place.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.listener.release(c.from)
		if c.asking.Load() {
			c.listener.unread.Inc()
		}
	})
	return c.TCPConn.Close()
}

// drained waits until the peer has acknowledged every byte. What went out to
// the kernel is not there yet: with the cable pulled, megabytes stay in its buffer.
func (c *conn) drained(ctx context.Context, stall time.Duration) bool {
	begin, before := time.Now(), -1
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		left, alive := c.unacknowledged()
		if left == 0 || !alive {
			return left == 0
		}
		if left != before {
			begin, before = time.Now(), left
		} else if time.Since(begin) > stall {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// unacknowledged is what the peer has not acknowledged yet; a connection that
// was reset is not alive, and keeps its number.
func (c *conn) unacknowledged() (bytes int, alive bool) {
	const tcpClose = 7 // TCP_CLOSE of the kernel's tcp_states.h
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, false
	}
	bytes = -1
	raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			bytes, alive = n, info.State != tcpClose
		}
	})
	return bytes, alive
}
