package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// box stands for the rescue box: it answers from a list, the last answer for ever.
type box struct {
	mu      sync.Mutex
	keys    []answer
	up      []answer
	log     []string // requests with their Authorization
	reports []string
}

type answer struct {
	status int
	body   string
}

func (b *box) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	b.log = append(b.log, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
	list := &b.keys
	if r.URL.Path == "/agent/up" {
		list = &b.up
		b.reports = append(b.reports, string(body))
	}
	a := (*list)[0]
	if len(*list) > 1 {
		*list = (*list)[1:]
	}
	w.WriteHeader(a.status)
	io.WriteString(w, a.body)
}

// machine is a machine whose addresses a test changes.
type machine struct {
	mu        sync.Mutex
	addresses []string
	ready     bool
}

func (m *machine) set(ready bool, addresses ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready, m.addresses = ready, addresses
}

func (m *machine) Addresses() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addresses
}

func (m *machine) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

func (m *machine) Facts() (report, error) {
	return report{
		Kind: "ssh", User: "root", Port: 22,
		HostKeys: []string{"SHA256:abc"}, HostKeyLines: []string{"ssh-ed25519 AAAA"},
		Serial: "CZ1234", UUID: "4c4c4544-0042-3510-8054-b4c04f564432", Hostname: "srv01",
		System: "Debian GNU/Linux 12 (bookworm)", Kernel: "6.1.0-56-amd64", SecureBoot: "enabled",
	}, nil
}

// running is an agent at work.
type running struct {
	*agent
	box     *box
	machine *machine
	console *buffer
}

// buffer is a console that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func start(t *testing.T, b *box) *running {
	t.Helper()
	srv := httptest.NewServer(b)
	u, _ := url.Parse(srv.URL)
	r := &running{box: b, machine: &machine{}, console: &buffer{}}
	r.agent = &agent{
		order: order{Server: u, Token: "secret", Machine: "srv01"}, client: srv.Client(),
		keysFile: filepath.Join(t.TempDir(), ".ssh", "authorized_keys"), system: r.machine,
		out: io.Discard, console: r.console,
		poll: 5 * time.Millisecond, minDelay: time.Millisecond, maxDelay: 5 * time.Millisecond,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent ended with %v", err)
		}
		srv.Close()
	})
	return r
}

// until waits for what the peer sees.
func until(t *testing.T, what string, seen func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !seen(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func (r *running) reports() []string {
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	return append([]string(nil), r.box.reports...)
}

const golden = `{"kind":"ssh","user":"root","port":22,"addresses":["192.168.77.100"],"hostkeys":["SHA256:abc"],` +
	`"hostkey_lines":["ssh-ed25519 AAAA"],"serial":"CZ1234","uuid":"4c4c4544-0042-3510-8054-b4c04f564432",` +
	`"hostname":"srv01","system":"Debian GNU/Linux 12 (bookworm)","kernel":"6.1.0-56-amd64","secure_boot":"enabled"}`

const keys = "ssh-ed25519 AAAAC3 admin@kazan\n"

func TestReport(t *testing.T) {
	b := &box{keys: []answer{{503, "starting"}, {200, keys}}, up: []answer{{500, "busy"}, {500, "busy"}, {204, ""}}}
	r := start(t, b)
	time.Sleep(20 * time.Millisecond)
	if got := r.reports(); got != nil {
		t.Fatalf("reported before sshd listened: %q", got)
	}
	r.machine.set(true, "192.168.77.100")
	until(t, "the console says that the machine is up", func() bool {
		return strings.Contains(r.console.String(), "rescuebox: rescue system of srv01 is up, ticket sent\r\n")
	})
	got := r.reports()
	if len(got) != 3 || got[2] != golden {
		t.Errorf("reports %q\nwant the third to be %s", got, golden)
	}
	for _, want := range []string{"You need not do anything", "ssh root@192.168.77.100", "host key SHA256:abc"} {
		if !strings.Contains(r.console.String(), want) {
			t.Errorf("the console does not say %q:\n%s", want, r.console)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.log {
		if line != "GET /agent/keys Bearer secret" && line != "POST /agent/up Bearer secret" {
			t.Errorf("the box saw %q", line)
		}
	}
	if strings.Contains(r.console.String(), "secret") {
		t.Error("the token is on the console")
	}
}

func TestKeysFile(t *testing.T) {
	r := start(t, &box{keys: []answer{{200, keys}}, up: []answer{{204, ""}}})
	r.machine.set(true, "192.168.77.100")
	until(t, "a report", func() bool { return len(r.reports()) == 1 })
	got, err := os.ReadFile(r.keysFile)
	if err != nil || string(got) != keys {
		t.Errorf("authorized_keys %q, %v", got, err)
	}
	info, err := os.Stat(r.keysFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("authorized_keys has mode %v, %v", info.Mode(), err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(r.keysFile), "*"))
	if len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

func TestReportsAgainWhenAddressesChange(t *testing.T) {
	r := start(t, &box{keys: []answer{{200, keys}}, up: []answer{{204, ""}}})
	r.machine.set(true, "192.168.77.100")
	until(t, "the first report", func() bool { return len(r.reports()) == 1 })
	time.Sleep(30 * time.Millisecond)
	if n := len(r.reports()); n != 1 {
		t.Errorf("%d reports though nothing changed", n)
	}
	r.machine.set(true) // the cable is pulled
	time.Sleep(20 * time.Millisecond)
	r.machine.set(true, "192.168.77.101", "10.0.0.7")
	until(t, "the second report", func() bool { return len(r.reports()) == 2 })
	if got := r.reports()[1]; !strings.Contains(got, `"addresses":["192.168.77.101","10.0.0.7"]`) {
		t.Errorf("second report %s", got)
	}
}

// A box without keys for us still gets the report, and keys that come later are written.
func TestKeysRefused(t *testing.T) {
	r := start(t, &box{keys: []answer{{403, "no"}, {403, "no"}, {200, "\n"}, {200, keys}}, up: []answer{{204, ""}}})
	r.machine.set(true, "192.168.77.100")
	until(t, "the keys that came later", func() bool {
		b, _ := os.ReadFile(r.keysFile)
		return string(b) == keys
	})
	if n := len(r.reports()); n != 1 {
		t.Errorf("%d reports, want one", n)
	}
	for _, want := range []string{"nobody can log in by SSH yet", "the box gives no SSH keys of admins"} {
		if n := strings.Count(r.console.String(), want); n != 1 {
			t.Errorf("the console says %d times %q:\n%s", n, want, r.console)
		}
	}
}

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

func TestAgentNeedsServer(t *testing.T) {
	if err := run(context.Background(), []string{"nonsense", "x", "y"}); err == nil {
		t.Error("nonsense was taken")
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
	if src := l.source(); src != "127.0.0.1" {
		t.Errorf("our address on the way to the box: %s", src)
	}
	if _, err := (&linux{root: t.TempDir()}).Facts(); err == nil {
		t.Error("a report without a host key")
	}
}

func TestFirstOnce(t *testing.T) {
	got := fmt.Sprint(firstOnce("c", []string{"a", "a", "b", "c", "c"}))
	if got != "[c a b]" {
		t.Error(got)
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
