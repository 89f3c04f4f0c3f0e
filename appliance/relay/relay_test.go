package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	lan    = netip.MustParsePrefix("192.168.77.1/24")
	srv01  = netip.MustParseAddrPort("192.168.77.101:22")
	boxLAN = netip.MustParseAddr("192.168.77.1")
)

// echoing is a relay to a machine that answers with what it hears, in capital letters at the end.
func echoing(dialled *[]netip.AddrPort) *Relay {
	return &Relay{Networks: []netip.Prefix{lan}, Own: []netip.Addr{boxLAN}, Dial: func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		*dialled = append(*dialled, to)
		near, far := pair()
		go func() {
			text, _ := io.ReadAll(far)
			far.Write(bytes.ToUpper(text))
			far.Close()
		}()
		return near, nil
	}}
}

// half is one end of a connection in memory whose directions end on their own, as those of TCP do.
type half struct {
	net.Conn          // of one direction: read
	w        net.Conn // of the other
}

func pair() (a, b net.Conn) {
	ra, wb := net.Pipe()
	rb, wa := net.Pipe()
	return &half{ra, wa}, &half{rb, wb}
}

func (h *half) Write(b []byte) (int, error)        { return h.w.Write(b) }
func (h *half) CloseWrite() error                  { return h.w.Close() }
func (h *half) SetWriteDeadline(t time.Time) error { return h.w.SetWriteDeadline(t) }
func (h *half) Close() error                       { return errors.Join(h.Conn.Close(), h.w.Close()) }

func grant() Grant {
	return Grant{By: "anna", Machine: "srv01", Service: "ticket", Ticket: "0123", Target: srv01}
}

// What goes through arrives, is counted, and each direction ends alone; the target is the grant's.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialled []netip.AddrPort
		r := echoing(&dialled)
		s, err := r.Open(t.Context(), grant())
		if err != nil {
			t.Fatal(err)
		}
		if !s.Expires.Equal(time.Now().Add(time.Hour)) || len(s.ID) != 32 {
			t.Errorf("session %+v", s)
		}
		for range 2 {
			stream, err := s.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			admin, end := pair()
			go stream.Join(end)
			text := strings.Repeat("hello", 20000)
			go func() {
				io.WriteString(admin, text)
				admin.(*half).CloseWrite()
			}()
			if got, err := io.ReadAll(admin); err != nil || string(got) != strings.ToUpper(text) {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
			synctest.Wait()
		}
		if got := s.Close(nil); got != (Totals{Streams: 2, Sent: 200000, Received: 200000}) || s.Why() != "the admin closed it" {
			t.Errorf("%+v: %s", got, s.Why())
		}
		if len(dialled) != 2 || dialled[0] != srv01 || dialled[1] != srv01 {
			t.Errorf("dialled %v", dialled)
		}
		if _, ok := r.Find(s.ID); ok {
			t.Error("the closed session is found")
		}
		if _, err := s.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "is closed") {
			t.Errorf("through a closed way: %v", err)
		}
	})
}

