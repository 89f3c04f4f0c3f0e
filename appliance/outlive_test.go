package appliance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc/bmctest"
	"rescuebox/appliance/config"
	"rescuebox/images"
)

// daemonFile is in the environment of a test program that is to be a daemon: its file of the site.
const daemonFile = "RESCUEBOX_TEST_DAEMON"

// TestDaemon is no test: other tests start it as a process that they can kill.
func TestDaemon(t *testing.T) {
	path := os.Getenv(daemonFile)
	if path == "" {
		return // other tests start it
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, Options{Config: cfg, Version: "test", Log: zap.NewExample(), Notify: func(s string) { daemon.SdNotify(false, s) }}); err != nil {
		t.Fatal(err)
	}
}

// mortal is a daemon in a process of its own, with one machine whose controller outlives it.
type mortal struct {
	t    *testing.T
	dir  string
	http string // where its HTTP is
	api  *api.Client

	service *bmctest.Redfish // nil: the machine has another one
	system  string           // its path
	// fate is asked of each request of the controller's that changes something: what of the daemon's life and
	// of the request becomes. nil: both go on.
	fate func(what string) fate
	keep bool // the controller keeps for good what it is told for once

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan error
	said   said
}

// said is what a process prints.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// fate is what becomes of a daemon that asks for something.
type fate int

const (
	lives      fate = iota
	diesBefore      // and what it asked for is not done
	diesAfter       // it is done, and nobody hears so
	stopsAfter      // it is done, answered, and the daemon is told to stop
)

// newMortal writes the file of the site; power is the machine's tables of it.
func newMortal(t *testing.T, power string) *mortal {
	t.Helper()
	at := ownAddress()
	port := freePort(t, "tcp", at)
	m := &mortal{t: t, dir: t.TempDir(), http: at + ":" + port}
	socket := filepath.Join(socketDir(t), "api.sock")
	m.api = api.OverSocket(socket)
	text := fmt.Sprintf(`site = "test"
[lan]
interface = "nosuch0"
address = "%s/8"
dhcp = "full"
range = ["127.0.0.100", "127.0.0.199"]
[http]
port = %s
[tftp]
port = %s
[state]
dir = %q
[admin]
socket = %q
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
%s
`, at, port, freePort(t, "udp", at), m.dir, socket, strings.ReplaceAll(power, "SECRET", filepath.Join(m.dir, "secret")))
	for name, text := range map[string]string{"site.toml": text, "secret": "secret12\n"} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	library := images.Library{Dir: filepath.Join(m.dir, "images")}
	if _, err := library.Add(images.Image{Name: "rescue", Kind: images.Linux, Arch: "amd64", Kernel: "vmlinuz", Up: images.Agent},
		map[string]io.Reader{"vmlinuz": strings.NewReader("a kernel")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.kill)
	return m
}

// newRedfish is a daemon whose machine is on, behind a Redfish service that allows some resets.
func newRedfish(t *testing.T, kind string, allowed ...string) *mortal {
	t.Helper()
	service, err := bmctest.New(kind)
	if err != nil {
		t.Fatal(err)
	}
	service.Change(service.System(), func(r map[string]any) {
		r["PowerState"] = "On"
		r["Actions"].(map[string]any)["#ComputerSystem.Reset"].(map[string]any)["ResetType@Redfish.AllowableValues"] = allowed
	})
	var m *mortal
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.between(w, r) }))
	t.Cleanup(server.Close)
	m = newMortal(t, fmt.Sprintf("firmware = \"uefi\"\n[machine.bmc]\nurl = \"redfish://%s\"\nuser = \"rescue\"\npassword_file = \"SECRET\"", server.Listener.Addr()))
	m.service, m.system = service, service.System()
	return m
}

// between stands between the daemon and its machine's controller.
func (m *mortal) between(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	sent := body
	if m.keep {
		sent = bytes.Replace(body, []byte(`"Once"`), []byte(`"Continuous"`), 1)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(sent)), int64(len(sent))
	does := lives
	if m.fate != nil && r.Method != http.MethodGet {
		does = m.fate(r.Method + " " + string(body))
	}
	switch does {
	case lives:
		m.service.ServeHTTP(w, r)
	case diesBefore:
		m.kill()
	case diesAfter:
		m.service.ServeHTTP(httptest.NewRecorder(), r)
		m.kill()
	case stopsAfter:
		m.service.ServeHTTP(w, r)
		m.mu.Lock()
		m.cmd.Process.Signal(syscall.SIGTERM)
		m.mu.Unlock()
	}
}

