package httpboot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"mime/multipart"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"rescuebox/appliance/boot"
)

// desk is a Tickets that knows one token, and takes everything without one.
type desk struct {
	mu   sync.Mutex
	came []string // "token from: what"
}

func (d *desk) note(token string, from netip.Addr, what string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case strings.Contains(what, "flood"):
		return &boot.Refusal{Reason: "too many different tickets", Err: later{}}
	case token != "" && token != "5f0c1d", strings.Contains(what, "too many"):
		return &boot.Refusal{Reason: "no order has this token"}
	case strings.Contains(what, "disk"):
		return errors.New("write 118-497-589: disk full")
	}
	d.came = append(d.came, token+" "+from.String()+": "+what)
	return nil
}

// later is an error that knows when to come again.
type later struct{}

func (later) Error() string             { return "later" }
func (later) RetryAfter() time.Duration { return time.Minute }

func (d *desk) Ticket(token string, from netip.Addr, raw []byte) error {
	return d.note(token, from, string(raw))
}

func (d *desk) Say(token string, from netip.Addr, text string) error {
	return d.note(token, from, "says "+text)
}

func (d *desk) MDT(from netip.Addr, q url.Values) (string, error) {
	return "<string>8f1e2d3c</string>", d.note("", from, "MDT "+q.Get("dartTicket")+" "+q.Get("message"))
}

// taken is what came since the last call.
func (d *desk) taken() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() { d.came = nil }()
	return strings.Join(d.came, "; ")
}

const inv32 = "\xff\xfe<\x00E\x00/\x00>\x00\r\n 118-497-589"

// counter starts a server for tickets whose rate does not stop the test.
func counter(t testing.TB, change func(*Server)) (string, *desk) {
	tree, _ := treeWith(t, 1)
	d := &desk{}
	url, _ := start(t, tree, func(s *Server) {
		s.Tickets = d
		if change != nil {
			change(s)
		}
	})
	return url, d
}

func TestTicket(t *testing.T) {
	for _, tc := range []struct {
		name, method, path, auth, body string
		status                         int
		want, took                     string
	}{
		{"the agent", "PUT", "/agent/ticket", "Bearer 5f0c1d", inv32, 204, "", "5f0c1d 127.0.0.1: " + inv32},
		{"posted", "POST", "/agent/ticket", "Bearer 5f0c1d", inv32, 204, "", "5f0c1d 127.0.0.1: " + inv32},
		{"a script", "PUT", "/inv32.xml", "", inv32, 204, "", " 127.0.0.1: " + inv32},
		{"any directory, any case", "POST", "//X/Inv32.XML", "", inv32, 204, "", " 127.0.0.1: " + inv32},
		{"wrong token", "PUT", "/agent/inv32.xml", "Bearer x", inv32, 403, "no order has this token\n", ""},
		{"stranger", "PUT", "/inv32.xml", "", "too many", 401, "no order has this token\n", ""},
		{"too many tickets", "PUT", "/inv32.xml", "", "flood", 429, "too many different tickets\n", ""},
		{"empty", "PUT", "/inv32.xml", "", "", 400, "the ticket is empty\n", ""},
		{"as large as may be", "PUT", "/inv32.xml", "", strings.Repeat("x", maxReport), 204, "", " 127.0.0.1: " + strings.Repeat("x", maxReport)},
		{"too large", "PUT", "/inv32.xml", "", strings.Repeat("x", maxReport+1), 413, "the ticket has more than 65536 bytes\n", ""},
		{"the box fails", "PUT", "/inv32.xml", "", "disk", 500, "the box failed: see its log\n", ""},
		{"another file", "PUT", "/inv33.xml", "", inv32, 405, "this box gives files, and takes none but inv32.xml: use GET or HEAD\n", ""},
		{"read it back", "GET", "/inv32.xml", "", "", 404, "there is no inv32.xml\n", ""},
		{"delete", "DELETE", "/agent/ticket", "", "", 405, "tickets are for PUT or POST\n", ""},
		{"say", "POST", "/agent/say", "Bearer 5f0c1d", "RemoteRecovery.exe does not start\xff", 204, "", "5f0c1d 127.0.0.1: says RemoteRecovery.exe does not start\uFFFD"},
		{"say a secret", "POST", "/agent/say", "", "Ticket: 118-497-589.", 204, "", " 127.0.0.1: says Ticket: (ticket)."},
		{"say nothing", "POST", "/agent/say", "", " \r\n", 400, "the line is empty\n", ""},
		{"say too much", "POST", "/agent/say", "", strings.Repeat("x", maxSaying+1), 413, "the line has more than 4096 bytes\n", ""},
		{"get say", "GET", "/agent/say", "", "", 405, "lines for the timeline are for POST\n", ""},
	} {
		url, d := counter(t, nil)
		resp, got := do(t, tc.method, url+tc.path, strings.NewReader(tc.body), "Authorization", tc.auth)
		if resp.StatusCode != tc.status || got != tc.want {
			t.Errorf("%s: %s, %q", tc.name, resp.Status, got)
		}
		if again := resp.Header.Get("Retry-After"); (again == "60") != (tc.status == 429) {
			t.Errorf("%s: Retry-After %q", tc.name, again)
		}
		if took := d.taken(); took != tc.took {
			t.Errorf("%s: taken %.200q", tc.name, took)
		}
	}
}

