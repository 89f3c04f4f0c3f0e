package admin

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
)

// freePort finds a port of the loopback that nobody has, of an address of its own: nobody
// takes it before the server does.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.1:0", rand.IntN(256), 1+rand.IntN(255)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// The certificate is made once and stays; the client trusts it and no other.
func TestTLS(t *testing.T) {
	s := newSite(t)
	s.Listen = freePort(t)
	base := "https://" + s.Listen.String()
	stop := s.run(t)
	fi, err := os.Stat(filepath.Join(s.dir, "api.pem"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key's file is %v, %v; want mode 0600", fi.Mode(), err)
	}
	fingerprint, err := api.Peek(t.Context(), base)
	if err != nil || !strings.HasPrefix(fingerprint, "SHA256:") {
		t.Fatalf("Peek = %q, %v", fingerprint, err)
	}
	local := api.OverSocket(s.Socket)
	if st, err := local.Status(t.Context()); err != nil || st.Admin.Fingerprint != fingerprint {
		t.Errorf("status shows the fingerprint %q, %v; want %q", st.Admin.Fingerprint, err, fingerprint)
	}
	token, err := local.CreateToken(t.Context(), api.CreateToken{Name: "alice", Role: api.Viewer, TTL: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := api.OverTLS(base, fingerprint, token.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := client.WhoAmI(t.Context()); err != nil || who.Name != "alice" || who.From != "127.0.0.1" {
		t.Errorf("WhoAmI = %+v, %v", who, err)
	}
	if _, err := client.Boot(t.Context(), api.NewOrder{Machine: "srv01", Image: "rescue"}); err == nil || !strings.Contains(err.Error(), "this needs operator") {
		t.Errorf("a viewer boots: %v", err)
	}

	other, err := api.OverTLS(base, "SHA256:"+strings.Repeat("A", 43), token.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.WhoAmI(t.Context()); err == nil || !strings.Contains(err.Error(), "the certificate is not the pinned one") {
		t.Errorf("with another fingerprint: %v", err)
	}

	stop()
	s.run(t)
	if again, err := api.Peek(t.Context(), base); again != fingerprint {
		t.Errorf("after a restart the fingerprint is %q, %v; it was %q", again, err, fingerprint)
	}
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, err := certificate(filepath.Join(dir, "api.pem"), netip.MustParseAddr("10.9.0.2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.Leaf.VerifyHostname("10.9.0.2"); err != nil {
		t.Error(err)
	}
	if years := time.Until(cert.Leaf.NotAfter).Hours() / 24 / 365; years < 9.9 {
		t.Errorf("the certificate lives %.1f years", years)
	}
	if err := os.WriteFile(filepath.Join(dir, "api.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := certificate(filepath.Join(dir, "api.pem"), netip.IPv6Unspecified()); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("of a broken file: %v", err)
	}
	if os.Geteuid() == 0 {
		return // root writes everywhere
	}
	if _, err := certificate("/proc/api.pem", netip.Addr{}); err == nil {
		t.Error("of a directory that cannot be written: no error")
	}
}

// The address of a VPN is listened on before it is there, and answers when it is.
func TestFloating(t *testing.T) {
	s := newSite(t)
	s.Listen, s.Floating = netip.MustParseAddrPort("198.51.100.77:0"), true
	l, _, err := s.listenTLS()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for at, want := range map[netip.AddrPort]string{
		taken.Addr().(*net.TCPAddr).AddrPort():     "the port is taken",
		netip.MustParseAddrPort("192.0.2.77:8443"): "no interface has this address",
	} {
		s := newSite(t)
		s.Listen = at
		err := s.Run(t.Context(), func() { t.Error("ready") })
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), at.String()) {
			t.Errorf("%s: %v, want %q", at, err, want)
		}
		if _, err := os.Stat(s.Socket); err == nil {
			t.Error("the socket is left behind")
		}
	}
}

// One address cannot take all connections. Each asks for something, after which it may stand for idleTimeout: one
// without a call is closed after five seconds, in which a busy machine has not yet made them all.
func TestConnectionLimit(t *testing.T) {
	s := newSite(t)
	s.Listen = freePort(t)
	s.run(t)
	token, err := api.OverSocket(s.Socket).CreateToken(t.Context(), api.CreateToken{Name: "alice", Role: api.Viewer})
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{InsecureSkipVerify: true}
	open := 0
	for range maxConnsPerAddr + 5 {
		conn, err := tls.Dial("tcp", s.Listen.String(), conf)
		if err != nil {
			continue
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v1/version HTTP/1.1\r\nHost: box\r\nAuthorization: Bearer %s\r\n\r\n", token.Secret)
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		open++
	}
	if open != maxConnsPerAddr {
		t.Errorf("%d connections from one address, want %d", open, maxConnsPerAddr)
	}
	if _, err := api.OverSocket(s.Socket).Version(t.Context()); err != nil {
		t.Errorf("the socket does not answer meanwhile: %v", err)
	}
}

// A browser is told to keep its hands off; strangers learn nothing.
func TestHeaders(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	for _, path := range []string{"/v1/version", "/nothing", "/v1/../etc"} {
		if w := ask(h, "GET", path, "", ""); w.Code != http.StatusUnauthorized {
			t.Errorf("a stranger's GET %s: %d", path, w.Code)
		}
	}
	w := ask(h, "GET", "/v1/version", token[api.Viewer], "")
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Access-Control-Allow-Origin": "",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if w := ask(h, "PUT", "/v1/orders", token[api.Viewer], ""); w.Code != http.StatusMethodNotAllowed || strings.Join(w.Header()["Allow"], " ") != "GET POST" {
		t.Errorf("PUT: %d, Allow %q", w.Code, w.Header()["Allow"])
	}
	if w := ask(h, "GET", "/v2/orders", token[api.Viewer], ""); w.Code != http.StatusNotFound || problemIn(t, w).Hint == "" {
		t.Errorf("unknown path: %d %s", w.Code, w.Body)
	}
}
