package boot

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rescuebox/images"
)

// seconds makes a timeline: every event is one second after the one before.
func seconds(events ...Event) []Event {
	at := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	for i, e := range events {
		at = at.Add(e.Time.Sub(time.Time{})) // see later
		events[i].Time = at
		at = at.Add(time.Second)
	}
	return events
}

func step(s Step) Event              { return Event{Step: s, MAC: mac1} }
func begins(file string) Event       { return Event{Step: StepFile, File: file, Total: 1000} }
func has(file string) Event          { return Event{Step: StepFile, File: file, Bytes: 1000, Total: 1000} }
func breaks(f string, n int64) Event { return Event{Step: StepFile, File: f, Bytes: n, Total: 1000} }
func whole(file string) []Event      { return []Event{begins(file), has(file)} }
func askedBy(p Program) Event        { return Event{Step: StepDiscover, MAC: mac1, Key: string(p)} }

// upTo is the timeline of a boot up to a point.
func upTo(parts ...any) (list []Event) {
	for _, p := range parts {
		switch p := p.(type) {
		case Event:
			list = append(list, p)
		case []Event:
			list = append(list, p...)
		}
	}
	return list
}

var (
	armed   = []Event{step(StepArmed)}
	dhcped  = upTo(armed, askedBy(Firmware), step(StepOffer), step(StepRequest))
	inIPXE  = upTo(dhcped, whole("snponly.efi"), askedBy(IPXE), step(StepOffer), step(StepRequest))
	inGRUB  = upTo(dhcped, whole("shimx64.efi"), whole("grubx64.efi"))
	script  = upTo(inIPXE, step(StepScript))
	loaded  = upTo(script, whole("vmlinuz"), whole("initrd.img"))
	site    = netip.MustParseAddr("192.168.77.254")
	sawUEFI = []Sighting{{Client: Client{MAC: mac1, Arch: UEFIX64, UUID: uuid1}, Machine: "srv01"}}
	sawBIOS = []Sighting{{Client: Client{MAC: mac1, Arch: BIOS}, Machine: "srv01"}}
)

