package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
)

// fakeConsoles has a console for srv01 that echoes in capital letters.
type fakeConsoles struct {
	mu       sync.Mutex
	attached []ConsoleAttach
	sessions []*fakeConsole
}

func newFakeConsoles() *fakeConsoles { return &fakeConsoles{} }

func (f *fakeConsoles) Attach(_ context.Context, machine string, a ConsoleAttach) (ConsoleSession, error) {
	if machine != "srv01" {
		return nil, &boot.Refusal{Reason: machine + " has no console", Hint: "set serial or a BMC"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &fakeConsole{a: a, pieces: make(chan ConsolePiece, 1000), ended: make(chan struct{})}
	s.pieces <- ConsolePiece{Time: time.Now(), Notice: "hello " + a.Who}
	f.attached, f.sessions = append(f.attached, a), append(f.sessions, s)
	return s, nil
}

func (f *fakeConsoles) Tail(machine string, lines int) ([]string, error) {
	if machine != "srv01" {
		return nil, &boot.Refusal{Reason: machine + " has no console"}
	}
	return []string{"2026-11-23T05:11:03.000Z  kernel panic", "2026-11-23T05:11:04.000Z -- console lost"}[:min(lines, 2)], nil
}

// last is the session that was opened last.
func (f *fakeConsoles) last() *fakeConsole {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions[len(f.sessions)-1]
}

type fakeConsole struct {
	a      ConsoleAttach
	pieces chan ConsolePiece
	ended  chan struct{}
	once   sync.Once
	why    error
}

func (f *fakeConsole) Next(ctx context.Context) (ConsolePiece, error) {
	select {
	case p := <-f.pieces:
		return p, nil
	case <-f.ended:
		return ConsolePiece{}, f.why
	case <-ctx.Done():
		return ConsolePiece{}, ctx.Err()
	}
}

func (f *fakeConsole) Write(b []byte) (int, error) {
	if !f.a.Write {
		return 0, errors.New("attached for reading only")
	}
	f.pieces <- ConsolePiece{Data: bytes.ToUpper(b)}
	return len(b), nil
}

func (f *fakeConsole) Break() error { return errors.New("this console cannot send a break") }

func (f *fakeConsole) TakeOver() error {
	f.pieces <- ConsolePiece{Notice: "you write now"}
	return nil
}

func (f *fakeConsole) end(why error) { f.once.Do(func() { f.why = why; close(f.ended) }) }

func (f *fakeConsole) Close() error {
	f.end(errors.New("closed"))
	return nil
}

// heard reads until a text has come, from the machine or as a remark.
func heard(t *testing.T, c *api.Console, want string) {
	t.Helper()
	var all string
	for !strings.Contains(all, want) {
		data, notice, err := c.Next()
		if err != nil {
			t.Fatalf("want %.40q: %v after %.200q", want, err, all)
		}
		if all += string(data); notice != nil {
			all += "[" + notice.Text + "]"
		}
	}
}

// consoleAudit waits for so many entries about consoles.
func (s *site) consoleAudit(t *testing.T, n int) (list []AuditEntry) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(list) < n; time.Sleep(10 * time.Millisecond) {
		all, err := s.Audit.Read("", 0, 0)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v; %d entries, want %d: %+v", err, len(list), n, list)
		}
		list = nil
		for _, e := range all {
			if strings.Contains(e.What, "console") {
				list = append(list, e)
			}
		}
	}
	return list
}

// A session over the socket and over TLS: what comes, what is typed, a long text, a break,
// taking over, and what the audit log says of it.
func TestConsole(t *testing.T) {
	for _, over := range []string{"socket", "TLS"} {
		t.Run(over, func(t *testing.T) {
			s := newSite(t)
			client := s.client(t, over)
			c, err := client.Console(t.Context(), "srv01", api.ConsoleWrite, 7)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			heard(t, c, "[hello ")
			if a := s.Consoles.(*fakeConsoles).last().a; !a.Write || a.TakeOver || a.Lines != 7 || !strings.HasSuffix(a.Who, ")") {
				t.Errorf("attached as %+v", a)
			}
			long := strings.Repeat("secret ", 10000)
			go io.WriteString(c, long+"end")
			heard(t, c, strings.ToUpper(long)+"END")
			if err := c.Break(); err != nil {
				t.Fatal(err)
			}
			heard(t, c, "[this console cannot send a break]")
			if err := c.TakeOver(); err != nil {
				t.Fatal(err)
			}
			heard(t, c, "[you write now]")
			c.Close()
			list := s.consoleAudit(t, 3)
			if e := list[0]; e.Status != 101 || e.What != "GET /v1/machines/srv01/console" || e.Args != "srv01 mode=write" {
				t.Errorf("opening: %+v", e)
			}
			if e := list[1]; e.What != "TAKEOVER /v1/machines/srv01/console" || e.Status != 200 {
				t.Errorf("taking over: %+v", e)
			}
			if e := list[2]; e.What != "CLOSE /v1/machines/srv01/console" ||
				!strings.Contains(e.Args, fmt.Sprintf("typed=%d received=%d after=", len(long)+3, len(long)+3)) || !strings.HasSuffix(e.Args, "the admin's command has ended") {
				t.Errorf("closing: %+v", e)
			}
			if text := fmt.Sprint(list); strings.Contains(strings.ToLower(text), "secret") {
				t.Error("what was typed is in the audit log")
			}
		})
	}
}

