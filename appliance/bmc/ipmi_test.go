package bmc

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestIPMIPower(t *testing.T) {
	s := startSim(t, "")
	c, ctx := s.client(), t.Context()
	for _, step := range []struct {
		do   Action
		want State
	}{{PowerOn, On}, {PowerOff, Off}, {Cycle, On}, {Reset, On}} {
		if err := c.Do(ctx, step.do); err != nil {
			t.Fatalf("%s: %v", step.do, err)
		}
		waitFor(t, "power "+string(step.want), func() bool {
			state, err := c.Power(ctx)
			return err == nil && state == step.want
		})
		if got := s.ipmitool(t, "chassis", "power", "status"); !strings.Contains(got, "is "+string(step.want)) {
			t.Errorf("after %s ipmitool says %q", step.do, got)
		}
	}
	if err := c.Do(ctx, SoftOff); err != nil {
		t.Errorf("soft: %v", err)
	}
	if !strings.Contains(s.get(t, "log"), "set shutdown") {
		t.Errorf("nobody was asked to shut down: %s", s.get(t, "log"))
	}
	if info, err := c.Info(ctx); err != nil || info.Protocol != "ipmi" || info.Firmware == "" {
		t.Errorf("%+v, %v", info, err)
	}
}

// The order of an ordered start is: keep the flags, set them, read them, then power.
func TestIPMIStart(t *testing.T) {
	s := startSim(t, "")
	next, err := s.client().Start(t.Context(), Boot{Device: Network, UEFI: true})
	if err != nil || next.Device != Network {
		t.Fatalf("%+v, %v", next, err)
	}
	waitFor(t, "power on", func() bool { return s.get(t, "power") == "1" })
	log := s.get(t, "log")
	boot, power := strings.Index(log, "set boot pxe"), strings.Index(log, "set power 1")
	if boot < 0 || power < boot {
		t.Errorf("the server got: %s", log)
	}
	if got, err := s.client().Next(t.Context()); err != nil || got.Device != Network {
		t.Errorf("next: %+v, %v", got, err)
	}
	if got := s.ipmitool(t, "chassis", "bootparam", "get", "5"); !strings.Contains(got, "Force PXE") {
		t.Errorf("ipmitool reads %s", got)
	}
	if _, err := s.client().Set(t.Context(), Boot{Device: Usual}); err != nil {
		t.Error(err)
	}
	if _, err := s.client().Set(t.Context(), Boot{Device: NetworkHTTP, UEFI: true}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("IPMI knows no HTTP Boot, and got %v", err)
	}
}

// A command whose answer is lost may have been done: it is no mere silence, after which
// it would be sent again by the other protocol.
func TestIPMIHalfway(t *testing.T) {
	s := startSim(t, "")
	s.set(t, "power", "1")
	log := func() string {
		b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		return string(b)
	}
	port := relayUDP(t, s, func(question bool, _ []byte) bool { return !question && strings.Contains(log(), "set power") })
	c := &IPMI{Host: "127.0.0.9", Port: port, User: "rescue", Password: fixed("secret12")}
	if err := c.Do(t.Context(), PowerOff); !errors.Is(err, ErrSilent) || !errors.Is(err, ErrHalfway) {
		t.Errorf("got %v", err)
	}
	if got := s.get(t, "power"); got != "0" {
		t.Errorf("power is %s: the command did not arrive", got)
	}
}

