package modem

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"rescuebox/appliance/modem/modemtest"
)

// notebook is a Memory that outlives a Modem.
type notebook struct {
	mu   sync.Mutex
	list map[string]Record
	fail error
}

func (n *notebook) Put(key string, r Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return n.fail
	}
	if n.list == nil {
		n.list = map[string]Record{}
	}
	n.list[key] = r
	return nil
}

func (n *notebook) All() ([]Record, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []Record
	for _, r := range n.list {
		list = append(list, r)
	}
	return list, nil
}

// start runs a modem on the fake; stop ends it, which the end of the test does too.
func start(t *testing.T, fake *modemtest.Modem, change func(*Modem)) (m *Modem, stop func()) {
	t.Helper()
	m = New(Config{Name: "lte", Device: fake.Path, Data: "none"}, zaptest.NewLogger(t))
	m.simLook = 100 * time.Millisecond
	m.places = places{sys: t.TempDir(), dev: "/dev", run: t.TempDir(), proc: t.TempDir()}
	if change != nil {
		change(m)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx, func() {}); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return m, stop
}

// until waits for a status.
func until(t *testing.T, m *Modem, what string, ok func(Status) bool) Status {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); ; {
		changed := m.change()
		s := m.Status()
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s; the modem is %s: %s", what, s.State, s.Why)
		}
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func registered(s Status) bool { return s.State == Registered }

func TestRegisters(t *testing.T) {
	fake := modemtest.Start(t)
	var clock sync.Map
	m, _ := start(t, fake, func(m *Modem) { m.Clock = func(at time.Time) { clock.Store("at", at) } })
	s := until(t, m, "registration", registered)
	if s.Operator != "Testnet" || s.PLMN != "25001" || s.Technology != "LTE" || s.Roaming || s.Why != "" {
		t.Errorf("network: %+v", s)
	}
	if s.Manufacturer != "Fake" || s.Model != "F1" || s.Firmware != "1.0" || s.IMEI != fake.IMEI || s.ICCID != fake.ICCID || s.IMSI != fake.IMSI || s.SIM != "ready" {
		t.Errorf("identity: %+v", s)
	}
	if s.Signal.RSSI != -73 || s.Signal.RSRP != -101 || s.Signal.RSRQ != -10 || s.Signal.Quality() != "fair" || len(s.History) == 0 {
		t.Errorf("signal: %+v, history %d", s.Signal, len(s.History))
	}
	until(t, m, "the network's time", func(Status) bool {
		at, ok := clock.Load("at")
		return ok && time.Since(at.(time.Time)).Abs() < time.Minute
	})
}

// What a modem says of its own while it is asked who it is, is not its name: the maker chooses how it is dialled.
func TestNewsIsNoName(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	for _, cmd := range []string{"+CGMI", "+CGMM", "+CGSN", "+CIMI"} {
		fake.Fault(cmd, modemtest.Answer{Inside: []string{"+ZUSIMR:2", "*ATREADY: 1", "SMS DONE"}})
	}
	m, _ := start(t, fake, nil)
	s := until(t, m, "registration", registered)
	if s.Manufacturer != "Fake" || s.Model != "F1" || s.IMEI != fake.IMEI || s.IMSI != fake.IMSI {
		t.Errorf("it is called %+v", s)
	}
}

