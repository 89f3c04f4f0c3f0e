package console

import (
	"context"
	"fmt"
	"time"
)

// attach is that of Keeper.
func (l *line) attach(ctx context.Context, a Attach) (*Session, error) {
	s := &Session{line: l, who: a.Who, wants: a.Write, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) >= maxSessions {
		return nil, fmt.Errorf("%w: %d do", ErrBusy, len(l.sessions))
	}
	l.replayLocked(s, a.Lines)
	l.sessions[s] = struct{}{}
	l.metrics.readers.Set(float64(len(l.sessions)))
	switch {
	case a.Write && (l.writer == nil || a.TakeOver):
		l.give(s)
	case a.Write:
		s.push(Piece{Time: time.Now(), Notice: l.otherLocked().Error()})
	}
	if l.conn == nil {
		l.explainLocked(s)
		select {
		case l.poke <- struct{}{}:
		default:
		}
	}
	s.stop = context.AfterFunc(ctx, func() { l.leave(s, ctx.Err()) })
	return s, nil
}

// replayLocked begins with the end of the log.
func (l *line) replayLocked(s *Session, lines int) {
	if lines <= 0 {
		return
	}
	for _, e := range l.recent.lines[max(0, len(l.recent.lines)-lines):] {
		if e.remark {
			s.push(Piece{Time: e.at, Notice: e.text})
		} else {
			s.push(Piece{Time: e.at, Data: []byte(e.text + "\r\n")})
		}
	}
	if p := l.text.partial(); p.text != "" {
		s.push(Piece{Time: p.at, Data: []byte(p.text)})
	}
}

// explainLocked tells one who comes why there is nothing to see.
func (l *line) explainLocked(s *Session) {
	text := "console is not connected yet"
	if l.lost {
		text = fmt.Sprintf("console is lost since %s: %s", l.since.Format(time.TimeOnly), l.reason)
	}
	s.push(Piece{Time: time.Now(), Notice: text})
}

// give makes a session the one that types. The line's lock is held.
func (l *line) give(s *Session) {
	old := l.writer
	if old == s {
		return
	}
	now := time.Now()
	l.writer, l.began = s, now
	for o := range l.sessions {
		switch {
		case o == old:
			o.push(Piece{Time: now, Notice: fmt.Sprintf("%s took over at %s; you only read until you take over", s.who, now.Format(time.TimeOnly))})
		case o == s && old != nil:
			o.push(Piece{Time: now, Notice: "you write now; " + old.who + " was put out"})
		case o != s:
			o.push(Piece{Time: now, Notice: s.who + " writes now"})
		}
	}
}

func (l *line) otherLocked() *OtherWrites { return &OtherWrites{Who: l.writer.who, Since: l.began} }

// connectionFor is the connection to which a session may type.
func (l *line) connectionFor(s *Session) (*connection, error) {
	if !s.wants {
		return nil, ErrReadOnly
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, there := l.sessions[s]; !there {
		return nil, ErrClosed
	}
	if l.writer == nil {
		l.give(s)
	}
	switch {
	case l.writer != s:
		return nil, l.otherLocked()
	case l.conn == nil:
		return nil, ErrLost
	}
	return l.conn, nil
}

// leave ends a session.
func (l *line) leave(s *Session, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, there := l.sessions[s]; !there {
		return
	}
	delete(l.sessions, s)
	l.metrics.readers.Set(float64(len(l.sessions)))
	if l.writer == s {
		l.writer = nil
		l.tellLocked(s.who + " does not write any more")
	}
	s.end(why)
}
