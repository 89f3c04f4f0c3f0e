package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sample is [MS-RAI] section 2.2.2, with the ticket of a DaRT 8.1.
const sample = `<E><A KH="YiKwWUY8Ioq5NB3wAQHSbs5kwrM=" KH2="sha256:wKSAkAV3sBfa9WpuRFJcP9q1twJc6wOBuoJ9tsyXwpk=" ID="118-497-589"/><C><T ID="1" SID="1440550163">` +
	`<L P="49749" N="2001:4898:1a:5:79e2:3356:9b22:3470"/><L P="49748" N="fe80::1%12"/><L P="49751" N="172.31.250.64"/></T></C></E>`

// bench is a box, a machine and its screen, in a bubble.
type bench struct {
	t        *testing.T
	mu       sync.Mutex
	asked    []string // method, path, token, body
	at       []time.Duration
	begin    time.Time
	answer   func(r *http.Request) (int, error)
	shown    strings.Builder
	addrs    []string
	programs *fakePrograms
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, begin: time.Now(), addrs: []string{"192.168.77.100"}}
	b.programs = &fakePrograms{have: map[string]bool{remoteRecovery: true}}
	b.answer = func(*http.Request) (int, error) { return http.StatusNoContent, nil }
	return b
}

// RoundTrip is the box.
func (b *bench) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+string(body))
	b.at = append(b.at, time.Since(b.begin))
	status, err := b.answer(r)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: io.NopCloser(strings.NewReader("because"))}, nil
}

func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.shown.Write(p)
}

func (b *bench) addresses() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addrs
}

func (b *bench) do(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *bench) seen() []string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.asked...)
}

func (b *bench) screen() string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.shown.String()
}

func (b *bench) client() boxClient {
	return boxClient{
		order:  order{Server: &url.URL{Scheme: "http", Host: "192.168.77.1"}, Token: "secret", Machine: "srv01"},
		client: &http.Client{Transport: b},
	}
}

// run starts parts, and ends them with the test.
func (b *bench) run(parts ...func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, part := range parts {
		wg.Go(func() { part(ctx) })
	}
	b.t.Cleanup(func() { cancel(); wg.Wait() })
}

func (b *bench) courier(path string) *courier {
	s := newScreen(b)
	b.run(s.run)
	return &courier{
		box: b.client(), look: (&lookout{paths: []string{path}}).look, addresses: b.addresses,
		screen: s, machine: "srv01", poll: time.Second, minDelay: time.Second, maxDelay: 30 * time.Second,
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Times in a bubble begin in the year 2000; only a change of them matters.
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
}

// What RemoteRecovery.exe writes arrives as it is, with the token; half of it is
// no ticket; another one, or another address, is another one to send.
func TestTicketArrives(t *testing.T) {
	path := filepath.Join(t.TempDir(), ticketFile)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := b.courier(path)
		b.run(c.run)
		time.Sleep(time.Minute)
		if c.here() {
			t.Error("a ticket before there is one")
		}
		write(t, path, sample[:100])
		time.Sleep(5 * time.Second)
		if got := b.seen(); got != nil {
			t.Fatalf("sent before the file was whole: %q", got)
		}
		write(t, path, sample)
		time.Sleep(3 * time.Second)
		want := "PUT /agent/ticket Bearer secret " + sample
		if got := b.seen(); len(got) != 1 || got[0] != want {
			t.Fatalf("the box got %q", got)
		}
		time.Sleep(time.Hour)
		if got := b.seen(); len(got) != 1 || !c.here() {
			t.Errorf("sent %d times though nothing changed", len(got))
		}
		b.do(func() { b.addrs = nil })
		time.Sleep(5 * time.Second)
		b.do(func() { b.addrs = []string{"192.168.77.101"} })
		time.Sleep(3 * time.Second)
		if got := b.seen(); len(got) != 2 || got[1] != want {
			t.Errorf("after the address changed the box has %q", got)
		}
		other := strings.Replace(sample, "118-497-589", "222-333-444", 1)
		write(t, path, other)
		time.Sleep(3 * time.Second)
		if got := b.seen(); len(got) != 3 || !strings.HasSuffix(got[2], other) {
			t.Errorf("after another ticket the box has %q", got)
		}
	})
}

