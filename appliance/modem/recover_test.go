package modem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rescuebox/appliance/modem/modemtest"
)

// tree is a sysfs with USB ttys in it: name, vendor, product, serial and interface each.
func tree(t *testing.T, ports ...[5]string) places {
	t.Helper()
	sys, err := filepath.EvalSymlinks(t.TempDir()) // as /sys is: TMPDIR may be a link
	if err != nil {
		t.Fatal(err)
	}
	p := places{sys: sys, dev: t.TempDir(), run: t.TempDir(), proc: t.TempDir()}
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, port := range ports {
		device := filepath.Join(p.sys, "devices/usb1", "1-"+port[1]+port[2]+port[3])
		write(filepath.Join(device, "idVendor"), port[1])
		write(filepath.Join(device, "idProduct"), port[2])
		write(filepath.Join(device, "serial"), port[3])
		write(filepath.Join(device, "authorized"), "1")
		tty := filepath.Join(device, "1-1:1."+port[4], port[0])
		write(filepath.Join(device, "1-1:1."+port[4], "bInterfaceNumber"), port[4])
		class := filepath.Join(p.sys, "class/tty", port[0])
		if err := errors.Join(os.MkdirAll(tty, 0o700), os.MkdirAll(class, 0o700), os.Symlink(tty, filepath.Join(class, "device"))); err != nil {
			t.Fatal(err)
		}
		write(filepath.Join(p.dev, port[0]), "")
	}
	return p
}

