package dhcp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"rescuebox/appliance/boot"
)

// Dialect is one way to tell a client what it boots. PXE leaves room for
// several, and no firmware understands all of them.
type Dialect struct {
	Name      string
	Control   bool          // option 43 {6: 8}: boot from this offer, ask nobody on port 4011
	Menu      bool          // option 43 with a menu of one item, which the client asks for on port 4011
	Binl      bool          // without option 43: UEFI takes the offer for a BINL server's and asks again on port 4011
	File      FileIn        // where the boot file's name stands
	Class     string        // option 60 of the answer; "" is PXEClient, or HTTPClient to those
	Delay     time.Duration // before an offer
	BlockSize int           // largest TFTP block; 0: any
	Full      bool          // in proxy mode: the address, too, from us
}

// FileIn is where an answer names the boot file.
type FileIn int

// The places.
const (
	FileBoth   FileIn = iota // header and option 67
	FileHeader               // the header's fields only, no options 66 and 67
	FileOption               // options 66 and 67 only
	File4011                 // nowhere in the offer, only in the answer on port 4011
)

// Names of the dialects, by which the file of the site pins one.
const (
	auto    = "auto" // none is pinned
	control = "control"
	binl    = "binl"
	plain   = "plain"
	late    = "late"
	address = "address"
	wds     = "wds"
	menu    = "menu"
	header  = "header"
	option  = "option"
	small   = "small"
)

// lateBy is how long "late" waits: long enough for a ROM that opens its
// receiver only after the link has settled, short of the first timeout of 4 s.
const lateBy = 1500 * time.Millisecond

// dialects are all there are, the most usual first.
//
//   - control: what BIOS ROMs want, or they ask for a menu (PXE 2.1 section 2.4).
//   - binl: some UEFI firmware drops proxy offers with an option 43; without one
//     EDK2 asks again on 4011 of whoever sent the offer (PxeBcRetryBinlOffer; pixiecore's README.booting.md).
//   - plain: on the wire like binl, for programs that take file and next server as they are: iPXE, HTTP Boot.
//   - late: dnsmasq --dhcp-reply-delay, for ROMs that miss an answer that comes at once.
//   - address: one complete offer from one server boots what no proxyDHCP boots (bootimus#77, edk2#6944).
//   - wds: as Windows Deployment Services talk, which is what vendors test with: the file only on 4011.
//   - menu: as dnsmasq's pxe-service talks: boot server discovery by the book (PXE 2.1 section 2.2.5).
//   - header, option: for ROMs that stumble over the file's other place (danderson/pixiecore#21, siderolabs/booter#11).
//   - small: dnsmasq --tftp-no-blocksize: ROMs that ask for a block size and cannot stand it.
var dialects = []Dialect{
	{Name: control, Control: true},
	{Name: binl, Binl: true},
	{Name: plain},
	{Name: late, Delay: lateBy},
	{Name: address, Control: true, Full: true},
	{Name: wds, Binl: true, File: File4011},
	{Name: menu, Menu: true},
	{Name: header, Control: true, File: FileHeader},
	{Name: option, Control: true, File: FileOption},
	{Name: small, BlockSize: noBlockSize},
}

// Dialects lists the names that boot.Machine.Dialect may have. The first is
// "auto", the same as none: the usual one for the architecture, then others
// until one works.
func Dialects() []string {
	names := []string{auto}
	for _, d := range dialects {
		names = append(names, d.Name)
	}
	return names
}

// stage is one program of one machine that asks, and as what we answer it:
// firmware and iPXE talk differently, and so do we as proxy and as full server.
type stage struct {
	mac     boot.MAC
	arch    boot.Arch
	program boot.Program
	full    bool // we are the LAN's full server
}

func stageOf(c boot.Client, full bool) stage { return stage{c.MAC, c.Arch, c.Program, full} }

// Ladders: what is tried one after the other, and then from the start again.
//
// As proxy: a BIOS wants 43 {6:8}. UEFI gets none at first. A PXE client sends
// four DISCOVERs within 28 s (PXE 2.1 section 2.2.3), so that the first four
// dialects fit into one attempt, and the last resort must be among them; where it is not
// safe it is passed over (see mayGiveAddress).
//
// As the one full server everything is in one offer, the form that boots most
// firmware (bootimus#77): with 43 {6:8} no client looks for a boot server
// elsewhere (edk2#8149).
var (
	proxyBIOS  = []string{control, menu, late, address, header, binl}
	proxyUEFI  = []string{binl, control, late, address, wds, menu}
	fullROM    = []string{control, late, binl, header, menu}
	proxyPlain = []string{plain, late, control, address}
	fullPlain  = []string{plain, late}
)

