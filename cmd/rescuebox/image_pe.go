package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"rescuebox/appliance/admin/api"
	"rescuebox/images"
)

// windowsLines are what "image show" says of an image of Windows.
func windowsLines(i api.Image) [][2]string {
	w := i.Windows
	if w == nil {
		return nil
	}
	dart := map[string]string{"": "no", "yes": "yes, of a version that is not known"}
	known, ok := dart[w.DaRT]
	if !ok {
		known = w.DaRT
	}
	lines := [][2]string{
		{"windows", cmp.Or(w.Build, "of a version that is not known")}, {"DaRT", known},
		{"boots", fmt.Sprintf("image %d of boot.wim", w.Index)},
		{"on BIOS", chain(i, w.WinloadBIOS, "pxeboot.n12", "bootmgr.exe")},
	}
	return append(append(lines, uefiLines(i)...), [2]string{"programs", strings.Join(w.Has, " ")})
}

// chain is how Microsoft's loaders follow one another, or what is missing of them.
func chain(i api.Image, winload string, files ...string) string {
	var missing []string
	for _, name := range append(files, "boot.sdi") {
		if !hasFile(i, name) {
			missing = append(missing, name)
		}
	}
	switch {
	case winload == "":
		return "no: the WIM has no loader for it"
	case len(missing) > 0:
		return "no: " + strings.Join(missing, " and ") + " missing"
	}
	return strings.Join(append(files, winload), " → ")
}

func hasFile(i api.Image, name string) bool {
	return slices.ContainsFunc(i.Files, func(f api.File) bool { return f.Name == name })
}

// uefiLines has one line for each of the two boot managers: which machines take which depends on their firmware.
func uefiLines(i api.Image) (lines [][2]string) {
	for _, f := range i.Files {
		if f.Name != "bootmgfw.efi" && f.Name != "bootmgfw_ex.efi" {
			continue
		}
		ca := images.File{Signers: f.Signers}.LoaderCA()
		signed := "signed by " + signedBy(f)
		if len(ca) > 0 {
			signed = "Secure Boot: " + strings.Join(ca, " and ")
		}
		lines = append(lines, [2]string{"on UEFI", chain(i, i.Windows.WinloadEFI, f.Name) + " (" + signed + ")"})
	}
	if lines == nil {
		lines = [][2]string{{"on UEFI", chain(i, i.Windows.WinloadEFI, "bootmgfw.efi")}}
	}
	return lines
}

// windowsOf is what the library knows of an image of Windows, as the API has it.
func windowsOf(w *images.WindowsPE) *api.Windows {
	if w == nil {
		return nil
	}
	return &api.Windows{Index: w.Index, Build: w.Build, DaRT: w.DaRT, SDI: w.SDI,
		WinloadBIOS: w.WinloadBIOS, WinloadEFI: w.WinloadEFI, Has: w.Has, Winpeshl: w.Winpeshl}
}

// writeLines writes labels and values, those without a value left out.
func writeLines(w io.Writer, lines [][2]string) error {
	for _, line := range lines {
		if line[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-14s %s\n", line[0], clean(line[1])); err != nil {
			return err
		}
	}
	return nil
}
