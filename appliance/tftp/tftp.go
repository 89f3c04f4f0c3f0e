// Package tftp serves the tree of boot files over TFTP: RFC 1350 with the
// options blksize (RFC 2348), tsize and timeout (RFC 2349), windowsize (RFC
// 7440) and msftwindow (Windows' boot programs). The one file that it takes is a
// ticket of DaRT, inv32.xml: a script in WinPE has tftp, and maybe no curl.
//
// One socket takes the requests. Each is checked, decided by the tree, and
// answered from a socket of its own by a sender. The sender is our own; of
// pin/tftp only its netascii is used. pin/tftp's server knows no window, moves
// little more than half of what dnsmasq does (its round trip takes the long way
// through Go's network poller), sends blocks that fragment, knows option names in
// lower case only, calls every error "not found" and adds Go's text to it, and cannot be stopped.
package tftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/ipv4"
	"golang.org/x/sync/semaphore"

	"rescuebox/appliance/boot"
)

// Tree is what the server asks and tells; *boot.Table is one.
type Tree interface {
	Open(path string, from netip.Addr) (*boot.File, error)
	Served(f *boot.File)
	Progress(f *boot.File, n int64)
	Record(e boot.Event)
}

// Tickets takes what machines write. An error that is a *boot.Refusal is told to
// the machine. When it returns none, the ticket is on disk.
type Tickets interface {
	// Ticket takes an inv32.xml as it came: at most 64 KiB. TFTP knows no tokens.
	Ticket(token string, from netip.Addr, raw []byte) error
}

// Around a block are the headers of IP, UDP and TFTP.
const (
	headers     = 20 + 8 + 4
	ethernetMTU = 1500
)

// Server serves files over TFTP.
type Server struct {
	Addr      netip.AddrPort // IPv4; all addresses and port 69 where they are zero
	BlockSize int            // the largest block; 0 is 1468. The MTU of the way to a client can make it smaller
	Tree      Tree
	Tickets   Tickets               // nil: nobody may write
	Log       *zap.Logger           // nil: none
	Metrics   prometheus.Registerer // nil: none

	patience time.Duration // tests shorten it
	dally    time.Duration // and this
}

// dispatcher is a server that runs: it owns the socket of the requests and
// every transfer that came of them.
type dispatcher struct {
	Server
	metrics   metrics
	conn      *net.UDPConn
	control   *ipv4.PacketConn // conn with the address that a request was sent to
	transfers transfers
	writers   writers
	field     field
	air       *semaphore.Weighted // bytes that may be on their way at once
	wg        sync.WaitGroup
}

// Run listens, calls ready, and serves until ctx is done. It then cuts the transfers.
func (s *Server) Run(ctx context.Context, ready func()) error {
	d := &dispatcher{Server: *s, metrics: newMetrics(s.Metrics), air: semaphore.NewWeighted(maxInAir)}
	d.defaults()
	if err := d.listen(); err != nil {
		return err
	}
	defer d.conn.Close() // also after a panic: the part is started again, and needs the port
	ctx, cancel := context.WithCancel(ctx)
	defer d.wg.Wait()
	defer cancel()
	context.AfterFunc(ctx, func() { d.conn.SetReadDeadline(time.Unix(1, 0)) })
	ready()
	return d.serve(ctx)
}

func (d *dispatcher) defaults() {
	if !d.Addr.Addr().IsValid() {
		d.Addr = netip.AddrPortFrom(netip.IPv4Unspecified(), d.Addr.Port())
	}
	if d.BlockSize == 0 {
		d.BlockSize = ethernetMTU - headers
	}
	if d.patience == 0 {
		d.patience = defaultPatience
	}
	if d.dally == 0 {
		d.dally = defaultDally
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	// Whoever floods the port must not flood the log.
	d.Log = d.Log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Second, 20, 0)
	}))
}

