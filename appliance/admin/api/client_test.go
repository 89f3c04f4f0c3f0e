package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStream(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []message
	}{
		"event":          {"id: 7\nevent: armed\ndata: {}\n\n", []message{{event: "armed", id: "7", data: []byte("{}")}}},
		"several lines":  {"data: a\ndata:b\ndata\n\n", []message{{data: []byte("a\nb\n")}}},
		"CRLF":           {"data: a\r\n\r\n", []message{{data: []byte("a")}}},
		"comment":        {": heartbeat\n\ndata: a\n\n", []message{{}, {data: []byte("a")}}},
		"comment within": {"data: a\n: x\nid: 1\n\n", []message{{id: "1", data: []byte("a")}}},
		"unknown field":  {"retry: 1\nx\ndata: a\n\n", []message{{data: []byte("a")}}},
		"without data":   {"id: 1\n\ndata: a\n\n", []message{{data: []byte("a")}}},
		"unfinished":     {"data: a\n\ndata: b\n", []message{{data: []byte("a")}}},
		"nothing":        {"", nil},
	} {
		got, err := readAll(strings.NewReader(c.text))
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: ends with %v", name, err)
		}
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(message{})); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// A server that never ends a line, or an event, must not fill our memory.
func TestStreamBounds(t *testing.T) {
	for name, piece := range map[string]string{"line": "x", "event": "data: " + strings.Repeat("x", 1000) + "\n"} {
		if _, err := readAll(io.LimitReader(endless(piece), 10<<20)); err == nil || !strings.Contains(err.Error(), "too long") {
			t.Errorf("endless %s: %v", name, err)
		}
	}
	long := "data: " + strings.Repeat("x", 2*maxLine) + "\n\n"
	if got, _ := readAll(strings.NewReader(long)); len(got) != 1 || len(got[0].data) != 2*maxLine {
		t.Error("a long line within the bounds is lost")
	}
}

type endless string

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n+len(e) <= len(p) {
		n += copy(p[n:], e)
	}
	return n, nil
}

func readAll(r io.Reader) (list []message, err error) {
	s := stream{r: bufio.NewReaderSize(r, maxLine)}
	for {
		m, err := s.next()
		if err != nil {
			return list, err
		}
		list = append(list, m)
	}
}

func FuzzStream(f *testing.F) {
	for _, seed := range []string{"id: 7\nevent: armed\ndata: {}\n\n", ": x\n\n", "data\n\n", "data: a\r\n\r\n", ":\n", "\n\n\n", "data:\xff\n\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := readAll(bytes.NewReader(text))
		if err == nil {
			t.Fatal("no end")
		}
		last := int64(0)
		for _, m := range list {
			if len(m.data) > maxMessage {
				t.Errorf("an event of %d bytes", len(m.data))
			}
			_ = deliver(m, &last, func(Event) error { return nil })
		}
		// What was read, written again, is read as the same.
		var again bytes.Buffer
		var want []message
		for _, m := range list {
			if m.data == nil {
				continue
			}
			want = append(want, m)
			fmt.Fprintf(&again, "event: %s\nid: %s\n", m.event, m.id)
			for line := range bytes.SplitSeq(m.data, []byte("\n")) {
				fmt.Fprintf(&again, "data: %s\n", line)
			}
			again.WriteString("\n")
		}
		got, _ := readAll(&again)
		if d := cmp.Diff(want, got, cmp.AllowUnexported(message{})); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	})
}

// fakeDaemon answers on one end of a pipe, in the time of a synctest bubble.
type fakeDaemon struct {
	streams []func(w *bufio.Writer) // one per connection; the last one stays open
	asked   []string
}

func (d *fakeDaemon) client() *Client {
	n := 0
	return &Client{base: "http://x", where: "the fake", client: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if n >= len(d.streams) || d.streams[n] == nil {
				n++
				return nil, errors.New("connection refused")
			}
			ours, theirs := net.Pipe()
			go d.serve(theirs, d.streams[n])
			n++
			return ours, nil
		}}}}
}

func (d *fakeDaemon) serve(conn net.Conn, stream func(w *bufio.Writer)) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	d.asked = append(d.asked, req.URL.RequestURI())
	w := bufio.NewWriter(conn)
	fmt.Fprint(w, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
	stream(w)
	w.Flush()
}

func event(w *bufio.Writer, seq int64) {
	text, _ := json.Marshal(Event{Seq: seq, Step: "local"})
	fmt.Fprintf(w, "id: %d\ndata: %s\n\n", seq, text)
	w.Flush()
}

