package modem

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/warthog618/modem/at"
	"go.uber.org/zap"
)

// tape is a port from which recorded bytes come, and then nothing more.
type tape struct {
	io.Reader
}

func (tape) Write(b []byte) (int, error)      { return len(b), nil }
func (tape) Close() error                     { return nil }
func (tape) SetWriteDeadline(time.Time) error { return nil }
func (t tape) Read(b []byte) (int, error)     { return t.Reader.Read(b[:min(len(b), 7)]) }

// Whatever a modem says, the library gets whole lines of bounded length, and the news comes without its
// line ends. Nothing of a line is made up.
func FuzzWire(f *testing.F) {
	for _, seed := range []string{
		"\r\n+CSQ: 20,99\r\n\r\nOK\r\n", "AT+CSQ\r\r\n+CSQ: 1,2\r\nRING\r\nOK\r\n", "> ", "\r\n> \r\n> >", "+CMT: ,23\r\n0791\r\nOK\r\n", "+CMT: ,23\r\nOK\r\n",
		"\x00\xff\xfe\r\n", strings.Repeat("a", 5000) + "\r\nOK\r\n", "NO CARRIER\r\n", "+CREG: 1\r\n+CREG: 0,1\r\n", "\n\n\n\r\r\r", ":\r\n+:\r\n+ :\r\n",
	} {
		f.Add([]byte(seed), "+CSQ", true, false)
		f.Add([]byte(seed), "", false, true)
		f.Add([]byte(seed), "+CMGL", true, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, prefix string, running, prompt bool) {
		w := newWire(tape{bytes.NewReader(b)}, func(line string) {
			if line == "" || len(line) > maxLine || strings.ContainsAny(line, "\r\n") || !bytes.Contains(b, []byte(line)) {
				t.Errorf("news %q", line)
			}
		})
		if running {
			w.begin("+CSQ", prefix, prompt)
		}
		got, err := io.ReadAll(w)
		if err != nil {
			t.Fatal(err)
		}
		if !running && len(got) > 0 {
			t.Errorf("an answer that nobody asked for: %q", got)
		}
		for _, line := range strings.Split(string(got), "\r\n") {
			if len(line) > maxLine+2 || strings.ContainsAny(line, "\r\n") {
				t.Errorf("line %q", line)
			}
		}
	})
}

// Whatever a modem answers, a command ends, with lines that have the prefix.
func FuzzSession(f *testing.F) {
	f.Add([]byte("\r\n+CSQ: 20,99\r\n\r\nOK\r\n"))
	f.Add([]byte("\r\n+CME ERROR: 10\r\n"))
	f.Add([]byte("+CSQ: 1\r\nERROR\r\n"))
	f.Add([]byte("AT+CSQ\r\nRING\r\n+CSQ:\r\nOK"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSession(tape{bytes.NewReader(b)}, "tape", zap.NewNop(), nil)
		defer s.close()
		_, err := s.command(t.Context(), "+CSQ", "+CSQ", time.Minute)
		var late timedOut
		if errors.As(err, &late) {
			t.Errorf("a port at its end: %v", err)
		}
		if errors.Is(err, at.ErrClosed) {
			t.Errorf("the library's error comes through: %v", err)
		}
	})
}

func FuzzParsers(f *testing.F) {
	for _, seed := range []string{`2,1,"00C3","01A2B3C4",7`, "5", `1,"00C3"`, `0,0,"Testnet",7`, `"26/11/23,08:00:00+12"`, "20,99", "99,99,255,255,20,40",
		`"LTE",36,30,66,20`, `"LTE",-52,-81,195,-10`, "SIM PIN", "98079109000000000071", `144,0,"98079109000000000071"`, `"`, ",,,,", "\xff", "-1,-1", "usb:1:2.3@4",
		"9223372036854775808", "1e3,0x10"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if stat, _, ok := parseRegistration(line); ok && (stat < 0 || stat > lastRegistration) {
			t.Errorf("registration %d of %q", stat, line)
		}
		if name, _, _ := parseOperator(line); len([]rune(name)) > 201 || !utf8.ValidString(name) {
			t.Errorf("operator %q of %q", name, line)
		}
		if at, ok := parseClock(line); ok && (at.Before(clockSince) || at.Year() > 2101) {
			t.Errorf("clock %s of %q", at, line)
		}
		if id := parseICCID(line); id != "" && (len(id) < 18 || len(id) > 20) {
			t.Errorf("ICCID %q of %q", id, line)
		}
		if id := parseIMEI(line); len(id) > 17 {
			t.Errorf("IMEI %q of %q", id, line)
		}
		for _, c := range pinCounters {
			if n, ok := parseTries(c.prefix, line, c.field); ok && (n < 0 || n > 10) {
				t.Errorf("%d tries of %q", n, line)
			}
		}
		var s Signal
		for _, meter := range meters {
			meter.read(fields(line), &s)
		}
		if s.RSSI > 0 || s.RSSI < -151 || s.RSRP > 0 || s.RSRP < -151 || s.SINR < -20 || s.SINR > 31 {
			t.Errorf("signal %+v of %q", s, line)
		}
		if state := simOf(line); len([]rune(string(state))) > 201 {
			t.Errorf("SIM %q", state)
		}
		if text := brief(line); strings.ContainsAny(text, "\r\n\x00\x1b") || !utf8.ValidString(text) {
			t.Errorf("brief %q", text)
		}
		_, _, _ = parseUSB(line)
	})
}
