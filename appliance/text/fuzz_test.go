package text

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func FuzzCommand(f *testing.F) {
	for _, s := range []string{"status 12345678", "boot srv01 dart 1234 5678", "12345678 87654321 power srv01 off", "да 471 12345678", "?", "", "\u200e\x00\xff",
		"1234 5678 1234 5678", "link lte", strings.Repeat("boot ", 1000)} {
		f.Add(s)
	}
	all := Sender{Number: admin, May: []string{"all"}}
	f.Fuzz(func(t *testing.T, s string) {
		rest, codes := takeCodes(words(s))
		if len(codes) > 2 {
			t.Errorf("%q has %d codes", s, len(codes))
		}
		for _, c := range codes {
			if !number(c, digits) {
				t.Errorf("%q has the code %q", s, c)
			}
		}
		c, err := parse(rest)
		if err != nil {
			if !utf8.ValidString(fit(err.Error())) || parts(fit(err.Error())) != 1 {
				t.Errorf("%q is answered %q", s, err)
			}
			return
		}
		// What a command says it is, is that command: it is stored and answered so.
		again, err := parse(words(c.String()))
		if err != nil || again != c {
			t.Errorf("%q is %+v, and said %q is %+v, %v", s, c, c.String(), again, err)
		}
		if !all.may(c) {
			t.Errorf("%q may not %s", s, c)
		}
		if (Sender{}).may(c) && c.verb != "help" && c.verb != "yes" {
			t.Errorf("without a right: %s", c)
		}
	})
}

func FuzzFit(f *testing.F) {
	f.Add("hello")
	f.Add("привет €[]")
	f.Fuzz(func(t *testing.T, s string) {
		if got := fit(s); parts(got) != 1 || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n\x1b") {
			t.Errorf("%q becomes %q", s, got)
		}
		if strings.Contains(masked(s), "12345678") {
			t.Errorf("%q shows a code", masked(s))
		}
	})
}

// Whatever comes, nothing is done without a code, and little is said.
func FuzzReceived(f *testing.F) {
	f.Add(admin, "vpn up 00000000", true, int64(0))
	f.Add("Bank", "yes 471", false, int64(1<<40))
	f.Fuzz(func(t *testing.T, from, text string, numeric bool, at int64) {
		store := &table{all: map[string]Text{}}
		d := &Desk{Site: "kazan-2", Senders: []Sender{{admin, []string{"all"}}}, Devices: []string{outlet}, Secrets: t.TempDir(), Store: store, Acts: &acts{}}
		if _, err := d.Enroll(admin); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			d.Received(Message{From: from, Numeric: numeric, Time: time.Unix(at, 0), Text: text})
			text += " 1"
		}
		if len(d.jobs) != 0 || d.Status().Waiting > 2 || len(store.all) > 16 {
			t.Errorf("%q from %s: %d orders, %d answers", text, from, len(d.jobs), d.Status().Waiting)
		}
	})
}
