package modem

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// usb is what a USB device is known by, and where it is now.
type usb struct {
	Vendor    string `json:"vendor"` // "2c7c"
	Product   string `json:"product"`
	Serial    string `json:"serial,omitempty"`
	Interface string `json:"interface"` // "02"
	dir       string // of the device in sysfs
}

// places is where the kernel shows its devices; other places are for tests.
type places struct{ sys, dev, run, proc string }

var system = places{sys: "/sys", dev: "/dev", run: "/run", proc: "/proc"}

// find is the AT port of the hour. A port that was found once is found again by what its USB device is called, for
// the kernel gives it another number when it was pulled out and something still holds the old one.
func (p places) find(spec string, known usb) (path string, id usb, err error) {
	want, isUSB, err := parseUSB(spec)
	if err != nil {
		return "", usb{}, err
	}
	if isUSB {
		return p.search(want)
	}
	if _, err := os.Stat(spec); err == nil {
		id, _ := p.identify(spec)
		// The number may be another device's by now. A path that names the device itself is right by itself.
		if known.Vendor == "" || strings.Contains(spec, "/by-") || id.Vendor == "" || id.same(known) {
			return spec, id, nil
		}
	}
	if known.Vendor != "" {
		if path, id, err := p.search(known); err == nil {
			return path, id, nil
		}
	}
	return spec, usb{}, ttyError(spec, unix.ENOENT)
}

// parseUSB reads "usb:2c7c:0125", with ".02" for the interface and "@serial" for one of several.
func parseUSB(spec string) (id usb, ok bool, err error) {
	rest, ok := strings.CutPrefix(spec, "usb:")
	if !ok {
		return usb{}, false, nil
	}
	rest, id.Serial, _ = strings.Cut(rest, "@")
	rest, id.Interface, _ = strings.Cut(rest, ".")
	id.Vendor, id.Product, ok = strings.Cut(strings.ToLower(rest), ":")
	if !ok || !isHex(id.Vendor) || !isHex(id.Product) || len(id.Vendor) != 4 || len(id.Product) != 4 {
		return usb{}, false, fmt.Errorf("%q names no USB device: want usb:VENDOR:PRODUCT.INTERFACE as in usb:2c7c:0125.02", spec)
	}
	return id, true, nil
}

// same says whether b is the port a; what a does not name may be anything.
func (a usb) same(b usb) bool {
	or := func(x, y string) bool { return x == "" || y == "" || strings.EqualFold(x, y) }
	return or(a.Vendor, b.Vendor) && or(a.Product, b.Product) && or(a.Serial, b.Serial) && or(a.Interface, b.Interface)
}

// search looks through the ttys for the port of a USB device.
func (p places) search(want usb) (string, usb, error) {
	ttys, _ := filepath.Glob(filepath.Join(p.sys, "class/tty/*/device"))
	for _, tty := range ttys {
		name := filepath.Base(filepath.Dir(tty))
		if id, ok := p.identifyTTY(name); ok && want.same(id) {
			return filepath.Join(p.dev, name), id, nil
		}
	}
	return "", usb{}, fmt.Errorf("no tty of a USB device %s:%s: %w", want.Vendor, want.Product, errNoPort)
}

// identify is the USB device of a tty, if it is one's.
func (p places) identify(path string) (usb, bool) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return usb{}, false
	}
	return p.identifyTTY(filepath.Base(real))
}

// identifyTTY goes up from /sys/class/tty/ttyUSB2/device to the interface and the device.
func (p places) identifyTTY(name string) (usb, bool) {
	dir, err := filepath.EvalSymlinks(filepath.Join(p.sys, "class/tty", name, "device"))
	if err != nil {
		return usb{}, false
	}
	var id usb
	for ; len(dir) > len(p.sys); dir = filepath.Dir(dir) {
		if id.Interface == "" {
			id.Interface = attribute(dir, "bInterfaceNumber")
		}
		if vendor := attribute(dir, "idVendor"); vendor != "" {
			id.Vendor, id.Product, id.Serial, id.dir = vendor, attribute(dir, "idProduct"), attribute(dir, "serial"), dir
			return id, true
		}
	}
	return usb{}, false
}

func attribute(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// rival says that ModemManager runs and was not told to leave the port alone: what it says to the modem mixes with what we do,
// and what the modem answers one of the two gets.
func (p places) rival(path string) bool { return p.modemManagerRuns() && !p.ignored(path) }

// modemManagerRuns looks for its control group and for its process: our unit hides processes, a box without
// systemd has no such group.
func (p places) modemManagerRuns() bool {
	if _, err := os.Stat(filepath.Join(p.sys, "fs/cgroup/system.slice/ModemManager.service")); err == nil {
		return true
	}
	names, _ := filepath.Glob(filepath.Join(p.proc, "[0-9]*/comm"))
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(b), "ModemManager") {
			return true
		}
	}
	return false
}

// ignored reads what udev knows of the port (udev(7), /run/udev/data).
func (p places) ignored(path string) bool {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return false
	}
	b, err := os.ReadFile(filepath.Join(p.run, "udev/data", fmt.Sprintf("c%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))))
	return err == nil && (strings.Contains(string(b), "E:ID_MM_PORT_IGNORE=1") || strings.Contains(string(b), "E:ID_MM_DEVICE_IGNORE=1"))
}