// once has a fate befall the first request with some words in it.
func once(words string, befalls fate) func(string) fate {
	var met atomic.Bool
	return func(what string) fate {
		if !strings.Contains(what, words) || met.Swap(true) {
			return lives
		}
		return befalls
	}
}

// start starts the daemon, and again after its end.
func (m *mortal) start(env ...string) {
	m.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDaemon$", "-test.count=1")
	cmd.Env = append(append(os.Environ(), daemonFile+"="+filepath.Join(m.dir, "site.toml")), env...)
	cmd.Stdout, cmd.Stderr = &m.said, &m.said
	exited := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() { exited <- cmd.Wait(); close(exited) }()
	m.mu.Lock()
	m.cmd, m.exited = cmd, exited
	m.mu.Unlock()
	m.until("the daemon answers", func() bool {
		_, err := m.api.Version(m.t.Context())
		return err == nil
	})
}

// kill ends the daemon as a power cut does.
func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd != nil {
		m.cmd.Process.Kill()
		<-m.exited
	}
}

// end is closed when the daemon has ended.
func (m *mortal) end() <-chan error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exited
}

// dead waits for the daemon's end.
func (m *mortal) dead() error {
	m.t.Helper()
	select {
	case err := <-m.end():
		return err
	case <-time.After(3 * time.Minute):
		m.t.Fatalf("the daemon lives on: %s", m.said.String())
		return nil
	}
}

func (m *mortal) until(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
		select {
		case err := <-m.end():
			m.t.Fatalf("%s: the daemon has ended: %v: %s", what, err, m.said.String())
		default:
		}
	}
	m.kill()
	m.t.Fatalf("never: %s; the daemon: %s", what, m.said.String())
}

// resets are those that the controller got.
func (m *mortal) resets() (list []string) {
	for _, r := range m.service.Requests() {
		if kind, ok := r.Body["ResetType"].(string); ok {
			list = append(list, kind)
		}
	}
	return list
}

// power is what the controller has of it.
func (m *mortal) power() any { return m.service.Resource(m.system)["PowerState"] }

// order orders rescue. A daemon that dies of it may not come to say that it has the order.
func (m *mortal) order(o api.NewOrder) {
	m.t.Helper()
	o.Machine, o.Image = "srv01", "rescue"
	if _, err := m.api.Boot(m.t.Context(), o); err != nil && !errors.Is(err, api.ErrUnreachable) {
		m.t.Fatal(err)
	}
}

// ordered is the order that the daemon has.
func (m *mortal) ordered() api.Order {
	m.t.Helper()
	list, err := m.api.Orders(m.t.Context(), "srv01", 10)
	if err != nil || len(list) != 1 {
		m.t.Fatalf("the daemon has the orders %v, %v", list, err)
	}
	return list[0]
}

