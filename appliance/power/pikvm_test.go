package power

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestPiKVM(t *testing.T) {
	t.Parallel()
	k, memory := newKVMD(t), &pins{}
	s := open(t, k.config(memory))
	isState(t, s, Off)
	if err := s.On(t.Context()); err != nil || !k.power {
		t.Errorf("on: %v, power %v", err, k.power)
	}
	isState(t, s, On)
	if err := s.Cycle(t.Context()); err != nil || !k.power {
		t.Errorf("cycle: %v, power %v", err, k.power)
	}
	k.busy = 1
	if err := s.Off(t.Context()); err != nil || k.power {
		t.Errorf("off: %v, power %v", err, k.power)
	}
	if err := s.Cycle(t.Context()); err != nil || !k.power {
		t.Errorf("cycle of what is off: %v, power %v", err, k.power)
	}
	if got, want := k.heard(), "on off_hard on off_hard on"; got != want {
		t.Errorf("the PiKVM heard %q, want %q", got, want)
	}
	if len(memory.of) != 1 {
		t.Errorf("pinned: %v", memory.of)
	}
}

// A machine whose cycle nobody waits for any longer gets its power back.
func TestPiKVMCycleAbandoned(t *testing.T) {
	t.Parallel()
	k := newKVMD(t)
	k.power = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	k.pressed = cancel // whoever asked goes away once the power is off
	if err := open(t, k.config(&pins{})).Cycle(ctx); err != nil || !k.power {
		t.Errorf("cycle: %v, power %v", err, k.power)
	}
	if got := k.heard(); got != "off_hard on" {
		t.Errorf("the PiKVM heard %q", got)
	}
}

// A cycle whose first half was done, but not confirmed, is brought to its end.
func TestPiKVMCycleUnanswered(t *testing.T) {
	t.Parallel()
	k := newKVMD(t)
	k.power, k.mute = true, true
	if err := open(t, k.config(&pins{})).Cycle(t.Context()); err != nil || !k.power {
		t.Errorf("cycle: %v, power %v", err, k.power)
	}
	if got := k.heard(); got != "off_hard on" {
		t.Errorf("the PiKVM heard %q", got)
	}
}

func TestPiKVMRefuses(t *testing.T) {
	t.Parallel()
	k := newKVMD(t)
	c := k.config(&pins{})
	c.Password = secret("falsch88")
	_, err := open(t, c).State(t.Context())
	wantError(t, err, ErrRefused, "falsch88")

	c.Password = func() (string, error) { return "", errors.New("no such file") }
	if _, err := open(t, c).State(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without a password: %v", err)
	}
	c.Password = secret("geheim77\nX-Other: 1")
	if _, err := open(t, c).State(t.Context()); err == nil || strings.Contains(err.Error(), "geheim77") {
		t.Errorf("a password of two lines: %v", err)
	}
}

// Another certificate gets no password.
func TestPiKVMPinned(t *testing.T) {
	t.Parallel()
	k := newKVMD(t)
	host := strings.TrimPrefix(k.URL, "https://")
	memory := &pins{of: map[string]string{host: strings.Repeat("ab", 32)}}
	_, err := open(t, k.config(memory)).State(t.Context())
	wantError(t, err, ErrCertificate, "geheim77")
	if errors.Is(err, ErrSilent) || memory.of[host] != strings.Repeat("ab", 32) {
		t.Errorf("error %v, pinned %v", err, memory.of)
	}
}

