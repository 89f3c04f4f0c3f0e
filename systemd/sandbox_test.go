package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The sandbox leaves the daemon what it needs: as another user, with nothing
// but the unit's capabilities, it gets ready, gives an address by raw frames
// and answers HTTP at port 80, makes its VPN, shares the LAN with it and guards the
// metered uplink; and nothing that it or nft asks of the kernel on the way, as
// strace has it, is what the unit forbids.
func TestDaemonLivesInItsSandbox(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the daemon")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	for name, pkg := range map[string]string{"strace": "strace", "setpriv": "util-linux", "ip": "iproute2", "busybox": "busybox", "nft": "nftables"} {
		tool(t, name, pkg)
	}
	u := parseUnit(read(t, unitFile))
	ns := network(t)
	d := startSandboxed(t, ns, u)

	// The client's view: it has a lease, and an answer over HTTP.
	run(t, "ip", "netns", "exec", ns, "busybox", "udhcpc", "-i", "peer", "-f", "-n", "-q", "-t", "10", "-T", "1", "-s", "/bin/true")
	answer := run(t, "ip", "netns", "exec", ns, "bash", "-c",
		`exec 3<>/dev/tcp/192.168.77.1/80 && printf 'GET /boot/ HTTP/1.0\r\n\r\n' >&3 && head -1 <&3`)
	if !strings.HasPrefix(answer, "HTTP/1.") {
		t.Errorf("HTTP: %q", answer)
	}
	wayIn(t, ns)
	d.stop(t)

	calls := d.calls(t)
	allowed := allowedCalls(t, u["SystemCallFilter"])
	families := strings.Fields(strings.Join(u["RestrictAddressFamilies"], " "))
	for _, c := range calls {
		switch {
		case c.name == "adjtimex":
			// Where that is forbidden, systemd is asked: living/ has the whole of it.
		case !allowed[c.name]:
			t.Errorf("SystemCallFilter= forbids %s", c.line)
		case c.name == "socket" && !slices.Contains(families, c.firstArg()):
			t.Errorf("RestrictAddressFamilies= forbids %s", c.line)
		case strings.HasPrefix(c.name, "m") && strings.Contains(c.line, "PROT_WRITE|PROT_EXEC"):
			t.Errorf("MemoryDenyWriteExecute= forbids %s", c.line)
		case strings.Contains(c.line, `"/tmp/grubia32-`) && slices.Contains(u["PrivateTmp"], "yes"):
			// grub-mkimage's output, in the daemon's own /tmp.
		case c.device() != "" && !slices.Contains(d.devices, c.device()):
			t.Errorf("DeviceAllow= forbids %s", c.line)
		case c.writes() && !strings.Contains(c.line, d.dir) && c.device() == "" && !inAny(u["ReadWritePaths"], c.line):
			t.Errorf("ProtectSystem=strict and ProtectKernelTunables= forbid %s", c.line)
		}
	}
	for _, name := range []string{"execve", "socket", "bind", "openat", "exit_group"} {
		if !slices.ContainsFunc(calls, func(c call) bool { return c.name == name }) {
			t.Errorf("strace saw no %s in %d calls: it did not see the daemon", name, len(calls))
		}
	}
}

// wayIn waits for the VPN, and for the packet filters around it.
func wayIn(t *testing.T, ns string) {
	t.Helper()
	for _, command := range []string{"ip address show dev rescuevpn", "nft list table inet rescuebox_vpn", "nft list table inet rescuebox_link"} {
		for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			out, err := exec.Command("ip", append([]string{"netns", "exec", ns}, strings.Fields(command)...)...).CombinedOutput()
			if err == nil {
				break
			}
			if time.Now().After(end) {
				t.Errorf("%s: %s", command, out)
				break
			}
		}
	}
}

func inAny(paths []string, line string) bool {
	return slices.ContainsFunc(strings.Fields(strings.Join(paths, " ")), func(p string) bool { return strings.Contains(line, `"`+strings.TrimPrefix(p, "-")+"/") })
}