// diagnoses has one boot for each rule: what was seen, and the key.
var diagnoses = []struct {
	key    string
	events []Event
	change func(*Facts)
}{
	{"dhcp-off", armed, func(f *Facts) { f.LAN.Mode = "off" }},
	{"dhcp-off", armed, func(f *Facts) { f.LAN.Mode = "down" }},
	{"refused", upTo(armed, Event{Step: StepRefused, Text: "asks as UEFI ia32"}), nil},
	{"boots-own-disk", upTo(armed, step(StepSystem)), nil},
	{"other-card", armed, func(f *Facts) { f.Strangers = []Sighting{{Client: Client{MAC: foreign, UUID: uuid1}}} }},
	{"unknown-card", armed, func(f *Facts) { f.Strangers = []Sighting{{Client: Client{MAC: foreign}}} }},
	{"no-packet", armed, nil},
	{"other-box", dhcped, func(f *Facts) { f.LAN = LAN{Mode: "proxy", Servers: []ForeignServer{{Addr: site, Box: true}}} }},
	{"tftp-not-asked", dhcped, func(f *Facts) { // two boxes beside the site's server: neither is in the other's way
		f.LAN = LAN{Mode: "proxy", Servers: []ForeignServer{{Addr: site, NextServer: site}, {Addr: netip.MustParseAddr("10.0.0.9"), Box: true}}}
	}},
	{"foreign-option60", upTo(armed, askedBy(Firmware), step(StepOffer)), func(f *Facts) { f.LAN.Servers = []ForeignServer{{Addr: site, PXEClient: true}} }},
	{"foreign-option60", dhcped, func(f *Facts) { f.LAN.Servers = []ForeignServer{{Addr: site, PXEClient: true}} }},
	{"foreign-bootfile", upTo(armed, askedBy(Firmware), step(StepOffer)), func(f *Facts) { f.LAN.Servers = []ForeignServer{{Addr: site, BootFile: "pxelinux.0"}} }},
	{"foreign-bootfile", dhcped, func(f *Facts) {
		f.Own, f.LAN.Servers = sawBIOS, []ForeignServer{{Addr: site, PXEClient: true, BootFile: "pxelinux.0"}} // option 60 does not hurt BIOS
	}},
	{"box-listening", upTo(armed, askedBy(Firmware)), func(f *Facts) { f.LAN.Mode = "listening" }},
	{"no-free-address", upTo(armed, askedBy(Firmware)), func(f *Facts) { f.LAN.Mode, f.LAN.NoAddress = "full", true }},
	{"not-offered", upTo(armed, askedBy(Firmware)), nil},
	{"no-address-server", upTo(armed, askedBy(Firmware), step(StepOffer)), func(f *Facts) { f.LAN.Mode = "proxy" }},
	{"proxy-offer-not-taken", upTo(armed, askedBy(Firmware), step(StepOffer)), func(f *Facts) { f.LAN = LAN{Mode: "proxy", Servers: []ForeignServer{{Addr: site}}} }},
	{"offer-not-taken", upTo(armed, askedBy(Firmware), step(StepOffer), askedBy(Firmware)), nil},
	{"wrong-next-server", dhcped, func(f *Facts) {
		f.LAN.Servers = []ForeignServer{{Addr: site, NextServer: netip.MustParseAddr("10.0.0.9")}}
	}},
	{"tftp-not-asked", dhcped, func(f *Facts) { f.LAN.Servers = []ForeignServer{{Addr: site, NextServer: site}} }}, // it names itself: no fault
	{"file-refused", upTo(dhcped, Event{Step: StepRefused, Text: "no pxelinux.0"}), nil},
	{"http-not-asked", dhcped, func(f *Facts) { f.Own = []Sighting{{Client: Client{MAC: mac1, Arch: HTTPX64}}} }},
	{"blocks-lost", upTo(dhcped, begins("snponly.efi")), nil},
	{"blocks-lost", upTo(dhcped, begins("snponly.efi"), breaks("snponly.efi", 0), breaks("snponly.efi", 0)), nil},
	{"download-stalled", upTo(dhcped, begins("snponly.efi"), breaks("snponly.efi", 500)), nil},
	{"download-stalled", upTo(script, begins("vmlinuz")), nil},
	{"file-refused", upTo(dhcped, whole("shimx64.efi"), Event{Step: StepRefused, Text: "no grubx64.efi"}), nil},
	{"ipxe-no-address", upTo(dhcped, whole("snponly.efi"), askedBy(IPXE), step(StepOffer)), nil},
	{"ipxe-no-script", inIPXE, nil},
	{"secure-boot-refused-nbp", upTo(dhcped, whole("snponly.efi")), nil},
	{"secure-boot-refused-nbp", upTo(dhcped, whole("snponly.efi"), askedBy(Firmware), step(StepOffer), step(StepRequest), has("snponly.efi")), nil}, // it tries again and again
	{"nbp-silent", upTo(dhcped, whole("undionly.kpxe")), nil},
	{"nbp-silent", upTo(dhcped, whole("snponly.efi")), func(f *Facts) { f.SecureBoot = SecureBootOff }},
	{"nbp-silent", upTo(dhcped, whole("snponly-shimx64.efi"), whole("snponly.efi")), nil}, // signed: it is not that
	{"secure-boot-refused-shim", upTo(dhcped, whole("shimx64.efi")), nil},
	{"grub-silent", inGRUB, nil},
	{"iso-silent", upTo(dhcped, whole("rescue.iso")), nil},
	{"root-not-asked", upTo(dhcped, whole("rescue.iso"), step(StepSystem)), nil},
	{"file-refused", upTo(script, Event{Step: StepRefused, Text: "vmlinuz changed"}), nil},
	{"kernel-not-asked", script, nil},
	{"kernel-not-asked", upTo(inGRUB, step(StepScript)), nil},
	{"secure-boot-refused-kernel", upTo(inGRUB, step(StepScript), whole("vmlinuz")), nil},
	{"initrd-not-asked", upTo(script, whole("vmlinuz")), nil},
	{"kernel-restarted", upTo(loaded, askedBy(Firmware)), nil},
	{"root-not-asked", upTo(loaded, step(StepSystem)), nil},
	{"kernel-silent", loaded, nil},
	{"download-stalled", upTo(loaded, begins("root.squashfs"), breaks("root.squashfs", 0)), nil},
	{"no-report", upTo(loaded, whole("root.squashfs")), nil},
	{"other-loader-ca", upTo(dhcped, whole(managerEFI)), windowsPE},
	{"other-loader-ca", upTo(dhcped, whole(managerEFI), askedBy(Firmware), step(StepOffer), step(StepRequest)), windowsPE},
	{"nbp-silent", upTo(dhcped, whole(managerEFI)), func(f *Facts) { windowsPE(f); f.SecureBoot = SecureBootOff }},
	{"nbp-silent", upTo(dhcped, whole(pxeboot)), windowsPE},
	{"bcd-not-asked", upTo(dhcped, whole(pxeboot), whole(bootmgrEXE)), windowsPE},
	{"wim-not-asked", upTo(dhcped, whole(managerEFI), step(StepScript)), windowsPE},
	{"wim-not-asked", upTo(dhcped, whole(managerEFI), step(StepScript), whole("wgl4_boot.ttf"), whole("boot.sdi")), windowsPE},
	{"blocks-lost", upTo(dhcped, whole(pxeboot), whole(bootmgrEXE), step(StepScript), whole("boot.sdi"), begins("boot.wim")), windowsPE},
	{"pe-restarted", upTo(inPE, askedBy(Firmware)), windowsPE},
	{"no-report", inPE, windowsPE},
	{"no-report", upTo(inPE, step(StepSystem)), windowsPE},
}

