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

// servers are web servers by the address and port at which the agent asks them; whoever has port 80 of
// this machine, they do not meet him.
type servers map[string]*httptest.Server

func (s servers) answer(t *testing.T, at, greeting string) {
	t.Helper()
	s[at] = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Write([]byte(greeting))
	}))
	t.Cleanup(s[at].Close)
}

func (s servers) dial(ctx context.Context, network, at string) (net.Conn, error) {
	if s[at] == nil {
		return nil, errors.New("nobody answers at " + at)
	}
	return new(net.Dialer).DialContext(ctx, network, s[at].Listener.Addr().String())
}

func testFinder(t *testing.T, named string, s servers) finder {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"servers": named, "lease": "52:54:00:12:34:01\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := newFinder(&bytes.Buffer{})
	f.dir, f.wait = dir, 10*time.Millisecond
	f.client.Transport = &http.Transport{DialContext: s.dial, DisableKeepAlives: true}
	return f
}

// A system that came without an order takes the box that DHCP named: not a router
// with a web page.
func TestFindsTheBox(t *testing.T) {
	s := servers{}
	s.answer(t, "192.168.77.254:80", "<html>router</html>")
	s.answer(t, "192.168.77.1:80", "rescuebox kazan-2\n")
	f := testFinder(t, "192.168.77.253 192.168.77.254 garbage; 192.168.77.254\n192.168.77.1\n", s)
	o, err := f.complete(context.Background(), order{SHA256: "x"})
	if err != nil || o.Server.String() != "http://192.168.77.1" ||
		o.URL.String() != "http://192.168.77.1/boot/525400123401/root.squashfs" || o.SHA256 != "x" {
		t.Errorf("%+v, %v", o, err)
	}
	told := f.out.(*bytes.Buffer).String()
	if !strings.Contains(told, "the box is at 192.168.77.1") {
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
	f := testFinder(t, "", nil)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := f.complete(ctx, order{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if n := strings.Count(f.out.(*bytes.Buffer).String(), "looking for the box"); n != 1 {
		t.Errorf("said it %d times", n)
	}
}
