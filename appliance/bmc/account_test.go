package bmc

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/appliance/bmc/bmctest"
)

// tries counts the passwords that arrive: a session over IPMI begins with RAKP message 1.
func tries(t *testing.T, s *sim) (port int, n *atomic.Int32) {
	n = &atomic.Int32{}
	var seen sync.Map // a slow simulator is asked again, in the same words
	return relayUDP(t, s, func(question bool, b []byte) bool {
		if question && len(b) > 5 && b[4] == 6 && b[5] == stepRAKP1 {
			if _, again := seen.LoadOrStore(string(b[16:]), true); !again {
				n.Add(1)
			}
		}
		return false
	}), n
}

// A refused password waits, longer each time; another one does not, and what somebody asks for is tried once.
func TestAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		remembered := &memory{}
		config := Config{User: "rescue", Memory: remembered}
		a := accountOf("bmc", config)
		held := func(when string, want bool) {
			t.Helper()
			if err := a.may("ipmi", "wrong"); errors.Is(err, ErrRefused) != want {
				t.Errorf("%s: %v", when, err)
			}
		}
		held("before any try", false)
		for n, wait := range []time.Duration{5 * time.Minute, 15 * time.Minute, 45 * time.Minute, 2 * time.Hour, 2 * time.Hour} {
			err := a.learn("ipmi", "wrong", ErrRefused)
			if again := time.Now().Add(wait).Local().Format(time.TimeOnly); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "tried again at "+again) ||
				strings.Contains(err.Error(), "wrong") || err.Error() != a.may("ipmi", "wrong").Error() {
				t.Errorf("refusal %d: %v", n+1, err)
			}
			time.Sleep(wait - time.Second)
			a = accountOf("bmc", config) // the box starts again
			held("a second too early", true)
			if err := a.may("redfish", "wrong"); err == nil {
				t.Error("tried over Redfish in the meantime")
			}
			if err := a.may("ipmi", "right"); err != nil {
				t.Errorf("another password: %v", err)
			}
			time.Sleep(time.Second)
			held("in time", false)
		}
		a.learn("ipmi", "wrong", ErrRefused)
		a.ask()
		held("asked within a minute", true)
		time.Sleep(refusedAgain)
		a.ask()
		held("asked", false)
		a.learn("ipmi", "wrong", ErrSilent)
		held("asked, and it was silent", false)
		a.learn("ipmi", "wrong", ErrRefused)
		held("asked once", true)
		r := *a.standing()
		r.At = time.Now().Add(24 * time.Hour)
		a.store(&r)
		held("from tomorrow", false)
		if a.learn("ipmi", "wrong", nil); a.standing() != nil {
			t.Errorf("taken, and still %+v", a.standing())
		}
		if a.learn("ipmi", "new", ErrRefused); a.standing().Tries != 1 {
			t.Errorf("another password begins with %d", a.standing().Tries)
		}
		if text, _ := json.Marshal(remembered.m); strings.Contains(string(text), `new"`) || strings.Contains(string(text), "wrong") {
			t.Errorf("remembered %s", text)
		}
	})
}

// What one protocol takes it goes on taking, also where the other refuses it, and the other is left alone all the same.
func TestAccountProtocols(t *testing.T) {
	a := &account{memory: broken{}}
	a.learn("redfish", "hashed", nil)
	a.learn("ipmi", "hashed", ErrRefused)
	a.learn("redfish", "hashed", nil)
	if err := a.may("redfish", "hashed"); err != nil {
		t.Errorf("Redfish: %v", err)
	}
	if err := a.may("ipmi", "hashed"); !errors.Is(err, ErrRefused) {
		t.Errorf("IPMI: %v", err)
	}
	if a.learn("redfish", "hashed", ErrRefused); a.standing().Tries != 2 {
		t.Errorf("refused by both: %+v", a.standing())
	}
	if err := a.may("redfish", "hashed"); err == nil {
		t.Error("tried over Redfish")
	}
	err := a.learn("redfish", "other", ErrRights)
	if !strings.Contains(err.Error(), whyRights) || errors.Is(err, ErrRights) {
		t.Errorf("rights: %v", err)
	}
}

// Power, console, services and audit send a wrong password once, all together, and two clients of one controller too.
func TestAccountShared(t *testing.T) {
	s := startSim(t, "")
	port, sent := tries(t, s)
	remembered := &memory{}
	password := "wrong"
	config := Config{Protocol: "ipmi", Host: "127.0.0.9", Port: port, User: "rescue", Memory: remembered,
		Password: func() (string, error) { return password, nil }}
	c, other := New(config), New(config)
	all := func() {
		t.Helper()
		for what, do := range map[string]func() error{
			"power":    func() error { _, err := c.Power(t.Context()); return err },
			"console":  func() error { _, err := c.Console(t.Context()); return err },
			"services": func() error { _, err := c.Services(t.Context()); return err },
			"another":  func() error { _, err := other.Power(t.Context()); return err },
		} {
			if err := do(); !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), password) {
				t.Errorf("%s: %v", what, err)
			}
		}
		found, err := (&Auditor{Targets: []Target{{Machine: "srv01", Config: config, Controller: c}}}).Run(t.Context(), "srv01", false)
		if text := textOf(found.Findings, checkFirmware); err != nil || !strings.Contains(text, "tried again at") {
			t.Errorf("audit: %s, %v", text, err)
		}
	}
	// The audit tries the factory's accounts, and that of cipher suite 0, which has no password.
	audited := int32(len(factories) + 1)
	all()
	if n := sent.Swap(0); n != 1+audited {
		t.Errorf("%d sessions were asked for, want one and the audit's %d", n, audited)
	}
	if err := c.Refusal(); !errors.Is(err, ErrRefused) {
		t.Errorf("what stands: %v", err)
	}
	password = "secret12"
	if state, err := c.Power(t.Context()); err != nil || state != Off || c.Refusal() != nil {
		t.Errorf("with the right one: %s, %v, %v", state, err, c.Refusal())
	}
}

// A wrong password over Redfish is not sent over IPMI for the console.
func TestAccountAcross(t *testing.T) {
	s := startSim(t, "")
	port, sent := tries(t, s)
	service, err := bmctest.New("xcc")
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	answering(t, l, service)
	c := New(Config{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, IPMIPort: port, User: "rescue", Password: fixed("wrong")})
	c.ipmi.Host = "127.0.0.9"
	for range 2 {
		_, powerErr := c.Power(t.Context())
		_, consoleErr := c.Console(t.Context())
		if !errors.Is(powerErr, ErrRefused) || !errors.Is(consoleErr, ErrRefused) {
			t.Errorf("%v; %v", powerErr, consoleErr)
		}
	}
	if n := sent.Load(); n != 0 {
		t.Errorf("it was sent over IPMI %d times", n)
	}
}

// Who waits for his turn at a controller that is busy may lose patience.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &IPMI{Host: "bmc", Password: fixed("x")}
		if err := i.turn.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if _, err := i.Power(short); !errors.Is(err, ErrSilent) || time.Since(begun) != time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		i.turn.leave()
	})
}
