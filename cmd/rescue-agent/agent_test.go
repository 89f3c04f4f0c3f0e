package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
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
	keys    *buffer
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

// set makes p all that is there.
func (b *buffer) set(p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
	b.b.Write(p)
	return nil
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
	r := &running{box: b, machine: &machine{}, console: &buffer{}, keys: &buffer{}}
	r.agent = &agent{
		boxClient: boxClient{order: order{Server: u, Token: "secret", Machine: "srv01"}, client: srv.Client()},
		keep:      r.keys.set, system: r.machine,
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
	for end := time.Now().Add(30 * time.Second); !seen(); time.Sleep(time.Millisecond) {
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
	if got := r.keys.String(); got != keys {
		t.Errorf("keys %q", got)
	}
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
		return r.keys.String() == keys
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

func TestFirstOnce(t *testing.T) {
	got := fmt.Sprint(firstOnce("c", []string{"a", "a", "b", "c", "c"}))
	if got != "[c a b]" {
		t.Error(got)
	}
}
