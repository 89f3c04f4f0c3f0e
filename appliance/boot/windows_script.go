package boot

import (
	"bytes"
	"fmt"
	"text/template"
)

// wimbootTemplate is the script of the chain "ipxe" for a Windows image. wimboot
// takes each file for a disk of its own by its name, which iPXE tells it in one way on a BIOS (the
// argument) and in another under UEFI (--name). All that it could take from the WIM itself it is given: there
// are WIMs without (ipxe/wimboot#59), and the boot manager shall be that for the machine.
var wimbootTemplate = template.Must(template.New("wimboot.ipxe").Parse(`#!ipxe
echo
echo rescuebox boots {{.Title}} on {{.Machine}}. You need not do anything.
echo
set tries:int32 0
:load
ifopen ||
imgfree
kernel {{.URL}}/{{.Wimboot}} || goto again
iseq ${platform} efi && goto efi ||
{{- if .BIOS}}
initrd --name bootmgr.exe {{.URL}}/bootmgr.exe bootmgr.exe || goto again
{{- end}}
goto windows
:efi
{{- if .EFI}}
initrd --name {{.EFI}} {{.URL}}/wimboot/{{.EFI}} {{.EFI}} || goto again
{{- end}}
:windows
initrd --name bcd {{.URL}}/wimboot/${platform}/bcd bcd || goto again
{{- range .Files}}
initrd --name {{.}} {{$.URL}}/{{.}} {{.}} || goto again
{{- end}}
imgfetch --name {{.Loaded}} {{.URL}}/{{.Loaded}} && imgfree {{.Loaded}} ||
boot || goto again
` + ipxeAgain))

// handoverTemplate is for an iPXE in a machine's ROM where there is no wimboot:
// it starts Microsoft's loaders, which come by TFTP and go on by themselves.
var handoverTemplate = template.Must(template.New("windows.ipxe").Parse(`#!ipxe
echo
echo rescuebox boots {{.Title}} on {{.Machine}}. You need not do anything.
echo
set tries:int32 0
iseq ${platform} efi && set loader bootmgfw.efi || set loader pxeboot.n12
:load
ifopen ||
imgfree
chain tftp://{{.TFTP}}/boot/{{.MAC}}/${loader} || goto again
` + ipxeAgain))

// windowsScript renders the iPXE script of a Windows image for one machine's order.
func (t *Table) windowsScript(d Decision, mac MAC) ([]byte, error) {
	w := d.Image.Windows
	data := map[string]any{"Title": titleOf(d.Image), "Machine": d.Machine.Name, "URL": t.folderURL(mac), "MAC": mac.Plain(),
		"TFTP": t.tftpHost(), "Loaded": loadedMark, "BIOS": t.hasFile(d.Machine, d.Image, bootmgrEXE)}
	which := handoverTemplate
	uefi := t.firmwareIsUEFI(d, mac, "")
	if err := t.windowsWhole(d.Machine, d.Image, uefi, d.CPU); err != nil {
		return nil, err
	}
	if _, f, ok := t.wimbootFor(d.Machine, d.Image, uefi, d.CPU); ok && d.Machine.Chain != ChainWindows {
		which, data["Wimboot"] = wimbootTemplate, f.Name
		if suffix := efiSuffix(d.CPU); len(t.managers(d.Machine, d.Image, d.CPU)) > 0 && suffix != "" {
			data["EFI"] = "boot" + suffix + ".efi"
		}
		var files []string
		for _, font := range w.Fonts {
			if _, ok := d.Image.File(font); ok {
				files = append(files, font)
			}
		}
		data["Files"] = append(files, w.SDI, w.WIM)
	}
	var script bytes.Buffer
	if err := which.Execute(&script, data); err != nil {
		return nil, fmt.Errorf("boot script of %s: %w", d.Image.Name, err)
	}
	return script.Bytes(), nil
}