// Where nobody is led: outside of the box's networks, to the box, to no port, for too long.
func TestNowhere(t *testing.T) {
	var dialled []netip.AddrPort
	r := echoing(&dialled)
	for target, want := range map[string]string{
		"10.0.0.5:22": "none of the box's networks", "192.168.77.1:22": "the box itself", "127.0.0.1:22": "the box itself",
		"[::ffff:192.168.77.1]:22": "the box itself", "[::ffff:127.0.0.1]:22": "the box itself", "192.168.77.101:0": "nobody knows where",
		"224.0.0.1:22": "the box itself", "0.0.0.0:22": "none of the box's networks", "[::1]:22": "the box itself", "[fe80::1%eth0]:22": "none of the box's networks",
	} {
		g := grant()
		g.Target = netip.MustParseAddrPort(target)
		var no *Refusal
		if _, err := r.Open(t.Context(), g); !errors.As(err, &no) || !strings.Contains(no.Reason, want) {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, span := range []time.Duration{-time.Second, maxFor + 1} {
		g := grant()
		g.For = span
		if _, err := r.Open(t.Context(), g); err == nil {
			t.Errorf("for %s: no error", span)
		}
	}
	if _, err := (&Relay{}).Open(t.Context(), grant()); err == nil {
		t.Error("the zero relay leads somewhere")
	}
	if len(dialled) > 0 {
		t.Errorf("dialled %v", dialled)
	}
}

// Its time over, or the box stopping, ends a session, and with it what goes through.
func TestEnds(t *testing.T) {
	for name, want := range map[string]string{"time": "its time is over", "stop": "the box stops"} {
		synctest.Test(t, func(t *testing.T) {
			var dialled []netip.AddrPort
			r := echoing(&dialled)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			g := grant()
			g.For = time.Minute
			s, err := r.Open(ctx, g)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := s.Dial(ctx)
			if err != nil {
				t.Fatal(err)
			}
			admin, end := pair()
			joined := make(chan struct{})
			go func() { stream.Join(end); close(joined) }()
			begun := time.Now()
			if name == "stop" {
				cancel()
			}
			<-s.Done()
			<-joined
			if took := time.Since(begun); name == "time" && took != time.Minute || s.Why() != want {
				t.Errorf("%s: after %s: %s", name, took, s.Why())
			}
			if _, err := admin.Read(make([]byte, 1)); err == nil {
				t.Error("the admin's connection goes on")
			}
			if r.streams != 0 {
				t.Errorf("%d streams are counted", r.streams)
			}
			s.Close(nil)
		})
	}
}

// Sessions and connections are bounded, and places come back.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialled []netip.AddrPort
		r := echoing(&dialled)
		var sessions []*Session
		for range maxSessions {
			s, err := r.Open(t.Context(), grant())
			if err != nil {
				t.Fatal(err)
			}
			sessions = append(sessions, s)
		}
		var no *Refusal
		if _, err := r.Open(t.Context(), grant()); !errors.As(err, &no) {
			t.Errorf("one too many: %v", err)
		}
		var streams []*Stream
		for i := range maxAllStreams {
			stream, err := sessions[i/maxStreams].Dial(t.Context())
			if err != nil {
				t.Fatal(i, err)
			}
			streams = append(streams, stream)
		}
		for _, s := range []*Session{sessions[0], sessions[maxSessions-1]} {
			if _, err := s.Dial(t.Context()); !errors.As(err, &no) {
				t.Errorf("one connection too many: %v", err)
			}
		}
		for _, stream := range streams {
			stream.Close()
		}
		for _, s := range sessions {
			s.Close(nil)
		}
		synctest.Wait()
		if s, err := r.Open(t.Context(), grant()); err != nil {
			t.Errorf("after all are closed: %v", err)
		} else {
			s.Close(nil)
		}
	})
}

// A peer that takes nothing is cut; a half-closed one that is silent, too; one that is
// merely idle is not.
func TestSlowPeers(t *testing.T) {
	for name, tt := range map[string]struct {
		admin func(net.Conn) // what the admin does; the machine says nothing and hears nothing
		want  time.Duration
	}{
		"takes nothing": {func(c net.Conn) { io.WriteString(c, strings.Repeat("x", 1<<20)) }, slowPeer},
		"half-closed":   {func(c net.Conn) { c.(*half).CloseWrite() }, halfIdle},
		"idle":          {func(net.Conn) {}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var machine net.Conn
				r := &Relay{Networks: []netip.Prefix{lan}, Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
					near, far := pair()
					machine = far
					return near, nil
				}}
				s, err := r.Open(t.Context(), grant())
				if err != nil {
					t.Fatal(err)
				}
				stream, err := s.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				admin, end := pair()
				begun := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() { tt.admin(admin) })
				stream.Join(end)
				if took := time.Since(begun); took != tt.want {
					t.Errorf("cut after %s, want %s", took, tt.want)
				}
				s.Close(nil)
				admin.Close()
				machine.Close()
				wg.Wait()
			})
		})
	}
}

// A machine that does not answer is an error with its address, and frees its place.
func TestDialFails(t *testing.T) {
	r := &Relay{Networks: []netip.Prefix{lan}, Dial: func(context.Context, netip.AddrPort) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}}
	s, err := r.Open(t.Context(), grant())
	if err != nil {
		t.Fatal(err)
	}
	for range maxAllStreams + 1 {
		if _, err := s.Dial(t.Context()); err == nil || err.Error() != "srv01 does not answer at 192.168.77.101:22: connection refused" {
			t.Fatal(err)
		}
	}
	if got := s.Close(nil); got.Sent+got.Received != 0 {
		t.Errorf("%+v", got)
	}
}
