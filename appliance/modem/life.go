package modem

import (
	"context"
	"time"
)

// Run keeps the modem alive until ctx is done. A modem that is not there is no failure of
// the part: Status says so, and it is looked for again.
func (m *Modem) Run(ctx context.Context, ready func()) error {
	ready()
	for ctx.Err() == nil {
		m.once(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// once is one session, from the port's opening to its loss.
func (m *Modem) once(ctx context.Context) {
	p, err := openTTY(m.Device, m.Speed)
	if err != nil {
		m.mu.Lock()
		m.status.State, m.status.Why = Absent, err.Error()
		m.mu.Unlock()
		return
	}
	s := newSession(p, m.Device, m.log, nil)
	defer s.close()
	for _, cmd := range []string{"Z", "E0", "+CMEE=1", "+CMGF=0"} {
		if _, err := s.command(ctx, cmd, "", shortAnswer); err != nil {
			return
		}
	}
	m.mu.Lock()
	m.current = s
	m.status.State, m.status.Why = Registered, ""
	m.movedLocked()
	m.mu.Unlock()
	_ = m.keepTexts(ctx, s)
	m.mu.Lock()
	m.current = nil
	m.movedLocked()
	m.mu.Unlock()
}

// loan hands the AT port to somebody else for a while: pppd on a modem with one port only.
type loan struct {
	granted chan string   // the path of the port, once the session is closed
	done    chan struct{} // closed when it is given back
}

// lend closes the session, calls use with the path of the AT port, and opens a new session when it returns. Without
// the port there are no messages and no signal: for modems with one port only.
func (m *Modem) lend(ctx context.Context, use func(device string) error) error {
	l := &loan{granted: make(chan string, 1), done: make(chan struct{})}
	defer close(l.done)
	select {
	case m.loans <- l:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case device := <-l.granted:
		return use(device)
	case <-ctx.Done():
		return ctx.Err()
	}
}