// Who only reads learns why what he types goes nowhere; the end of the console, and of the box, is told.
func TestConsoleEnds(t *testing.T) {
	s := newSite(t)
	client := s.client(t, "TLS")
	c, err := client.Console(t.Context(), "srv01", api.ConsoleRead, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "x")
	heard(t, c, "[attached for reading only]")
	s.Consoles.(*fakeConsoles).last().end(errors.New("the box stops"))
	var closed *api.ConsoleClosed
	for err == nil { // the greeting may be on its way still
		_, _, err = c.Next()
	}
	if !errors.As(err, &closed) || closed.Why != "the box stops" {
		t.Errorf("end: %v", err)
	}
	if _, err := client.Console(t.Context(), "srv02", api.ConsoleRead, 0); err == nil || !strings.Contains(err.Error(), "srv02 has no console") {
		t.Errorf("a machine without one: %v", err)
	}
	lines, err := client.ConsoleLog(t.Context(), "srv01", 1)
	if err != nil || len(lines) != 1 || !strings.HasSuffix(lines[0], "  kernel panic") {
		t.Errorf("log %q, %v", lines, err)
	}
}

// A revoked token's session ends with the next heartbeat at the latest.
func TestConsoleRevoked(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := s.client(t, "TLS")
	c, err := client.Console(t.Context(), "srv01", api.ConsoleWrite, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard(t, c, "hello anna (127.0.0.1)")
	socket := api.OverSocket(s.Socket)
	tokens, err := socket.Tokens(t.Context())
	if err != nil || len(tokens) != 1 {
		t.Fatal(tokens, err)
	}
	if err := socket.RevokeToken(t.Context(), tokens[0].ID); err != nil {
		t.Fatal(err)
	}
	var closed *api.ConsoleClosed
	if _, _, err := c.Next(); !errors.As(err, &closed) || !strings.Contains(closed.Why, "revoked") {
		t.Errorf("end: %v", err)
	}
}

// What a console said before an order failed is for those who may look at the console.
func TestConsoleLinesAreForOperators(t *testing.T) {
	e := boot.Event{Step: boot.StepConsole, Lines: []string{"root@srv01:~# "}}
	for role, want := range map[api.Role]int{api.Viewer: 0, api.Operator: 1, api.Admin: 1} {
		if got := len(eventOf(e, role).Lines); got != want {
			t.Errorf("%s sees %d lines, want %d", role, got, want)
		}
	}
}

// lateDeadlines is a connection on which every send has just set its own, longer deadline when the box ends.
type lateDeadlines struct{ net.Conn }

func (lateDeadlines) SetWriteDeadline(time.Time) error { return nil }

// Who looks and takes nothing, such as a command that was put to sleep, does not hold up the end of the box, nor does
// one to whom something begins to be sent in that moment.
func TestConsoleOfSleeper(t *testing.T) {
	for name, conn := range map[string]func(net.Conn) net.Conn{
		"asleep":           func(c net.Conn) net.Conn { return c },
		"falls asleep now": func(c net.Conn) net.Conn { return lateDeadlines{c} },
	} {
		t.Run(name, func(t *testing.T) { sleeper(t, conn) })
	}
}

func sleeper(t *testing.T, conn func(net.Conn) net.Conn) {
	ours, its := net.Pipe()
	defer its.Close()
	s, err := newFakeConsoles().Attach(t.Context(), "srv01", ConsoleAttach{Who: "anna"})
	if err != nil {
		t.Fatal(err)
	}
	v := &consoleView{session: s, conn: conn(ours)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- v.run(ctx) }()
	if _, err := its.Read(make([]byte, 1)); err != nil { // the rest is being written
		t.Fatal(err)
	}
	cancel()
	begun := time.Now()
	if why := <-ended; why.Error() != "the box stops" || time.Since(begun) > slowConsole/2 {
		t.Errorf("%v after %s", why, time.Since(begun))
	}
}
