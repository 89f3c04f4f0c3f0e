package boot

import (
	"fmt"
	"strings"

	"rescuebox/images"
)

// Names of files that chains begin or go on with.
const (
	nbpScript  = "boot.ipxe"
	autoexec   = "autoexec.ipxe" // iPXE 2 looks for it beside itself before it asks DHCP
	grubConfig = "grub.cfg"
	// loadedMark is what the script asks for when all files are in the machine's
	// memory. It starts them at once, and the acknowledgement of the last
	// bytes may never leave it: seen with memtest86+ under UEFI.
	loadedMark = "loaded"
)

// Built-in boot sets.
const (
	setIPXE = "ipxe" // Debian's iPXE, unsigned
	setShim = "shim" // Debian's shim and GRUB, and an unsigned GRUB for 32-bit UEFI
)

// loaders are the boot programs that a chain can begin with, by CPU; the first that is there is taken.
//
// Of iPXE those that use the firmware's own network driver come first: a native
// driver bounces the link and hangs on some machines (ipxe#972, #1337). Before
// them come those with a shim of their own (iPXE 2.0), which start with Secure Boot on or off.
var loaders = map[Chain]map[string][]string{
	ChainIPXE: {
		"amd64": {"snponly-shimx64.efi", "ipxe-shimx64.efi", "snponly.efi", "ipxe.efi"},
		"arm64": {"snponly-shimaa64.efi", "ipxe-shimaa64.efi", "snponly-arm64.efi", "snponly.efi", "ipxe-arm64.efi", "ipxe.efi"},
		"i386":  {"snponly-ia32.efi", "snponly.efi", "ipxe-ia32.efi", "ipxe.efi"},
	},
	ChainShim: {
		"amd64": {"shimx64.efi"},
		"arm64": {"shimaa64.efi"},
		"i386":  {"grubia32.efi"}, // nobody signs a shim for it any more, and such firmware has no Secure Boot to speak of
	},
}

var loadersBIOS = []string{"undionly.kpxe", "undionly.kkpxe", "ipxe.pxe"}

// chainLocked chooses how the image reaches the client, and the next file on
// that way. cpu is what the client's programs are made for.
func (t *Table) chainLocked(m Machine, img images.Image, c Client, cpu string) (Chain, string, error) {
	switch {
	case c.Program == "" && c.Arch == UnknownArch: // a file request: the path says what it wants
		return "", "", nil
	case c.Program == IPXE:
		return ChainIPXE, nbpScript, nil
	case cpu == "":
		return "", "", &Refusal{Reason: fmt.Sprintf("%s asks as %s, and there is no boot program for that", m.Name, c.Arch),
			Hint: "switch its firmware to BIOS or UEFI network boot (PXE over IPv4)"}
	}
	var first error
	for _, chain := range t.waysLocked(m, img, c, cpu) {
		file, err := t.entryLocked(chain, m, img, c, cpu)
		if err == nil {
			return chain, file, nil
		}
		if first == nil || chain == ChainShim {
			first = err
		}
	}
	return "", "", first
}

// waysLocked lists the chains to try, the best first. Whether Secure Boot is on DHCP
// does not tell, so that UEFI gets by default what starts either way. An iPXE with
// a shim of its own does that too: whoever puts one in means it to be used.
func (t *Table) waysLocked(m Machine, img images.Image, c Client, cpu string) []Chain {
	if img.Windows != nil {
		return t.windowsWays(m, img, c, cpu)
	}
	chain := m.Chain
	if chain == "" {
		chain = t.cfg.Chain
	}
	switch {
	case !c.Arch.UEFI():
		return []Chain{ChainIPXE} // the other chains have no BIOS programs
	case chain != "":
		return []Chain{chain}
	case t.ownShimmedIPXE(m, cpu), t.secureBootLocked(m) == SecureBootOff:
		return []Chain{ChainIPXE, ChainShim} // iPXE has all loaded in two thirds of the time (scripts/bench.d/boot)
	case t.secureBootLocked(m) == SecureBootOn:
		return []Chain{ChainShim}
	}
	return []Chain{ChainShim, ChainIPXE}
}

// ownShimmedIPXE reports whether a boot set that was chosen for the machine brings an iPXE with a shim.
func (t *Table) ownShimmedIPXE(m Machine, cpu string) bool {
	for _, set := range []string{m.BootSet, t.cfg.BootSet} {
		if img, err := t.cfg.Images.GetFor(set, cpu); set != "" && err == nil {
			if f, ok := img.Loader(cpu, loaders[ChainIPXE][cpu]...); ok {
				return strings.Contains(f.Name, "-shim")
			}
		}
	}
	return false
}

