package modemtest_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/modem/modemtest"
)

// program is a peer of Debian's, or the end of the test.
func program(t *testing.T, name, debian string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", name, debian)
	}
	t.Skipf("%s is missing: apt-get install %s", name, debian)
}

// gammu runs gammu on the fake's pty.
func gammu(t *testing.T, fake *modemtest.Modem, args ...string) string {
	t.Helper()
	program(t, "gammu", "gammu")
	rc := filepath.Join(t.TempDir(), "gammurc")
	if err := os.WriteFile(rc, []byte("[gammu]\ndevice = "+fake.Path+"\nconnection = at\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "gammu", append([]string{"-c", rc}, args...)...)
	cmd.Stdin = strings.NewReader("")
	cmd.Env = append(os.Environ(), "LANG=C.UTF-8", "LC_ALL=C.UTF-8") // what we give it and read is that
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("gammu %q: %v\n%s\nthe modem was sent %q", args, err, out, fake.Log())
	}
	return string(out)
}

func TestGammuSends(t *testing.T) {
	fake := modemtest.Start(t)
	gammu(t, fake, "sendsms", "TEXT", "+79160000000", "-text", "#01#1#")
	gammu(t, fake, "sendsms", "TEXT", "+79160000000", "-unicode", "-text", "Привет, ящик")
	sent := fake.Sent()
	if len(sent) != 2 || sent[0].Number != "+79160000000" || sent[0].Text != "#01#1#" || sent[1].Text != "Привет, ящик" {
		t.Errorf("the modem sent %+v", sent)
	}
}

func TestGammuIdentifies(t *testing.T) {
	fake := modemtest.Start(t)
	out := gammu(t, fake, "identify")
	for _, want := range []string{fake.IMEI, fake.IMSI, "Fake"} {
		if !strings.Contains(out, want) {
			t.Errorf("gammu does not see %s:\n%s", want, out)
		}
	}
}

func TestGammuReads(t *testing.T) {
	fake := modemtest.Start(t)
	if err := fake.Deliver("+79160000000", "питание srv01"); err != nil {
		t.Fatal(err)
	}
	if out := gammu(t, fake, "getallsms"); !strings.Contains(out, "питание srv01") || !strings.Contains(out, "+79160000000") {
		t.Errorf("gammu reads:\n%s", out)
	}
}

// managed is a fake under the real ModemManager on a bus of its own. run executes a command beside it.
type managed struct {
	t    *testing.T
	fake *modemtest.Modem
	bus  string
	log  *os.File
}

func (m *managed) run(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DBUS_SESSION_BUS_ADDRESS="+m.bus, "DBUS_SYSTEM_BUS_ADDRESS="+m.bus)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// until runs a command until its output has the word.
func (m *managed) until(word, name string, args ...string) string {
	m.t.Helper()
	var out string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		if out, _ = m.run(name, args...); strings.Contains(out, word) {
			return out
		}
	}
	m.t.Fatalf("%s %q never says %q but\n%s\nthe modem was sent %q\nModemManager: %s", name, args, word, out, m.fake.Log(), m.said())
	return ""
}

// said is the end of what the bus and ModemManager wrote.
func (m *managed) said() string {
	b, _ := os.ReadFile(m.log.Name())
	return string(b[max(0, len(b)-6000):])
}

// manage starts a bus and ModemManager, and gives it the fake by an abstract socket, which it accepts for a port in its
// test mode.
func manage(t *testing.T, fake *modemtest.Modem) *managed {
	t.Helper()
	for name, debian := range map[string]string{"ModemManager": "modemmanager", "mmcli": "modemmanager", "dbus-daemon": "dbus", "gdbus": "libglib2.0-bin"} {
		program(t, name, debian)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	dir, err := os.MkdirTemp("/tmp", "bus") // whatever TMPDIR is: a socket's name has 107 letters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &managed{t: t, fake: fake, bus: "unix:path=" + filepath.Join(dir, "bus"), log: log}
	m.start("dbus-daemon", "--session", "--nofork", "--address="+m.bus)
	m.until("org.freedesktop.DBus", "gdbus", "call", "--session", "-d", "org.freedesktop.DBus", "-o", "/", "-m", "org.freedesktop.DBus.ListNames")
	name := fmt.Sprintf("rb-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	l, err := net.Listen("unix", "@abstract:"+name)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go fake.Serve(conn)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done; fake.Close() })
	m.start("ModemManager", "--test-session", "--test-enable", "--test-no-udev", "--test-no-qrtr", "--test-no-suspend-resume", "--no-auto-scan", "--log-level=DEBUG")
	m.until("org.freedesktop.ModemManager1", "gdbus", "call", "--session", "-d", "org.freedesktop.DBus", "-o", "/", "-m", "org.freedesktop.DBus.ListNames")
	m.until("()", "gdbus", "call", "--session", "-d", "org.freedesktop.ModemManager1", "-o", "/org/freedesktop/ModemManager1",
		"-m", "org.freedesktop.ModemManager1.Test.SetProfile", name, "generic", `["abstract:`+name+`"]`)
	m.until("/Modem/0", "mmcli", "-L")
	return m
}

func (m *managed) start(name string, args ...string) {
	m.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DBUS_SESSION_BUS_ADDRESS="+m.bus, "DBUS_SYSTEM_BUS_ADDRESS="+m.bus)
	cmd.Stdout, cmd.Stderr = m.log, m.log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func TestModemManagerRegisters(t *testing.T) {
	fake := modemtest.New()
	m := manage(t, fake)
	m.until("success", "mmcli", "-m", "0", "-e")
	out := m.until("registered", "mmcli", "-m", "0")
	for _, want := range []string{fake.IMEI, "Testnet", fake.PLMN} {
		if !strings.Contains(out, want) {
			t.Errorf("ModemManager does not see %s:\n%s", want, out)
		}
	}
	// A text message out and one in.
	path := m.until("/SMS/", "mmcli", "-m", "0", "--messaging-create-sms=text='#01#1#',number='+79160000000'")
	path = strings.TrimSpace(path[strings.Index(path, "/org/"):])
	m.until("success", "mmcli", "-s", path, "--send")
	if sent := fake.Sent(); len(sent) != 1 || sent[0].Number != "+79160000000" || sent[0].Text != "#01#1#" {
		t.Errorf("the modem sent %+v", sent)
	}
	if err := fake.Deliver("+79160000099", "status 12345678"); err != nil {
		t.Fatal(err)
	}
	list := m.until("(received)", "mmcli", "-m", "0", "--messaging-list-sms")
	path = strings.Fields(list[strings.Index(list, "/org/"):])[0]
	for _, line := range strings.Split(list, "\n") {
		if strings.Contains(line, "(received)") {
			path = strings.Fields(line)[0]
		}
	}
	m.until("status 12345678", "mmcli", "-s", path)
}

func TestModemManagerUnlocks(t *testing.T) {
	fake := modemtest.New()
	fake.Insert(modemtest.WantsPIN)
	m := manage(t, fake)
	m.until("sim-pin", "mmcli", "-m", "0")
	sim := m.until("/SIM/", "mmcli", "-m", "0", "-K")
	sim = sim[strings.Index(sim, "/org/freedesktop/ModemManager1/SIM/"):]
	m.until("success", "mmcli", "-i", strings.Fields(sim)[0], "--pin=1234")
	m.until("success", "mmcli", "-m", "0", "-e")
	m.until("registered", "mmcli", "-m", "0")
	if fake.PINLeft() != 3 {
		t.Errorf("%d tries left", fake.PINLeft())
	}
}

func TestModemManagerSeesRoaming(t *testing.T) {
	fake := modemtest.New()
	fake.Register(modemtest.Roaming, 2)
	m := manage(t, fake)
	m.until("success", "mmcli", "-m", "0", "-e")
	m.until("registration: roaming", "mmcli", "-m", "0")
	fake.Register(modemtest.Home, 2)
	m.until("registration: home", "mmcli", "-m", "0")
}