// One that was replaced is pinned anew after the old one was forgotten, and only then.
func TestPiKVMForgotten(t *testing.T) {
	t.Parallel()
	k := newKVMD(t)
	host := strings.TrimPrefix(k.URL, "https://")
	memory := &pins{of: map[string]string{host: strings.Repeat("ab", 32)}}
	s := open(t, k.config(memory))
	_, err := s.State(t.Context())
	wantError(t, err, ErrCertificate, "geheim77")
	if !strings.Contains(err.Error(), "rescuebox bmc trust MACHINE --switch") {
		t.Errorf("the error does not say what to do: %v", err)
	}
	if of, err := s.(Forgetter).Forget(); err != nil || of != host {
		t.Fatalf("forgot %q, %v", of, err)
	}
	if _, err := s.State(t.Context()); err != nil || len(memory.of[host]) != 64 || memory.of[host] == strings.Repeat("ab", 32) {
		t.Errorf("error %v, pinned %v", err, memory.of)
	}
	if of, err := open(t, k.config(&pins{})).(Forgetter).Forget(); err != nil || of != "" {
		t.Errorf("one that was never seen: %q, %v", of, err)
	}
}

// What has no certificate says so; what has is forgotten by the port that it is asked at.
func TestShutdownForget(t *testing.T) {
	for _, c := range []struct {
		kind, host, want string
		err              error
	}{
		{"winrm", "DC01.corp", "dc01.corp:5986", nil},
		{"winrm", "dc01.corp:443", "dc01.corp:443", nil},
		{"winrm", "dc01.corp:5985", "", ErrUnsupported},
		{"ssh", "dc01.corp", "", ErrUnsupported},
	} {
		memory := &pins{of: map[string]string{"dc01.corp:5986": "ab", "dc01.corp:443": "cd"}}
		got, err := Shutdown{Kind: c.kind, Host: c.host, Pins: memory}.Forget()
		if got != c.want || !errors.Is(err, c.err) || c.want != "" && memory.of[c.want] != "" {
			t.Errorf("%s %s: %q, %v, %v", c.kind, c.host, got, err, memory.of)
		}
	}
}

// A redirect would take the password with it.
func TestPiKVMRedirects(t *testing.T) {
	t.Parallel()
	k := newKVMD(t)
	asked := false
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	k.Config.Handler = http.RedirectHandler(other.URL, http.StatusTemporaryRedirect)
	if _, err := open(t, k.config(&pins{})).State(t.Context()); err == nil || asked {
		t.Errorf("error %v, the other was asked: %v", err, asked)
	}
}

func TestPiKVMBadAnswers(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]error{
		`{"ok": true, "result": {"enabled": false, "leds": {"power": false}}}`: ErrUnsupported,
		`{"ok": true, "result": {"leds": {}}}`:                                 nil,
		`<html>`:                                                               nil,
		"[" + strings.Repeat("[", 10<<20):                                      nil,
		strings.Repeat(" ", 10<<20) + `{"ok": true, "result": {"leds": {"power": true}}}`: nil,
	} {
		k := newKVMD(t)
		k.said = said
		s, err := open(t, k.config(&pins{})).State(t.Context())
		if err == nil || s != Unknown || want != nil && !errors.Is(err, want) {
			t.Errorf("%.40s: state %s, %v", said, s, err)
		}
	}
}

// A PiKVM that says done and whose lamp stays as it was is not believed.
func TestPiKVMLies(t *testing.T) {
	t.Parallel()
	k := newKVMD(t)
	k.power, k.deaf = true, true
	err := open(t, k.config(&pins{})).Off(t.Context())
	wantError(t, err, ErrNotTaken, "geheim77")
}

func TestPiKVMSilent(t *testing.T) {
	t.Parallel()
	k := newKVMD(t)
	release := make(chan struct{})
	k.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"ok"`)
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	_, err := open(t, k.config(&pins{})).State(soon(t, 2*time.Second))
	wantError(t, err, ErrSilent, "geheim77")
}

func FuzzATX(f *testing.F) {
	f.Add([]byte(`{"ok": true, "result": {"busy": false, "enabled": true, "leds": {"hdd": false, "power": true}}}`))
	f.Add([]byte(`{"ok": true, "result": {"enabled": false}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if s, err := parseATX(body); (err == nil) == (s == Unknown) {
			t.Errorf("state %s, %v", s, err)
		}
	})
}
