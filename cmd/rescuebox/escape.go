package main

// escapes finds what is for us in what is typed: a tilde at the beginning of a line and
// a key, as ssh(1) and cu(1) have it.
type escapes struct {
	begins bool // the next byte is the first of a line
	tilde  bool // and was a tilde
}

// feed passes on what is for the machine to send, and keys of ours to act, in their order.
func (e *escapes) feed(b []byte, send func([]byte), act func(key byte)) {
	var out []byte
	flush := func() {
		if len(out) > 0 {
			send(out)
			out = nil
		}
	}
	for _, c := range b {
		switch {
		case e.tilde && (c == '.' || c == '?' || c == 'B' || c == 'w'):
			flush()
			act(c)
			e.tilde, e.begins = false, true
			continue
		case e.tilde && c == '~':
			e.tilde = false
		case e.tilde: // was for the machine after all
			out = append(out, '~')
			e.tilde = false
		case e.begins && c == '~':
			e.tilde = true
			continue
		}
		out = append(out, c)
		e.begins = c == '\r' || c == '\n'
	}
	flush()
}

// screen takes out of what a machine says the control strings (ECMA-48: OSC, DCS, APC, PM,
// SOS) before they come to the admin's terminal: with them a machine would set the clipboard, the
// title, or make links. What paints, colours and asks for the cursor's place goes through.
type screen struct {
	state   screenState
	skipped int
}

type screenState int

const (
	paints   screenState = iota
	escape               // ESC was there, and is kept back
	c1                   // 0xC2 was, which begins the characters that are controls
	inside               // a control string
	ending               // ESC inside of one
	endingC1             // 0xC2 inside of one
)

// longest control string: one without an end must not hide the console for good.
const maxString = 4096

func (s *screen) pass(b []byte) []byte {
	out := make([]byte, 0, len(b)+1)
	for _, c := range b {
		out = s.next(out, c)
	}
	return out
}

// next takes one byte, and adds to out what shows.
func (s *screen) next(out []byte, c byte) []byte {
	if s.state >= inside && !s.cancelled(c) {
		s.skip(c)
		return out
	}
	switch s.state {
	case escape:
		switch {
		case c >= 0x40 && c < 0x60 && opens(c+0x40):
			s.state, s.skipped = inside, 0
			return out
		case c == 0x1b:
			return out // the first of two does nothing
		case c < 0x20 && c != 0x18 && c != 0x1a, c == 0x7f:
			return append(out, c) // done in the middle of the sequence, which goes on
		case c >= 0x20 && c < 0x7f:
			out = append(out, 0x1b)
		} // else the sequence is broken; its ESC would take what comes after a string
	case c1:
		switch {
		case opens(c):
			s.state, s.skipped = inside, 0
			return out
		case c >= 0x80 && c < 0xc0:
			out = append(out, 0xc2)
		} // else it is no character, and would make one with what comes after a string
	}
	s.state = paints
	switch c {
	case 0x1b:
		s.state = escape
	case 0xc2:
		s.state = c1
	default:
		out = append(out, c)
	}
	return out
}

// opens says whether a control of the upper half begins a string.
func opens(c byte) bool {
	switch c {
	case 0x90, 0x98, 0x9d, 0x9e, 0x9f: // DCS, SOS, OSC, PM, APC
		return true
	}
	return false
}

// cancelled reports whether the string has ended without its end: ESC begins something else.
func (s *screen) cancelled(c byte) bool {
	if s.state != ending || c == '\\' {
		return false
	}
	s.state = escape
	return true
}

// skip takes a byte inside of a control string.
func (s *screen) skip(c byte) {
	s.skipped++
	switch {
	case c == 0x07, c == 0x18, c == 0x1a, s.skipped > maxString,
		s.state == ending && c == '\\', s.state == endingC1 && c == 0x9c:
		s.state = paints
	case c == 0x1b:
		s.state = ending
	case c == 0xc2:
		s.state = endingC1
	default:
		s.state = inside
	}
}
