package modem

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rescuebox/appliance/modem/modemtest"
)

// A modem as a whole, with a stick on a cable: registered, dialled when wanted; its quota
// used up by real traffic, held, and lifted; down while it roams.
func TestModemCarriesData(t *testing.T) {
	if !alone(t) {
		return
	}
	needTool(t, "nft", "nftables")
	f := cable(t, "wwan0")
	f.dnsmasq()
	fake := modemtest.Start(t)
	connected := func(on int) {
		fake.Heal("^NDISSTATQRY")
		fake.Fault("^NDISSTATQRY", modemtest.Answer{Lines: []string{fmt.Sprintf(`^NDISSTATQRY: %d,,,"IPV4"`, on)}})
	}
	connected(0)
	fake.Fault("^NDISDUP=1,1", modemtest.Answer{Lines: []string{}, Do: func() { connected(1) }})
	fake.Fault("^NDISDUP=1,0", modemtest.Answer{Lines: []string{}, Do: func() { connected(0) }})
	var mu sync.Mutex
	var links []Link
	var told []string
	store := &lockedShelf{}
	m, stop := start(t, fake, func(m *Modem) {
		m.Data, m.Profile, m.NetDevice, m.APN, m.IPType, m.Quota = "ncm", "huawei", "wwan0", "internet", "v4", 200_000
		m.Volumes = store
		m.Changed = func(l Link) { mu.Lock(); defer mu.Unlock(); links = append(links, l) }
		m.Event = func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Kind == "quota" {
				told = append(told, e.Text)
			}
		}
	})
	last := func() Link { mu.Lock(); defer mu.Unlock(); return append([]Link{{}}, links...)[len(links)] }
	eventually(t, "registered", func() bool { return m.Status().State == Registered })
	if fake.Count("^NDISDUP=1,1") != 0 {
		t.Error("dialled though nobody wanted it")
	}
	m.Want(true)
	eventually(t, "up", func() bool { return last().Up() && last().Err == nil })
	if d := m.Status().Data; !d.Wanted || !d.Link.Up() || d.Why != "" {
		t.Errorf("the status has %+v", d)
	}
	address := last().Addresses[0].Addr().String()

	f.run("ping -q -c 100 -i 0.01 -s 1200 " + address)
	eventually(t, "the quota is used up", func() bool { return m.Volume().Stopped })
	eventually(t, "it is told", func() bool {
		d := m.Status().Data
		return last().Err != nil && strings.Contains(d.Why, "used up") && strings.Contains(shell(t, "nft list ruleset"), `oifname "wwan0"`)
	})
	if !last().Up() {
		t.Error("the tunnel's own messages have no way")
	}
	if out := f.run("ping -q -c 5 -i 0.05 -W 1 " + address + " || true"); !strings.Contains(out, " 0 received") {
		t.Errorf("it goes on answering: %s", out)
	}
	mu.Lock()
	if len(told) == 0 || !strings.Contains(told[len(told)-1], "is used up") {
		t.Errorf("told %q", told)
	}
	mu.Unlock()
	// A redial is behind the fence from its first packet on.
	before := fake.Count("^NDISDUP=1,1")
	m.Redial()
	eventually(t, "dialled anew, and held", func() bool { return fake.Count("^NDISDUP=1,1") > before && last().Up() && last().Err != nil })
	if out := f.run("ping -q -c 5 -i 0.05 -W 1 " + address + " || true"); !strings.Contains(out, " 0 received") {
		t.Errorf("a redial is not held: %s", out)
	}
	// Text messages go on.
	if result, err := m.Send(t.Context(), "+79160000000", "alive", 0); result != TextSent {
		t.Errorf("text messages: %v, %v", result, err)
	}
	if err := m.AllowData(0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "lifted", func() bool { return !strings.Contains(shell(t, "nft list ruleset"), "wwan0") && last().Err == nil })
	f.reaches(address)

	fake.Register(modemtest.Roaming, 7)
	eventually(t, "down in a foreign network", func() bool { return !last().Up() && strings.Contains(m.Status().Data.Why, "foreign network") })
	fake.Register(modemtest.Home, 7)
	eventually(t, "up at home", func() bool { return last().Up() })
	dials := fake.Count("^NDISDUP=1,1")
	m.Redial()
	eventually(t, "dialled anew", func() bool { return fake.Count("^NDISDUP=1,1") == dials+1 && last().Up() })
	m.Want(false)
	eventually(t, "down", func() bool { return last().equal(Link{}) })
	stop()
	if v := store.list(); len(v) != 1 || v[0].SIM != fake.ICCID || v[0].Rx+v[0].Tx < 200_000 || !v[0].Free {
		t.Errorf("stored %+v", v)
	}
}

// A modem with one port: pppd has it while there is data, and the session has it back after that.
func TestModemLendsItsPort(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	answering(fake)
	m := onePort(t, fake)
	until(t, m, "registration", registered)
	m.Want(true)
	until(t, m, "data", func(s Status) bool { return s.Data.Link.Up() })
	until(t, m, "a port that is lent", func(s Status) bool { return s.State == Lent })
	if _, err := m.command(t.Context(), "+CSQ", "+CSQ", shortAnswer); err == nil {
		t.Error("a command went to a port that is pppd's")
	}
	if why := m.Status().Texts.Why; !strings.Contains(why, "ppp_port") {
		t.Errorf("nobody is told that no text message comes: %q", why)
	}
	if result, err := m.Send(t.Context(), "+79160000000", "alive", 0); result != TextFailed || !strings.Contains(err.Error(), "ppp_port") {
		t.Errorf("a text message by a port that is pppd's: %v, %v", result, err)
	}
	m.Want(false)
	s := until(t, m, "the port is back", registered)
	if s.Texts.Why != "" {
		t.Errorf("text messages still do not come: %s", s.Texts.Why)
	}
	if _, err := m.command(t.Context(), "+CSQ", "+CSQ", shortAnswer); err != nil {
		t.Error(err)
	}
}

