package httpboot

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// treeWith is a tree with a file "f" of so many random bytes.
func treeWith(t testing.TB, size int) (*dirTree, []byte) {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	tree := &dirTree{dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(tree.dir, "f"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return tree, data
}

// freeAddress is a port of an address of its own: nobody takes it before the server does.
func freeAddress(t testing.TB) netip.AddrPort {
	t.Helper()
	probe, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.1:0", mathrand.IntN(256), 1+mathrand.IntN(255)))
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	return probe.Addr().(*net.TCPAddr).AddrPort()
}

// start runs a server on a loopback port until the test ends, or stop is called.
func start(t testing.TB, tree Tree, change func(*Server)) (url string, stop func() time.Duration) {
	t.Helper()
	addr := freeAddress(t)
	s := &Server{Addr: addr, Site: "kazan-2", Tree: tree}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	var once sync.Once
	stop = func() (took time.Duration) {
		once.Do(func() {
			begin := time.Now()
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			took = time.Since(begin)
		})
		return took
	}
	t.Cleanup(func() { stop() })
	return "http://" + addr.String(), stop
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited 30 s in vain for: %s", what)
}

// do asks with headers given in pairs.
func do(t *testing.T, method, url string, body io.Reader, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r) // follows no redirect
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(got)
}

func TestFile(t *testing.T) {
	tree, data := treeWith(t, 3<<20+11)
	url, _ := start(t, tree, nil)
	sum := sha256.Sum256(data)
	for _, path := range []string{"/boot/525400123456/f", "//boot//525400123456//f", "/f?x=y"} {
		resp, got := do(t, "GET", url+path, nil)
		if resp.StatusCode != 200 || got != string(data) {
			t.Errorf("%s: %s, %d bytes", path, resp.Status, len(got))
		}
		for name, want := range map[string]string{
			"Content-Length": fmt.Sprint(len(data)),
			"Content-Type":   "application/octet-stream",
			"Accept-Ranges":  "bytes",
			"ETag":           `"` + hex.EncodeToString(sum[:]) + `"`,
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if resp.TransferEncoding != nil || resp.Header.Get("Last-Modified") == "" {
			t.Errorf("%s: chunks %v, header %v", path, resp.TransferEncoding, resp.Header)
		}
	}
	eventually(t, "all are served", func() bool { s, _, _ := tree.seen(); return len(s) == 3 })
	served, events, progress := tree.seen()
	if len(served) != 3 || len(events) != 0 || progress != int64(len(data)) {
		t.Errorf("served %v, events %v, progress %d", served, events, progress)
	}
}

func TestPartsOfAFile(t *testing.T) {
	tree, data := treeWith(t, 100_000)
	reg := prometheus.NewRegistry()
	url, _ := start(t, tree, func(s *Server) { s.Metrics = reg })
	counted := 0.0
	settled := func() bool { // a request is counted when all else is done
		n := 0.0
		for _, result := range []string{"sent", "broken", "refused", "failed"} {
			n += testutil.ToFloat64(newMetrics(reg).requests.WithLabelValues(result))
		}
		if n == counted {
			return false
		}
		counted = n
		return true
	}
	sum := sha256.Sum256(data)
	tag := `"` + hex.EncodeToString(sum[:]) + `"`
	for _, tc := range []struct {
		name    string
		method  string
		headers []string
		status  int
		body    string
		served  int
	}{
		{"head", "HEAD", nil, 200, "", 0},
		{"begin", "GET", []string{"Range", "bytes=0-99"}, 206, string(data[:100]), 0},
		{"last bytes", "GET", []string{"Range", "bytes=-10"}, 206, string(data[99990:]), 0},
		{"rest", "GET", []string{"Range", "bytes=40000-"}, 206, string(data[40000:]), 0},
		{"between", "GET", []string{"Range", "bytes=90-40009"}, 206, string(data[90:40010]), 1},
		{"last bytes of what is served", "GET", []string{"Range", "bytes=-10"}, 206, string(data[99990:]), 0},
		{"beyond", "GET", []string{"Range", "bytes=100000-"}, 416, "invalid range: failed to overlap\n", 0},
		{"same tag", "GET", []string{"Range", "bytes=0-9", "If-Range", tag}, 206, string(data[:10]), 0},
		{"other tag", "GET", []string{"Range", "bytes=0-9", "If-Range", `"x"`}, 200, string(data), 1},
		{"not modified", "GET", []string{"If-None-Match", tag}, 304, "", 0},
		{"other file", "GET", []string{"If-Match", `"x"`}, 412, "", 0},
		{"head of rest", "HEAD", []string{"Range", "bytes=40000-"}, 206, "", 0},
	} {
		before, _, _ := tree.seen()
		resp, got := do(t, tc.method, url+"/f", nil, tc.headers...)
		if resp.StatusCode != tc.status || got != tc.body {
			t.Errorf("%s: %s, %d bytes", tc.name, resp.Status, len(got))
		}
		eventually(t, "the end of "+tc.name, settled)
		if after, events, _ := tree.seen(); len(after)-len(before) != tc.served || len(events) != 0 {
			t.Errorf("%s: served %d times, want %d; events %v", tc.name, len(after)-len(before), tc.served, events)
		}
		if resp.ContentLength < 0 || resp.TransferEncoding != nil {
			t.Errorf("%s: length %d, chunks %v", tc.name, resp.ContentLength, resp.TransferEncoding)
		}
	}
	resp, got := do(t, "GET", url+"/f", nil, "Range", "bytes=0-9,20-29")
	if resp.StatusCode != 206 || resp.ContentLength != int64(len(got)) || !strings.Contains(got, string(data[20:30])) {
		t.Errorf("two ranges: %s, length %d, %d bytes", resp.Status, resp.ContentLength, len(got))
	}
}

func TestScriptAndISO(t *testing.T) {
	tree, _ := treeWith(t, 10)
	url, _ := start(t, tree, nil)
	resp, got := do(t, "GET", url+"/boot/525400123456/boot.ipxe", nil)
	if !strings.HasPrefix(got, "#!ipxe") || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("ETag") != "" ||
		resp.Header.Get("Last-Modified") != "" || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%q %v", got, resp.Header)
	}
	for name, want := range map[string]string{"rescue.ISO": "application/vnd.efi-iso", "shimx64.efi": "application/efi"} {
		os.WriteFile(filepath.Join(tree.dir, name), []byte("disk"), 0o644)
		resp, _ = do(t, "GET", url+"/"+name, nil)
		if got := resp.Header.Get("Content-Type"); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, got = do(t, "GET", url+"/", nil); got != "rescuebox kazan-2\n" {
		t.Errorf("%q", got)
	}
}

// An order's ISO: the file with the order's text over it, whole, in parts and by HEAD
// first, as EDK2 asks. What the order changes changes the tag, and none keeps it.
func TestOverlaidFile(t *testing.T) {
	tree, data := treeWith(t, 3<<20)
	patch := images.Patch{At: 1<<20 + 5, Data: bytes.Repeat([]byte("order "), 1000)}
	tree.patch = &patch
	url, _ := start(t, tree, nil)
	want := append([]byte(nil), data...)
	copy(want[patch.At:], patch.Data)
	head, _ := do(t, "HEAD", url+"/f", nil)
	resp, got := do(t, "GET", url+"/f", nil)
	if got != string(want) || head.ContentLength != int64(len(want)) || resp.ContentLength != int64(len(want)) {
		t.Errorf("%d bytes, said %d and %d; equal: %v", len(got), head.ContentLength, resp.ContentLength, got == string(want))
	}
	if h := resp.Header; h.Get("ETag") == "" || h.Get("ETag") != head.Header.Get("ETag") || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", h)
	}
	eventually(t, "it is served", func() bool { s, _, _ := tree.seen(); return len(s) == 1 })
	if _, part := do(t, "GET", url+"/f", nil, "Range", "bytes=1048570-1048599"); part != string(want[1048570:1048600]) {
		t.Errorf("a part over the edge: %q", part)
	}
	tree.patch = &images.Patch{At: 0, Data: []byte("another order")}
	again, got := do(t, "GET", url+"/f", nil, "Range", "bytes=100-", "If-Range", resp.Header.Get("ETag"))
	if again.StatusCode != 200 || got[:13] != "another order" {
		t.Errorf("the rest of another order's file: %s", again.Status)
	}
}

// What firmware with a small HTTP client says and hears: HEAD, then GET, on one
// connection, with no empty header (edk2#7443) and nothing that closes it (edk2#9920).
func TestFirmwareAsks(t *testing.T) {
	tree, data := treeWith(t, 200_000)
	url, _ := start(t, tree, nil)
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(c)
	for _, method := range []string{"HEAD", "GET", "GET"} {
		fmt.Fprintf(c, "%s /boot/525400123456/f HTTP/1.1\r\nHost: 192.168.77.1\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n", method)
		status, _ := r.ReadString('\n')
		length := -1
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line == "\r\n" {
				break
			}
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if value = strings.TrimSpace(value); value == "" || name == "Connection" || name == "Transfer-Encoding" {
				t.Errorf("%s: header %q", method, line)
			}
			if name == "Content-Length" {
				length, _ = strconv.Atoi(value)
			}
		}
		if !strings.HasPrefix(status, "HTTP/1.1 200 ") || length != len(data) {
			t.Fatalf("%s: %q, length %d", method, status, length)
		}
		if method == "GET" {
			got := make([]byte, length)
			if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%v", err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	tree, _ := treeWith(t, 10)
	url, _ := start(t, tree, nil)
	for _, tc := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/boot/525400123456/none", "", 404, "srv01 has no order\nhint: rescuebox boot srv01 IMAGE\n"},
		{"HEAD", "/boot/525400123456/none", "", 404, ""},
		{"GET", "/broken", "", 500, "the box failed: see its log\n"},
		{"PUT", "/f", "data", 405, "this box gives files, and takes none but inv32.xml: use GET or HEAD\n"},
		{"OPTIONS", "/f", "", 405, "this box gives files, and takes none but inv32.xml: use GET or HEAD\n"},
		{"GET", "/f", "data", 400, "a GET request has no body\n"},
		{"GET", "/" + strings.Repeat("x", 600), "", 414, "the path is longer than 512 bytes\n"},
		{"GET", "/agent/keys", "", 404, "this box takes no reports\n"},
	} {
		var body io.Reader
		if tc.body != "" {
			body = strings.NewReader(tc.body)
		}
		resp, got := do(t, tc.method, url+tc.path, body)
		if resp.StatusCode != tc.status || got != tc.want || resp.ContentLength < 0 {
			t.Errorf("%s %.40s: %s, length %d, %q", tc.method, tc.path, resp.Status, resp.ContentLength, got)
		}
	}
	if resp, err := http.Get(url + "/panic"); err == nil {
		t.Errorf("a panic was answered with %s", resp.Status)
	}
	if resp, _ := do(t, "GET", url+"/f", nil); resp.StatusCode != 200 {
		t.Errorf("after a panic: %s", resp.Status)
	}
}

// raw opens a connection and sends text.
func raw(t *testing.T, url, text string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, text)
	return c.(*net.TCPConn)
}

