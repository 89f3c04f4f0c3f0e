package main

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rescuebox/appliance/admin/api"
)

// maxForwarded bounds connections through one port, as the box does.
const maxForwarded = 16

// forward leads what connects to a local port through the box.
type forward struct {
	*cli
	way      *api.Way
	listener net.Listener
	wg       sync.WaitGroup
	open     atomic.Int32
}

// port is where to connect to.
func (f *forward) port() netip.AddrPort {
	return f.listener.Addr().(*net.TCPAddr).AddrPort()
}

// run takes connections until ctx is done or the way ends.
func (f *forward) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { f.listener.Close() })
	defer stop()
	go func() { // ends with ctx
		select {
		case <-f.way.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		if f.open.Load() >= maxForwarded {
			conn.Close()
			continue
		}
		f.open.Add(1)
		f.wg.Go(func() {
			defer f.open.Add(-1)
			f.carry(ctx, conn.(*net.TCPConn))
		})
	}
}

// carry leads one connection through, until both sides have said all or ctx is done.
func (f *forward) carry(ctx context.Context, near *net.TCPConn) {
	defer near.Close()
	far, err := f.way.Dial(ctx)
	if err != nil {
		if ctx.Err() == nil {
			f.printError(err)
		}
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var wg sync.WaitGroup
	wg.Go(func() { pass(far, near) })
	wg.Go(func() { pass(near, far) })
	wg.Wait()
}

// halfCloser is a connection whose two directions end on their own.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// pass copies one direction, and passes its end on; a break breaks both.
func pass(to, from halfCloser) {
	_, err := io.Copy(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		to.Close()
		from.Close()
	}
}

// idle waits until nothing was connected for a while.
func (f *forward) idle(ctx context.Context) {
	for since := time.Now(); time.Since(since) < settled; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(settled / 10):
		}
		if f.open.Load() > 0 {
			since = time.Now()
		}
	}
}