// Follow resumes after the last event, waits longer while nothing answers, and gives each event once.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &fakeDaemon{streams: []func(w *bufio.Writer){
			func(w *bufio.Writer) { event(w, 1); event(w, 2) },
			nil, nil, // the daemon restarts
			func(w *bufio.Writer) { event(w, 2); event(w, 3); time.Sleep(time.Minute) }, // silent: its host is gone
			func(w *bufio.Writer) { event(w, 4) },
		}}
		start := time.Now()
		var got []int64
		var waits []time.Duration
		enough := errors.New("enough")
		err := d.client().Follow(t.Context(), Watch{Order: "o", Lost: func(_ error, wait time.Duration) { waits = append(waits, wait) }}, func(e Event) error {
			if got = append(got, e.Seq); e.Seq == 4 {
				return enough
			}
			return nil
		})
		if err != enough {
			t.Errorf("Follow = %v", err)
		}
		if !slices.Equal(got, []int64{1, 2, 3, 4}) {
			t.Errorf("events %v", got)
		}
		if want := []string{"/v1/events?order=o", "/v1/events?after=2&order=o", "/v1/events?after=3&order=o"}; !slices.Equal(d.asked, want) {
			t.Errorf("asked %q, want %q", d.asked, want)
		}
		if d := cmp.Diff([]time.Duration{250e6, 500e6, 1e9, 250e6}, waits); d != "" {
			t.Error(d)
		}
		if took := time.Since(start); took < silence || took > silence+5*time.Second {
			t.Errorf("took %s: a silent stream is given %s", took, silence)
		}
		time.Sleep(time.Minute) // the fake's goroutines end
	})
}

// The daemon's "no" ends Follow; so does the end of ctx.
func TestFollowEnds(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("machine") == "srv1" {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"code":"not_found","error":"no machine \"srv1\"","hint":"machines are srv01"}`)
			return
		}
		<-r.Context().Done()
	}))
	defer srv.Close()
	c := &Client{base: srv.URL, client: srv.Client()}
	var e *Error
	if err := c.Follow(t.Context(), Watch{Machine: "srv1"}, nil); !errors.As(err, &e) || e.Hint != "machines are srv01" || e.Status != 404 {
		t.Errorf("Follow = %#v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Follow(ctx, Watch{}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Follow = %v", err)
	}
}

// Answers that are no answers of a rescuebox still make one sentence.
func TestErrors(t *testing.T) {
	for body, want := range map[string]string{
		`{"code":"locked_out","error":"wait"}`: "wait",
		`<html>nginx</html>`:                   `the daemon answered "429 Too Many Requests"`,
		`{"error":5}`:                          `the daemon answered "429 Too Many Requests"`,
		``:                                     `the daemon answered "429 Too Many Requests"`,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "8")
			w.WriteHeader(http.StatusTooManyRequests)
			io.WriteString(w, body)
		}))
		c := &Client{base: srv.URL, client: srv.Client()}
		_, err := c.Status(t.Context())
		var e *Error
		if !errors.As(err, &e) || e.Error() != want || e.RetryAfter != 8*time.Second {
			t.Errorf("%s: %#v", body, err)
		}
		srv.Close()
	}
	missing := filepath.Join(t.TempDir(), "api.sock")
	if _, err := OverSocket(missing).Status(t.Context()); !errors.Is(err, ErrUnreachable) || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("without a daemon: %v", err)
	}
}

func TestBaseURL(t *testing.T) {
	for text, want := range map[string]string{
		"https://10.9.0.2:8443": "https://10.9.0.2:8443", "https://Box:1/": "https://box:1", "https://[fd00::1]:8443": "https://[fd00::1]:8443",
		"http://10.9.0.2:8443": "", "10.9.0.2:8443": "", "https://10.9.0.2": "", "https://:1": "", "https://a:1/x": "", "https://a:1?x=1": "", "https://u:p@a:1": "", "": "", "%": "",
	} {
		got, err := BaseURL(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("BaseURL(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
}

// A name with a slash or dots stays one segment of the path.
func TestSegment(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(Image{Name: r.URL.EscapedPath()})
	}))
	defer srv.Close()
	c := &Client{base: srv.URL, client: srv.Client()}
	for _, name := range []string{"a/b", "../x", "..", ".", "", "a?b", "a#b", "a b", "é"} {
		got, err := c.Image(t.Context(), name)
		if rest := strings.TrimPrefix(got.Name, "/v1/images/"); err != nil || rest == "" || strings.Contains(rest, "/") || strings.Trim(rest, ".") == "" {
			t.Errorf("%q is asked for as %q, %v", name, got.Name, err)
		}
	}
}