func TestFindPort(t *testing.T) {
	ports := [][5]string{{"ttyUSB0", "2c7c", "0125", "abc", "00"}, {"ttyUSB2", "2c7c", "0125", "abc", "02"}, {"ttyUSB3", "12d1", "1506", "", "00"},
		{"ttyUSB7", "2c7c", "0125", "def", "02"}}
	p := tree(t, ports...)
	if err := os.Symlink(filepath.Join(p.dev, "ttyUSB3"), filepath.Join(p.dev, "by-id-huawei")); err != nil {
		t.Fatal(err)
	}
	modem := usb{Vendor: "2c7c", Product: "0125", Serial: "abc", Interface: "02"}
	for _, test := range []struct {
		name, spec string
		known      usb
		want       string // or the error
	}{
		{"by vendor and interface", "usb:2c7c:0125.02", usb{}, "ttyUSB2"},
		{"in capitals", "usb:2C7C:0125.00", usb{}, "ttyUSB0"},
		{"by serial", "usb:2c7c:0125.02@def", usb{}, "ttyUSB7"},
		{"another device", "usb:12d1:1506", usb{}, "ttyUSB3"},
		{"not there", "usb:1199:9071", usb{}, "not there"},
		{"nonsense", "usb:quectel", usb{}, "names no USB device"},
		{"nonsense in hex", "usb:2c7c:12", usb{}, "names no USB device"},
		{"a path", "/ttyUSB2", usb{}, "ttyUSB2"},
		{"a path that stays", "/by-id-huawei", modem, "by-id-huawei"},
		{"a path whose number is another device's now", "/ttyUSB3", modem, "ttyUSB2"},
		{"a path that is gone, its device is not", "/ttyUSB9", modem, "ttyUSB2"},
		{"a path that is gone", "/ttyUSB9", usb{}, "not there"},
		{"a path that is gone with its device", "/ttyUSB9", usb{Vendor: "1199", Product: "9071"}, "not there"},
	} {
		spec := test.spec
		if strings.HasPrefix(spec, "/") {
			spec = p.dev + spec
		}
		got, _, err := p.find(spec, test.known)
		if err != nil {
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if filepath.Base(got) != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// The kernel gives a modem that comes back another name. The port is found by what it is.
func TestReplugUnderAnotherName(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	p := tree(t, [5]string{"ttyUSB2", "2c7c", "0125", "abc", "02"})
	plug := func(name string) {
		t.Helper()
		pts, err := os.Readlink(fake.Path)
		if err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(filepath.Join(p.dev, name))
		if err := os.Symlink(pts, filepath.Join(p.dev, name)); err != nil {
			t.Fatal(err)
		}
	}
	plug("ttyUSB2")
	// identify follows links; here the name itself is in sysfs.
	m, _ := start(t, fake, func(m *Modem) { m.Device, m.places = "usb:2c7c:0125.02", p })
	s := until(t, m, "registration", registered)
	if filepath.Base(s.Device) != "ttyUSB2" {
		t.Errorf("port %s", s.Device)
	}
	fake.Unplug()
	if err := os.RemoveAll(filepath.Join(p.sys, "class/tty/ttyUSB2")); err != nil {
		t.Fatal(err)
	}
	until(t, m, "the loss", func(s Status) bool { return s.State == Absent })
	if err := fake.Plug(); err != nil {
		t.Fatal(err)
	}
	again := tree(t, [5]string{"ttyUSB5", "2c7c", "0125", "abc", "02"})
	plug("ttyUSB5")
	if err := os.Rename(filepath.Join(again.sys, "class/tty/ttyUSB5"), filepath.Join(p.sys, "class/tty/ttyUSB5")); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(p.sys, "class/tty/ttyUSB5/device"))
	if err := os.Symlink(filepath.Join(p.sys, "devices/usb1/1-2c7c0125abc/1-1:1.02/ttyUSB2"), filepath.Join(p.sys, "class/tty/ttyUSB5/device")); err != nil {
		t.Fatal(err)
	}
	s = until(t, m, "the way back", registered)
	if filepath.Base(s.Device) != "ttyUSB5" {
		t.Errorf("port %s", s.Device)
	}
}

func TestRivalIsNamed(t *testing.T) {
	p := tree(t)
	if p.rival("/dev/null") {
		t.Error("a rival where none runs")
	}
	if err := errors.Join(os.MkdirAll(p.proc+"/123", 0o700), os.WriteFile(p.proc+"/123/comm", []byte("ModemManager\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if !p.rival("/dev/null") {
		t.Error("ModemManager is not seen")
	}
	fake := modemtest.Start(t)
	m, stop := start(t, fake, func(m *Modem) { m.places = p })
	if s := until(t, m, "registration", registered); !strings.Contains(s.Why, "ModemManager") {
		t.Errorf("the status says %q", s.Why)
	}
	stop()
	if err := errors.Join(os.MkdirAll(p.run+"/udev/data", 0o700), os.WriteFile(p.run+"/udev/data/c1:3", []byte("I:1\nE:ID_MM_PORT_IGNORE=1\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if p.rival("/dev/null") {
		t.Error("it was told to leave the port alone")
	}
}

func TestRungsByHand(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	p := tree(t, [5]string{"ttyUSB2", "2c7c", "0125", "abc", "02"})
	mark := filepath.Join(t.TempDir(), "mark")
	var rebooted atomic.Int32
	m, _ := start(t, fake, func(m *Modem) {
		m.places = p
		m.Recovery = Recovery{Power: [][]string{{"sh", "-c", "echo off >>" + mark}, {"sh", "-c", "echo on >>" + mark}},
			Reboot: func(context.Context) error { rebooted.Add(1); return nil }}
	})
	until(t, m, "registration", registered)
	if got := m.Rungs(); !slices.Equal(got, []string{"attach", "radio", "restart", "usb", "power", "reboot"}) {
		t.Errorf("rungs %q", got)
	}
	for _, rung := range []string{"attach", "radio", "power", "reboot"} {
		if err := m.Reset(t.Context(), rung); err != nil {
			t.Errorf("%s: %v", rung, err)
		}
	}
	log := fake.Log()
	for _, cmd := range []string{"+CGATT=0", "+COPS=0", "+CGATT=1", "+CFUN=4", "+CFUN=1"} {
		if !slices.Contains(log, cmd) {
			t.Errorf("the modem was not told %s", cmd)
		}
	}
	if b, _ := os.ReadFile(mark); string(b) != "off\non\n" {
		t.Errorf("power: %q", b)
	}
	if rebooted.Load() != 1 {
		t.Errorf("%d reboots", rebooted.Load())
	}
	if err := m.Reset(t.Context(), "usb"); err == nil || !strings.Contains(err.Error(), "not on USB") {
		t.Errorf("usb: %v", err)
	}
	m.noteUSB(usb{Vendor: "2c7c", dir: filepath.Join(p.sys, "devices/usb1/1-2c7c0125abc")})
	if err := m.Reset(t.Context(), "usb"); err != nil {
		t.Errorf("usb: %v", err)
	}
	if b, _ := os.ReadFile(filepath.Join(p.sys, "devices/usb1/1-2c7c0125abc/authorized")); !strings.HasPrefix(string(b), "1") {
		t.Errorf("authorized: %q", b)
	}
}

func TestPowerThatFails(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	m, _ := start(t, fake, func(m *Modem) { m.Recovery.Power = [][]string{{"sh", "-c", "echo no such hub >&2; exit 3"}} })
	until(t, m, "registration", registered)
	if err := m.Reset(t.Context(), "power"); err == nil || !strings.Contains(err.Error(), "no such hub") {
		t.Errorf("power: %v", err)
	}
	if s := m.Status().Recovery; !strings.Contains(s.Err, "no such hub") {
		t.Errorf("status %+v", s)
	}
}

// The whole way: the modem hangs, the ladder waits, cuts its power, and it comes back; the memory has what helped.
func TestHungModemIsCured(t *testing.T) {
	t.Parallel()
	fake, book := modemtest.Start(t), &notebook{}
	mark := filepath.Join(t.TempDir(), "mark")
	m, _ := start(t, fake, func(m *Modem) {
		m.Memory = book
		m.SignalInterval = time.Second
		m.Recovery.Power = [][]string{{"touch", mark}}
	})
	until(t, m, "registration", registered)
	fake.Hang(true)
	s := until(t, m, "silence", func(s Status) bool { return s.State == Mute })
	if !strings.Contains(s.Why, "does not answer") {
		t.Errorf("hung: %q", s.Why)
	}
	until(t, m, "a cut of power", func(Status) bool { _, err := os.Stat(mark); return err == nil })
	fake.Hang(false)
	until(t, m, "the way back", registered)
	book.mu.Lock()
	defer book.mu.Unlock()
	if c := book.list["lte"].Climbs.Count["power"]; c == nil || c.Tried != 1 {
		t.Errorf("remembered %+v", book.list["lte"].Climbs)
	}
}

func TestLowPowerIsNamed(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.Power(4)
	fake.Fault("+CFUN=1", modemtest.Answer{Lines: []string{}}) // OK, and nothing happens
	m, _ := start(t, fake, nil)
	s := until(t, m, "low power", func(s Status) bool { return s.State == LowPower })
	if !strings.Contains(s.Why, "FCC lock") || m.fault() != sound {
		t.Errorf("%q, fault %q", s.Why, m.fault())
	}
	fake.Fault("!PCINFO?", modemtest.Answer{Lines: []string{"State: LowPowerMode", "LPM voters - Temp:0, Volt:0, User:0, W_DISABLE:1, IMSWITCH:0, BIOS:0"}})
	until(t, m, "the pin", func(s Status) bool { return strings.Contains(s.Why, "W_DISABLE") })
	fake.Heal("+CFUN=1")
	until(t, m, "registration", registered)
}

func TestRadioIsSwitchedOn(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	fake.Power(0)
	m, _ := start(t, fake, nil)
	until(t, m, "registration", registered)
	if fake.Fun() != 1 {
		t.Errorf("+CFUN is %d", fake.Fun())
	}
}