// boots is the machine that asks for its boot script.
func (m *mortal) boots() {
	m.t.Helper()
	m.until("the machine gets its script", func() bool {
		resp, err := http.Get("http://" + m.http + "/boot/525400123456/boot.ipxe")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// tells waits for words in an order's timeline, and returns all of it.
func (m *mortal) tells(o api.Order, words string) string {
	m.t.Helper()
	text := ""
	m.until("the timeline tells "+words, func() bool {
		list, err := m.api.Timeline(m.t.Context(), o.ID)
		text = ""
		for _, e := range list {
			text += e.Text + "\n"
		}
		return err == nil && strings.Contains(text, words)
	})
	return text
}

// A press that the daemon's death interrupts goes on with the next one: what the machine's own controller saw of it is
// one reset, and a machine that is on.
func TestPressOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		allowed []string
		order   api.NewOrder
		words   string
		dies    fate
		resets  []string
		told    string
	}{
		{"before power is touched", []string{"PowerCycle", "On"}, api.NewOrder{}, "BootSourceOverrideTarget", diesBefore,
			[]string{"PowerCycle"}, "the box was restarted while its power was switched: the press is resumed"},
		{"between off and on", []string{"ForceOff", "On"}, api.NewOrder{}, "ForceOff", diesAfter,
			[]string{"ForceOff", "On"}, "power is off, and was not given back"},
		{"before on", []string{"ForceOff", "On"}, api.NewOrder{}, `"On"`, diesBefore,
			[]string{"ForceOff", "On"}, "power is off, and was not given back"},
		{"power was cycled", []string{"PowerCycle", "On"}, api.NewOrder{}, "PowerCycle", diesAfter,
			[]string{"PowerCycle"}, "power was switched already: it is waited for"},
		{"after the shutdown", []string{"GracefulShutdown", "PowerCycle", "On"}, api.NewOrder{Soft: true}, "GracefulShutdown", diesAfter,
			[]string{"GracefulShutdown", "On"}, "the box was restarted while its system was asked to shut down: the press is resumed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newRedfish(t, "xcc", c.allowed...)
			m.fate = once(c.words, c.dies)
			m.start()
			m.order(c.order)
			m.dead()
			asked := len(m.service.Requests())
			m.start()
			o := m.ordered()
			if c.name == "power was cycled" {
				m.until("the daemon looks after its power", func() bool {
					return slices.ContainsFunc(m.service.Requests()[asked:], func(r bmctest.Request) bool { return r.Path == m.system })
				})
				m.boots() // it does not wait for the box
			}
			m.tells(o, "the press is resumed")
			m.tells(o, c.told)
			m.until("the machine starts from the network", func() bool { return slices.Equal(m.service.Starts(), []string{"Pxe"}) })
			m.boots()
			m.until("the order boots", func() bool { now, err := m.api.Order(t.Context(), o.ID); return err == nil && now.State == "booting" })
			if got := m.resets(); !slices.Equal(got, c.resets) {
				t.Errorf("the controller was asked for %q, want %q", got, c.resets)
			}
			if state := m.power(); state != "On" {
				t.Errorf("power is %s", state)
			}
		})
	}
}

// A machine whose power was taken has it back, also where nobody ordered anything, or the order is over by then.
func TestPowerOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(m *mortal){
		"cycle by hand": func(m *mortal) { m.api.SwitchPower(m.t.Context(), "srv01", api.PowerAction{Action: "cycle"}) },
		"an order that is over": func(m *mortal) {
			m.order(api.NewOrder{TTL: "15s"})
			m.dead()
			time.Sleep(15 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newRedfish(t, "xcc", "ForceOff", "On")
			m.fate = once("ForceOff", diesAfter)
			m.start()
			begin(m)
			m.dead()
			if state := m.power(); state != "Off" {
				t.Fatalf("power is %s, before anything is shown", state)
			}
			m.start()
			m.until("the machine is on", func() bool { return m.power() == "On" })
			if got := m.resets(); !slices.Equal(got, []string{"ForceOff", "On"}) {
				t.Errorf("the controller was asked for %q", got)
			}
		})
	}
}

