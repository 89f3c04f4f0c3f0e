package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// sh stands for cmd.exe.
type sh struct{ terminal bool }

func (s sh) command(command string) *exec.Cmd {
	if command == "" {
		return exec.Command("/bin/sh")
	}
	return exec.Command("/bin/sh", "-c", command)
}

func (s sh) Pipes(command string) (*Process, error) { return Pipes(s.command(command)) }

func (s sh) Terminal(command string, size Size) (*Process, error) {
	if !s.terminal {
		return nil, ErrNoTerminal
	}
	cmd := s.command(command)
	cmd.Env = append(os.Environ(), fmt.Sprintf("SIZE=%dx%d", size.Columns, size.Rows))
	return Pipes(cmd)
}

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// site is a server and the admin's key.
type site struct {
	*Server
	addr string
	key  ssh.Signer
}

func start(t *testing.T, system System) *site {
	t.Helper()
	s := &site{Server: &Server{HostKey: signer(t), Keys: &Keys{}, System: system, Home: t.TempDir()}, key: signer(t)}
	if n := s.Keys.Set(append([]byte("# admins\n"), ssh.MarshalAuthorizedKey(s.key.PublicKey())...)); n != 1 {
		t.Fatalf("%d keys", n)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) dial(auth ...ssh.AuthMethod) (*ssh.Client, error) {
	return ssh.Dial("tcp", s.addr, &ssh.ClientConfig{
		User: "admin", Auth: auth, HostKeyCallback: ssh.FixedHostKey(s.HostKey.PublicKey()), Timeout: 20 * time.Second,
	})
}

func (s *site) login(t *testing.T) *ssh.Client {
	t.Helper()
	c, err := s.dial(ssh.PublicKeys(s.key))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func session2(t *testing.T, c *ssh.Client) *ssh.Session {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCommand(t *testing.T) {
	c := start(t, sh{}).login(t)
	for _, tt := range []struct {
		command, in, out, err string
		code                  int
	}{
		{command: "echo here; echo there >&2; exit 7", out: "here\n", err: "there\n", code: 7},
		{command: "tr a-z A-Z", in: "all of it", out: "ALL OF IT"},
		{command: "true"},
		{command: "head -c 3000000 /dev/zero | tr '\\0' x", out: strings.Repeat("x", 3000000)},
	} {
		s := session2(t, c)
		var out, errs bytes.Buffer
		s.Stdin, s.Stdout, s.Stderr = strings.NewReader(tt.in), &out, &errs
		err := s.Run(tt.command)
		code := 0
		var exit *ssh.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitStatus()
		} else if err != nil {
			t.Errorf("%s: %v", tt.command, err)
		}
		if out.String() != tt.out || errs.String() != tt.err || code != tt.code {
			t.Errorf("%s: %.100q, %.100q, code %d", tt.command, &out, &errs, code)
		}
	}
}

// slow is a line that stands still for a while before it carries anything.
type slow struct{ carried int }

func (s *slow) Write(p []byte) (int, error) {
	if s.carried == 0 {
		time.Sleep(2 * drain)
	}
	s.carried += len(p)
	return len(p), nil
}

// What a program wrote arrives whole, though the admin's line stood still when it ended. Two MiB are on
// their way then, as SSH allows; the rest is in the program's pipe.
func TestCommandOnSlowLine(t *testing.T) {
	t.Parallel()
	s := session2(t, start(t, sh{}).login(t))
	var out slow
	s.Stdout = &out
	const all = 2<<20 + 50_000
	if err := s.Run(fmt.Sprintf("head -c %d /dev/zero", all)); err != nil || out.carried != all {
		t.Errorf("%d bytes of %d came, %v", out.carried, all, err)
	}
}

// What a program left behind does not keep the session.
func TestCommandLeavesAnother(t *testing.T) {
	c := start(t, sh{}).login(t)
	begin := time.Now()
	out, err := session2(t, c).Output("echo started; sleep 300 & echo $! >&2")
	if err != nil || string(out) != "started\n" {
		t.Errorf("%q, %v", out, err)
	}
	if d := time.Since(begin); d > time.Minute {
		t.Errorf("it took %v", d)
	}
}

// A session that the admin closes does not run on.
func TestCloseKills(t *testing.T) {
	c := start(t, sh{}).login(t)
	dir := t.TempDir()
	s := session2(t, c)
	file := filepath.Join(dir, "alive")
	if err := s.Start("echo > " + file + "; exec sleep 300"); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(file); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.Close()
	c.Close() // and the server's cleanup waits for all it started
}

// Without a terminal of the system the keys are ours: shown, corrected, line by line.
func TestCookedShell(t *testing.T) {
	c := start(t, sh{}).login(t)
	s := session2(t, c)
	if err := s.RequestPty("xterm", 25, 80, nil); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	var out bytes.Buffer
	s.Stdout = &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "echo onf\x7fe\x7f\x7fe two\rwrong\x03exit 3\r")
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		// sh reads a carriage return as part of a word: "exit 3\r" is refused
		t.Logf("ended with %v", err)
	}
	if !strings.HasPrefix(out.String(), "echo onf\b \be\b \b\b \be two\r\n") || !strings.Contains(out.String(), "oe two") {
		t.Errorf("%q", &out)
	}
}

