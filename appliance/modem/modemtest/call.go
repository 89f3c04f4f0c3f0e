package modemtest

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// call is a data call as its network's side has it: it reads what the caller says, and what it writes is said to him.
//
//	data --"+++" between two silences--> online commands --ATO--> data
//	data --the caller closes the tty--> over        online commands --ATH, ATZ--> over
//	data, online commands --the network hangs up--> over, NO CARRIER
//
// The tty is closed to the modem only if nobody has it open when it looks: a caller that opens it again at once has not
// hung up. That is no worse than a modem that does not heed DTR (&D0).
type call struct {
	p *port

	mu     sync.Mutex
	more   *sync.Cond
	said   []byte // by the caller, not yet read
	over   bool
	online bool // the caller gives commands
	hung   bool // up, by a command, which is answered by itself
}

// maxSaid bounds what waits for a network that does not read; the rest is lost on the air.
const maxSaid = 1 << 16

func newCall(p *port) *call {
	c := &call{p: p}
	c.more = sync.NewCond(&c.mu)
	return c
}

// Read is the network's.
func (c *call) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.said) == 0 && !c.over {
		c.more.Wait()
	}
	if len(c.said) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.said)
	c.said = c.said[n:]
	return n, nil
}

// Write is the network's too. What it says while the caller gives commands is lost.
func (c *call) Write(b []byte) (int, error) {
	c.mu.Lock()
	over, online := c.over, c.online
	c.mu.Unlock()
	switch {
	case over:
		return 0, io.ErrClosedPipe
	case online:
		return len(b), nil
	}
	return c.p.Write(b)
}

// hangUp ends the call from the network's side.
func (c *call) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.endLocked()
		c.p.readUntil(time.Now())
	}
}

// end ends it from the caller's side: by a command, or because he went away.
func (c *call) end(byCommand bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hung = c.hung || byCommand && !c.over
	c.endLocked()
}

func (c *call) endLocked() {
	c.over = true
	c.more.Broadcast()
}

func (c *call) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// give passes on what the caller said.
func (c *call) give(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, b[:min(len(b), maxSaid-len(c.said))]...)
	c.more.Broadcast()
}

// carry hands over what the caller says, and looks for the escape in it, until the call is over.
func (c *call) carry() {
	const escape = "+++"
	guard := c.p.m.guard()
	buf := make([]byte, 4096)
	spoke, plus := time.Now(), "" // pluses after a silence: the beginning of an escape, or data
	for {
		if plus == "" {
			c.listenUntil(time.Time{})
		} else {
			c.listenUntil(time.Now().Add(guard))
		}
		n, err := c.p.Read(buf)
		late := errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case c.isOver(), err != nil && !late:
			return
		case late && plus == escape && c.p.m.escapes():
			plus = ""
			if !c.commands() {
				return
			}
			spoke = time.Now()
			continue
		}
		silent := time.Since(spoke) >= guard
		if n > 0 {
			spoke = time.Now()
		}
		if got := plus + string(buf[:n]); n > 0 && (plus != "" || silent) && strings.HasPrefix(escape, got) {
			plus = got
			continue
		}
		c.give(append([]byte(plus), buf[:n]...))
		plus = ""
	}
}

// listenUntil bounds reading; a call that the network ended meanwhile is not listened to.
func (c *call) listenUntil(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.p.readUntil(t)
	}
}

// commands takes commands in the midst of the call, and reports whether it goes on.
func (c *call) commands() bool {
	c.setOnline(true)
	c.listenUntil(time.Time{})
	c.p.say("OK")
	for {
		line, err := c.p.line('\r')
		if err != nil || c.isOver() {
			return false
		}
		c.p.command(strings.TrimSpace(line))
		if c.isOver() {
			return false
		}
		if !c.isOnline() {
			return true
		}
	}
}

func (c *call) setOnline(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.online = on
}

func (c *call) isOnline() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.online
}

// guard is the silence around an escape.
func (m *Modem) guard() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Guard
}

// escapes notes the escape as a command, and reports whether the modem heeds it.
func (m *Modem) escapes() bool {
	f := m.hear("+++")
	return !m.silent() && (f == nil || !f.Hang)
}

// readUntil bounds reading.
func (p *port) readUntil(t time.Time) { readUntil(p.conn, t) }

// dial hands the line over to the network until the call is over.
func (p *port) dial(number string) {
	p.m.mu.Lock()
	dial := p.m.Dial
	p.m.dialled = append(p.m.dialled, number)
	ready := p.m.onlineLocked()
	p.m.mu.Unlock()
	if p.call.Load() != nil {
		p.say("ERROR")
		return
	}
	if dial == nil || !ready {
		p.say("NO CARRIER")
		return
	}
	c := newCall(p)
	p.say("CONNECT 150000000")
	p.call.Store(c)
	p.echo = false
	p.m.wg.Go(func() {
		dial(c)
		c.hangUp()
	})
	c.carry()
	c.end(false)
	p.call.Store(nil)
	p.readUntil(time.Time{})
	if !c.hung {
		p.say("NO CARRIER")
	}
}

// inCall does the commands about a call (V.250 sections 6.3.6, 6.3.7 and 6.1.1), and reports whether its answer was given.
func (p *port) inCall(cmd string) bool {
	c := p.call.Load()
	if c == nil {
		return false
	}
	switch strings.ToUpper(cmd) {
	case "H", "H0", "Z", "Z0":
		c.end(true)
	case "O", "O0":
		p.say("CONNECT 150000000")
		c.setOnline(false)
		return true
	}
	return false
}
