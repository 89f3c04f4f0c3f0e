package appliance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/ssh"

	"rescuebox/appliance/config"
)

// connectMark says that the test runs in the namespace that it made.
const connectMark = "RESCUEBOX_TEST_CONNECT"

// TestConnect takes machines over with the real command, through the whole box: a real
// sshd by a real ssh, and a listener in RemoteRecovery's place by a program in the
// viewer's. It happens in a network namespace of its own, where the rescue LAN is.
//
//	rescuebox connect ── 127.0.0.1:N ── API's socket ── the box 192.168.77.1 ── srv01 192.168.77.101
func TestConnect(t *testing.T) {
	if os.Getenv(connectMark) != "" {
		inConnectNamespace(t)
		return
	}
	for tool, pkg := range map[string]string{"unshare": "util-linux", "ip": "iproute2", "/usr/sbin/sshd": "openssh-server", "ssh": "openssh-client", "bash": "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: apt-get install %s", tool, pkg)
			}
			t.Skipf("%s is missing: apt-get install %s", tool, pkg)
		}
	}
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	command := filepath.Join(t.TempDir(), "rescuebox")
	if out, err := exec.Command("go", "build", "-o", command, "rescuebox/cmd/rescuebox").CombinedOutput(); err != nil {
		t.Fatalf("build the command: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "--mount", self, "-test.run=^TestConnect$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), connectMark+"="+command)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// branch is the box with its LAN.
type branch struct {
	*box
	dir  string
	told chan map[string]any // what the webhook got
}

