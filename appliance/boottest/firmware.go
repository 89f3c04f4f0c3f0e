package boottest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Personalities lists all, in the order of the table in the closing note.
func Personalities() []Personality {
	return []Personality{
		{"Intel UNDI", "Intel Boot Agent in BIOS; PXE 2.1 section 2.2 and the capture intel-undi-bios of package dhcp", undi},
		{"EDK2 old", "TianoCore UefiPxeBcDxe of 2019 (PxeBcDhcp4.c): never keeps a proxy offer that has option 43", func(m *Machine) error { return edk2(m, uefiX64, true) }},
		{"EDK2 new", "the same since the fix: takes a proxy offer with discovery control 8 as it is", func(m *Machine) error { return edk2(m, uefiX64, false) }},
		{"EDK2 ia32", "the same on a tablet's 32-bit firmware", func(m *Machine) error { return edk2(m, uefiIA32, false) }},
		{"UEFI without 4011", "as HP's, but takes a proxy offer that says all and has discovery control 8, as tinkerbell/smee counts on", func(m *Machine) error { return no4011(m, true) }},
		{"HP UEFI", "bootimus#77, danderson/netboot#43: DISCOVER at secs 0, 4, 12, 28 with one xid, never a packet to port 4011, nothing but one complete offer from one server boots it", func(m *Machine) error { return no4011(m, false) }},
		{"U-Boot", "net/bootp.c with CONFIG_SERVERIP_FROM_PROXYDHCP, and what distro boot sets: class and architecture of UEFI arm64; reads file and next server from the header only", uboot},
		{"FlexBoot", "Mellanox' ROM, an iPXE that sends no user class (warewulf3#104)", flexboot},
		{"HTTPClient", "TianoCore HttpBootDxe (HttpBootDhcp4.c): takes an offer with option 60 HTTPClient and a URL only", func(m *Machine) error { return httpClient(m, false) }},
		{"HTTPClient, broken", "the same of 2024: its connection breaks, it goes on with a Range", func(m *Machine) error { return httpClient(m, true) }},
		{"Apple BSDP", "Boot Server Discovery Protocol as Apple published it, of Intel Macs until 2018: the boot part is asked for by INFORM with class AAPLBSDPC. Not captured, and nothing here serves it: to be left alone", bsdp},
	}
}

// PersonalityOf finds one by its name.
func PersonalityOf(name string) (Personality, bool) {
	for _, p := range Personalities() {
		if p.Name == name {
			return p, true
		}
	}
	return Personality{}, false
}

// pxeTimeouts are how long offers are waited for, one after the other (PXE 2.1 section 2.2.3).
var pxeTimeouts = []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second}

// discoverUntil sends DISCOVERs on one xid at secs 0, 4, 12 and 28, until choose
// is content; early, if there is one, ends a time-out before its time.
func (m *Machine) discoverUntil(choose func([]*Answer) bool, early func([]*Answer) bool) (secs time.Duration, err error) {
	xid := newXID()
	for _, wait := range pxeTimeouts {
		offers, err := m.discover(xid, secs, wait, early)
		if err != nil || choose(offers) {
			return secs, err
		}
		secs += wait
	}
	return secs, fmt.Errorf("no offer that can be used (PXE-E16, PXE-E53): %w", ErrLocal)
}

// localMenu reports a PXE menu that goes on to the disk without a question:
// the first item is of type 0, and the prompt waits for 0 seconds.
func (a *Answer) localMenu() bool {
	menu, prompt := a.vendor()[pxeMenu], a.vendor()[pxePrompt]
	return a.pxe() && len(menu) >= 2 && menu[0] == 0 && menu[1] == 0 && len(prompt) > 0 && prompt[0] == 0
}

