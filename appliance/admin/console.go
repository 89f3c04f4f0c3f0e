package admin

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
)

// Consoles are the machines' serial consoles; package console keeps them, behind
// an adapter. Its "no" is a *boot.Refusal.
type Consoles interface {
	Attach(ctx context.Context, machine string, a ConsoleAttach) (ConsoleSession, error)
	Tail(machine string, lines int) ([]string, error)
}

// ConsoleAttach says who wants to see a console, and how.
type ConsoleAttach struct {
	Who             string
	Write, TakeOver bool
	Lines           int // of the log to begin with
}

// ConsoleSession is one who looks at a console.
type ConsoleSession interface {
	// Next waits for bytes of the machine or a remark about the console.
	Next(ctx context.Context) (ConsolePiece, error)
	io.WriteCloser
	Break() error
	TakeOver() error
}

// ConsolePiece is what a session sees next.
type ConsolePiece struct {
	Time   time.Time
	Data   []byte
	Notice string
}

// Limits of consoles.
const (
	consoleLines    = 50
	maxConsoleLines = 10000
	consoleSilence  = 3 * heartbeat // of a client, which says every 15 s that it is there
	slowConsole     = 30 * time.Second
	lastWord        = time.Second / 2 // for who takes nothing must not hold up the box's end
	sameRefusal     = 2 * time.Second // what is typed in vain is refused once in so long
)

// console answers GET /v1/machines/{name}/console: one session on the machine's
// console, while this connection stands. Both sides send frames (api.WriteFrame).
//
// To look on needs the role operator too: what a machine says on its console, such as its
// kernel's command line with the order's token or a shell that somebody left open, opens the machine as a ticket does.
func (h *service) console(c *call) error {
	name := c.path("name")
	c.note("%s mode=%s", quoteIfOdd(name), quoteIfOdd(c.req.URL.Query().Get("mode")))
	a, err := h.consoleAsked(c)
	if err != nil {
		return err
	}
	if err := upgradable(c.req); err != nil {
		return err
	}
	s, err := h.Consoles.Attach(c.req.Context(), name, a)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := h.record(c, http.StatusSwitchingProtocols, nil); err != nil {
		return err // without a record nobody gets in
	}
	h.relaying.Add(1)
	defer h.relaying.Done()
	conn, err := h.upgrade(c)
	if err != nil {
		return nil // whoever asked is gone
	}
	h.count("/v1/machines/{name}/console", http.StatusSwitchingProtocols)
	v := &consoleView{h: h, call: *c, session: s, conn: conn}
	begun := time.Now()
	why := v.run(c.req.Context())
	c.note("%s mode=%s typed=%d received=%d after=%s: %s", quoteIfOdd(name), modeOf(a), v.typed.Load(), v.received.Load(),
		time.Since(begun).Round(time.Second), why)
	if err := h.recordAs(c, "CLOSE "+c.req.URL.Path, http.StatusOK, nil); err != nil {
		h.log.Error("end of a session on a console is not on record", zap.String("machine", name), zap.NamedError("err", err))
	}
	return nil
}

// consoleAsked reads what is asked of a console.
func (h *service) consoleAsked(c *call) (a ConsoleAttach, err error) {
	if err := h.hasConsole(c.path("name")); err != nil {
		return a, err
	}
	a.Who = c.who.Name + " (" + c.who.From + ")"
	switch mode := api.ConsoleMode(cmp.Or(c.req.URL.Query().Get("mode"), string(api.ConsoleWrite))); mode {
	case api.ConsoleRead:
	case api.ConsoleWrite:
		a.Write = true
	case api.ConsoleTakeOver:
		a.Write, a.TakeOver = true, true
	default:
		return a, badRequest("mode=%s is none of read, write, takeover", mode)
	}
	a.Lines, err = c.lines(consoleLines)
	return a, err
}

func modeOf(a ConsoleAttach) api.ConsoleMode {
	switch {
	case a.TakeOver:
		return api.ConsoleTakeOver
	case a.Write:
		return api.ConsoleWrite
	}
	return api.ConsoleRead
}

func (h *service) hasConsole(machine string) error {
	if _, err := h.findMachine(machine); err != nil {
		return err
	}
	if h.Consoles == nil {
		return conflict("this box keeps no consoles")
	}
	return nil
}

// lines is the query's lines, within its bounds.
func (c *call) lines(fallback int) (int, error) {
	text := c.req.URL.Query().Get("lines")
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxConsoleLines {
		return 0, badRequest("lines=%s is not a number from 0 to %d", text, maxConsoleLines)
	}
	return n, nil
}

// consoleLog answers GET /v1/machines/{name}/console/log with the last lines.
func (h *service) consoleLog(c *call) error {
	if err := h.hasConsole(c.path("name")); err != nil {
		return err
	}
	n, err := c.lines(200)
	if err != nil {
		return err
	}
	list, err := h.Consoles.Tail(c.path("name"), n)
	if err != nil {
		return err
	}
	text := strings.Join(list, "\n")
	if len(list) > 0 {
		text += "\n"
	}
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = io.WriteString(c.w, text) // whoever asked may be gone
	return nil
}

