package boot

import (
	"fmt"
	"strings"

	"rescuebox/images"
)

// isManagerFile tells Microsoft's boot manager for UEFI by the names in the library.
func isManagerFile(name string) bool { return name == managerEFI || name == managerEX }

// windows reports whether a Windows image was ordered.
func (s *situation) windows() bool { return s.Image.Windows != nil }

// rulesOfWindows are for what Microsoft's loaders and Windows PE get stuck at.
// They come before those for Linux, which would guess at kernels.
var rulesOfWindows = []rule{
	{stageLoader, "other-loader-ca", patienceLoader, func(s *situation) bool {
		return s.windows() && isManagerFile(s.loader) && s.SecureBoot != SecureBootOff
	}, sayOtherCA},
	{stageLoader, "bcd-not-asked", patienceLoader, func(s *situation) bool { return s.windows() && s.loader == bootmgrEXE },
		func(s *situation) (string, string) {
			return fmt.Sprintf("%s fetched, its configuration (\\Boot\\BCD) never asked for, then %s: it hangs in the card's firmware, or option 252 of another DHCP server sends it elsewhere", s.loader, s.silence()),
				"look at its screen; remove option 252 from the site's DHCP server; put wimboot in (rescuebox image add --bootset wimboot), which needs neither"
		}},
	{stageScript, "wim-not-asked", patienceLoader, (*situation).windows, sayWIMNotAsked},
	{stageKernel, "wim-not-asked", patienceLoader, (*situation).windows, sayWIMNotAsked},
	{stageLoaded, "pe-restarted", patienceSoon, func(s *situation) bool { return s.windows() && s.again },
		func(s *situation) (string, string) {
			return "Windows PE was fetched whole, and the machine started anew: it crashed, or its memory is too small for the RAM disk",
				fmt.Sprintf("look at its screen; %s needs some %d MB of memory free at start; try another image", s.Image.Name, s.Image.Size()>>20+512)
		}},
	{stageLoaded, "no-report", patienceStart, func(s *situation) bool { return s.windows() && s.systemRuns() },
		func(s *situation) (string, string) {
			return "Windows PE runs and has asked for an address, and its agent does not report: it got none, or HTTP does not reach this box",
				"look for a firewall (TCP port of [http]) and another DHCP server: rescuebox doctor; what the agent says is on the machine's screen"
		}},
	{stageLoaded, "no-report", patienceStart, (*situation).windows,
		func(s *situation) (string, string) {
			return "Windows PE was fetched whole, and nothing was heard of it since: most likely it has no driver for the machine's network card (newer Broadcom and Intel cards), or it hangs at its start",
				fmt.Sprintf("put the card's driver into the image (DISM /Add-Driver) and import it again; ask somebody to look at the screen; rescuebox boot %s rescue needs no driver of Windows", s.Machine.Name)
		}},
}

func sayOtherCA(s *situation) (text, hint string) {
	f, ok := s.Image.File(s.loader)
	if !ok { // of a boot set: its name must do
		f.Name = s.loader
	}
	if len(f.Signers) > 0 && f.LoaderCA() == nil {
		return fmt.Sprintf("%s, signed by %s, fetched, then %s: Secure Boot, which trusts Microsoft's CAs of 2011 and 2023, refused it", s.loader, strings.Join(f.Signers, ", "), s.silence()),
			"switch Secure Boot off, or take an image of Windows 8 or later: that of Windows 7 and its DaRT are older than Secure Boot"
	}
	ca, other := caOf(f), CA2023
	why := "newer firmware, or one with the update KB5025885, has revoked it"
	if ca == CA2023 {
		other, why = CA2011, "older firmware does not know that CA before an update"
	}
	hint = fmt.Sprintf("restart %s: it gets the one signed by the CA of %s then", s.Machine.Name, other)
	switch {
	case !hasGeneration(s.Image, other):
		hint = fmt.Sprintf("import an image that has a boot manager of the CA of %s (%s, from a Windows of %s), or switch Secure Boot off", other, managerEX, "2024 or later")
		if other == CA2011 {
			hint = "import an older image, or update the firmware of " + s.Machine.Name
		}
	case s.Machine.LoaderCA != "":
		hint = fmt.Sprintf(`set loader_ca = "%s" for %s, or leave it out: the box then tries both`, other, s.Machine.Name)
	}
	return fmt.Sprintf("%s, signed by Microsoft's CA of %s, fetched, then %s: Secure Boot refused it (%s)", s.loader, ca, s.silence(), why), hint
}

func hasGeneration(img images.Image, ca string) bool {
	for _, name := range []string{managerEFI, managerEX} {
		if f, ok := img.File(name); ok && caOf(f) == ca {
			return true
		}
	}
	return false
}

func sayWIMNotAsked(s *situation) (text, hint string) {
	if strings.HasPrefix(s.first, "undionly") || s.ipxe {
		return "the boot script was fetched, and not all of Windows PE: iPXE does not reach our HTTP port, or the machine's memory is too small", "look at its screen; see how much memory it has"
	}
	return "the boot manager has its configuration (BCD) and asks for no " + s.Image.Windows.WIM + ": it shows an error on the screen, such as 0xc000000f, or its memory is too small",
		"look at its screen for the number; rescuebox image verify " + s.Image.Name
}
