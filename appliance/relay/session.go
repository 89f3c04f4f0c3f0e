package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// The reasons for which a session ends by itself.
var (
	errOver   = errors.New("its time is over")
	errClosed = errors.New("the admin closed it")
)

// Session is one opened way.
type Session struct {
	Grant
	ID      string // 32 hexadecimal digits; a secret of the admin's command
	Expires time.Time

	relay *Relay
	ctx   context.Context
	end   func(why error)
	wg    sync.WaitGroup // streams

	open, total    int // streams; guarded by relay.mu
	sent, received atomic.Int64
}

// Totals is what went through a session.
type Totals struct {
	Streams  int
	Sent     int64 // bytes from the admin to the machine
	Received int64
}

// Done is closed when the session has ended; Why says then why.
func (s *Session) Done() <-chan struct{} { return s.ctx.Done() }

// Why is the reason for the session's end.
func (s *Session) Why() string {
	if err := context.Cause(s.ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err.Error()
	}
	return "the box stops"
}

// Close ends the session, waits for its streams, and counts. A nil why means the admin's own wish.
func (s *Session) Close(why error) Totals {
	if why == nil {
		why = errClosed
	}
	s.end(why)
	s.relay.forget(s) // whoever took a stream has counted it by now
	s.wg.Wait()
	s.relay.mu.Lock()
	defer s.relay.mu.Unlock()
	return Totals{Streams: s.total, Sent: s.sent.Load(), Received: s.received.Load()}
}

// Dial connects to the target. The stream must be joined or closed.
func (s *Session) Dial(ctx context.Context) (*Stream, error) {
	if err := s.relay.takeStream(s); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	conn, err := s.relay.dial(ctx, s.Target)
	if err != nil {
		s.relay.freeStream(s)
		return nil, fmt.Errorf("%s does not answer at %s: %w", s.Machine, s.Target, bare(err))
	}
	return &Stream{session: s, target: conn}, nil
}

// bare is an error of the network without the address, which is said already.
func bare(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}

// Stream is one connection to the target.
type Stream struct {
	session *Session
	target  net.Conn
	once    sync.Once
}

// Close gives up a stream; after Join it does nothing.
func (t *Stream) Close() {
	t.once.Do(func() {
		t.target.Close()
		t.session.relay.freeStream(t.session)
	})
}

// Join carries bytes between an admin and the target until both have said all, one
// of them breaks off or takes nothing for too long, or the session ends. It closes both.
func (t *Stream) Join(admin net.Conn) {
	defer t.Close()
	defer admin.Close()
	j := &join{}
	defer context.AfterFunc(t.session.ctx, func() {
		admin.Close()
		t.target.Close()
	})()
	var wg sync.WaitGroup
	wg.Go(func() { j.carry(t.target, admin, &t.session.sent) })
	wg.Go(func() { j.carry(admin, t.target, &t.session.received) })
	wg.Wait()
}

// join is two directions that know of each other.
type join struct {
	half atomic.Bool // one direction has said all
}

// carry copies one direction.
func (j *join) carry(to, from net.Conn, count *atomic.Int64) {
	buf := make([]byte, 32<<10)
	for {
		if j.half.Load() {
			from.SetReadDeadline(time.Now().Add(halfIdle))
		}
		n, err := from.Read(buf)
		if n > 0 {
			to.SetWriteDeadline(time.Now().Add(slowPeer))
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			} else {
				count.Add(int64(n))
			}
		}
		if err != nil {
			j.ended(to, from, err)
			return
		}
	}
}

// ended passes on the end of one direction: as a half-close where it is a proper
// end, and as the end of all else.
func (j *join) ended(to, from net.Conn, err error) {
	closer, ok := to.(interface{ CloseWrite() error })
	if !ok || !errors.Is(err, io.EOF) || closer.CloseWrite() != nil {
		to.Close()
		from.Close()
		return
	}
	j.half.Store(true)
	to.SetReadDeadline(time.Now().Add(halfIdle))
}
