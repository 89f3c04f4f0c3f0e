package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// peer is a machine's side of a console: every Open makes a new connection.
type peer struct {
	mu     sync.Mutex
	err    error       // of Open
	opened []time.Time // attempts
	out    *io.PipeWriter
	typed  chan string
}

type peerConn struct {
	*io.PipeReader
	p *peer
}

func (c peerConn) Write(b []byte) (int, error) {
	c.p.typed <- string(b)
	return len(b), nil
}

func (p *peer) open(context.Context) (io.ReadWriteCloser, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened = append(p.opened, time.Now())
	if p.err != nil {
		return nil, p.err
	}
	r, w := io.Pipe()
	p.out = w
	return peerConn{r, p}, nil
}

func (p *peer) set(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *peer) say(text string) {
	p.mu.Lock()
	out := p.out
	p.mu.Unlock()
	io.WriteString(out, text)
}

// attempts are the attempts so far; they begin anew.
func (p *peer) attempts() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.opened
	p.opened = nil
	return list
}

// keep runs a Keeper with one console in a bubble.
func keep(t *testing.T, test func(t *testing.T, k *Keeper, p *peer)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := &peer{typed: make(chan string, 100)}
		k := &Keeper{Dir: dir, Machines: []Machine{{Name: "srv01", Open: p.open}}, Metrics: prometheus.NewRegistry()}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx, func() {}) }()
		synctest.Wait()
		test(t, k, p)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// seen is all that waits for a session: what the machine said, and remarks in brackets.
func seen(s *Session) string {
	synctest.Wait()
	var b strings.Builder
	for {
		p, ok, err := s.take()
		switch {
		case err != nil:
			fmt.Fprintf(&b, "{%v}", err)
			return b.String()
		case !ok:
			return b.String()
		case p.Notice != "":
			fmt.Fprintf(&b, "[%s]", p.Notice)
		default:
			b.Write(p.Data)
		}
	}
}

func attach(t *testing.T, k *Keeper, a Attach) *Session {
	t.Helper()
	s, err := k.Attach(t.Context(), "srv01", a)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func has(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%q has no %q", got, w)
		}
	}
}

// A console that is lost: marked for those who look and in the log, with how long it was away.
func TestGap(t *testing.T) {
	keep(t, func(t *testing.T, k *Keeper, p *peer) {
		p.say("booting\r\nlogin: ")
		s := attach(t, k, Attach{Who: "anna", Write: true, Lines: 10})
		has(t, seen(s), "[console opened at ", "booting\r\nlogin: ")
		p.set(errors.New("the controller does not answer"))
		p.out.CloseWithError(errors.New("no \x1b[2Janswer"))
		has(t, seen(s), "[console lost ", ": no  [2Janswer]")
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrLost) {
			t.Errorf("typed into nothing: %v", err)
		}
		time.Sleep(10 * time.Minute)
		late := attach(t, k, Attach{Who: "bob"})
		has(t, seen(late), "[console is lost since ", "the controller does not answer")
		p.set(nil)
		time.Sleep(2 * time.Minute)
		p.say("back\r\n")
		has(t, seen(s), "[console back at ", "is missing]", "back\r\n")
		list, err := k.Tail("srv01", 100)
		if err != nil {
			t.Fatal(err)
		}
		log := strings.Join(list, "\n")
		has(t, log, "Z  booting", "Z  login: ", "Z -- console lost ", "Z -- console back at ", "Z  back")
		if len(list) != 6 {
			t.Errorf("a dead controller fills the log:\n%s", log)
		}
	})
}

// The delays grow to a minute and stay there; a connection that stood begins anew.
func TestBackOff(t *testing.T) {
	keep(t, func(t *testing.T, k *Keeper, p *peer) {
		p.attempts()
		p.set(errors.New("no answer"))
		lost := time.Now()
		p.out.Close()
		time.Sleep(time.Hour)
		last, n := lost, 0
		for i, at := range p.attempts() {
			want := min(firstDelay<<min(i, 10), lastDelay)
			if d := at.Sub(last); d < want*3/4 || d > want*5/4 {
				t.Errorf("attempt %d after %s, want about %s", i, d, want)
			}
			last, n = at, n+1
		}
		if n < 50 || n > 75 {
			t.Errorf("%d attempts in an hour", n)
		}
		p.set(nil)
		time.Sleep(2*lastDelay + steady)
		p.attempts()
		lost = time.Now()
		p.out.Close()
		time.Sleep(5 * time.Second)
		if a := p.attempts(); len(a) != 1 || a[0].Sub(lost) > 2*firstDelay {
			t.Errorf("after a connection that stood: %v", a)
		}
	})
}

// Who comes has a lost console tried at once, also one that is left alone otherwise.
func TestAttachTries(t *testing.T) {
	none := errors.New("the controller has no console")
	keep(t, func(t *testing.T, k *Keeper, p *peer) {
		k.lines["srv01"].machine.Wait = func(err error) time.Duration {
			if errors.Is(err, none) {
				return time.Hour
			}
			return 0
		}
		p.set(errors.New("no answer"))
		p.out.Close()
		time.Sleep(10 * time.Minute)
		p.attempts()
		for range 10 {
			attach(t, k, Attach{Who: "anna"}).Close()
		}
		time.Sleep(firstDelay)
		if n := len(p.attempts()); n != 1 && n != 2 {
			t.Errorf("%d attempts, want one at once", n)
		}
		p.set(none)
		time.Sleep(2 * lastDelay)
		p.attempts()
		time.Sleep(50 * time.Minute)
		if n := len(p.attempts()); n != 0 {
			t.Errorf("what has no console was tried %d times in 50 minutes", n)
		}
		for range 20 {
			attach(t, k, Attach{Who: "anna"}).Close()
			time.Sleep(time.Second)
		}
		if n := len(p.attempts()); n != 20 {
			t.Errorf("%d attempts for 20 who came", n)
		}
	})
}

