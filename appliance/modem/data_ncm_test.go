package modem

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/modem/modemtest"
)

// speak is a session with a fake modem.
func speak(t *testing.T, m *modemtest.Modem) *session {
	t.Helper()
	p, err := openTTY(m.Path, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(p, m.Path, zap.NewNop(), nil)
	t.Cleanup(s.close)
	for _, cmd := range []string{"Z", "E0", "+CMEE=1"} {
		if _, err := s.command(t.Context(), cmd, "", shortAnswer); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func huawei(t *testing.T, s *session) *ncm {
	t.Helper()
	n, err := newNCM(Config{Name: "lte", NetDevice: "wwan0", APN: "internet", User: "u", IPType: "v4", Profile: "huawei",
		Password: func() (string, error) { return `se"cret`, nil }}, s, func() Status { return Status{} }, func() <-chan struct{} { return s.bearer })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A stick that is dialled by AT commands, with a DHCP server on its network device: dialled
// once, noticed when the network takes the bearer down, hung up.
func TestDialledNetworkDevice(t *testing.T) {
	if !alone(t) {
		return
	}
	f := cable(t, "wwan0")
	server := f.dnsmasq()
	m := modemtest.Start(t)
	up := func(on bool) {
		state := "^NDISSTATQRY: 0,,,\"IPV4\""
		if on {
			state = "^NDISSTATQRY: 1,,,\"IPV4\""
		}
		m.Heal("^NDISSTATQRY")
		m.Fault("^NDISSTATQRY", modemtest.Answer{Lines: []string{state}})
	}
	up(false)
	m.Fault("^NDISDUP=1,1", modemtest.Answer{Lines: []string{}, Do: func() { up(true) }})
	m.Fault("^NDISDUP=1,0", modemtest.Answer{Lines: []string{}, Do: func() { up(false) }})
	n := huawei(t, speak(t, m))
	h := hold(t, n)
	l := h.up("an address", func(Link) bool { return true })
	if l.Device != "wwan0" || !strings.HasPrefix(l.Addresses[0].String(), "192.168.8.") {
		t.Errorf("the bearer is %+v", l)
	}
	for _, want := range []string{`+CGDCONT=1,"IP","internet"`, `^NDISDUP=1,1,"internet","u","secret",1`} {
		if !slices.Contains(m.Log(), want) {
			t.Errorf("the modem did not hear %q but %q", want, m.Log())
		}
	}
	// The next daemon finds it up, and does not dial.
	h.end()
	h = hold(t, n)
	h.up("an address", func(Link) bool { return true })
	if got := m.Count("^NDISDUP"); got != 1 {
		t.Errorf("dialled %d times", got)
	}
	up(false)
	m.URC(`^NDISSTAT: 0,,,"IPV4"`)
	isLost(t, h.lost("the network took it"), "the network took it down")
	h = hold(t, n)
	h.up("dialled anew", func(Link) bool { return true })
	h.end()
	if err := n.down(context.Background()); err != nil {
		t.Error(err)
	}
	if log := m.Log(); m.Count("^NDISDUP=1,0") != 1 {
		t.Errorf("not hung up: %q", log)
	}
	if a := shell(t, "ip addr show wwan0 scope global"); strings.Contains(a, "inet ") {
		t.Errorf("down leaves %s", a)
	}
	if !strings.Contains(server.said(), "DHCPACK") {
		t.Error("its DHCP server was not asked")
	}
}

// Modems that have no DHCP server name the address by AT commands.
func TestDialledWithoutServer(t *testing.T) {
	if !alone(t) {
		return
	}
	f := cable(t, "wwan0")
	m := modemtest.Start(t)
	m.Fault("^NDISSTATQRY", modemtest.Answer{Lines: []string{"^NDISSTATQRY: 1"}})
	m.Fault("^DHCP?", modemtest.Answer{Lines: []string{"^DHCP: 6408A8C0,00FFFFFF,0108A8C0,0108A8C0,0808080A,0908080A,43200000,43200000"}})
	h := hold(t, huawei(t, speak(t, m)))
	l := h.up("the named address", func(l Link) bool { return has([]string{"192.168.8.100/24"}, l) })
	if l.Gateway.String() != "192.168.8.1" || sprint(l.DNS) != "[10.8.8.8 10.8.8.9]" {
		t.Errorf("the bearer is %+v", l)
	}
	f.reaches("192.168.8.100")
}

// What a network and a modem may answer to a dial, in words that help.
func TestDialRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		answer  modemtest.Answer
		state   string
		want    string
		lasting bool
	}{
		"no service":     {answer: modemtest.Answer{Result: "+CME ERROR: 30"}, want: "no network service"},
		"APN":            {answer: modemtest.Answer{Result: "+CME ERROR: 133"}, want: "has not subscribed to this APN", lasting: true},
		"unspecified":    {answer: modemtest.Answer{Result: "+CME ERROR: 148"}, want: "does not say why"},
		"in words":       {answer: modemtest.Answer{Result: "+CME ERROR: Requested service option not subscribed"}, want: "has not subscribed to this APN", lasting: true},
		"error":          {answer: modemtest.Answer{Result: "ERROR"}, want: "check apn"},
		"cause later on": {answer: modemtest.Answer{Lines: []string{}}, state: `^NDISSTATQRY: 0,33,,"IPV4"`, want: "has not subscribed to this APN (cause 33)", lasting: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := modemtest.Start(t)
			m.Fault("^NDISDUP", tt.answer)
			m.Fault("^NDISSTATQRY", modemtest.Answer{Lines: []string{tt.state}})
			if tt.state == "" {
				m.Fault("^NDISSTATQRY", modemtest.Answer{Result: "ERROR"})
			}
			n := huawei(t, speak(t, m))
			n.choose()
			err := n.dial(t.Context())
			var r *Refusal
			if !errors.As(err, &r) || !strings.Contains(err.Error(), tt.want) || r.Lasting != tt.lasting {
				t.Errorf("it says %v, want %q, lasting %v", err, tt.want, tt.lasting)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Error("the error has the password in it")
			}
		})
	}
}

// The commands of every dialect, as a modem hears them.
func TestDialects(t *testing.T) {
	for name, want := range map[string][]string{
		"huawei":  {`+CGDCONT=1,"IPV4V6","a"`, `^NDISDUP=1,1,"a"`, `^NDISDUP=1,0`},
		"quectel": {`+QICSGP=1,3,"a","","",0`, `+QNETDEVCTL=1,1,1`, `+QNETDEVCTL=0,1,0`},
		"sierra":  {`+CGDCONT=1,"IPV4V6","a"`, `!SCACT=1,1`, `!SCACT=0,1`},
		"zte":     {`+ZGDCONT=1,"IPV4V6","a","",0,0`, `+ZGACT=1,1`, `+ZGACT=0,1`},
		"telit":   {`+CGDCONT=1,"IPV4V6","a"`, `#ECM=1,0`, `#ECMD=0`},
		"generic": {`+CGDCONT=1,"IPV4V6","a"`, `+CGACT=1,1`, `+CGACT=0,1`},
	} {
		said := &scribe{}
		n, err := newNCM(Config{NetDevice: "none0", APN: "a", Profile: name}, said, func() Status { return Status{} }, nil)
		if err != nil {
			t.Fatal(err)
		}
		n.choose()
		if err := n.dial(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = n.down(t.Context())
		if got := slices.DeleteFunc(said.heard, func(s string) bool { return strings.HasSuffix(s, "?") }); !slices.Equal(got, want) {
			t.Errorf("%s says %q, want %q", name, got, want)
		}
	}
	if got := profile("", "QUALCOMM INCORPORATED"); got != "generic" {
		t.Errorf("profile %q", got)
	}
	if got := profile("", "Sierra Wireless, Incorporated"); got != "sierra" {
		t.Errorf("profile %q", got)
	}
}

// scribe is a modem that says OK to everything and cannot say how it is.
type scribe struct{ heard []string }

func (s *scribe) command(_ context.Context, cmd, _ string, _ time.Duration) ([]string, error) {
	s.heard = append(s.heard, cmd)
	return nil, nil
}