func TestConnectionStaysOpenAndHeadersAreCanonical(t *testing.T) {
	tree, _ := treeWith(t, 10)
	url, _ := start(t, tree, nil)
	c := raw(t, url, "")
	in := bufio.NewReader(c)
	for range 3 {
		io.WriteString(c, "GET //f HTTP/1.1\r\nhost: x\r\n\r\n")
		var head strings.Builder
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line == "\r\n" {
				break
			}
			if _, value, ok := strings.Cut(line, ": "); ok && strings.TrimSpace(value) == "" {
				t.Errorf("empty header %q", line)
			}
			head.WriteString(line)
		}
		if !strings.HasPrefix(head.String(), "HTTP/1.1 200 OK\r\n") || !strings.Contains(head.String(), "\r\nContent-Length: 10\r\n") {
			t.Fatalf("%s", head.String())
		}
		io.CopyN(io.Discard, in, 10)
	}
}

func TestBadRequestsAreCounted(t *testing.T) {
	tree, _ := treeWith(t, 10)
	url, _ := start(t, tree, func(s *Server) { s.headerTime = 2 * time.Second })
	for _, text := range []string{
		"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"nonsense\r\n\r\n",
		"GET /f HTTP/1.1\r\n\r\n", // no Host
		"GET /f HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 40<<10) + "\r\n\r\n",
	} {
		answer, _ := io.ReadAll(raw(t, url, text))
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) {
			t.Errorf("%.30q: %.60q", text, answer)
		}
	}
	begin := time.Now()
	io.ReadAll(raw(t, url, "GET /f HTTP/1.1\r\nHost: x\r\nX-Slow: l")) // Slowloris
	if d := time.Since(begin); d > headerPatience {
		t.Errorf("half a header was borne for %v", d)
	}
}

