package admin

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"rescuebox/appliance/admin/api"
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
