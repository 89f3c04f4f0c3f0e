package console

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of text.
const (
	maxText   = 4096 // bytes of one line; a longer one is several
	maxEscape = 4096 // bytes of one control string; a longer one is none
	idleAfter = time.Second
)

// entry is a line of the log, or its beginning.
type entry struct {
	at     time.Time
	text   string
	remark bool // of ours
	begun  bool // its beginning is in the log already,
	logged int  // as are so many bytes of text
	open   bool // more may come
}

// text makes lines of what a machine sends. Control sequences (ECMA-48) do not get
// into the log: they would steer the terminal of whoever reads it. Screens that are painted with
// cursor positions, such as those of firmware, become lines where the row changes.
type text struct {
	cur    []byte // the line so far
	at     time.Time
	last   time.Time // of the last byte
	logged int       // bytes of cur that are in the log already
	begun  bool      // so is its beginning

	rune   []byte // of UTF-8, so far
	cr     bool   // the last one was a carriage return
	state  escape
	params []byte // of the control sequence
	length int    // of the control string
	row    string // of the last cursor position
}

// escape is where in a control sequence a byte stands.
//
//	ground --ESC--> escaped --[--> sequence --final--> ground
//	                escaped --]PX^_--> control --BEL--> ground, --ESC--> escaped
//	                escaped --space to /--> one more byte --> ground
type escape int

const (
	ground escape = iota
	escaped
	sequence
	control
	oneMore
)

// add takes bytes; done is called for every line that is complete.
func (t *text) add(b []byte, now time.Time, done func(entry)) {
	for _, c := range b {
		t.byte(c, now, done)
	}
	t.last = now
}

func (t *text) byte(c byte, now time.Time, done func(entry)) {
	switch {
	case c == 0x1b:
		t.brokenRune(now, done)
		t.state = escaped
	case c == 0x18 || c == 0x1a: // CAN and SUB end whatever there was
		t.state = ground
	case t.state == ground:
		t.ground(c, now, done)
	case t.state == escaped:
		t.escaped(c, done)
	case t.state == sequence:
		t.sequence(c, now, done)
	case t.state == control:
		if t.length++; c == 0x07 || t.length > maxEscape {
			t.state = ground
		}
	default:
		t.state = ground
	}
}

// ground takes a byte outside of control sequences.
func (t *text) ground(c byte, now time.Time, done func(entry)) {
	if c < 0x80 {
		t.brokenRune(now, done)
	}
	switch {
	case c == '\n':
		t.cr = false
		t.row = ""
		t.end(done)
	case c == '\r':
		t.cr = true
	case c == '\b' || c == 0x7f:
		t.erase()
	case c >= 0x80:
		t.high(c, now, done)
	case c == '\t' || c >= 0x20:
		t.put(rune(c), now, done)
	}
}

// high takes a byte of a character beyond ASCII.
func (t *text) high(c byte, now time.Time, done func(entry)) {
	if utf8.RuneStart(c) {
		t.brokenRune(now, done)
	}
	t.rune = append(t.rune, c)
	if !utf8.FullRune(t.rune) {
		return
	}
	r, _ := utf8.DecodeRune(t.rune)
	t.rune = t.rune[:0]
	t.put(r, now, done)
}

// brokenRune shows that a character did not come to its end.
func (t *text) brokenRune(now time.Time, done func(entry)) {
	if len(t.rune) > 0 {
		t.rune = t.rune[:0]
		t.put(utf8.RuneError, now, done)
	}
}

// put adds a character to the line.
func (t *text) put(r rune, now time.Time, done func(entry)) {
	if steers(r) {
		return
	}
	if t.cr { // alone: the line is written over, and what it said would be gone
		t.cr = false
		t.end(done)
	}
	if len(t.cur)+utf8.UTFMax > maxText {
		t.end(done)
	}
	if len(t.cur) == 0 {
		t.at = now
	}
	t.cur = utf8.AppendRune(t.cur, r)
}

// erase takes the last character back, unless it is in the log.
func (t *text) erase() {
	if len(t.cur) > t.logged {
		_, n := utf8.DecodeLastRune(t.cur[t.logged:])
		t.cur = t.cur[:len(t.cur)-n]
	}
}

// escaped takes the byte behind ESC.
func (t *text) escaped(c byte, done func(entry)) {
	t.state = ground
	switch {
	case c == '[':
		t.state, t.params = sequence, t.params[:0]
	case strings.IndexByte("]PX^_", c) >= 0:
		t.state, t.length = control, 0
	case c >= 0x20 && c <= 0x2f:
		t.state = oneMore
	case c == 'E' || c == 'D' || c == 'M' || c == 'c': // another line, or all anew
		t.row = ""
		t.end(done)
	}
}

