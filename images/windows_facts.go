package images

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	wimName = "boot.wim" // of the WIM in the image
	sdiName = "boot.sdi"
)

// windowsPrograms are what the start of a Windows PE depends on.
var windowsPrograms = []string{"netstart.exe", "wpeinit.exe", "waitforconnection.exe", "remoterecovery.exe", "bcryptprimitives.dll",
	"winpeshl.ini", "startnet.cmd", "cmd.exe", "wpeutil.exe", "recenv.exe", "setup.exe", "unattend.xml"}

// programPath is where one of them lies: in System32, but for the menu of Windows' recovery, the setup of
// an installation medium, which winpeshl.exe starts by itself, and what wpeinit.exe is told to do.
func programPath(name string) string {
	switch name {
	case "recenv.exe":
		return `\sources\recovery\recenv.exe`
	case "setup.exe", "unattend.xml":
		return `\` + name
	}
	return `\Windows\System32\` + name
}

// describe notes what the image is. What is odd about it, but no reason to refuse it, is returned.
func (p *windowsPE) describe(i *Image) (notes []error) {
	w := &WindowsPE{WIM: wimName, Index: p.image.Index}
	w.WinloadBIOS = p.winload("exe")
	w.WinloadEFI = p.winload("efi")
	for _, name := range windowsPrograms {
		if p.first(programPath(name)) != "" {
			w.Has = append(w.Has, name)
		}
	}
	w.Build = p.build()
	if slices.Contains(w.Has, "remoterecovery.exe") {
		w.DaRT = dartVersion(p.versionOf(`\Windows\System32\RemoteRecovery.exe`), w.Build)
	}
	var err error
	if w.Winpeshl, err = p.winpeshl(); err != nil {
		notes = append(notes, err)
	}
	i.Windows, i.Arch, i.Title, i.Up = w, p.arch(), cmp.Or(i.Title, titleOf(*w)), Agent
	if w.DaRT == "" && !w.SSH() {
		i.Up = Served // nothing in it could tell, and its order would boot it again and again until the TTL
	}
	if xml := p.image.Arch; xml != "" && i.Arch != xml {
		notes = append(notes, fmt.Errorf("the WIM says that it is for %s, and its programs are for %s: those count", xml, i.Arch))
	}
	return notes
}

func titleOf(w WindowsPE) string {
	title := strings.TrimSpace("Windows PE " + w.Build)
	switch w.DaRT {
	case "":
		return title
	case dartUnknown:
		return "Microsoft DaRT, " + title
	}
	return "Microsoft DaRT " + w.DaRT + ", " + title
}

// winload is the loader's path, as a BCD names it. Windows PE has one in either place
// or in both; that of Windows' own ISOs is in boot.
func (p *windowsPE) winload(ext string) string {
	return p.first(`\windows\system32\boot\winload.`+ext, `\windows\system32\winload.`+ext)
}

// arch is what the programs are for; of a WIM whose loaders say nothing, what its XML text says.
func (p *windowsPE) arch() string {
	for _, path := range []string{p.winload("efi"), p.winload("exe"), `\Windows\System32\wpeinit.exe`, `\Windows\System32\ntoskrnl.exe`} {
		if b, err := p.read(path, maxLoaderFile); path != "" && err == nil {
			if pe, err := ReadPE(bytes.NewReader(b), int64(len(b))); pe.Arch != "" && (err == nil || errors.Is(err, ErrUnfit)) {
				return pe.Arch
			}
		}
	}
	return p.image.Arch
}

func (p *windowsPE) read(path string, most int64) ([]byte, error) {
	return p.wim.ReadFile(p.image.Index, path, most)
}

// build is the version of Windows without its patch: that of the XML text, else that of the kernel or its loader.
func (p *windowsPE) build() string {
	version := p.image.Version
	for _, path := range []string{`\Windows\System32\ntoskrnl.exe`, p.winload("efi"), p.winload("exe")} {
		if version == "" && path != "" {
			version = p.versionOf(path)
		}
	}
	if part := strings.SplitN(version, ".", 4); len(part) >= 3 {
		return oneLine(strings.Join(part[:3], "."))
	}
	return ""
}

// versionOf is the version resource of a program; "" where it has none.
func (p *windowsPE) versionOf(path string) string {
	b, err := p.read(path, maxLoaderFile)
	if err != nil {
		return ""
	}
	return fileVersion(b)
}

// fileVersion finds the version in a program's resources: the structure VS_FIXEDFILEINFO, which
// stands behind its name and a signature of its own. The resource tree
// in front of it is not walked: nothing else in a program has both.
func fileVersion(program []byte) string {
	const signature = 0xfeef04bd
	key := utf16Bytes("VS_VERSION_INFO\x00")
	for at := bytes.Index(program, key); at >= 0; {
		rest := program[at+len(key):]
		for pad := 0; pad <= 4 && len(rest) >= pad+16; pad += 2 { // up to the next multiple of four
			fixed := rest[pad:]
			if binary.LittleEndian.Uint32(fixed) == signature {
				return fmt.Sprintf("%d.%d.%d.%d", le16(fixed[10:]), le16(fixed[8:]), le16(fixed[14:]), le16(fixed[12:]))
			}
		}
		next := bytes.Index(rest, key)
		if next < 0 {
			break
		}
		at += len(key) + next
	}
	return ""
}

func utf16Bytes(s string) (b []byte) {
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}

// dartUnknown is a DaRT of which only its presence is known.
const dartUnknown = "yes"

// dartVersion is DaRT's, from the version of RemoteRecovery.exe; where that names none
// that there was, from that of Windows: each DaRT is built on one of them ("Overview of
// DaRT" of Microsoft's MDOP documentation: DaRT 7 on Windows 7, 8.0 on 8, 8.1 on 8.1, 10 on 10).
func dartVersion(program, build string) string {
	byProgram := map[string]string{"7.0": "7", "8.0": "8", "8.1": "8.1", "10.0": "10", "10.1": "10"}
	byWindows := map[string]string{"6.1": "7", "6.2": "8", "6.3": "8.1", "10.0": "10"}
	if v := byProgram[majorMinor(program)]; v != "" {
		return v
	}
	return cmp.Or(byWindows[majorMinor(build)], dartUnknown)
}

func majorMinor(version string) string {
	if part := strings.SplitN(version, ".", 3); len(part) >= 2 {
		return part[0] + "." + part[1]
	}
	return ""
}

// winpeshl is the text of winpeshl.ini, which the start keeps. One that cannot be kept is said.
func (p *windowsPE) winpeshl() (string, error) {
	path := p.first(`\Windows\System32\winpeshl.ini`)
	if path == "" {
		return "", nil
	}
	b, err := p.read(path, maxWinpeshl)
	if err != nil {
		return "", fmt.Errorf("its winpeshl.ini is not kept: %w", err)
	}
	text := decodeText(b)
	if err := checkWinpeshl(text); err != nil {
		return "", fmt.Errorf("its winpeshl.ini is not kept: %w", err)
	}
	return text, nil
}

// decodeText reads what Windows' editors write: UTF-16 or UTF-8, mostly with a mark; else one
// byte a character, as the code page of the image has it (see CodePage).
func decodeText(b []byte) string {
	if text, ok := bytes.CutPrefix(b, []byte{0xef, 0xbb, 0xbf}); ok {
		b = text
	}
	if len(b) >= 2 && (b[0] == 0xff && b[1] == 0xfe || b[0] == 0xfe && b[1] == 0xff) {
		order := binary.ByteOrder(binary.LittleEndian)
		if b[0] == 0xfe {
			order = binary.BigEndian
		}
		var units []uint16
		for b = b[2:]; len(b) >= 2; b = b[2:] {
			units = append(units, order.Uint16(b))
		}
		return string(utf16.Decode(units))
	}
	if utf8.Valid(b) {
		return string(b)
	}
	runes := make([]rune, len(b))
	for i, c := range b {
		if runes[i] = rune(c); c > '~' {
			runes[i] += CodePage
		}
	}
	return string(runes)
}
