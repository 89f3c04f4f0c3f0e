package console

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Limits of sessions.
const (
	maxSessions = 16        // of one console
	maxQueue    = 256 << 10 // bytes that wait for one who reads slowly
	maxPieces   = 1024      // and pieces
	maxPiece    = 16 << 10  // bytes in one piece
	maxTyped    = 256       // bytes that go to the machine at a time
)

// Piece is what a session sees next: bytes of the machine or a remark of ours, never both.
type Piece struct {
	Time   time.Time
	Data   []byte
	Notice string
}

// Session is one who looks at a console. Next is for one goroutine, the others for any.
type Session struct {
	line  *line
	who   string
	wants bool        // to write
	stop  func() bool // the end with the context
	ended chan struct{}

	mu     sync.Mutex
	queue  []Piece
	bytes  int // in queue
	missed int // bytes that were thrown away since the last piece was taken
	why    error
	wake   chan struct{} // has room for one
}

// Next waits for what comes next. What waits already is given even after the session's end;
// then comes the reason for the end.
func (s *Session) Next(ctx context.Context) (Piece, error) {
	for {
		p, ok, err := s.take()
		if ok || err != nil {
			return p, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Piece{}, ctx.Err()
		}
	}
}

// take is Next without waiting.
func (s *Session) take() (p Piece, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missed > 0 {
		p = Piece{Time: time.Now(), Notice: fmt.Sprintf("%d bytes are missing here: you did not keep up", s.missed)}
		s.missed = 0
		return p, true, nil
	}
	if len(s.queue) == 0 {
		return p, false, s.why
	}
	p = s.queue[0]
	s.queue = s.queue[1:]
	s.bytes -= len(p.Data)
	return p, true, nil
}

// push queues a piece, without ever waiting. Who does not keep up loses the oldest bytes, and learns how many.
func (s *Session) push(p Piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes+len(p.Data) > maxQueue || len(s.queue) >= maxPieces {
		s.forget()
	}
	last := len(s.queue) - 1
	if last >= 0 && p.Notice == "" && s.queue[last].Notice == "" && len(s.queue[last].Data)+len(p.Data) <= maxPiece {
		s.queue[last].Data = append(s.queue[last].Data, p.Data...)
	} else {
		p.Data = slices.Clone(p.Data)
		s.queue = append(s.queue, p)
	}
	s.bytes += len(p.Data)
	s.signal()
}

// forget throws away what waits, but for the latest remarks.
func (s *Session) forget() {
	const kept = 16
	var notices []Piece
	for _, p := range s.queue {
		s.missed += len(p.Data)
		if p.Notice != "" {
			notices = append(notices, p)
		}
	}
	s.queue, s.bytes = slices.Clone(notices[max(0, len(notices)-kept):]), 0
}

func (s *Session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end gives the session its reason to end; the first one counts.
func (s *Session) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.why != nil {
		return
	}
	s.why = why
	close(s.ended)
	s.signal()
}

// Close leaves the console.
func (s *Session) Close() error {
	s.stop()
	s.line.leave(s, ErrClosed)
	return nil
}

// TakeOver makes this session the one that types. It is an error where it was attached for reading only.
func (s *Session) TakeOver() error {
	if !s.wants {
		return ErrReadOnly
	}
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	if _, there := s.line.sessions[s]; !there {
		return ErrClosed
	}
	s.line.give(s)
	return nil
}

// Write types. It waits until the machine's side took the bytes, and fails where another
// one types or the console is lost. The first who types while nobody else does is the one.
func (s *Session) Write(b []byte) (int, error) {
	n := 0
	for chunk := range slices.Chunk(b, maxTyped) {
		if err := s.send(typed{data: slices.Clone(chunk)}); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

// Break sends a break, as a serial line has it, where the console can: a Linux kernel takes
// it for SysRq, a router for the way into its loader. ErrNoBreak where it cannot.
func (s *Session) Break() error { return s.send(typed{isBreak: true}) }

// typed is what goes to the machine.
type typed struct {
	data    []byte
	isBreak bool
	done    chan error // has room for one
}

// send hands something to the connection, and waits until it was written.
func (s *Session) send(t typed) error {
	c, err := s.line.connectionFor(s)
	if err != nil {
		return err
	}
	t.done = make(chan error, 1)
	select {
	case c.input <- t:
	case <-c.gone:
		return ErrLost
	case <-s.ended:
		return ErrClosed
	}
	select {
	case err := <-t.done:
		return err
	case <-c.gone:
		return ErrLost
	case <-s.ended:
		return ErrClosed
	}
}
