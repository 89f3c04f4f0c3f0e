package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// String is the probe as the configuration writes it.
func (p Probe) String() string {
	host := p.Host
	if p.Port != 0 {
		host = net.JoinHostPort(host, strconv.Itoa(p.Port))
	}
	if p.Kind == Handshake {
		return string(p.Kind)
	}
	return string(p.Kind) + "://" + host + p.Path
}

// path is a way for probes: sockets that are bound to one device, and names that are
// resolved through it.
type path struct {
	device string
	v4, v6 bool // ways to the Internet that it has
	names  *names
	beside func(func(context.Context)) // begins what may take longer than a probe; nil: nobody waits for its end
}

func (w path) begin(f func(context.Context)) {
	if w.beside != nil {
		w.beside(f)
	} else {
		go f(context.Background())
	}
}

// errAbstain is that a probe can say nothing about an uplink.
var errAbstain = errors.New("says nothing while the uplink stands by")

// ask does one probe.
func (w path) ask(ctx context.Context, p Probe) error {
	to, err := w.names.resolve(ctx, w, p.Host)
	if err != nil {
		return err
	}
	err = w.askAt(ctx, p, to)
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) { // then others answered meanwhile
		w.names.tried(p.Host, to, err == nil)
	}
	return err
}

func (w path) askAt(ctx context.Context, p Probe, to netip.Addr) error {
	switch p.Kind {
	case ICMP:
		return ping(ctx, w.device, to)
	case DNS:
		return w.query(ctx, netip.AddrPortFrom(to, uint16(orPort(p.Port, 53))))
	case TCP:
		return w.connect(ctx, netip.AddrPortFrom(to, uint16(p.Port)))
	case HTTP:
		return w.get(ctx, p, netip.AddrPortFrom(to, uint16(orPort(p.Port, 80))))
	}
	return fmt.Errorf("%q is no kind of probe: want icmp, dns, tcp, http or handshake", p.Kind)
}

func orPort(port, usual int) int {
	if port == 0 {
		return usual
	}
	return port
}

// dialer dials through the device, whatever the routing table says.
func (w path) dialer() *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return onSocket(c, func(fd int) error { return unix.BindToDevice(fd, w.device) })
	}}
}

// connect opens a TCP connection. A refusal is as good: somebody there said it.
func (w path) connect(ctx context.Context, to netip.AddrPort) error {
	c, err := w.dialer().DialContext(ctx, "tcp", to.String())
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("connect to %s: %w", to, bare(err))
	}
	return c.Close()
}

// mostHeader is how long the header of an HTTP probe's answer may be.
const mostHeader = 16 << 10

// get fetches a page that has no content. What else comes is not the Internet but a portal that
// wants somebody to log in.
func (w path) get(ctx context.Context, p Probe, to netip.AddrPort) error {
	transport := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: mostHeader, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return w.dialer().DialContext(ctx, network, to.String())
	}}
	defer transport.CloseIdleConnections()
	host := p.Host
	if strings.Contains(host, ":") || p.Port != 0 {
		host = net.JoinHostPort(host, strconv.Itoa(orPort(p.Port, 80)))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+p.Path, nil)
	if err != nil {
		return fmt.Errorf("probe %s: %w", p, err)
	}
	resp, err := transport.RoundTrip(req) // follows nothing
	if err != nil {
		return fmt.Errorf("get %s: %w", p, bare(err))
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 1024)
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("get %s: want 204, not %s: something in the way answers in its place", p, resp.Status)
	}
	return nil
}

// query asks a name server for a name that nobody has. "No such name" is a good answer, and so is
// any but that it failed itself: a router's own server says so when its line is dead.
func (w path) query(ctx context.Context, server netip.AddrPort) error {
	c, err := w.dialer().DialContext(ctx, "udp", server.String())
	if err != nil {
		return fmt.Errorf("ask %s: %w", server, bare(err))
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	q := newQuestion()
	if _, err := c.Write(q.packet()); err != nil {
		return fmt.Errorf("ask %s: %w", server, bare(err))
	}
	for buf := make([]byte, 1500); ; {
		n, err := c.Read(buf)
		if err != nil {
			return fmt.Errorf("ask %s: %w", server, bare(err))
		}
		if code, ok := q.answered(buf[:n]); ok {
			if code == dnsmessage.RCodeServerFailure {
				return fmt.Errorf("ask %s: the name server cannot reach others", server)
			}
			return nil
		}
	}
}

// question is one query. Its name is new each time, so that no cache answers it.
type question struct {
	id   uint16
	name dnsmessage.Name
}

func newQuestion() question {
	var random [8]byte
	binary.NativeEndian.PutUint64(random[:], rand.Uint64())
	return question{uint16(rand.Uint32()), dnsmessage.MustNewName(fmt.Sprintf("x%x.example.com.", random))} // RFC 2606: nobody's
}

func (q question) packet() []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.id, RecursionDesired: true})
	_ = b.StartQuestions()
	_ = b.Question(dnsmessage.Question{Name: q.name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET})
	packet, err := b.Finish()
	if err != nil {
		panic(err) // the packet is ours: only a change of this function can break it
	}
	return packet
}

// answered reads an answer to the question.
func (q question) answered(b []byte) (dnsmessage.RCode, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.ID != q.id || !h.Response {
		return 0, false
	}
	asked, err := p.Question()
	if err != nil || asked.Type != dnsmessage.TypeA || !strings.EqualFold(asked.Name.String(), q.name.String()) {
		return 0, false
	}
	return h.RCode, true
}
