package modem

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rescuebox/appliance/modem/modemtest"
)

// locked is a fake whose SIM wants the PIN 1234.
func locked(t *testing.T) *modemtest.Modem {
	fake := modemtest.Start(t)
	fake.Insert(modemtest.WantsPIN)
	return fake
}

func pinIs(pin string) func() (string, error) {
	return func() (string, error) { return pin + "\n", nil }
}

// withPIN starts a modem with a PIN and waits until it has registered, or is locked.
func withPIN(t *testing.T, fake *modemtest.Modem, book *notebook, pin string) (Status, func()) {
	t.Helper()
	m, stop := start(t, fake, func(m *Modem) {
		m.Memory, m.simPatience = book, 5*time.Second
		if pin != "" {
			m.PIN = pinIs(pin)
		}
	})
	return until(t, m, "the SIM", func(s Status) bool { return s.State == Registered || s.State == Locked }), stop
}

func TestPIN(t *testing.T) {
	t.Parallel()
	fake, book := locked(t), &notebook{}
	s, _ := withPIN(t, fake, book, "1234")
	if s.State != Registered || fake.PINLeft() != 3 || fake.Count("+CPIN=") != 1 {
		t.Errorf("%s: %s; %d tries left, %d tried", s.State, s.Why, fake.PINLeft(), fake.Count("+CPIN="))
	}
	if list := book.list["lte"].PINs; len(list) != 0 {
		t.Errorf("a right PIN is kept: %+v", list)
	}
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	t.Parallel()
	fake, book := locked(t), &notebook{}
	for i := range 4 { // the daemon restarts, the modem stays
		s, stop := withPIN(t, fake, book, "9999")
		if s.State != Locked || !strings.Contains(s.Why, "pin_file") || !strings.Contains(s.Why, "2 tries left") || strings.Contains(s.Why, "9999") {
			t.Fatalf("start %d: %s: %s", i, s.State, s.Why)
		}
		stop()
		if fake.PINLeft() != 2 || fake.Count("+CPIN=") != 1 {
			t.Fatalf("start %d: %d tries left, %d tried", i, fake.PINLeft(), fake.Count("+CPIN="))
		}
	}
	if r := fmt.Sprint(book.list); strings.Contains(r, "9999") {
		t.Errorf("the PIN is in the memory: %s", r)
	}
	// Another SIM: the same PIN is another try.
	fake.Set(func(m *modemtest.Modem) { m.ICCID, m.PIN = "8970199000000000025", "9999" })
	if s, stop := withPIN(t, fake, book, "9999"); s.State != Registered {
		t.Errorf("another SIM: %s: %s", s.State, s.Why)
	} else {
		stop()
	}
	// The first SIM, its PIN corrected.
	fake.Set(func(m *modemtest.Modem) { m.ICCID, m.PIN = "8970199000000000017", "1234" })
	fake.Insert(modemtest.WantsPIN)
	if s, _ := withPIN(t, fake, book, "1234"); s.State != Registered {
		t.Errorf("corrected: %s: %s", s.State, s.Why)
	}
}

func TestLastTryIsLeftAlone(t *testing.T) {
	t.Parallel()
	fake, book := locked(t), &notebook{}
	for i, wrong := range []string{"1111", "2222", "3333", "1234"} {
		s, stop := withPIN(t, fake, book, wrong)
		stop()
		if want := max(1, 2-i); s.State != Locked || fake.PINLeft() != want {
			t.Fatalf("try %d: %s: %s; %d tries left, want %d", i, s.State, s.Why, fake.PINLeft(), want)
		}
		if i >= 2 && !strings.Contains(s.Why, "one try") {
			t.Errorf("try %d: %s", i, s.Why)
		}
	}
}

func TestLastTryWithoutACounter(t *testing.T) {
	t.Parallel()
	fake, book := locked(t), &notebook{}
	fake.Fault("+CPINR", modemtest.Answer{Lines: []string{}, Result: "ERROR"})
	fake.Fault("+SPIC", modemtest.Answer{Lines: []string{}, Result: "ERROR"})
	for _, wrong := range []string{"1111", "2222", "3333", "4444"} {
		s, stop := withPIN(t, fake, book, wrong)
		stop()
		if s.State != Locked {
			t.Fatalf("%s: %s", s.State, s.Why)
		}
	}
	if fake.PINLeft() != 1 {
		t.Errorf("%d tries left, want the last one", fake.PINLeft())
	}
}

func TestPINIsNotTriedWithoutMemory(t *testing.T) {
	t.Parallel()
	fake := locked(t)
	s, _ := withPIN(t, fake, &notebook{fail: errors.New("disk full")}, "1234")
	if s.State != Locked || fake.Count("+CPIN=") != 0 || !strings.Contains(s.Why, "disk full") {
		t.Errorf("%s: %s; %d tried", s.State, s.Why, fake.Count("+CPIN="))
	}
}

