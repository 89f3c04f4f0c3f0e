package httpboot

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// tool skips where a peer is not installed, and fails in CI with its package.
func tool(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: apt-get install %s", name, pkg)
		}
		t.Skipf("%s is missing: apt-get install %s", name, pkg)
	}
	for _, proxy := range []string{"http_proxy", "all_proxy", "ALL_PROXY"} { // of the machine that tests run on
		t.Setenv(proxy, "")
	}
}

func TestCurlResumes(t *testing.T) {
	tool(t, "curl", "curl")
	tree, data := treeWith(t, 2<<20)
	url, _ := start(t, tree, nil)
	out := filepath.Join(t.TempDir(), "out")
	if said, err := exec.Command("curl", "-sS", "-f", "-r", "0-777776", "-o", out, url+"/f").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	said, err := exec.Command("curl", "-sS", "-f", "-C", "-", "-o", out, url+"//boot//525400123456//f").CombinedOutput()
	got, _ := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v: %s", len(got), err, said)
	}
	eventually(t, "served", func() bool { s, _, _ := tree.seen(); return len(s) == 1 })
	served, _, progress := tree.seen()
	if len(served) != 1 || progress != int64(len(data)) {
		t.Errorf("served %v, progress %d", served, progress)
	}
}

func TestCurlUsesOneConnection(t *testing.T) {
	tool(t, "curl", "curl")
	tree, _ := treeWith(t, 100_000)
	url, _ := start(t, tree, nil)
	said, err := exec.Command("curl", "-sS", "-v", "-I", url+"/f", "--next", "-v", "-sS", "-o", os.DevNull, url+"/f",
		"--next", "-v", "-sS", "-o", os.DevNull, url+"/none", "--next", "-v", "-sS", "-o", os.DevNull, url+"/boot.ipxe").CombinedOutput()
	if n := strings.Count(string(said), "Re-using existing connection"); err != nil || n != 3 {
		t.Errorf("used again %d times, %v: %s", n, err, said)
	}
}

// TestFilesGoOutBySendfile watches the server's system calls.
func TestFilesGoOutBySendfile(t *testing.T) {
	tool(t, "strace", "strace")
	tree, data := treeWith(t, 5<<20)
	addr := freeAddress(t).String()
	trace := filepath.Join(t.TempDir(), "trace")
	serve := exec.Command("strace", "-f", "-qq", "-o", trace, "-e", "trace=sendfile", os.Args[0])
	serve.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // strace holds signals back from what it traces
	serve.Env = append(os.Environ(), "HTTPBOOT_TEST_SERVE="+addr+","+tree.dir)
	stdout, err := serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		syscall.Kill(-serve.Process.Pid, syscall.SIGKILL)
		serve.Wait()
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Skipf("strace cannot trace here: %q, %v", line, err)
	}
	resp, err := http.Get("http://" + addr + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	eventually(t, "all but the first bytes by sendfile", func() bool {
		lines, _ := os.ReadFile(trace)
		sum := 0
		for _, m := range regexp.MustCompile(`(?m)sendfile.* = (\d+)$`).FindAllSubmatch(lines, -1) {
			n, _ := strconv.Atoi(string(m[1]))
			sum += n
		}
		return sum >= len(data)-512 && sum <= len(data)
	})
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("GET //boot//525400123456//f HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2,3-4\r\n\r\n"))
	f.Add([]byte("HEAD /f HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("POST /agent/up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"))
	f.Add([]byte("PUT /inv32.xml HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n<E/>"))
	f.Add([]byte("POST / HTTP/1.0\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 58\r\n\r\n--b\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nx\r\n--b--"))
	f.Add([]byte("GET /MDTMonitorEvent/PostEvent?dartTicket=1&message=%zz HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("GET /boot\\..\\f%00 HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"\r\n\r\n"))
	tree, _ := treeWith(f, 1000)
	core, logged := observer.New(zap.DebugLevel)
	url, _ := start(f, tree, func(s *Server) { s.Agents, s.Tickets, s.Log = &agents{}, &desk{}, zap.New(core) })
	f.Fuzz(func(t *testing.T, p []byte) {
		if bytes.Contains(p, []byte("panic")) { // the tree's own
			return
		}
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(15 * time.Second))
		c.Write(p)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		for _, e := range logged.TakeAll() {
			if strings.Contains(e.Message, "panic") {
				t.Fatal(fmt.Sprint(e.Message))
			}
		}
	})
}