func (d *dispatcher) listen() error {
	addr := d.Addr
	if !addr.Addr().Is4() {
		return fmt.Errorf("serve TFTP at %s: firmware boots over IPv4: give the LAN's IPv4 address", addr)
	}
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("serve TFTP at %s: the port is taken, maybe by dnsmasq, tftpd-hpa or atftpd: see ss -lunp 'sport = :%d' and stop it: %w", addr, addr.Port(), err)
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return fmt.Errorf("serve TFTP at %s: no interface of this box has the address: check [lan] address: %w", addr, err)
	}
	if err != nil {
		return fmt.Errorf("serve TFTP at %s: %w", addr, err)
	}
	conn.SetReadBuffer(1 << 20) // a rack that powers on asks all at once; less is no failure
	d.conn, d.control = conn, ipv4.NewPacketConn(conn)
	if err := d.control.SetControlMessage(ipv4.FlagDst, true); err != nil {
		conn.Close()
		return fmt.Errorf("serve TFTP at %s: ask for the addresses that requests are sent to: %w", addr, err)
	}
	return nil
}

// serve reads requests until ctx is done.
func (d *dispatcher) serve(ctx context.Context) error {
	var buf [2048]byte
	for {
		n, cm, from, err := d.control.ReadFrom(buf[:])
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read TFTP requests at %s: %w", d.Addr, err)
		}
		if cm == nil || cm.Dst.IsMulticast() || cm.Dst.Equal(net.IPv4bcast) {
			continue // RFC 1123 section 4.2.3.5: no answer to a broadcast
		}
		local, _ := netip.AddrFromSlice(cm.Dst.To4())
		d.dispatch(ctx, buf[:n], from.(*net.UDPAddr).AddrPort(), local)
	}
}

// dispatch starts the answer to one datagram.
func (d *dispatcher) dispatch(ctx context.Context, p []byte, from netip.AddrPort, local netip.Addr) {
	r, no := parseRequest(p)
	if r == nil {
		d.metrics.requests.WithLabelValues("invalid").Inc()
		if no != nil {
			d.refuse(no, from, local)
		}
		return
	}
	ctx, t, v := d.transfers.admit(ctx, from, p)
	switch v {
	case repeated:
		d.metrics.requests.WithLabelValues("repeated").Inc()
	case busy:
		d.metrics.requests.WithLabelValues(d.crowded(from, local)).Inc()
	case admitted:
		d.metrics.transfers.Inc()
		d.wg.Go(func() {
			defer d.metrics.transfers.Dec()
			defer d.transfers.release(t)
			if r.write {
				d.metrics.requests.WithLabelValues(d.take(ctx, t, r, local)).Inc()
				return
			}
			result := d.answer(ctx, t, r, local)
			for result == "probed" && t.again.Swap(false) {
				// The request came again before the error packet that ended the
				// probe: it was no repetition.
				result = d.answer(ctx, t, r, local)
			}
			d.metrics.requests.WithLabelValues(result).Inc()
		})
	}
}

// refuse answers "no" from the address that was asked.
func (d *dispatcher) refuse(no *refusal, to netip.AddrPort, local netip.Addr) {
	d.Log.Info("refused a TFTP request", zap.Stringer("from", to.Addr()), zap.String("reason", no.text))
	cm := &ipv4.ControlMessage{Src: local.AsSlice()}
	if _, err := d.control.WriteTo(no.packet(), cm, net.UDPAddrFromAddrPort(to)); err != nil {
		d.Log.Debug("TFTP refusal not sent", zap.NamedError("err", err))
	}
}

// refusalFor puts an error of the tree on the wire. What went wrong inside the
// box stays in its log: the rescue LAN is not to learn paths.
func refusalFor(err error) *refusal {
	var no *boot.Refusal
	switch {
	case errors.As(err, &no):
		return &refusal{codeNotFound, no.Reason}
	case errors.Is(err, fs.ErrNotExist):
		return &refusal{codeNotFound, "file not found"}
	}
	return &refusal{codeOther, "the box failed: see its log"}
}
