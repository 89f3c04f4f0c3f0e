package modem

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"rescuebox/appliance/modem/modemtest"
)

// privateBus is a D-Bus of the test's own.
func privateBus(t *testing.T) string {
	t.Helper()
	needTool(t, "dbus-daemon", "dbus")
	dir, err := os.MkdirTemp("/tmp", "bus") // whatever TMPDIR is: a socket's name has 107 letters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := "unix:path=" + filepath.Join(dir, "bus")
	background(t, nil, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+address)
	eventually(t, "the bus is there", func() bool {
		conn, err := dbus.Connect(address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}

// background runs a program until the end of the test.
func background(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// realManager is Debian's ModemManager over a fake modem, in the mode that it has for tests.
func realManager(t *testing.T, fake *modemtest.Modem) *managed {
	t.Helper()
	needTool(t, "ModemManager", "modemmanager")
	bus := privateBus(t)
	name := fmt.Sprintf("rb-data-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	l, err := net.Listen("unix", "@abstract:"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go fake.Serve(conn)
		}
	}()
	background(t, []string{"DBUS_SESSION_BUS_ADDRESS=" + bus, "DBUS_SYSTEM_BUS_ADDRESS=" + bus}, "ModemManager", "--test-session", "--test-enable",
		"--test-no-udev", "--test-no-qrtr", "--test-no-suspend-resume", "--no-auto-scan")
	conn, err := dbus.Connect(bus)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	eventually(t, "ModemManager takes the port", func() bool {
		return conn.Object(mmService, mmPath).Call(mmService+".Test.SetProfile", 0, name, "generic", []string{"abstract:" + name}).Err == nil
	})
	return newManaged(Config{Name: "lte", APN: "internet", IPType: "v4", ModemManagerBus: bus}, "")
}

// The real ModemManager: status, text messages both ways, and the dial, of which its own test mode allows as much
// as the tty.
func TestRealModemManager(t *testing.T) {
	t.Parallel()
	fake := modemtest.New()
	t.Cleanup(fake.Close)
	o := &modemtest.Operator{Command: func() *exec.Cmd { return exec.Command("cat") }}
	fake.Dial = o.Dial
	fake.Fault("+CGDCONT?", modemtest.Answer{Lines: []string{`+CGDCONT: 1,"IP","internet","",0,0`}})
	mm := realManager(t, fake)
	var mu sync.Mutex
	var status Status
	var texts []Text
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = mm.keep(ctx, func(s Status) { mu.Lock(); defer mu.Unlock(); status = s },
				func(x Text) { mu.Lock(); defer mu.Unlock(); texts = append(texts, x) })
			_ = wait(ctx, time.Second)
		}
	})
	eventually(t, "registered", func() bool { mu.Lock(); defer mu.Unlock(); return status.State == Registered })
	mu.Lock()
	if status.IMEI != fake.IMEI || status.ICCID != fake.ICCID || status.Operator != fake.Operator || status.PLMN != fake.PLMN || status.Technology != "LTE" || status.Roaming {
		t.Errorf("the status is %+v", status)
	}
	mu.Unlock()

	if result, err := mm.send(t.Context(), "+79160000000", "Привет #01#1#", 5*time.Minute); result != TextSent || err != nil {
		t.Errorf("sent: %v, %v", result, err)
	}
	if sent := fake.Sent(); len(sent) != 1 || sent[0].Text != "Привет #01#1#" || sent[0].Number != "+79160000000" {
		t.Errorf("the network got %+v", sent)
	}
	fake.Fault("+CMGS", modemtest.Answer{Result: "+CMS ERROR: 38"})
	if result, err := mm.send(t.Context(), "+79160000000", "x", 0); result != TextFailed || err == nil {
		t.Errorf("refused: %v, %v", result, err)
	}
	if result, err := mm.send(t.Context(), "+79160000000", strings.Repeat("long ", 40), 0); result != TextUnknown || err == nil {
		t.Errorf("a long one refused, of which a part may have gone: %v, %v", result, err)
	}
	fake.Heal("+CMGS")
	fake.Fault("+CMGS", modemtest.Answer{Result: "+CMS ERROR: 332"})
	if result, err := mm.send(t.Context(), "+79160000000", "x", 0); result != TextUnknown || err == nil {
		t.Errorf("the network's time-out: %v, %v", result, err)
	}
	fake.Heal("+CMGS")
	if result, err := mm.send(t.Context(), "nobody", "x", 0); result != TextFailed || err == nil {
		t.Errorf("no number: %v, %v", result, err)
	}

	if err := fake.Deliver("+79161112233", "boot srv01 dart 12345678"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a text message comes", func() bool { mu.Lock(); defer mu.Unlock(); return len(texts) > 0 })
	mu.Lock()
	if x := texts[0]; x.Text != "boot srv01 dart 12345678" || x.From != "+79161112233" || !x.Numeric || x.Class0 || time.Since(x.Time).Abs() > 48*time.Hour {
		t.Errorf("it came as %+v", x)
	}
	mu.Unlock()
	eventually(t, "it is deleted", func() bool { return fake.Stored() == 0 })

	// The dial: ModemManager calls, and has the tty for pppd.
	dir := t.TempDir()
	program := standIn(t, dir, standInUp)
	mm.ppp.connect = func(ctx context.Context) (net.Conn, error) { return inProcess(ctx, program), nil }
	h := hold(t, mm)
	l := h.up("an address", func(l Link) bool { return len(l.DNS) == 2 })
	if !has([]string{"10.64.0.5/32"}, l) {
		t.Errorf("the bearer is %+v", l)
	}
	if d := fake.Dialled(); len(d) != 1 || !strings.HasPrefix(d[0], "*99***") {
		t.Errorf("dialled %q", d)
	}
	t.Logf("pppd would speak on %s", strings.SplitN(slurp(t, dir+"/args"), "\n", 2)[0])
	// The call ends: the network's side, and then pppd, as it would by its echoes. It must not be taken for
	// one that still stands.
	eventually(t, "the network takes the call", func() bool { call, _ := o.Call(); return call != nil })
	call, _ := o.Call()
	call.Process.Kill()
	pid, err := strconv.Atoi(strings.TrimSpace(slurp(t, dir+"/pid")))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	t.Logf("noticed: %v", h.lost("the call is over"))
	h = hold(t, mm)
	h.up("dialled anew", func(Link) bool { return true })
	if d := fake.Dialled(); len(d) != 2 {
		t.Errorf("dialled %q", d)
	}
	h.end()
}

// playedManager is a ModemManager of which only what the driver uses is there: for QMI and MBIM, which need hardware.
type playedManager struct {
	mu      sync.Mutex
	conn    *dbus.Conn
	bearer  map[string]dbus.Variant
	refuse  *dbus.Error
	hang    chan struct{}
	wishes  map[string]dbus.Variant
	hungUp  int
	objects map[dbus.ObjectPath]map[string]map[string]dbus.Variant
}

const (
	playedModem  = dbus.ObjectPath(mmPath + "/Modem/0")
	playedBearer = dbus.ObjectPath(mmPath + "/Bearer/0")
)

func playManager(t *testing.T, bus string, bearer map[string]dbus.Variant) *playedManager {
	t.Helper()
	conn, err := dbus.Connect(bus)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := &playedManager{conn: conn, bearer: bearer, objects: map[dbus.ObjectPath]map[string]map[string]dbus.Variant{
		mmPath + "/SIM/0": {}, playedModem: {mmModem: {
			"State": dbus.MakeVariant(int32(11)), "Device": dbus.MakeVariant("/sys/devices/usb1"), "PrimaryPort": dbus.MakeVariant("cdc-wdm0"),
			"EquipmentIdentifier": dbus.MakeVariant("490154203237518"), "Ports": dbus.MakeVariant([][]any{{"cdc-wdm0", uint32(6)}, {"ttyUSB2", uint32(3)}})}},
	}}
	for _, e := range []struct {
		path  dbus.ObjectPath
		iface string
		v     any
	}{{mmPath, "org.freedesktop.DBus.ObjectManager", playedObjects{p}}, {playedModem, mmSimple, playedSimple{p}}, {playedBearer, busProps, playedProps{p}}} {
		if err := conn.Export(e.v, e.path, e.iface); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.RequestName(mmService, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

type (
	playedObjects struct{ p *playedManager }
	playedSimple  struct{ p *playedManager }
	playedProps   struct{ p *playedManager }
)

func (o playedObjects) GetManagedObjects() (map[dbus.ObjectPath]map[string]map[string]dbus.Variant, *dbus.Error) {
	return o.p.objects, nil
}

func (s playedSimple) Connect(wishes map[string]dbus.Variant) (dbus.ObjectPath, *dbus.Error) {
	s.p.mu.Lock()
	hang := s.p.hang
	s.p.wishes = wishes
	refuse := s.p.refuse
	s.p.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return playedBearer, refuse
}

func (s playedSimple) Disconnect(dbus.ObjectPath) *dbus.Error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.hungUp++
	return nil
}

func (o playedProps) GetAll(string) (map[string]dbus.Variant, *dbus.Error) {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	return maps.Clone(o.p.bearer), nil
}

func (p *playedManager) set(key string, v any) {
	p.mu.Lock()
	p.bearer[key] = dbus.MakeVariant(v)
	p.mu.Unlock()
	_ = p.conn.Emit(playedBearer, busProps+".PropertiesChanged", mmBearer, map[string]dbus.Variant{key: dbus.MakeVariant(v)}, []string{})
}

func vary(kv ...any) map[string]dbus.Variant {
	m := map[string]dbus.Variant{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i].(string)] = dbus.MakeVariant(kv[i+1])
	}
	return m
}

// QMI and MBIM: ModemManager gives the addresses, or says that DHCP does, and tells of the loss.
func TestManagedNetworkDevice(t *testing.T) {
	if !alone(t) {
		return
	}
	needTool(t, "dnsmasq", "dnsmasq-base")
	f := cable(t, "wwan0")
	f.dnsmasq("--enable-ra", "--dhcp-range=2001:db8:8::,ra-only,64,10m")
	bus := privateBus(t)
	p := playManager(t, bus, vary("Connected", true, "Interface", "wwan0",
		"Ip4Config", vary("method", uint32(methodStatic), "address", "192.168.8.77", "prefix", uint32(24), "gateway", "192.168.8.1", "dns1", "10.8.8.8", "dns2", "", "mtu", uint32(1420)),
		"Ip6Config", vary("method", uint32(methodDHCP), "address", "fe80::77", "prefix", uint32(64))))
	mm := newManaged(Config{Name: "lte", APN: "internet", User: "u", Auth: "chap", Password: func() (string, error) { return "pw", nil }, ModemManagerBus: bus, Roaming: true}, "")
	h := hold(t, mm)
	l := h.up("both families", func(l Link) bool { return len(l.Addresses) == 2 })
	if l.Addresses[0].String() != "192.168.8.77/24" || l.Addresses[1].String() != "2001:db8:8::77/64" || l.Gateway.String() != "192.168.8.1" || sprint(l.DNS) != "[10.8.8.8]" {
		t.Errorf("the bearer is %+v", l)
	}
	f.reaches("192.168.8.77")
	p.mu.Lock()
	w := p.wishes
	p.mu.Unlock()
	if w["apn"].Value() != "internet" || w["user"].Value() != "u" || w["password"].Value() != "pw" || w["allowed-auth"].Value() != uint32(4) ||
		w["ip-type"].Value() != uint32(4) || w["allow-roaming"].Value() != true {
		t.Errorf("it asked for %v", w)
	}
	p.set("Connected", false)
	isLost(t, h.lost("disconnected"), "the network took it down")

	p.set("Ip4Config", vary("method", uint32(methodDHCP)))
	p.set("Ip6Config", vary("method", uint32(0)))
	p.set("Connected", true)
	h = hold(t, mm)
	h.up("an address by DHCP", func(l Link) bool {
		return len(l.Addresses) == 1 && strings.HasPrefix(l.Addresses[0].String(), "192.168.8.1")
	})
	h.end()
	err := mm.down(context.Background())
	p.mu.Lock()
	if err != nil || p.hungUp != 1 {
		t.Errorf("hung up %d times: %v", p.hungUp, err)
	}
	p.mu.Unlock()
	p.conn.Close() // ModemManager crashes
	if err := hold(t, mm).lost("no ModemManager"); !strings.Contains(err.Error(), "does not run") {
		t.Errorf("it says %v", err)
	}
	if err := mm.down(context.Background()); err != nil {
		t.Errorf("without ModemManager nothing is to be hung up: %v", err)
	}
}

// What ModemManager refuses, in words; and one that hangs.
func TestManagedRefusals(t *testing.T) {
	bus := privateBus(t)
	p := playManager(t, bus, vary())
	mm := newManaged(Config{Name: "lte", ModemManagerBus: bus}, "")
	for name, tt := range map[string]struct {
		err     *dbus.Error
		want    string
		lasting bool
	}{
		"APN":     {dbus.NewError(mmService+".Error.MobileEquipment.MissingOrUnknownApn", []any{"Missing or unknown APN"}), "knows no such APN", true},
		"service": {dbus.NewError(mmService+".Error.MobileEquipment.NoNetwork", []any{"No network service"}), "no network service", false},
		"polkit":  {dbus.NewError(mmService+".Error.Core.Unauthorized", []any{"PolicyKit authorization failed"}), "polkit rule", false},
		"other":   {dbus.NewError(mmService+".Error.Core.Failed", []any{"Something\nelse"}), "ModemManager says: Somethingelse", false},
		"nobody":  {dbus.NewError("org.freedesktop.DBus.Error.ServiceUnknown", []any{"x"}), "does not run", false},
	} {
		p.mu.Lock()
		p.refuse = tt.err
		p.mu.Unlock()
		err := hold(t, mm).lost("refused")
		var r *Refusal
		if !strings.Contains(err.Error(), tt.want) || (errors.As(err, &r) && r.Lasting) != tt.lasting {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	for modem, want := range map[string]bool{"": true, "ttyUSB2": true, "/dev/ttyUSB2": true, "cdc-wdm0": true, "490154203237518": true, "/sys/devices/usb1": true, "ttyUSB9": false} {
		mm.modem = modem
		if is := mm.is(p.objects[playedModem][mmModem]); is != want {
			t.Errorf("%q is the modem: %v", modem, is)
		}
	}
	mm.modem = "ttyUSB9"
	if err := hold(t, mm).lost("another one"); !strings.Contains(err.Error(), "ttyUSB9") {
		t.Errorf("it says %v", err)
	}
	hang := make(chan struct{})
	defer close(hang)
	mm.modem = ""
	p.mu.Lock()
	p.hang, p.wishes = hang, nil
	p.mu.Unlock()
	h := hold(t, mm)
	eventually(t, "it was asked", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.wishes != nil })
	h.end() // a ModemManager that hangs holds nobody up
}

// playedTexts are ModemManager's text messages.
type playedTexts struct {
	mu    sync.Mutex
	list  map[dbus.ObjectPath]map[string]dbus.Variant
	stays dbus.ObjectPath // cannot be deleted
}

func (x *playedTexts) List() (list []dbus.ObjectPath, _ *dbus.Error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for at := range x.list {
		list = append(list, at)
	}
	return list, nil
}

func (x *playedTexts) Delete(at dbus.ObjectPath) *dbus.Error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if at == x.stays {
		return dbus.NewError(mmService+".Error.Core.Failed", []any{"stays"})
	}
	delete(x.list, at)
	return nil
}

type playedText map[string]dbus.Variant

func (x playedText) GetAll(string) (map[string]dbus.Variant, *dbus.Error) { return x, nil }

// Messages come the oldest first, whatever ModemManager calls them, for the codes in them are in a row. One that cannot be
// deleted is taken once and keeps no other back, and halves whose rest does not come do not fill the store.
func TestManagedTexts(t *testing.T) {
	bus := privateBus(t)
	p := playManager(t, bus, vary())
	x := &playedTexts{list: map[dbus.ObjectPath]map[string]dbus.Variant{}, stays: mmPath + "/SMS/9"}
	if err := p.conn.Export(x, playedModem, mmMessaging); err != nil {
		t.Fatal(err)
	}
	for n, state := range map[int]uint32{8: mmSMSReceived, 9: mmSMSReceived, 10: mmSMSReceived, 11: mmSMSReceiving} {
		at := dbus.ObjectPath(fmt.Sprintf("%s/SMS/%d", mmPath, n))
		x.list[at] = vary("State", state, "Number", correspondent, "Text", fmt.Sprint(n), "Class", int32(-1),
			"Timestamp", fmt.Sprintf("2026-11-23T12:00:%02d+03", n))
		if err := p.conn.Export(playedText(x.list[at]), at, busProps); err != nil {
			t.Fatal(err)
		}
	}
	m, err := newManaged(Config{Name: "lte", ModemManagerBus: bus}, "").open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	var b post
	var took []string
	left := func() int { x.mu.Lock(); defer x.mu.Unlock(); return len(x.list) }
	take := func() error { return b.take(t.Context(), m, playedModem, func(x Text) { took = append(took, x.Text) }) }
	for range 2 {
		if err := take(); err == nil || !strings.Contains(err.Error(), "stays") || fmt.Sprint(took) != "[8 9 10]" || left() != 2 {
			t.Errorf("took %q, %d are left: %v", took, left(), err)
		}
	}
	for at := range b.half {
		b.half[at] = b.half[at].Add(-partsWait)
	}
	x.mu.Lock()
	x.stays = ""
	x.mu.Unlock()
	if err := take(); err != nil || len(took) != 3 || left() != 0 {
		t.Errorf("took %q, %d are left: %v", took, left(), err)
	}
}