// A modem that is busy with its SIM does not say at once who both are, and the network tells the time when it likes: the
// maker chooses how it is dialled, the SIM whose quota it is, and the box may have no other clock.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	busy := func() {
		for _, cmd := range []string{"+CGMI", "+CCID", "+ICCID", "+CRSM"} {
			fake.Fault(cmd, modemtest.Answer{Result: "+CME ERROR: 14", Times: 2})
		}
	}
	busy()
	fake.Fault("+CCLK?", modemtest.Answer{Lines: []string{`+CCLK: "80/01/06,00:00:17+00"`}, Result: "OK", Times: 2})
	told := make(chan time.Time, 10)
	m, _ := start(t, fake, func(m *Modem) {
		m.SignalInterval = 100 * time.Millisecond
		m.Clock = func(at time.Time) { told <- at }
	})
	until(t, m, "the names of modem and SIM", func(s Status) bool { return s.Manufacturer == "Fake" && s.ICCID == fake.ICCID })
	select {
	case at := <-told:
		if time.Since(at).Abs() > time.Minute {
			t.Errorf("it is told %v", at)
		}
	case <-time.After(90 * time.Second):
		t.Error("the network's time is not told")
	}

	busy() // and restarts: its SIM is the same one until it says another
	before := fake.Count("+CREG=2")
	fake.Unplug()
	until(t, m, "the loss", func(s Status) bool { return s.State == Absent })
	if err := fake.Plug(); err != nil {
		t.Fatal(err)
	}
	until(t, m, "the way back", func(s Status) bool { return registered(s) && fake.Count("+CREG=2") > before })
	if got := m.account(); got != fake.ICCID {
		t.Errorf("what is carried now is %q's", got)
	}
}

func TestNetworkLostAndFound(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	m, _ := start(t, fake, nil)
	until(t, m, "registration", registered)
	fake.Register(modemtest.Searching, 7) // by +CREG only: no poll is waited for
	begin := time.Now()
	s := until(t, m, "the search", func(s Status) bool { return s.State == Searching })
	if since := time.Since(begin); since > 20*time.Second {
		t.Errorf("the news of the network took %s", since)
	}
	if !strings.Contains(s.Why, "antenna") || s.Signal.Known() {
		t.Errorf("searching: %q, signal %+v", s.Why, s.Signal)
	}
	fake.Register(modemtest.Denied, 7)
	s = until(t, m, "the refusal", func(s Status) bool { return s.State == Denied })
	if !strings.Contains(s.Why, "paid") {
		t.Errorf("denied: %q", s.Why)
	}
	fake.Register(modemtest.Home, 2)
	if s = until(t, m, "registration", registered); s.Technology != "UMTS" {
		t.Errorf("technology %q", s.Technology)
	}
}

func TestRoamingGuard(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.Register(modemtest.Roaming, 7)
	m, stop := start(t, fake, func(m *Modem) { m.Data = "ppp" })
	s := until(t, m, "registration", registered)
	if !s.Roaming || m.mayDial() == nil || !strings.Contains(s.Why, "messages go, data does not") {
		t.Errorf("roams without leave: %q, may dial: %v", s.Why, m.mayDial())
	}
	if _, err := m.session(); err != nil {
		t.Errorf("no session for messages: %v", err)
	}
	stop()
	m, _ = start(t, fake, func(m *Modem) { m.Data, m.Roaming = "ppp", true })
	if s = until(t, m, "registration", registered); !s.Roaming || m.mayDial() != nil || s.Why != "" {
		t.Errorf("roams with leave: %q, may dial: %v", s.Why, m.mayDial())
	}
}

func TestUnplugAndReplug(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	m, _ := start(t, fake, nil)
	first := until(t, m, "registration", registered)
	fake.Unplug()
	s := until(t, m, "the loss", func(s Status) bool { return s.State == Absent })
	if !strings.Contains(s.Why, "plugged in") {
		t.Errorf("unplugged: %q", s.Why)
	}
	if _, err := m.session(); err == nil {
		t.Error("there is a session without a modem")
	}
	if err := fake.Plug(); err != nil {
		t.Fatal(err)
	}
	until(t, m, "the way back", registered)
	_ = first
}

func TestRestartOfTheModem(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.BootTime = 3 * time.Second
	m, _ := start(t, fake, nil)
	until(t, m, "registration", registered)
	fake.Heal("")
	before := fake.Count("+CREG=2")
	if err := m.Reset(t.Context(), "restart"); err != nil {
		t.Fatal(err)
	}
	if fake.Resets() != 1 {
		t.Errorf("%d restarts", fake.Resets())
	}
	until(t, m, "the way back", func(s Status) bool { return registered(s) && fake.Count("+CREG=2") > before })
	if err := m.Reset(t.Context(), "power"); err == nil || !strings.Contains(err.Error(), "attach") {
		t.Errorf("a rung that is not there: %v", err)
	}
}
