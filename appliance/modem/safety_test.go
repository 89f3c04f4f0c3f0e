package modem

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/modem/modemtest"
)

// A bearer that came up only at the fourth dial is left alone by the ladder.
func TestNoFaultWhileDataIsUp(t *testing.T) {
	t.Parallel()
	m := New(Config{Name: "lte", Device: "/dev/none", Data: "ppp"}, zap.NewNop())
	if err := m.prepareData(); err != nil {
		t.Fatal(err)
	}
	m.Want(true)
	m.setState(Registered, "")
	m.data.tries = 3
	if got := m.fault(); got != noData {
		t.Errorf("three dials came to nothing: %q", got)
	}
	m.data.failed = &Refusal{Why: "the SIM has no data", Lasting: true}
	if got := m.fault(); got != refused {
		t.Errorf("the network wants its bill paid: %q", got)
	}
	m.setState(Denied, "is it paid for?")
	if got := m.fault(); got != refused {
		t.Errorf("the network does not want the SIM: %q", got)
	}
	m.setState(Registered, "")
	for _, r := range rungs {
		if slices.Contains(r.cures, refused) && (r.risk > session_ || r.name == "usb" || r.name == "restart") {
			t.Errorf("for a bill that is not paid: %s", r.name)
		}
	}
	m.data.tell(Link{Device: "ppp-lte", Addresses: []netip.Prefix{netip.MustParsePrefix("10.64.0.5/32")}})
	if got := m.fault(); got != sound {
		t.Errorf("with the bearer up: %q", got)
	}
	m.setState(Mute, "it does not answer")
	if got := m.fault(); got != lame || patience[got] < 10*time.Minute {
		t.Errorf("a mute AT port beside a bearer that is up: %q", got)
	}
	m.setState(Registered, "")
	m.Deaf = func() bool { return true }
	if got := m.fault(); got != silent {
		t.Errorf("up, and nothing comes through: %q", got)
	}
	m.quota.limit, m.quota.v = 1, Volume{SIM: "sim", Since: billed(time.Now(), 1), Rx: 2}
	if got := m.fault(); got != sound {
		t.Errorf("nothing comes through because its quota is used up: %q", got)
	}
}

// A modem that cannot carry data says so after each start of the part, not only after the first.
func TestNoDriver(t *testing.T) {
	t.Parallel()
	m := New(Config{Name: "lte", Data: "ncm"}, zap.NewNop())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 2 {
		if err := m.Run(ctx, func() {}); err == nil || !strings.Contains(err.Error(), "interface") {
			t.Fatalf("without an interface: %v", err)
		}
	}
}