// Some modems say no to the right PIN as long as the SIM is not ready, and count no try.
func TestFalseNoAtStart(t *testing.T) {
	t.Parallel()
	fake, book := locked(t), &notebook{}
	fake.Fault("+CPIN=", modemtest.Answer{Lines: []string{}, Result: "+CME ERROR: 14", Times: 1})
	s, stop := withPIN(t, fake, book, "1234")
	stop()
	if s.State != Registered || fake.Count("+CPIN=") != 2 {
		t.Errorf("%s: %s; %d tried", s.State, s.Why, fake.Count("+CPIN="))
	}
	// One that always says so is not asked for ever.
	fake = locked(t)
	fake.Fault("+CPIN=", modemtest.Answer{Lines: []string{}, Result: "+CME ERROR: 14"})
	s, _ = withPIN(t, fake, &notebook{}, "1234")
	time.Sleep(3 * time.Second)
	if s.State != Locked || fake.Count("+CPIN=") > 4 {
		t.Errorf("%s: %s; %d tried", s.State, s.Why, fake.Count("+CPIN="))
	}
}

func TestSIMGetsReady(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.BootTime = 4 * time.Second
	fake.Set((*modemtest.Modem).Boot)
	m, _ := start(t, fake, nil)
	until(t, m, "a SIM that is busy", func(s Status) bool { return s.SIM == "busy" })
	until(t, m, "registration", registered)
}

func TestSIMThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		sim  modemtest.SIM
		pin  string
		want string
	}{
		{"missing", modemtest.Missing, "", "no SIM"},
		{"PUK", modemtest.WantsPUK, "1234", "PUK"},
		{"no PIN", modemtest.WantsPIN, "", "pin_file"},
		{"no digits", modemtest.WantsPIN, "12x4", "four to eight digits"},
		{"too short", modemtest.WantsPIN, "123", "four to eight digits"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake := modemtest.Start(t)
			fake.Insert(test.sim)
			s, _ := withPIN(t, fake, &notebook{}, test.pin)
			if s.State != Locked || !strings.Contains(s.Why, test.want) || fake.Count("+CPIN=") != 0 {
				t.Errorf("%s: %s; %d PINs tried", s.State, s.Why, fake.Count("+CPIN="))
			}
		})
	}
}

// Somebody puts the SIM in, or unlocks it, without telling us.
func TestSIMInsertedLater(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.Insert(modemtest.Missing)
	m, _ := start(t, fake, func(m *Modem) { m.simPatience = time.Second })
	until(t, m, "a missing SIM", func(s Status) bool { return s.State == Locked })
	if m.fault() != noSIM {
		t.Errorf("fault %q", m.fault())
	}
	fake.Insert(modemtest.Ready)
	until(t, m, "registration", registered)
}

func TestPINFileThatCannotBeRead(t *testing.T) {
	t.Parallel()
	fake := locked(t)
	var asked atomic.Int32
	m, _ := start(t, fake, func(m *Modem) {
		m.PIN = func() (string, error) { asked.Add(1); return "", errors.New("open pin: permission denied") }
	})
	s := until(t, m, "the lock", func(s Status) bool { return s.State == Locked })
	if asked.Load() == 0 || !strings.Contains(s.Why, "permission denied") {
		t.Errorf("%s", s.Why)
	}
	if m.fault() != sound {
		t.Errorf("the ladder would climb for a PIN: %q", m.fault())
	}
}

func TestParseICCID(t *testing.T) {
	for line, want := range map[string]string{
		"+CCID: 8970199000000000017":            "8970199000000000017",
		`+CCID: "89701990000000000179"`:         "89701990000000000179",
		"8970199000000000017F":                  "8970199000000000017",
		"^ICCID: 98079109000000000071":          "89701990000000000017",
		`+CRSM: 144,0,"980791090000000000 71"`:  "",
		`+CRSM: 144,0,"98079109000000000071"`:   "89701990000000000017",
		`+CRSM: 144,0,"980791090000000000F7"`:   "8970199000000000007",
		"+CRSM: 106,130":                        "",
		"ERROR":                                 "",
		"1234567890123456789":                   "",
		"+CCID: 897019900000000001789701990000": "",
		"":                                      "",
	} {
		if got := parseICCID(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestParseTries(t *testing.T) {
	for _, test := range []struct {
		prefix, line string
		field, want  int
		ok           bool
	}{
		{"+CPINR", "SIM PIN,3,3", 1, 3, true}, {"^CPIN", "SIM PIN,3,10,2,10,3", 2, 2, true}, {"+QPINC", `"SC",1,10`, 1, 1, true},
		{"+SPIC", "3,10,0,10", 0, 3, true}, {"#PCT", "2", 0, 2, true}, {"+QPINC", "", 1, 0, false}, {"+CPINR", "SIM PIN,x", 1, 0, false},
		{"+CPINR", "SIM PIN,-1", 1, -1, false}, {"+CPINR", "SIM PIN,4000", 1, 4000, false},
	} {
		if n, ok := parseTries(test.prefix, test.line, test.field); ok != test.ok || ok && n != test.want {
			t.Errorf("%s: %q: %d, %v", test.prefix, test.line, n, ok)
		}
	}
}
