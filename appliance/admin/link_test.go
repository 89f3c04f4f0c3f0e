package admin

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
)

// fakeLinks has two uplinks, and a modem with text messages. What is ordered it does after a while.
type fakeLinks struct {
	span time.Duration

	mu     sync.Mutex
	failed string
	mode   string
	never  bool // it does it never
	acts   time.Time
}

func (f *fakeLinks) Link() api.Link {
	l := f.before()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.never || time.Now().Before(f.acts) {
		return l
	}
	if l.Mode = cmp.Or(f.mode, l.Mode); f.failed == "wan" {
		l.Active, l.Why, l.Uplinks[0].State, l.Uplinks[1].State = "lte", "wan was failed by hand", "failed", "up"
	}
	return l
}

func (*fakeLinks) before() api.Link {
	since := time.Now()
	return api.Link{Mode: "standby", Active: "wan", Since: &since, Why: "it is the first that works", Uplinks: []api.Uplink{
		{Name: "wan", Interface: "eth0", Addresses: []string{"192.0.2.2/24"}, Gateway: "192.0.2.1", State: "up", RTT: "12ms", Since: &since, Monthly: 11 << 30},
		{Name: "lte", Modem: "lte", Metered: true, State: "failed", Why: "failed by hand", Until: &since}},
		VPN: &api.VPN{Kind: "userspace", Interface: "rescuevpn", Address: "10.99.0.2/24", Up: true, PublicKey: "k", Hub: "hub", Endpoint: "192.0.2.9:51820",
			Uplink: "wan", Handshake: &since, Received: 1, Sent: 2, Peer: "[Peer]\n"}}
}