// undi is a BIOS PXE ROM. An offer with an address and a boot file will do; a
// proxy offer is taken with discovery control 8, else its server is asked on 4011.
func undi(m *Machine) error {
	m.self = identity{class: "PXEClient:Arch:00000:UNDI:002001", arch: 0, undi: []byte{1, 2, 1}, maxSize: 1260, broadcast: true}
	var plain, proxy *Answer
	complete := func(offers []*Answer) bool {
		plain, proxy = ipxeSelect(offers)
		return plain != nil && (proxy != nil || plain.pxe() && plain.file() != "")
	}
	secs, err := m.discoverUntil(func(offers []*Answer) bool { complete(offers); return plain != nil }, complete)
	if err != nil {
		return err
	}
	if m.boot, err = m.request(plain, secs); err != nil {
		return err
	}
	if proxy != nil {
		m.boot = proxy
		if bits, there := proxy.control(); !there || bits&useBootFile == 0 {
			if m.boot, err = m.askBootServer(proxy.next(), secs, portClient); err != nil {
				return err
			}
		}
	}
	if m.boot.file() == "" {
		return fmt.Errorf("PXE-E53, no boot file name: %w", ErrLocal)
	}
	return m.loadNBP(m.boot.next(), m.boot.file(), tftpOptions{block: 1456, size: true})
}

// loadNBP loads the first program by TFTP and starts it.
func (m *Machine) loadNBP(server netip.Addr, name string, want tftpOptions) error {
	if m.OneOffer && m.address67 != nil {
		server = m.address67.next()
	}
	from := origin{"tftp", netip.AddrPortFrom(server, 69), name}
	if want.size {
		ask := want
		ask.probe = true
		if _, err := m.tftpGet(from, ask); err != nil {
			return err
		}
	}
	f, err := m.tftpGet(from, want)
	if err != nil {
		return err
	}
	return m.start(f, from)
}

var (
	uefiX64  = identity{class: "PXEClient:Arch:00007:UNDI:003001", arch: 7, undi: []byte{1, 3, 1}, maxSize: 1472, broadcast: true}
	uefiIA32 = identity{class: "PXEClient:Arch:00006:UNDI:003001", arch: 6, undi: []byte{1, 3, 1}, maxSize: 1472, broadcast: true}
)

// edk2Kind is how EDK2 sorts offers (PxeBcParseDhcp4Packet).
type edk2Kind int

const (
	dhcpOnly edk2Kind = iota
	dhcpPXE10
	dhcpBINL
	proxyPXE10
	proxyBINL
)

func edk2KindOf(a *Answer) edk2Kind {
	vendor := a.vendor()
	pxe10 := a.pxe() && (vendor[pxeControl] != nil || vendor[pxeMenu] != nil)
	switch {
	case pxe10 && a.proxy():
		return proxyPXE10
	case pxe10:
		return dhcpPXE10
	case a.pxe() && a.proxy():
		return proxyBINL
	case a.pxe():
		return dhcpBINL
	}
	return dhcpOnly
}

// edk2Select is PxeBcSelectDhcp4Offer: which offer's address is taken, and
// whose boot part.
func edk2Select(offers []*Answer, old bool) (plain, proxy *Answer) {
	first := map[edk2Kind]*Answer{}
	for _, o := range offers {
		kind := edk2KindOf(o)
		if o.proxy() && !o.pxe() || old && kind == proxyPXE10 {
			continue // the old one's test for the first such offer is upside down: it never keeps any
		}
		if first[kind] == nil {
			first[kind] = o
		}
	}
	switch only := first[dhcpOnly]; {
	case first[dhcpPXE10] != nil:
		return first[dhcpPXE10], nil
	case only != nil && first[proxyPXE10] != nil:
		return only, first[proxyPXE10]
	case first[dhcpBINL] != nil:
		return first[dhcpBINL], nil
	case only != nil && first[proxyBINL] != nil:
		return only, first[proxyBINL]
	case only != nil && only.file() != "":
		return only, nil
	}
	return nil, nil
}

// edk2 collects offers for the whole of each time-out before it looks at them.
func edk2(m *Machine, self identity, old bool) error {
	m.self = self
	if err := edk2Address(m, old); err != nil {
		return err
	}
	return m.loadNBP(m.boot.next(), m.boot.file(), tftpOptions{size: true, block: 1468, window: 4})
}

