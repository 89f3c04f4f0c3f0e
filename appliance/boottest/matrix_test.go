package boottest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// row is one kind of machine, and what must happen to it with and without an order.
type row struct {
	name        string
	personality string
	config      string // of the machine, in the file of the site
	image       string // ordered; "" is no order
	stages      string // the programs that must have run, in order
	last        string // the file that must have come last
	sum         string // and its SHA-256, with an ISO's place for arguments empty
}

// ladder reports that only the last of the firmware's four DISCOVERs meets the
// dialect that it understands. If one of the four is lost on a busy test machine
// somebody has to switch the machine on again.
func (r row) ladder() bool { return strings.Contains(r.name, "unknown vendor") }

func rows() []row {
	initrd, arm64, iso := sumOf(noise("amd64", initrdSize)), sumOf(noise("arm64", initrdSize)), sumOf(isoFile())
	return []row{
		{"Intel UNDI BIOS", "Intel UNDI", "", "rescue", "ipxe-1", "initrd.img", initrd},
		{"EDK2 old, shim → GRUB", "EDK2 old", "", "rescue", "shim grub", "initrd.img", initrd},
		{"EDK2 new, shim → GRUB", "EDK2 new", "", "rescue", "shim grub", "initrd.img", initrd},
		{"EDK2 new, iPXE 1.x", "EDK2 new", `chain = "ipxe"`, "rescue", "ipxe-1", "initrd.img", initrd},
		{"EDK2 new, iPXE 2.x with its shim", "EDK2 new", `bootset = "signed"`, "rescue", "shim ipxe-2", "initrd.img", initrd},
		{"EDK2 ia32, GRUB", "EDK2 ia32", "", "rescue", "grub", "initrd.img", initrd},
		{"UEFI that never asks 4011", "UEFI without 4011", "", "rescue", "shim grub", "initrd.img", initrd},
		{"HP UEFI (3c:52:82), no proxies", "HP UEFI", "", "rescue", "shim grub", "initrd.img", initrd},
		{"the same of an unknown vendor", "HP UEFI", "", "rescue", "shim grub", "initrd.img", initrd},
		{"U-Boot arm64, shim → GRUB", "U-Boot", "", "rescue", "shim grub", "initrd.img", arm64},
		{"FlexBoot", "FlexBoot", "", "rescue", "", "initrd.img", initrd},
		{"UEFI HTTPClient, ISO", "HTTPClient", "", "rescue", "iso", "rescue.iso", iso},
		{"UEFI HTTPClient, broken and resumed", "HTTPClient, broken", "", "rescue", "iso", "rescue.iso", iso},
		{"UEFI HTTPClient, iPXE", "HTTPClient", `secure_boot = "off"`, "rescue", "ipxe-1", "initrd.img", initrd},
		{"Apple BSDP", "Apple BSDP", "", "rescue", "", "", ""},
		{"Intel UNDI, no order", "Intel UNDI", "", "", "", "", ""},
		{"EDK2 new, no order", "EDK2 new", "", "", "", "", ""},
		{"FlexBoot, no order", "FlexBoot", "", "", "", "", ""},
		{"HTTPClient, no order", "HTTPClient", "", "", "", "", ""},
	}
}

// macOf is the MAC of a row's machine: HP's own for the row that says so.
func macOf(i int) net.HardwareAddr {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0xb0, 0x07, byte(i + 1)}
	if strings.Contains(rows()[i].name, "3c:52:82") {
		copy(mac, "\x3c\x52\x82")
	}
	return mac
}

// TestPersonalities boots every personality in every mode, all at once in each
// mode, against the whole daemon. A machine has booted when the last file is
// in its memory with the right hash, by its own count.
func TestPersonalities(t *testing.T) {
	table := map[string]map[string]string{}
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			for name, cell := range bootAll(t, m) {
				if table[name] == nil {
					table[name] = map[string]string{}
				}
				table[name][m.name] = cell
			}
		})
	}
	t.Log("\n" + tableText(table))
}

