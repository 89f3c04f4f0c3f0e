package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Times of connecting.
const (
	openLimit  = time.Minute
	firstDelay = time.Second
	lastDelay  = time.Minute
	steady     = time.Minute // a connection that stood so long begins anew with the delays
	flushEvery = time.Second
)

// line is one console.
//
//	opening --Open--> connected --Read fails--> waiting --delay, or somebody attaches--> opening
//	opening --Open fails--> waiting
type line struct {
	machine Machine
	log     *zap.Logger
	metrics lineMetrics
	journal *journal
	poke    chan struct{} // somebody attaches: no use in waiting longer

	mu       sync.Mutex
	text     text
	recent   recent
	sessions map[*Session]struct{}
	writer   *Session
	began    time.Time // since when it writes
	conn     *connection
	since    time.Time
	reason   string
	lost     bool // there was a connection, or it was said that there is none
}

// connection is the console while it stands.
type connection struct {
	console io.ReadWriteCloser
	input   chan typed
	gone    chan struct{}
	once    sync.Once
	closed  error // of the side that writes; valid after gone
}

// close closes the console; why is the reason where its Read will not know it.
func (c *connection) close(why error) {
	c.once.Do(func() {
		c.closed = why
		c.console.Close()
	})
}

func newLine(m Machine, path string, log *zap.Logger, metrics lineMetrics) *line {
	return &line{machine: m, log: log, metrics: metrics, journal: &journal{path: path, log: log, forgotten: metrics.forgotten},
		poke: make(chan struct{}, 1), sessions: map[*Session]struct{}{}}
}

// run keeps the console connected until ctx is done.
func (l *line) run(ctx context.Context) {
	l.recall()
	writing, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.write(writing) })
	defer wg.Wait()
	defer stop()
	defer l.end()
	var delay time.Duration
	for {
		stood, err := l.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if stood >= steady {
			delay = 0
		}
		delay = min(max(2*delay, firstDelay), lastDelay)
		l.lose(err)
		if !l.wait(ctx, max(jitter(delay), l.least(err))) {
			return
		}
	}
}

// jitter spreads a delay by a quarter: a site whose power comes back has many BMCs that start at once.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)/2*float64(d))
}

// least is how long the console is to be left alone after an error.
func (l *line) least(err error) time.Duration {
	var failed *openError
	if l.machine.Wait == nil || !errors.As(err, &failed) {
		return 0
	}
	return l.machine.Wait(failed.err)
}

// wait waits for the next attempt; false when there is none. Who attaches ends it.
func (l *line) wait(ctx context.Context, delay time.Duration) bool {
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.poke:
		return l.pause(ctx)
	case <-ctx.Done():
		return false
	}
	return true
}

// pause keeps the attempts of those who attach again and again apart.
func (l *line) pause(ctx context.Context) bool {
	t := time.NewTimer(firstDelay / 2)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// openError is an error of Open.
type openError struct{ err error }

func (e *openError) Error() string { return e.err.Error() }
func (e *openError) Unwrap() error { return e.err }

// connect opens the console and reads until it is lost.
func (l *line) connect(ctx context.Context) (stood time.Duration, err error) {
	opening, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	console, err := l.machine.Open(opening)
	if err != nil {
		return 0, &openError{err}
	}
	c := &connection{console: console, input: make(chan typed), gone: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { c.close(errStopping) })
	defer stop()
	l.stand(c)
	begun := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { c.typing() })
	err = l.read(c)
	close(c.gone)
	c.close(nil)
	wg.Wait()
	if c.closed != nil {
		err = c.closed
	}
	return time.Since(begun), err
}

// typing hands what is typed to the machine.
func (c *connection) typing() {
	for {
		select {
		case <-c.gone:
			return
		case t := <-c.input:
			err := c.take(t)
			t.done <- err
			if err != nil && !errors.Is(err, ErrNoBreak) {
				c.close(err)
				return
			}
		}
	}
}

func (c *connection) take(t typed) error {
	if !t.isBreak {
		_, err := c.console.Write(t.data)
		return err
	}
	if b, ok := c.console.(interface{ Break() error }); ok {
		return b.Break()
	}
	return ErrNoBreak
}