// A ticket that was made before this machine had an address leads nowhere: RemoteRecovery.exe is
// started again, for one that does.
func TestTicketBeforeTheNetwork(t *testing.T) {
	path := filepath.Join(t.TempDir(), ticketFile)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.do(func() { b.addrs = nil })
		c := b.courier(path)
		b.run(c.run)
		early := sample[:strings.Index(sample, "<L ")] + sample[strings.Index(sample, "</T>"):]
		texts := []string{early, early, sample}
		b.programs.begun = func() {
			time.AfterFunc(5*time.Second, func() { b.do(func() { write(t, path, texts[0]); texts = texts[1:] }) })
		}
		r := b.recovery(c.here)
		r.useless = c.useless
		b.run(r.run)
		time.Sleep(10 * time.Minute)
		started(t, b.programs, withSwitch)
		b.do(func() { b.addrs = []string{"192.168.77.100"} })
		time.Sleep(time.Hour)
		started(t, b.programs, withSwitch, withSwitch, withSwitch)
		if got := b.seen(); len(got) < 3 || !strings.HasSuffix(got[len(got)-1], sample) || !strings.Contains(strings.Join(got, "\n"), "before this machine had an address") {
			t.Errorf("the box got %q", got)
		}
	})
}

// A file of a form we do not know is not kept from the box, only later.
func TestTicketOfAnotherForm(t *testing.T) {
	path := filepath.Join(t.TempDir(), ticketFile)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.run(b.courier(path).run)
		write(t, path, "what DaRT 12 writes")
		time.Sleep(8 * time.Second)
		if got := b.seen(); got != nil {
			t.Errorf("sent at once: %q", got)
		}
		time.Sleep(5 * time.Second)
		if got := b.seen(); len(got) != 1 || !strings.HasSuffix(got[0], " what DaRT 12 writes") {
			t.Errorf("the box got %q", got)
		}
		if !strings.Contains(b.screen(), "in a form that this agent cannot show") {
			t.Errorf("screen:\n%s", b.screen())
		}
	})
}

// A box that is away for hours is asked for ever, and not too often; one complaint is enough.
func TestBoxAwayForHours(t *testing.T) {
	path := filepath.Join(t.TempDir(), ticketFile)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.answer = func(*http.Request) (int, error) { return 0, errors.New("connection refused") }
		write(t, path, sample)
		b.run(b.courier(path).run)
		time.Sleep(2 * time.Hour)
		n := len(b.seen())
		if n < 200 || n > 400 {
			t.Errorf("asked %d times in two hours, want about every 27 s", n)
		}
		if got := strings.Count(b.screen(), "connection refused"); got != 1 {
			t.Errorf("%d complaints:\n%s", got, b.screen())
		}
		b.do(func() { b.answer = func(*http.Request) (int, error) { return 204, nil } })
		time.Sleep(31 * time.Second)
		if !strings.Contains(b.screen(), "The administrator has the ticket of srv01.") {
			t.Errorf("screen:\n%s", b.screen())
		}
		if strings.Contains(b.screen(), "secret") {
			t.Error("the token is on the screen")
		}
	})
}

// A new address cuts the delay short.
func TestAddressEndsDelay(t *testing.T) {
	path := filepath.Join(t.TempDir(), ticketFile)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.answer = func(*http.Request) (int, error) { return 0, errors.New("no route to host") }
		write(t, path, sample)
		b.run(b.courier(path).run)
		time.Sleep(10 * time.Minute)
		for n := len(b.seen()); len(b.seen()) == n; {
			time.Sleep(time.Second) // until a delay has just begun
		}
		n := len(b.seen())
		b.do(func() {
			b.answer = func(*http.Request) (int, error) { return 204, nil }
			b.addrs = []string{"10.0.0.7"}
		})
		time.Sleep(2 * time.Second)
		if got := b.seen(); len(got) != n+1 {
			t.Errorf("%d tries more, two seconds after the cable was moved", len(got)-n)
		}
	})
}

