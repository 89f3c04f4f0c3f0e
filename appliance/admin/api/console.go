package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ConsoleMode says what a session may do on a machine's console.
type ConsoleMode string

// The modes.
const (
	ConsoleRead     ConsoleMode = "read"
	ConsoleWrite    ConsoleMode = "write"    // types, unless another one does: then it reads until it takes over
	ConsoleTakeOver ConsoleMode = "takeover" // types, and puts out who did
)

// ConsoleNotice is a remark of the daemon about a console, such as that it was lost.
type ConsoleNotice struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// ConsoleFlushed says that all that was typed before has reached the machine, or why not all of it has.
type ConsoleFlushed struct {
	Lost string `json:"lost,omitempty"`
}

// FrameKind is what a frame on the connection of a console holds.
type FrameKind byte

// The frames. A frame is its kind, the length of what it holds in two bytes, the
// higher first, and that.
const (
	FrameData     FrameKind = 'd' // bytes of the machine, or for it
	FrameBeat     FrameKind = 'h' // nothing, every 15 s from both sides
	FrameNotice   FrameKind = 'n' // of the daemon: ConsoleNotice
	FrameEnd      FrameKind = 'e' // of the daemon: RelayEnd; it closes then
	FrameBreak    FrameKind = 'b' // for the daemon: send a break
	FrameFlush    FrameKind = 'f' // for the daemon: say when all that was typed has reached the machine; of the daemon: ConsoleFlushed
	FrameTakeOver FrameKind = 't' // for the daemon: this session types from now on
)

// MaxFrame is how many bytes a frame holds at most.
const MaxFrame = 16 << 10

// WriteFrame writes one frame, in one Write.
func WriteFrame(w io.Writer, kind FrameKind, b []byte) error {
	if len(b) > MaxFrame {
		return errors.New("too much for one frame")
	}
	frame := append(make([]byte, 0, 3+len(b)), byte(kind), 0, 0)
	binary.BigEndian.PutUint16(frame[1:], uint16(len(b)))
	_, err := w.Write(append(frame, b...))
	return err
}

// ReadFrame reads one frame. An end in the midst of one is io.ErrUnexpectedEOF.
func ReadFrame(r io.Reader) (FrameKind, []byte, error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint16(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes: not the protocol of consoles", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return FrameKind(head[0]), b, nil
}

// ConsoleClosed is the error of a session that the daemon ended, with its reason.
type ConsoleClosed struct{ Why string }

func (e *ConsoleClosed) Error() string { return "the console is closed: " + e.Why }

// Console is a session on a machine's console.
type Console struct {
	conn     Conn
	r        *bufio.Reader
	watchdog *time.Timer
	stop     func() bool
	flushed  chan ConsoleFlushed // has room for one
	done     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup

	mu sync.Mutex // of writing
}

// consoleBeat is how often the client says that it is there; a daemon that hears nothing
// for three times as long lets the next one write.
const consoleBeat = 15 * time.Second

// Console opens a session on a machine's console, which begins with the last lines of its log.
func (c *Client) Console(ctx context.Context, machine string, mode ConsoleMode, lines int) (*Console, error) {
	conn, err := c.upgrade(ctx, "/v1/machines/"+segment(machine)+"/console?mode="+string(mode)+"&lines="+strconv.Itoa(lines))
	if err != nil {
		return nil, err
	}
	s := &Console{conn: conn, r: bufio.NewReader(conn), flushed: make(chan ConsoleFlushed, 1), done: make(chan struct{}),
		watchdog: time.AfterFunc(silence, func() { conn.Close() }), stop: context.AfterFunc(ctx, func() { conn.Close() })}
	s.wg.Go(s.beat)
	return s, nil
}

// beat tells the daemon that we are there.
func (s *Console) beat() {
	t := time.NewTicker(consoleBeat)
	defer t.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-t.C:
			_ = s.send(FrameBeat, nil) // who reads learns of the end
		}
	}
}

// Next waits for what comes next: bytes of the machine, or a remark. *ConsoleClosed says that the daemon ended it.
func (s *Console) Next() (data []byte, notice *ConsoleNotice, err error) {
	for {
		kind, b, err := ReadFrame(s.r)
		if err != nil {
			return nil, nil, fmt.Errorf("the connection to the daemon is lost: %w", err)
		}
		s.watchdog.Reset(silence)
		switch kind {
		case FrameData:
			return b, nil, nil
		case FrameNotice:
			notice = &ConsoleNotice{}
			if err := json.Unmarshal(b, notice); err != nil {
				return nil, nil, fmt.Errorf("read a remark about the console: %w", err)
			}
			return nil, notice, nil
		case FrameFlush:
			var f ConsoleFlushed
			if err := json.Unmarshal(b, &f); err != nil {
				return nil, nil, fmt.Errorf("read what became of what was typed: %w", err)
			}
			select {
			case s.flushed <- f:
			default: // nobody asked
			}
		case FrameEnd:
			var end RelayEnd
			_ = json.Unmarshal(b, &end) // then without a reason
			return nil, nil, &ConsoleClosed{end.Closed}
		}
	}
}

// Write types.
func (s *Console) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		part := b[n:min(len(b), n+MaxFrame)]
		if err := s.send(FrameData, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Flush waits until all that was typed has reached the machine, and is an error where some of it has not. Somebody must
// call Next meanwhile.
func (s *Console) Flush() error {
	if err := s.send(FrameFlush, nil); err != nil {
		return fmt.Errorf("the connection to the daemon is lost: %w", err)
	}
	select {
	case f := <-s.flushed:
		if f.Lost != "" {
			return errors.New(f.Lost)
		}
		return nil
	case <-s.done:
		return errors.New("the connection to the daemon is lost")
	}
}

// Break asks for a break. Where the console cannot, a remark says so.
func (s *Console) Break() error { return s.send(FrameBreak, nil) }

// TakeOver makes this session the one that types.
func (s *Console) TakeOver() error { return s.send(FrameTakeOver, nil) }

func (s *Console) send(kind FrameKind, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return WriteFrame(s.conn, kind, b)
}

// Close leaves the console.
func (s *Console) Close() error {
	var err error
	s.once.Do(func() {
		s.stop()
		s.watchdog.Stop()
		close(s.done)
		err = s.conn.Close()
	})
	s.wg.Wait()
	return err
}

// ConsoleLog is the end of the log of a machine's console: each line with its time.
func (c *Client) ConsoleLog(ctx context.Context, machine string, lines int) ([]string, error) {
	resp, err := c.send(ctx, http.MethodGet, "/v1/machines/"+segment(machine)+"/console/log?lines="+strconv.Itoa(lines), nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", c.where, err)
	}
	list := []string{}
	for line := range strings.Lines(string(b)) {
		list = append(list, strings.TrimSuffix(line, "\n"))
	}
	return list, nil
}
