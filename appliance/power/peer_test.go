package power

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tool is a program that a test needs as its peer.
func tool(t *testing.T, name, debian string) string {
	t.Helper()
	for _, dir := range append(strings.Split(os.Getenv("PATH"), ":"), "/usr/sbin", "/sbin") {
		if p, err := exec.LookPath(dir + "/" + name); err == nil {
			return p
		}
	}
	missing(t, name, debian)
	return ""
}

// debianPython is the one that Debian's modules are for; another may stand before it in PATH.
func debianPython(t *testing.T) string {
	t.Helper()
	const python = "/usr/bin/python3"
	if _, err := os.Stat(python); err != nil {
		missing(t, python, "python3")
	}
	return python
}

func missing(t *testing.T, what, debian string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", what, debian)
	}
	t.Skipf("%s is missing: apt-get install %s", what, debian)
}

// pins is a memory of certificates.
type pins struct {
	mu sync.Mutex
	of map[string]string
}

func (p *pins) Get(host string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of[host]
}

func (p *pins) Put(host, sha256 string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = map[string]string{}
	}
	p.of[host] = sha256
	return nil
}

// log is what a peer writes while it runs.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// program writes one that is run at once. A child of another test that is forked while the file is open holds it open for
// a moment, and it cannot be run meanwhile (golang/go#22315).
func program(t *testing.T, name, text string) string {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// till waits for something, generously: the machine may be slow.
func till(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func secret(s string) func() (string, error) { return func() (string, error) { return s, nil } }

// wantError is an error of a kind that keeps the secrets.
func wantError(t *testing.T, err, want error, secrets ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	for _, s := range secrets {
		if err != nil && strings.Contains(err.Error(), s) {
			t.Errorf("%q is in the error: %v", s, err)
		}
	}
	if err != nil && len(err.Error()) > 2000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// isState asks the peer and us.
func isState(t *testing.T, s Switch, want State) {
	t.Helper()
	if got, err := s.State(t.Context()); err != nil || got != want {
		t.Errorf("state %s, %v; want %s", got, err, want)
	}
}

// kvmd answers as a PiKVM's daemon does.
type kvmd struct {
	*httptest.Server
	mu      sync.Mutex
	power   bool
	deaf    bool // presses reach nothing
	mute    bool // presses are done and not answered, once
	busy    int  // how often it answers that it presses already
	presses []string
	pressed func() // is told of each press
	said    string // in place of its own answer to GET /api/atx
}

func newKVMD(t *testing.T) *kvmd {
	k := &kvmd{}
	k.Server = httptest.NewTLSServer(k)
	t.Cleanup(k.Close)
	return k
}

func (k *kvmd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch user, password := r.Header.Get("X-KVMD-User"), r.Header.Get("X-KVMD-Passwd"); {
	case user == "":
		http.Error(w, `{"ok": false, "result": {"error": "UnauthorizedError"}}`, http.StatusUnauthorized)
	case user != "admin" || password != "geheim77":
		http.Error(w, `{"ok": false, "result": {"error": "ForbiddenError"}}`, http.StatusForbidden)
	case r.Method == "GET" && r.URL.Path == "/api/atx" && k.said != "":
		fmt.Fprint(w, k.said)
	case r.Method == "GET" && r.URL.Path == "/api/atx":
		fmt.Fprintf(w, `{"ok": true, "result": {"busy": false, "enabled": true, "leds": {"hdd": false, "power": %v}}}`, k.power)
	case r.Method == "POST" && r.URL.Path == "/api/atx/power" && k.busy > 0:
		k.busy--
		http.Error(w, `{"ok": false, "result": {"error": "AtxIsBusyError"}}`, http.StatusConflict)
	case r.Method == "POST" && r.URL.Path == "/api/atx/power":
		if k.press(r.URL.Query().Get("action")); k.mute {
			k.mute = false
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, `{"ok": true, "result": {}}`)
	default:
		http.NotFound(w, r)
	}
}

// press does as kvmd: nothing where the lamp is as wanted.
func (k *kvmd) press(action string) {
	k.presses = append(k.presses, action)
	if k.pressed != nil {
		k.pressed()
	}
	if !k.deaf {
		k.power = action == "on"
	}
}

func (k *kvmd) heard() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Join(k.presses, " ")
}

func (k *kvmd) config(memory Pins) Config {
	return Config{Kind: "pikvm", URL: k.URL, User: "admin", Password: secret("geheim77"), Pins: memory}
}

// open makes a switch of a configuration that is right.
func open(t *testing.T, c Config) Switch {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// soon bounds a test's own patience, not the product's.
func soon(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// patient is short where silence is wanted, and long where an answer is.
func patient(t *testing.T, want error) context.Context {
	if want == ErrSystemSilent {
		return soon(t, 3*time.Second)
	}
	return soon(t, time.Minute)
}