func TestTerminal(t *testing.T) {
	c := start(t, sh{terminal: true}).login(t)
	s := session2(t, c)
	if err := s.RequestPty("xterm", 43, 132, nil); err != nil {
		t.Fatal(err)
	}
	out, err := s.Output("echo $SIZE")
	if err != nil || string(out) != "132x43\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestFiles(t *testing.T) {
	s := start(t, sh{})
	c, err := sftp.NewClient(s.login(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	content := bytes.Repeat([]byte("driver"), 100_000)
	f, err := c.Create("up")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if got, err := os.ReadFile(filepath.Join(s.Home, "up")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
	f, err = c.Open(filepath.Join(s.Home, "up"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes fetched, %v", len(got), err)
	}
}

func TestStrangers(t *testing.T) {
	s := start(t, sh{})
	for name, auth := range map[string][]ssh.AuthMethod{
		"another key": {ssh.PublicKeys(signer(t))}, "a password": {ssh.Password("admin")}, "nothing": nil,
		"questions": {ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })},
	} {
		if c, err := s.dial(auth...); err == nil {
			c.Close()
			t.Errorf("%s lets one in", name)
		}
	}
	var many []ssh.Signer
	for range 2 * maxTries {
		many = append(many, signer(t))
	}
	if c, err := s.dial(ssh.PublicKeys(append(many, s.key)...)); err == nil {
		c.Close()
		t.Error("so many tries let one in")
	}
	s.Keys.Set(nil)
	if c, err := s.dial(ssh.PublicKeys(s.key)); err == nil {
		c.Close()
		t.Error("a key that was withdrawn lets one in")
	}
}

// Nothing is forwarded, in no direction.
func TestNoForwarding(t *testing.T) {
	victim, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	c := start(t, sh{}).login(t)
	if conn, err := c.Dial("tcp", victim.Addr().String()); err == nil {
		conn.Close()
		t.Error("a connection was forwarded")
	} else if !strings.Contains(err.Error(), "no port forwarding") {
		t.Error(err)
	}
	if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
		t.Error("a port of the machine was opened")
	}
	for _, name := range []string{"auth-agent-req@openssh.com", "x11-req", "env"} {
		if ok, err := session2(t, c).SendRequest(name, true, ssh.Marshal(struct{ A, B string }{"A", "B"})); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if err := session2(t, c).RequestSubsystem("netconf"); err == nil {
		t.Error("a subsystem that there is not")
	}
}

func TestBounds(t *testing.T) {
	s := start(t, sh{})
	c := s.login(t)
	for i := range maxSessions {
		if _, err := c.NewSession(); err != nil {
			t.Fatalf("session %d: %v", i+1, err)
		}
	}
	if _, err := c.NewSession(); err == nil {
		t.Error("there is no end of sessions")
	}
	var idle []net.Conn
	for range maxStrangersPer {
		n, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		greeting := make([]byte, 5)
		if _, err := io.ReadFull(n, greeting); err != nil {
			t.Fatal(err)
		}
		idle = append(idle, n)
	}
	if _, err := s.dial(ssh.PublicKeys(s.key)); err == nil {
		t.Error("there is no end of strangers")
	}
	for _, n := range idle {
		n.Close()
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := s.dial(ssh.PublicKeys(s.key))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal("strangers that are gone keep the admin out")
		}
	}
}

func TestEvents(t *testing.T) {
	var mu sync.Mutex
	var events []string
	s := start(t, sh{})
	s.Event = func(text string) { mu.Lock(); events = append(events, text); mu.Unlock() }
	s.login(t).Close()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		got := strings.Join(events, ", ")
		mu.Unlock()
		if got == "an administrator has logged in from 127.0.0.1, an administrator from 127.0.0.1 has logged out" {
			return
		}
		if time.Now().After(end) {
			t.Fatal(got)
		}
	}
}

