package boot

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"rescuebox/images"
)

// Files of Microsoft's own chain, under the names that the import gives them.
// Of the two for BIOS that with .com waits for F12, and nothing that we serve waits for a key.
const (
	pxeboot    = "pxeboot.n12"     // BIOS: loads bootmgr.exe from beside itself
	bootmgrEXE = "bootmgr.exe"     // BIOS: loads \Boot\BCD, then what that names
	managerEFI = "bootmgfw.efi"    // UEFI: the same in one program
	managerEX  = "bootmgfw_ex.efi" // it again, signed by the CA of 2023
	bcdName    = "bcd"             // rendered for each machine
)

// CA2011 and CA2023 are the generations of Microsoft's signature of its boot manager.
const (
	CA2011 = "2011" // Microsoft Windows Production PCA 2011: every firmware has it, until KB5025885 revokes it
	CA2023 = "2023" // Windows UEFI CA 2023: new firmware has it, and old after an update
)

// wimboots are the names of iPXE's loader for WIMs, by CPU. One is both a BIOS and an x64 UEFI program.
var wimboots = map[string][]string{"amd64": {"wimboot"}, "i386": {"wimboot.i386", "wimboot"}, "arm64": {"wimboot.arm64", "wimboot"}}

// wimbootFor finds the wimboot that an admin has put in for a machine or the site.
func (t *Table) wimbootFor(m Machine, img images.Image, uefi bool, cpu string) (set images.Image, file images.File, ok bool) {
	for _, set := range t.bootSets(m, img, cpu) {
		if !uefi {
			file, ok = set.Loader("", "wimboot", "wimboot.i386")
		} else if file, ok = set.Loader(cpu, wimboots[cpu]...); file.Arch == "" {
			ok = false // of a UEFI program the import knows what it runs on
		}
		if ok {
			return set, file, true
		}
	}
	return images.Image{}, images.File{}, false
}

// windowsWays lists the chains to try for a Windows image. A chain that was
// chosen for Linux ("shim") says nothing of Windows, which needs none of its
// programs: whoever orders both for one machine need not change the file in between.
// iPXE with wimboot loads over HTTP what a BIOS gets no other way but by TFTP,
// so that there it comes first where the admin has put wimboot in. UEFI starts
// Microsoft's own loader whether Secure Boot is on or off, and wimboot only as a second choice or as
// the chosen one: it is signed by the third-party CA, if at all.
func (t *Table) windowsWays(m Machine, img images.Image, c Client, cpu string) []Chain {
	chain := cmp.Or(m.Chain, t.cfg.Chain)
	_, _, wimboot := t.wimbootFor(m, img, c.Arch.UEFI(), cpu)
	switch {
	case !wimboot, chain == ChainWindows:
		return []Chain{ChainWindows}
	case !c.Arch.UEFI(), chain == ChainIPXE:
		return []Chain{ChainIPXE, ChainWindows}
	}
	return []Chain{ChainWindows, ChainIPXE}
}

// windowsEntryLocked names the file that Microsoft's chain begins with. For
// HTTP Boot it has the path at which removable disks have it: by that the boot manager
// knows where to look for its configuration.
//
// Beside another DHCP server it needs no care as GRUB does: to be served by a
// proxyDHCP server is what it was made for (WDS beside Microsoft's DHCP). That it loses the
// server there, as old shims did (rhboot/shim#137), is not known of it.
func (t *Table) windowsEntryLocked(m Machine, img images.Image, c Client, cpu string) (string, error) {
	if err := t.windowsWhole(m, img, c.Arch.UEFI(), cpu); err != nil {
		return "", err
	}
	if c.Arch.UEFI() {
		if _, err := t.managerLocked(m, img, cpu); err != nil {
			return "", err
		}
		if c.Arch.HTTP() {
			return "efi/boot/boot" + efiSuffix(cpu) + ".efi", nil
		}
		return managerEFI, nil
	}
	for _, name := range []string{pxeboot, bootmgrEXE} {
		if !t.hasFile(m, img, name) {
			return "", &Refusal{Reason: fmt.Sprintf("%s has no %s, so %s cannot load it by BIOS without wimboot", img.Name, name, m.Name), Hint: wimbootHint}
		}
	}
	return pxeboot, nil
}

