package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestEscapes(t *testing.T) {
	for _, c := range []struct{ typed, sent, acts string }{
		{"ls\r", "ls\r", ""},
		{"~.", "", "."},
		{"a~.", "a~.", ""},
		{"a\r~.", "a\r", "."},
		{"a\n~B~w~?", "a\n", "Bw?"},
		{"~~.", "~.", ""},
		{"~/x\r", "~/x\r", ""},
		{"~\r~.", "~\r", "."},
		{"\r~~~.", "\r~~.", ""},
	} {
		for _, step := range []int{1, 2, len(c.typed)} {
			sent, acts := typeAll([]byte(c.typed), step)
			if sent != c.sent || acts != c.acts {
				t.Errorf("%q by %d: sent %q, acts %q, want %q, %q", c.typed, step, sent, acts, c.sent, c.acts)
			}
		}
	}
}

func typeAll(b []byte, step int) (sent, acts string) {
	e := escapes{begins: true}
	for len(b) > 0 {
		n := min(step, len(b))
		e.feed(b[:n], func(b []byte) { sent += string(b) }, func(key byte) { acts += string(key) })
		b = b[n:]
	}
	return sent, acts
}

// However it is cut, typing means the same; and nothing gets lost or comes from nowhere but tildes and keys of ours.
func FuzzEscapes(f *testing.F) {
	f.Add([]byte("a\r~.b~~"), 1)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		whole, acts := typeAll(b, max(1, len(b)))
		cut, cutActs := typeAll(b, 1+max(0, step)%16)
		if whole != cut || acts != cutActs {
			t.Errorf("%q: %q %q, cut %q %q", b, whole, acts, cut, cutActs)
		}
		if !bytes.ContainsRune(b, '~') && whole != string(b) {
			t.Errorf("%q was sent as %q", b, whole)
		}
	})
}

func TestScreen(t *testing.T) {
	for in, want := range map[string]string{
		"plain \x1b[31mred\x1b[0m\x1b[2J":   "plain \x1b[31mred\x1b[0m\x1b[2J",
		"a\x1b]52;c;eA==\x07b":              "ab",
		"a\x1b]0;title\x1b\\b":              "ab",
		"a\x1bP+q\x1b\\b\x1b_x\x1b\\c":      "abc",
		"a\u009d52;c;eA==\u009cb":           "ab",
		"a\x1b]0;open\x1b[1mb":              "a\x1b[1mb",
		"a\x1b\x1b]0;x\x07b":                "ab",
		"é \u00a0ü":                         "é \u00a0ü",
		"\xc2\u009dx\u009c\x9d52;":          "\x9d52;", // no string is put together from what is around one
		"\x1b\u009dx\u009c]52;":             "]52;",
		"\x1b\r]52;c\x07a":                  "\ra", // a terminal goes on with the sequence after a control
		"\x1b\x18]a":                        "\x18]a",
		"\x1b]" + strings.Repeat("x", 5000): strings.Repeat("x", 5000-maxString-1),
	} {
		var s, cut screen
		if got := string(s.pass([]byte(in))); got != want {
			t.Errorf("%.40q shows %.40q (%d), want %.40q (%d)", in, got, len(got), want, len(want))
		}
		var got []byte
		for i := range len(in) {
			got = append(got, cut.pass([]byte{in[i]})...)
		}
		if string(got) != want {
			t.Errorf("%.40q byte by byte shows %.40q", in, got)
		}
	}
}

// Whatever a machine says, no control string reaches the terminal, and what shows is part of what was said.
func FuzzScreen(f *testing.F) {
	for _, seed := range []string{"a\x1b]0;x\x07", "\xc2\x9d\xc2\x9c", "\x1b\x1b]", "\x1b\xc2\x9d", "\xc2\xc2\x9d", "\x1b]\x1b]\x1b\\", "\xc2\u009d\u009c\x9d", "\x1b\u009d\u009c]", "\x1b\r]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s screen
		out := s.pass(b)
		for _, bad := range []string{"\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_", "\xc2\x90", "\xc2\x98", "\xc2\x9d", "\xc2\x9e", "\xc2\x9f"} {
			if bytes.Contains(out, []byte(bad)) {
				t.Errorf("%q shows %q", b, out)
			}
		}
		if len(out) > len(b) {
			t.Errorf("%q grew to %q", b, out)
		}
	})
}