func (f *fakeLinks) Change(a api.LinkAction, span time.Duration) error {
	f.span = span
	if a.Uplink == "dsl" {
		return &boot.Refusal{Reason: "no uplink is called dsl", Hint: "there are wan, lte"}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acts = time.Now().Add(100 * time.Millisecond)
	if f.mode = cmp.Or(a.Mode, f.mode); a.Action == "fail" {
		f.failed = a.Uplink
	} else {
		f.failed = ""
	}
	return nil
}

func (f *fakeLinks) Drill(_ context.Context, uplink string, span time.Duration) (api.LinkReport, error) {
	f.span = span
	return api.LinkReport{OK: true, Uplink: "wan", By: "lte", Gap: "85ms", Text: "lte stood in for wan"}, nil
}

func (*fakeLinks) Modems() []api.Modem {
	signal, resets := -71, time.Now()
	return []api.Modem{{Name: "lte", Ready: true, Port: "/dev/ttyUSB2", Model: "EG25-G", Operator: "MegaFon", Technology: "LTE", Network: "home", Signal: &signal, Texts: "the store is full",
		Rungs: []string{"attach", "restart", "usb"}, Recovery: &api.Recovery{Fault: "no data", Doing: "usb", Last: "attach", Next: &resets, Count: 1, Helped: "usb", Error: "no"},
		Data: &api.ModemData{Up: true, Interface: "wwan0", Addresses: []string{"10.64.0.5/32"}, Used: 5 << 20, Quota: 5 << 30, Resets: &resets}}}
}

func (*fakeLinks) Reset(_, rung string) error {
	if rung != "" && rung != "usb" {
		return &boot.Refusal{Reason: "modem lte cannot be reset by " + rung}
	}
	return nil
}

func (*fakeLinks) Allow(string, int64) error { return nil }

func (*fakeLinks) Texts(int) ([]api.TextMessage, error) {
	return []api.TextMessage{{ID: "1", Number: "+79161234567", Time: time.Now(), State: "taken", Text: "status"}}, nil
}

func (*fakeLinks) Send(to, text string) (api.TextMessage, error) {
	return api.TextMessage{ID: "2", Number: to, Sent: true, Time: time.Now(), State: "waiting", Text: text}, nil
}

func (*fakeLinks) Texting() api.Texting {
	return api.Texting{Budget: 50, Spent: 3, Waiting: 1, Senders: []api.Sender{{Number: "+79161234567", May: []string{"status"}, Enrolled: true, Locked: true}}}
}

func (*fakeLinks) Enroll(number string) (string, error) {
	if number != "+79161234567" {
		return "", &boot.Refusal{Reason: number + " may not command the box", Hint: "add [[text.sender]] to the file of the site"}
	}
	return "otpauth://hotp/kazan-2:x?secret=GEZDGNBV", nil
}

func (*fakeLinks) Forget(number string) error {
	if number != "+79161234567" {
		return &boot.Refusal{Reason: number + " has no secret", Hint: "rescuebox modem sms status"}
	}
	return nil
}

// The secret of an enrolled number is in the answer, and nowhere in the audit log; nor is
// the text of a message.
func TestSecretsOfTexts(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	if w := ask(h, "POST", "/v1/texts/senders", token[api.Admin], `{"number":"+79161234567"}`); w.Code != http.StatusCreated || !strings.Contains(w.Body.String(), "GEZDGNBV") {
		t.Fatalf("enroll: %d %s", w.Code, w.Body)
	}
	if w := ask(h, "POST", "/v1/texts", token[api.Operator], `{"to":"+79161234567","text":"the door code is 4711"}`); w.Code != http.StatusCreated {
		t.Fatalf("send: %d %s", w.Code, w.Body)
	}
	if w := ask(h, "POST", "/v1/modems/lte/allow", token[api.Operator], `{"bytes":200000000}`); w.Code != http.StatusOK {
		t.Fatalf("allow: %d %s", w.Code, w.Body)
	}
	w := ask(h, "GET", "/v1/audit", token[api.Admin], "")
	if body := w.Body.String(); !strings.Contains(body, "lte bytes=200000000") {
		t.Errorf("who allowed more data is not in the audit log: %s", body)
	}
	if body := w.Body.String(); strings.Contains(body, "GEZDGNBV") || strings.Contains(body, "4711") || !strings.Contains(body, "+79161234567") {
		t.Errorf("the audit log has %s", body)
	}
}

// The answer to an order is how the box goes after it took effect, and comes soon where it does not.
func TestOrderTakesEffect(t *testing.T) {
	s := newSite(t)
	links := &fakeLinks{}
	s.Links = links
	h, token := s.handler(t)
	for _, c := range []struct{ body, active, mode string }{
		{`{"action":"fail","uplink":"wan"}`, "lte", "standby"},
		{`{"action":"restore","uplink":"wan"}`, "wan", "standby"},
		{`{"action":"mode","mode":"dormant"}`, "wan", "dormant"},
	} {
		if l := decode[api.Link](t, ask(h, "POST", "/v1/link", token[api.Operator], c.body)); l.Active != c.active || l.Mode != c.mode {
			t.Errorf("%s: answered %s, %s", c.body, l.Active, l.Mode)
		}
	}
	links.never = true
	began := time.Now()
	if l := decode[api.Link](t, ask(h, "POST", "/v1/link", token[api.Operator], `{"action":"fail","uplink":"wan"}`)); l.Active != "wan" {
		t.Errorf("%+v", l)
	}
	if took := time.Since(began); took < effectLimit {
		t.Errorf("it was answered after %s", took)
	}
}

// tardyLinks takes longer to say how things stand than an order has to take effect.
type tardyLinks struct {
	fakeLinks
	asked int
}

func (l *tardyLinks) Link() api.Link {
	now := l.fakeLinks.Link()
	if l.asked++; l.asked == 1 {
		time.Sleep(2 * effectLimit)
	}
	return now
}

// A machine that stood still meanwhile answers with how things stand then, not before.
func TestOrderTookEffectMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := &tardyLinks{}
		h := &service{Server: &Server{Links: links}}
		a := api.LinkAction{Action: "fail", Uplink: "wan"}
		if err := links.Change(a, 0); err != nil {
			t.Fatal(err)
		}
		if l := h.changed(t.Context(), a); l.Active != "lte" {
			t.Errorf("answered %s", l.Active)
		}
	})
}

