package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
)

// fakePowers has a BMC and a switch for srv01, and for others nothing but maybe a switch that pulls the plug.
type fakePowers struct {
	plug  bool
	texts bool // the switch of srv01 is spoken to by text messages

	mu   sync.Mutex
	done []string
}

func (f *fakePowers) Means(machine string) Means {
	if machine != "srv01" {
		return Means{Switch: f.plug, Plug: f.plug}
	}
	return Means{BMC: true, Media: true, Switch: true, Plug: true, Soft: true, Texts: f.texts, Caution: "It pulls the plug."}
}

func (*fakePowers) State(_ context.Context, _ string, by api.Power) (bmc.State, error) {
	if by == api.BySwitch {
		return bmc.Unknown, nil
	}
	return bmc.On, nil
}

func (f *fakePowers) Do(_ context.Context, machine string, a bmc.Action, by api.Power) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case a == bmc.Reset && by == api.BySwitch:
		return &boot.Refusal{Reason: "a switch cannot reset", Hint: "cycle"}
	case a == bmc.SoftOff:
		return fmt.Errorf("power soft: BMC 192.168.77.21: %w", bmc.ErrSilent)
	}
	f.done = append(f.done, fmt.Sprint(machine, " ", a, " ", by))
	return nil
}

// presses are the buttons that orders pressed.
type presses struct {
	mu   sync.Mutex
	list []string
}

func (p *presses) press(o boot.Order) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, fmt.Sprint(o.Machine, " ", o.Image, " soft=", o.Press.Soft, " media=", o.Press.Media))
}

type fakeBMCs struct{}

func (fakeBMCs) Services(context.Context, string) (netip.Addr, []bmc.Service, error) {
	return netip.MustParseAddr("192.168.77.21"), []bmc.Service{{Name: "https", Port: 443}, {Name: "console", Port: 5900},
		{Name: "again", Port: 443}, {Name: "wrong", Port: 70000}}, nil
}

func (fakeBMCs) Audit(_ context.Context, machine string, lan bool) (bmc.Audit, error) {
	return bmc.Audit{Swept: 254, Findings: []bmc.Finding{{Machine: machine, Host: "192.168.77.21", Check: "cipher-0", Level: bmc.Bad, Text: "no\npassword", Hint: "switch it off"},
		{Host: "192.168.77.33", Check: "tls", Level: bmc.Good, Text: fmt.Sprint("lan=", lan)}}}, nil
}

func (fakeBMCs) Trust(context.Context, string) (string, error) { return strings.Repeat("ab", 32), nil }

func (fakeBMCs) Forget(machine string) ([]string, error) {
	if machine != "srv01" {
		return nil, &boot.Refusal{Reason: machine + " has nothing whose certificate is pinned"}
	}
	return []string{"192.168.77.40:443"}, nil
}

// What is switched, by what, and who is said to have done it: in the answer, the
// timeline and the audit log.
func TestPower(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	powers := s.Powers.(*fakePowers)
	order, err := s.table.Arm("srv01", "rescue", "alice", 0)
	if err != nil {
		t.Fatal(err)
	}
	w := ask(h, "POST", "/v1/machines/srv01/power", token[api.Operator], `{"action":"cycle"}`)
	if done := decode[api.PowerDone](t, w); w.Code != http.StatusOK || done.By != api.ByBMC || done.Who != "its-operator" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	ask(h, "POST", "/v1/machines/srv01/power", token[api.Operator], `{"action":"off","by":"switch"}`)
	if got := strings.Join(powers.done, ", "); got != "srv01 cycle bmc, srv01 off switch" {
		t.Errorf("done: %s", got)
	}
	events, err := s.table.Timeline(order.ID)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, e := range events {
		if e.Step == boot.StepPower {
			told = append(told, e.Text)
		}
	}
	if want := "power cycle by its-operator, through the BMC|power off by its-operator, through the switch"; strings.Join(told, "|") != want {
		t.Errorf("the timeline has %q", told)
	}
	if w := ask(h, "POST", "/v1/machines/srv01/power", token[api.Operator], `{"action":"soft"}`); w.Code != http.StatusBadGateway || problemIn(t, w).Code != "unreachable" {
		t.Errorf("silent: %d %s", w.Code, w.Body)
	}
	all, _ := s.Audit.Read("", 0, 0)
	if n := len(all); n != 3 || all[0].Args != "srv01 cycle by=bmc" || all[1].Args != "srv01 off by=switch" || all[2].Status != http.StatusBadGateway {
		t.Errorf("audit: %+v", all)
	}
	if m := decode[api.Machine](t, ask(h, "GET", "/v1/machines/srv01", token[api.Viewer], "")); m.Caution != "It pulls the plug." {
		t.Errorf("nobody is told what the switch is: %+v", m)
	}
	s.Powers = nil
	if w := ask(h, "POST", "/v1/machines/srv01/power", token[api.Operator], `{"action":"on"}`); w.Code != http.StatusConflict {
		t.Errorf("without anything that switches: %d", w.Code)
	}
}

