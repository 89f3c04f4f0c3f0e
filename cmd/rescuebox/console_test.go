//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/console"
)

// loginPrompt is a machine at its serial console: a prompt, and an echo in capital letters. It
// tries to set the clipboard of whoever looks. Told to listen, it is busy for a while, reads until "END",
// and says how much that was.
func loginPrompt(context.Context) (io.ReadWriteCloser, error) {
	ours, its := net.Pipe()
	go func() {
		defer its.Close()
		fmt.Fprint(its, "\x1b]52;c;c3RvbGVu\x07Linux 6.1\r\nsrv01 login: ")
		b := make([]byte, 256)
		for {
			n, err := its.Read(b)
			if err != nil {
				return
			}
			if bytes.HasPrefix(b[:n], []byte("listen")) {
				time.Sleep(1500 * time.Millisecond)
				all := n
				for ; err == nil && !bytes.HasSuffix(b[:n], []byte("END")); all += n {
					n, err = its.Read(b)
				}
				n = copy(b, fmt.Sprintf("%d bytes", all))
			}
			if _, err := its.Write(bytes.ReplaceAll(bytes.ToUpper(b[:n]), []byte("\r"), []byte("\r\n"))); err != nil {
				return
			}
		}
	}()
	return ours, nil
}

// testConsoles are real consoles behind the API.
type testConsoles struct{ *console.Keeper }

func (k testConsoles) Attach(ctx context.Context, machine string, a admin.ConsoleAttach) (admin.ConsoleSession, error) {
	s, err := k.Keeper.Attach(ctx, machine, console.Attach{Who: a.Who, Write: a.Write, TakeOver: a.TakeOver, Lines: a.Lines})
	if err != nil {
		return nil, refusal(err)
	}
	return testSession{s}, nil
}

// connected reports whether what is typed for srv01 reaches it, after the latest start.
func (k testConsoles) connected() bool {
	list, err := k.Keeper.Tail("srv01", 100)
	log := strings.Join(list, "\n")
	return err == nil && strings.LastIndex(log, "console opened at") > strings.LastIndex(log, "console is not kept any more")
}

func (k testConsoles) Tail(machine string, lines int) ([]string, error) {
	list, err := k.Keeper.Tail(machine, lines)
	return list, refusal(err)
}

func refusal(err error) error {
	if errors.Is(err, console.ErrUnknown) {
		return &boot.Refusal{Reason: "the machine has no console", Hint: "give it serial or a BMC in the file of the site"}
	}
	return err
}

type testSession struct{ *console.Session }

func (s testSession) Next(ctx context.Context) (admin.ConsolePiece, error) {
	p, err := s.Session.Next(ctx)
	return admin.ConsolePiece(p), err
}

// terminal is a person's: what stands on it, and how it is set.
type terminal struct {
	master, slave *os.File
	mu            sync.Mutex
	shown         bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	p := &terminal{master: master, slave: slave}
	go func() { // ends with the master
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			p.mu.Lock()
			p.shown.Write(b[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *terminal) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shown.String()
}

// shows waits for a text on the screen.
func (p *terminal) shows(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(p.text(), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the screen has no %q:\n%q", want, p.text())
		}
	}
}

func (p *terminal) settings(t *testing.T) unix.Termios {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *s
}

// sit runs the command on the terminal; it returns what waits for its exit code.
func (p *terminal) sit(ctx context.Context, args ...string) (wait func(t *testing.T) int) {
	code := make(chan int, 1)
	go func() { code <- run(ctx, args, p.slave, p.slave, p.slave) }()
	return func(t *testing.T) int {
		t.Helper()
		select {
		case c := <-code:
			return c
		case <-time.After(30 * time.Second):
			t.Fatalf("the command does not end:\n%q", p.text())
			return -1
		}
	}
}

// startSite is a site at work; b may be nil.
func startSite(t *testing.T, b *testBMC) *testSite {
	t.Helper()
	dir, err := os.MkdirTemp("", "rb") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &testSite{dir: dir, bmc: b}
	if s.listen, err = freePort(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.down(); os.RemoveAll(dir) })
	if err := s.up(); err != nil {
		t.Fatal(err)
	}
	return s
}

