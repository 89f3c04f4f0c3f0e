package notify

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write testdata/words.golden anew")

// How every kind of message reads, with and without secrets.
func TestWords(t *testing.T) {
	var all strings.Builder
	for _, kind := range append(Kinds, Test) {
		for _, full := range []bool{false, true} {
			m := Message{Kind: kind, Site: "Казань-2", Machine: "srv01", Image: "dart", Order: "ab12cd34", Time: time.Unix(1e9, 0)}
			if kind == Test {
				m.Text = "anna tries whether this arrives."
			}
			if kind == Failed || kind == Expired {
				m.Text = "srv01 did not boot dart in time. Its card has no link"
			}
			if kind == Alarm {
				m.Machine, m.Image, m.Order = "", "", ""
				m.Text = "wan no longer answers, the VPN goes by lte"
			}
			if full {
				m.Weak = kind == Ticket
				m.Hint = "look at the cable, and at the lamp beside it"
				m.Secret = "  rescuebox connect srv01\n\ndoes it through the box; from its own network\n\n  DartRemoteViewer.exe -ticket=118-497-589 -ipaddress=192.168.77.101 -port=49161\n"
				m.SecretShort = "118-497-589 192.168.77.101:49161"
			}
			w, err := m.Words()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&all, "=== %s, full: %v\nSubject: %s\n%s--- short: %s\n", kind, full, w.Subject, w.Text, w.Short)
		}
	}
	for _, m := range []Message{
		{Text: "its ticket cannot be read: inv32.xml is no XML from line 2 on", Machine: "srv01"},
		{Weak: true},
		{Weak: true, Secret: "In its own network\n\n  DartRemoteViewer.exe -ticket=118-497-589 -ipaddress=192.168.77.150 -port=49161\n"},
	} {
		m.Kind, m.Site = Ticket, "kazan-2"
		w, err := m.Words()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "=== ticket, of %q, %s\nSubject: %s\n%s--- short: %s\n", m.Machine, m.Text, w.Subject, w.Text, w.Short)
	}
	const golden = "testdata/words.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != all.String() {
		t.Errorf("the words have changed (-update writes them): %v\n%s", err, all.String())
	}
	if _, err := (Message{Kind: "gossip"}).Words(); err == nil {
		t.Error("a kind without a template has words")
	}
}

// The short form fits one text message, whatever goes in.
func FuzzShort(f *testing.F) {
	for _, s := range []string{"Казань-2: srv01 не отвечает", strings.Repeat("€", 200), "щ Щ ъ 🙂 \xff ``", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		short, places := gsm(s), 0
		for _, r := range short {
			switch {
			case strings.ContainsRune(gsmBasic, r):
				places++
			case strings.ContainsRune(gsmExtended, r):
				places += 2
			default:
				t.Errorf("%q is outside of the alphabet in %q", r, short)
			}
		}
		if places > gsmLength {
			t.Errorf("%d places: %q", places, short)
		}
	})
}

// Whatever machines put into a message, a mail of it is well formed: its subject and text
// are read back as they were, no header is added, no line is too long.
func FuzzMail(f *testing.F) {
	f.Add("srv01 is here", "kazan-2")
	f.Add("a\r\nBcc: eve@example.org\r\n\r\nhello", "Казань \x00 \u202e")
	f.Add(strings.Repeat("я", 3000)+"\n.\n..\n", strings.Repeat("длинно ", 100))
	f.Fuzz(func(t *testing.T, text, site string) {
		m := Message{ID: "1", Kind: Failed, Site: site, Machine: "srv01", Text: text, Time: time.Unix(1e9, 0)}
		m.bound()
		w, err := m.Words()
		if err != nil {
			t.Fatal(err)
		}
		raw := mailOf(mail.Address{Name: "Коробка", Address: "box@example.org"}, Letter{ID: "abc", Address: "anna@example.org", Message: m, Words: w})
		for line := range bytes.SplitSeq(raw, []byte("\r\n")) {
			if len(line) > 998 || bytes.ContainsAny(line, "\r\n") {
				t.Errorf("line %q", line)
			}
		}
		got, err := mail.ReadMessage(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Header) != 10 || got.Header.Get("Bcc") != "" || got.Header.Get("Message-Id") != "<abc@example.org>" {
			t.Errorf("headers %v", got.Header)
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
		if err != nil || strings.TrimSpace(subject) != strings.TrimSpace(w.Subject) && utf8.ValidString(w.Subject) {
			t.Errorf("subject %q, %v; want %q", subject, err, w.Subject)
		}
		body, err := io.ReadAll(quotedprintable.NewReader(got.Body))
		if want := strings.ReplaceAll(w.Text, "\n", "\r\n"); err != nil || string(body) != want {
			t.Errorf("text %q, %v; want %q", body, err, want)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	now := time.Unix(1e9, 0)
	for _, s := range []string{"120", "-1", "99999999999999999999", "Sun, 09 Sep 2001 01:48:40 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := retryAfter(s, now); d < 0 || d > maxLater {
			t.Errorf("%q: %s", s, d)
		}
	})
}