func TestTooManyConnectionsOfOneAddress(t *testing.T) {
	tree, _ := treeWith(t, 10)
	url, _ := start(t, tree, nil)
	ask := "GET /f HTTP/1.1\r\nHost: x\r\n\r\n"
	var first *net.TCPConn
	for i := range maxConnsPerAddr {
		c := raw(t, url, ask)
		if _, err := c.Read(make([]byte, 10)); err != nil {
			t.Fatalf("connection %d: %v", i+1, err)
		}
		first = c
	}
	answered := func() bool {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			return false
		}
		defer c.Close()
		io.WriteString(c, ask)
		_, err = c.Read(make([]byte, 10))
		return err == nil
	}
	if answered() {
		t.Error("one more was answered")
	}
	first.Close()
	eventually(t, "room for another", answered)
}

// brokeOff waits for the one event of a transfer that failed.
func brokeOff(t *testing.T, tree *dirTree, why string) boot.Event {
	t.Helper()
	eventually(t, "an event", func() bool { _, e, _ := tree.seen(); return len(e) > 0 })
	served, events, _ := tree.seen()
	if len(served) != 0 || len(events) != 1 || !strings.Contains(events[0].Text, why) || events[0].File != "f" || events[0].Step != boot.StepFile {
		t.Errorf("served %v, events %+v; want one event with %q", served, events, why)
	}
	return events[0]
}

