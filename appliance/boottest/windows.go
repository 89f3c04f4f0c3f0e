package boottest

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
)

// windowsTFTP is what Windows' loaders ask for (Wireshark, packet-tftp.c; facts of WDS).
var windowsTFTP = tftpOptions{size: true, block: 1456, window: 4, ms: true}

// policies are what bootmgfw.efi asks for, and nobody has (andigandhi/bitpixie#9).
var policies = []string{"SbcpFlightToken", "SecureBootPolicy", "SiPolicy", "SkuSiPolicy", "WinSiPolicy", "ATPSiPolicy"}

// bootFonts are those of the boot manager.
var bootFonts = []string{"wgl4_boot.ttf", "segoe_slboot.ttf", "segmono_boot.ttf"}

// windowsLoader is one of Microsoft's loaders that runs: it asks for files
// where it was loaded from, and by the way that it came.
type windowsLoader struct {
	m    *Machine
	from origin
	want tftpOptions
}

// runWindows runs Microsoft's loaders.
func (m *Machine) runWindows(kind Kind, from origin) error {
	w := &windowsLoader{m, from, windowsTFTP}
	switch {
	case kind == PXEBoot: // in the directory of the boot file (Microsoft's PXE recipe)
		next := from.beside(bootmgrName)
		next.path = strings.ReplaceAll(next.path, "/", `\`)
		f, err := m.tftpGet(next, windowsTFTP)
		if err != nil {
			return fmt.Errorf("PXE-T01, no bootmgr.exe: %w", err)
		}
		return m.start(f, next)
	case kind == BootmgrBIOS:
		return w.bios()
	case from.scheme == "http":
		return w.http()
	}
	return w.uefi(kind == BootmgrBeside)
}

const bootmgrName = "bootmgr.exe"

// bios is bootmgr.exe (MAAS, provisioningserver/boot/windows.py; Microsoft's PXE recipe): it
// looks nowhere but in \Boot, whatever directory it came from, and for a system that was put to sleep.
func (w *windowsLoader) bios() error {
	p, err := w.configuration(`\boot\bcd`)
	if err != nil {
		return err
	}
	w.optional(`\boot\fonts\wgl4_boot.ttf`)
	if _, ok := w.optional(`\hiberfil.sys`); ok {
		return errors.New("got a hibernated system from nowhere")
	}
	return w.windows(p, ".exe", "", `\Boot\en-US\bootmgr.exe.MUI`)
}

// uefi is bootmgfw.efi that came by TFTP (martanne/bitpixie#5, andigandhi/bitpixie#9). Whether it looks for its
// configuration beside itself or at the server's root its sources do not tell.
func (w *windowsLoader) uefi(beside bool) error {
	where := `\Boot\BCD`
	if beside {
		where = strings.ReplaceAll(path.Dir(w.from.path), "/", `\`) + `\Boot\BCD`
	}
	first, err := w.configuration(where)
	if err != nil {
		return err
	}
	p, err := w.configuration(where) // it reads it twice
	if err != nil || p != first {
		return errors.Join(err, errors.New("the BCD is another one each time"))
	}
	if err := w.noPolicies(`EFI\Microsoft\Boot\Policies\`); err != nil {
		return err
	}
	return w.windows(p, ".efi", `\Boot\Fonts\`)
}

// http is bootmgfw.efi that came by UEFI HTTP Boot (maltob/uefi_http_boot_guide).
func (w *windowsLoader) http() error {
	beside, err := w.configuration(w.from.beside("BCD").path)
	if err != nil {
		w.m.complain("no BCD beside the boot manager: %v", err)
	}
	p, err := w.configuration("/efi/Microsoft/Boot/BCD")
	if err != nil || p != beside {
		return errors.Join(err, errors.New("the BCD is another one each time"))
	}
	if err := w.noPolicies("/efi/Microsoft/Boot/Policies/"); err != nil {
		return err
	}
	base := path.Base(w.from.path)
	return w.windows(p, ".efi", "/efi/Microsoft/Boot/Fonts/", w.from.beside("en-US/"+base+".MUI").path, "/efi/Microsoft/Boot/resources/bootres.dll")
}

// windows loads what the configuration names, and starts it. Behind the WIM come fonts and what else there may be.
func (w *windowsLoader) windows(p plan, ext, fonts string, extra ...string) error {
	if !strings.HasSuffix(strings.ToLower(p.loader), ext) {
		return fmt.Errorf("winload is %q, and this firmware wants %s (0xc0000359)", p.loader, ext)
	}
	w.want = windowsTFTP
	if p.block != 0 {
		w.want.block = p.block
	}
	if p.window != 0 {
		w.want.window = p.window
	}
	w.want.ms = p.variable
	for _, name := range []string{p.sdi, p.wim} {
		f, err := w.get(name)
		if err != nil {
			return fmt.Errorf("%s: 0xc0000001: %w", name, err)
		}
		if !w.m.starts(f) {
			return fmt.Errorf("%s: 0xc000000f", name)
		}
		w.m.out.Kernel = f.Name
	}
	for _, name := range extra {
		if _, ok := w.optional(name); ok {
			return fmt.Errorf("got %s from nowhere", name)
		}
	}
	for _, name := range bootFonts {
		if fonts != "" {
			w.optional(fonts + name)
		}
	}
	return nil
}

// configuration loads a BCD and reads it.
func (w *windowsLoader) configuration(name string) (plan, error) {
	f, err := w.get(name)
	if err != nil {
		return plan{}, fmt.Errorf("%s: 0xc000000f: %w", name, err)
	}
	return readBCD(f.Data)
}

func (w *windowsLoader) noPolicies(dir string) error {
	for _, name := range policies {
		if _, ok := w.optional(dir + name + ".p7b"); ok {
			return fmt.Errorf("got the policy %s from nowhere", name)
		}
	}
	return nil
}

// at is a file of the server that the loader came from; over HTTP its paths have slashes.
func (w *windowsLoader) at(name string) origin {
	if w.from.scheme == "http" {
		name = strings.ReplaceAll(name, `\`, "/")
	}
	return w.from.at(name)
}

// get loads a file. By TFTP it asks for the size first and leaves that with error 8 or 0.
func (w *windowsLoader) get(name string) (Loaded, error) {
	if w.from.scheme == "http" {
		return w.m.httpGet(w.at(name))
	}
	probe := w.want
	probe.probe, probe.zero = true, w.m.cpu() == "" // both are seen
	if _, err := w.m.tftpGet(w.at(name), probe); err != nil {
		return Loaded{}, err
	}
	return w.m.tftpGet(w.at(name), w.want)
}

func (w *windowsLoader) optional(name string) (Loaded, bool) { return w.m.optional(w.at(name), w.want) }

// runWimboot is ipxe/wimboot: it takes the files by the names that iPXE gives them, on a BIOS
// by the argument, under UEFI by --name, and shows them to the boot manager as one flat disk.
func (m *Machine) runWimboot(files map[string]Loaded) error {
	m.out.Stages = append(m.out.Stages, string(Wimboot))
	manager, ext := bootmgrName, ".exe"
	if m.cpu() != "" {
		manager, ext = "boot"+suffix(m.cpu())+".efi", ".efi"
	}
	if _, ok := files[manager]; !ok {
		return fmt.Errorf("wimboot has no %s", manager)
	}
	p, err := readBCD(files["bcd"].Data)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(p.loader, ext) {
		return fmt.Errorf("winload is %q, and this firmware wants %s (0xc0000359)", p.loader, ext)
	}
	for _, name := range []string{p.sdi, p.wim} {
		file, inBoot := strings.CutPrefix(strings.ToLower(name), `\boot\`)
		f, ok := files[file]
		if !ok || !inBoot || len(f.Data) == 0 {
			return fmt.Errorf("%s is not on wimboot's disk (0xc000000f)", name)
		}
		m.out.Kernel = f.Name
	}
	return nil
}

// asked notes a request and its end. Sizes of what is made for an order are left out.
func (m *Machine) asked(request string, f *memory, err error, probe bool) {
	answer := "not found"
	switch {
	case err == nil && probe:
		answer = "size"
	case err == nil && (bytes.HasPrefix(f.data, []byte("MSWIM")) || bytes.HasPrefix(f.data, []byte("#!ipxe"))):
		answer = "whole"
	case err == nil:
		answer = fmt.Sprintf("%d bytes", f.size)
	case !errors.As(err, new(*TFTPError)) && !errors.As(err, new(*HTTPError)):
		answer = "broke off"
	}
	m.out.Asked = append(m.out.Asked, request+": "+answer)
}

// String is a request's options.
func (o tftpOptions) String() (s string) {
	for _, p := range []struct {
		is   bool
		text string
	}{{o.size, " tsize=0"}, {o.block != 0, fmt.Sprintf(" blksize=%d", o.block)}, {o.window != 0, fmt.Sprintf(" windowsize=%d", o.window)}, {o.ms, " msftwindow"}} {
		if p.is {
			s += p.text
		}
	}
	return s
}
