package images

import (
	"slices"
	"strings"
)

// WindowsPE is what boots of a Windows image: a Windows PE in a WIM, and what
// was found in it at import.
type WindowsPE struct {
	WIM   string `toml:"wim"`             // file name in the image
	SDI   string `toml:"sdi,omitempty"`   // file name of the RAM disk's frame, boot.sdi; "" where there was none
	Index int    `toml:"index"`           // the image in the WIM that boots, from 1
	Build string `toml:"build,omitempty"` // such as 10.0.26100; "" where it is not known
	// DaRT is the version of Microsoft's Diagnostics and Recovery Toolset: "7",
	// "8.1", "10", or "yes" where only its presence is known. "" is a plain Windows PE.
	DaRT string `toml:"dart,omitempty"`
	// Paths in the WIM as a BCD names them, such as \windows\system32\boot\winload.efi;
	// "" where there is none.
	WinloadBIOS string `toml:"winload_bios,omitempty"`
	WinloadEFI  string `toml:"winload_efi,omitempty"`
	// Has names, in lower case, those programs of System32 that the start depends on
	// and that are there; recenv.exe is that of \sources\recovery, setup.exe and unattend.xml are those at the root.
	Has      []string `toml:"has,omitempty"`
	Winpeshl string   `toml:"winpeshl,omitempty"` // text of the WIM's own winpeshl.ini; "" where there is none
	Fonts    []string `toml:"fonts,omitempty"`    // file names in the image
}

// CodePage and a byte beyond ASCII is the character that stands for it in Winpeshl, where that was
// written in a code page: which one it was only the image's Windows knows, and it is to get the byte back.
const CodePage = 0xf700

// SSH reports whether a plain Windows PE can run the agent that serves SSH: Windows 10 or
// later, with a DLL that not every PE has and Go since 1.21.5 needs (golang/go#64622).
func (w WindowsPE) SSH() bool {
	return w.DaRT == "" && strings.HasPrefix(w.Build, "10.") && slices.Contains(w.Has, "bcryptprimitives.dll")
}