// Two people at one console: one types, the other looks and takes over; the terminals
// are as they were in the end, whichever way it comes.
func TestConsoleOnTerminals(t *testing.T) {
	s := startSite(t, nil)
	one, two := newTerminal(t), newTerminal(t)
	was := one.settings(t)
	first := one.sit(t.Context(), "--socket", s.socket(), "console", "srv01")
	one.shows(t, "srv01 login: ")
	if one.settings(t) == was {
		t.Error("the terminal is not raw")
	}
	io.WriteString(one.master, "root\r")
	one.shows(t, "ROOT\r\n")
	io.WriteString(one.master, "\x03") // Ctrl-C is for the machine

	ctx, kill := context.WithCancel(t.Context())
	second := two.sit(ctx, "--socket", s.socket(), "console", "srv01")
	two.shows(t, "writes since")
	io.WriteString(two.master, "~w")
	two.shows(t, "you write now")
	one.shows(t, "took over at")
	io.WriteString(two.master, "~~uname\r")
	one.shows(t, "~UNAME")
	io.WriteString(one.master, "x\r~?")
	one.shows(t, "you only read until you take over")
	one.shows(t, "send a break")
	io.WriteString(two.master, "~B")
	two.shows(t, "cannot send a break")

	io.WriteString(one.master, "\r~.")
	if code := first(t); code != 0 {
		t.Errorf("~. exits with %d", code)
	}
	if one.settings(t) != was {
		t.Error("the terminal is not as it was after ~.")
	}
	one.shows(t, "left the console of srv01")
	kill() // as SIGTERM does
	if code := second(t); code != 0 || two.settings(t) != was {
		t.Errorf("killed: exit code %d, terminal %v", code, two.settings(t) == was)
	}
	if text := one.text() + two.text(); strings.Contains(text, "]52;") {
		t.Errorf("the machine reaches the clipboard: %q", text)
	}
}

// What is piped in has reached the machine when the command ends, however slow and silent that is.
func TestConsolePipedSlowly(t *testing.T) {
	s := startSite(t, nil)
	var out, errOut bytes.Buffer
	in := strings.NewReader("listen" + strings.Repeat("x", 20000) + "END")
	if code := run(t.Context(), []string{"--socket", s.socket(), "console", "srv01"}, in, &out, &errOut); code != 0 || !strings.Contains(out.String(), "20009 BYTES") {
		t.Errorf("exit code %d, %q, %s", code, out.String(), errOut.String())
	}
}

// What is piped in and does not reach the machine is a failure.
func TestConsolePipedInVain(t *testing.T) {
	s := startSite(t, nil)
	p := newTerminal(t)
	end := p.sit(t.Context(), "--socket", s.socket(), "console", "srv01")
	p.shows(t, "srv01 login: ")
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"--socket", s.socket(), "console", "srv01"}, strings.NewReader("root\n"), &out, &errOut)
	if code != 1 || !strings.Contains(errOut.String(), "not all of the input was typed: ") || !strings.Contains(errOut.String(), " writes since ") {
		t.Errorf("exit code %d, %q, %s", code, out.String(), errOut.String())
	}
	io.WriteString(p.master, "~.")
	end(t)
}

// A daemon that restarts costs a remark; the seat is kept.
func TestConsoleOverRestart(t *testing.T) {
	s := startSite(t, nil)
	p := newTerminal(t)
	was := p.settings(t)
	end := p.sit(t.Context(), "--socket", s.socket(), "console", "srv01")
	p.shows(t, "srv01 login: ")
	s.down()
	p.shows(t, "trying again, ~. leaves")
	if err := s.up(); err != nil {
		t.Fatal(err)
	}
	p.shows(t, "connected again")
	io.WriteString(p.master, "hello\r")
	p.shows(t, "HELLO")
	io.WriteString(p.master, "~.")
	if code := end(t); code != 0 || p.settings(t) != was {
		t.Errorf("exit code %d, terminal %v", code, p.settings(t) == was)
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "consoles", "srv01.log"))
	if err != nil || !strings.Contains(string(log), " -- console is not kept any more: the box stops") {
		t.Errorf("%v; the log has no gap:\n%s", err, log)
	}
}