// edk2Address takes address and boot part.
func edk2Address(m *Machine, old bool) error {
	var plain, proxy *Answer
	secs, err := m.discoverUntil(func(offers []*Answer) bool {
		plain, proxy = edk2Select(offers, old)
		return plain != nil
	}, nil)
	if err != nil {
		return err
	}
	if m.boot, err = m.request(plain, secs); err != nil {
		return err
	}
	switch {
	case proxy != nil && edk2KindOf(proxy) == proxyPXE10:
		m.boot = proxy
	case proxy != nil:
		m.boot, err = m.askBootServer(proxy.next(), secs, portBoot) // PxeBcRetryBinlOffer
	case edk2KindOf(plain) == dhcpBINL:
		m.boot, err = m.askBootServer(plain.next(), secs, portBoot)
	}
	switch {
	case err != nil:
		return err
	case m.boot.localMenu():
		return fmt.Errorf("PXE-E21, remote boot cancelled: %w", ErrLocal)
	case m.boot.file() == "":
		return fmt.Errorf("PXE-E53, no boot file name: %w", ErrLocal)
	}
	return nil
}

// no4011 does not ask on port 4011, so that it has no use for an offer that
// EDK2 would call BINL. It takes one offer that has all, and maybe a
// proxy's that is complete in itself.
func no4011(m *Machine, proxies bool) error {
	m.self = uefiX64
	m.self.class, m.self.undi = "PXEClient:Arch:00007:UNDI:003016", []byte{1, 3, 16}
	var plain, proxy *Answer
	secs, err := m.discoverUntil(func(offers []*Answer) bool {
		plain, proxy = edk2Select(offers, !proxies)
		return plain != nil && (proxy == nil || edk2KindOf(proxy) == proxyPXE10)
	}, nil)
	if err != nil {
		return err
	}
	if m.boot, err = m.request(plain, secs); err != nil {
		return err
	}
	if proxy != nil {
		m.boot = proxy
	}
	if m.boot.localMenu() || m.boot.file() == "" {
		return ErrLocal
	}
	return m.loadNBP(m.boot.next(), m.boot.file(), tftpOptions{size: true, block: 1468})
}

// uboot takes the first offer with an address. File and next server come from
// the header of whatever answer came last, a proxy's too; options 66 and 67 it does not read.
func uboot(m *Machine) error {
	m.self = identity{class: "PXEClient:Arch:00011:UNDI:003000", arch: 11, undi: []byte{1, 0, 0}, noUUID: true, maxSize: 576}
	xid := newXID()
	var plain *Answer
	for try := 0; try < 5 && plain == nil; try++ {
		offers, err := m.discover(xid, 0, time.Second, func(got []*Answer) bool { p, _ := ipxeSelect(got); return p != nil })
		if err != nil {
			return err
		}
		for _, o := range offers {
			m.ubootNotes(o)
		}
		plain, _ = ipxeSelect(offers)
	}
	if plain == nil {
		return errors.New("U-Boot: retry time exceeded")
	}
	if m.boot != nil && m.boot.ServerIPAddr.IsUnspecified() || m.boot.BootFileName == "" {
		if err := m.ubootWaits(xid); err != nil {
			return err
		}
	}
	ack, err := m.request(plain, 0)
	if err != nil {
		return err
	}
	m.ubootNotes(ack)
	server := addrOf(m.boot.ServerIPAddr.To4())
	if m.boot.BootFileName == "" || server.IsUnspecified() {
		return fmt.Errorf("U-Boot: no boot file in the header: %w", ErrLocal)
	}
	return m.loadNBP(server, m.boot.BootFileName, tftpOptions{block: 1468})
}

// ubootNotes keeps an answer that says more than the one before.
func (m *Machine) ubootNotes(a *Answer) {
	if m.boot == nil || a.BootFileName != "" {
		m.boot = a
	}
}

// ubootPatience is how long a proxy is waited for (CONFIG_SERVERIP_FROM_PROXYDHCP_DELAY_MS). A board has 100 ms where it
// sets no other; twenty machines and a box on one busy host need more at times.
const ubootPatience = 2 * time.Second

// ubootWaits gives a proxy its time.
func (m *Machine) ubootWaits(xid dhcpv4.TransactionID) error {
	offers, err := m.discover(xid, 0, ubootPatience, func(got []*Answer) bool { _, p := ipxeSelect(got); return p != nil })
	for _, o := range offers {
		m.ubootNotes(o)
	}
	return err
}

