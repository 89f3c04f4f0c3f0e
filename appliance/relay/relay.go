// Package relay leads an admin through the box to exactly one port of one machine: the
// service of a ticket, or one of its BMC. A session is opened for one target, ends by
// itself after its time, and counts what goes through.
//
// It carries TCP. What listens on UDP, IPMI on port 623 above all, is not relayed: those
// protocols do not keep out whoever can send to them.
package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Grant says who may go where, for how long.
type Grant struct {
	By      string // the admin; only he uses the session
	Machine string
	Service string // "ticket", "bmc"
	Ticket  string // its id, of service "ticket"
	Target  netip.AddrPort
	For     time.Duration // 0: an hour
}

// Bounds of sessions.
const (
	defaultFor    = time.Hour
	maxFor        = 12 * time.Hour
	maxSessions   = 48 // a BMC has up to a dozen services, each of which is one
	maxStreams    = 16 // of one session
	maxAllStreams = 64
	dialTimeout   = 10 * time.Second
	// slowPeer is how long one side may take none of what the other sends.
	slowPeer = 2 * time.Minute
	// halfIdle is how long the rest of a half-closed stream may be silent.
	halfIdle = 5 * time.Minute
)

// Refusal is a "no" with its reason and what to do.
type Refusal struct{ Reason, Hint string }

func (e *Refusal) Error() string { return e.Reason }

func refuse(hint, format string, a ...any) *Refusal {
	return &Refusal{Reason: fmt.Sprintf(format, a...), Hint: hint}
}

// Relay opens sessions. The zero value leads nowhere: Networks must be set. Its methods may be
// called by many goroutines.
type Relay struct {
	Networks []netip.Prefix // where targets may lie
	Own      []netip.Addr   // the box's own addresses: never a target
	// Dial reaches a target; nil is TCP.
	Dial func(ctx context.Context, target netip.AddrPort) (net.Conn, error)

	mu       sync.Mutex
	sessions map[string]*Session
	streams  int
}

// Open opens a session, which ends with ctx, after its time, or by Close.
func (r *Relay) Open(ctx context.Context, g Grant) (*Session, error) {
	if g.For == 0 {
		g.For = defaultFor
	}
	if err := r.check(g); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.sessions) >= maxSessions {
		return nil, refuse("end one of them with Ctrl-C, or wait until their time is over", "%d ways through the box are open already", maxSessions)
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails: crypto/rand ends the program instead
	s := &Session{Grant: g, ID: hex.EncodeToString(id), Expires: time.Now().Add(g.For), relay: r}
	timed, cancel := context.WithTimeoutCause(ctx, g.For, errOver)
	ended, end := context.WithCancelCause(timed)
	s.ctx, s.end = ended, func(why error) { end(why); cancel() }
	if r.sessions == nil {
		r.sessions = map[string]*Session{}
	}
	r.sessions[s.ID] = s
	context.AfterFunc(s.ctx, func() { r.forget(s) })
	return s, nil
}

// check says why a grant leads nowhere.
func (r *Relay) check(g Grant) error {
	addr := g.Target.Addr().Unmap()
	inside := slices.ContainsFunc(r.Networks, func(p netip.Prefix) bool { return p.Masked().Contains(addr) })
	switch {
	case g.For < 0 || g.For > maxFor:
		return refuse("for example --for 2h", "a way through the box stands for %s at most, not %s", maxFor, g.For)
	case !g.Target.IsValid() || g.Target.Port() == 0:
		return refuse("rescuebox ticket show "+g.Machine, "nobody knows where %s can be reached", g.Machine)
	case slices.Contains(r.Own, addr) || addr.IsLoopback() || addr.IsMulticast():
		return refuse("", "%s is the box itself, and no way to %s", addr, g.Machine)
	case !inside && g.Service != "bmc": // a ticket's address is what somebody said; a BMC's is in the file of the site
		return refuse("go there without the box, if you trust the ticket", "%s is in none of the box's networks, and the box leads to its own machines only", addr)
	}
	return nil
}

// Find finds an open session.
func (r *Relay) Find(id string) (*Session, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sessions[id]
	return s, ok
}

func (r *Relay) forget(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s.ID)
}

// takeStream counts a new stream of a session.
func (r *Relay) takeStream(s *Session) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
		return refuse("open it again: rescuebox connect "+s.Machine, "this way through the box is closed: %s", s.Why())
	case s.open >= maxStreams:
		return refuse("close some of them", "%d connections go this way already", maxStreams)
	case r.streams >= maxAllStreams:
		return refuse("try again when others are done", "%d connections go through the box already", maxAllStreams)
	}
	r.streams++
	s.open++
	s.total++
	s.wg.Add(1)
	return nil
}

func (r *Relay) freeStream(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams--
	s.open--
	s.wg.Done()
}

func (r *Relay) dial(ctx context.Context, target netip.AddrPort) (net.Conn, error) {
	if r.Dial != nil {
		return r.Dial(ctx, target)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", target.String())
}