// One types, many read; who is put out learns by whom; who only reads never types.
func TestWriters(t *testing.T) {
	keep(t, func(t *testing.T, k *Keeper, p *peer) {
		anna := attach(t, k, Attach{Who: "anna", Write: true})
		bob := attach(t, k, Attach{Who: "bob", Write: true})
		eve := attach(t, k, Attach{Who: "eve"})
		has(t, seen(bob), "[anna writes since ")
		if _, err := anna.Write([]byte("ls\r")); err != nil || <-p.typed != "ls\r" {
			t.Errorf("anna cannot type: %v", err)
		}
		var other *OtherWrites
		if _, err := bob.Write([]byte("rm\r")); !errors.As(err, &other) || other.Who != "anna" {
			t.Errorf("bob: %v", err)
		}
		if _, err := eve.Write([]byte("x")); !errors.Is(err, ErrReadOnly) {
			t.Errorf("eve types: %v", err)
		}
		if err := eve.TakeOver(); !errors.Is(err, ErrReadOnly) {
			t.Errorf("eve takes over: %v", err)
		}
		if err := bob.TakeOver(); err != nil {
			t.Error(err)
		}
		has(t, seen(anna), "[bob took over at ")
		has(t, seen(eve), "[bob writes now]")
		has(t, seen(bob), "[you write now; anna was put out]")
		if _, err := anna.Write([]byte("x")); !errors.As(err, &other) || other.Who != "bob" {
			t.Errorf("anna still types: %v", err)
		}
		bob.Close()
		has(t, seen(bob), "{"+ErrClosed.Error()+"}")
		if _, err := anna.Write([]byte("back\r")); err != nil || <-p.typed != "back\r" {
			t.Errorf("nobody types, and anna cannot: %v", err)
		}
		if err := anna.Break(); !errors.Is(err, ErrNoBreak) {
			t.Errorf("break: %v", err)
		}
		carl := attach(t, k, Attach{Who: "carl", Write: true, TakeOver: true})
		has(t, seen(anna), "[carl took over at ")
		p.say("all see it\r\n")
		for _, s := range []*Session{anna, eve, carl} {
			has(t, seen(s), "all see it\r\n")
		}
		for range maxSessions - 3 {
			attach(t, k, Attach{Who: "crowd"})
		}
		if _, err := k.Attach(t.Context(), "srv01", Attach{}); !errors.Is(err, ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		if _, err := k.Attach(t.Context(), "srv02", Attach{}); !errors.Is(err, ErrUnknown) {
			t.Errorf("no such console: %v", err)
		}
	})
}

// Who does not keep up holds up nobody, and learns how much is missing; what comes then, comes.
func TestSlowReader(t *testing.T) {
	keep(t, func(t *testing.T, k *Keeper, p *peer) {
		slow, quick := attach(t, k, Attach{Who: "slow"}), attach(t, k, Attach{Who: "quick"})
		line := strings.Repeat("x", 98) + "\r\n"
		const lines = 10000
		got := 0
		for range lines {
			p.say(line)
			got += len(seen(quick))
		}
		if got != lines*len(line) {
			t.Errorf("the quick one got %d bytes of %d", got, lines*len(line))
		}
		text := seen(slow)
		var missing int
		if n, err := fmt.Sscanf(text, "[%d bytes are missing here", &missing); n != 1 {
			t.Fatalf("%v in %.100q", err, text)
		}
		_, rest, _ := strings.Cut(text, "]")
		if missing+len(rest) != lines*len(line) || len(rest) > maxQueue || len(rest) == 0 {
			t.Errorf("%d missing, %d there, of %d", missing, len(rest), lines*len(line))
		}
	})
}

// The log outlives the daemon: who comes after a restart sees what was, and the gap between.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{typed: make(chan string, 1)}
			k := &Keeper{Dir: dir, Machines: []Machine{{Name: "srv01", Open: p.open}}}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- k.Run(ctx, func() {}) }()
			synctest.Wait()
			s := attach(t, k, Attach{Who: "anna", Lines: 100, Write: true})
			if text := seen(s); i == 1 {
				has(t, text, "run 0\r\n", "[console is not kept any more: the box stops at ", "[console opened at ")
			}
			p.say(fmt.Sprintf("run %d\r\nPassword: ", i))
			if _, err := s.Write([]byte("hunter2\r")); err != nil { // which the machine does not echo
				t.Error(err)
			}
			cancel()
			<-done
			has(t, seen(s), "{"+errStopping.Error()+"}")
		})
	}
	log, err := os.ReadFile(filepath.Join(dir, "srv01.log"))
	if err != nil {
		t.Fatal(err)
	}
	has(t, string(log), "Z  run 0\n", "Z  run 1\n", "Z  Password: \n")
	if strings.Contains(string(log), "hunter2") {
		t.Error("the log has what was typed")
	}
}