const askF = "GET /f HTTP/1.1\r\nHost: x\r\n\r\n"

func TestStalledClientIsCut(t *testing.T) {
	tree, _ := treeWith(t, 32<<20)
	url, _ := start(t, tree, func(s *Server) { s.stall = 600 * time.Millisecond })
	c := raw(t, url, askF)
	e := brokeOff(t, tree, "takes no more data")
	if e.Bytes == 0 || e.Bytes >= e.Total {
		t.Errorf("%d of %d bytes", e.Bytes, e.Total)
	}
	if n, err := io.Copy(io.Discard, c); n >= e.Total {
		t.Errorf("%d bytes came, %v", n, err)
	}
}

func TestSlowClientIsBorne(t *testing.T) {
	tree, data := treeWith(t, 12<<20)
	url, _ := start(t, tree, func(s *Server) { s.stall = 3 * time.Second })
	c := raw(t, url, askF)
	c.SetReadBuffer(64 << 10)
	hash := sha256.New()
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	for { // it pauses after each MiB, for much less than the stall and in total for longer
		if n, err := io.CopyN(hash, resp.Body, 1<<20); n == 0 || err != nil {
			break
		}
		time.Sleep(300 * time.Millisecond)
	}
	if sum := sha256.Sum256(data); !bytes.Equal(hash.Sum(nil), sum[:]) {
		t.Error("other bytes came")
	}
	eventually(t, "served", func() bool { s, _, _ := tree.seen(); return len(s) == 1 })
}

func TestClientThatLeavesIsNotServed(t *testing.T) {
	for name, size := range map[string]int{
		"in the middle":                     32 << 20,
		"with all in the box's send buffer": 300_000,
	} {
		t.Run(name, func(t *testing.T) {
			tree, _ := treeWith(t, size)
			url, _ := start(t, tree, nil)
			d := net.Dialer{}
			c, err := d.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			c.(*net.TCPConn).SetReadBuffer(4096)
			io.WriteString(c, askF)
			io.ReadFull(c, make([]byte, 1000))
			time.Sleep(200 * time.Millisecond)
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			brokeOff(t, tree, "closed the connection")
		})
	}
}

func TestStopCutsTransfers(t *testing.T) {
	tree, _ := treeWith(t, 32<<20)
	url, stop := start(t, tree, nil)
	c := raw(t, url, askF)
	io.ReadFull(c, make([]byte, 1000))
	idle := raw(t, url, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.Read(make([]byte, 10))
	if d := stop(); d > stallPatience/2 {
		t.Errorf("stopped after %v", d)
	}
	if e := brokeOff(t, tree, "the box is stopping"); e.Bytes == 0 {
		t.Errorf("%+v", e)
	}
	if n, _ := io.Copy(io.Discard, c); n >= 32<<20 {
		t.Error("the whole file came")
	}
}

func TestRateLimitIsSharedByAnAddress(t *testing.T) {
	tree, data := treeWith(t, 500_000)
	url, _ := start(t, tree, func(s *Server) { s.RateLimit = 1_000_000 })
	begin := time.Now()
	var clients sync.WaitGroup
	for range 2 {
		clients.Go(func() {
			if resp, got := do(t, "GET", url+"/f", nil); got != string(data) {
				t.Errorf("%s, %d bytes", resp.Status, len(got))
			}
		})
	}
	clients.Wait()
	if d := time.Since(begin); d < 700*time.Millisecond || d > 20*time.Second {
		t.Errorf("1 MB at 1 MB/s took %v", d)
	}
}

func TestListenErrorsSayWhatToDo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for addr, want := range map[netip.AddrPort]string{
		l.Addr().(*net.TCPAddr).AddrPort():      "the port is taken",
		netip.MustParseAddrPort("192.0.2.1:80"): "no interface of this box",
	} {
		err := (&Server{Addr: addr}).Run(t.Context(), func() { t.Error("ready") })
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), addr.String()) {
			t.Errorf("%v: %v", addr, err)
		}
	}
}
