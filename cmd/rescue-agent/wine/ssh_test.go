package wine

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

func newSigner(t *testing.T) ssh.Signer {
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

func (p *pc) ssh(t *testing.T, b *box) {
	p.clean(b)
	key := newSigner(t)
	b.mu.Lock()
	b.keys = string(ssh.MarshalAuthorizedKey(key.PublicKey()))
	b.mu.Unlock()
	if took := p.boot(b, false); took > time.Minute {
		t.Errorf("the menu came after %v", took)
	}
	got := b.wait("POST /agent/up")
	var report struct {
		Kind, User   string
		Port         int
		Addresses    []string
		System       string
		HostKeys     []string `json:"hostkeys"`
		HostKeyLines []string `json:"hostkey_lines"`
	}
	if err := json.Unmarshal([]byte(got.body), &report); err != nil || got.token != "Bearer tok3n" {
		t.Fatalf("%v: %q", err, got)
	}
	if report.Kind != "ssh" || report.User != "admin" || report.Port != 22 || len(report.Addresses) != 1 || report.Addresses[0] != machineIP ||
		len(report.HostKeyLines) != 1 || !strings.HasPrefix(report.System, "Windows PE ") {
		t.Fatalf("%s", got.body)
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(report.HostKeyLines[0]))
	if err != nil || report.HostKeys[0] != ssh.FingerprintSHA256(host) {
		t.Fatalf("%v: %s", err, got.body)
	}
	dial := func(auth ssh.Signer) (*ssh.Client, error) {
		return ssh.Dial("tcp", machineIP+":22", &ssh.ClientConfig{
			User: report.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(auth)}, HostKeyCallback: ssh.FixedHostKey(host), Timeout: patience,
		})
	}
	if c, err := dial(newSigner(t)); err == nil {
		c.Close()
		t.Error("another key lets one in")
	}
	c, err := dial(key)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Run("command", func(t *testing.T) { commands(t, c) })
	t.Run("shell", func(t *testing.T) { shell(t, c, false) })
	t.Run("terminal", func(t *testing.T) { shell(t, c, true) })
	t.Run("left behind", func(t *testing.T) { leftBehind(t, c) })
	t.Run("files", func(t *testing.T) { p.files(t, c) })
	t.Run("no forwarding", func(t *testing.T) { noForwarding(t, c, b.addr) })
}

func open(t *testing.T, c *ssh.Client) *ssh.Session {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func commands(t *testing.T, c *ssh.Client) {
	for _, tt := range []struct {
		command, in, out, err string
		code                  int
	}{
		{command: `echo here& echo there>&2& exit 7`, out: "here\r\n", err: "there\r\n", code: 7},
		{command: `cd`, out: "C:\\windows\\System32\r\n"},
		{command: `echo "a b" & exit 0`, out: "\"a b\" \r\n"},
		{command: `find "two"`, in: "one\r\ntwo\r\n", out: "two\r\n"},
		{command: `exit -1073741819`, code: 0xc0000005}, // as a program that crashes
	} {
		s := open(t, c)
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
			t.Errorf("%s: %q, %q, code %#x; want %q, %q, %#x", tt.command, &out, &errs, code, tt.out, tt.err, tt.code)
		}
	}
}

// shell types into cmd.exe.
func shell(t *testing.T, c *ssh.Client, tty bool) {
	s := open(t, c)
	if tty {
		if err := s.RequestPty("xterm", 25, 80, nil); err != nil {
			t.Fatal(err)
		}
	}
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &screen{}
	s.Stdout, s.Stderr = out, out
	if tty {
		// Wine 8 leaves a program in a pseudo console without standard handles;
		// Windows gives it those of its console.
		err = s.Start("cmd.exe <CONIN$ >CONOUT$ 2>&1")
	} else {
		err = s.Shell()
	}
	if err != nil {
		t.Fatal(err)
	}
	// Line by line: Wine's cmd.exe loses what is in a pipe behind the first.
	end := map[bool]string{true: "\r", false: "\r\n"}[tty]
	io.WriteString(in, "set /a 6*7000"+end)
	out.wait(t, "42000")
	io.WriteString(in, "exit 5"+end)
	err = s.Wait()
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("ended with %v", err)
	}
}

// screen is what an admin sees.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) wait(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		s.mu.Lock()
		text := s.text.String()
		s.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the admin sees %q", text)
		}
	}
}

// A program that is left running does not keep the session open.
func leftBehind(t *testing.T, c *ssh.Client) {
	done := make(chan error, 1)
	s := open(t, c)
	go func() { done <- s.Run(`start /b ping -n 600 127.0.0.1 & exit 4`) }()
	select {
	case err := <-done:
		var exit *ssh.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 4 {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Error("the session does not end")
	}
}

func (p *pc) files(t *testing.T, c *ssh.Client) {
	f, err := sftp.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := bytes.Repeat([]byte("driver\r\n\x00\x1a"), 50_000)
	for _, name := range []string{"/C:/up.bin", "up2.bin"} { // a drive's path, and one from the start on
		w, err := f.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if got, err := os.ReadFile(filepath.Join(p.Prefix, "drive_c", filepath.Base(name))); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes came, %v", name, len(got), err)
		}
	}
	r, err := f.Open("/C:/windows/system32/RemoteRecovery.exe")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	want, _ := os.ReadFile(p.System32("RemoteRecovery.exe"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("fetched %d bytes of %d, %v", len(got), len(want), err)
	}
	drives, err := f.ReadDir("/")
	if err != nil || len(drives) == 0 || !strings.EqualFold(drives[0].Name(), "c:") {
		t.Errorf("drives %v, %v", drives, err)
	}
}

func noForwarding(t *testing.T, c *ssh.Client, target string) {
	if conn, err := c.Dial("tcp", target); err == nil {
		conn.Close()
		t.Error("a connection was forwarded")
	}
	if l, err := c.Listen("tcp", "0.0.0.0:0"); err == nil {
		l.Close()
		t.Error("a port was opened")
	}
	if conn, err := net.DialTimeout("tcp", machineIP+":22", patience); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
}
