package httpboot

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/appliance/boot"
)

// agents is an Agents that knows one token.
type agents struct{ reports []string }

const token = "5f0c1d"

func (a *agents) Keys(t string, _ netip.Addr) ([]byte, error) {
	if t != token {
		return nil, &boot.Refusal{Reason: "no order has this token"}
	}
	return []byte("ssh-ed25519 AAAA admin\n"), nil
}

func (a *agents) Up(t string, from netip.Addr, report []byte) error {
	switch {
	case t != "" && t != token:
		return &boot.Refusal{Reason: "no order has this token"}
	case strings.Contains(string(report), "disk"):
		return errors.New("write /var/lib/rescuebox/rescuebox.db: disk full")
	}
	a.reports = append(a.reports, from.String()+" "+string(report))
	return nil
}

func TestAgent(t *testing.T) {
	tree, _ := treeWith(t, 1)
	a := &agents{}
	url, _ := start(t, tree, func(s *Server) { s.Agents = a })
	for _, tc := range []struct {
		name, method, path, auth, body string
		status                         int
		want                           string
	}{
		{"keys", "GET", "/agent/keys", "Bearer " + token, "", 200, "ssh-ed25519 AAAA admin\n"},
		{"scheme in any case", "GET", "/agent/keys", "bearer  " + token, "", 200, "ssh-ed25519 AAAA admin\n"},
		{"keys without token", "GET", "/agent/keys", "", "", 401, "no order has this token\n"},
		{"keys with wrong token", "GET", "/agent/keys", "Bearer x", "", 403, "no order has this token\n"},
		{"another scheme", "GET", "/agent/keys", "Basic " + token, "", 401, "no order has this token\n"},
		{"post keys", "POST", "/agent/keys", "", "{}", 405, "keys are for GET\n"},
		{"up", "POST", "/agent/up", "Bearer " + token, `{"kind":"ssh"}`, 204, ""},
		{"up without token", "POST", "/agent/up", "", `{"kind":"ssh"}`, 204, ""},
		{"up with wrong token", "POST", "/agent/up", "Bearer x", `{}`, 403, "no order has this token\n"},
		{"no JSON", "POST", "/agent/up", "Bearer " + token, `{"kind"`, 400, "the report is no JSON\n"},
		{"too long", "POST", "/agent/up", "Bearer " + token, `"` + strings.Repeat("x", 70_000) + `"`, 413, "the report has more than 65536 bytes\n"},
		{"get up", "GET", "/agent/up", "", "", 405, "reports are for POST\n"},
		{"the box fails", "POST", "/agent/up", "Bearer " + token, `"disk"`, 500, "the box failed: see its log\n"},
	} {
		resp, got := do(t, tc.method, url+tc.path, strings.NewReader(tc.body), "Authorization", tc.auth)
		if resp.StatusCode != tc.status || got != tc.want {
			t.Errorf("%s: %s, %q", tc.name, resp.Status, got)
		}
		if (resp.Header.Get("WWW-Authenticate") != "") != (tc.status == 401) {
			t.Errorf("%s: header %v", tc.name, resp.Header)
		}
	}
	if got := strings.Join(a.reports, "; "); got != `127.0.0.1 {"kind":"ssh"}; 127.0.0.1 {"kind":"ssh"}` {
		t.Error(got)
	}
}

func TestAgentThatAsksTooOftenIsSlowed(t *testing.T) {
	tree, _ := treeWith(t, 1)
	url, _ := start(t, tree, func(s *Server) { s.Agents = &agents{} })
	for range 100 * burst { // a machine that stands still for a while lets the bucket fill again
		if resp, _ := do(t, "GET", url+"/agent/keys", nil); resp.StatusCode == 429 {
			if resp.Header.Get("Retry-After") != "1" {
				t.Error(resp.Header)
			}
			return
		}
	}
	t.Error("all were answered")
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limiter
		a := netip.MustParseAddr("192.0.2.1")
		granted := func(n int) (k int) {
			for range n {
				if l.allow(a) {
					k++
				}
			}
			return k
		}
		if k := granted(100); k != burst {
			t.Errorf("%d at once", k)
		}
		time.Sleep(time.Second)
		if k := granted(100); k != perSecond {
			t.Errorf("%d after a second", k)
		}
		next := a
		for range 5000 {
			next = next.Next()
			l.allow(next)
		}
		if len(l.buckets) != maxAddresses {
			t.Errorf("%d addresses are kept", len(l.buckets))
		}
		time.Sleep(time.Minute)
		if !l.allow(next.Next()) {
			t.Error("a new address is refused for ever")
		}
	})
}

func TestPaceKeepsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := paces{rate: 1_000_000}
		a := netip.MustParseAddr("192.0.2.1")
		p, same := s.join(a), s.join(a)
		if p != same {
			t.Fatal("two connections of an address have two rates")
		}
		begin := time.Now()
		for range 100 {
			if err := p.wait(t.Context(), p.slice()); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begin); d != 99*50*time.Millisecond {
			t.Errorf("5 MB took %v", d)
		}
		s.leave(p)
		s.leave(same)
		if len(s.open) != 0 {
			t.Errorf("%d are kept", len(s.open))
		}
	})
}
