package images

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// checkWindows says what is wrong with an image of Windows.
func (i Image) checkWindows() error {
	w := i.Windows
	if w == nil {
		return errors.New("a windows image needs a [windows] table")
	}
	if i.Kernel != "" || i.KernelEFI != "" || len(i.Initrd) > 0 || i.Cmdline != "" {
		return errors.New("a windows image has no kernel, initrd or cmdline")
	}
	if i.Up != Agent && i.Up != Served {
		return fmt.Errorf("up %q is not known: %s or %s tells that the image is up", i.Up, Agent, Served)
	}
	if w.Index < 1 || w.Index > 1<<16 {
		return fmt.Errorf("index %d is no image of a WIM: they count from 1", w.Index)
	}
	for _, name := range append([]string{w.WIM}, w.Fonts...) {
		if _, ok := i.File(name); !ok {
			return fmt.Errorf("%q is the WIM or a font, but no [[file]] has that name", name)
		}
	}
	if _, ok := i.File(w.SDI); !ok && w.SDI != "" {
		return fmt.Errorf("sdi %q: no [[file]] has that name", w.SDI)
	}
	for _, text := range append([]string{w.Build, w.DaRT, w.WinloadBIOS, w.WinloadEFI}, w.Has...) {
		if err := checkText(text, maxPathWIM); err != nil {
			return err
		}
	}
	if len(w.Has) > maxFiles {
		return fmt.Errorf("has names %d programs, more than %d", len(w.Has), maxFiles)
	}
	return checkWinpeshl(w.Winpeshl)
}

// maxPathWIM is the longest path that a WIM can have for Windows.
const maxPathWIM = 260

// checkWinpeshl refuses what is no text of lines.
func checkWinpeshl(text string) error {
	if len(text) > maxWinpeshl {
		return fmt.Errorf("winpeshl.ini is longer than %d bytes", maxWinpeshl)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\r\n\t", r) }) {
		return errors.New("winpeshl.ini holds control characters")
	}
	return nil
}

// windowsWarnings says what of an image of Windows is missing, which machines that keeps from
// booting, and where to get it.
func (i Image) windowsWarnings() (list []string) {
	w, has := i.Windows, func(name string) bool { _, ok := i.File(name); return ok }
	if w == nil {
		return nil
	}
	if w.SDI == "" {
		list = append(list, "boot.sdi is missing, without which no loader boots the WIM: take boot/boot.sdi of any Windows ISO and add the image again, with --with boot.sdi")
	}
	if i.Arch == "amd64" || i.Arch == "i386" {
		list = append(list, i.biosWarnings(has)...)
	}
	list = append(list, i.uefiWarnings(has)...)
	if i.Arch == "i386" {
		list = append(list, "a 32-bit Windows PE boots on UEFI only where the firmware is 32-bit too; nearly all machines' is 64-bit: for those, add the image of DaRT for x64")
	}
	if w.DaRT == "" && !w.SSH() {
		list = append(list, "neither DaRT nor an agent with SSH runs in it (SSH is for Windows PE 10 and later, with bcryptprimitives.dll): it boots, and no ticket will come; take the ISO of DaRT, or a newer Windows PE")
	}
	if i.Arch == "" {
		list = append(list, "what CPU the image is for could not be found out")
	}
	return list
}

func (i Image) biosWarnings(has func(string) bool) []string {
	if i.Windows.WinloadBIOS == "" {
		return []string{"the WIM has no winload.exe: it does not boot on BIOS machines"}
	}
	var missing []string
	for _, name := range []string{"pxeboot.n12", "bootmgr.exe"} {
		if !has(name) {
			missing = append(missing, name)
		}
	}
	if missing == nil {
		return nil
	}
	return []string{strings.Join(missing, " and ") + " missing, which BIOS machines need for Microsoft's own way: they boot the image with iPXE and wimboot " +
		"(rescuebox image add --bootset wimboot FILE, from github.com/ipxe/wimboot); or take what is missing out of \\Windows\\Boot\\PXE of an installed Windows " +
		"and add the image again, with --with " + strings.Join(missing, " --with ")}
}

func (i Image) uefiWarnings(has func(string) bool) (list []string) {
	if i.Windows.WinloadEFI == "" {
		return []string{"the WIM has no winload.efi: it does not boot on UEFI machines"}
	}
	if !has("bootmgfw.efi") && !has("bootmgfw_ex.efi") {
		return []string{"bootmgfw.efi is missing, without which UEFI machines do not boot the image: take \\Windows\\Boot\\EFI\\bootmgfw.efi out of an installed Windows and add the image again, with --with bootmgfw.efi"}
	}
	var signers []string
	for _, name := range []string{"bootmgfw.efi", "bootmgfw_ex.efi"} {
		f, ok := i.File(name)
		if !ok {
			continue
		}
		signers = append(signers, f.Signers...)
		if f.Arch != "" && i.Arch != "" && f.Arch != i.Arch {
			list = append(list, fmt.Sprintf("%s is for %s, and the image for %s", name, f.Arch, i.Arch))
		}
		if len(f.Signers) == 0 {
			list = append(list, name+" has no signature that fits it: machines with Secure Boot refuse it")
		}
	}
	return append(list, generationWarnings(signers)...)
}

// LoaderCA lists the generations of Microsoft's authority for Windows that have signed a
// loader: 2011 and 2023. A signature whose authority's certificate is not at hand counts
// for the one that it names: the firmware has the last word on it.
func (f File) LoaderCA() (generations []string) {
	for generation, name := range map[string]string{"2011": MicrosoftWindows2011, "2023": MicrosoftWindows2023} {
		if slices.ContainsFunc(f.Signers, func(s string) bool { return s == name || s == name+unproven }) {
			generations = append(generations, generation)
		}
	}
	slices.Sort(generations)
	return generations
}

// generationWarnings says which machines refuse Microsoft's loader under Secure Boot: the
// authority of 2011 is revoked where KB5025885 has been carried out, and that of 2023 is
// not known where the firmware never learnt of it.
func generationWarnings(signers []string) []string {
	ca := File{Signers: signers}.LoaderCA()
	old, young := slices.Contains(ca, "2011"), slices.Contains(ca, "2023")
	switch {
	case old && !young:
		return []string{"Microsoft's loader is signed by " + MicrosoftWindows2011 + " only: machines that have it revoked (KB5025885) refuse it under Secure Boot; " +
			"\\Windows\\Boot\\EFI_EX\\bootmgfw_EX.efi of a Windows 11 24H2 can be added, with --with bootmgfw_EX.efi"}
	case young && !old:
		return []string{"Microsoft's loader is signed by " + MicrosoftWindows2023 + " only: machines whose firmware does not know it refuse it under Secure Boot"}
	case !old && len(signers) > 0:
		return []string{"Microsoft's loader is signed by " + strings.Join(signers, ", ") + " only, as that of Windows 7 and its DaRT is, which are older than Secure Boot: machines that have it on refuse it"}
	}
	return nil
}