// sequence takes a byte of a control sequence.
func (t *text) sequence(c byte, now time.Time, done func(entry)) {
	switch {
	case c >= 0x20 && c <= 0x3f:
		if t.params = append(t.params, c); len(t.params) > 64 {
			t.state = ground
		}
	case c >= 0x40 && c <= 0x7e:
		t.state = ground
		t.move(c, now, done)
	case c < 0x20: // terminals do them in the midst of a sequence
		t.state = ground
		t.ground(c, now, done)
	default:
		t.state = ground
	}
}

// move does what a control sequence means for lines: those that go to another row
// end one, those within the row part words.
func (t *text) move(final byte, now time.Time, done func(entry)) {
	switch final {
	case 'A', 'B', 'E', 'F', 'J', 'S', 'T':
		t.row = ""
		t.end(done)
	case 'H', 'f', 'd':
		row, _, _ := strings.Cut(string(t.params), ";")
		if row != t.row {
			t.row = row
			t.end(done)
		}
	case 'C', 'G':
		if n := len(t.cur); n > 0 && t.cur[n-1] != ' ' {
			t.put(' ', now, done)
		}
	}
}

// end ends the line, if there is one.
func (t *text) end(done func(entry)) {
	t.cr = false
	if len(t.cur) > 0 {
		done(entry{at: t.at, text: string(t.cur), logged: t.logged, begun: t.begun})
	}
	t.cur, t.logged, t.begun = t.cur[:0], 0, false
}

// idle gives out what an unfinished line has, when nothing came for a while: a prompt
// waits for somebody, perhaps for days. A zero time does not wait.
func (t *text) idle(now time.Time, keep func(entry)) {
	if len(t.cur) == t.logged || !now.IsZero() && now.Sub(t.last) < idleAfter {
		return
	}
	keep(entry{at: t.at, text: string(t.cur), logged: t.logged, begun: t.begun, open: true})
	t.logged, t.begun = len(t.cur), true
}

// partial is the unfinished line.
func (t *text) partial() entry { return entry{at: t.at, text: string(t.cur)} }

// steers says whether a character does not show but does something to a terminal.
func steers(r rune) bool {
	return r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// printable is a foreign text, such as an error, as one line of limited length.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if steers(r) || r == '\t' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	const most = 400
	for len(s) > most {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// The end of the log that is at hand without reading files.
const (
	recentLines = 1000
	recentBytes = 128 << 10
)

// recent is the end of the log.
type recent struct {
	lines []entry
	bytes int
}

// add takes a line that is complete.
func (r *recent) add(e entry) {
	e.begun, e.logged = false, 0
	r.lines = append(r.lines, e)
	r.bytes += len(e.text)
	for len(r.lines) > recentLines || r.bytes > recentBytes {
		r.bytes -= len(r.lines[0].text)
		r.lines = r.lines[1:]
	}
}

// tail is the last n lines as the log has them, with the unfinished one.
func (r *recent) tail(n int, partial entry) []string {
	list := r.lines
	if partial.text != "" {
		list = append(list[:len(list):len(list)], partial)
	}
	list = list[max(0, len(list)-n):]
	out := make([]string, 0, len(list))
	for _, e := range list {
		out = append(out, strings.TrimSuffix(string(e.appendTo(nil)), "\n"))
	}
	return out
}

// stamp is how times stand in the log.
const stamp = "2006-01-02T15:04:05.000Z"

// appendTo writes the entry as the log has it. No machine can forge a remark of ours: its lines have two spaces.
func (e entry) appendTo(b []byte) []byte {
	if !e.begun {
		b = e.at.UTC().AppendFormat(b, stamp)
		if e.remark {
			b = append(b, " -- "...)
		} else {
			b = append(b, "  "...)
		}
	}
	b = append(b, e.text[e.logged:]...)
	if !e.open {
		b = append(b, '\n')
	}
	return b
}

// parseEntry reads a line of the log.
func parseEntry(s string) (entry, bool) {
	if len(s) < len(stamp)+2 {
		return entry{}, false
	}
	at, err := time.Parse(stamp, s[:len(stamp)])
	if err != nil {
		return entry{}, false
	}
	e := entry{at: at.Local()}
	rest := s[len(stamp):]
	if e.text, e.remark = strings.CutPrefix(rest, " -- "); e.remark {
		return e, true
	}
	var ok bool
	e.text, ok = strings.CutPrefix(rest, "  ")
	return e, ok
}
