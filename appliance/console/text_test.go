package console

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// linesOf is what the log gets of bytes that come in pieces of a size; the unfinished line is the last.
func linesOf(b []byte, step int) (lines []string) {
	var x text
	keep := func(e entry) { lines = append(lines, e.text) }
	for len(b) > 0 {
		n := min(step, len(b))
		x.add(b[:n], noon, keep)
		b = b[n:]
	}
	x.end(keep)
	return lines
}

func TestText(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"lines", "one\r\ntwo\n\r\n\rthree", "one|two|three"},
		{"colours", "\x1b[1;31mred\x1b[0m \x1b(Bplain\x1b[K\r\n", "red plain"},
		{"erased echo", "roor\b \bt\r\n", "root"},
		{"carriage return alone", "10 %\r20 %\r\n", "10 %|20 %"},
		{"painted screen", "\x1b[2J\x1b[01;01HBIOS\x1b[01;20H4.2\x1b[2;1HBoot\x1b[2;6HMenu\x1b[24;1H", "BIOS4.2|BootMenu"},
		{"moved within the row", "a\x1b[10Cb\x1b[40Gc\r\n", "a b c"},
		{"title and clipboard", "a\x1b]0;evil\x07b\x1b]52;c;eA==\x1b\\c\r\n", "abc"},
		{"bell, NUL, tab", "a\x00\x07\tb\r\n", "a\tb"},
		{"UTF-8", "Казань ✓\r\n", "Казань ✓"},
		{"code page 437", "\xba\xba\xdb\r\n", "\ufffd\ufffd\ufffd"},
		{"broken character", "\xd0\r\n\xd0x\r\n", "\ufffd|\ufffdx"},
		{"direction of writing, C1", "a\u202eb\u009bc\r\n", "abc"},
		{"sequence without an end", "\x1b[1;2" + strings.Repeat("3", 80) + "x\r\n", strings.Repeat("3", 18) + "x"},
		{"long line", strings.Repeat("x", maxText+10), strings.Repeat("x", maxText-3) + "|" + strings.Repeat("x", 13)},
	} {
		for _, step := range []int{1, 3, len(c.in)} {
			if got := strings.Join(linesOf([]byte(c.in), step), "|"); got != c.want {
				t.Errorf("%s, by %d: %q, want %q", c.name, step, got, c.want)
			}
		}
	}
}

// Whatever a machine sends, in whatever pieces: the log has printable lines of limited length, each
// readable again, and not more than was sent.
func FuzzText(f *testing.F) {
	for _, seed := range []string{"a\r\nb", "\x1b[2J\x1b[1;1Hx", "\x1b]0;x\x07", "\xff\xd0\n", "x\b\b\x7f", "\x1b\x1b[\x18A"} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		whole := linesOf(b, max(1, len(b)))
		if cut := linesOf(b, 1+max(0, step)%64); !slices.Equal(whole, cut) {
			t.Errorf("%q: %q, cut %q", b, whole, cut)
		}
		for _, line := range whole {
			if len(line) > maxText || !utf8.ValidString(line) || strings.ContainsFunc(line, steers) {
				t.Errorf("%q: line %q", b, line)
			}
			s := strings.TrimSuffix(string(entry{at: noon, text: line}.appendTo(nil)), "\n")
			if e, ok := parseEntry(s); !ok || e.text != line || e.remark || !e.at.Equal(noon) {
				t.Errorf("%q was read as %+v", s, e)
			}
		}
	})
}

// A prompt without an end gets into the log when nothing follows, once, and its line stays one.
func TestUnfinishedLine(t *testing.T) {
	var x text
	var log []byte
	keep := func(e entry) { log = e.appendTo(log) }
	x.add([]byte("login: "), noon, keep)
	x.idle(noon.Add(idleAfter/2), keep)
	if len(log) != 0 {
		t.Errorf("too early: %q", log)
	}
	x.idle(noon.Add(idleAfter), keep)
	x.idle(noon.Add(2*idleAfter), keep)
	x.add([]byte("\b\b\broot\r\nPassword: \r\n"), noon.Add(time.Hour), keep)
	if want := "2026-11-23T12:00:00.000Z  login: root\n2026-11-23T13:00:00.000Z  Password: \n"; string(log) != want {
		t.Errorf("log\n%s want\n%s", log, want)
	}
}

// Whatever stands in a log that the power was cut from, what is read of it is printable and parsable or left out.
func FuzzLog(f *testing.F) {
	f.Add([]byte("2026-11-23T12:00:00.000Z  a\n2026-11-23T12:00:00.000Z -- lost\n\x00\x00\x002026"), 2)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n = max(0, n) % 100
		list := logLines(b, n)
		if len(list) > n {
			t.Errorf("%d lines, want %d at most", len(list), n)
		}
		for _, s := range list {
			if strings.ContainsFunc(s, steers) || !utf8.ValidString(s) || bytes.ContainsRune([]byte(s), '\n') {
				t.Errorf("%q", s)
			}
			if e, ok := parseEntry(s); ok && len(e.text) > len(s) {
				t.Errorf("%q was read as %+v", s, e)
			}
		}
	})
}
