package modem

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"rescuebox/appliance/link/linktest/guest"
	"rescuebox/appliance/modem/modemtest"
)

// standIn is a program in place of pppd, for what needs no kernel with PPP: what it is
// given, and how it ends. It leaves its arguments, its options file and its pid in dir.
func standIn(t *testing.T, dir, then string) string {
	t.Helper()
	path := filepath.Join(dir, "pppd")
	script := "#!/bin/bash\nprintf '%s\\n' \"$@\" >" + dir + "/args\nenv >" + dir + "/env\n" +
		"case \"$*\" in *'file /proc/self/fd/3'*) cat <&3 >" + dir + "/secrets;; esac\necho $$ >" + dir + "/pid\n" +
		"case \"$*\" in *" + "'" + dialLine + "'" + "*) echo '" + dialLine + "'; cat <&4 >/dev/null;; esac\n" + then
	// Written by another process: a fork of ours meanwhile would keep it open, and a file that
	// somebody writes to cannot be run.
	write := exec.Command("sh", "-c", "cat >"+path+" && chmod +x "+path)
	write.Stdin = strings.NewReader(script)
	if out, err := write.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

const standInUp = `echo "Using interface ppp0"
echo "Connect: ppp0 <--> /dev/ttyUSB3"
echo "local  IP address 10.64.0.5"
echo "remote IP address 10.64.64.64"
echo "primary   DNS address 9.9.9.9"
echo "secondary DNS address 9.9.9.10"
trap 'echo "Terminating on signal 15"; echo "Connection terminated."; exit 5' TERM
while :; do sleep 0.05; done
`

// pppOver is the driver over a fake modem, with a program in place of pppd.
func pppOver(t *testing.T, m *modemtest.Modem, program string) *ppp {
	t.Helper()
	lend := func(_ context.Context, use func(string) error) error { return use(m.Path) }
	p := newPPP(Config{Name: "lte", APN: "internet", User: "u", IPType: "v4", Password: func() (string, error) { return `p"a\ss`, nil }}, lend, "")
	p.connect = func(ctx context.Context) (net.Conn, error) { return inProcess(ctx, program), nil }
	return p
}

// A call that nobody answers but the stand-in: the network's side only holds the line.
func answering(m *modemtest.Modem) {
	o := &modemtest.Operator{Command: func() *exec.Cmd { return exec.Command("cat") }}
	m.Dial = o.Dial
}

func slurp(t *testing.T, path string) string {
	t.Helper()
	var b []byte
	eventually(t, path+" is there", func() bool {
		var err error
		b, err = os.ReadFile(path)
		return err == nil && len(b) > 0
	})
	return string(b)
}

func isDead(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestPPPDialAndProgram(t *testing.T) {
	dir := t.TempDir()
	m := modemtest.Start(t)
	answering(m)
	h := hold(t, pppOver(t, m, standIn(t, dir, standInUp)))
	l := h.up("an address and both servers", func(l Link) bool { return len(l.DNS) == 2 })
	if l.Device != "ppp-lte" || !has([]string{"10.64.0.5/32"}, l) || sprint(l.DNS) != "[9.9.9.9 9.9.9.10]" || l.Gateway.IsValid() {
		t.Errorf("the bearer is %+v", l)
	}
	if log := strings.Join(m.Log(), "|"); !strings.Contains(log, `AT+CGDCONT=1,"IP","internet"`) && !strings.Contains(log, `+CGDCONT=1,"IP","internet"`) || !strings.Contains(log, "D*99***1#") {
		t.Errorf("the modem heard %s", log)
	}
	args, env := slurp(t, dir+"/args"), slurp(t, dir+"/env")
	if strings.Contains(args+env, "ss") && strings.Contains(args+env, `p"a`) {
		t.Errorf("the password is where every user sees it: %s %s", args, env)
	}
	if got := slurp(t, dir+"/secrets"); got != "user \"u\"\npassword \"p\\\"a\\\\ss\"\n" {
		t.Errorf("pppd got the secrets %q", got)
	}
	for _, want := range []string{"nodefaultroute", "usepeerdns", "nodetach", "ifname", "ppp-lte", "noauth", "/bin/true"} {
		if !strings.Contains("\n"+args, "\n"+want+"\n") {
			t.Errorf("pppd was not told %s: %q", want, args)
		}
	}
	pid, err := strconv.Atoi(strings.TrimSpace(slurp(t, dir+"/pid")))
	if err != nil {
		t.Fatal(err)
	}
	h.end()
	if !isDead(pid) {
		t.Error("pppd outlives its bearer")
	}
}

// What pppd says at its end, in words.
func TestPPPEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		then    string
		want    string
		lasting bool
	}{
		"password":     {`echo "PAP authentication failed"; echo "Connection terminated."; exit 19`, "refuses user or password", true},
		"no PPP":       {`echo "LCP: timeout sending Config-Requests"; exit 10`, "does not speak PPP", false},
		"no address":   {`exit 10`, "gave no address", false},
		"hang-up":      {standInUp[:strings.Index(standInUp, "trap")] + `echo "Modem hangup"; exit 16`, "hung up", false},
		"silence":      {standInUp[:strings.Index(standInUp, "trap")] + `echo "No response to 3 echo-requests"; exit 15`, "no longer answers PPP", false},
		"no kernel":    {`exit 4`, "the kernel has no PPP", true},
		"unknown":      {`exit 77`, "status 77", false},
		"killed":       {`kill -KILL $$`, "lost", false},
		"says nothing": {`exit 0`, "pppd ended", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := modemtest.Start(t)
			answering(m)
			err := hold(t, pppOver(t, m, standIn(t, t.TempDir(), tt.then))).lost("the end")
			var r *Refusal
			if !strings.Contains(err.Error(), tt.want) || (errors.As(err, &r) && r.Lasting) != tt.lasting {
				t.Errorf("it says %v, want %q", err, tt.want)
			}
		})
	}
	m := modemtest.Start(t)
	answering(m)
	if err := hold(t, pppOver(t, m, "/nowhere/pppd")).lost("no pppd"); !strings.Contains(err.Error(), "Debian package ppp") {
		t.Errorf("without pppd it says %v", err)
	}
}

func TestPPPDialIsRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		set  func(*modemtest.Modem)
		want string
	}{
		"no carrier": {func(*modemtest.Modem) {}, "NO CARRIER"},
		"wrong APN":  {func(m *modemtest.Modem) { m.Fault("D", modemtest.Answer{Result: "+CME ERROR: 133"}) }, "not subscribed"},
		"bad APN":    {func(m *modemtest.Modem) { m.Fault("+CGDCONT", modemtest.Answer{Result: "ERROR"}) }, "tell the modem the APN"},
		"deaf":       {func(m *modemtest.Modem) { m.Hang(true) }, "says nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := modemtest.Start(t)
			tt.set(m)
			if err := hold(t, pppOver(t, m, standIn(t, t.TempDir(), standInUp))).lost("refused"); !strings.Contains(err.Error(), tt.want) {
				t.Errorf("it says %v, want %q", err, tt.want)
			}
		})
	}
}

// The daemon's death is pppd's: the connection ends, and so does it. What is no request
// is answered by a refusal.
func TestServePPP(t *testing.T) {
	dir := t.TempDir()
	program := standIn(t, dir, standInUp)
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- servePPP(t.Context(), theirs, theirs, program); theirs.Close() }()
	request, err := json.Marshal(pppRequest{Device: "/dev/ttyUSB3", Interface: "ppp-lte", V4: true, V6: true, Auth: "chap"})
	if err != nil {
		t.Fatal(err)
	}
	go ours.Write(append(request, '\n'))
	lines := bufio.NewScanner(ours)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "secondary") {
	}
	pid, err := strconv.Atoi(strings.TrimSpace(slurp(t, dir+"/pid")))
	if err != nil {
		t.Fatal(err)
	}
	if args := slurp(t, dir+"/args"); !strings.Contains(args, "+ipv6") || !strings.Contains(args, "refuse-pap") || strings.Contains(args, "/fd/") {
		t.Errorf("arguments %q", args)
	}
	ours.Close() // as when the daemon is killed
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("pppd goes on")
	}
	if !isDead(pid) {
		t.Error("pppd goes on")
	}
}

