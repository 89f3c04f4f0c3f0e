package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The box goes away and comes back at another time: nobody is at hand to restart the agent.
func TestBoxAway(t *testing.T) {
	addr, open := closedPort(t)
	b := &box{keys: []answer{{200, keys}}, up: []answer{{204, ""}}}
	r := start(t, b)
	r.order.Server.Host = addr // before there is an address nothing is sent
	r.machine.set(true, "192.168.77.100")
	until(t, "a complaint", func() bool { return strings.Contains(r.console.String(), "connection refused") })
	srv := &http.Server{Handler: b}
	go srv.Serve(open())
	defer srv.Close()
	until(t, "a report to the box that came back", func() bool { return len(r.reports()) == 1 })
	if n := strings.Count(r.console.String(), "connection refused"); n != 1 {
		t.Errorf("%d complaints of one trouble", n)
	}
}

func TestAgentNeedsServer(t *testing.T) {
	if err := run(context.Background(), []string{"nonsense", "x", "y"}); err == nil {
		t.Error("nonsense was taken")
	}
}

// closedPort is a port of this machine that nobody listens at, and nobody else
// can take, until it is opened.
func closedPort(t *testing.T) (addr string, open func() net.Listener) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "closed port")
	t.Cleanup(func() { f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port), func() net.Listener {
		if err := unix.Listen(fd, 16); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// sshd never reads half of a file, and nobody else reads any of it.
func TestWriteKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".ssh", "authorized_keys")
	for _, text := range []string{"old\n", keys} {
		if err := writeKeys(file, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != keys {
		t.Errorf("authorized_keys %q, %v", got, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("authorized_keys has mode %v, %v", info.Mode(), err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*"))
	if len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

// Secure Boot as the firmware's variable says it: "enabled" and "disabled" are
// facts the box goes by, so anything else is "not known".
func TestSecureBoot(t *testing.T) {
	const name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	for _, tt := range []struct{ name, file, content, want string }{
		{"enabled", name, "\x06\x00\x00\x00\x01", "enabled"},
		{"disabled", name, "\x06\x00\x00\x00\x00", "disabled"},
		{"damaged", name, "\x06\x00\x00\x00", ""},
		{"UEFI without it", "BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x07\x00\x00\x00\x00\x00", "disabled"},
		{"variables not to be had", "", "", ""},
	} {
		root := t.TempDir()
		vars := filepath.Join(root, "sys/firmware/efi/efivars")
		if err := os.MkdirAll(vars, 0o755); err != nil {
			t.Fatal(err)
		}
		if tt.file != "" {
			if err := os.WriteFile(filepath.Join(vars, tt.file), []byte(tt.content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := (&linux{root: root}).secureBoot(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := (&linux{root: t.TempDir()}).secureBoot(); got != "" {
		t.Errorf("BIOS: %q", got)
	}
}

// The machine's own side: DMI, names, host keys, and a server that answers like sshd.
func TestLinux(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAA root@x\n",
		"etc/os-release":                   "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
		"sys/class/dmi/id/product_serial":  "CZ1234 \n",
		"sys/class/dmi/id/product_uuid":    "4C4C4544-0042-3510-8054-B4C04F564432\n",
		"proc/sys/kernel/osrelease":        "6.1.0-56-amd64\n",
	} {
		file := filepath.Join(root, name)
		os.MkdirAll(filepath.Dir(file), 0o755)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := &linux{root: root, server: "127.0.0.1"}
	r, err := l.Facts()
	r.Hostname = "" // of the machine that runs this test
	got := fmt.Sprint(r, err)
	want := "{ssh root 22 [] [SHA256:cJ6AyISHokEeHuTfufIqhhSS0gxHZRUMDHlKvXD4FHw] [ssh-ed25519 AAAA] CZ1234" +
		" 4c4c4544-0042-3510-8054-b4c04f564432  Debian GNU/Linux 12 (bookworm) 6.1.0-56-amd64 } <nil>"
	if got != want {
		t.Errorf("\ngot  %s\nwant %s", got, want)
	}
	if src := source(l.server); src != "127.0.0.1" {
		t.Errorf("our address on the way to the box: %s", src)
	}
	if _, err := (&linux{root: t.TempDir()}).Facts(); err == nil {
		t.Error("a report without a host key")
	}
}

func TestReady(t *testing.T) {
	for greeting, want := range map[string]bool{"SSH-2.0-OpenSSH_9.2p1\r\n": true, "HTTP/1.1 400\r\n": false, "": false} {
		srv, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := srv.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, greeting)
			c.Close()
		}()
		if got := (&linux{sshd: srv.Addr().String()}).Ready(); got != want {
			t.Errorf("greeting %q: ready %v", greeting, got)
		}
		srv.Close()
	}
}

// Every console gets the text, and a second serial port that is one; a console that
// does not exist keeps it from none.
func TestConsoles(t *testing.T) {
	for _, tt := range []struct{ active, kind, want string }{
		{"tty0 ttyUSB7 ttyS0\n", "0\n", "tty1 ttyS0"},
		{"tty0 ttyS0\n", "4\n", "tty1 ttyS0 ttyS1"},
		{"tty0 ttyS1\n", "4\n", "tty1 ttyS1"},
		{"tty0\n", "", "tty1"},
	} {
		dir, sys := t.TempDir(), t.TempDir()
		for file, text := range map[string]string{"console/active": tt.active, "ttyS1/type": tt.kind} {
			os.MkdirAll(filepath.Dir(filepath.Join(sys, file)), 0o755)
			if text != "" {
				os.WriteFile(filepath.Join(sys, file), []byte(text), 0o600)
			}
		}
		var got []string
		for _, name := range []string{"tty1", "ttyS0", "ttyS1"} {
			os.WriteFile(filepath.Join(dir, name), nil, 0o600)
		}
		io.WriteString(consoles{dir: dir, sys: sys}, "hello")
		for _, name := range []string{"tty1", "ttyS0", "ttyS1"} {
			if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) == "hello" {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q, port of type %q: %v, want %s", tt.active, tt.kind, got, tt.want)
		}
	}
}