// A question that is a text message costs money, and one of the messages that a day has: only who may switch asks it, and
// only who says that it is meant. A BMC is asked for nothing.
func TestPowerByText(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	for _, tt := range []struct {
		texts bool
		role  api.Role
		query string
		want  int
		code  string
	}{
		{true, api.Viewer, "", http.StatusOK, ""},
		{true, api.Viewer, "?by=switch", http.StatusForbidden, "forbidden"},
		{true, api.Viewer, "?by=switch&confirmed=true", http.StatusForbidden, "forbidden"},
		{true, api.Operator, "?by=switch", http.StatusConflict, api.Unconfirmed},
		{true, api.Operator, "?by=switch&confirmed=maybe", http.StatusConflict, api.Unconfirmed},
		{true, api.Operator, "?by=switch&confirmed=true", http.StatusOK, ""},
		{false, api.Viewer, "?by=switch", http.StatusOK, ""},
	} {
		s.Powers = &fakePowers{texts: tt.texts}
		w := ask(h, "GET", "/v1/machines/srv01/power"+tt.query, token[tt.role], "")
		if w.Code != tt.want || tt.code != "" && problemIn(t, w).Code != tt.code {
			t.Errorf("%+v: %d %s", tt, w.Code, w.Body)
		}
	}
}

// An order presses the button of a machine that has one, as it was asked to; and says by what, also later.
func TestOrderPresses(t *testing.T) {
	for name, c := range map[string]struct {
		body, want string
		power      api.Power
	}{
		"plain":     {`{"machine":"srv01","image":"rescue"}`, "srv01 rescue soft=false media=false", api.ByBMC},
		"soft":      {`{"machine":"srv01","image":"rescue","soft":true}`, "srv01 rescue soft=true media=false", api.ByBMC},
		"media":     {`{"machine":"srv01","image":"rescue","via":"media"}`, "srv01 rescue soft=false media=true", api.ByBMC},
		"no power":  {`{"machine":"srv01","image":"rescue","no_power":true}`, "", api.Manual},
		"no button": {`{"machine":"srv02","image":"rescue"}`, "", api.Manual},
	} {
		s := newSite(t)
		h, token := s.handler(t)
		w := ask(h, "POST", "/v1/orders", token[api.Operator], c.body)
		o := decode[api.Order](t, w)
		if w.Code != http.StatusCreated || o.Power != c.power || strings.Join(s.presses.list, ",") != c.want {
			t.Errorf("%s: %d %s, pressed %q", name, w.Code, w.Body, s.presses.list)
		}
		if again := decode[api.Order](t, ask(h, "GET", "/v1/orders/"+o.ID, token[api.Viewer], "")); again.Power != c.power {
			t.Errorf("%s: later it says %q", name, again.Power)
		}
	}
}

// An order that pulls a plug is refused until it says that this is meant, before there is an order; and the press knows
// that it does.
func TestOrderPullsPlug(t *testing.T) {
	s := newSite(t)
	s.Powers = &fakePowers{plug: true}
	var confirmed []bool
	s.Press = func(o boot.Order) { confirmed = append(confirmed, o.Press.Confirmed) }
	h, token := s.handler(t)
	w := ask(h, "POST", "/v1/orders", token[api.Operator], `{"machine":"srv02","image":"dart"}`)
	if no := decode[api.Error](t, w); w.Code != http.StatusConflict || no.Code != api.Unconfirmed || !strings.Contains(no.Message, "the plug of srv02") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if err := readDocument(t).checkAnswer(readDocument(t).Paths["/v1/orders"]["post"], w); err != nil {
		t.Error(err)
	}
	if _, open := s.table.OpenOrder("srv02"); open || len(confirmed) > 0 {
		t.Error("it was ordered all the same")
	}
	for body, power := range map[string]api.Power{
		`{"machine":"srv02","image":"dart","no_power":true}`:  api.Manual,
		`{"machine":"srv02","image":"dart","confirmed":true}`: api.BySwitch,
		`{"machine":"srv01","image":"dart"}`:                  api.ByBMC, // which has a switch beside it
	} {
		if o := decode[api.Order](t, ask(h, "POST", "/v1/orders", token[api.Operator], body)); o.Power != power {
			t.Errorf("%s: by %q", body, o.Power)
		}
	}
	if len(confirmed) != 2 || confirmed[0] == confirmed[1] {
		t.Errorf("the presses were confirmed: %t", confirmed)
	}
}

