package sshd

import (
	"bytes"
	"io"
	"sync"
)

// maxLine is the longest command line of cmd.exe.
const maxLine = 8191

// cooked does for a program behind pipes what a console does: it shows what is
// typed, lets it be corrected, and hands it on line by line. The client's terminal
// is in raw mode, as it asked for a terminal and takes us for one. cmd.exe repeats
// the lines it reads from a pipe; that repetition is left out.
type cooked struct {
	program io.WriteCloser
	client  io.Writer

	mu     sync.Mutex
	line   []byte
	repeat []byte // what the program may be about to repeat
	last   byte   // of the output, for the ends of its lines
}

// Keys of a terminal in raw mode.
const (
	keyInterrupt = 0x03
	keyEnd       = 0x04
	keyBackspace = 0x08
	keyLineFeed  = '\n'
	keyEnter     = '\r'
	keyEndOfFile = 0x1a
	keyEscape    = 0x1b
	keyDelete    = 0x7f
)

// Write takes what the client types.
func (c *cooked) Write(p []byte) (int, error) {
	for _, key := range p {
		line, end := c.key(key)
		if end {
			return 0, io.ErrClosedPipe
		}
		if line == nil {
			continue
		}
		if _, err := c.program.Write(line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Close ends the program's input.
func (c *cooked) Close() error { return c.program.Close() }

// key takes one key; it yields a line when that is complete, or the end.
func (c *cooked) key(key byte) (line []byte, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case key == keyEnter || key == keyLineFeed:
		io.WriteString(c.client, "\r\n")
		line, c.line = append(c.line, "\r\n"...), nil
		c.repeat = line
		return line, false
	case key == keyBackspace || key == keyDelete:
		if n := len(c.line); n > 0 {
			c.line = c.line[:n-1]
			io.WriteString(c.client, "\b \b")
		}
	case key == keyInterrupt || key == keyEscape:
		// cmd.exe without a console cannot be interrupted; a line can be given up.
		c.client.Write(bytes.Repeat([]byte("\b \b"), len(c.line)))
		c.line = nil
	case key == keyEnd || key == keyEndOfFile:
		return nil, len(c.line) == 0
	case key >= ' ' && len(c.line) < maxLine:
		c.line = append(c.line, key)
		c.client.Write([]byte{key})
	}
	return nil, false
}

// output is where the program's output goes.
func (c *cooked) output() io.Writer { return cookedOutput{c} }

type cookedOutput struct{ c *cooked }

// Write leaves out the repeated line, and ends lines as a terminal wants it.
func (o cookedOutput) Write(p []byte) (int, error) {
	c := o.c
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []byte
	for _, b := range p {
		if len(c.repeat) > 0 {
			if b == c.repeat[0] {
				c.repeat = c.repeat[1:]
				continue
			}
			c.repeat = nil
		}
		if b == '\n' && c.last != '\r' {
			out = append(out, '\r')
		}
		out, c.last = append(out, b), b
	}
	if _, err := c.client.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
