package power

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// socket is a GSM socket with a SIM of its own: what it is sent, and how it behaves.
type socket struct {
	mu     sync.Mutex
	on     bool
	heard  []string
	delay  time.Duration // of its replies
	mute   bool          // obeys, and does not reply
	dead   bool          // does neither
	lost   int           // so many texts do not reach it
	unsent error         // the modem's
	once   bool          // it sends one text, and no other
	before []string      // comes before the reply: an older question's
	reply  func(s *socket, text string) string
}

const socketNumber = "+79160000009"

// isocket is one as its manual has it.
func isocket(s *socket, text string) string {
	switch text {
	case "ON", "OFF":
		s.on = text == "ON"
		return "Power socket " + text
	case "RESTART":
		return "Power socket restarted"
	case "STATUS":
		return fmt.Sprintf("Power socket %s\nMicrorelay OFF\nTemp 24C\nGSM 80%%", map[bool]string{true: "ON", false: "OFF"}[s.on])
	}
	return text + " - Error!"
}

// simpal is one as its manual has it, as far as that is known.
func simpal(s *socket, text string) string {
	switch text {
	case "#1#0#", "#2#0#":
		s.on = text == "#1#0#"
		return "T80: выход " + map[bool]string{true: "включен", false: "выключен"}[s.on]
	case "#12#0#1#1#":
		s.on = false
		time.AfterFunc(time.Minute, func() { s.mu.Lock(); s.on = true; s.mu.Unlock() })
		return "Таймер: 1 мин"
	}
	return "Неверная команда"
}

func (s *socket) ask(ctx context.Context, number, text string) (<-chan string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number != socketNumber {
		return nil, errors.New("no such number")
	}
	if s.unsent != nil {
		return nil, s.unsent
	}
	if s.once && len(s.heard) > 0 {
		return nil, errors.New("no money left")
	}
	s.heard = append(s.heard, text)
	replies := make(chan string, 8)
	for _, older := range s.before {
		replies <- older
	}
	stop := context.AfterFunc(ctx, func() { close(replies) })
	if s.lost > 0 || s.dead {
		s.lost--
		return replies, nil
	}
	said := s.reply(s, text)
	if !s.mute {
		time.AfterFunc(s.delay, func() {
			if ctx.Err() == nil {
				replies <- said
			}
		})
	}
	_ = stop
	return replies, nil
}

func (s *socket) open(t *testing.T, model string, g GSM) Switch {
	t.Helper()
	sw, err := New(Config{Kind: "gsm-socket", Number: socketNumber, Model: model, GSM: g, Ask: s.ask})
	if err != nil {
		t.Fatal(err)
	}
	return sw
}

func (s *socket) sent() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.heard, " ")
}

func (s *socket) isOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.on
}

func TestGSMSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &socket{reply: isocket, delay: 20 * time.Second}
		sw := s.open(t, "isocket", GSM{})
		if Warning(sw) == "" || !strings.Contains(Warning(sw), socketNumber) {
			t.Errorf("nobody is told what it is: %q", Warning(sw))
		}
		for _, do := range []func(context.Context) error{sw.On, sw.Off, sw.On, sw.Cycle} {
			if err := do(t.Context()); err != nil {
				t.Error(err)
			}
		}
		isState(t, sw, On)
		if got := s.sent(); got != "ON OFF ON RESTART STATUS" || !s.isOn() {
			t.Errorf("it was sent %s", got)
		}
	})
}

// A cycle is one message, which the socket completes, even where the box hangs on it.
func TestGSMSocketCycleInOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &socket{reply: simpal, on: true, delay: time.Second}
		sw := s.open(t, "simpal", GSM{})
		if err := sw.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.isOn() {
			t.Error("it was not off")
		}
		time.Sleep(61 * time.Second)
		if !s.isOn() || s.sent() != "#12#0#1#1#" {
			t.Errorf("on: %v, it was sent %s", s.isOn(), s.sent())
		}
		_, err := sw.State(t.Context())
		wantError(t, err, ErrUnsupported)
		if err := errors.Join(sw.Off(t.Context()), sw.On(t.Context())); err != nil || !s.isOn() {
			t.Errorf("on: %v, %v", s.isOn(), err)
		}
	})
}

