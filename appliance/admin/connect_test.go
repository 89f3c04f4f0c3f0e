package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/ticket"
)

type fakeNotifier struct{}

func (fakeNotifier) Targets() []api.NotifyTarget {
	return []api.NotifyTarget{{Name: "chat", Type: "webhook", Addresses: []string{"https://chat.example.org"}, Kinds: []string{"ticket"}}}
}

func (f fakeNotifier) Messages() []api.Notification {
	n, _ := f.Test("chat", "")
	return []api.Notification{n}
}

func (fakeNotifier) Test(target, _ string) (api.Notification, error) {
	if target == "nobody" {
		return api.Notification{}, &boot.Refusal{Reason: `nobody is called "nobody" in [notify]`, Hint: "there are chat"}
	}
	return api.Notification{ID: "test-1", Kind: "test", Time: time.Now(), Deliveries: []api.Delivery{
		{Target: "chat", Address: "https://chat.example.org", State: "waiting", Error: "it hung up", Changed: time.Now(), Doubt: true}}}, nil
}

// fakeRelays leads to an echo of capital letters.
type fakeRelays struct {
	mu     sync.Mutex
	ways   map[string]*fakeWay
	opened []Grant
	refuse error
	dead   bool // the machine does not answer
}

type fakeWay struct {
	*fakeRelays
	id   string
	g    Grant
	done chan struct{}
	once sync.Once
	why  string
	n    atomic.Int64
	got  atomic.Int64
}

func (r *fakeRelays) Open(ctx context.Context, g Grant) (Relayed, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return nil, r.refuse
	}
	w := &fakeWay{fakeRelays: r, id: fmt.Sprintf("%032d", len(r.opened)), g: g, done: make(chan struct{})}
	if r.ways == nil {
		r.ways = map[string]*fakeWay{}
	}
	r.ways[w.id] = w
	r.opened = append(r.opened, g)
	context.AfterFunc(ctx, func() { w.end("the box stops") })
	return w, nil
}

func (r *fakeRelays) Find(id string) (Relayed, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.ways[id]
	return w, ok
}

func (w *fakeWay) Info() (api.Relay, string) {
	return api.Relay{ID: w.id, Machine: w.g.Machine, Service: w.g.Service, Ticket: w.g.Ticket, Target: w.g.Target.String(), Expires: time.Now().Add(time.Hour)}, w.g.By
}

func (w *fakeWay) Dial(context.Context) (func(net.Conn), error) {
	if w.dead {
		return nil, errors.New("srv01 does not answer at 192.168.77.100:22: connection refused")
	}
	return func(conn net.Conn) {
		if conn == nil {
			return
		}
		defer conn.Close()
		w.n.Add(1)
		go func() { <-w.done; conn.Close() }()
		text, _ := io.ReadAll(conn)
		w.got.Add(int64(len(text)))
		io.WriteString(conn, strings.ToUpper(string(text)))
	}, nil
}

func (w *fakeWay) Done() <-chan struct{} { return w.done }

func (w *fakeWay) end(why string) { w.once.Do(func() { w.why = why; close(w.done) }) }

func (w *fakeWay) Close(why error) RelayTotals {
	if why == nil {
		why = errors.New("the admin closed it")
	}
	w.end(why.Error())
	return RelayTotals{Streams: int(w.n.Load()), Sent: w.got.Load(), Received: w.got.Load(), Why: w.why}
}

