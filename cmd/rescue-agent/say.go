package main

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// The box takes a few lines of a machine; what is more than that says nothing new.
const (
	maxSays   = 64
	sayQueue  = 16
	maxSay    = 1000
	sayFirst  = 2 * time.Second
	sayAtMost = 30 * time.Second
)

// sayer tells the box what goes wrong here, one line after the other, in the
// background. A ticket or token must never be in a line.
type sayer struct {
	box    boxClient
	screen *screen
	lines  chan string
}

func newSayer(box boxClient, screen *screen) *sayer {
	return &sayer{box: box, screen: screen, lines: make(chan string, sayQueue)}
}

// tell shows a line here, and queues it for the box if there is room.
func (s *sayer) tell(text string) {
	s.screen.line(text)
	if len(text) > maxSay {
		text = text[:maxSay]
	}
	select {
	case s.lines <- text:
	default:
	}
}

func (s *sayer) run(ctx context.Context) {
	if s.box.order.Server == nil {
		return
	}
	for n := 0; n < maxSays; n++ {
		select {
		case text := <-s.lines:
			s.deliver(ctx, text)
		case <-ctx.Done():
			return
		}
	}
}

// deliver tries until the box has the line, or wants none.
func (s *sayer) deliver(ctx context.Context, text string) {
	for delay := sayFirst; ; delay = grow(delay, sayAtMost) {
		err := s.box.send(ctx, http.MethodPost, "/agent/say", "text/plain; charset=utf-8", "a message", []byte(text))
		var no *refusal
		if err == nil || errors.As(err, &no) || !sleep(ctx, jitter(delay)) {
			return
		}
	}
}