var inPE = upTo(dhcped, whole(managerEFI), step(StepScript), whole("boot.sdi"), whole("boot.wim"))

// windowsPE makes a Windows image of what was ordered.
func windowsPE(f *Facts) {
	f.Order.Image = "dart"
	f.Image = images.Image{Name: "dart", Kind: images.Windows, Up: images.Agent, Windows: &images.WindowsPE{WIM: "boot.wim", SDI: "boot.sdi"},
		Files: []images.File{{Name: "boot.wim"}, {Name: "boot.sdi"}, {Name: "wgl4_boot.ttf"}, {Name: managerEFI, Arch: "amd64", Signers: []string{images.MicrosoftWindows2011}},
			{Name: managerEX, Arch: "amd64", Signers: []string{images.MicrosoftWindows2023}}, {Name: pxeboot}, {Name: bootmgrEXE}}}
}

var rescueImage = images.Image{Name: "rescue", Kind: images.Linux, Kernel: "vmlinuz", Initrd: []string{"initrd.img"}, Up: images.Agent,
	Files: []images.File{{Name: "vmlinuz"}, {Name: "initrd.img"}, {Name: "root.squashfs"}, {Name: "rescue.iso"}}}

func factsOf(events []Event, change func(*Facts)) Facts {
	events = seconds(slices.Clone(events)...)
	f := Facts{Order: Order{ID: "1", Machine: "srv01", Image: "rescue", State: Booting, Created: events[0].Time}, Image: rescueImage,
		Machine: Machine{Name: "srv01", MACs: []MAC{mac1}}, Events: events, Own: slices.Clone(sawUEFI), LAN: LAN{Mode: "full"},
		Now: events[len(events)-1].Time}
	if change != nil {
		change(&f)
	}
	return f
}