// Ways to all TCP services of a BMC: each opened and closed on record, none named twice,
// none that is no port; they end together.
func TestConnectBMC(t *testing.T) {
	for _, over := range []string{"socket", "TLS"} {
		s := newSite(t)
		relays := s.Relays.(*fakeRelays)
		client := s.client(t, over)
		ways, err := client.ConnectBMC(t.Context(), "srv01", 2*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if len(ways) != 2 || ways[0].Name != "https" || ways[0].Target != "192.168.77.21:443" || ways[1].Name != "console" || ways[1].Target != "192.168.77.21:5900" {
			t.Errorf("%s: ways %+v %+v", over, ways[0].Relay, ways[1].Relay)
		}
		for _, g := range relays.opened {
			if g.For != 2*time.Hour || g.Service != "bmc" || g.Machine != "srv01" {
				t.Errorf("%s: granted %+v", over, g)
			}
		}
		for _, w := range ways {
			if got := through(t, w, "hello"); got != "HELLO" {
				t.Errorf("%s: %q", w.Name, got)
			}
		}
		ways[1].Close()
		for _, w := range relays.ways {
			select {
			case <-w.done:
			case <-time.After(30 * time.Second):
				t.Errorf("%s: a way stands after the other was closed", over)
			}
		}
		entries := s.auditUntil(t, 4)
		for i, want := range []string{"srv01 bmc https target=192.168.77.21:443 until=", "srv01 bmc console target=192.168.77.21:5900 until=",
			"srv01 bmc https target=192.168.77.21:443 way=", "srv01 bmc console target=192.168.77.21:5900 way="} {
			if !strings.HasPrefix(entries[i].Args, want) || strings.HasPrefix(entries[i].What, "CLOSE") != (i > 1) {
				t.Errorf("%s: entry %d is %s %s", over, i, entries[i].What, entries[i].Args)
			}
		}
		if !strings.Contains(entries[2].Args, "connections=1 sent=5 received=5") {
			t.Errorf("%s: closing %s", over, entries[2].Args)
		}
		var e *api.Error
		if _, err := client.ConnectBMC(t.Context(), "srv02", 0); !errors.As(err, &e) || e.Status != http.StatusConflict {
			t.Errorf("%s: without a BMC: %v", over, err)
		}
	}
}

// One way of several that is refused opens none.
func TestConnectBMCRefused(t *testing.T) {
	s := newSite(t)
	relays := s.Relays.(*fakeRelays)
	client := s.client(t, "socket")
	relays.refuse = &boot.Refusal{Reason: "48 ways are open already", Hint: "close one"}
	var e *api.Error
	if _, err := client.ConnectBMC(t.Context(), "srv01", 0); !errors.As(err, &e) || e.Status != http.StatusConflict {
		t.Errorf("got %v", err)
	}
	if got := s.auditUntil(t, 1); len(got) != 1 || got[0].Status != http.StatusConflict {
		t.Errorf("audit: %+v", got)
	}
}

func TestAuditBMCs(t *testing.T) {
	s := newSite(t)
	h, token := s.handler(t)
	w := ask(h, "GET", "/v1/bmc/audit?machine=srv01&lan=1", token[api.Operator], "")
	a := decode[api.BMCAudit](t, w)
	if a.OK || a.Swept != 254 || len(a.Findings) != 2 || a.Findings[0].Text != "no password" || a.Findings[1].Text != "lan=true" {
		t.Errorf("%s", w.Body)
	}
	all, _ := s.Audit.Read("", 0, 0)
	if len(all) != 1 || all[0].Args != "srv01 lan=true findings=2 ok=false" || all[0].What != "GET /v1/bmc/audit" {
		t.Errorf("audit log: %+v", all)
	}
}
