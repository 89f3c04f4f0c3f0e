package api

// Windows is what an import found in a Windows PE.
type Windows struct {
	Index int    `json:"index"`           // the image in the WIM that boots, from 1
	Build string `json:"build,omitempty"` // such as 10.0.26100
	// DaRT is the version of Microsoft's Diagnostics and Recovery Toolset, or "yes" where only
	// its presence is known; without it this is a plain Windows PE.
	DaRT string `json:"dart,omitempty"`
	// SDI is the file name of the RAM disk's frame, boot.sdi; without it nothing boots.
	SDI         string `json:"sdi,omitempty"`
	WinloadBIOS string `json:"winload_bios,omitempty"` // path in the WIM
	WinloadEFI  string `json:"winload_efi,omitempty"`
	// Has names the programs that the start depends on.
	Has      []string `json:"has,omitempty"`
	Winpeshl string   `json:"winpeshl,omitempty"` // text of the WIM's own winpeshl.ini
}
