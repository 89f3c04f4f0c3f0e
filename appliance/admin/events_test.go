package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
)

var errEnough = errors.New("enough")

// steps follows events until want of them came.
func steps(t *testing.T, client *api.Client, w api.Watch, want int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got []string
	err := client.Follow(ctx, w, func(e api.Event) error {
		if got = append(got, e.Step); len(got) == want {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("Follow = %v after %q, want %d events", err, got, want)
	}
	return got
}

// The stream begins with what the caller does not know yet, filtered.
func TestEvents(t *testing.T) {
	s := newSite(t)
	s.run(t)
	client := api.OverSocket(s.Socket)
	one, err := s.table.Arm("srv01", "rescue", "alice", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.table.Arm("srv02", "dart", "alice", 0); err != nil {
		t.Fatal(err)
	}
	s.table.Cancel("srv01", "bob")
	for name, c := range map[string]struct {
		watch api.Watch
		want  []string
	}{
		"all":     {api.Watch{}, []string{"armed", "armed", "failed"}},
		"order":   {api.Watch{Order: one.ID}, []string{"armed", "failed"}},
		"machine": {api.Watch{Machine: "srv02"}, []string{"armed"}},
		"resumed": {api.Watch{Machine: "srv01", After: s.firstSeq(t)}, []string{"failed"}},
	} {
		if got := steps(t, client, c.watch, len(c.want)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if err := client.Follow(t.Context(), api.Watch{Machine: "srv1"}, nil); err == nil || err.Error() != `no machine "srv1"` {
		t.Errorf("Follow of an unknown machine: %v", err)
	}
}

func (s *site) firstSeq(t *testing.T) int64 {
	t.Helper()
	list, err := s.table.EventsAfter(0, 1)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	return list[0].Seq
}

// A follower sees every event once, in order, though the daemon restarts in between.
func TestEventsOverRestart(t *testing.T) {
	s := newSite(t)
	stop := s.run(t)
	client := api.OverSocket(s.Socket)
	got := make(chan api.Event, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lost, back := make(chan struct{}, 100), make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() {
		w := api.Watch{Lost: func(error, time.Duration) { lost <- struct{}{} }, Connected: func() { back <- struct{}{} }}
		done <- client.Follow(ctx, w, func(e api.Event) error { got <- e; return nil })
	}()
	record := func(text string) {
		s.table.Record(boot.Event{Step: boot.StepLocal, Machine: "srv01", Text: text})
	}
	<-back
	record("one")
	record("two")
	expect := func(want string) {
		t.Helper()
		select {
		case e := <-got:
			if e.Text != want {
				t.Fatalf("event %q, want %q", e.Text, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no event %q", want)
		}
	}
	expect("one")
	expect("two")
	stop()
	<-lost
	record("three") // while nobody listens
	s.run(t)
	<-back
	record("four")
	expect("three")
	expect("four")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow = %v", err)
	}
}

// fakeBoot is a table whose watchers lose events.
type fakeBoot struct {
	Boot
	live chan boot.Event
	log  []boot.Event
}

func (f *fakeBoot) Machines() []boot.Machine { return nil }
func (f *fakeBoot) Watch() (<-chan boot.Event, func()) {
	return f.live, func() {}
}

func (f *fakeBoot) EventsAfter(seq int64, max int) (list []boot.Event, err error) {
	for _, e := range f.log {
		if e.Seq > seq && len(list) < max {
			list = append(list, e)
		}
	}
	return list, nil
}

// What the table dropped for a slow watcher is read from the log; a transient
// event has no number; a heartbeat comes while nothing happens.
func TestEventsGap(t *testing.T) {
	s := newSite(t)
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBoot{live: make(chan boot.Event, 10)}
		for i := range int64(7) {
			f.log = append(f.log, boot.Event{Seq: i + 1, Step: boot.StepLocal, Text: fmt.Sprint(i + 1)})
		}
		w := &plainWriter{}
		ctx, cancel := context.WithCancel(t.Context())
		h := &service{Server: &Server{Boot: f, metrics: s.Server.metrics}, streams: make(chan struct{}, 1)}
		h.metrics = newMetrics(nil)
		done := make(chan error)
		go func() {
			req := httptest.NewRequestWithContext(ctx, "GET", "/v1/events?after=now", nil)
			done <- h.events(&call{w: w, req: req})
		}()
		f.live <- f.log[1]
		f.live <- boot.Event{Step: boot.StepFile, Transient: true, File: "f"}
		f.live <- f.log[4]
		f.live <- f.log[3] // late: known already
		f.live <- f.log[5]
		synctest.Wait()
		ids := w.lines("id: ")
		if want := []string{"2", "3", "4", "5", "6"}; !slices.Equal(ids, want) {
			t.Errorf("numbers %q, want %q", ids, want)
		}
		if got := len(w.lines("data: ")); got != 6 {
			t.Errorf("%d events, want the five and the transient one", got)
		}
		time.Sleep(3 * heartbeat)
		synctest.Wait()
		if got := len(w.lines(": heartbeat")); got != 3 {
			t.Errorf("%d heartbeats in %s", got, 3*heartbeat)
		}
		w2 := httptest.NewRequestWithContext(ctx, "GET", "/v1/events", nil)
		if err := h.events(&call{w: &plainWriter{}, req: w2}); problemOf(err).body.Code != "busy" {
			t.Errorf("one stream too many: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// plainWriter is a ResponseWriter that takes deadlines.
type plainWriter struct {
	head http.Header
	mu   sync.Mutex
	text strings.Builder
}

func (w *plainWriter) Header() http.Header {
	if w.head == nil {
		w.head = http.Header{}
	}
	return w.head
}
func (w *plainWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *plainWriter) WriteHeader(int)                  {}
func (w *plainWriter) FlushError() error                { return nil }
func (w *plainWriter) SetWriteDeadline(time.Time) error { return nil }

// lines are the rests of the lines that begin with a prefix.
func (w *plainWriter) lines(prefix string) (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(w.text.String()) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), strings.TrimSpace(prefix)); ok {
			list = append(list, strings.TrimSpace(rest))
		}
	}
	return list
}

// A revoked token ends the streams that it opened.
func TestEventsRevoked(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	synctest.Test(t, func(t *testing.T) {
		f := &fakeBoot{live: make(chan boot.Event)}
		fake := &service{Server: &Server{Boot: f}, keys: h.keys, streams: make(chan struct{}, 1)}
		fake.metrics = newMetrics(nil)
		tok, _ := h.keys.check(token[api.Viewer])
		done := make(chan error, 1)
		go func() {
			req := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/events", nil)
			done <- fake.events(&call{w: &plainWriter{}, req: req, tokenID: tok.ID})
		}()
		time.Sleep(2 * heartbeat)
		h.keys.mu.Lock()
		delete(h.keys.byID, tok.ID)
		h.keys.mu.Unlock()
		time.Sleep(2 * heartbeat)
		select {
		case <-done:
		default:
			t.Error("the stream goes on")
		}
	})
}

// A reader that takes nothing is cut: it must not hold a place for ever.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes as long as a slow reader is given")
	}
	s := newSite(t)
	h, token := s.handler(t)
	srv := httptest.NewUnstartedServer(h)
	srv.Config = s.httpServer(t.Context(), h)
	srv.Start()
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", token[api.Viewer])
	io.ReadFull(conn, make([]byte, 100))
	end := time.Now().Add(slowReader + 30*time.Second)
	text := strings.Repeat("x", 4000)
	for len(h.streams) == 1 && time.Now().Before(end) {
		s.table.Record(boot.Event{Step: boot.StepLocal, Text: text, Transient: true})
		time.Sleep(time.Millisecond)
	}
	if len(h.streams) != 0 {
		t.Error("the slow reader still has its place")
	}
}