// consoleView is a session on a console with its connection.
type consoleView struct {
	h       *service
	call    call
	session ConsoleSession
	conn    net.Conn

	typed, received atomic.Int64

	mu      sync.Mutex // of writing to conn
	refused string     // what was refused last,
	at      time.Time  // and when
	lost    string     // why something that was typed since the last flush did not reach the machine
}

// run carries the session until either side ends it, or the token may no more.
func (v *consoleView) run(ctx context.Context) (why error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(v.fromAdmin()) })
	wg.Go(func() { cancel(v.toAdmin(ctx)) })
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-beat.C:
			if v.call.tokenID != "" && !v.h.keys.alive(v.call.tokenID, time.Now()) {
				cancel(errRevoked)
			} else if err := v.send(api.FrameBeat, nil); err != nil {
				cancel(errGone)
			}
		}
	}
	why = context.Cause(ctx)
	if errors.Is(why, context.Canceled) {
		why = errors.New("the box stops")
	}
	end, _ := json.Marshal(api.RelayEnd{Closed: why.Error()}) // our own type
	// What begins to be sent just now sets a longer deadline behind the one below.
	defer time.AfterFunc(2*lastWord, func() { v.conn.Close() }).Stop()
	v.conn.SetWriteDeadline(time.Now().Add(lastWord)) // also of what is being written
	_ = v.sendWithin(lastWord, api.FrameEnd, end)     // it goes anyway
	v.conn.Close()
	v.session.Close()
	wg.Wait()
	return why
}

// toAdmin passes on what the machine says, and the remarks.
func (v *consoleView) toAdmin(ctx context.Context) error {
	for {
		p, err := v.session.Next(ctx)
		if err != nil {
			return err
		}
		v.received.Add(int64(len(p.Data)))
		if p.Notice != "" {
			err = v.notice(p.Time, p.Notice)
		}
		for b := p.Data; err == nil && len(b) > 0; {
			n := min(len(b), api.MaxFrame)
			err = v.send(api.FrameData, b[:n])
			b = b[n:]
		}
		if err != nil {
			return errGone
		}
	}
}

// fromAdmin passes on what is typed.
func (v *consoleView) fromAdmin() error {
	r := bufio.NewReader(v.conn)
	for {
		v.conn.SetReadDeadline(time.Now().Add(consoleSilence))
		kind, b, err := api.ReadFrame(r)
		if err != nil {
			return errGone
		}
		switch kind {
		case api.FrameData:
			n, failed := v.session.Write(b)
			v.typed.Add(int64(n))
			if err = failed; err != nil {
				v.lost = err.Error()
			}
		case api.FrameFlush:
			v.flushed()
		case api.FrameBreak:
			err = v.session.Break()
		case api.FrameTakeOver:
			err = v.takeOver()
		}
		if err != nil {
			v.refuse(err)
		}
	}
}

// flushed says that what was typed has reached the machine: each piece of it waits for the one before.
func (v *consoleView) flushed() {
	b, _ := json.Marshal(api.ConsoleFlushed{Lost: v.lost}) // our own type
	v.lost = ""
	_ = v.send(api.FrameFlush, b) // who reads the connection learns of its end
}

// takeOver puts out who types. It is on record, as the opening is.
func (v *consoleView) takeOver() error {
	c := v.call
	err := v.session.TakeOver()
	c.note("%s", quoteIfOdd(c.path("name")))
	status := http.StatusOK
	if err != nil {
		status = http.StatusForbidden
	}
	if recorded := v.h.recordAs(&c, "TAKEOVER "+c.req.URL.Path, status, err); recorded != nil && err == nil {
		return recorded
	}
	return err
}

// refuse says why what was typed is lost, but not for every key.
func (v *consoleView) refuse(err error) {
	if now := time.Now(); v.refused != err.Error() || now.Sub(v.at) > sameRefusal {
		v.refused, v.at = err.Error(), now
		_ = v.notice(now, err.Error()) // who reads the connection learns of its end
	}
}

func (v *consoleView) notice(at time.Time, text string) error {
	b, err := json.Marshal(api.ConsoleNotice{Time: at.UTC(), Text: text})
	if err != nil || len(b) > api.MaxFrame {
		return err
	}
	return v.send(api.FrameNotice, b)
}

func (v *consoleView) send(kind api.FrameKind, b []byte) error {
	return v.sendWithin(slowConsole, kind, b)
}

func (v *consoleView) sendWithin(limit time.Duration, kind api.FrameKind, b []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conn.SetWriteDeadline(time.Now().Add(limit))
	return api.WriteFrame(v.conn, kind, b)
}
