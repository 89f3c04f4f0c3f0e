package modemtest_test

import (
	"bufio"
	"os"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/modem/modemtest"
)

// call opens the fake's pty and dials.
func call(t *testing.T, fake *modemtest.Modem) (*os.File, *bufio.Reader) {
	t.Helper()
	f, err := os.OpenFile(fake.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString("ATE0\rATD*99***1#\r"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(f)
	expect(t, f, r, "CONNECT")
	return f, r
}

// expect reads lines until one has the word.
func expect(t *testing.T, f *os.File, r *bufio.Reader, word string) {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { f.Close() })
	defer timer.Stop()
	for word != "" {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatalf("waits for %q: %v", word, err)
		}
		if strings.Contains(line, word) {
			return
		}
	}
}

// The network's program has the line from CONNECT until it ends; then the modem takes commands again.
func TestCallEndsWithTheProgram(t *testing.T) {
	fake := modemtest.Start(t)
	fake.Dial = modemtest.Program("sh", "-c", `exec <"$0" >"$0"; echo welcome; read -r line; echo "got $line"`, modemtest.TTY)
	f, r := call(t, fake)
	expect(t, f, r, "welcome")
	fake.URC("RING") // no news while the line is a call's
	if _, err := f.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	expect(t, f, r, "got hello")
	expect(t, f, r, "NO CARRIER")
	if _, err := f.WriteString("AT+CSQ\r"); err != nil {
		t.Fatal(err)
	}
	expect(t, f, r, "+CSQ: 20")
	if got := fake.Dialled(); len(got) != 1 || got[0] != "*99***1#" {
		t.Errorf("dialled %q", got)
	}
}

// A caller that closes the tty drops DTR: the call ends, and the next one finds a modem.
func TestCallEndsWithTheCaller(t *testing.T) {
	fake := modemtest.Start(t)
	fake.Dial = modemtest.Program("sh", "-c", `exec <"$0" >"$0"; echo welcome; exec sleep 1000`, modemtest.TTY)
	for range 2 {
		f, r := call(t, fake)
		expect(t, f, r, "welcome")
		f.Close()
		fake.Wait(t, "the end of the call", func() bool { return !fake.InCall() })
	}
}

// The escape leads from a data call back to commands: three pluses with a silence on both sides, else they are data
// like any other. Then ATO goes on with the call, and ATH ends it.
func TestEscape(t *testing.T) {
	fake := modemtest.Start(t)
	fake.Guard = 300 * time.Millisecond
	fake.Dial = modemtest.Program("sh", "-c", `exec <"$0" >"$0"; echo welcome; while read -r line; do echo "got $line"; done`, modemtest.TTY)
	f, r := call(t, fake)
	expect(t, f, r, "welcome")
	say := func(text, answer string) {
		t.Helper()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		expect(t, f, r, answer)
	}
	silence := func() { time.Sleep(4 * fake.Guard) }
	say("hello\n", "got hello")
	say("+++\n", "got +++") // no silence before
	silence()
	say("+++AT+CSQ\r\n", "got +++AT+CSQ") // none behind
	silence()
	say("++", "") // half of it is data after a while
	silence()
	say("here\n", "got ++here")
	if n := fake.Count("+++"); n != 0 {
		t.Errorf("the modem took %d escapes where there was none", n)
	}
	silence()
	say("+++", "OK")
	if !fake.InCall() {
		t.Error("the escape alone ended the call")
	}
	say("AT+CSQ\r", "+CSQ: 20")
	say("ATO\r", "CONNECT")
	say("again\n", "got again")
	silence()
	say("+++", "OK")
	say("ATH\r", "OK")
	fake.Wait(t, "the end of the call", func() bool { return !fake.InCall() })
	say("AT+CSQ\r", "+CSQ: 20")
}

// A modem ends, however soon after its beginning.
func TestCloseAtOnce(t *testing.T) {
	for range 2000 {
		fake := modemtest.New()
		if err := fake.Open(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		fake.Close()
	}
}

func TestNoCarrier(t *testing.T) {
	fake := modemtest.Start(t)
	f, err := os.OpenFile(fake.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("ATD*99#\r"); err != nil {
		t.Fatal(err)
	}
	expect(t, f, bufio.NewReader(f), "NO CARRIER")
}
