package images

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// besideWIM marks a path as one in the directory of a WIM that was given by itself.
const besideWIM = "./"

// windowsPart is a file of a Windows image beside the WIM.
type windowsPart struct {
	name string
	font bool
	form string   // what it begins with
	wim  []string // where it is in the WIM
	disc []string // where it is on the ISO; {arch} is UEFI's name of the CPU
	iso  bool     // the ISO's comes first
}

// windowsParts are all that Microsoft's loaders fetch and we have a place for. cdboot.efi
// and etfsboot.com of an ISO are left where they are: they load from a CD and from nothing else.
var windowsParts = []windowsPart{
	{name: "pxeboot.n12", wim: []string{`\Windows\Boot\PXE\pxeboot.n12`}},
	{name: "bootmgr.exe", form: "MZ", wim: []string{`\Windows\Boot\PXE\bootmgr.exe`}},
	{name: "wdsmgfw.efi", form: "MZ", wim: []string{`\Windows\Boot\PXE\wdsmgfw.efi`}},
	{name: "bootmgfw.efi", form: "MZ", wim: []string{`\Windows\Boot\EFI\bootmgfw.efi`}, disc: []string{"efi/boot/boot{arch}.efi", "bootmgr.efi"}},
	{name: "bootmgfw_ex.efi", form: "MZ", wim: []string{`\Windows\Boot\EFI_EX\bootmgfw_EX.efi`}},
	{name: sdiName, form: "$SDI0001", iso: true, disc: []string{"boot/boot.sdi", besideWIM + sdiName},
		wim: []string{`\Windows\Boot\DVD\PCAT\boot.sdi`, `\Windows\Boot\DVD\EFI\boot.sdi`, `\sms\boot\boot.sdi`}},
	font("wgl4_boot.ttf"), font("segmono_boot.ttf"), font("segoen_slboot.ttf"), font("segoe_slboot.ttf"),
	{name: "boot.stl", wim: []string{`\Windows\Boot\EFI\boot.stl`}, disc: []string{"efi/microsoft/boot/boot.stl"}},
}

func font(name string) windowsPart {
	return windowsPart{name: name, font: true, wim: []string{`\Windows\Boot\Fonts\` + name}, disc: []string{"boot/fonts/" + name, "efi/microsoft/boot/fonts/" + name}}
}

func partNames() (names []string) {
	for _, p := range windowsParts {
		names = append(names, p.name)
	}
	return names
}

// checkPart makes sure that a file begins as it must.
func checkPart(name string, head []byte) error {
	if len(head) == 0 {
		return errors.New("is empty")
	}
	n := slices.IndexFunc(windowsParts, func(p windowsPart) bool { return p.name == name })
	if n >= 0 && !bytes.HasPrefix(head, []byte(windowsParts[n].form)) {
		return fmt.Errorf("is not what its name says: it does not begin with %q", windowsParts[n].form)
	}
	return nil
}

// efiNames are UEFI's names of CPUs, as in bootx64.efi.
var efiNames = map[string]string{"amd64": "x64", "i386": "ia32", "arm64": "aa64", "armhf": "arm"}

// take finds the files that the loaders need, in the WIM and on the ISO. One
// that cannot be read is said, and is as one that is not there.
func (p *windowsPE) take(m *Import, src *windowsSource) (notes []error) {
	for _, part := range windowsParts {
		if m.From[part.name] == "" {
			b, err := p.find(part, m.Image.Arch, src)
			if err != nil {
				notes = append(notes, fmt.Errorf("%s is left out: %w", part.name, err))
			}
			if b != nil {
				m.Made[part.name] = b
			}
		}
		if m.From[part.name] == "" && m.Made[part.name] == nil {
			continue
		}
		if part.font {
			m.Image.Windows.Fonts = append(m.Image.Windows.Fonts, part.name)
		}
		if part.name == sdiName {
			m.Image.Windows.SDI = sdiName
		}
	}
	return notes
}

func (p *windowsPE) find(part windowsPart, arch string, src *windowsSource) ([]byte, error) {
	fromWIM := func() ([]byte, error) {
		path := p.first(part.wim...)
		if path == "" {
			return nil, nil
		}
		return p.read(path, maxLoaderFile)
	}
	fromDisc := func() ([]byte, error) {
		for _, name := range part.disc {
			b, err := src.read(strings.ReplaceAll(name, "{arch}", efiNames[arch]))
			if b != nil || err != nil {
				return b, err
			}
		}
		return nil, nil
	}
	places := []func() ([]byte, error){fromWIM, fromDisc}
	if part.iso {
		slices.Reverse(places)
	}
	var errs []error
	for _, place := range places {
		b, err := place()
		if err == nil && b != nil {
			err = checkPart(part.name, b)
		}
		if err == nil && b != nil {
			return b, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