// TestTicketForm: the file of a form is taken wherever it stands in it.
func TestTicketForm(t *testing.T) {
	url, d := counter(t, nil)
	send := func(fill func(*multipart.Writer)) *http.Response {
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		fill(w)
		w.Close()
		resp, _ := do(t, "POST", url+"/inv32.xml", &form, "Content-Type", w.FormDataContentType())
		return resp
	}
	for name, c := range map[string]struct {
		fill   func(*multipart.Writer)
		status int
		took   string
	}{
		"file behind a field": {func(w *multipart.Writer) {
			w.WriteField("machine", "srv01")
			f, _ := w.CreateFormFile("f", `C:\Windows\inv32.xml`)
			f.Write([]byte(inv32))
		}, 204, " 127.0.0.1: " + inv32},
		"field":            {func(w *multipart.Writer) { w.WriteField("inv32", inv32) }, 204, " 127.0.0.1: " + inv32},
		"nothing":          {func(w *multipart.Writer) {}, 400, ""},
		"an empty file":    {func(w *multipart.Writer) { w.CreateFormFile("f", "inv32.xml") }, 400, ""},
		"file too long":    {func(w *multipart.Writer) { w.WriteField("f", strings.Repeat("x", maxReport+1)) }, 413, ""},
		"form too long":    {func(w *multipart.Writer) { w.WriteField("f", strings.Repeat("x", maxReport+maxForm)) }, 413, ""},
		"more than fields": {func(w *multipart.Writer) { fields(w, maxFields); w.WriteField("f", inv32) }, 400, ""},
	} {
		if resp := send(c.fill); resp.StatusCode != c.status {
			t.Errorf("%s: %s", name, resp.Status)
		}
		if took := d.taken(); took != c.took {
			t.Errorf("%s: taken %.200q", name, took)
		}
	}
	resp, _ := do(t, "POST", url+"/inv32.xml", strings.NewReader("--x"), "Content-Type", "multipart/form-data; boundary=y")
	if resp.StatusCode != 400 {
		t.Errorf("a form that is none: %s", resp.Status)
	}
}

func fields(w *multipart.Writer, n int) {
	for range n {
		w.WriteField("empty", "")
	}
}

func TestMDT(t *testing.T) {
	url, d := counter(t, nil)
	resp, got := do(t, "GET", url+"/MDTMonitorEvent/PostEvent?uniqueID=&message=100%+of%201;&dartTicket=118-497-589&id=x", nil)
	if resp.StatusCode != 200 || got != "<string>8f1e2d3c</string>" || !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/xml") {
		t.Errorf("%s, %v, %q", resp.Status, resp.Header, got)
	}
	if took := d.taken(); took != " 127.0.0.1: MDT 118-497-589 " {
		t.Errorf("taken %q", took)
	}
	if resp, _ := do(t, "GET", url+"/mdtmonitorevent/POSTEVENT?message=too+many", nil); resp.StatusCode != 401 {
		t.Errorf("a stranger: %s", resp.Status)
	}
	if resp, _ := do(t, "POST", url+"/MDTMonitorEvent/PostEvent", strings.NewReader("x")); resp.StatusCode != 405 {
		t.Errorf("POST: %s", resp.Status)
	}
	if resp, got := do(t, "GET", url+"/MDTMonitorEvent/GetSettings?uniqueID=x", nil); resp.StatusCode != 200 || xml.Unmarshal([]byte(got), new(struct{})) != nil {
		t.Errorf("settings: %s, %q", resp.Status, got)
	}
}

