package console_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rescuebox/appliance/bmc"
	"rescuebox/appliance/console"
)

// server is a server's serial port behind ipmi_sim: a TCP port that the simulator connects to.
type server struct {
	l    net.Listener
	mu   sync.Mutex
	conn net.Conn
	got  bytes.Buffer
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &server{l: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conn = c
			s.mu.Unlock()
			go s.hear(c)
		}
	}()
	return s
}

func (s *server) hear(c net.Conn) {
	b := make([]byte, 256)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.got.Write(b[:n])
		s.mu.Unlock()
	}
}

func (s *server) heard() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

// say repeats a line until ctx is done: what a simulator without a session hears is lost.
func (s *server) say(ctx context.Context, line string) {
	for ctx.Err() == nil {
		s.mu.Lock()
		if s.conn != nil {
			fmt.Fprint(s.conn, line+"\r\n")
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// sim is Debian's ipmi_sim with a serial port, at a loopback address of this process: a port that was looked for
// would be anybody's while the simulator is away.
type sim struct {
	dir, host string
	kill      func()
}

// simPort is below those that the kernel gives away.
const simPort = 10623

func newSim(t *testing.T, s *server) *sim {
	t.Helper()
	pid := os.Getpid()
	m := &sim{dir: t.TempDir(), host: fmt.Sprintf("127.%d.%d.1", 33+pid>>8&15, pid&255)}
	t.Cleanup(m.stop)
	m.configure(t, s)
	m.start(t)
	return m
}

func (m *sim) configure(t *testing.T, s *server) {
	t.Helper()
	for name, text := range map[string]string{
		"bmc.emu": "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x01 1 0 0x9f 0x0000 0x0001 persist_sdr\nsel_enable 0x20 1000 0x0a\nmc_enable 0x20\n",
		"lan.conf": fmt.Sprintf("name \"sim\"\nset_working_mc 0x20\nstartlan 1\naddr %s %d\npriv_limit admin\n"+
			"allowed_auths_admin none md2 md5 straight\nguid a123456789abcdefa123456789abcdef\nendlan\n"+
			"sol \"telnet:127.0.0.1:%d\" 115200\nuser 2 true \"rescue\" \"secret12\" admin 10 none md2 md5 straight\n", m.host, simPort, s.l.Addr().(*net.TCPAddr).Port),
	} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// start runs the simulator and waits until it answers.
func (m *sim) start(t *testing.T) {
	t.Helper()
	program, err := exec.LookPath("ipmi_sim")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("ipmi_sim is missing: apt-get install openipmi")
		}
		t.Skip("no ipmi_sim: apt-get install openipmi")
	}
	cmd := exec.Command(program, "-c", filepath.Join(m.dir, "lan.conf"), "-f", filepath.Join(m.dir, "bmc.emu"), "-s", m.dir, "-n")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	m.kill = func() { cmd.Process.Kill(); <-exited }
	for range 100 {
		select {
		case <-exited:
			t.Fatal("ipmi_sim ended")
		case <-time.After(100 * time.Millisecond):
		}
		if _, err := m.client().Info(t.Context()); err == nil {
			return
		}
	}
	t.Fatal("ipmi_sim does not answer")
}

func (m *sim) stop() {
	if m.kill != nil {
		m.kill()
		m.kill = nil
	}
}

func (m *sim) client() *bmc.IPMI {
	return &bmc.IPMI{Host: m.host, Port: simPort, User: "rescue", Password: func() (string, error) { return "secret12", nil }}
}

func until(t *testing.T, s *console.Session, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var all string
	for !strings.Contains(all, want) {
		p, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("want %q: %v after %.1000q", want, err, all)
		}
		all += string(p.Data) + p.Notice
	}
}

// Serial over LAN of a real peer: heard, typed into, its session stolen, the controller dead
// and back. Each loss is marked, and the console comes back by itself.
func TestSOL(t *testing.T) {
	srv := newServer(t)
	m := newSim(t, srv)
	k := &console.Keeper{Dir: t.TempDir(), Machines: []console.Machine{{Name: "srv01", Open: m.client().Console}}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx, func() {}) }()
	defer func() { cancel(); <-done }()
	talk, silence := context.WithCancel(ctx)
	defer silence()
	go srv.say(talk, "Kernel panic - not syncing")

	s, err := k.Attach(t.Context(), "srv01", console.Attach{Who: "anna", Write: true, Lines: 10})
	if err != nil {
		t.Fatal(err)
	}
	until(t, s, "Kernel panic - not syncing\r\n")
	if _, err := io.WriteString(s, "reboot -f\r"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !strings.Contains(srv.heard(), "reboot -f\r"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the server heard %q", srv.heard())
		}
	}

	// Somebody else's ipmitool ends our session and takes the console: ours comes back.
	thief, err := m.client().Console(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	until(t, s, "console lost ")
	until(t, s, "console back at ")
	until(t, s, "Kernel panic - not syncing\r\n")
	thief.Close()

	m.stop()
	until(t, s, "console lost ")
	m.start(t)
	until(t, s, "console back at ")
	until(t, s, "Kernel panic - not syncing\r\n")
	list, err := k.Tail("srv01", 200)
	if log := strings.Join(list, "\n"); err != nil || strings.Count(log, " -- console back at ") < 2 || !strings.Contains(log, "Z  Kernel panic - not syncing") {
		t.Errorf("%v, log:\n%s", err, log)
	}
}