// network is a namespace with the rescue LAN on one end of a cable and a
// client's card on the other, and two uplinks that nobody answers on.
func network(t *testing.T) string {
	t.Helper()
	ns := fmt.Sprintf("config-%d-unit", os.Getpid())
	run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	for _, args := range []string{
		"link set lo up", "link add lan type veth peer name peer",
		"addr add 192.168.77.1/24 dev lan", "link set lan up", "link set peer up",
		"link add wan type veth peer name isp1", "addr add 192.0.2.10/24 dev wan", "link set wan up", "link set isp1 up", "route add default via 192.0.2.1 dev wan",
		"link add lte type veth peer name isp2", "addr add 198.51.100.10/24 dev lte", "link set lte up", "link set isp2 up",
	} {
		run(t, "ip", append([]string{"-n", ns}, strings.Fields(args)...)...)
	}
	return ns
}

// sandboxed is the daemon under strace.
type sandboxed struct {
	dir     string // all that it may write
	devices []string
	trace   string
	cmd     *exec.Cmd
	log     *strings.Builder
}

const nobody = "65534"

func startSandboxed(t *testing.T, ns string, u map[string][]string) *sandboxed {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} { // MkdirTemp lets nobody else in
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	binary, site := filepath.Join(dir, "rescueboxd"), filepath.Join(dir, "site.toml")
	run(t, "go", "build", "-o", binary, "../cmd/rescueboxd")
	write(t, site, `site = "sandbox"
[lan]
interface = "lan"
address = "192.168.77.1/24"
dhcp = "full"
range = ["192.168.77.100", "192.168.77.199"]
[admin]
socket = "`+dir+`/run/api.sock"
group = "nogroup"
[state]
dir = "`+dir+`/state"
[[uplink]]
name = "wan"
interface = "wan"
[[uplink]]
name = "lte"
interface = "lte"
metered = true
[[modem]]
name = "lte"
port = "/dev/ttyUSB99"
data = "none"
[vpn]
address = "10.99.0.2/24"
share_lan = true
[[vpn.hub]]
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
endpoint = ["203.0.113.1:51820"]
`)
	for _, d := range []string{"run", "state"} {
		run(t, "install", "-d", "-o", nobody, "-g", nobody, filepath.Join(dir, d))
	}
	notify := listenNotify(t, filepath.Join(dir, "notify"))
	s := &sandboxed{dir: dir, trace: filepath.Join(dir, "trace"), log: &strings.Builder{}}
	s.devices = append(devices(u), filepath.Join(dir, "devices/tun"))
	// The tunnel's device, open to all as udev leaves it.
	const tun = `mkdir "$0" && mount -t tmpfs -o mode=755 tmpfs "$0" && mknod -m 666 "$0/tun" c 10 200 && mount --bind "$0/tun" /dev/net/tun && exec "$@"`
	args := []string{"netns", "exec", ns, "sh", "-c", tun, filepath.Join(dir, "devices"), "strace", "-D", "-f", "-qq", "-y", "-o", s.trace, "setpriv"}
	args = append(args, privileges(u)...)
	s.cmd = exec.Command("ip", append(args, binary, "-config", site)...)
	s.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait() // for the end of the log; where the daemon was stopped it is over already
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", s.log)
		}
	})
	if !ready(notify) {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		t.Fatal("the daemon is not ready in 60 s")
	}
	return s
}

// devices are those that DevicePolicy=closed leaves, and those that the unit names.
func devices(u map[string][]string) []string {
	list := []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"}
	for _, v := range u["DeviceAllow"] {
		list = append(list, strings.Fields(v)[0])
	}
	return list
}