// flexboot is an iPXE in the ROM.
func flexboot(m *Machine) error {
	m.self = ipxeIdentity(0)
	m.self.user = ""
	return m.ipxeBoot()
}

// httpClient is UEFI HTTP Boot.
func httpClient(m *Machine, breaks bool) error {
	m.self = identity{class: "HTTPClient:Arch:00016:UNDI:003001", arch: 16, undi: []byte{1, 3, 1}, maxSize: 1472, broadcast: true}
	var plain, proxy *Answer
	secs, err := m.discoverUntil(func(offers []*Answer) bool {
		plain, proxy = httpSelect(offers)
		return plain != nil
	}, nil)
	if err != nil {
		return err
	}
	if m.boot, err = m.request(plain, secs); err != nil {
		return err
	}
	if proxy != nil {
		m.boot = proxy
	}
	from, err := originOf(m.boot.file())
	if err != nil {
		return err
	}
	f, disk, err := m.httpBoot(from, breaks)
	var no *HTTPError
	switch {
	case errors.As(err, &no):
		return fmt.Errorf("%w: %w", err, ErrLocal) // the next boot option
	case err != nil:
		return err
	case disk:
		return m.runDisk(f)
	}
	return m.start(f, from)
}

// httpSelect is HttpBootSelectDhcpOffer: an HTTP offer with address, or a
// plain one with an HTTP offer of a proxy.
func httpSelect(offers []*Answer) (plain, proxy *Answer) {
	for _, o := range offers {
		http := o.classed("HTTPClient") && strings.HasPrefix(o.file(), "http")
		switch {
		case http && !o.proxy():
			return o, nil
		case http && proxy == nil:
			proxy = o
		case !http && !o.proxy() && plain == nil:
			plain = o
		}
	}
	if proxy == nil {
		return nil, nil
	}
	return plain, proxy
}

// runDisk starts what is in a disk image: shim and GRUB, which take the
// kernel's arguments from the configuration that an order puts into it.
func (m *Machine) runDisk(f Loaded) error {
	if !m.starts(f) {
		return fmt.Errorf("%s: no room for the RAM disk", f.Name)
	}
	m.out.Stages = append(m.out.Stages, "iso")
	_, rest, ok := strings.Cut(string(f.Data), isoConfigBegins)
	args, _, closed := strings.Cut(rest, "\"\n")
	if !ok || !closed {
		return errors.New("the ISO starts, but has no arguments for its kernel")
	}
	m.out.Kernel, m.out.Cmdline = f.Name, strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`).Replace(args)
	return nil
}

// isoConfigBegins is the line in an ISO that its GRUB reads the arguments from.
const isoConfigBegins = "\nset rescuebox_args=\""

// bsdp gets an address, then asks for a boot server by INFORM as Apple's
// firmware does: option 43 {1: LIST, 2: version 1.1}. Only an answer with the same class counts.
func bsdp(m *Machine) error {
	m.self = identity{arch: -1, noUUID: true, maxSize: 1500}
	var plain *Answer
	secs, err := m.discoverUntil(func(offers []*Answer) bool { plain, _ = ipxeSelect(offers); return plain != nil }, one)
	if err != nil {
		return err
	}
	if _, err := m.request(plain, secs); err != nil {
		return err
	}
	m.self.class = "AAPLBSDPC/i386/Macmini7,1"
	d := m.packet(dhcpv4.MessageTypeInform, newXID(), 0)
	d.ClientIPAddr = m.address.Addr().AsSlice()
	d.Options[dhcpv4.OptionVendorSpecificInformation.Code()] = []byte{1, 1, 1, 2, 2, 1, 1}
	lists, err := m.exchange(d, dhcpv4.MessageTypeAck, 4*time.Second, func(got []*Answer) bool {
		return len(got) > 0 && got[len(got)-1].classed("AAPLBSDPC")
	})
	if err != nil {
		return err
	}
	for _, l := range lists {
		if l.classed("AAPLBSDPC") {
			return errors.New("BSDP: a boot server answered: teach the simulator the rest")
		}
	}
	return fmt.Errorf("BSDP: no boot server: %w", ErrLocal)
}
