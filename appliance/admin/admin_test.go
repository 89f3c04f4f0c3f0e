package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/state"
	"rescuebox/appliance/ticket"
	"rescuebox/images"
)

// site is a daemon without a LAN: the real table, library, desk and store below the API.
type site struct {
	*Server
	table *boot.Table
	desk  *ticket.Desk
	db    *state.DB
	dir   string

	presses presses
}

var srv01 = boot.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}

func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "rb") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db, err := state.Open(filepath.Join(dir, "rescuebox.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	lib := &images.Library{Dir: filepath.Join(dir, "images")}
	addImage(t, lib, images.Image{Name: "ipxe", Kind: images.BootSet, Source: "test"}, "undionly.kpxe", "snponly.efi")
	addImage(t, lib, images.Image{Name: "rescue", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Agent}, "vmlinuz")
	addImage(t, lib, images.Image{Name: "dart", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Served}, "vmlinuz")
	registry := prometheus.NewRegistry()
	s := &site{dir: dir, db: db}
	s.table = boot.New(boot.Config{
		Machines: []boot.Machine{{Name: "srv01", MACs: []boot.MAC{srv01}}, {Name: "srv02", MACs: []boot.MAC{{2, 0, 0, 0, 0, 2}}}},
		Server:   "http://192.168.77.1", Images: lib,
		Orders:  state.NewTable[boot.Order](db, "orders", state.Durable),
		Events:  state.NewLog[boot.Event](db, "events", state.Relaxed, 10000),
		Adopted: state.NewTable[boot.Machine](db, "machines", state.Durable),
	})
	s.desk = &ticket.Desk{LAN: netip.MustParsePrefix("192.168.77.1/24"), Store: state.NewTable[ticket.Ticket](db, "tickets", state.Durable)}
	s.Server = &Server{
		Socket: filepath.Join(dir, "api.sock"), StateDir: dir, Version: "1.2.3", Boot: s.table, Images: lib, Tickets: s.desk,
		Tokens: state.NewTable[Token](db, "tokens", state.Durable),
		Audit:  state.NewLog[AuditEntry](db, "audit", state.Durable, 1000),
		Status: func() api.Status {
			return api.Status{Site: "kazan-2", Started: time.Now().Add(-time.Hour), LAN: api.LAN{Interface: "eth1", Address: "192.168.77.1/24"},
				DHCP:  api.DHCP{Configured: "auto", Mode: "full", Why: "no other server answers"},
				Parts: []api.Part{{Name: "dhcp", State: "running", Since: time.Now()}}}
		},
		Leases: func() ([]api.Lease, error) {
			return []api.Lease{{Address: "192.168.77.100", MAC: srv01.String(), Machine: "srv01", State: "bound", Expires: time.Now()}}, nil
		},
		Notifier: fakeNotifier{}, Relays: &fakeRelays{}, Powers: &fakePowers{}, BMCs: fakeBMCs{}, Consoles: newFakeConsoles(), Links: &fakeLinks{}, Modems: &fakeLinks{},
		Gather: registry, Metrics: registry, Log: zap.NewNop(),
	}
	s.Press = s.presses.press
	return s
}

func addImage(t *testing.T, lib *images.Library, i images.Image, files ...string) {
	t.Helper()
	content := map[string]io.Reader{}
	for _, f := range files {
		content[f] = strings.NewReader(f + " of " + i.Name)
	}
	if _, err := lib.Add(i, content); err != nil {
		t.Fatal(err)
	}
}

// run starts the server and returns what stops it.
func (s *site) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

// handler is the API below the listeners, with a token of each role.
func (s *site) handler(t *testing.T) (h *service, token map[api.Role]string) {
	t.Helper()
	s.once.Do(func() { s.metrics = newMetrics(s.Metrics) })
	h = s.service()
	token = map[api.Role]string{}
	for _, role := range []api.Role{api.Viewer, api.Operator, api.Admin} {
		_, secret, err := h.keys.create("its-"+string(role), "test", role, time.Hour, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		token[role] = secret
	}
	return h, token
}

// ask does one call and returns the answer.
func ask(h http.Handler, method, path, token, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// problemIn reads the answer of a call that failed.
func problemIn(t *testing.T, w *httptest.ResponseRecorder) api.Error {
	t.Helper()
	var e api.Error
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Message == "" || e.Code == "" {
		t.Fatalf("status %d with %q, which is no problem: %v", w.Code, w.Body, err)
	}
	return e
}

// report is what a rescue system sends; the host key is that of no machine.
const report = `{"kind":"ssh","user":"root","port":22,"addresses":["192.168.77.100","10.1.1.1"],
"hostkey_lines":["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0BiGQdxZOGNqGLqDTmDuDgHVqHHFRkMKSUdWrFlfVT"],
"serial":"ABC123","hostname":"srv01","system":"Debian GNU/Linux 12 (bookworm)","kernel":"6.1.0"}`

func (s *site) bringTicket(t *testing.T, machine, order string) ticket.Ticket {
	t.Helper()
	got, err := s.desk.Report(machine, order, true, netip.MustParseAddr("192.168.77.100"), []byte(report))
	if err != nil || got.Problem != "" {
		t.Fatalf("Report: %v %s", err, got.Problem)
	}
	return got
}

// Over the socket the kernel says who calls, and the audit log remembers.
func TestSocket(t *testing.T) {
	s := newSite(t)
	s.Group = "no-such-group" // a warning, no failure
	s.run(t)
	fi, err := os.Stat(s.Socket)
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("socket's mode is %v, %v; want 0660", fi.Mode(), err)
	}
	client := api.OverSocket(s.Socket)
	who, err := client.WhoAmI(t.Context())
	if err != nil || who.Role != api.Admin || who.From != "socket" || who.Name == "" {
		t.Fatalf("WhoAmI = %+v, %v", who, err)
	}
	if _, err := client.Boot(t.Context(), api.NewOrder{Machine: "srv01", Image: "rescue"}); err != nil {
		t.Fatal(err)
	}
	log, err := client.Audit(t.Context(), 10)
	if err != nil || len(log) != 1 {
		t.Fatalf("Audit = %+v, %v; want one entry", log, err)
	}
	if e := log[0]; e.Who != who.Name || e.What != "POST /v1/orders" || e.Status != 201 || !strings.HasPrefix(e.Args, "srv01 rescue") || e.Seq == 0 {
		t.Errorf("audit entry %+v", e)
	}
}

func TestSocketTaken(t *testing.T) {
	s := newSite(t)
	t.Run("stale", func(t *testing.T) {
		l, err := net.Listen("unix", s.Socket)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // as kill -9 leaves it
		l.Close()
		s.run(t)()
		if _, err := os.Stat(s.Socket); err == nil {
			t.Error("the socket is left behind")
		}
	})
	t.Run("alive", func(t *testing.T) {
		defer s.run(t)()
		err := s.Run(t.Context(), func() { t.Error("ready") })
		if err == nil || !strings.Contains(err.Error(), "another rescueboxd answers on "+s.Socket) {
			t.Errorf("second server: %v", err)
		}
		if _, err := api.OverSocket(s.Socket).Version(t.Context()); err != nil {
			t.Errorf("the first server is gone: %v", err)
		}
	})
	t.Run("no socket", func(t *testing.T) {
		if err := os.WriteFile(s.Socket, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := s.Run(t.Context(), func() { t.Error("ready") })
		if err == nil || !strings.Contains(err.Error(), "is no socket") {
			t.Errorf("over a file: %v", err)
		}
		if text, _ := os.ReadFile(s.Socket); !bytes.Equal(text, []byte("precious")) {
			t.Error("the file is gone")
		}
	})
}

// An event stream is open for longer than ordinary answers may take.
func TestStreamOutlivesTimeouts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h, token := s.handler(t)
	srv := httptest.NewUnstartedServer(h)
	srv.Config = s.httpServer(t.Context(), h)
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = 2*time.Second, 2*time.Second
	srv.Start()
	defer srv.Close()
	req, _ := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/v1/events", nil)
	req.Header.Set("Authorization", "Bearer "+token[api.Viewer])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.Sleep(2500 * time.Millisecond)
	if _, err := s.table.Arm("srv01", "rescue", "alice", 0); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	var text string
	for !strings.Contains(text, "event: armed") {
		n, err := resp.Body.Read(buf)
		if text += string(buf[:n]); err != nil {
			t.Fatalf("stream ended with %v after %q", err, text)
		}
	}
}