func inConnectNamespace(t *testing.T) {
	for _, args := range []string{"link set lo up", "link add lan0 type veth peer name port0", "link set lan0 up", "addr add 192.168.77.1/24 dev lo", "addr add 192.168.77.101/32 dev lo", "addr add 192.168.77.102/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	b := newBranch(t)
	t.Run("ssh", b.overSSH)
	t.Run("viewer", b.overViewer)
	t.Run("refused", b.refused)
	t.Run("notify", b.tries)
	t.Run("days later", b.staysUp)
}

// staysUp: a machine that runs for longer than its order's token lives makes another
// ticket. It counts as one without a token, where the address is the machine's.
func (b *branch) staysUp(t *testing.T) {
	if out, err := exec.Command("ip", strings.Fields("neigh add 192.168.77.103 lladdr 52:54:00:12:34:57 dev lan0 nud permanent")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	raw := []byte(`<E><A ID="111-222-333"/><C><T><L P="49161" N="192.168.77.103"/></T></C></E>`)
	for from, known := range map[string]bool{"192.168.77.103": true, "192.168.77.104": false} {
		if err := (agents{b.box}).Ticket("a token of last week", netip.MustParseAddr(from), raw); (err == nil) != known {
			t.Errorf("from %s: %v", from, err)
		}
	}
	list := b.tickets.List("srv02")
	if len(list) == 0 || list[0].Code != "111-222-333" || list[0].Verified || list[0].Order != "" {
		t.Errorf("tickets of srv02: %v", list)
	}
}

// tries: an admin tries the ways to people, and sees what became of all messages.
func (b *branch) tries(t *testing.T) {
	if out, errOut, err := b.rescuebox(t, "", "notify", "test", "trusted"); err != nil || !regexp.MustCompile(`(?m)^trusted +http://127\.0\.0\.1:\d+ +sent +-$`).MatchString(out) {
		t.Errorf("%v: %s%s", err, out, errOut)
	}
	b.isTold(t, func(m map[string]any) bool {
		return m["kind"] == "test" && m["site"] == "kazan-2" && strings.HasSuffix(fmt.Sprint(m["text"]), "there is nothing to do.\n")
	})
	if _, errOut, err := b.rescuebox(t, "", "notify", "test", "nobody"); exitCode(err) != 1 || !strings.Contains(errOut, "hint: there are trusted") {
		t.Errorf("nobody: %v: %s", err, errOut)
	}
	out, _, err := b.rescuebox(t, "", "notify", "list")
	for _, want := range []string{`(?m)^trusted +webhook +http://127\.0\.0\.1:\d+ +ticket failed expired done +yes$`, `ticket +srv02 +http://127\.0\.0\.1:\d+ +sent +1 +-`, `test +- +http`} {
		if err != nil || !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%v: no %s in\n%s", err, want, out)
		}
	}
	b.audited(t, `POST /v1/notifications/test +trusted`)
}

func newBranch(t *testing.T) *branch {
	t.Helper()
	dir := socketDir(t)
	br := &branch{dir: dir, told: make(chan map[string]any, 100)}
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m map[string]any
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Errorf("webhook: %v", err)
		}
		br.told <- m
	}))
	t.Cleanup(hook.Close)
	cfg, err := config.Parse("test.toml", []byte(`
site = "kazan-2"
[lan]
interface = "lan0"
address = "192.168.77.1/24"
dhcp = "off"
[state]
dir = "`+dir+`"
[admin]
socket = "`+dir+`/api.sock"
[[notify.webhook]]
name = "trusted"
url = "`+hook.URL+`/trusted"
credentials = true
kinds = ["ticket", "failed", "expired", "done"]
[[machine]]
name = "srv01"
mac = ["52:54:00:12:34:56"]
[[machine]]
name = "srv02"
mac = ["52:54:00:12:34:57"]
`))
	if err != nil {
		t.Fatal(err)
	}
	if br.box, err = assemble(Options{Config: cfg, Version: "test", Log: zap.NewNop(), Notify: func(string) {}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- br.box.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		br.db.Close()
	})
	for i := 0; ; i++ {
		if _, err := os.Stat(dir + "/api.sock"); err == nil {
			return br
		}
		if i > 300 {
			t.Fatal("the API does not come up")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// rescuebox runs the command under test.
func (b *branch) rescuebox(t *testing.T, stdin string, args ...string) (out, errOut string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(connectMark), args...)
	cmd.Env = append(os.Environ(), "RESCUEBOX_SOCKET="+b.dir+"/api.sock", "HOME="+b.dir, "PATH="+b.dir+":"+os.Getenv("PATH"))
	var o, e bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &o, &e
	began := time.Now()
	err = cmd.Run()
	t.Logf("%.60q took %s", args, time.Since(began))
	return o.String(), e.String(), err
}

// overSSH: ssh through the box runs a command, carries megabytes both ways, and trusts the ticket's host key only.
func (b *branch) overSSH(t *testing.T) {
	hostKey, hostLine := newKey(t, b.dir+"/host_key")
	_, userLine := newKey(t, b.dir+"/id")
	if err := os.WriteFile(b.dir+"/authorized_keys", []byte(userLine+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	startSSHD(t, b.dir, hostKey)
	b.report(t, "srv01", hostLine)
	login := []string{"connect", "srv01", "--", "-i", b.dir + "/id", "-o", "BatchMode=yes"}

	out, errOut, err := b.rescuebox(t, "some input", append(login, "echo on $(uname); cat")...)
	if err != nil || out != "on Linux\nsome input" {
		t.Fatalf("%v: %q\n%s", err, out, errOut)
	}
	big := strings.Repeat("0123456789abcde\n", 1<<18)
	if out, errOut, err := b.rescuebox(t, big, append(login, "cat")...); err != nil || out != big {
		t.Errorf("%v: %d bytes of %d came back\n%s", err, len(out), len(big), errOut)
	}
	if _, _, err := b.rescuebox(t, "", append(login, "exit 3")...); exitCode(err) != 1 {
		t.Errorf("a command that fails: %v", err)
	}
	if text, _ := os.ReadFile(b.dir + "/.ssh/known_hosts"); len(text) > 0 {
		t.Errorf("ssh has learned %s", text)
	}
	b.audited(t, `CLOSE /v1/machines/srv01/connect +srv01 ticket target=192\.168\.77\.101:22 way=\w{8} connections=1 sent=4[0-9]{6} received=4[0-9]{6} after=`)

	_, otherLine := newKey(t, b.dir+"/other_key")
	b.report(t, "srv01", otherLine)
	if _, errOut, err := b.rescuebox(t, "", append(login, "true")...); exitCode(err) != 1 || !strings.Contains(errOut, "Host key verification failed") {
		t.Errorf("with another machine's host key: %v\n%s", err, errOut)
	}
}

func exitCode(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return -1
}

// audited waits until a line of the audit log matches.
func (b *branch) audited(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var out string
	for range 100 {
		out, _, _ = b.rescuebox(t, "", "audit")
		if re.MatchString(out) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("no line of the audit log matches %s:\n%s", pattern, out)
}

// newKey makes a key pair for OpenSSH.
func newKey(t *testing.T, file string) (path, line string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func startSSHD(t *testing.T, dir, hostKey string) {
	t.Helper()
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its privilege separation wants it
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", hostKey, "-o", "ListenAddress=192.168.77.101:22", "-o", "PidFile=none",
		"-o", "AuthorizedKeysFile="+dir+"/authorized_keys", "-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PasswordAuthentication=no")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", log.String())
		}
	})
	for range 300 {
		if c, err := net.Dial("tcp", "192.168.77.101:22"); err == nil {
			c.Close()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("sshd does not come up")
}

// report is what srv01's agent sends, with the token of its order.
func (b *branch) report(t *testing.T, machine, hostLine string) {
	t.Helper()
	text := fmt.Sprintf(`{"kind":"ssh","user":"root","port":22,"addresses":["192.168.77.101"],"hostkey_lines":[%q]}`, hostLine)
	if _, err := b.tickets.Report(machine, "0badcafe", true, netip.MustParseAddr("192.168.77.101"), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// overViewer: a DaRT ticket comes home, the people who may have it are told, and the viewer is started on
// a port of this computer that leads to RemoteRecovery; without a viewer its command is printed.
func (b *branch) overViewer(t *testing.T) {
	l, err := net.Listen("tcp", "192.168.77.102:49161")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.WriteString(c, "RemoteRecovery hears ")
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	const inv32 = `<E><A KH="YiKwWUY8Ioq5NB3wAQHSbs5kwrM=" ID="118-497-589"/><C><T ID="1" SID="1440550163">` +
		`<L P="49160" N="fe80::79e2:3356:9b22:3470%12"/><L P="49161" N="192.168.77.102"/></T></C></E>`
	if _, err := b.tickets.DaRT("srv02", "0badcafe", true, netip.MustParseAddr("192.168.77.102"), []byte(inv32)); err != nil {
		t.Fatal(err)
	}
	const viewer = `DartRemoteViewer.exe -ticket=118-497-589 -ipaddress=192.168.77.102 -port=49161`
	if out, errOut, err := b.rescuebox(t, "", "ticket", "show", "srv02"); err != nil || !strings.Contains(out, viewer) || !strings.Contains(out, "rescuebox connect srv02") {
		t.Errorf("ticket show: %v\n%s%s", err, out, errOut)
	}
	b.isTold(t, func(m map[string]any) bool {
		return m["kind"] == "ticket" && m["machine"] == "srv02" && strings.Contains(fmt.Sprint(m["secret"]), viewer)
	})
	const stub = "#!/bin/bash\n" + `echo "$0 $*" | sed 's/.*Dart/Dart/'
port=${3#-port=} address=${2#-ipaddress=}
exec 3<>/dev/tcp/$address/$port
echo "the viewer" >&3
read -r line <&3
echo "$line"
`
	if err := os.WriteFile(b.dir+"/DartRemoteViewer.exe", []byte(stub), 0o755); err != nil {
		t.Fatal(err)
	}
	out, errOut, err := b.rescuebox(t, "", "connect", "srv02")
	if want := regexp.MustCompile(`^DartRemoteViewer.exe -ticket=118-497-589 -ipaddress=127\.0\.0\.1 -port=\d+\nRemoteRecovery hears the viewer\n$`); err != nil || !want.MatchString(out) {
		t.Errorf("%v: %q\n%s", err, out, errOut)
	}
	os.Remove(b.dir + "/DartRemoteViewer.exe")
	out, errOut, err = b.rescuebox(t, "", "connect", "srv02", "--for", "5s", "--listen", "192.168.77.1:50001")
	if exitCode(err) != 1 || out != "DartRemoteViewer.exe -ticket=118-497-589 -ipaddress=192.168.77.1 -port=50001\n" ||
		!strings.Contains(errOut, "on a Windows PC") || !strings.Contains(errOut, "its time is over") {
		t.Errorf("without a viewer: %v: %q\n%s", err, out, errOut)
	}
	b.audited(t, `CLOSE /v1/machines/srv02/connect .* connections=0 sent=0 received=0 after=[0-9]+s: its time is over`)
}

// isTold waits for a message of the webhook.
func (b *branch) isTold(t *testing.T, wanted func(map[string]any) bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case m := <-b.told:
			if wanted(m) {
				return
			}
		case <-limit:
			t.Error("the webhook was not told")
			return
		}
	}
}

// refused: what is not there, and what lies outside of the box's LAN, is said in a sentence with a hint.
func (b *branch) refused(t *testing.T) {
	_, hostLine := newKey(t, b.dir+"/away")
	for _, tt := range []struct{ address, want string }{
		{"10.1.2.3", "10.1.2.3 is in none of the box's networks"},
		{"192.168.77.150", "srv01 does not answer at 192.168.77.150:22"},
	} {
		text := fmt.Sprintf(`{"kind":"ssh","user":"root","port":22,"addresses":[%q],"hostkey_lines":[%q]}`, tt.address, hostLine)
		if _, err := b.tickets.Report("srv01", tt.address, true, netip.MustParseAddr(tt.address), []byte(text)); err != nil {
			t.Fatal(err)
		}
		_, errOut, err := b.rescuebox(t, "", "connect", "srv01", "--", "-o", "BatchMode=yes", "true")
		if exitCode(err) != 1 || !strings.Contains(errOut, tt.want) {
			t.Errorf("%s: %v\n%s", tt.address, err, errOut)
		}
	}
	b.audited(t, `GET /v1/machines/srv01/connect .* 10.1.2.3 is in none`)
	if _, errOut, err := b.rescuebox(t, "", "connect", "srv03"); exitCode(err) != 1 || !strings.Contains(errOut, "hint: machines are srv01, srv02") {
		t.Errorf("no such machine: %v\n%s", err, errOut)
	}
}