const wimbootHint = `rescuebox image add --bootset wimboot FILE (from github.com/ipxe/wimboot) and bootset = "wimboot" for the machine; or boot it by UEFI`

// windowsWhole says what every way to a Windows image lacks.
func (t *Table) windowsWhole(m Machine, img images.Image, uefi bool, cpu string) error {
	w, firmware, winload := img.Windows, "BIOS", "winload.exe"
	path := w.WinloadBIOS
	if uefi {
		path, firmware, winload = w.WinloadEFI, "UEFI", "winload.efi"
	}
	switch {
	case uefi && img.Arch != "" && cpu != "" && img.Arch != cpu:
		return &Refusal{Reason: fmt.Sprintf("%s is made for %s and the UEFI of %s is %s: it starts no Windows but its own", img.Name, img.Arch, m.Name, cpu),
			Hint: fmt.Sprintf("import an image for %s as %s-%s, which an order for %s then takes", cpu, img.Name, cpu, img.Name)}
	case w.SDI == "" || !t.hasFile(m, img, w.SDI):
		return &Refusal{Reason: fmt.Sprintf("%s has no boot.sdi, the frame of Windows' RAM disk", img.Name),
			Hint: "import the whole ISO, which has it as boot/boot.sdi, or give it beside boot.wim: rescuebox image add"}
	case path == "" && w.WinloadBIOS+w.WinloadEFI != "":
		return &Refusal{Reason: fmt.Sprintf("%s has no %s, so it does not start by %s, as %s does", img.Name, winload, firmware, m.Name),
			Hint: "switch the machine's firmware to the other mode, or take an image for both"}
	}
	return nil
}

// hasFile reports whether the image, or a boot set, has a file.
func (t *Table) hasFile(m Machine, img images.Image, name string) bool {
	_, _, ok := t.fileAmong(m, img, name)
	return ok
}

// fileAmong finds a file that runs before any Windows: its name says enough, its PE header nothing.
func (t *Table) fileAmong(m Machine, img images.Image, name string) (images.Image, images.File, bool) {
	for _, set := range t.bootSets(m, img, "") {
		if found, ok := fileOf(set, name, ""); ok {
			f, ok := set.File(found)
			return set, f, ok
		}
	}
	return images.Image{}, images.File{}, false
}

// manager is a boot manager for UEFI.
type manager struct {
	set  images.Image
	file images.File
	ca   string // CA2011 or CA2023
}

// managers lists those for the machine's CPU, the image's own first.
func (t *Table) managers(m Machine, img images.Image, cpu string) (list []manager) {
	for _, set := range t.bootSets(m, img, cpu) {
		for _, name := range []string{managerEFI, managerEX} {
			if f, ok := set.Loader(cpu, name); ok {
				list = append(list, manager{set, f, caOf(f)})
			}
		}
	}
	return list
}

// caOf is who has signed a boot manager: new media have the one of 2023 under the
// old name. Where that is not known the name says it.
func caOf(f images.File) string {
	if ca := f.LoaderCA(); len(ca) > 0 {
		return ca[0]
	}
	if strings.EqualFold(f.Name, managerEX) {
		return CA2023
	}
	return CA2011
}

// managerLocked chooses whose signature the machine's firmware is given: as the
// file of the site says, else what has worked on this machine, else that of 2011, which
// all firmware knows that nobody has revoked it on. One that went out and asked for
// nothing is the last choice (see doubtManagerLocked).
func (t *Table) managerLocked(m Machine, img images.Image, cpu string) (manager, error) {
	list := t.managers(m, img, cpu)
	if len(list) == 0 {
		return manager{}, &Refusal{Reason: fmt.Sprintf("%s has no %s for %s, which %s needs", img.Name, managerEFI, cpu, m.Name),
			Hint: "take an image whose WIM has \\Windows\\Boot\\EFI, or bring the file in as a boot set: rescuebox image add --bootset"}
	}
	for _, ca := range t.generationsLocked(m) {
		if i := slices.IndexFunc(list, func(b manager) bool { return b.ca == ca }); i >= 0 {
			return list[i], nil
		}
	}
	if t.secureBootLocked(m) == SecureBootOff {
		return list[0], nil
	}
	return manager{}, &Refusal{Reason: fmt.Sprintf("%s has no boot manager signed by Microsoft's CA of %s, only of %s", img.Name, m.LoaderCA, list[0].ca),
		Hint: fmt.Sprintf("take loader_ca from the entry of %s, import a newer image, or bring the file in as a boot set: rescuebox image add --bootset", m.Name)}
}