// A port that another program has is its admin's matter: no USB is taken off for it, no power cut, no box rebooted.
func TestHeldPort(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	other, err := openTTY(fake.Path, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := start(t, fake, nil)
	s := until(t, m, "a reason", func(s Status) bool { return strings.Contains(s.Why, "another program uses it") })
	if f := m.fault(); s.State != Held || f != sound {
		t.Errorf("%s, to be cured is %q", s.State, f)
	}
	other.Close()
	until(t, m, "the port", registered)
}

// A port that is lost for a moment does not end a bearer that is up; what costs money or cannot be, does.
func TestWhatEndsABearer(t *testing.T) {
	t.Parallel()
	m := New(Config{Name: "lte", Device: "/dev/none", Data: "ncm", NetDevice: "wwan0", Quota: 1000}, zap.NewNop())
	if err := m.prepareData(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		state   State
		roaming bool
		ends    bool
	}{
		{Registered, false, false}, {Mute, false, false}, {Absent, false, false}, {Searching, false, false}, {Lent, false, false},
		{Locked, false, true}, {LowPower, false, true}, {Registered, true, true}, {Mute, true, true}, {Lent, true, true},
	} {
		m.setState(test.state, "why")
		m.show(func(s *Status) { s.Roaming = test.roaming })
		err := m.mayDial()
		if ends := err != nil && !passing(err); ends != test.ends {
			t.Errorf("%s, roaming %v: %v ends it: %v", test.state, test.roaming, err, ends)
		}
	}
	// Roaming is the same rule where ModemManager has the modem.
	mm := New(Config{Name: "lte", Data: "modemmanager"}, zap.NewNop())
	if err := mm.prepareData(); err != nil {
		t.Fatal(err)
	}
	mm.managedIs(Status{State: Registered, Roaming: true})
	if err := mm.mayDial(); !errors.Is(err, errRoaming) {
		t.Errorf("ModemManager's modem roams: %v", err)
	}
}

// A modem whose counter does not count: a wrong PIN is wrong, and what is not clear is not tried until the SIM is locked.
func TestCounterThatDoesNotCount(t *testing.T) {
	t.Parallel()
	fake, book := locked(t), &notebook{}
	fake.Fault("+CPINR", modemtest.Answer{Lines: []string{"+CPINR: SIM PIN,3,3"}})
	for range 3 {
		s, stop := withPIN(t, fake, book, "9999")
		stop()
		if s.State != Locked || fake.PINLeft() != 2 || fake.Count("+CPIN=") != 1 {
			t.Fatalf("%s: %s; %d tries left, %d tried", s.State, s.Why, fake.PINLeft(), fake.Count("+CPIN="))
		}
	}
	vague := locked(t)
	vague.Fault("+CPINR", modemtest.Answer{Lines: []string{"+CPINR: SIM PIN,3,3"}})
	vague.Fault("+CPIN=", modemtest.Answer{Lines: []string{}, Result: "ERROR"})
	for range 3 {
		s, stop := withPIN(t, vague, book, "8888")
		stop()
		if s.State != Locked || vague.Count("+CPIN=") > 2 {
			t.Fatalf("%s: %s; %d tried", s.State, s.Why, vague.Count("+CPIN="))
		}
	}
}

// What is carried before anybody knows for which SIM is neither lost nor a gift.
func TestVolumeOfASIMThatIsNotKnownYet(t *testing.T) {
	t.Parallel()
	store := &shelf{v: map[string]Volume{"sim": {SIM: "sim", Since: billed(time.Now(), 1), Rx: 1000,
		Mark: Mark{Device: "usb0", Index: 7, Boot: "b", Rx: 100, Tx: 0}}}}
	q := newQuota(1_000_000, 1, store, nil, zap.NewNop())
	q.boot = "b"
	q.count("usb0", 7, 400, 0)
	if q.allow(1000) == nil {
		t.Error("more was allowed for nobody's SIM")
	}
	if err := q.use("sim"); err != nil {
		t.Fatal(err)
	}
	q.count("usb0", 7, 500, 0)
	if used := q.status().Used; used != 1400 {
		t.Errorf("%d bytes used, want 1400", used)
	}
	// A modem that never tells of its SIM has an account of its own.
	m := New(Config{Name: "lte", Device: "/dev/none", Data: "ppp"}, zap.NewNop())
	if got := m.account(); got != "" {
		t.Errorf("before it was asked: %q", got)
	}
	m.setState(Registered, "")
	if got := m.account(); got != "modem lte" {
		t.Errorf("in a network, without an ICCID: %q", got)
	}
}

// A PIN of which nobody saw whether it was taken is free again as soon as the SIM is open.
func TestTryWithAHiddenOutcome(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	book := &notebook{list: map[string]Record{"lte": {Name: "lte", Device: fake.Path, PINs: []tried{{fake.ICCID, pinHash(fake.ICCID, "1234"), time.Now()}}}}}
	s, stop := withPIN(t, fake, book, "1234")
	if s.State != Registered {
		t.Fatalf("%s: %s", s.State, s.Why)
	}
	stop()
	fake.Insert(modemtest.WantsPIN)
	if s, _ := withPIN(t, fake, book, "1234"); s.State != Registered || fake.Count("+CPIN=") != 1 {
		t.Errorf("%s: %s; %d tried", s.State, s.Why, fake.Count("+CPIN="))
	}
}

// ModemManager gives the PIN for us, by the same rules: a wrong one once in all restarts, the right one in time.
func TestModemManagerIsGivenThePIN(t *testing.T) {
	t.Parallel()
	fake := modemtest.New()
	t.Cleanup(fake.Close)
	fake.Insert(modemtest.WantsPIN)
	mm, book := realManager(t, fake), &notebook{}
	run := func(pin string, done func(Status) bool) Status {
		m := New(Config{Name: "lte", Data: "modemmanager", APN: "internet", IPType: "v4", ModemManagerBus: mm.bus, PIN: pinIs(pin)}, zap.NewNop())
		m.Memory = book
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { _ = m.Run(ctx, func() {}) })
		return until(t, m, "the SIM", done)
	}
	for range 2 {
		s := run("9999", func(s Status) bool { return strings.Contains(s.Why, "pin_file") })
		if s.State != Locked || fake.PINLeft() != 2 || fake.Count("+CPIN=") != 1 || strings.Contains(s.Why, "9999") {
			t.Fatalf("%s: %s; %d left, %d tried", s.State, s.Why, fake.PINLeft(), fake.Count("+CPIN="))
		}
	}
	s := run("1234", func(s Status) bool { return s.State == Registered && s.Signal.Known() })
	if fake.PINLeft() != 3 || len(book.list["lte"].PINs) != 0 {
		t.Errorf("%d left, remembered %+v; %+v", fake.PINLeft(), book.list["lte"], s)
	}
}
