package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"time"
)

// screenWidth is that of a console that nobody made wider.
const screenWidth = 80

// screen is the window that the person on site reads. Who clicks into a console
// of Windows stops all who write to it, until a key is pressed; so it is written
// in the background, and what finds the queue full is lost.
type screen struct {
	out   io.Writer
	queue chan []byte
}

func newScreen(out io.Writer) *screen { return &screen{out: out, queue: make(chan []byte, 64)} }

func (s *screen) run(ctx context.Context) {
	for {
		select {
		case p := <-s.queue:
			s.out.Write(p)
		case <-ctx.Done():
			return
		}
	}
}

// Write queues a text, in ASCII: code pages differ, and so do the fonts of Windows PE.
func (s *screen) Write(p []byte) (int, error) {
	text := bytes.Map(func(r rune) rune {
		if r > 0x7e {
			return '?'
		}
		return r
	}, p)
	select {
	case s.queue <- text:
	default:
	}
	return len(p), nil
}

// block is a text that shall be seen.
func (s *screen) block(lines ...string) {
	var all []string
	for _, line := range lines {
		all = append(all, wrap(line, screenWidth-6)...)
	}
	banner(s, all...)
}

// line is a text among others, with the time.
func (s *screen) line(text string) {
	stamp := time.Now().Format("15:04:05 ")
	io.WriteString(s, stamp+strings.Join(wrap(printable(text), screenWidth-12), "\r\n         ")+"\r\n")
}

// wrap breaks a line at its spaces. What has none stays as long as it is.
func wrap(text string, width int) []string {
	var lines []string
	for len(text) > width {
		cut := strings.LastIndexByte(text[:width+1], ' ')
		if cut <= 0 || strings.TrimSpace(text[:cut]) == "" {
			break
		}
		lines = append(lines, text[:cut])
		text = text[cut+1:]
	}
	return append(lines, text)
}

// noAddressAfter is when the person on site is asked to look at the cable.
const noAddressAfter = 45 * time.Second

// watchLink tells the person on site that there is no network, and that it is back.
func watchLink(ctx context.Context, addresses func() []string, s *screen) {
	since, told := time.Now(), false
	for sleep(ctx, time.Second) {
		switch up := len(addresses()) > 0; {
		case up && told:
			s.line("the network is back: " + strings.Join(addresses(), " "))
			since, told = time.Now(), false
		case up:
			since = time.Now()
		case !told && time.Since(since) > noAddressAfter:
			told = true
			s.block("THIS MACHINE HAS NO NETWORK ADDRESS.", "",
				"Is the network cable plugged in, at both ends, and is there a light?",
				"If so, tell the administrator: Windows may lack a driver for the card.")
		}
	}
}