// privileges are the arguments of setpriv for what the unit grants.
func privileges(u map[string][]string) []string {
	caps := "-all"
	for _, c := range strings.Fields(u["AmbientCapabilities"][0]) {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	return []string{
		"--reuid=" + nobody, "--regid=" + nobody, "--clear-groups", "--no-new-privs",
		"--bounding-set=" + caps, "--inh-caps=" + caps, "--ambient-caps=" + caps,
	}
}

func listenNotify(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ready waits for the daemon's word to systemd.
func ready(notify *net.UnixConn) bool {
	notify.SetReadDeadline(time.Now().Add(time.Minute))
	for buf := make([]byte, 4096); ; {
		n, err := notify.Read(buf)
		if err != nil {
			return false
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return true
		}
	}
}

// stop ends the daemon. Under strace its parts may need longer than the two seconds that it has for them, and then
// it says so and exits with 1: living/ and the appliance's tests have it end by itself.
func (s *sandboxed) stop(t *testing.T) {
	t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	var exit *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		t.Errorf("the daemon ended with %v", err)
	}
}

// call is one system call in strace's words, without the process's number.
type call struct{ name, line string }

func (c call) firstArg() string {
	_, args, _ := strings.Cut(c.line, "(")
	arg, _, _ := strings.Cut(args, ",")
	return arg
}

// writes reports whether the call opened a file to write to.
func (c call) writes() bool {
	return c.name == "openat" && !strings.Contains(c.line, "O_RDONLY") && !strings.Contains(c.line, " = -1 ")
}

// device is the one that the call opened, or "".
func (c call) device() string {
	m := opened.FindStringSubmatch(c.line)
	if c.name != "openat" || m == nil {
		return ""
	}
	return m[1]
}

var opened = regexp.MustCompile(`"(/dev/[^"]*)".* = \d`)

var resumed = regexp.MustCompile(`^\d+ +<\.\.\. \w+ resumed>(.*)$`)

var callLine = regexp.MustCompile(`^\d+ +((\w+)\(.*)$`)

// calls are those of the daemon: what came after the last execve, setpriv's.
func (s *sandboxed) calls(t *testing.T) []call {
	t.Helper()
	var calls []call
	begun := map[string]string{} // calls that others came between, by their process
	for _, line := range strings.Split(read(t, s.trace), "\n") {
		pid, _, _ := strings.Cut(line, " ")
		if first, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
			begun[pid] = first
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = begun[pid] + m[1]
		}
		m := callLine.FindStringSubmatch(line)
		if m == nil {
			continue // a signal, an exit
		}
		if m[2] == "execve" && strings.Contains(line, "rescueboxd") {
			calls = nil
		}
		calls = append(calls, call{m[2], m[1]})
	}
	return calls
}

// allowedCalls applies the filters of the unit in their order, as systemd does:
// the first one makes a list of what is allowed, the others add to it or,
// with ~, take away.
func allowedCalls(t *testing.T, filters []string) map[string]bool {
	t.Helper()
	sets := callSets(t)
	allowed := map[string]bool{}
	for _, f := range filters {
		names, deny := strings.CutPrefix(f, "~")
		for _, name := range strings.Fields(names) {
			expand(sets, name, func(call string) { allowed[call] = !deny })
		}
	}
	// systemd allows these to every service with a filter.
	expand(sets, "@default", func(call string) { allowed[call] = true })
	return allowed
}

func expand(sets map[string][]string, name string, each func(call string)) {
	if !strings.HasPrefix(name, "@") {
		each(name)
		return
	}
	for _, n := range sets[name] {
		expand(sets, n, each)
	}
}

// callSets are systemd's groups of system calls.
func callSets(t *testing.T) map[string][]string {
	t.Helper()
	sets := map[string][]string{}
	set := ""
	for _, line := range strings.Split(run(t, "systemd-analyze", "syscall-filter", "--no-pager"), "\n") {
		entry := strings.TrimSpace(line)
		switch {
		case entry == "" || strings.HasPrefix(entry, "#"):
		case strings.HasPrefix(line, "@"):
			set = entry
		default:
			sets[set] = append(sets[set], entry)
		}
	}
	if len(sets["@system-service"]) == 0 {
		t.Fatal("systemd-analyze syscall-filter lists no @system-service")
	}
	return sets
}