// A controller that drops what it does not know of a session, without a word, is asked for the other
// cipher suite once it has answered something else; that suite is asked for first from then on.
func TestIPMISilentSuite(t *testing.T) {
	t.Parallel()
	s := startSim(t, "")
	var sha256, sha1 atomic.Int32
	var deaf atomic.Bool
	port := relayUDP(t, s, func(question bool, b []byte) bool {
		if deaf.Load() {
			return true
		}
		if !question || len(b) < 29 || b[4] != 6 || b[5] != stepOpen {
			return false
		}
		if b[28] == 3 { // RAKP-HMAC-SHA256 (section 13.28)
			sha256.Add(1)
			return true
		}
		sha1.Add(1)
		return false
	})
	c := &IPMI{Host: "127.0.0.9", Port: port, User: "rescue", Password: fixed("secret12")}
	if state, err := c.Power(t.Context()); err != nil || state != Off || sha256.Load() == 0 {
		t.Fatalf("%s, %v after %d questions for suite 17", state, err, sha256.Load())
	}
	sha256.Store(0)
	if _, err := c.Power(t.Context()); err != nil || sha256.Load() != 0 {
		t.Errorf("%v: it was asked for suite 17 %d times more", err, sha256.Load())
	}
	// One that is silent to all is asked for no session at all.
	deaf.Store(true)
	sha1.Store(0)
	begun := time.Now()
	if _, err := c.Power(t.Context()); !errors.Is(err, ErrSilent) || errors.Is(err, errMute) || time.Since(begun) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
}

// Whichever packet is lost, what is asked is answered: the login has four steps, the last of which cannot be said twice.
func TestIPMILostPackets(t *testing.T) {
	t.Parallel()
	s := startSim(t, "")
	for n := range int32(14) {
		var seen atomic.Int32
		port := relayUDP(t, s, func(question bool, _ []byte) bool { return question == (n%2 == 0) && seen.Add(1) == n/2+1 })
		c := &IPMI{Host: "127.0.0.9", Port: port, User: "rescue", Password: fixed("secret12"), suite: suites[1]}
		if state, err := c.Power(t.Context()); err != nil || state != Off {
			t.Errorf("number %d lost, of questions: %t: %s, %v", n/2+1, n%2 == 0, state, err)
		}
	}
}

// One that opens no session at all says so, in bounded time; it is as silent as one that is not there.
func TestIPMIMute(t *testing.T) {
	t.Parallel()
	s := startSim(t, "")
	port := relayUDP(t, s, func(question bool, b []byte) bool { return question && len(b) > 5 && b[4] == 6 })
	c := &IPMI{Host: "127.0.0.9", Port: port, User: "rescue", Password: fixed("secret12")}
	begun := time.Now()
	_, err := c.Power(t.Context())
	if !errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), "cipher suite 17: ") || !strings.Contains(err.Error(), "cipher suite 3: ") || time.Since(begun) > ipmiOperation+5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
	t.Logf("%v after %s", err, time.Since(begun).Round(time.Second/10))
}

// A wrong password costs one try, and none again until it is another.
func TestIPMIWrongPassword(t *testing.T) {
	s := startSim(t, "")
	password := "wrong"
	c := s.client()
	c.Password = func() (string, error) { return password, nil }
	begun := time.Now()
	for range 2 {
		if _, err := c.Power(t.Context()); !errors.Is(err, ErrRefused) {
			t.Fatalf("got %v", err)
		} else if strings.Contains(err.Error(), password) {
			t.Errorf("the password is in %q", err)
		}
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
	password = "secret12"
	if state, err := c.Power(t.Context()); err != nil || state != Off {
		t.Errorf("with the right one: %s, %v", state, err)
	}
	c = s.client()
	c.User = "nobody"
	if _, err := c.Power(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("unknown user: %v", err)
	}
}

// What does not answer, and what answers with noise, ends in bounded time with a reason.
func TestIPMISilent(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	noisy, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer noisy.Close()
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := noisy.ReadFrom(b)
			if err != nil {
				return
			}
			for i := range b[4:n] {
				b[4+i] ^= 0x5a
			}
			noisy.WriteTo(b[:n], from)
		}
	}()
	for name, peer := range map[string]net.PacketConn{"silent": silent, "noisy": noisy} {
		c := &IPMI{Host: "127.0.0.1", Port: peer.LocalAddr().(*net.UDPAddr).Port, User: "rescue", Password: fixed("secret12")}
		begun := time.Now()
		_, err := c.Power(t.Context())
		if err == nil || time.Since(begun) > ipmiOperation+5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(begun))
		}
		if name == "silent" && !errors.Is(err, ErrSilent) {
			t.Errorf("silent: %v", err)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret12")) {
			t.Errorf("%s: %q", name, err)
		}
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("no %s within 20 s", what)
}