// Who resets a modem whose only port is pppd's gets it: the call ends, and comes again after. A second one who asks
// meanwhile is told so.
func TestResetAsksForThePortBack(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	answering(fake)
	resetWhileLent(t, fake)
}

// A modem that does not heed DTR (&D0) is in its call still when the port is back: the session ends that by the escape,
// and nobody's command comes before.
func TestResetEndsCallOfModemWithoutDTR(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	answering(fake)
	keepDTR(t, fake)
	resetWhileLent(t, fake)
	if !escaped(fake, "+CFUN=4") {
		t.Errorf("the modem heard no escape and hang-up before +CFUN=4: %q", fake.Log())
	}
}

// A rung is not cut off by who wants the port for data just then: the radio would stay off.
func TestPortIsNotLentInMidReset(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	answering(fake)
	m := onePort(t, fake)
	until(t, m, "registration", registered)
	fake.Fault("+CFUN=4", modemtest.Answer{Lines: []string{}, Times: 1, Do: func() {
		m.Want(true)
		time.Sleep(time.Second)
	}})
	if err := m.Reset(t.Context(), "radio"); err != nil {
		t.Errorf("the reset was cut off: %v", err)
	}
	until(t, m, "data after it", func(s Status) bool { return s.Data.Link.Up() && s.State == Lent })
	log := fake.Log()
	if off, on, dial := slices.Index(log, "+CFUN=4"), slices.Index(log, "+CFUN=1"), slices.Index(log, "D*99***1#"); off < 0 || on < off || dial < on {
		t.Errorf("the modem heard %q", log)
	}
}

// onePort is a modem whose only port carries the data too, with a program in place of pppd.
func onePort(t *testing.T, fake *modemtest.Modem) *Modem {
	t.Helper()
	program := standIn(t, t.TempDir(), standInUp)
	m, _ := start(t, fake, func(m *Modem) {
		m.Data, m.APN, m.IPType = "ppp", "internet", "v4"
		if err := m.prepareData(); err != nil {
			t.Fatal(err)
		}
		m.data.driver.(*ppp).connect = func(ctx context.Context) (net.Conn, error) { return inProcess(ctx, program), nil }
	})
	return m
}

// keepDTR has the fake not see that the port is closed.
func keepDTR(t *testing.T, fake *modemtest.Modem) {
	t.Helper()
	f, err := os.OpenFile(fake.Path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
}

// resetWhileLent switches the radio off and on of a modem that carries data by its only port.
func resetWhileLent(t *testing.T, fake *modemtest.Modem) {
	t.Helper()
	m := onePort(t, fake)
	m.Want(true)
	until(t, m, "data by the port that is lent", func(s Status) bool { return s.Data.Link.Up() && s.State == Lent })
	refused := make(chan error, 1)
	fake.Fault("+CFUN=4", modemtest.Answer{Lines: []string{}, Times: 1, Do: func() { refused <- m.CanReset("radio") }})
	if err := m.Reset(t.Context(), "radio"); err != nil || fake.Count("+CFUN=1") == 0 {
		t.Fatalf("%v; the radio was switched on %d times", err, fake.Count("+CFUN=1"))
	}
	if err := <-refused; err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second reset while one is under way: %v", err)
	}
	if err := m.CanReset("hammer"); err == nil || !strings.Contains(err.Error(), "attach") {
		t.Errorf("a rung that is none: %v", err)
	}
	until(t, m, "data again", func(s Status) bool { return s.Data.Link.Up() && s.State == Lent })
}

// lockedShelf is a shelf for many.
type lockedShelf struct {
	mu sync.Mutex
	shelf
}

func (s *lockedShelf) Put(key string, v Volume) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shelf.Put(key, v)
}

func (s *lockedShelf) All() ([]Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shelf.All()
}

func (s *lockedShelf) list() []Volume {
	list, _ := s.All()
	return list
}

// What the file may ask for, and what it may not.
func TestDrivers(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Data: "none"}, ""}, {Config{Data: "netdev", NetDevice: "usb0"}, ""}, {Config{Data: "netdev"}, "interface"},
		{Config{Data: "ncm", NetDevice: "usb0", Profile: "huawei"}, ""}, {Config{Data: "ncm", Profile: "huawei"}, "interface"},
		{Config{Data: "ncm", NetDevice: "usb0", Profile: "nokia"}, "nokia"}, {Config{Data: "ppp"}, ""}, {Config{Data: "modemmanager"}, ""}, {Config{Data: "qmi"}, "qmi"},
	} {
		m := &Modem{Config: tt.c}
		err := m.prepareData()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
	if names := []string{pppName("lte"), pppName("a very long name"), pppName("лте")}; !slices.Equal(names, []string{"ppp-lte", "ppp-a-very-long", "ppp----"}) {
		t.Errorf("devices %q", names)
	}
}
