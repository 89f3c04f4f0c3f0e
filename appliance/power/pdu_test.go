package power

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gosnmp/gosnmp"
)

// unit is Debian's SNMP agent, with a unit's outlet 3 behind it.
type unit struct {
	dir, host string
	process   *os.Process
}

// units counts the agents: each has a loopback address of its own, so that none needs to
// look for a port that is free.
var units atomic.Int32

func newUnit(t *testing.T, model string) *unit {
	t.Helper()
	snmpd, python := tool(t, "snmpd", "snmpd"), debianPython(t)
	program, err := filepath.Abs("testdata/unit.py")
	if err != nil {
		t.Fatal(err)
	}
	pid := os.Getpid()
	u := &unit{dir: t.TempDir(), host: fmt.Sprintf("127.%d.%d.%d:10161", 64+pid>>8&63, pid&255, units.Add(1))}
	conf := filepath.Join(u.dir, "snmpd.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `agentaddress udp:%s
rwcommunity geheim77
rocommunity nurlesen
createUser outlet SHA "passwort77" AES "passwort77"
rwuser outlet authpriv
pass_persist .1.3.6.1.4.1 %s %s %s %s
`, u.host, python, program, model, u.dir), 0o600); err != nil {
		t.Fatal(err)
	}
	said := &log{}
	cmd := exec.Command(snmpd, "-f", "-Lo", "-C", "-c", conf, "-I", "-smux")
	cmd.Env = append(os.Environ(), "SNMP_PERSISTENT_DIR="+u.dir, "MIBS=")
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	u.process = cmd.Process
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("snmpd: %s", said)
		}
	})
	till(t, "snmpd", func() bool { return strings.Contains(said.String(), "NET-SNMP version") })
	return u
}

func (u *unit) config(model string) Config {
	return Config{Kind: "pdu", Host: u.host, Model: model, Outlet: 3, Community: secret("geheim77")}
}

// switched is the unit's outlet for one who does not ask again: what is late would be heard twice, and what the unit was
// told is counted.
func (u *unit) switched(t *testing.T, model string) Switch {
	t.Helper()
	s := open(t, u.config(model))
	s.(*turns).of.(*pdu).patience = asking
	return s
}

func (u *unit) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(u.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestPDU(t *testing.T) {
	t.Parallel()
	for unit, model := range map[string]string{"rpdu2": "apc", "rpdu": "apc", "spdu": "apc", "raritan": "raritan", "eaton": "eaton"} {
		t.Run(unit, func(t *testing.T) {
			t.Parallel()
			u := newUnit(t, unit)
			s := u.switched(t, model)
			isState(t, s, On)
			for _, step := range []struct {
				do   string
				run  func() error
				want string
			}{
				{"off", func() error { return s.Off(t.Context()) }, "off"},
				{"cycle of what is off", func() error { return s.Cycle(t.Context()) }, "on"},
				{"cycle", func() error { return s.Cycle(t.Context()) }, "on"},
				{"off again", func() error { return s.Off(t.Context()) }, "off"},
				{"on", func() error { return s.On(t.Context()) }, "on"},
			} {
				if err := step.run(); err != nil {
					t.Errorf("%s: %v", step.do, err)
				}
				if got := u.read(t, "state"); got != step.want {
					t.Errorf("%s: the outlet is %s", step.do, got)
				}
			}
			if got, want := u.read(t, "told"), "off on cycle off on"; got != want {
				t.Errorf("the unit was told %q, want %q", got, want)
			}
		})
	}
}

func TestPDUVersion3(t *testing.T) {
	t.Parallel()
	u := newUnit(t, "raritan")
	c := u.config("raritan")
	c.User, c.Password, c.Community = "outlet", secret("passwort77"), nil
	s := open(t, c)
	if err := s.Off(t.Context()); err != nil || u.read(t, "state") != "off" {
		t.Errorf("off: %v, the outlet is %s", err, u.read(t, "state"))
	}
	if err := s.Cycle(t.Context()); err != nil || u.read(t, "state") != "on" {
		t.Errorf("cycle: %v, the outlet is %s", err, u.read(t, "state"))
	}
	for name, change := range map[string]func(*Config){
		"user":     func(c *Config) { c.User = "niemand" },
		"password": func(c *Config) { c.Password = secret("falsch888") },
	} {
		wrong := c
		change(&wrong)
		_, err := open(t, wrong).State(t.Context())
		if wantError(t, err, ErrRefused, "passwort77", "falsch888"); err == nil {
			t.Errorf("a wrong %s is taken", name)
		}
	}
	c.Password = secret("kurz")
	if _, err := open(t, c).State(t.Context()); err == nil || strings.Contains(err.Error(), "kurz") {
		t.Errorf("a short password: %v", err)
	}
}

func TestPDURefuses(t *testing.T) {
	t.Parallel()
	u := newUnit(t, "rpdu2")
	c := u.config("apc")
	c.Community = secret("nurlesen")
	s := open(t, c)
	isState(t, s, On)
	wantError(t, s.Off(t.Context()), ErrRefused, "nurlesen")
	wantError(t, s.Cycle(t.Context()), ErrRefused, "nurlesen")
	c.Community = secret("falsch88")
	_, err := open(t, c).State(t.Context())
	wantError(t, err, ErrSilent, "falsch88")
	c = u.config("apc")
	c.Outlet = 4
	_, err = open(t, c).State(t.Context())
	wantError(t, err, ErrUnsupported)
	_, err = open(t, u.config("eaton")).State(t.Context())
	wantError(t, err, ErrUnsupported)
	if got := u.read(t, "told"); got != "" {
		t.Errorf("the unit was told %q", got)
	}
}

// A unit whose relay sticks says that it took the command.
func TestPDULies(t *testing.T) {
	t.Parallel()
	u := newUnit(t, "eaton-deaf")
	s := u.switched(t, "eaton")
	wantError(t, s.Off(t.Context()), ErrNotTaken, "geheim77")
	wantError(t, s.Cycle(t.Context()), ErrNotTaken, "geheim77")
	if got := u.read(t, "told"); got != "off cycle" {
		t.Errorf("the unit was told %q", got)
	}
}

// A cycle whose answer is lost is not said again: it was heard, and would begin anew.
func TestPDUCycleUnanswered(t *testing.T) {
	t.Parallel()
	u := newUnit(t, "raritan")
	back, err := net.Dial("udp", u.host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { back.Close() })
	const setRequest = 0xa3 // RFC 3416 §3
	front := babble(t, func(asked []byte) [][]byte {
		at := bytes.Index(asked, []byte("geheim77")) + len("geheim77")
		set := asked[at] == setRequest
		answer := make([]byte, 2048)
		_, _ = back.Write(asked)
		_ = back.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := back.Read(answer)
		if err != nil || set {
			return nil
		}
		return [][]byte{answer[:n]}
	})
	c := u.config("raritan")
	c.Host = front
	if err := open(t, c).Cycle(t.Context()); err != nil {
		t.Error(err)
	}
	if got := u.read(t, "told"); got != "cycle" || u.read(t, "state") != "on" {
		t.Errorf("the unit was told %q, and is %s", got, u.read(t, "state"))
	}
}

// babble answers each datagram with what it likes.
func babble(t *testing.T, answer func(asked []byte) [][]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 65535)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			for _, a := range answer(buffer[:n]) {
				_, _ = conn.WriteTo(a, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func TestPDUBadPeers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func([]byte) [][]byte{
		"silent":       func([]byte) [][]byte { return nil },
		"empty":        func([]byte) [][]byte { return [][]byte{{}} },
		"garbage":      func([]byte) [][]byte { return [][]byte{[]byte(strings.Repeat("\x30\x84\xff", 9000))} },
		"echo":         func(asked []byte) [][]byte { return [][]byte{asked} },
		"cut short":    func(asked []byte) [][]byte { return [][]byte{asked[:len(asked)/2]} },
		"another's":    func([]byte) [][]byte { return [][]byte{stray()} },
		"much of that": func([]byte) [][]byte { return [][]byte{stray(), stray(), stray(), stray()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Config{Kind: "pdu", Host: babble(t, answer), Model: "eaton", Outlet: 3, Community: secret("geheim77")}
			start := time.Now()
			s, err := open(t, c).State(t.Context())
			if s != Unknown || !errors.Is(err, ErrSilent) && !errors.Is(err, ErrUnsupported) {
				t.Errorf("state %s, %v", s, err)
			}
			wantError(t, err, err, "geheim77")
			if took := time.Since(start); took > 2*asking {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// An answer counts for the object that was asked for; the library takes one with the
// request identifier 0 for any.
func TestPDUOtherObject(t *testing.T) {
	packet := &gosnmp.SnmpPacket{Variables: []gosnmp.SnmpPDU{{Name: ".1.3.6.1.2.1.1.7.0", Type: gosnmp.Integer, Value: 1}}}
	if n, ok := integer(packet, ".1.3.6.1.2.1.1.7.0"); !ok || n != 1 {
		t.Errorf("its own object: %d, %v", n, ok)
	}
	if _, ok := integer(packet, ".1.3.6.1.4.1.534.6.6.7.6.6.1.2.0.3"); ok {
		t.Error("another object's value is taken")
	}
}

// stray is an answer that nobody asked for.
func stray() []byte {
	g := &gosnmp.GoSNMP{Version: gosnmp.Version2c, Community: "geheim77"}
	text, err := g.SnmpEncodePacket(gosnmp.GetResponse, []gosnmp.SnmpPDU{{Name: ".1.3.6.1.2.1.1.7.0", Type: gosnmp.Integer, Value: 1}}, 0, 0)
	if err != nil {
		panic(err)
	}
	return text
}

func TestPDUConfig(t *testing.T) {
	for _, c := range []Config{
		{Model: "apc", Outlet: 1, Community: secret("x")},
		{Model: "other", Host: "192.168.77.40", Outlet: 1, Community: secret("x")},
		{Model: "apc", Host: "192.168.77.40", Community: secret("x")},
		{Model: "apc", Host: "192.168.77.40", Outlet: 1},
		{Model: "apc", Host: "192.168.77.40", Outlet: 1, User: "outlet"},
	} {
		c.Kind = "pdu"
		if _, err := New(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