// Each rule has a boot that it explains; nothing is said while the boot may still go
// on, and something always when the order expires.
func TestLikely(t *testing.T) {
	covered := map[string]bool{}
	for _, d := range diagnoses {
		f := factsOf(d.events, d.change)
		covered[d.key] = true
		if c, ok := Likely(f, true); !ok || c.Key != d.key || c.Text == "" || c.Hint == "" {
			t.Errorf("%s: at its end %+v, %v", d.key, c, ok)
		}
		tr := follow(f)
		if c, ok := Likely(f, false); ok && !tr.again {
			t.Errorf("%s: said at once: %+v", d.key, c)
		}
		f.Now = f.Now.Add(patienceStart)
		if c, ok := Likely(f, false); !ok || c.Key != d.key {
			t.Errorf("%s: after %s %+v, %v", d.key, patienceStart, c, ok)
		}
	}
	for _, r := range rules {
		if !covered[r.key] {
			t.Errorf("no boot shows %s", r.key)
		}
	}
}

// Whose signature Secure Boot refused is said of the very file, and what helps against that.
func TestOtherCA(t *testing.T) {
	signed := func(by ...string) func(*Facts) {
		return func(f *Facts) {
			windowsPE(f)
			f.Image.Files[3].Signers = by
		}
	}
	for name, c := range map[string]struct {
		loader     string
		change     func(*Facts)
		text, hint string
	}{
		"2011":          {managerEFI, windowsPE, "CA of 2011", "CA of 2023 then"},
		"2023":          {managerEX, windowsPE, "CA of 2023", "CA of 2011 then"},
		"of a boot set": {managerEX, func(f *Facts) { windowsPE(f); f.Image.Files = f.Image.Files[:4] }, "CA of 2023", "CA of 2011 then"},
		"Windows 7":     {managerEFI, signed("Microsoft Windows Verification PCA"), "signed by Microsoft Windows Verification PCA", "Windows 8 or later"},
	} {
		if got, ok := Likely(factsOf(upTo(dhcped, whole(c.loader)), c.change), true); !ok || !strings.Contains(got.Text, c.text) || !strings.Contains(got.Hint, c.hint) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// The table in the comment of Cause names every key, and no other.
func TestCauseTable(t *testing.T) {
	text, err := os.ReadFile("cause.go")
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(text), "type Cause struct")
	for _, r := range rules {
		if !strings.Contains(table, " "+r.key+" ") {
			t.Errorf("%s is not in the comment of Cause", r.key)
		}
	}
}

// A boot that goes on is left alone, however slow its files are.
func TestNothingToSay(t *testing.T) {
	for name, events := range map[string][]Event{
		"up":                       upTo(loaded, whole("root.squashfs"), step(StepUp)),
		"second attempt goes on":   upTo(dhcped, whole("snponly.efi"), dhcped[1:], has("snponly.efi"), askedBy(IPXE), step(StepRequest), step(StepScript)),
		"a download that moves on": upTo(script, begins("vmlinuz")),
	} {
		f := factsOf(events, nil)
		f.Now = f.Now.Add(20 * time.Second)
		if name == "a download that moves on" {
			f.Now = f.Now.Add(time.Hour)
			f.Moving = Event{File: "vmlinuz", Bytes: 700, Time: f.Now.Add(-time.Second)}
		}
		if c, ok := Likely(f, false); ok {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// Servers are slow where they have much memory and many disks, and lines where they
// are long: what takes its time must not be called dead.
func TestSlowIsNotDead(t *testing.T) {
	off := func(f *Facts) { f.LAN.Mode = "off" }
	for name, test := range map[string]struct {
		events []Event
		change func(*Facts)
		after  time.Duration // of the last event
	}{
		"DHCP of the site, which names this box; the machine starts": {armed, off, time.Minute},
		"a kernel that starts for two minutes, then asks":            {upTo(loaded, later(2*time.Minute), step(StepSystem)), nil, 30 * time.Second},
		"the same, out of an ISO":                                    {upTo(dhcped, whole("rescue.iso"), later(2*time.Minute), step(StepSystem)), nil, 30 * time.Second},
	} {
		f := factsOf(test.events, test.change)
		f.Now = f.Now.Add(test.after)
		if c, ok := Likely(f, false); ok {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// later is an event that tells nothing; those after it come so much later.
func later(d time.Duration) Event { return Event{Step: StepOffer, Time: time.Time{}.Add(d)} }

// A big file that breaks off once on a slow line begins anew, and goes on. One
// that breaks off again and again at the same place does not.
func TestBrokenDownload(t *testing.T) {
	conf := testConfig(t, newMemory())
	synctest.Test(t, func(t *testing.T) {
		table := New(conf)
		o := arm(t, table, "rescue", time.Hour)
		tellOffer(table, Client{MAC: mac1, Arch: BIOS, Program: IPXE})
		fetch(t, table, Path(mac1, "boot.ipxe"))
		fetch(t, table, Path(mac1, "vmlinuz"))
		const total = 2 << 30
		// attempt gets n of the file's 100 parts, one in 10 s, and breaks off; worst is the cause that was told meanwhile.
		attempt := func(n int) (worst string) {
			f, err := table.Open(Path(mac1, "initrd.img"), netip.Addr{})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			f.Size = total
			for i := range n {
				time.Sleep(10 * time.Second)
				table.Progress(f, int64(i+1)*total/100)
				if c, ok := table.Cause(t.Context(), o.ID, time.Now()); ok {
					worst = c.Key
				}
			}
			table.Record(Event{Step: StepFile, Machine: "srv01", Order: o.ID, File: f.Name, Bytes: int64(n) * total / 100, Total: total, Text: "broke off"})
			time.Sleep(5 * time.Second)
			return worst
		}
		for n := range maxBroke + 1 {
			if c := attempt(50); c != "" {
				t.Errorf("attempt %d goes on, and is called %s", n, c)
			}
		}
		if c := attempt(50); c != "download-stalled" {
			t.Errorf("it breaks off again and again, and is called %q", c)
		}
	})
}

// causes are the keys of the causes in an order's timeline.
func causes(t *testing.T, table *Table, o Order) (keys []string) {
	t.Helper()
	events, err := table.Timeline(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if e.Step == StepCause {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

// tellOffer is what DHCP tells the table of a client that it offers a boot file to.
func tellOffer(table *Table, cl Client) {
	table.Decide(cl)
	table.Record(Event{Step: StepDiscover, MAC: cl.MAC})
	table.Record(Event{Step: StepOffer, MAC: cl.MAC})
	table.Record(Event{Step: StepRequest, MAC: cl.MAC})
}

// An order that nobody answers tells so once, and again at its end; the causes of
// the stalls of one order come one after the other.
func TestCausesOverTime(t *testing.T) {
	conf := testConfig(t, newMemory())
	var asked atomic.Int32
	conf.LAN = func(context.Context) LAN { asked.Add(1); return LAN{Mode: "full"} }
	conf.Machines[0].Chain = ChainIPXE
	synctest.Test(t, func(t *testing.T) {
		table := New(conf)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go table.Run(ctx, func() {})
		o := arm(t, table, "rescue", 30*time.Minute)
		sleep := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		want := func(keys ...string) {
			t.Helper()
			if got := causes(t, table, o); !slices.Equal(got, keys) {
				t.Errorf("after %s: causes %v, want %v", time.Since(o.Created), got, keys)
			}
		}
		sleep(2 * time.Minute)
		want()
		if asked.Load() != 0 {
			t.Error("other servers were asked while nothing was wrong")
		}
		sleep(5 * time.Minute)
		want("no-packet")
		uefi := Client{MAC: mac1, Arch: UEFIX64, Program: Firmware}
		tellOffer(table, uefi)
		fetch(t, table, Path(mac1, "snponly.efi"))
		sleep(50 * time.Second)
		want("no-packet")
		tellOffer(table, uefi) // refused: the firmware tries the next way, which is the same
		fetch(t, table, Path(mac1, "snponly.efi"))
		sleep(20 * time.Second)
		want("no-packet", "secure-boot-refused-nbp")
		sleep(5 * time.Minute)
		want("no-packet", "secure-boot-refused-nbp")
		tellOffer(table, uefi) // Secure Boot was switched off
		fetch(t, table, Path(mac1, "snponly.efi"))
		tellOffer(table, Client{MAC: mac1, Arch: UEFIX64, Program: IPXE})
		fetch(t, table, Path(mac1, "boot.ipxe"))
		fetch(t, table, Path(mac1, "vmlinuz"))
		f, err := table.Open(Path(mac1, "initrd.img"), netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 { // slow, but it goes on
			time.Sleep(time.Second)
			table.Progress(f, min(5, 1+f.Size*int64(time.Since(o.Created).Seconds())/2000))
		}
		f.Close()
		sleep(20 * time.Minute)
		events, _ := table.Timeline(o.ID)
		if n := len(events); events[n-1].Step != StepExpired || events[n-2].Step != StepCause || events[n-2].Key != "download-stalled" || events[n-2].Hint == "" {
			t.Errorf("the timeline ends with %+v", events[n-2:])
		}
		if got := causes(t, table, o); got[2] != "download-stalled" {
			t.Errorf("causes %v", got)
		}
		cancel()
		synctest.Wait()
	})
}

// A machine's own system that starts is a step of an open order; without one
// nobody wants to know.
func TestSystemOnlyWithOrder(t *testing.T) {
	m := newMemory()
	table := New(testConfig(t, m))
	table.Record(Event{Step: StepSystem, MAC: mac1, Text: "an operating system asks"})
	if len(m.events) != 0 {
		t.Errorf("without an order: %v", m.events)
	}
	o := arm(t, table, "rescue", 0)
	table.Record(Event{Step: StepSystem, MAC: mac1, Text: "an operating system asks"})
	if cause, ok := table.Cause(t.Context(), o.ID, time.Now().Add(time.Minute)); !ok || cause.Key != "boots-own-disk" {
		t.Errorf("got %+v, %v", cause, ok)
	}
}

// Whose card asks in place of the machine's is found among those seen.
func TestOtherCard(t *testing.T) {
	c := testConfig(t, newMemory())
	c.Machines[0].UUID = UUID{}
	table := New(c)
	table.Decide(Client{MAC: mac1, UUID: uuid1, Arch: BIOS, Program: Firmware}) // seen once with its UUID
	o := arm(t, table, "rescue", 0)
	table.Decide(Client{MAC: foreign, UUID: uuid1, Arch: BIOS, Program: Firmware})
	if cause, ok := table.Cause(t.Context(), o.ID, time.Now().Add(time.Minute)); !ok || cause.Key != "other-card" || !strings.Contains(cause.Text, foreign.String()) {
		t.Errorf("got %+v, %v", cause, ok)
	}
}

// The ways of an ordered machine name all files; asking uses nothing up.
func TestWays(t *testing.T) {
	m := newMemory()
	table := New(testConfig(t, m))
	if ways, errs := table.Ways("srv01"); len(ways)+len(errs) != 0 {
		t.Errorf("of a machine without an order: %v %v", ways, errs)
	}
	o := arm(t, table, "rescue", 0)
	before := len(m.events)
	ways, errs := table.Ways("srv01")
	if len(ways) != 2 || len(errs) != 0 {
		t.Fatalf("ways %v, errors %v", ways, errs)
	}
	var names []string
	for _, l := range ways[0].Links {
		names = append(names, l.Stage+" "+l.File.Name)
	}
	if want := []string{"loader undionly.kpxe", "kernel vmlinuz", "initrd initrd.img", "root root.squashfs"}; !slices.Equal(names, want) {
		t.Errorf("BIOS loads %q, want %q", names, want)
	}
	if now, _ := table.OpenOrder("srv01"); len(m.events) != before || now.State != o.State || len(table.Seen()) != 0 {
		t.Error("asking left traces")
	}
}
