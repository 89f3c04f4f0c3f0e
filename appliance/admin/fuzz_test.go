package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/ticket"
)

// Whatever the body, the answer is JSON with a reason or a success, and no panic.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{`{"machine":"srv01","image":"rescue"}`, `{"name":"a","mac":"02:00:00:00:00:09"}`,
		`{"name":"a","role":"viewer","ttl":"1h"}`, `{}{}`, `null`, `[`, `{"machine":1e999}`, "\x00", `{"ttl":"-1h","machine":"srv01","image":"rescue"}`} {
		f.Add(seed)
	}
	boots := &fakeBoot{}
	fake := &service{Server: &Server{Boot: boots, Audit: noAudit{}}, keys: &keyring{store: noTokens{}, byID: map[string]Token{}}}
	f.Fuzz(func(t *testing.T, body string) {
		var order api.NewOrder
		var adopt api.Adopt
		var token api.CreateToken
		for _, v := range []any{&order, &adopt, &token} {
			req := httptest.NewRequest("POST", "/", strings.NewReader(body))
			req.Header.Set("Content-Type", "application/json")
			err := (&call{req: req, w: httptest.NewRecorder()}).read(v)
			if err == nil && !json.Valid([]byte(body)) {
				t.Errorf("%q was read as %+v", body, v)
			}
		}
		req := httptest.NewRequest("POST", "/", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		c := &call{req: req, w: httptest.NewRecorder()}
		if v, err := fake.createToken(c); err == nil {
			fake.keys.byID = map[string]Token{}
			if n := v.(api.NewToken); !goodName(n.Name) || rank(n.Role) == 0 {
				t.Errorf("token %+v from %q", n, body)
			}
		} else if p := problemOf(err); p.body.Status >= http.StatusInternalServerError || len(c.args) > 1000 {
			t.Errorf("%q: %v, audit %q", body, err, c.args)
		}
	})
}

// Whatever is asked of a way, it leads to a ticket's own address or nowhere, with a
// reason, and keeps the audit log short.
func FuzzConnect(f *testing.F) {
	for _, seed := range []string{"service=ticket&id=1&for=1h", "service=ipmi", "for=-1h", "for=9999999h", "target=10.0.0.1:22&id=../x", "%zz", "id=%00%0a&id=2"} {
		f.Add("srv01", seed)
	}
	f.Add("../srv01", "")
	at := netip.MustParseAddr("192.168.77.100")
	relays := &fakeRelays{}
	fake := &service{Server: &Server{Boot: &fakeBoot{}, Audit: noAudit{}, Relays: relays, Log: zap.NewNop(),
		Tickets: someTickets{{ID: "1", Kind: ticket.SSH, Address: at, Port: 22}}}, log: zap.NewNop()}
	f.Fuzz(func(t *testing.T, machine, query string) {
		req := httptest.NewRequest("GET", "/v1/machines/x/connect", nil)
		req.URL.RawQuery = query
		req.SetPathValue("name", machine)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", protocol)
		c := &call{req: req, w: httptest.NewRecorder()} // which cannot be taken over: a way that opens ends at once
		if err := fake.connect(c); err != nil && problemOf(err).body.Status >= http.StatusInternalServerError || len(c.args) > 1000 {
			t.Errorf("%q %q: %v, audit %q", machine, query, err, c.args)
		}
		for _, g := range relays.opened {
			if g.Target != netip.AddrPortFrom(at, 22) || g.For < 0 {
				t.Errorf("%q %q leads to %+v", machine, query, g)
			}
		}
		relays.opened, relays.ways = nil, nil
	})
}

type noAudit struct{}

func (noAudit) Append(string, AuditEntry) (int64, error)      { return 1, nil }
func (noAudit) Read(string, int64, int) ([]AuditEntry, error) { return nil, nil }

type noTokens struct{}

func (noTokens) Put(string, Token) error { return nil }
func (noTokens) Delete(string) error     { return nil }
func (noTokens) All() ([]Token, error)   { return nil, nil }

// Whatever the header, nobody gets in.
func FuzzAuthorization(f *testing.F) {
	k := &keyring{store: noTokens{}, byID: map[string]Token{}}
	for _, seed := range []string{"", "rbx_", "rbx_00000000_", "rbx__", "_", "rbx_00000000_AAAA"} {
		f.Add(seed)
	}
	k.byID["00000000"] = Token{ID: "00000000", Hash: hashSecret("a secret")}
	f.Fuzz(func(t *testing.T, text string) {
		if _, ok := k.check(text); ok && text != "rbx_00000000_a secret" {
			t.Errorf("%q gets in", text)
		}
	})
}