// What an order is seen by.
func TestInEffect(t *testing.T) {
	uplinks := func(states ...string) (list []api.Uplink) {
		for i, s := range states {
			list = append(list, api.Uplink{Name: []string{"wan", "dsl", "lte"}[i], State: s, Metered: i == 2})
		}
		return list
	}
	for name, c := range map[string]struct {
		link   api.Link
		action api.LinkAction
		want   bool
	}{
		"not yet away":         {api.Link{Active: "wan", Uplinks: uplinks("failed", "up")}, api.LinkAction{Action: "fail", Uplink: "wan"}, false},
		"away":                 {api.Link{Active: "dsl", Uplinks: uplinks("failed", "up")}, api.LinkAction{Action: "fail", Uplink: "wan"}, true},
		"another one is used":  {api.Link{Active: "wan", Uplinks: uplinks("up", "failed")}, api.LinkAction{Action: "fail", Uplink: "dsl"}, true},
		"the only one":         {api.Link{Active: "wan", Uplinks: uplinks("failed")}, api.LinkAction{Action: "fail", Uplink: "wan"}, true},
		"not yet back":         {api.Link{Active: "dsl", Uplinks: uplinks("unproven", "up")}, api.LinkAction{Action: "restore", Uplink: "wan"}, false},
		"good, not yet used":   {api.Link{Active: "dsl", Uplinks: uplinks("up", "up")}, api.LinkAction{Action: "restore", Uplink: "wan"}, false},
		"back":                 {api.Link{Active: "wan", Uplinks: uplinks("up", "up")}, api.LinkAction{Action: "restore", Uplink: "wan"}, true},
		"back beside a better": {api.Link{Active: "wan", Uplinks: uplinks("up", "up")}, api.LinkAction{Action: "restore", Uplink: "dsl"}, true},
		"back behind LTE":      {api.Link{Mode: "lte-only", Active: "lte", Uplinks: uplinks("up", "up", "up")}, api.LinkAction{Action: "restore", Uplink: "wan"}, true},
		"not yet by LTE":       {api.Link{Mode: "lte-only", Active: "wan", Uplinks: uplinks("up", "up", "up")}, api.LinkAction{Action: "mode", Mode: "lte-only"}, false},
		"by LTE":               {api.Link{Mode: "lte-only", Active: "lte", Uplinks: uplinks("up", "up", "up")}, api.LinkAction{Action: "mode", Mode: "lte-only"}, true},
		"dormant":              {api.Link{Mode: "dormant", Active: "wan", Uplinks: uplinks("up", "up", "up")}, api.LinkAction{Action: "mode", Mode: "dormant"}, true},
		"nobody's":             {api.Link{Uplinks: uplinks("up")}, api.LinkAction{Action: "fail", Uplink: "x"}, true},
	} {
		if got := inEffect(c.link, c.action); got != c.want {
			t.Errorf("%s: in effect: %t", name, got)
		}
	}
}

// A drill without a time takes a minute; a failure without one lasts.
func TestSpans(t *testing.T) {
	s := newSite(t)
	links := &fakeLinks{}
	s.Links = links
	h, token := s.handler(t)
	for _, c := range []struct {
		path, body string
		want       time.Duration
	}{
		{"/v1/link/drill", `{}`, time.Minute},
		{"/v1/link/drill", `{"for":"5s"}`, 5 * time.Second},
		{"/v1/link", `{"action":"fail","uplink":"wan"}`, 0},
		{"/v1/link", `{"action":"fail","uplink":"wan","for":"2h"}`, 2 * time.Hour},
	} {
		if w := ask(h, "POST", c.path, token[api.Operator], c.body); w.Code != http.StatusOK || links.span != c.want {
			t.Errorf("%s %s: %d, %s; want %s", c.path, c.body, w.Code, links.span, c.want)
		}
	}
}
