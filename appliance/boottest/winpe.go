package boottest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf16"
)

// WindowsPE is a Windows PE that looks like Microsoft's where rescuebox looks, and has
// nothing of theirs in it. Its loaders are Programs.
type WindowsPE struct {
	CPU      string            // Debian's name; "" is amd64
	DaRT     bool              // with Microsoft's Diagnostics and Recovery Toolset
	Winpeshl string            // its own winpeshl.ini; "" is none
	Files    map[string]string // more of them, by path
	Without  []string          // paths that are left out
	Noise    int               // bytes that no compression shortens, in a driver of its own
	Packing  string            // of wimlib-imagex: "LZX", "XPRESS", "none"; "" is LZX
	Beside   bool              // its boot manager looks for its configuration beside itself
}

// Capture writes it as a WIM into a directory: the tree itself below tree/, and
// boot.wim. Needs wimlib-imagex (Debian: wimtools).
func (w WindowsPE) Capture(dir string) (wim string, err error) {
	tree := filepath.Join(dir, "tree")
	for name, data := range w.contents() {
		path := filepath.Join(tree, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return "", err
		}
	}
	packing := w.Packing
	if packing == "" {
		packing = "LZX"
	}
	wim = filepath.Join(dir, "boot.wim")
	cmd := exec.Command("wimlib-imagex", "capture", tree, wim, "Windows PE", "--boot", "--no-acls", "--compress="+packing, "--threads=1")
	if packing != "none" {
		cmd.Args = append(cmd.Args, "--chunk-size=32768") // Microsoft's loaders read no other
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return wim, nil
}

// contents are the files by their paths in the WIM.
func (w WindowsPE) contents() map[string][]byte {
	cpu, manager := w.CPU, Bootmgr
	if cpu == "" {
		cpu = "amd64"
	}
	if w.Beside {
		manager = BootmgrBeside
	}
	const system = "Windows/System32/"
	disk := append([]byte("$SDI0001"), Program(Kernel, "", 317_000)...)
	files := map[string][]byte{
		"Windows/Boot/PXE/pxeboot.n12":            Program(PXEBoot, "", 25_000),
		"Windows/Boot/PXE/bootmgr.exe":            Program(BootmgrBIOS, "i386", 400_000),
		"Windows/Boot/EFI/bootmgfw.efi":           Program(manager, cpu, 1_500_000),
		"Windows/Boot/EFI_EX/bootmgfw_EX.efi":     Program(manager, cpu, 1_600_000),
		"Windows/Boot/DVD/PCAT/boot.sdi":          disk,
		"Windows/Boot/DVD/EFI/boot.sdi":           disk,
		"Windows/Boot/Fonts/wgl4_boot.ttf":        []byte(strings.Repeat("font", 12_000)),
		"Windows/Boot/Fonts/segmono_boot.ttf":     []byte(strings.Repeat("Font", 11_000)),
		"Windows/Boot/Fonts/segoe_slboot.ttf":     []byte(strings.Repeat("fonT", 10_000)),
		"Windows/Boot/EFI/en-US/bootmgfw.efi.mui": []byte("text"),
		system + "Boot/winload.exe":               Program(Kernel, "", 90_000),
		system + "Boot/winload.efi":               Program(Kernel, cpu, 90_000),
		system + "config/SYSTEM":                  Program(Kernel, "", 300_000),
		system + "winpeshl.exe":                   Program(Kernel, "", 30_000),
		system + "wpeinit.exe":                    Program(Kernel, "", 31_000),
		system + "wpeutil.exe":                    Program(Kernel, "", 32_000),
		system + "cmd.exe":                        Program(Kernel, "", 33_000),
		system + "bcryptprimitives.dll":           Program(Kernel, "", 34_000),
		system + "startnet.cmd":                   []byte("wpeinit\r\n"),
		system + "empty.txt":                      nil,
		"Windows/inf/netdriver.inf":               []byte("[Version]\r\n"),
	}
	if w.DaRT {
		for _, name := range []string{"netstart.exe", "RemoteRecovery.exe", "WaitForConnection.exe"} {
			files[system+name] = Program(Kernel, "", 40_000+len(name))
		}
		files["sources/recovery/RecEnv.exe"] = Program(Kernel, "", 60_000)
	}
	if w.Winpeshl != "" {
		files[system+"winpeshl.ini"] = []byte(w.Winpeshl)
	}
	if w.Noise > 0 {
		files[system+"drivers/noise.sys"] = Program(Kernel, "", w.Noise)
	}
	for name, text := range w.Files {
		files[name] = []byte(text)
	}
	for _, name := range w.Without {
		delete(files, name)
	}
	return files
}

// TicketXML is an inv32.xml as RemoteRecovery.exe writes it, in UTF-16.
func TicketXML(code, address string, port int) []byte {
	text := fmt.Sprintf(`<E><A KH="YiKwWUY8Ioq5NB3wAQHSbs5kwrM=" ID="%s"/><C><T ID="1" SID="1440550163"><L P="%d" N="fe80::1%%12"/><L P="%d" N="%s"/></T></C></E>`, code, port-1, port, address)
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// SendTicket is what the agent does in a Windows PE that the machine has booted: it
// brings DaRT's ticket to the box, with the order's token.
func (m *Machine) SendTicket(server, token string, raw []byte) error {
	at, err := originOf(server + "/")
	if err != nil {
		return err
	}
	conn, err := m.Card.dial(at.server)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(httpTimeout))
	req, err := http.NewRequest(http.MethodPut, server+"/agent/ticket", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if err := req.Write(conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return fmt.Errorf("no answer to the ticket: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return &HTTPError{resp.StatusCode, string(text)}
	}
	return nil
}