// A box that is told to stop between off and on stops when the machine is on, and asks systemd for the time.
func TestStopWaitsForPower(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(m *mortal){
		"cycle by hand": func(m *mortal) { m.api.SwitchPower(m.t.Context(), "srv01", api.PowerAction{Action: "cycle"}) },
		"order":         func(m *mortal) { m.order(api.NewOrder{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(socketDir(t), "notify"), Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			heard := heardBy(t, systemd)
			m := newRedfish(t, "xcc", "ForceOff", "On")
			m.fate = once("ForceOff", stopsAfter)
			slow := time.Time{} // such a server says for some seconds that it is on
			m.service.View = func(path string, r map[string]any) {
				if r["PowerState"] == "Off" {
					if slow.IsZero() {
						slow = time.Now().Add(5 * time.Second)
					}
					if time.Now().Before(slow) {
						r["PowerState"] = "On"
					}
				}
			}
			m.start("NOTIFY_SOCKET=" + systemd.LocalAddr().String())
			begin(m)
			if err := m.dead(); err != nil {
				t.Errorf("the daemon ended with %v: %s", err, m.said.String())
			}
			if got := m.resets(); !slices.Equal(got, []string{"ForceOff", "On"}) {
				t.Errorf("the controller was asked for %q", got)
			}
			if state := m.power(); state != "On" {
				t.Errorf("power is %s", state)
			}
			if said := heard(); !strings.Contains(said, "EXTEND_TIMEOUT_USEC=") || !strings.Contains(said, "stops when srv01 has its power back") {
				t.Errorf("systemd hears %q", said)
			}
		})
	}
}

// A machine behind a program of the site's has its power back as well: after the daemon's death, and when it is told to
// stop; and the program itself is not stopped halfway.
func TestSwitchOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	begin := map[string]func(m *mortal){
		"by hand":  func(m *mortal) { m.api.SwitchPower(m.t.Context(), "srv01", api.PowerAction{Action: "cycle"}) },
		"an order": func(m *mortal) { m.order(api.NewOrder{Confirmed: true}) },
	}
	for _, c := range []struct{ how, signal, log string }{
		{"by hand", "KILL", "off on"},
		{"by hand", "TERM", "off on"},
		{"an order", "KILL", "off on"},
		{"an order", "TERM", "off on"},
	} {
		t.Run(c.how+" "+c.signal, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			program := filepath.Join(dir, "outlet")
			script := "#!/bin/sh\ncd " + dir + "\ncase $1 in status) cat power; exit ;; esac\necho $1 >>log; echo $1 >power\n" +
				"if [ $1 = off ] && [ -e signal ]; then s=$(cat signal); rm signal; kill -$s $PPID; fi\n"
			for name, text := range map[string]string{"outlet": script, "power": "on\n", "signal": c.signal} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			m := newMortal(t, fmt.Sprintf("[machine.power]\nkind = \"command\"\non = [%q, \"on\"]\noff = [%q, \"off\"]\nstatus = [%q, \"status\"]", program, program, program))
			m.start()
			begin[c.how](m)
			if err := m.dead(); c.signal == "TERM" && err != nil {
				t.Errorf("the daemon ended with %v: %s", err, m.said.String())
			}
			read := func(name string) string {
				b, _ := os.ReadFile(filepath.Join(dir, name))
				return strings.Join(strings.Fields(string(b)), " ")
			}
			if c.signal == "KILL" {
				if read("power") != "off" {
					t.Fatalf("power is %s, before anything is shown", read("power"))
				}
				m.start()
				m.until("the machine is on", func() bool { return read("power") == "on" })
			}
			if read("power") != "on" || read("log") != c.log {
				t.Errorf("power is %s after %s", read("power"), read("log"))
			}
		})
	}
}

// A controller that keeps for good what it is told for once has it no more after the order, however that ended, also
// where the daemon died before.
func TestOrderLeavesNoOverride(t *testing.T) {
	t.Parallel()
	for name, dies := range map[string]bool{"in good order": false, "the daemon dies": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newRedfish(t, "supermicro", "PowerCycle", "On")
			m.keep = true
			override := func() (last string) { // what the controller was told last
				for _, r := range m.service.Requests() {
					if b, ok := r.Body["Boot"].(map[string]any); ok {
						last = fmt.Sprint(b["BootSourceOverrideEnabled"], " ", b["BootSourceOverrideTarget"])
					}
				}
				return last
			}
			m.start()
			m.order(api.NewOrder{})
			o := m.ordered()
			m.boots()
			m.tells(o, "power is cycled")
			if override() != "Continuous Pxe" {
				t.Fatalf("the override is %s, before anything is shown", override())
			}
			if dies {
				m.kill()
				m.start()
			}
			if _, err := m.api.Cancel(t.Context(), "srv01"); err != nil {
				t.Fatal(err)
			}
			m.until("the override is gone", func() bool { return override() == "Disabled None" })
			m.tells(o, "was still set in its BMC and is taken back")
		})
	}
}

// heardBy reads a socket, so that nobody has to wait who writes to it; heard is all that came.
func heardBy(t *testing.T, c *net.UnixConn) (heard func() string) {
	t.Helper()
	var all said
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for b := make([]byte, 4096); ; {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			all.Write(append(b[:n:n], '\n'))
		}
	}()
	t.Cleanup(func() { c.Close(); <-ended })
	return func() string {
		const last = "that was all"
		end, err := net.Dial("unixgram", c.LocalAddr().String())
		if err == nil {
			_, err = end.Write([]byte(last))
			end.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "all is read", func() bool { return strings.Contains(all.String(), last) })
		return all.String()
	}
}