// TestTicketFlood: one address cannot keep the box busy with tickets.
func TestTicketFlood(t *testing.T) {
	url, d := counter(t, nil)
	for range 100 * burst { // a machine that stands still for a while lets the bucket fill again
		if resp, _ := do(t, "PUT", url+"/inv32.xml", strings.NewReader(inv32)); resp.StatusCode == 429 {
			return
		}
	}
	t.Errorf("all were taken: %d", len(d.came))
}

func TestNoTickets(t *testing.T) {
	url, _ := counter(t, func(s *Server) { s.Tickets = nil })
	for _, path := range []string{"/agent/ticket", "/inv32.xml", "/agent/say", "/MDTMonitorEvent/PostEvent"} {
		if resp, got := do(t, "POST", url+path, strings.NewReader(inv32)); resp.StatusCode != 404 || got != "this box takes no tickets\n" {
			t.Errorf("%s: %s, %q", path, resp.Status, got)
		}
	}
}

// TestTicketByTools: what scripts have at hand brings the file byte for byte.
func TestTicketByTools(t *testing.T) {
	tool(t, "curl", "curl")
	tool(t, "busybox", "busybox")
	core, logged := observer.New(zap.DebugLevel)
	box, d := counter(t, func(s *Server) { s.Log = zap.New(core) })
	file, plain := filepath.Join(t.TempDir(), "inv32.xml"), filepath.Join(t.TempDir(), "plain.xml")
	if err := errors.Join(os.WriteFile(file, []byte(inv32), 0o600), os.WriteFile(plain, []byte("<E>\r\n</E>"), 0o600)); err != nil {
		t.Fatal(err)
	}
	whole := " 127.0.0.1: " + inv32
	for _, c := range []struct{ took, command string }{
		{whole, "curl -T " + file + " " + box + "/inv32.xml"},
		{whole, "curl -T " + file + " " + box + "/"},
		{whole, "curl --data-binary @" + file + " " + box + "/inv32.xml"},
		{whole, "curl -X PUT --data-binary @" + file + " " + box + "/agent/ticket"},
		{whole, "curl -F file=@" + file + " " + box + "/inv32.xml"},
		{whole, "curl -F file=@" + file + " " + box},
		{whole, "curl -H Expect:100-continue -T - " + box + "/inv32.xml <" + file}, // in chunks
		{" 127.0.0.1: <E></E>", "curl -d @" + plain + " " + box + "/inv32.xml"},    // of UTF-16 only newer ones leave more than a byte
		{"5f0c1d" + whole, "curl -H 'Authorization: Bearer 5f0c1d' -T " + file + " " + box + "/agent/ticket"},
		{" 127.0.0.1: <E>\r\n</E>", "busybox wget -q -O - --post-file " + plain + " " + box + "/inv32.xml"}, // it ends at a NUL
		{" 127.0.0.1: MDT 118-497-589 two words", "curl -G --data-urlencode 'message=two words' -d dartTicket=118-497-589 " + box + "/MDTMonitorEvent/PostEvent"},
	} {
		said, err := exec.Command("sh", "-c", strings.Replace(c.command, "curl ", "curl -sS -f ", 1)).CombinedOutput()
		if took := d.taken(); err != nil || took != c.took {
			t.Errorf("%s: %v, %s, taken %q, want %q", c.command, err, said, took, c.took)
		}
	}
	if out, err := exec.Command("curl", "-sS", "-f", box+"/inv32.xml").CombinedOutput(); err == nil {
		t.Errorf("a ticket can be fetched: %s", out)
	}
	do(t, "PUT", box+"/inv32.xml", strings.NewReader("too many 118-497-589"))
	for _, e := range logged.All() {
		for _, v := range append([]any{e.Message}, valuesOf(e.ContextMap())...) {
			if s, ok := v.(string); ok && strings.Contains(s, "118-497") {
				t.Errorf("the ticket is in the log: %s", s)
			}
		}
	}
}

func valuesOf(m map[string]any) (list []any) {
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

// FuzzForm: no form makes a file that is larger than a ticket.
func FuzzForm(f *testing.F) {
	f.Add("b", []byte("--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"inv32.xml\"\r\nContent-Type: text/xml\r\n\r\n<E/>\r\n--b--\r\n"))
	f.Add("b", []byte("--b\r\nContent-Disposition: form-data; name=f\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=3CE/>\r\n--b--"))
	f.Fuzz(func(t *testing.T, boundary string, form []byte) {
		if file, no := fileOf(multipart.NewReader(bytes.NewReader(form), boundary)); len(file) > maxReport || len(file) > len(form) || no != nil && file != nil {
			t.Fatalf("%d bytes, %v", len(file), no)
		}
	})
}