// One without a cycle of its own gets its power back, whatever became of the text before.
func TestGSMSocketOffAndOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := GSM{On: "let there be light", Off: "dark", SaysOn: "light", SaysOff: "dark"}
		s := &socket{on: true, delay: time.Second, reply: func(s *socket, text string) string {
			s.on = text != "dark"
			return map[bool]string{true: "it is light", false: "it is dark"}[s.on]
		}}
		sw := s.open(t, "custom", own)
		if err := sw.Cycle(t.Context()); err != nil || s.sent() != "dark let there be light" || !s.isOn() {
			t.Errorf("it was sent %q: %v", s.sent(), err)
		}
		s.lost = 1 // the text to switch off
		wantError(t, sw.Cycle(t.Context()), ErrSilent)
		if !s.isOn() || !strings.HasSuffix(s.sent(), "dark let there be light") {
			t.Errorf("it was left off: %q", s.sent())
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel) // whoever asked went away while it rests
		if err := sw.Cycle(ctx); err != nil || !s.isOn() {
			t.Errorf("it was left off: %v", err)
		}
		modem := func(err error) { s.mu.Lock(); defer s.mu.Unlock(); s.unsent = err }
		time.AfterFunc(2*time.Second, func() { modem(errors.New("no network")) }) // between the two
		time.AfterFunc(5*time.Minute, func() { modem(nil) })
		if err := sw.Cycle(t.Context()); err != nil || !s.isOn() {
			t.Errorf("it was left off: %v", err)
		}
		modem(errors.New("no money"))
		before := s.sent()
		time.AfterFunc(time.Minute, func() { modem(nil) })
		if err := sw.Cycle(t.Context()); !errors.Is(err, ErrNotTaken) || strings.Contains(err.Error(), "its power was taken") || s.sent() != before {
			t.Errorf("nothing could be sent: %v; it was sent %q", err, strings.TrimPrefix(s.sent(), before))
		}
	})
}

func TestGSMSocketFaults(t *testing.T) {
	for name, c := range map[string]struct {
		socket *socket
		model  string
		do     func(Switch) error
		want   error
		sent   string
	}{
		"silent":             {&socket{reply: isocket, dead: true}, "isocket", on, ErrSilent, "ON STATUS"},
		"silent, no status":  {&socket{reply: simpal, dead: true}, "simpal", on, ErrSilent, "#1#0#"},
		"its reply is lost":  {&socket{reply: isocket, mute: true}, "isocket", on, ErrSilent, "ON STATUS"},
		"lost, state helps":  {&socket{reply: isocket, lost: 1}, "isocket", on, ErrNotTaken, "ON STATUS"},
		"lost, but is on":    {&socket{reply: isocket, lost: 1, on: true}, "isocket", on, nil, "ON STATUS"},
		"cycle lost, is on":  {&socket{reply: isocket, lost: 1, on: true}, "isocket", cycle, ErrNotTaken, "RESTART STATUS"},
		"cycle lost, is off": {&socket{reply: isocket, lost: 1}, "isocket", cycle, nil, "RESTART STATUS"},
		"an older reply":     {&socket{reply: isocket, before: []string{"Power socket OFF"}}, "isocket", on, nil, "ON"},
		"wrong model":        {&socket{reply: simpal}, "isocket", on, ErrNotTaken, "ON"},
		"not its master":     {&socket{reply: func(*socket, string) string { return "No authorisation user" }}, "oem", cycle, ErrRefused, "#02#"},
		"cannot be asked":    {&socket{reply: isocket, mute: true, once: true}, "isocket", on, ErrSilent, "ON"},
		"no network":         {&socket{unsent: errors.New("no network")}, "isocket", on, ErrNotTaken, ""},
		"says both":          {&socket{reply: func(*socket, string) string { return "Output ON, output OFF" }}, "oem", state, nil, "#07#"},
		"babbles":            {&socket{reply: isocket, dead: true, before: slices.Repeat([]string{strings.Repeat("x", 1<<16)}, 8)}, "isocket", on, nil, "ON STATUS"},
		"the contrary":       {&socket{reply: func(*socket, string) string { return "выход выключен" }}, "t40", on, ErrNotTaken, "#01#0#"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := c.do(c.socket.open(t, c.model, GSM{}))
				if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if got := c.socket.sent(); got != c.sent {
					t.Errorf("it was sent %q, want %q", got, c.sent)
				}
				if took := time.Since(began); took > 2*replying+time.Minute {
					t.Errorf("it took %v", took)
				}
				synctest.Wait()
			})
		})
	}
}

func on(s Switch) error    { return s.On(context.Background()) }
func cycle(s Switch) error { return s.Cycle(context.Background()) }
func state(s Switch) error {
	_, err := s.State(context.Background())
	return err
}

