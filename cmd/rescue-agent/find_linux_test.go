package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// answering is a web server on an address of the loopback network, at port 80:
// only there does an agent look for a box.
func answering(t *testing.T, addr, greeting string) {
	t.Helper()
	l, err := net.Listen("tcp", addr+":80")
	if err != nil {
		t.Skipf("port 80 of %s: %v", addr, err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Write([]byte(greeting))
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
}

func testFinder(t *testing.T, servers string) finder {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"servers": servers, "lease": "52:54:00:12:34:01\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := newFinder(&bytes.Buffer{})
	f.dir, f.wait = dir, 10*time.Millisecond
	return f
}

// A system that came without an order takes the box that DHCP named: not a router
// with a web page.
func TestFindsTheBox(t *testing.T) {
	answering(t, "127.77.3.1", "<html>router</html>")
	answering(t, "127.77.3.2", "rescuebox kazan-2\n")
	f := testFinder(t, "127.77.3.1 garbage; 127.77.3.1\n127.77.3.2\n")
	o, err := f.complete(context.Background(), order{SHA256: "x"})
	if err != nil || o.Server.String() != "http://127.77.3.2" ||
		o.URL.String() != "http://127.77.3.2/boot/525400123401/root.squashfs" || o.SHA256 != "x" {
		t.Errorf("%+v, %v", o, err)
	}
	told := f.out.(*bytes.Buffer).String()
	if !strings.Contains(told, "the box is at 127.77.3.2") {
		t.Errorf("told %q", told)
	}
}

// What the command line says is not looked for.
func TestFindsNothingThatIsKnown(t *testing.T) {
	o, err := parseOrder("rescuebox.server=http://192.168.77.1 rescuebox.url=http://192.168.77.1/root")
	if err != nil {
		t.Fatal(err)
	}
	f := finder{dir: "/nowhere", out: &bytes.Buffer{}}
	if got, err := f.complete(context.Background(), o); got != o || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// Without a box it goes on looking until it is told to stop.
func TestLooksForTheBoxForEver(t *testing.T) {
	f := testFinder(t, "")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := f.complete(ctx, order{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if n := strings.Count(f.out.(*bytes.Buffer).String(), "looking for the box"); n != 1 {
		t.Errorf("said it %d times", n)
	}
}
