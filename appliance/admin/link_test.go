package admin

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
)

// fakeLinks has two uplinks, and a modem with text messages.
type fakeLinks struct{ span time.Duration }

func (*fakeLinks) Link() api.Link {
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