// ladderOf is the order in which dialects are tried with a client.
func ladderOf(c boot.Client, full bool) []Dialect {
	q := quirksOf(c)
	names := q.ladder
	if full || names == nil {
		names = usual(c, full)
	}
	out := make([]Dialect, 0, len(names))
	for _, name := range names {
		out = append(out, q.apply(speak(name, names[0])))
	}
	return out
}

func usual(c boot.Client, full bool) []string {
	switch {
	case byHTTP(c) && full:
		return fullPlain
	case byHTTP(c):
		return proxyPlain
	case full:
		return fullROM
	case c.Arch.UEFI():
		return proxyUEFI
	}
	return proxyBIOS
}

// byHTTP reports whether a client loads its boot file by HTTP.
func byHTTP(c boot.Client) bool { return c.Program == boot.IPXE || c.Arch.HTTP() }

// speak finds a dialect by its name. Those that change only when, or in what
// pieces, something is said say it as the first dialect of the ladder does.
func speak(name, first string) Dialect {
	d := dialects[slices.IndexFunc(dialects, func(d Dialect) bool { return d.Name == name })]
	if name == late || name == small {
		said := speak(first, plain)
		said.Name, said.Delay, said.BlockSize = d.Name, d.Delay, d.BlockSize
		return said
	}
	return d
}

// pinned is the dialect that the file of the site names, as the only step of its ladder.
func pinned(name string, c boot.Client, full bool) ([]Dialect, bool) {
	if name == "" || name == auto || !slices.Contains(Dialects(), name) {
		return nil, false
	}
	return []Dialect{quirksOf(c).apply(speak(name, usual(c, full)[0]))}, true
}

// bootPart is what a reply says about booting.
type bootPart struct {
	stage   stage
	file    string // boot file name: a path for TFTP, a URL for iPXE and HTTP Boot
	class   string // option 60
	dialect Dialect
	noProxy bool // tell iPXE not to wait for proxyDHCP offers
	local   bool // nothing to boot: a menu whose only item is the machine's own disk
}

// partFor is the boot part for a client in a dialect.
func partFor(c boot.Client, file string, d Dialect, full bool) *bootPart {
	return &bootPart{stage: stageOf(c, full), file: file, class: classFor(c, d), dialect: d,
		noProxy: (full || d.Full) && c.Program == boot.IPXE}
}

// classFor is option 60 of an answer. HTTP Boot firmware takes an offer with
// another class than its own for a PXE one (xcat#7743).
func classFor(c boot.Client, d Dialect) string {
	switch {
	case d.Class != "":
		return d.Class
	case c.Arch.HTTP() && c.Program != boot.IPXE || strings.HasPrefix(c.VendorClass, "HTTPClient"):
		return "HTTPClient"
	}
	return "PXEClient"
}

// leaveAlone is what a client is told that has nothing to boot, nil for nothing.
//
// A BIOS ROM gives up at once on an offer without boot file (PXE-E53). EDK2
// takes such an offer for none and asks for a minute more (measured with OVMF:
// 62 s, PXE-E16); a PXE menu of one item, "local boot", and no time to choose
// sends it to its own disk in 4 s (PXE-E21). Its HTTP Boot does the same (60 s),
// and knows no menu: a URL where there is nothing sends it on.
func leaveAlone(c boot.Client, full bool, server netip.Addr, httpPort int) *bootPart {
	if !full || c.Program != boot.Firmware || !(c.Arch.UEFI() || c.Arch.HTTP()) {
		return nil
	}
	part := &bootPart{class: classFor(c, quirksOf(c).apply(Dialect{})), local: true}
	if c.Arch.HTTP() {
		part.file = baseURL(server, httpPort) + "/" + boot.Path(c.MAC, nothingHere)
	}
	return part
}

// nothingHere is a name that no image has for a file.
const nothingHere = "boots-own-disk"

// bootFileFor names the file that the client loads. A name too long for the
// header is refused: ROMs that read only the header would load another file.
func bootFileFor(c boot.Client, d boot.Decision, server netip.Addr, httpPort int) (string, error) {
	file := boot.Path(c.MAC, d.File)
	if byHTTP(c) {
		file = baseURL(server, httpPort) + "/" + file
	}
	if len(file) > maxFile {
		return "", fmt.Errorf("boot file name %q has %d bytes, DHCP carries %d", file, len(file), maxFile)
	}
	return file, nil
}

func baseURL(server netip.Addr, httpPort int) string {
	host := server.String()
	if httpPort != 0 && httpPort != 80 {
		host = netip.AddrPortFrom(server, uint16(httpPort)).String()
	}
	return "http://" + host
}
