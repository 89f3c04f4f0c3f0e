package power

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// system is a machine with Debian's sshd, of which only what it would do is a script's.
type system struct {
	dir, host, hostKey string
	key                []byte // of the user root's
}

// newSystem starts sshd for each connection. does is the script that runs in place of the
// commands, which it has in $SSH_ORIGINAL_COMMAND; they are noted in the file "said".
func newSystem(t *testing.T, does string) *system {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("sshd needs root")
	}
	sshd := tool(t, "sshd", "openssh-server")
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	s := &system{dir: t.TempDir()}
	hostKey, host := newKey(t)
	key, user := newKey(t)
	s.key, s.hostKey = key, string(ssh.MarshalAuthorizedKey(host))
	force := program(t, filepath.Join(s.dir, "force"), "echo \"$SSH_ORIGINAL_COMMAND\" >>"+s.dir+"/said\n"+does+"\n")
	for name, text := range map[string]string{
		"host":       string(hostKey),
		"authorized": string(ssh.MarshalAuthorizedKey(user)),
		"conf": fmt.Sprintf("HostKey %s/host\nAuthorizedKeysFile %s/authorized\nForceCommand %s\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile none\n",
			s.dir, s.dir, force),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(s.dir, "host"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.host = serve(t, func(conn net.Conn) {
		file, err := conn.(*net.TCPConn).File()
		if err != nil {
			return
		}
		defer file.Close()
		cmd := exec.Command(sshd, "-i", "-f", filepath.Join(s.dir, "conf"), "-E", filepath.Join(s.dir, "log"))
		cmd.Stdin, cmd.Stdout = file, file
		_ = cmd.Run()
	})
	t.Cleanup(func() {
		if text, _ := os.ReadFile(filepath.Join(s.dir, "log")); t.Failed() {
			t.Logf("sshd: %s", text)
		}
	})
	return s
}

// serve gives each connection to handle, and waits for all at the end.
func serve(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer conn.Close(); handle(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
}

func newKey(t *testing.T) ([]byte, ssh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), key
}

func (s *system) shutdown() Shutdown {
	return Shutdown{Kind: "ssh", Host: s.host, User: "root", HostKey: s.hostKey, Key: func() ([]byte, error) { return s.key, nil }}
}

func (s *system) said() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "said"))
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", ")
}

func TestShutdownSSH(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		does, want string
		err        error
	}{
		"systemd":                    {"exit 0", "systemctl poweroff", nil},
		"only by sudo":               {`case $SSH_ORIGINAL_COMMAND in sudo*) ;; *) echo "Interactive authentication required." >&2; exit 1; esac`, "systemctl poweroff, sudo -n systemctl poweroff", nil},
		"no systemd":                 {`case $SSH_ORIGINAL_COMMAND in shutdown*) ;; *) exit 127; esac`, "systemctl poweroff, sudo -n systemctl poweroff, shutdown -h now", nil},
		"nothing is allowed":         {"exit 1", "systemctl poweroff, sudo -n systemctl poweroff, shutdown -h now, sudo -n shutdown -h now", ErrSystemUnable},
		"sshd ends in the shutdown":  {"kill -9 $PPID", "systemctl poweroff", nil},
		"much noise":                 {"yes | head -c 3000000; exit 0", "systemctl poweroff", nil},
		"its shell is of other mind": {"kill -9 $$", "systemctl poweroff, sudo -n systemctl poweroff, shutdown -h now, sudo -n shutdown -h now", ErrSystemUnable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, test.does)
			wantError(t, s.shutdown().Ask(t.Context()), test.err)
			if got := s.said(); got != test.want {
				t.Errorf("the system was told %q, want %q", got, test.want)
			}
		})
	}
}

func TestShutdownSSHRefused(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "exit 0")
	other, otherPublic := newKey(t)
	wrong := s.shutdown()
	wrong.Key = func() ([]byte, error) { return other, nil }
	wantError(t, wrong.Ask(t.Context()), ErrSystemRefused, "BEGIN")

	wrong = s.shutdown()
	wrong.HostKey = string(ssh.MarshalAuthorizedKey(otherPublic))
	wantError(t, wrong.Ask(t.Context()), ErrCertificate)
	wrong.HostKey = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDHbgkQrLHAIHk7Nm1z6pTQmZdGQ2hcYmvRb8+3yYxhzE5nIvuS2hKDJhXNl6dLTG9r3Fh0yXb0t8Wkqz1n0mHhUu2c1m0s6yqXkqk2y6b0tq2q0V2hJ7xY8J4nq3Wm0oZr4m5mQkF7hQb1z4m1n3n0m2m8m5m6m7m8m9m0mw=="
	if err := wrong.Ask(t.Context()); err == nil {
		t.Error("a host key of another type is taken")
	}
	wrong = s.shutdown()
	wrong.Key = func() ([]byte, error) { return []byte("geheim77"), nil }
	if err := wrong.Ask(t.Context()); err == nil || strings.Contains(err.Error(), "geheim77") {
		t.Errorf("a file without a key: %v", err)
	}
	if got := s.said(); got != "" {
		t.Errorf("the system was told %q", got)
	}
}

func TestShutdownSSHBadPeers(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(net.Conn){
		"hangs up": func(net.Conn) {},
		"silent":   func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1000)); _, _ = conn.Read(make([]byte, 1<<20)) },
		"garbage": func(conn net.Conn) {
			for range 1000 {
				if _, err := conn.Write(make([]byte, 10000)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, public := newKey(t)
			s := Shutdown{Kind: "ssh", Host: serve(t, handle), User: "root", HostKey: string(ssh.MarshalAuthorizedKey(public)), Key: func() ([]byte, error) { return key, nil }}
			start := time.Now()
			wantError(t, s.Ask(soon(t, 3*time.Second)), ErrSystemSilent)
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// A system that takes the login and then hangs ends with our patience.
func TestShutdownSSHHangs(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "exec sleep 20")
	start := time.Now()
	err := s.shutdown().Ask(soon(t, 4*time.Second))
	if took := time.Since(start); !errors.Is(err, ErrSystemSilent) || took > 15*time.Second {
		t.Errorf("error %v after %v", err, took)
	}
}