// generationsLocked lists what to try on a machine, the best first.
func (t *Table) generationsLocked(m Machine) []string {
	if m.LoaderCA != "" {
		return []string{m.LoaderCA}
	}
	var list []string
	refused := t.managersSent[m.Name].refused
	for _, ca := range []string{t.firmware[m.Name].LoaderCA, CA2011, CA2023} {
		if ca != "" && ca != refused && !slices.Contains(list, ca) {
			list = append(list, ca)
		}
	}
	if refused != "" {
		list = append(list, refused)
	}
	return list
}

// isManager reports whether a name is one under which UEFI asks for the boot
// manager: its own, or that of a removable disk (UEFI 2.10 section 3.5.1.1).
func isManager(base string) bool {
	return base == managerEFI || base == "bootx64.efi" || base == "bootaa64.efi" || base == "bootia32.efi"
}

// efiSuffix is how UEFI abbreviates a CPU (UEFI 2.10 section 3.5.1.1).
func efiSuffix(cpu string) string {
	return map[string]string{"amd64": "x64", "arm64": "aa64", "i386": "ia32"}[cpu]
}

// windowsLinksLocked is what a machine loads of a Windows image before Windows
// itself runs; first is what the chain begins with.
func (t *Table) windowsLinksLocked(w *Way, first string) error {
	cpu, uefi := w.Arch.CPU(), w.Arch.UEFI()
	sets := t.bootSets(w.Machine, w.Image, cpu)
	add := func(set images.Image, f images.File) { w.Links = append(w.Links, Link{set, f, "loader"}) }
	if w.Chain == ChainIPXE {
		for name := first; name != ""; name = nextLoader(name) {
			l, err := linkOf(sets, name, cpu)
			if err != nil {
				return err
			}
			w.Links = append(w.Links, l)
		}
		if set, f, ok := t.wimbootFor(w.Machine, w.Image, uefi, cpu); ok {
			add(set, f)
		}
	}
	if b, err := t.managerLocked(w.Machine, w.Image, cpu); uefi && err == nil {
		add(b.set, b.file)
	}
	names := []string{w.Image.Windows.SDI}
	if !uefi {
		names = []string{pxeboot, bootmgrEXE, w.Image.Windows.SDI}
	}
	for _, name := range names {
		if set, f, ok := t.fileAmong(w.Machine, w.Image, name); ok && !(w.Chain == ChainIPXE && name == pxeboot) {
			add(set, f)
		}
	}
	w.addFiles("kernel", w.Image.Windows.WIM)
	return nil
}

// noWindowsWay is why a machine could load a Windows image by no firmware that it
// may have, or nil: Arm tells that before anybody waits for a boot.
func (t *Table) noWindowsWay(m Machine, img images.Image) (why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.archsLocked(m, img) {
		_, err := t.wayLocked(m, img, a)
		if err == nil {
			return nil
		}
		why = cmp.Or(why, err)
	}
	return why
}

// firmwareIsUEFI tells by which of its two sorts of firmware a machine loads: as
// its DHCP requests say, or what it has loaded before, or the path that it asks for.
func (t *Table) firmwareIsUEFI(d Decision, mac MAC, name string) bool {
	if arch := t.seenArch(mac); arch != UnknownArch {
		return arch.UEFI()
	}
	for _, f := range slices.Backward(d.Order.Served) {
		switch f {
		case managerEFI, managerEX:
			return true
		case pxeboot, bootmgrEXE:
			return false
		}
	}
	return d.Image.Windows.WinloadBIOS == "" || slices.Contains(strings.Split(path.Dir(name), "/"), "efi")
}