// A way through the box, over the socket and over TLS: what is opened, what goes
// through, each direction closed alone, and what the audit log says of it.
func TestConnect(t *testing.T) {
	for _, over := range []string{"socket", "TLS"} {
		t.Run(over, func(t *testing.T) {
			s := newSite(t)
			relays := s.Relays.(*fakeRelays)
			client := s.client(t, over)
			tk := s.bringTicket(t, "srv01", "")
			way, err := client.Connect(t.Context(), api.Connect{Machine: "srv01", For: 2 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			if want := netip.MustParseAddrPort("192.168.77.100:22"); len(relays.opened) != 1 || relays.opened[0].Target != want ||
				relays.opened[0].For != 2*time.Hour || relays.opened[0].Ticket != tk.ID || way.Target != want.String() || way.Ticket != tk.ID {
				t.Errorf("opened %+v, told %+v", relays.opened, way.Relay)
			}
			for _, text := range []string{"hello", strings.Repeat("long ", 100000)} {
				if got := through(t, way, text); got != strings.ToUpper(text) {
					t.Errorf("%.20q came back as %.20q (%d bytes of %d)", text, got, len(got), len(text))
				}
			}
			way.Close()
			entries := s.auditUntil(t, 2)
			if e := entries[0]; e.Status != 101 || e.What != "GET /v1/machines/srv01/connect" ||
				!strings.HasPrefix(e.Args, "srv01 ticket ticket="+tk.ID+" target=192.168.77.100:22 until=") {
				t.Errorf("opening: %+v", e)
			}
			if e := entries[1]; e.What != "CLOSE /v1/machines/srv01/connect" || e.Who != entries[0].Who ||
				!strings.Contains(e.Args, "connections=2 sent=500005 received=500005 after=") || !strings.HasSuffix(e.Args, "the admin's command has ended") {
				t.Errorf("closing: %+v", e)
			}
		})
	}
}

// through sends a text, ends its own direction, and reads the other to its end.
func through(t *testing.T, way *api.Way, text string) string {
	t.Helper()
	conn, err := way.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// client runs the server and is its client, over the socket or as an operator over TLS.
func (s *site) client(t *testing.T, over string) *api.Client {
	t.Helper()
	if over == "socket" {
		s.run(t)
		return api.OverSocket(s.Socket)
	}
	s.Listen = freePort(t)
	s.run(t)
	secret, err := api.OverSocket(s.Socket).CreateToken(t.Context(), api.CreateToken{Name: "anna", Role: api.Operator})
	if err != nil {
		t.Fatal(err)
	}
	status, err := api.OverSocket(s.Socket).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client, err := api.OverTLS("https://"+s.Listen.String(), status.Admin.Fingerprint, secret.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// auditUntil waits for so many entries about ways.
func (s *site) auditUntil(t *testing.T, n int) (list []AuditEntry) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		all, err := s.Audit.Read("", 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		list = nil
		for _, e := range all {
			if strings.Contains(e.What, "connect") || strings.Contains(e.What, "relays") {
				list = append(list, e)
			}
		}
		if len(list) >= n {
			return list
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d entries in the audit log, want %d: %+v", len(list), n, list)
		}
	}
}

// What the box or the machine says no to is an ordinary answer, on record; and a way is nobody else's.
func TestConnectRefused(t *testing.T) {
	s := newSite(t)
	relays := s.Relays.(*fakeRelays)
	client := s.client(t, "TLS")
	socket := api.OverSocket(s.Socket)
	code := func(err error) string {
		var e *api.Error
		if !errors.As(err, &e) {
			return fmt.Sprint(err)
		}
		return fmt.Sprint(e.Status, " ", e.Code)
	}
	if _, err := client.Connect(t.Context(), api.Connect{Machine: "srv01"}); code(err) != "404 not_found" {
		t.Errorf("without a ticket: %v", err)
	}
	s.bringTicket(t, "srv01", "")
	if _, err := client.Connect(t.Context(), api.Connect{Machine: "srv02", Ticket: s.desk.List("srv01")[0].ID}); code(err) != "404 not_found" {
		t.Errorf("another machine's ticket: %v", err)
	}
	relays.refuse = &boot.Refusal{Reason: "16 ways are open already", Hint: "close one"}
	if _, err := client.Connect(t.Context(), api.Connect{Machine: "srv01"}); code(err) != "409 conflict" {
		t.Errorf("too many: %v", err)
	}
	relays.refuse = nil
	way, err := client.Connect(t.Context(), api.Connect{Machine: "srv01"})
	if err != nil {
		t.Fatal(err)
	}
	relays.dead = true
	if _, err := way.Dial(t.Context()); code(err) != "502 unreachable" || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("dead machine: %v", err)
	}
	relays.dead = false
	theirs, err := socket.Connect(t.Context(), api.Connect{Machine: "srv01"})
	if err != nil {
		t.Fatal(err)
	}
	own := way.ID
	way.ID = theirs.ID
	if _, err := way.Dial(t.Context()); code(err) != "404 not_found" {
		t.Errorf("another admin's way: %v", err)
	}
	way.ID = own
	for _, e := range s.auditUntil(t, 6) {
		if (e.Status >= 400) != (e.Error != "") {
			t.Errorf("audit entry %+v", e)
		}
		if strings.Contains(e.What, own) || strings.Contains(e.What, theirs.ID) {
			t.Errorf("the log has the id with which connections are made: %s", e.What)
		}
	}
}

// A way ends when the box says so, and the client learns why; with it ends what goes through.
func TestConnectEnds(t *testing.T) {
	s := newSite(t)
	client := s.client(t, "TLS")
	s.bringTicket(t, "srv01", "")
	way, err := client.Connect(t.Context(), api.Connect{Machine: "srv01"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := way.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Relays.(*fakeRelays).ways[way.ID].end("its time is over")
	select {
	case <-way.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the client does not learn of the end")
	}
	if way.Why() != "its time is over" {
		t.Errorf("it ended because %q", way.Why())
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	if e := s.auditUntil(t, 2)[1]; !strings.HasSuffix(e.Args, "its time is over") {
		t.Errorf("closing: %+v", e)
	}
}

// The end of the server is the end of its ways: Run waits for them, so that their
// closing is on record while there is still a store.
func TestConnectServerEnds(t *testing.T) {
	s := newSite(t)
	stop := s.run(t)
	s.bringTicket(t, "srv01", "")
	way, err := api.OverSocket(s.Socket).Connect(t.Context(), api.Connect{Machine: "srv01"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := way.Dial(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if e := s.auditUntil(t, 2)[1]; !strings.HasPrefix(e.What, "CLOSE") {
		t.Errorf("the last entry is %+v", e)
	}
	<-way.Done()
}

// A revoked token's ways end with the next heartbeat at the latest; new connections at once.
func TestConnectRevoked(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	client := s.client(t, "TLS")
	s.bringTicket(t, "srv01", "")
	way, err := client.Connect(t.Context(), api.Connect{Machine: "srv01"})
	if err != nil {
		t.Fatal(err)
	}
	defer way.Close()
	socket := api.OverSocket(s.Socket)
	tokens, err := socket.Tokens(t.Context())
	if err != nil || len(tokens) != 1 {
		t.Fatal(tokens, err)
	}
	if err := socket.RevokeToken(t.Context(), tokens[0].ID); err != nil {
		t.Fatal(err)
	}
	var e *api.Error
	if _, err := way.Dial(t.Context()); !errors.As(err, &e) || e.Status != http.StatusUnauthorized {
		t.Errorf("with a revoked token: %v", err)
	}
	select {
	case <-way.Done():
		if way.Why() != errRevoked.Error() {
			t.Errorf("it ended because %q", way.Why())
		}
	case <-time.After(heartbeat + 30*time.Second):
		t.Error("the way stands")
	}
}

// Bytes that come with the request belong to the connection.
func TestConnectEarlyBytes(t *testing.T) {
	s := newSite(t)
	s.run(t)
	s.bringTicket(t, "srv01", "")
	way, err := api.OverSocket(s.Socket).Connect(t.Context(), api.Connect{Machine: "srv01"})
	if err != nil {
		t.Fatal(err)
	}
	defer way.Close()
	conn, err := net.Dial("unix", s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/relays/%s HTTP/1.1\r\nHost: box\r\nConnection: Upgrade\r\nUpgrade: rescuebox-relay\r\n\r\nearly bird", way.ID)
	conn.(*net.UnixConn).CloseWrite()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	if got, err := io.ReadAll(r); string(got) != "EARLY BIRD" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// The ticket that is led to: one that says where, a verified one first, the newest of them.
func TestTicketFor(t *testing.T) {
	at := netip.MustParseAddr("192.168.77.100")
	list := []ticket.Ticket{
		{ID: "broken", Kind: ticket.SSH, Machine: "srv01", Verified: true},
		{ID: "codeless", Kind: ticket.DaRT, Machine: "srv01", Address: at, Port: 3388, Verified: true},
		{ID: "stranger", Kind: ticket.SSH, Machine: "srv01", Address: at, Port: 22},
		{ID: "newest", Kind: ticket.DaRT, Machine: "srv01", Address: at, Port: 3388, Code: "118-497-589", Verified: true},
		{ID: "older", Kind: ticket.SSH, Machine: "srv01", Address: at, Port: 22, Verified: true},
	}
	h := &service{Server: &Server{Boot: &fakeBoot{}, Tickets: someTickets(list)}}
	for id, want := range map[string]string{"": "newest", "stranger": "stranger", "older": "older"} {
		if got, err := h.ticketFor("srv01", id); err != nil || got.ID != want {
			t.Errorf("%q: %s, %v; want %s", id, got.ID, err, want)
		}
	}
	for id, want := range map[string]int{"broken": 409, "codeless": 409, "nothing": 404} {
		if got, err := h.ticketFor("srv01", id); err == nil || problemOf(err).body.Status != want {
			t.Errorf("%q: %s, %v; want %d", id, got.ID, err, want)
		}
	}
	h.Tickets = someTickets(list[2:3])
	if got, err := h.ticketFor("srv01", ""); err != nil || got.ID != "stranger" {
		t.Errorf("with none that is verified: %s, %v", got.ID, err)
	}
}

type someTickets []ticket.Ticket

func (s someTickets) List(string) []ticket.Ticket          { return s }
func (s someTickets) Get(id string) (ticket.Ticket, error) { return ticket.Ticket{}, ticket.ErrUnknown }