// entryLocked names the file that a chain begins with.
func (t *Table) entryLocked(chain Chain, m Machine, img images.Image, c Client, cpu string) (string, error) {
	if img.Windows != nil {
		if chain == ChainWindows {
			return t.windowsEntryLocked(m, img, c, cpu)
		}
		if err := t.windowsWhole(m, img, c.Arch.UEFI(), cpu); err != nil {
			return "", err
		}
	}
	switch {
	case chain == ChainWindows:
		return "", &Refusal{Reason: fmt.Sprintf("%s is no Windows image, so the chain %q cannot bring it to %s", img.Name, chain, m.Name),
			Hint: `leave out chain = "windows" for this machine`}
	case chain == ChainShim && c.Arch.HTTP():
		// Debian's signed GRUB has no HTTP, so that firmware loads all at once.
		if img.ISO == nil {
			return "", &Refusal{Reason: fmt.Sprintf("%s cannot reach %s by HTTP Boot with Secure Boot: the image has no ISO", img.Name, m.Name),
				Hint: "let its firmware boot by PXE over IPv4, or set secure_boot = \"off\" for the machine if it is off: iPXE loads any image"}
		}
		if img.Arch != "" && img.Arch != cpu { // 32-bit firmware: its kernel would do, its loaders do not
			return "", &Refusal{Reason: fmt.Sprintf("%s cannot reach %s by HTTP Boot: the loaders in its ISO are for %s, the firmware is %s", img.Name, m.Name, img.Arch, cpu),
				Hint: "let its firmware boot by PXE over IPv4"}
		}
		return img.ISO.File, nil
	}
	if chain == ChainShim && c.NextServerElsewhere {
		// It would end at a prompt that waits for ever.
		return "", &Refusal{Reason: fmt.Sprintf("GRUB on %s would not find this box: it asks the next server that the DHCP server of this LAN names", m.Name),
			Hint: fmt.Sprintf(`name %[1]s as next server there (dnsmasq: dhcp-boot=,,%[1]s), reserve an address for the machine here (address = "…"), or let its firmware boot by HTTP`, t.tftpHost())}
	}
	names := loaders[chain][cpu]
	if !c.Arch.UEFI() {
		names = loadersBIOS
	}
	for _, set := range t.bootSets(m, img, cpu) {
		if f, ok := set.Loader(cpu, names...); ok {
			return f.Name, nil
		}
	}
	return "", &Refusal{Reason: fmt.Sprintf("%s asks as %s, and there is no boot program for that: chain %s on %s", m.Name, c.Arch, chain, cpu),
		Hint: loaderHint(chain, cpu, names)}
}

func loaderHint(chain Chain, cpu string, names []string) string {
	switch {
	case chain == ChainShim && cpu == "amd64":
		return "apt-get install shim-signed grub-efi-amd64-signed, then restart rescueboxd"
	case chain == ChainShim && cpu == "i386":
		return "apt-get install grub-common grub-efi-ia32-bin, then restart rescueboxd"
	case chain == ChainShim && cpu == "arm64":
		return "rescuebox image build rescue --arch arm64 brings them"
	case chain == ChainIPXE && cpu == "amd64":
		return "apt-get install ipxe, then restart rescueboxd"
	case len(names) > 0:
		return "rescuebox image add --bootset NAME " + names[0] + `, and bootset = "NAME" for the machine`
	}
	return "switch its firmware to another way of network boot"
}

// bootSets are where boot programs are looked for: the image itself, whose
// loader, GRUB and kernel have one signer; what was chosen for the
// machine and the site, made for its CPU where that is known; the built-in sets.
func (t *Table) bootSets(m Machine, img images.Image, cpu string) []images.Image {
	list := []images.Image{img}
	for _, name := range []string{m.BootSet, t.cfg.BootSet, setShim, setIPXE} {
		if name == "" {
			continue
		}
		if set, err := t.cfg.Images.GetFor(name, cpu); err == nil {
			list = append(list, set)
		}
	}
	return list
}

// variantLocked is the image made for the client's CPU: "rescue" is
// "rescue-arm64" for an arm64 machine. A 64-bit kernel also runs on
// the 32-bit UEFI of a 64-bit CPU (CONFIG_EFI_MIXED).
func (t *Table) variantLocked(m Machine, img images.Image, cpu string) (images.Image, error) {
	if cpu == "" || img.Arch == "" || img.Arch == cpu || cpu == "i386" && img.Arch == "amd64" || cpu == "amd64" && img.Arch == "i386" {
		return img, nil
	}
	if v, err := t.cfg.Images.GetFor(img.Name, cpu); err == nil && v.Arch == cpu {
		return v, nil
	}
	hint := fmt.Sprintf("rescuebox image build rescue --arch %s makes rescue-%s, which an order for rescue then takes", cpu, cpu)
	if img.Windows != nil {
		hint = fmt.Sprintf("import an image for %s as %s-%s, which an order for %s then takes", cpu, img.Name, cpu, img.Name)
	}
	return img, &Refusal{Reason: fmt.Sprintf("%s is made for %s and %s is %s", img.Name, img.Arch, m.Name, cpu), Hint: hint}
}

// cpuLocked is what the client's programs are made for: what it says, else what
// it, or the machine of the order, said before.
func (t *Table) cpuLocked(c Client, ordered *entry) string {
	if cpu := c.Arch.CPU(); cpu != "" || c.Arch != UnknownArch {
		return cpu
	}
	if ordered != nil && ordered.CPU != "" {
		return ordered.CPU
	}
	return t.seen.arch(c.MAC).CPU()
}