// Nobody makes pppd run a program of his, or open something else than a serial port.
func TestPPPRequests(t *testing.T) {
	for _, r := range []string{
		``, `{}`, `{"device":"/etc/shadow","interface":"x","v4":true}`, `{"device":"/dev/../etc/shadow","interface":"x","v4":true}`,
		`{"device":"connect","interface":"x","v4":true}`, `{"device":"/dev/ttyUSB0 connect /bin/sh","interface":"x","v4":true}`,
		`{"device":"/dev/ttyUSB0","interface":"x y","v4":true}`, `{"device":"/dev/ttyUSB0","interface":"","v4":true}`,
		`{"device":"/dev/ttyUSB0","interface":"waytoolonganame0","v4":true}`, `{"device":"/dev/ttyUSB0","interface":"x"}`,
		`{"device":"/dev/ttyUSB0","interface":"x","v4":true,"user":"a\nconnect /bin/sh"}`,
		`{"device":"/dev/ttyUSB0","interface":"x","v4":true,"password":"a\nplugin evil.so"}`,
		`{"device":"/dev/ttyUSB0","interface":"x","v4":true,"auth":"eap"}`, `{"device":"/dev/ttyUSB0","interface":"x","v4":true,"plugin":"evil.so"}`,
	} {
		var out strings.Builder
		if err := servePPP(t.Context(), strings.NewReader(r+"\n"), &out, "/bin/true"); err == nil {
			t.Errorf("%s is taken", r)
		}
	}
	// And what is quoted is one word to pppd, whatever it is.
	if got := pppQuoted(`a" connect "x\`); got != `"a\" connect \"x\\"` {
		t.Errorf("quoted %s", got)
	}
}

// The real pppd against the real pppd, with Debian's kernel: an address, a frozen network noticed, a redial under
// another index, a password that only pppd sees, the goodbye.
func TestGuestPPP(t *testing.T) {
	if !guest.Inside(t) {
		return
	}
	shell(t, `ip netns add op; printf 'u * "p\\"a\\\\ss" *\n' >/etc/ppp/pap-secrets`)
	m := modemtest.Start(t)
	o := &modemtest.Operator{Command: func() *exec.Cmd {
		return exec.Command("ip", "netns", "exec", "op", "pppd", "notty", "local", "nodetach", "nodefaultroute", "debug", "auth", "require-pap",
			"ms-dns", "9.9.9.9", "lcp-echo-interval", "0", "logfile", "/tmp/operator", "10.64.64.64:10.64.0.5")
	}}
	m.Dial = o.Dial
	// With no more of root's powers than rescuebox-ppp@.service has.
	pppd := filepath.Join(t.TempDir(), "pppd")
	if err := os.WriteFile(pppd, []byte("#!/bin/sh\nexec setpriv --bounding-set=-all,+net_admin --inh-caps=-all --no-new-privs pppd \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := pppOver(t, m, pppd)
	ours := &program{}
	p.connect = func(ctx context.Context) (net.Conn, error) { return heard{inProcess(ctx, pppd), ours}, nil }
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("our pppd: %s\nthe operator's: %s\nthe modem heard %q", ours.said(), shell(t, "cat /tmp/operator || true"), m.Log())
		}
	})
	began := time.Now()
	h := hold(t, p)
	l := h.up("an address", func(l Link) bool { return len(l.DNS) == 1 })
	t.Logf("dialled in %v", time.Since(began))
	if l.Device != "ppp-lte" || !has([]string{"10.64.0.5/32"}, l) || sprint(l.DNS) != "[9.9.9.9]" {
		t.Errorf("the bearer is %+v", l)
	}
	// Its side may be up a moment later than ours.
	shell(t, "for i in 1 2 3 4 5 6 7 8 9 10; do ip netns exec op ping -c1 -W2 10.64.0.5 && exit 0; sleep 0.5; done; exit 1")
	if routes := shell(t, "ip route show default"); routes != "" {
		t.Errorf("a default route in the main table: %s", routes)
	}
	if _, err := os.Stat("/etc/resolv.conf"); err == nil {
		t.Error("the operator's DNS is in /etc/resolv.conf")
	}
	if all := commandLines(t); strings.Contains(all, `p"a`) || !strings.Contains(all, "file /proc/self/fd/3") {
		t.Errorf("the password is in the list of processes, or pppd is not: %s", all)
	}
	index := indexOf(t, l.Device)
	frozen, _ := o.Call()
	if err := frozen.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	err := h.lost("frozen")
	t.Logf("the frozen network was noticed after %v: %v", time.Since(began), err)
	frozen.Process.Kill()
	h.end()
	began = time.Now()
	h = hold(t, p)
	l = h.up("redialled", func(Link) bool { return true })
	t.Logf("redialled in %v\n%s", time.Since(began), shell(t, "tail -60 /tmp/operator"))
	if again := indexOf(t, l.Device); again == index {
		t.Errorf("the index is %d as before: the test shows nothing", again)
	}
	_, ended := o.Call()
	h.end()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the network was not told that the call is over")
	}
	p.access.password = func() (string, error) { return "wrong", nil }
	if err := hold(t, p).lost("refused"); !strings.Contains(err.Error(), "user or password") {
		t.Errorf("a wrong password: %v", err)
	}
}

// commandLines are those of all processes: what every user sees of them. One that ends meanwhile is not among them.
func commandLines(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var all strings.Builder
	for _, file := range files {
		b, _ := os.ReadFile(file)
		fmt.Fprintln(&all, strings.ReplaceAll(string(b), "\x00", " "))
	}
	return all.String()
}

// heard is a connection of which somebody else hears what is read.
type heard struct {
	net.Conn
	too io.Writer
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	_, _ = h.too.Write(b[:n])
	return n, err
}

func indexOf(t *testing.T, name string) int {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Index
}