// What the person on site reads to the admin fits the console, in ASCII.
func TestScreenOfTicket(t *testing.T) {
	path := filepath.Join(t.TempDir(), ticketFile)
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		write(t, path, sample)
		c := b.courier(path)
		c.box.order.Server = nil
		b.run(c.run)
		time.Sleep(5 * time.Second)
		got := b.screen()
		for _, want := range []string{
			"machine   srv01\r\n", "ticket    118-497-589\r\n", "address   192.168.77.100\r\n",
			"listens   172.31.250.64 port 49751\r\n", "You need not do anything", bigText("118-497-589")[0], "PLEASE READ TO THE ADMINISTRATOR",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("the screen does not say %q:\n%s", want, got)
			}
		}
		if strings.Contains(got, "fe80") {
			t.Error("an address that nobody can reach")
		}
		narrow(t, got)
	})
}

func narrow(t *testing.T, text string) {
	t.Helper()
	for _, line := range strings.Split(text, "\r\n") {
		if len(line) >= screenWidth {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r > 0x7e }); i >= 0 {
		t.Errorf("not ASCII: %q", text[i:])
	}
}

// Who clicks into the window stops its output, and nothing else.
func TestScreenStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		s := newScreen(w)
		done := make(chan bool)
		go func() { s.run(t.Context()); close(done) }()
		for i := 0; i < 1000; i++ {
			s.line("text")
		}
		synctest.Wait()
		r.Close()
		s.line("text")
	})
}

func TestLookoutTakesTheNewest(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, "old"), filepath.Join(dir, "fresh")
	now := time.Now()
	for path, age := range map[string]time.Duration{old: time.Hour, fresh: time.Minute} {
		write(t, path, strings.Replace(sample, "118", path[len(path)-3:], 1))
		os.Chtimes(path, now, now.Add(-age))
	}
	l := &lookout{paths: []string{old, fresh, filepath.Join(dir, "none"), dir}}
	if got := l.look(now); got != nil {
		t.Errorf("the first look takes %s", got)
	}
	if got := l.look(now.Add(time.Second)); !strings.Contains(string(got), "esh-497") {
		t.Errorf("the newest is not %s", got)
	}
	write(t, fresh, strings.Repeat("x", maxTicket+1))
	l.look(now)
	if got := l.look(now.Add(time.Hour)); !strings.Contains(string(got), "old-497") {
		t.Errorf("too long a file hides the other: %.80s", got)
	}
}

func TestReadTicket(t *testing.T) {
	utf16 := func(s string, high int) string {
		var b strings.Builder
		for _, r := range []byte(s) {
			if high == 0 {
				b.WriteByte(0)
			}
			b.WriteByte(r)
			if high == 1 {
				b.WriteByte(0)
			}
		}
		return b.String()
	}
	for name, raw := range map[string]string{
		"as it is": sample, "mark": "\xef\xbb\xbf" + sample, "space": "\r\n" + strings.ReplaceAll(sample, " ", "\r\n\t") + "\r\n\x00",
		"UTF-16LE": utf16(sample, 1), "UTF-16LE, mark": "\xff\xfe" + utf16(sample, 1),
		"UTF-16BE": utf16(sample, 0), "UTF-16BE, mark": "\xfe\xff" + utf16(sample, 0),
		"declared": `<?xml version="1.0"?>` + sample, "apostrophes": strings.ReplaceAll(sample, `"`, "'"),
	} {
		if !whole([]byte(raw)) {
			t.Errorf("%s: not whole", name)
		}
		got := fmt.Sprint(read([]byte(raw)))
		if want := "{118-497-589 [2001:4898:1a:5:79e2:3356:9b22:3470 port 49749 172.31.250.64 port 49751]}"; got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, raw := range []string{"", "<E>", "</E>", sample[:len(sample)-1]} {
		if whole([]byte(raw)) {
			t.Errorf("%q is whole", raw)
		}
	}
	long := `<E><A ID="8rYm30RBW8/4dAWoUsWbFCF5jno/7jr5tNpHQc2goLbw4uuBBJvLsU02YYLlBMg5"/></E>`
	if got := read([]byte(long)); got.Code != "" {
		t.Errorf("a code nobody reads out: %q", got.Code)
	}
}

func FuzzReadTicket(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("\xff\xfe<\x00E\x00"))
	f.Add([]byte(`<A ID=>  <L P='`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		whole(raw)
		s := read(raw)
		if len(s.Code) > 24 || len(s.Ports) > 4 {
			t.Errorf("%+v", s)
		}
		for _, p := range append(s.Ports, s.Code) {
			if p != printable(p) {
				t.Errorf("%q moves the cursor", p)
			}
		}
	})
}

