package modem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// alone runs the test once more, in a process with network and mounts of its own, and
// reports whether this is that process. The whole process is there, so nothing that it
// does can reach this machine's network.
func alone(t *testing.T) bool {
	t.Helper()
	const mark = "RESCUEBOX_TEST_ALONE"
	if os.Getenv(mark) == t.Name() {
		shell(t, "ip link set lo up")
		// Who sets up this machine's interfaces has nothing to say about ours, which may have their numbers and names.
		shell(t, "mount --make-rprivate /; for d in /run/systemd /run/network /run/dbus; do if [ -d $d ]; then mount -t tmpfs none $d; fi; done")
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	needTool(t, "ip", "iproute2")
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), mark+"="+t.Name(), "DBUS_SYSTEM_BUS_ADDRESS=") // that in /run
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skipf("%s", out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

func needTool(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	t.Skipf("%s is missing: apt-get install %s", name, pkg)
}

// shell returns what the lines print; not what they complain of, such as ip of a list that changed while it was read.
func shell(t *testing.T, lines string) string {
	t.Helper()
	var out, complaint strings.Builder
	cmd := exec.Command("sh", "-ec", lines)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", lines, err, &out, &complaint)
	}
	return strings.TrimSpace(out.String())
}

// far is the modem's side of a cable: a namespace with one device.
type far struct {
	t   *testing.T
	pid int
}

// cable makes a device and the modem behind it.
func cable(t *testing.T, device string) *far {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	f := &far{t, cmd.Process.Pid}
	f.plug(device)
	return f
}

// plug puts the cable in, after an unplug with another index.
func (f *far) plug(device string) {
	f.t.Helper()
	shell(f.t, fmt.Sprintf("ip link add %s type veth peer name modem0 netns %d", device, f.pid))
	f.run("ip link set lo up; ip link set modem0 up; ip addr add 192.168.8.1/24 dev modem0; ip addr add 2001:db8:8::1/64 dev modem0 nodad")
}

func (f *far) run(lines string) string {
	f.t.Helper()
	return shell(f.t, fmt.Sprintf("nsenter -t %d -n sh -ec '%s'", f.pid, lines))
}

// reaches pings an address from the modem's side; a neighbour that was not there a moment ago takes some.
func (f *far) reaches(address string) {
	f.t.Helper()
	f.run("for i in 1 2 3 4 5 6 7 8 9 10; do ping -q -c1 -W2 " + address + " && exit 0; sleep 0.5; done; exit 1")
}

// program runs in the modem's namespace until the end of the test, or until end.
type program struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	log bytes.Buffer
}

func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *program) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (f *far) start(args ...string) *program {
	f.t.Helper()
	p := &program{cmd: exec.Command("nsenter", append([]string{"-t", strconv.Itoa(f.pid), "-n"}, args...)...)}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(p.end)
	return p
}

func (p *program) end() {
	if p.cmd.ProcessState == nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
}

// dnsmasq is the modem's DHCP server. Which of its hundred addresses a device gets follows from its MAC.
func (f *far) dnsmasq(more ...string) *program {
	f.t.Helper()
	needTool(f.t, "dnsmasq", "dnsmasq-base")
	args := []string{"dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root", "--log-dhcp", "--no-ping", "--bind-dynamic",
		"--interface=modem0", "--dhcp-authoritative", "--pid-file=", "--dhcp-leasefile=" + filepath.Join(f.t.TempDir(), "leases"),
		"--dhcp-range=192.168.8.100,192.168.8.199,255.255.255.0,2m", "--dhcp-option=3,192.168.8.1",
		"--dhcp-option=6,10.9.9.9,10.9.9.8", "--dhcp-option=26,1400"}
	p := f.start(append(args, more...)...)
	eventually(f.t, "dnsmasq is up", func() bool { return strings.Contains(p.said(), "DHCP, IP range") })
	return p
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// holding is a driver that holds, and what it said.
type holding struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
	mu     sync.Mutex
	said   []Link
	err    error
}

func hold(t *testing.T, d driver) *holding {
	ctx, cancel := context.WithCancel(context.Background())
	h := &holding{t: t, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(h.ended)
		err := d.hold(ctx, func(l Link) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.said = append(h.said, l)
		})
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err = err
	}()
	t.Cleanup(h.end)
	return h
}

// end lets go, as when the daemon stops.
func (h *holding) end() {
	h.cancel()
	select {
	case <-h.ended:
	case <-time.After(time.Minute):
		h.t.Error("the driver does not let go")
	}
}

func (h *holding) last() Link {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.said) == 0 {
		return Link{}
	}
	return h.said[len(h.said)-1]
}

func (h *holding) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

func (h *holding) up(what string, ok func(Link) bool) Link {
	h.t.Helper()
	h.t.Cleanup(func() {
		if h.t.Failed() {
			h.t.Logf("%s: what it said last is %+v", what, h.last())
		}
	})
	eventually(h.t, what, func() bool {
		if err := h.failed(); err != nil {
			h.t.Fatalf("%s: it ended: %v", what, err)
		}
		l := h.last()
		return l.Up() && ok(l)
	})
	return h.last()
}

func (h *holding) lost(what string) error {
	h.t.Helper()
	eventually(h.t, what, func() bool { return h.failed() != nil })
	return h.failed()
}

func has(list []string, l Link) bool {
	var got []string
	for _, p := range l.Addresses {
		got = append(got, p.String())
	}
	return slices.Equal(list, got)
}

func isLost(t *testing.T, err error, words string) {
	t.Helper()
	if !errors.Is(err, errLost) || !strings.Contains(err.Error(), words) {
		t.Errorf("it was lost by %v, want %q in it", err, words)
	}
}
