package admin

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
)

// who says which role may do what: a route that is not here fails the test.
var who = map[string]api.Role{
	"GET /openapi.json":                   api.Viewer,
	"GET /metrics":                        api.Viewer,
	"GET /v1/version":                     api.Viewer,
	"GET /v1/whoami":                      api.Viewer,
	"GET /v1/status":                      api.Viewer,
	"GET /v1/machines":                    api.Viewer,
	"POST /v1/machines":                   api.Operator,
	"GET /v1/machines/{name}":             api.Viewer,
	"DELETE /v1/machines/{name}/order":    api.Operator,
	"GET /v1/clients":                     api.Viewer,
	"GET /v1/leases":                      api.Viewer,
	"GET /v1/orders":                      api.Viewer,
	"POST /v1/orders":                     api.Operator,
	"GET /v1/orders/{id}":                 api.Viewer,
	"GET /v1/orders/{id}/timeline":        api.Viewer,
	"GET /v1/events":                      api.Viewer,
	"GET /v1/tickets":                     api.Operator, // a ticket is a credential
	"GET /v1/tickets/{id}":                api.Operator,
	"GET /v1/machines/{name}/connect":     api.Operator,
	"GET /v1/machines/{name}/power":       api.Viewer,
	"POST /v1/machines/{name}/power":      api.Operator,
	"POST /v1/machines/{name}/bmc/trust":  api.Admin,    // whoever answers is sent the password
	"GET /v1/bmc/audit":                   api.Operator, // tries accounts
	"GET /v1/relays/{id}":                 api.Operator,
	"GET /v1/machines/{name}/console":     api.Operator, // what is said there opens the machine
	"GET /v1/machines/{name}/console/log": api.Operator,
	"GET /v1/notifications":               api.Operator, // people's addresses
	"POST /v1/notifications/test":         api.Operator,
	"GET /v1/images":                      api.Viewer,
	"GET /v1/images/{name}":               api.Viewer,
	"POST /v1/images/{name}/verify":       api.Operator,
	"DELETE /v1/images/{name}":            api.Admin,
	"GET /v1/doctor":                      api.Operator, // sends packets
	"GET /v1/tokens":                      api.Admin,
	"POST /v1/tokens":                     api.Admin,
	"DELETE /v1/tokens/{id}":              api.Admin,
	"GET /v1/audit":                       api.Admin,
	"GET /v1/link":                        api.Viewer,
	"POST /v1/link":                       api.Operator,
	"POST /v1/link/drill":                 api.Operator,
	"GET /v1/modems":                      api.Viewer,
	"POST /v1/modems/{name}/reset":        api.Operator,
	"POST /v1/modems/{name}/allow":        api.Operator, // costs money
	"GET /v1/texts":                       api.Operator, // what people write
	"POST /v1/texts":                      api.Operator, // costs money
	"GET /v1/texts/senders":               api.Operator, // whose number orders what
	"POST /v1/texts/senders":              api.Admin,    // shows a secret
	"DELETE /v1/texts/senders/{number}":   api.Admin,
}

// Every role against every route: 403 below the line, something else above it,
// 401 without a token; and every changing call, refused ones too, is audited.
func TestRoles(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	rank := map[api.Role]int{api.Viewer: 1, api.Operator: 2, api.Admin: 3}
	for _, r := range h.routes() {
		name := r.method + " " + r.path
		least, listed := who[name]
		if !listed {
			t.Errorf("%s is not in the table of roles", name)
			continue
		}
		path := strings.NewReplacer("{name}", "nobody", "{id}", "0").Replace(r.path)
		if r.path == "/v1/events" {
			path += "?machine=nobody" // an answer with an end
		}
		if w := ask(h, r.method, path, "", ""); w.Code != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d", name, w.Code)
		}
		for role, rk := range rank {
			before := s.audited(t)
			w := ask(h, r.method, path, token[role], "")
			if refused := w.Code == http.StatusForbidden; refused != (rk < rank[least]) {
				t.Errorf("%s by %s: %d %s", name, role, w.Code, w.Body)
			}
			want := 0
			if r.method != http.MethodGet || r.opens {
				want = 1
			}
			if got := s.audited(t) - before; got != want {
				t.Errorf("%s by %s: %d audit entries, want %d", name, role, got, want)
			}
		}
	}
	if len(h.routes()) != len(who) {
		t.Errorf("%d routes, %d in the table of roles", len(h.routes()), len(who))
	}
}