// bootAll boots all rows in one mode and returns the table's cells.
func bootAll(t *testing.T, m mode) map[string]string {
	list := rows()
	var config strings.Builder
	for i, r := range list {
		fmt.Fprintf(&config, "[[machine]]\nname = \"m%02d\"\nmac = [%q]\n%s\n", i, macOf(i).String(), r.config)
	}
	s := newSite(t, m, config.String())
	cells := map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, r := range list {
		order, hurry := "", 8
		if r.image != "" {
			hurry = 3
			order = s.order(fmt.Sprintf("m%02d", i), r.image)
		}
		machine := s.machine(macOf(i), hurry)
		p, ok := PersonalityOf(r.personality)
		if !ok {
			t.Fatal("no personality", r.personality)
		}
		wg.Go(func() {
			defer machine.Card.Unplug()
			out := machine.PowerOn(p)
			if r.ladder() && errors.Is(out.Err, ErrLocal) {
				out = machine.PowerOn(p)
			}
			cell := s.judge(m, r, out, order)
			mu.Lock()
			defer mu.Unlock()
			cells[r.name] = cell
		})
	}
	wg.Wait()
	return cells
}

// judge compares an outcome with what the row wants.
func (s *site) judge(m mode, r row, out Outcome, order string) string {
	fault := func(format string, args ...any) string {
		s.t.Errorf("%s: %s", r.name, fmt.Sprintf(format, args...))
		return "FAILED"
	}
	for _, c := range out.Complaints {
		fault("chokes: %s", c)
	}
	if r.last == "" {
		return leftAlone(m, out, fault)
	}
	if out.Err != nil {
		return fault("%v (programs %v, %d files, heard %v)", out.Err, out.Stages, len(out.Loaded), out.Heard)
	}
	if got := strings.Join(out.Stages, " "); got != r.stages {
		return fault("ran %q, want %q", got, r.stages)
	}
	last, ok := lastOf(out.Loaded, r.last)
	if !ok || s.plain(last) != r.sum {
		return fault("last file %s with %s, want %s with %s", last.Name, s.plain(last), r.last, r.sum)
	}
	if out.Kernel == "" || r.image == "rescue" && !strings.Contains(out.Cmdline, "machine=m") {
		return fault("started %q with %q", out.Kernel, out.Cmdline)
	}
	eventually(s.t, 20*time.Second, r.name+": the order is done", func() bool { return s.state(order) == "done" })
	return fmt.Sprintf("%.1f s", out.Took.Seconds())
}

// lastOf is the last big file; iPXE asks for a word behind it.
func lastOf(list []Loaded, name string) (Loaded, bool) {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Size > 1000 {
			return list[i], list[i].Name == name
		}
	}
	return Loaded{}, false
}

// plain is a file's hash, with an ISO's order taken out of it again.
func (s *site) plain(f Loaded) string {
	if strings.HasSuffix(f.Name, ".iso") && f.Size > isoAt+configSize {
		data := bytes.Clone(f.Data)
		copy(data[isoAt:], bytes.Repeat([]byte("\n"), configSize))
		return sumOf(data)
	}
	return f.SHA256
}

// leftAlone is the verdict on a machine that must go on to its own disk: no
// file of ours, and beside a DHCP server not even a packet.
func leftAlone(m mode, out Outcome, fault func(string, ...any) string) string {
	switch {
	case !errors.Is(out.Err, ErrLocal):
		return fault("%v, want that it goes on to its disk", out.Err)
	case len(out.Loaded) > 0:
		return fault("loaded %s without an order", out.Loaded[0].Name)
	}
	if m.server {
		for _, a := range out.Heard {
			if a.String() == "192.168.77.1" {
				return fault("we spoke to a machine that is another server's")
			}
		}
	}
	return fmt.Sprintf("disk, %.1f s", out.Took.Seconds())
}

// tableText draws the table for people.
func tableText(cells map[string]map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-36s", "personality")
	for _, m := range modes {
		fmt.Fprintf(&b, " %-18s", m.name)
	}
	for _, r := range rows() {
		fmt.Fprintf(&b, "\n%-36s", r.name)
		for _, m := range modes {
			fmt.Fprintf(&b, " %-18s", cells[r.name][m.name])
		}
	}
	return b.String()
}