func TestKeys(t *testing.T) {
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer(t).PublicKey())))
	for text, want := range map[string]int{
		"": 0, "nonsense\n" + line: 1, line + " admin@kazan\r\n# x\n\n" + line: 2,
		"no-port-forwarding " + line: 1, `command="uptime" ` + line: 0, `from="10.0.0.0/8" ` + line: 0, "restrict " + line: 0,
		strings.Repeat(line+"\n", maxKeys+1): maxKeys,
	} {
		if got := new(Keys).Set([]byte(text)); got != want {
			t.Errorf("%.60q: %d keys, want %d", text, got, want)
		}
	}
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvD6bDpXfHYVQ3rUvGqHc5XTQOQlFEfJYW2Uv2mQ0nn a\nrestrict ssh-rsa AAAA"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if n := new(Keys).Set(text); n > maxKeys || n > bytes.Count(text, []byte("\n"))+1 {
			t.Errorf("%d keys", n)
		}
	})
}

// discard takes what the program is given.
type discard struct{ bytes.Buffer }

func (*discard) Close() error { return nil }

func TestCooked(t *testing.T) {
	var program discard
	var client bytes.Buffer
	c := &cooked{program: &program, client: &client}
	if _, err := c.Write([]byte("dir\r")); err != nil {
		t.Fatal(err)
	}
	c.output().Write([]byte("dir\r\n file\nend\r\n"))
	if got := client.String(); got != "dir\r\n file\r\nend\r\n" {
		t.Errorf("the client sees %q", got)
	}
	client.Reset()
	c.Write([]byte("x\n"))
	c.output().Write([]byte("other"))
	if got := client.String(); got != "x\r\nother" {
		t.Errorf("the client sees %q", got)
	}
	if got := program.String(); got != "dir\r\nx\r\n" {
		t.Errorf("the program gets %q", got)
	}
	if _, err := c.Write([]byte{keyEnd}); err == nil {
		t.Error("no end")
	}
}

func FuzzCooked(f *testing.F) {
	f.Add([]byte("dir\b\x7f\r"), []byte("dir\r\nx\n"))
	f.Fuzz(func(t *testing.T, typed, shown []byte) {
		var program discard
		var client bytes.Buffer
		c := &cooked{program: &program, client: &client}
		c.Write(typed)
		c.output().Write(shown)
		for _, line := range strings.Split(program.String(), "\r\n") {
			if len(line) > maxLine || strings.ContainsAny(line, "\b\x03\x7f") {
				t.Errorf("the program gets %q", line)
			}
		}
	})
}