func (s *site) audited(t *testing.T) int {
	t.Helper()
	all, err := s.Audit.Read("", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// A token's life: shown once, stored as a hash, expiring, revocable.
func TestTokens(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	w := ask(h, "POST", "/v1/tokens", token[api.Admin], `{"name":"alice","role":"viewer","ttl":"1h"}`)
	if w.Code != http.StatusCreated {
		t.Fatalf("create: %d %s", w.Code, w.Body)
	}
	created := decode[api.NewToken](t, w)
	if !strings.HasPrefix(created.Secret, "rbx_"+created.ID+"_") || len(created.Secret) < 50 {
		t.Errorf("secret %q", created.Secret)
	}
	_, part, _ := strings.Cut(strings.TrimPrefix(created.Secret, "rbx_"), "_")
	stored, err := s.Tokens.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, tok := range stored {
		if strings.Contains(tok.Hash, part) || tok.Hash == "" {
			t.Errorf("the store holds the secret: %+v", tok)
		}
	}
	if list := ask(h, "GET", "/v1/tokens", token[api.Admin], "").Body.String(); strings.Contains(list, part) || !strings.Contains(list, created.ID) {
		t.Errorf("list of tokens: %s", list)
	}
	if log := ask(h, "GET", "/v1/audit", token[api.Admin], "").Body.String(); strings.Contains(log, part) || !strings.Contains(log, "alice role=viewer ttl=1h id="+created.ID) {
		t.Errorf("audit log: %s", log)
	}
	if w := ask(h, "GET", "/v1/whoami", created.Secret, ""); w.Code != http.StatusOK || decode[api.Identity](t, w).Name != "alice" {
		t.Errorf("whoami: %d %s", w.Code, w.Body)
	}

	again := s.service() // the daemon restarts
	if w := ask(again, "GET", "/v1/whoami", created.Secret, ""); w.Code != http.StatusOK {
		t.Errorf("after a restart: %d %s", w.Code, w.Body)
	}
	if w := ask(h, "DELETE", "/v1/tokens/"+created.ID, token[api.Admin], ""); w.Code != http.StatusNoContent {
		t.Errorf("revoke: %d %s", w.Code, w.Body)
	}
	if w := ask(h, "GET", "/v1/whoami", created.Secret, ""); w.Code != http.StatusUnauthorized {
		t.Errorf("after it was revoked: %d", w.Code)
	}
	if w := ask(h, "DELETE", "/v1/tokens/"+created.ID, token[api.Admin], ""); w.Code != http.StatusNotFound {
		t.Errorf("revoke again: %d", w.Code)
	}

	_, old, err := h.keys.create("old", "test", api.Admin, -time.Second, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if w := ask(h, "GET", "/v1/whoami", old, ""); w.Code != http.StatusUnauthorized || !strings.Contains(problemIn(t, w).Message, "expired") {
		t.Errorf("expired token: %d %s", w.Code, w.Body)
	}
}

// A secret with another token's id, half a token, and no token at all are all the same.
func TestWrongTokens(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	a, v := token[api.Admin], token[api.Viewer]
	for _, wrong := range []string{"x", "rbx_", "rbx__", a[:len(a)-1], a + "x", strings.TrimPrefix(a, "rbx_"), v[:13] + a[13:], "rbx_ffffffff_"} {
		h.locks = lockout{}
		if w := ask(h, "GET", "/v1/whoami", wrong, ""); w.Code != http.StatusUnauthorized {
			t.Errorf("token %q: %d %s", wrong, w.Code, w.Body)
		}
	}
}
