package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Watch says which events to follow.
type Watch struct {
	Machine string // "" for all
	Order   string // "" for all
	// After is the number of the last event known already: those after it
	// come first, out of the log. Negative: only what happens from now on.
	After int64

	// Connected is called whenever the stream stands, the first time and
	// after each break. May be nil.
	Connected func()
	// Lost is called when the stream broke and is tried again after a
	// while. May be nil.
	Lost func(err error, retry time.Duration)
}

// silence is how long the stream may say nothing; the daemon's heartbeat comes every 15 s.
const silence = 45 * time.Second

// Follow calls fn for every event, in order and each once, until ctx is done, fn
// returns an error, or the daemon refuses. A stream that breaks, because the
// daemon restarts, say, is taken up again where it broke.
func (c *Client) Follow(ctx context.Context, w Watch, fn func(Event) error) error {
	last, delay := w.After, time.Duration(0)
	for {
		stood, err := c.follow(ctx, w, &last, fn)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if stood {
			delay = 0
		}
		if !retryable(err) {
			return unwrapStop(err)
		}
		delay = min(max(2*delay, 250*time.Millisecond), 5*time.Second)
		if w.Lost != nil {
			w.Lost(err, delay)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopError carries the error of Follow's fn out of the stream.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }
func (e *stopError) Unwrap() error { return e.err }

// unwrapStop is fn's own error, if err is one.
func unwrapStop(err error) error {
	var stop *stopError
	if errors.As(err, &stop) {
		return stop.err
	}
	return err
}

// retryable says whether a broken stream is taken up again: not after fn's own
// error or the daemon's "no".
func retryable(err error) bool {
	var stop *stopError
	var e *Error
	switch {
	case errors.As(err, &stop), errors.Is(err, errFingerprint):
		return false
	case errors.As(err, &e):
		return e.Status >= 500
	}
	return true
}

// follow reads one stream to its end.
func (c *Client) follow(ctx context.Context, w Watch, last *int64, fn func(Event) error) (stood bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()

	q := query("machine", w.Machine, "order", w.Order, "after", strconv.FormatInt(max(*last, 0), 10))
	if *last < 0 {
		q = query("machine", w.Machine, "order", w.Order, "after", "now")
	}
	resp, err := c.send(ctx, http.MethodGet, "/v1/events"+q, nil, http.Header{"Accept": {"text/event-stream"}})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if w.Connected != nil {
		w.Connected()
	}
	s := stream{r: bufio.NewReaderSize(resp.Body, maxLine)}
	for {
		m, err := s.next()
		if err != nil {
			return true, fmt.Errorf("follow %s: %w", c.where, err)
		}
		watchdog.Reset(silence)
		if err := deliver(m, last, fn); err != nil {
			return true, err
		}
	}
}

// deliver hands one message to fn, unless it is a heartbeat or known already.
func deliver(m message, last *int64, fn func(Event) error) error {
	if m.data == nil {
		return nil
	}
	var e Event
	if err := json.Unmarshal(m.data, &e); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	if !e.Transient {
		if e.Seq != 0 && e.Seq <= *last {
			return nil
		}
		*last = max(*last, e.Seq)
	}
	if err := fn(e); err != nil {
		return &stopError{err}
	}
	return nil
}

// maxLine and maxMessage bound what the stream may make us keep.
const (
	maxLine    = 16 << 10
	maxMessage = 256 << 10
)

// message is one server-sent event; data is nil for a comment.
type message struct {
	event string
	id    string
	data  []byte
}

// stream reads server-sent events as the HTML standard has them (section 9.2.6,
// "Interpreting an event stream"), but for the byte order mark, a lone CR as the end
// of a line and the field retry, which our daemon does not send.
type stream struct {
	r *bufio.Reader
}

// next reads up to the next message or comment.
func (s stream) next() (message, error) {
	var m message
	for {
		line, err := s.line()
		if err != nil {
			return message{}, err
		}
		switch {
		case len(line) == 0 && m.data != nil:
			return m, nil
		case len(line) == 0:
			m = message{}
		case line[0] == ':':
			if m.data == nil && m.event == "" && m.id == "" {
				return message{}, nil // the heartbeat
			}
		default:
			if err := m.field(line); err != nil {
				return message{}, err
			}
		}
	}
}

// line reads one line without its end.
func (s stream) line() ([]byte, error) {
	var long []byte
	for {
		part, err := s.r.ReadSlice('\n')
		if err == nil && long == nil {
			return bytes.TrimRight(part, "\r\n"), nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		long = append(long, part...)
		if len(long) > maxMessage {
			return nil, errors.New("a line of the event stream is too long")
		}
		if err == nil {
			return bytes.TrimRight(long, "\r\n"), nil
		}
	}
}

// field takes over one line of a message; fields it does not know are left out.
func (m *message) field(line []byte) error {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "event":
		m.event = string(value)
	case "id":
		m.id = string(value)
	case "data":
		if m.data != nil {
			m.data = append(m.data, '\n')
		}
		m.data = append(append(make([]byte, 0, len(m.data)+len(value)), m.data...), value...)
		if len(m.data) > maxMessage {
			return errors.New("an event of the stream is too long")
		}
	}
	return nil
}
