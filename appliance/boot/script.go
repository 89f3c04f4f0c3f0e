package boot

import (
	"bytes"
	"fmt"
	"net/url"
	"text/template"

	"rescuebox/images"
)

// ipxeTemplate is the script of the chain "ipxe". It retries what a real site
// lets fail at first: a switch port that spanning tree blocks for up to 50 s
// (ipxe#1337), a stalled download (ipxe#1023). It waits for no key, and when
// all was in vain it exits, so that the machine boots its own disk.
//
// Only commands of iPXE 1.0 (Debian's build of 2019) are in it, but for "shim",
// which that one does not know and passes over: with it an iPXE 2 that was
// started with Secure Boot has the kernel checked by the shim of the kernel's
// distribution, and skips the download where there is no need. A script that
// was found as autoexec.ipxe begins with its card closed: hence "ifopen".
var ipxeTemplate = template.Must(template.New("boot.ipxe").Parse(`#!ipxe
echo
echo rescuebox boots {{.Title}} on {{.Machine}}. You need not do anything.
echo
set tries:int32 0
:load
ifopen ||
imgfree
iseq ${platform} efi && set kernel {{.KernelEFI}} || set kernel {{.Kernel}}
kernel {{.URL}}/${kernel} {{.Cmdline}} || goto again
{{- range .Initrd}}
initrd {{$.URL}}/{{.}} || goto again
{{- end}}
{{- if .Shim}}
iseq ${platform} efi && shim {{.URL}}/{{.Shim}} ||
{{- end}}
imgfetch --name {{.Loaded}} {{.URL}}/{{.Loaded}} && imgfree {{.Loaded}} ||
boot || goto again
` + ipxeAgain))

// ipxeAgain ends the scripts: another try, or the machine's own disk.
const ipxeAgain = `:again
inc tries
iseq ${tries} 12 && goto give_up ||
echo Attempt ${tries} failed. Trying again in 5 seconds...
sleep 5
isset ${ip} || dhcp ||
goto load
:give_up
echo {{.Machine}} could not load {{.Title}}. Starting its own disk.
sleep 5
exit 1
`

// ipxeScript renders the script for one machine's order.
func (t *Table) ipxeScript(d Decision, mac MAC) ([]byte, error) {
	img := d.Image
	if img.Windows != nil {
		return t.windowsScript(d, mac)
	}
	cmdline, err := t.commandLine(d, mac)
	if err != nil {
		return nil, err
	}
	// Under UEFI the kernel's own EFI stub looks for its initrd by this
	// argument; elsewhere it does no harm.
	for _, initrd := range img.Initrd {
		cmdline = "initrd=" + initrd + " " + cmdline
	}
	efi := img.KernelEFI
	if efi == "" {
		efi = img.Kernel
	}
	var script bytes.Buffer
	err = ipxeTemplate.Execute(&script, map[string]any{"Title": titleOf(img), "Machine": d.Machine.Name, "URL": t.folderURL(mac),
		"Kernel": img.Kernel, "KernelEFI": efi, "Initrd": img.Initrd, "Cmdline": cmdline, "Loaded": loadedMark, "Shim": t.shimFor(d)})
	if err != nil {
		return nil, fmt.Errorf("boot script of %s: %w", img.Name, err)
	}
	return script.Bytes(), nil
}

// shimFor names the shim with which the machine's firmware trusts the image's kernel, or "".
func (t *Table) shimFor(d Decision) string {
	for _, set := range t.bootSets(d.Machine, d.Image, d.CPU) {
		if f, ok := set.Loader(d.CPU, "shimx64.efi", "shimaa64.efi"); ok {
			return f.Name
		}
	}
	return ""
}

// commandLine is the kernel's for one machine's order.
func (t *Table) commandLine(d Decision, mac MAC) (string, error) {
	return d.Image.CommandLine(images.Args{Machine: d.Machine.Name, MAC: mac.String(), Order: d.Order.ID,
		Token: d.Order.Token, Server: t.cfg.Server, URL: t.folderURL(mac), SHA256: hashes(d.Image)})
}

// folderURL is where a machine's files are over HTTP.
func (t *Table) folderURL(mac MAC) string { return t.cfg.Server + "/boot/" + mac.Plain() }

// tftpHost is the address of our TFTP: that of our HTTP.
func (t *Table) tftpHost() string {
	u, err := url.Parse(t.cfg.Server)
	if err != nil {
		return t.cfg.Server
	}
	return u.Hostname()
}

// hashes is the SHA-256 of every file of an image, by its name.
func hashes(img images.Image) map[string]string {
	m := make(map[string]string, len(img.Files))
	for _, f := range img.Files {
		m[f.Name] = f.SHA256
	}
	return m
}
