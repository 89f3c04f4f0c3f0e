package wine

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	machineIP = "192.168.77.100"
	patience  = 3 * time.Minute // Wine on a busy machine
	inside    = "RESCUEBOX_IN_NAMESPACE"
)

func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	// The namespace is gone with the last process in it.
	script := `ip link set lo up && ip link add card type veth peer name port && ip address add ` + machineIP + `/24 dev card &&
		ip link set card up && ip link set port up && exec "$0" "$@"`
	cmd := exec.Command("unshare", append([]string{"--net", "sh", "-c", script, os.Args[0]}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() < 0 {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}

func need(t *testing.T, tool, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err == nil {
		return
	}
	missing(t, tool+" is missing: apt-get install "+debianPackage)
}

func missing(t *testing.T, text string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// pc is a Windows in a directory.
type pc struct {
	*PC
	t *testing.T
}

func newPC(t *testing.T) *pc {
	if os.Getenv(inside) == "" {
		missing(t, "this test makes a network namespace: run it as root")
	}
	for tool, pkg := range Tools {
		need(t, tool, pkg)
	}
	need(t, "unshare", "util-linux")
	p, err := Install(filepath.Join(t.TempDir(), "prefix"), "testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Off)
	return &pc{p, t}
}

func (p *pc) write(path, text string) {
	p.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		p.t.Fatal(err)
	}
}

// build puts the agent where the box would.
func (p *pc) build(legacy bool) {
	p.t.Helper()
	args := []string{"build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w -X main.version=test", "-o", p.System32("rescue-agent.exe")}
	env := append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if legacy {
		args = append(args, "-modfile=cmd/rescue-agent/agent.mod")
		env = append(env, "GOTOOLCHAIN=go1.20.14", "GOFLAGS=")
	}
	cmd := exec.Command("go", append(args, "./cmd/rescue-agent")...)
	cmd.Dir, cmd.Env = "../../..", env
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("build the agent: %v\n%s", err, out)
	}
}

// boot is what winpeshl.exe does with its line for the agent.
func (p *pc) boot(box *box, dart bool) time.Duration {
	p.t.Helper()
	p.write(p.System32("rescue-agent.json"),
		fmt.Sprintf(`{"server":"http://%s","token":"tok3n","machine":"srv01","order":"ab12cd34","dart":%v}`, box.addr, dart))
	begin := time.Now()
	out, err := p.Run(`C:\windows\system32\rescue-agent.exe`, "start")
	if err != nil {
		p.t.Fatal(err)
	}
	if strings.Contains(out, "tok3n") {
		p.t.Errorf("the token is on the screen:\n%s", out)
	}
	return time.Since(begin)
}

// box is what the rescue box would see.
type box struct {
	t    *testing.T
	addr string

	mu    sync.Mutex
	seen  []request
	keys  string
	serve *http.Server
}

type request struct{ what, token, agent, body string }

func newBox(t *testing.T) *box {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, addr: l.Addr().String()}
	b.start(l)
	t.Cleanup(b.away)
	return b
}

func (b *box) start(l net.Listener) {
	s := &http.Server{Handler: b}
	b.serve = s
	go s.Serve(l)
}

func (b *box) away() { b.serve.Close() }

// back is at the address where it was: nobody else is in this namespace.
func (b *box) back() {
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.start(l)
}

func (b *box) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, request{r.Method + " " + r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("User-Agent"), string(body)})
	if r.URL.Path == "/agent/keys" {
		io.WriteString(w, b.keys)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// wait is for a request.
func (b *box) wait(what string) request {
	b.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		b.mu.Lock()
		for _, r := range b.seen {
			if r.what == what {
				b.mu.Unlock()
				return r
			}
		}
		b.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.t.Fatalf("the box saw no %s, but %v", what, b.seen)
	return request{}
}

func (b *box) fresh() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = nil
}

const ticket = "\xef\xbb\xbf" + `<E><A KH="YiKwWUY8Ioq5NB3wAQHSbs5kwrM=" ID="118-497-589"/><C><T ID="1" SID="1440550163">` + "\r\n" +
	`<L P="49749" N="fe80::6cf0:c374:dffd:c82%12"/><L P="49751" N="192.168.77.100"/></T></C></E>` + "\r\n"

// Both builds, one after the other in one Windows: to install it takes longer than all the rest.
func TestAgent(t *testing.T) {
	if testing.Short() {
		t.Skip("installs Wine's Windows")
	}
	p, b := newPC(t), newBox(t)
	p.write(filepath.Join(p.Prefix, "drive_c/ticket.xml"), ticket)
	for _, legacy := range []bool{true, false} {
		name := map[bool]string{true: "legacy", false: "current"}[legacy]
		p.build(legacy)
		t.Run(name+" brings DaRT's ticket to a box that is away", func(t *testing.T) { p.ticket(t, b) })
		t.Run(name+" starts RemoteRecovery again", func(t *testing.T) { p.dies(t, b) })
	}
	t.Run("current serves SSH", func(t *testing.T) { p.ssh(t, b) })
}

// clean is this Windows after another start.
func (p *pc) clean(b *box) {
	p.Off()
	os.Remove(p.System32("inv32.xml"))
	os.Remove(filepath.Join(p.Prefix, "drive_c/started.txt"))
	b.fresh()
}

func (p *pc) started() string {
	text, _ := os.ReadFile(filepath.Join(p.Prefix, "drive_c/started.txt"))
	return string(text)
}

const startedOnce = `C:\windows\System32|-nomessage` + "\n"

func (p *pc) ticket(t *testing.T, b *box) {
	p.clean(b)
	b.away()
	took := p.boot(b, true)
	if _, err := os.Stat(p.System32("inv32.xml")); err != nil {
		t.Fatalf("the menu came after %v, without a ticket: %v", took, err)
	}
	if got := p.started(); got != startedOnce {
		t.Errorf("RemoteRecovery.exe was started as %q", got)
	}
	time.Sleep(3 * time.Second) // in which the agent finds nobody
	b.back()
	got := b.wait("PUT /agent/ticket")
	if want := (request{"PUT /agent/ticket", "Bearer tok3n", "rescue-agent/test", ticket}); got != want {
		t.Errorf("the box got %q\nwant %q", got, want)
	}
	for _, file := range []string{"rescue-agent.log", "inv32.xml.bak"} {
		if _, err := os.Stat(p.System32(file)); err == nil {
			t.Errorf("the agent left %s", file)
		}
	}
}

func (p *pc) dies(t *testing.T, b *box) {
	p.clean(b)
	p.write(filepath.Join(p.Prefix, "drive_c/die.txt"), "")
	p.boot(b, true)
	got := b.wait("PUT /agent/ticket")
	if got.body != ticket {
		t.Errorf("the box got %q", got)
	}
	if said := b.wait("POST /agent/say"); !strings.Contains(said.body, "RemoteRecovery.exe ended with code 3") || bytes.Contains([]byte(said.body), []byte("497")) {
		t.Errorf("the box was told %q", said)
	}
	if got := p.started(); got != startedOnce+startedOnce {
		t.Errorf("RemoteRecovery.exe was started as %q", got)
	}
}
