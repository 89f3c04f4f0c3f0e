// Package httpboot serves boot scripts and image files over HTTP, and takes
// the reports of booted machines.
//
// Its clients are iPXE, UEFI firmware and GRUB, and they are pedantic: no
// redirects (so no ServeMux, which redirects a path with "//"), a
// Content-Length always and never chunks (uefi-rs#1851, grub2 PR#216),
// connections that stay open (edk2#9920), no empty header (edk2#7443).
package httpboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"rescuebox/appliance/boot"
)

// Tree is what the server asks and tells about files; *boot.Table is one.
type Tree interface {
	Open(path string, from netip.Addr) (*boot.File, error)
	Served(f *boot.File)
	Progress(f *boot.File, n int64)
	Record(e boot.Event)
}

// Agents hears the booted machines. A token may be empty: whether that is
// enough is theirs to say. An error that is a *boot.Refusal is told to the machine.
type Agents interface {
	// Keys are the admins' authorized_keys lines.
	Keys(token string, from netip.Addr) ([]byte, error)
	// Up takes the report of a machine that is up: JSON, at most 64 KiB.
	Up(token string, from netip.Addr, report []byte) error
}

// Limits of the server.
const (
	maxConns        = 512
	maxConnsPerAddr = 64
	maxHeader       = 16 << 10
	headerPatience  = 10 * time.Second
	idleTime        = 60 * time.Second
	stallPatience   = 30 * time.Second // a client that takes nothing for so long is cut
	stopTime        = 500 * time.Millisecond
)

// Server serves the tree over HTTP.
type Server struct {
	Addr      netip.AddrPort
	Site      string // name of the site, for people
	Tree      Tree
	Agents    Agents                // nil: reports are refused
	Tickets   Tickets               // nil: tickets are refused
	RateLimit int64                 // bytes per second for one address; 0 is without limit
	Log       *zap.Logger           // nil: none
	Metrics   prometheus.Registerer // nil: none

	stall, headerTime time.Duration // tests shorten them
}

// service is a server that runs.
type service struct {
	Server
	metrics metrics
	paces   paces
	parts   parts
	posts   limiter
	ctx     context.Context // of Run: transfers end with it
	gate    sync.RWMutex    // read-locked by handlers; locked for good when the server stops
}

// Run listens, calls ready, and serves until ctx is done. It then cuts the transfers.
func (s *Server) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v := &service{Server: *s, metrics: newMetrics(s.Metrics), ctx: ctx}
	v.defaults()
	l, err := v.listen()
	if err != nil {
		return err
	}
	srv := v.http()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	ready()
	select {
	case err = <-failed:
		err = fmt.Errorf("serve HTTP at %s: %w", v.Addr, err)
	case <-ctx.Done():
		err = nil
	}
	cancel()
	v.stop(srv)
	return err
}

// stop lets answers that are nearly out go, and cuts the others.
func (v *service) stop(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
	v.gate.Lock()
}

func (v *service) defaults() {
	if v.stall == 0 {
		v.stall = stallPatience
	}
	if v.headerTime == 0 {
		v.headerTime = headerPatience
	}
	if v.Log == nil {
		v.Log = zap.NewNop()
	}
	// Whoever floods the port must not flood the log.
	v.Log = v.Log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Second, 20, 0)
	}))
	v.paces.rate = v.RateLimit
}

func (v *service) http() *http.Server {
	debug, _ := zap.NewStdLogAt(v.Log, zap.DebugLevel)
	return &http.Server{
		Handler:           v,
		ReadHeaderTimeout: v.headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          debug,
		ConnState:         noteState,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
}

func (v *service) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", v.Addr.String())
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("serve HTTP at %s: the port is taken, maybe by nginx or apache2: see ss -ltnp 'sport = :%d' and stop it or give [http] another port: %w", v.Addr, v.Addr.Port(), err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("serve HTTP at %s: no interface of this box has the address: check [lan] address: %w", v.Addr, err)
	case err != nil:
		return nil, fmt.Errorf("serve HTTP at %s: %w", v.Addr, err)
	}
	return &listener{TCPListener: l.(*net.TCPListener), refused: v.refusedConn, unread: v.metrics.requests.WithLabelValues("invalid")}, nil
}

func (v *service) refusedConn(from netip.Addr) {
	v.metrics.requests.WithLabelValues("busy").Inc()
	v.Log.Warn("refused an HTTP connection: too many are open", zap.Stringer("from", from))
}