func TestParseErrand(t *testing.T) {
	const good = `{"server":"http://192.168.77.1","token":"tok3n","machine":"srv01","order":"ab12cd34","dart":true}`
	for _, text := range []string{good, "\xef\xbb\xbf" + good} {
		e, err := parseErrand([]byte(text))
		if err != nil || e.Server.Host != "192.168.77.1" || e.Token != "tok3n" || e.Machine != "srv01" || e.ID != "ab12cd34" || !e.DaRT {
			t.Errorf("%+v, %v", e, err)
		}
	}
	for _, text := range []string{"", good[:40], `{"token":"tok3n"}`, strings.Replace(good, "http", "ftp", 1), strings.Replace(good, "tok3n", "tok3n\\r\\n", 1)} {
		if _, err := parseErrand([]byte(text)); err == nil || strings.Contains(err.Error(), "tok3n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := readErrand(filepath.Join(t.TempDir(), errandFile)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzParseErrand(f *testing.F) {
	f.Add([]byte(`{"server":"http://192.168.77.1","token":"tok3n","machine":"srv01","dart":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseErrand(b)
		if (err == nil) != (e.Server != nil) {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

// fakePrograms is a System32.
type fakePrograms struct {
	mu      sync.Mutex
	have    map[string]bool
	started []string
	running bool
	refuse  error
	hangs   bool          // what is no RemoteRecovery.exe
	lives   time.Duration // of what is started; 0: for ever
	begun   func()
}

func (p *fakePrograms) Start(name string, args ...string) (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = append(p.started, strings.Join(append([]string{name}, args...), " "))
	if p.refuse != nil {
		return nil, p.refuse
	}
	exited := make(chan int, 1)
	if name != remoteRecovery {
		if !p.hangs {
			exited <- 0
		}
		return &process{exited: exited}, nil
	}
	p.running = true
	if p.begun != nil {
		p.begun()
	}
	if p.lives > 0 {
		time.AfterFunc(p.lives, func() { p.end(); exited <- 3 })
	}
	return &process{exited, func() { p.end(); exited <- 1 }}, nil
}

func (p *fakePrograms) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
}

func (p *fakePrograms) list() []string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.started...)
}

func (p *fakePrograms) set(change func(*fakePrograms)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *fakePrograms) Running(string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}

func (p *fakePrograms) Have(name string) bool { return p.have[name] }

func (b *bench) recovery(ticket func() bool) *recovery {
	say := newSayer(b.client(), newScreen(b))
	b.run(say.run, say.screen.run)
	return &recovery{programs: b.programs, ticket: ticket, useless: func() bool { return false }, tell: say.tell, poll: 500 * time.Millisecond}
}

func started(t *testing.T, p *fakePrograms, want ...string) {
	t.Helper()
	if got := strings.Join(p.list(), ", "); got != strings.Join(want, ", ") {
		t.Errorf("started %s\nwant %s", got, strings.Join(want, ", "))
	}
}

const withSwitch = remoteRecovery + " -nomessage"

func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ticket := false
		b.programs.begun = func() { time.AfterFunc(30*time.Second, func() { b.do(func() { ticket = true }) }) }
		b.run(b.recovery(func() bool { b.mu.Lock(); defer b.mu.Unlock(); return ticket }).run)
		time.Sleep(time.Hour)
		started(t, b.programs, withSwitch)
		if got := b.seen(); got != nil {
			t.Errorf("the box was told %q", got)
		}
	})
}

// The session ended, the admin's line broke: there is another way in. What ends as soon as it
// has made a ticket has left somebody behind who serves it.
func TestRecoveryAfterTheTicket(t *testing.T) {
	for lives, again := range map[time.Duration]int{2 * time.Hour: 5, 10 * time.Second: 1} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.programs.lives = lives
			b.run(b.recovery(func() bool { return true }).run)
			time.Sleep(9 * time.Hour)
			if n := len(b.programs.list()); n != again {
				t.Errorf("what lives for %v was started %d times, not %d", lives, n, again)
			}
			if got := b.seen(); len(got) != again-1 || again > 1 && !strings.Contains(got[0], "ended with code 3; it is started again, for another ticket") {
				t.Errorf("the box was told %q", got)
			}
		})
	}
}

// The firewall is opened again and again: what the image starts after us may have closed it. A
// program that hangs is waited for.
func TestFirewall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.programs.have["wpeutil.exe"] = true
		const open = "wpeutil.exe DisableFirewall"
		b.run(func(ctx context.Context) { keepFirewallOpen(ctx, b.programs) })
		started(t, b.programs, open)
		time.Sleep(firewallAgain + time.Second)
		started(t, b.programs, open, open)
		b.programs.set(func(p *fakePrograms) { p.hangs = true })
		time.Sleep(10 * firewallAgain)
		started(t, b.programs, open, open, open)
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		keepFirewallOpen(t.Context(), b.programs) // there is none
		started(t, b.programs)
	})
}

// One that was the session itself is started until it stays, though it fails at first.
func TestRecoveryFailsAfterTheTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.programs.lives = time.Hour
		b.run(b.recovery(func() bool { return true }).run)
		time.Sleep(time.Minute)
		b.programs.set(func(p *fakePrograms) { p.lives = time.Second })
		time.Sleep(time.Hour + 10*time.Second)
		b.programs.set(func(p *fakePrograms) { p.refuse = errors.New("access denied") })
		time.Sleep(time.Minute)
		b.programs.set(func(p *fakePrograms) { p.refuse, p.lives = nil, 0 })
		time.Sleep(time.Hour)
		if got := b.programs.list(); len(got) < 4 || len(got) > maxStarts || !b.programs.Running(remoteRecovery) {
			t.Errorf("started %d times, and runs: %v", len(got), b.programs.Running(remoteRecovery))
		}
	})
}

// It dies again and again: it is started slower each time, and the box hears of the first ten.
func TestRecoveryDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.programs.lives = time.Second
		b.run(b.recovery(func() bool { return false }).run)
		time.Sleep(9 * time.Minute)
		if n := len(b.programs.list()); n != maxStarts {
			t.Errorf("started %d times at first", n)
		}
		time.Sleep(time.Hour)
		if n := len(b.programs.list()) - maxStarts; n < 11 || n > 13 {
			t.Errorf("started %d times in the hour after that", n)
		}
		got := b.seen()
		if len(got) != maxStarts+1 || !strings.Contains(got[0], "POST /agent/say Bearer secret "+remoteRecovery+" ended with code 3") ||
			!strings.Contains(got[maxStarts], "was started 10 times and made no ticket") {
			t.Errorf("the box was told %q", got)
		}
		narrow(t, b.screen())
	})
}

func TestRecoveryRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.programs.refuse = errors.New("access denied")
		b.run(b.recovery(func() bool { return false }).run)
		time.Sleep(8 * time.Second)
		started(t, b.programs, withSwitch, withSwitch)
		if got := b.seen(); len(got) == 0 || !strings.Contains(got[0], "does not start: access denied") {
			t.Errorf("the box was told %q", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.programs.have = nil
		b.recovery(func() bool { return false }).run(t.Context())
		started(t, b.programs)
		if got := b.seen(); len(got) != 1 || !strings.Contains(got[0], "is not in this image") {
			t.Errorf("the box was told %q", got)
		}
	})
}

// One that the image started itself is left to do its work.
func TestRecoveryOfTheImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.programs.running = true
		b.run(b.recovery(func() bool { return false }).run)
		time.Sleep(3 * time.Minute)
		started(t, b.programs)
		if got := b.seen(); len(got) != 1 || !strings.Contains(got[0], "runs for two minutes and has made no ticket") {
			t.Errorf("the box was told %q", got)
		}
		b.programs.end()
		time.Sleep(10 * time.Second)
		started(t, b.programs, withSwitch)
	})
}

// What is said is bounded, and a box that wants none of it is not asked again.
func TestSayBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.answer = func(*http.Request) (int, error) { return http.StatusNotFound, nil }
		s := newScreen(b)
		say := newSayer(b.client(), s)
		b.run(say.run, s.run)
		for i := 0; i < 1000; i++ {
			say.tell(strings.Repeat("x", 10000))
			if i%10 == 0 {
				time.Sleep(time.Minute)
			}
		}
		got := b.seen()
		if len(got) != maxSays {
			t.Errorf("said %d times", len(got))
		}
		for _, line := range got {
			if len(line) > maxSay+100 {
				t.Errorf("a line of %d bytes", len(line))
			}
		}
	})
}

func TestLaunch(t *testing.T) {
	for _, tt := range []struct {
		name          string
		dart, refused bool
		ticketAfter   time.Duration
		min, max      time.Duration
		started       []string
	}{
		{name: "plain", min: 0, max: 0},
		{name: "plain, no agent", refused: true, min: 0, max: 10 * time.Second},
		{name: "DaRT", dart: true, ticketAfter: 20 * time.Second, min: 20 * time.Second, max: 22 * time.Second},
		{name: "DaRT without a ticket", dart: true, min: launchTime, max: launchTime},
		{name: "DaRT, no agent", dart: true, refused: true, ticketAfter: 20 * time.Second, min: 20 * time.Second, max: 30 * time.Second, started: []string{withSwitch}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, detached, out := newBench(t).programs, 0, &buffer{}
				begin := time.Now()
				l := &launcher{
					programs: p, dart: tt.dart, out: out, poll: 500 * time.Millisecond,
					detach: func() error {
						if detached++; tt.refused {
							return errors.New("no memory")
						}
						p.running = true
						return nil
					},
					look: func(now time.Time) []byte {
						if tt.ticketAfter > 0 && now.Sub(begin) >= tt.ticketAfter {
							return []byte(sample)
						}
						return nil
					},
				}
				l.run(t.Context())
				if d := time.Since(begin); d < tt.min || d > tt.max {
					t.Errorf("the menu came after %v", d)
				}
				started(t, p, tt.started...)
				if strings.Contains(out.String(), "no memory") != tt.refused {
					t.Errorf("said %s", out)
				}
			})
		})
	}
}

func TestWatchLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := newScreen(b)
		b.addrs = nil
		b.run(s.run, func(ctx context.Context) { watchLink(ctx, b.addresses, s) })
		time.Sleep(10 * time.Minute)
		if n := strings.Count(b.screen(), "THIS MACHINE HAS NO NETWORK ADDRESS"); n != 1 {
			t.Errorf("said %d times:\n%s", n, b.screen())
		}
		b.do(func() { b.addrs = []string{"192.168.77.100"} })
		time.Sleep(2 * time.Second)
		if !strings.Contains(b.screen(), "the network is back: 192.168.77.100") {
			t.Errorf("screen:\n%s", b.screen())
		}
		narrow(t, b.screen())
	})
}

func TestWrap(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "short": "short", "one two three": "one two|three", "unbreakableword": "unbreakableword", "    indented word": "    indented|word",
	} {
		width := 8
		if strings.HasPrefix(text, " ") {
			width = 13
		}
		if got := strings.Join(wrap(text, width), "|"); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