// read passes on what the machine says.
func (l *line) read(c *connection) error {
	b := make([]byte, 4096)
	for {
		n, err := c.console.Read(b)
		if n > 0 {
			l.say(b[:n])
		}
		if errors.Is(err, io.EOF) {
			return errors.New("the other side ended it")
		}
		if err != nil {
			return err
		}
	}
}

// say is what the machine said: for the log and all who look.
func (l *line) say(b []byte) {
	l.metrics.received.Add(float64(len(b)))
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.text.add(b, now, l.keepLocked)
	for s := range l.sessions {
		s.push(Piece{Time: now, Data: b})
	}
}

// keepLocked takes a line that is complete.
func (l *line) keepLocked(e entry) {
	l.recent.add(e)
	l.journal.add(e)
}

// remarkLocked puts a remark of ours into the log and before all who look.
func (l *line) remarkLocked(format string, a ...any) {
	now, text := time.Now(), printable(fmt.Sprintf(format, a...))
	l.text.end(l.keepLocked)
	l.keepLocked(entry{at: now, text: text, remark: true})
	l.tellLocked(text)
}

// tellLocked tells all who look.
func (l *line) tellLocked(text string) {
	for s := range l.sessions {
		s.push(Piece{Time: time.Now(), Notice: text})
	}
}

// stand notes that the console is connected.
func (l *line) stand(c *connection) {
	l.metrics.connected.Set(1)
	l.log.Info("console is connected")
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.poke: // was for this
	default:
	}
	now := time.Now()
	if l.lost {
		l.remarkLocked("console back at %s; what the machine said since %s is missing", now.Format(time.TimeOnly), l.since.Format(time.TimeOnly))
	} else {
		l.remarkLocked("console opened at %s", now.Format(time.DateTime))
	}
	l.conn, l.since, l.reason, l.lost = c, now, "", false
}

// lose notes that the console is lost, or still is.
func (l *line) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.conn != nil
	l.conn = nil
	reason := printable(err.Error())
	if !was && l.lost && reason == l.reason {
		return // was said
	}
	now := time.Now()
	l.log.Warn("console is lost", zap.NamedError("err", err))
	switch {
	case was:
		l.metrics.connected.Set(0)
		l.metrics.losses.Inc()
		l.remarkLocked("console lost %s: %s", now.Format(time.TimeOnly), reason)
		l.since = now
	case !l.lost:
		l.remarkLocked("console cannot be opened %s: %s", now.Format(time.TimeOnly), reason)
		l.since = now
	default: // another reason: those who look want to know, the log has the first
		l.tellLocked("console is still lost: " + reason)
	}
	l.reason, l.lost = reason, true
}

// end is the end of keeping: of all sessions, and of the log.
func (l *line) end() {
	l.mu.Lock()
	l.conn = nil
	l.metrics.connected.Set(0)
	l.remarkLocked("console is not kept any more: the box stops at %s", time.Now().Format(time.DateTime))
	l.lost, l.since, l.reason = true, time.Now(), errStopping.Error()
	var all []*Session
	for s := range l.sessions {
		all = append(all, s)
	}
	l.mu.Unlock()
	for _, s := range all {
		l.leave(s, errStopping)
	}
}

// write brings the log to the disk once in a while.
func (l *line) write(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.mu.Lock()
			l.text.idle(time.Now(), l.journal.add)
			l.mu.Unlock()
			l.journal.flush()
		case <-ctx.Done():
			l.journal.close()
			return
		}
	}
}

// recall has the end of the log of an earlier run ready for those who look.
func (l *line) recall() {
	old, err := l.journal.tail(recentLines)
	if err != nil {
		l.log.Warn("log of the console cannot be read", zap.NamedError("err", err))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.recent.lines) > 0 {
		return // Run was called again
	}
	for _, s := range old {
		if e, ok := parseEntry(s); ok {
			l.recent.add(e)
		}
	}
}

// tail is that of Keeper.
func (l *line) tail(n int) ([]string, error) {
	l.mu.Lock()
	if len(l.recent.lines) >= n {
		defer l.mu.Unlock()
		return l.recent.tail(n, l.text.partial()), nil
	}
	l.text.idle(time.Time{}, l.journal.add)
	l.mu.Unlock()
	l.journal.flush()
	return l.journal.tail(n)
}