// The password goes to the socket and nowhere else.
func TestGSMSocketPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &socket{reply: func(_ *socket, text string) string {
			if strings.HasPrefix(text, "12345") {
				return "Power socket ON"
			}
			return "Invalid access password!"
		}}
		password := "12345"
		sw, err := New(Config{Kind: "gsm-socket", Number: socketNumber, Model: "isocket", Ask: s.ask, Password: func() (string, error) { return password, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if err := sw.On(t.Context()); err != nil {
			t.Error(err)
		}
		password = "98765"
		err = sw.On(t.Context())
		wantError(t, err, ErrRefused)
		if strings.Contains(err.Error(), password) {
			t.Errorf("the password stands in %v", err)
		}
	})
}

// Which switches pull the plug.
func TestPullsPlug(t *testing.T) {
	ask := (&socket{}).ask
	programs := []string{"/bin/true"}
	secret := func() (string, error) { return "", nil }
	for name, c := range map[string]struct {
		Config
		want bool
	}{
		"a socket":                    {Config{Kind: "gsm-socket", Model: "simpal", Number: socketNumber, Ask: ask}, true},
		"a socket that only gives it": {Config{Kind: "gsm-socket", Model: "custom", Number: socketNumber, Ask: ask, GSM: GSM{On: "ON"}}, false},
		"an outlet":                   {Config{Kind: "pdu", Model: "apc", Host: "192.0.2.1", Outlet: 1, Community: secret}, true},
		"a program":                   {Config{Kind: "command", Cycle: programs}, true},
		"programs":                    {Config{Kind: "command", On: programs, Off: programs}, true},
		"a program that only gives":   {Config{Kind: "command", On: programs}, false},
		"a PiKVM":                     {Config{Kind: "pikvm", URL: "https://192.0.2.1", User: "admin", Password: secret}, false},
		"Wake-on-LAN":                 {Config{Kind: "wol", MACs: []net.HardwareAddr{{2, 0, 0, 0, 0, 1}}, Interface: "lo"}, false},
	} {
		sw, err := New(c.Config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if PullsPlug(sw) != c.want {
			t.Errorf("%s pulls the plug: %t", name, !c.want)
		}
	}
	if PullsPlug(nil) {
		t.Error("no switch pulls the plug")
	}
}

func TestGSMSocketConfig(t *testing.T) {
	ask := (&socket{}).ask
	for name, c := range map[string]Config{
		"model":    {Model: "toaster", Number: socketNumber, Ask: ask},
		"number":   {Model: "oem", Ask: ask},
		"modem":    {Model: "oem", Number: socketNumber},
		"neither":  {Model: "custom", Number: socketNumber, Ask: ask, GSM: GSM{Off: "off", Status: "?"}},
		"pattern":  {Model: "oem", Number: socketNumber, Ask: ask, GSM: GSM{SaysOn: "("}},
		"too long": {Model: "oem", Number: socketNumber, Ask: ask, GSM: GSM{SaysOff: strings.Repeat("x", maxPattern+1)}},
	} {
		c.Kind = "gsm-socket"
		if _, err := New(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// What the makers' manuals print, and what their relatives say.
func TestGSMSocketReplies(t *testing.T) {
	for _, c := range []struct {
		model, text string
		want        meaning
	}{
		{"isocket", "Power socket ON", saysOn}, {"isocket", "Power ON for 123 min", saysOn}, {"isocket", "Power socket restarted", saysSomething},
		{"isocket", "command - Error!", saysNo}, {"isocket", "Access deny!", saysNotYou}, {"isocket", "Invalid access password!", saysNotYou},
		{"oem", "Invalid format, please check and try again later.", saysNo}, {"oem", "No authorisation user.", saysNotYou},
		{"oem", "Status: Power ON", saysOn}, {"oem", "The socket output is OFF", saysOff}, {"oem", "Output status: ON", saysOn},
		{"oem", "Schedule control: function ON", saysSomething}, {"simpal", "Выход включён", saysOn}, {"simpal", "Розетка отключена", saysOff},
		{"t40", "Питание ВКЛ", saysOn}, {"t40", "Питание выкл.", saysOff}, {"t40", "", saysSomething},
	} {
		s, err := newGSMSocket(Config{Model: c.model, Number: socketNumber, Ask: (&socket{}).ask})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.read(c.text); got != c.want {
			t.Errorf("%s says %q: %d, want %d", c.model, c.text, got, c.want)
		}
	}
}

func FuzzGSMReply(f *testing.F) {
	f.Add("Power socket ON", "(?i)on", "off")
	f.Add("Выход включён", usualOn, usualOff)
	f.Fuzz(func(t *testing.T, text, on, off string) {
		s, err := newGSMSocket(Config{Model: "custom", Number: socketNumber, GSM: GSM{On: "1", SaysOn: on, SaysOff: off}, Ask: (&socket{}).ask})
		if err != nil {
			return
		}
		if r := s.read(text); r > saysNotYou {
			t.Errorf("%q means %d", text, r)
		}
	})
}
