package boot

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rescuebox/appliance/boottest"
	"rescuebox/images"
	"rescuebox/images/bcd"
	"rescuebox/images/wim"
)

// dartImage is a Windows image with all that the import finds in a DaRT of today.
var dartImage = images.Image{Name: "dart", Kind: images.Windows, Title: "DaRT 10", Arch: "amd64", Up: images.Agent,
	Windows: &images.WindowsPE{WIM: "boot.wim", SDI: "boot.sdi", Index: 1, Build: "10.0.26100", DaRT: "10",
		WinloadBIOS: `\windows\system32\boot\winload.exe`, WinloadEFI: `\windows\system32\boot\winload.efi`,
		Has: dartHas, Fonts: []string{"wgl4_boot.ttf"}}}

var dartFiles = []string{"boot.sdi", "pxeboot.n12", "bootmgr.exe", "bootmgfw.efi", "bootmgfw_ex.efi", "wgl4_boot.ttf"}

// addWindows puts a Windows image into the library; without are files that its ISO did not have.
func addWindows(t testing.TB, c Config, i images.Image, wim []byte, without ...string) {
	t.Helper()
	files := map[string]io.Reader{"boot.wim": bytes.NewReader(wim)}
	for _, name := range dartFiles {
		switch {
		case slices.Contains(without, name):
		case strings.HasSuffix(name, ".efi"):
			files[name] = pe(peAMD64, name)
		default:
			files[name] = strings.NewReader(name)
		}
	}
	if _, err := c.Images.Add(i, files); err != nil {
		t.Fatal(err)
	}
}

func windowsConfig(t testing.TB) Config {
	t.Helper()
	c := chainConfig(t)
	addWindows(t, c, dartImage, []byte("no WIM, and nobody looks"))
	addWindows(t, c, with(dartImage, "nobios", nil), nil, "pxeboot.n12")
	addWindows(t, c, with(dartImage, "nosdi", func(w *images.WindowsPE) { w.SDI = "" }), nil, "boot.sdi")
	addWindows(t, c, with(dartImage, "old", nil), nil, "bootmgfw_ex.efi")
	addWindows(t, c, with(dartImage, "noefi", func(w *images.WindowsPE) { w.WinloadEFI = "" }), nil)
	set := images.Image{Name: "wimboot", Kind: images.BootSet}
	if _, err := c.Images.Add(set, map[string]io.Reader{"wimboot": pe(peAMD64, "wimboot")}); err != nil {
		t.Fatal(err)
	}
	return c
}

// with is an image under another name, and changed.
func with(i images.Image, name string, change func(*images.WindowsPE)) images.Image {
	w := *i.Windows
	if change != nil {
		change(&w)
	}
	i.Name, i.Windows = name, &w
	return i
}

func TestWindowsChains(t *testing.T) {
	base := windowsConfig(t)
	machine := func(edit func(*Machine)) func(*Config) { return func(c *Config) { edit(&c.Machines[0]) } }
	wimboot := func(chain Chain) func(*Config) {
		return machine(func(m *Machine) { m.BootSet, m.Chain = "wimboot", chain })
	}
	for _, test := range []struct {
		name  string
		setup func(*Config)
		image string
		arch  Arch
		want  string
	}{
		{"BIOS", nil, "dart", BIOS, "dart windows pxeboot.n12"},
		{"UEFI", nil, "dart", UEFIX64, "dart windows bootmgfw.efi"},
		{"UEFI by HTTP", nil, "dart", HTTPX64, "dart windows efi/boot/bootx64.efi"},
		{"a chain for Linux says nothing of Windows", func(c *Config) { c.Chain = ChainShim }, "dart", UEFIX64, "dart windows bootmgfw.efi"},
		{"nor does iPXE without wimboot", machine(func(m *Machine) { m.Chain = ChainIPXE }), "dart", UEFIX64, "dart windows bootmgfw.efi"},
		{"Microsoft's loaders on the whole site", func(c *Config) { c.Chain = ChainWindows }, "dart", BIOS, "dart windows pxeboot.n12"},
		{"BIOS with wimboot", wimboot(""), "dart", BIOS, "dart ipxe undionly.kpxe"},
		{"BIOS with the site's wimboot", func(c *Config) { c.BootSet = "wimboot" }, "dart", BIOS, "dart ipxe undionly.kpxe"},
		{"BIOS with wimboot, which the machine shall not take", wimboot(ChainWindows), "dart", BIOS, "dart windows pxeboot.n12"},
		{"UEFI with wimboot keeps to what is signed", wimboot(""), "dart", UEFIX64, "dart windows bootmgfw.efi"},
		{"UEFI with wimboot that was chosen", wimboot(ChainIPXE), "dart", UEFIX64, "dart ipxe snponly.efi"},
		{"no pxeboot.n12", nil, "nobios", BIOS, "refused: nobios has no pxeboot.n12, so srv01 cannot load it by BIOS without wimboot"},
		{"no pxeboot.n12, but wimboot", wimboot(""), "nobios", BIOS, "nobios ipxe undionly.kpxe"},
		{"no winload.efi", nil, "noefi", UEFIX64, "refused: noefi has no winload.efi, so it does not start by UEFI, as srv01 does"},
		{"32-bit UEFI", nil, "dart", UEFIIA32, "refused: dart is made for amd64 and the UEFI of srv01 is i386"},
		{"arm64", nil, "dart", UEFIARM64, "refused: dart is made for amd64 and srv01 is arm64"},
		{"the CA of 2023 on its word", machine(func(m *Machine) { m.LoaderCA = CA2023 }), "old", UEFIX64, "refused: old has no boot manager signed by Microsoft's CA of 2023, only of 2011"},
		{"which does not matter without Secure Boot", machine(func(m *Machine) { m.LoaderCA, m.SecureBoot = CA2023, SecureBootOff }), "old", UEFIX64, "old windows bootmgfw.efi"},
		{"Linux by Microsoft's loaders", func(c *Config) { c.Chain = ChainWindows }, "live", UEFIX64, "refused: live is no Windows image"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := another(t, base)
			if test.setup != nil {
				test.setup(&c)
			}
			table := New(c)
			arm(t, table, test.image, 0)
			if got := answer(table, Client{MAC: mac1, Arch: test.arch, Program: Firmware}); !strings.HasPrefix(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// What no machine could boot is refused when it is ordered, with what to do.
func TestWindowsArm(t *testing.T) {
	c := windowsConfig(t)
	table := New(c)
	_, err := table.Arm("srv01", "nosdi", "anna", 0)
	var no *Refusal
	if !errors.As(err, &no) || !strings.Contains(no.Reason, "no boot.sdi") || no.Hint == "" {
		t.Errorf("Arm without boot.sdi: %v", err)
	}
	if _, err := table.Arm("srv01", "nobios", "anna", 0); err != nil {
		t.Errorf("UEFI may do: %v", err)
	}
	answer(table, Client{MAC: mac1, Arch: BIOS, Program: Firmware})
	if _, err := table.Arm("srv01", "nobios", "anna", 0); !errors.As(err, &no) || !strings.Contains(no.Hint, "wimboot") {
		t.Errorf("the machine is a BIOS: %v", err)
	}
}

func TestWindowsWays(t *testing.T) {
	base := windowsConfig(t)
	for _, test := range []struct {
		arch  Arch
		setup func(*Config)
		want  string
	}{
		{BIOS, nil, "windows: pxeboot.n12 bootmgr.exe boot.sdi boot.wim"},
		{UEFIX64, nil, "windows: bootmgfw.efi boot.sdi boot.wim"},
		{UEFIX64, func(c *Config) { c.Machines[0].LoaderCA = CA2023 }, "windows: bootmgfw_ex.efi boot.sdi boot.wim"},
		{BIOS, func(c *Config) { c.BootSet = "wimboot" }, "ipxe: undionly.kpxe wimboot bootmgr.exe boot.sdi boot.wim"},
	} {
		c := another(t, base)
		if test.setup != nil {
			test.setup(&c)
		}
		table := New(c)
		answer(table, Client{MAC: mac1, Arch: test.arch, Program: Firmware})
		arm(t, table, "dart", 0)
		ways, errs := table.Ways("srv01")
		if len(ways) != 1 || len(errs) > 0 {
			t.Fatalf("%s: %d ways, %v", test.arch, len(ways), errs)
		}
		got := string(ways[0].Chain) + ":"
		for _, l := range ways[0].Links {
			got += " " + l.File.Name
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.arch, got, test.want)
		}
	}
}

// A boot manager that the firmware refuses goes out whole, and then its DHCP asks
// anew: it gets the other one, and what starts is remembered over a restart of the box.
func TestLoaderCA(t *testing.T) {
	c, store := windowsConfig(t), firmwareStore{}
	c.Firmware = store
	table := New(c)
	arm(t, table, "dart", 0)
	firmware := Client{MAC: mac1, Arch: UEFIX64, Program: Firmware}
	loads := func(table *Table) string {
		answer(table, firmware)
		return fetch(t, table, Path(mac1, "bootmgfw.efi"))
	}
	is := func(got, want string) {
		t.Helper()
		if !strings.HasSuffix(got, want) {
			t.Fatalf("got …%q, want %s", got[max(0, len(got)-20):], want)
		}
	}
	is(loads(table), "bootmgfw.efi")    // the one of 2011, which firmware refuses
	is(loads(table), "bootmgfw_ex.efi") // so that it gets the one of 2023
	is(loads(table), "bootmgfw.efi")    // that was refused too: the first may have been a power cut
	is(loads(table), "bootmgfw_ex.efi")
	fetch(t, table, "boot/525400123456/Boot/BCD") // it starts
	is(loads(table), "bootmgfw_ex.efi")
	if store["srv01"].LoaderCA != CA2023 {
		t.Errorf("kept %+v", store["srv01"])
	}
	table.NoteSecureBoot("srv01", SecureBootOn)
	is(loads(New(c)), "bootmgfw_ex.efi")
	texts := ""
	events, _ := table.Timeline(table.AllOrders(1)[0].ID)
	for _, e := range events {
		texts += e.Text + "\n"
	}
	if !strings.Contains(texts, "of the CA of 2011 was fetched and did not start") {
		t.Errorf("timeline:\n%s", texts)
	}
}

// capture is a WIM as an admin has it.
func capture(t testing.TB, pe boottest.WindowsPE) []byte {
	t.Helper()
	if _, err := exec.LookPath("wimlib-imagex"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("wimlib-imagex is missing: apt-get install wimtools")
		}
		t.Skip("no wimlib-imagex (Debian: wimtools)")
	}
	wim, err := pe.Capture(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(wim)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// extracted is a file of a WIM, by wimlib.
func extracted(t testing.TB, wim, path string) (string, error) {
	t.Helper()
	cmd := exec.Command("wimlib-imagex", "extract", wim, "1", path, "--to-stdout")
	cmd.Env = append(os.Environ(), "WIMLIB_IMAGEX_IGNORE_CASE=1")
	out, err := cmd.Output()
	return string(out), err
}

// Every path that Microsoft's loaders ask for is answered right, whatever its
// spelling; what is not there is no line in the timeline.
func TestWindowsPaths(t *testing.T) {
	c := windowsConfig(t)
	addWindows(t, c, dartImage, capture(t, boottest.WindowsPE{DaRT: true}))
	here := netip.MustParseAddr("192.168.77.100")
	c.MACOf = func(a netip.Addr) (MAC, bool) { return mac1, a == here }
	c.AgentFor = func(images.Image) ([]byte, error) { return []byte("MZ agent"), nil }
	table := New(c)
	arm(t, table, "dart", 0)
	for path, want := range map[string]string{
		`\Boot\BCD`:                       "regf",
		`\boot\bcd`:                       "regf",
		`boot\525400123456\Boot\BCD`:      "regf",
		"/efi/boot/BCD":                   "regf",
		"/efi/Microsoft/Boot/BCD":         "regf",
		"/boot/525400123456/efi/boot/BCD": "regf",
		// Whether HTTP Boot's paths begin at the server's root or at the boot file's is known of one loader only.
		"/boot/525400123456/efi/Microsoft/Boot/BCD":            "regf",
		"/boot/525400123456/boot/525400123456/boot.wim":        "MSWIM",
		`/boot\525400123456\boot\525400123456\boot.sdi`:        "boot.sdi",
		`\EFI\Microsoft\Boot\CiPolicies\Active\{82443E1E}.cip`: "",
		"//BOOT//525400123456//wimboot/efi/bcd":                "regf",
		"boot/525400123456/efi/boot/bootx64.efi":               "MZ",
		"boot/525400123456/BOOTMGFW.EFI":                       "MZ",
		`\boot\525400123456\bootmgr.exe`:                       "bootmgr.exe",
		`\Boot\boot.sdi`:                                       "boot.sdi",
		`\boot\525400123456\BOOT.SDI`:                          "boot.sdi",
		`\boot\fonts\WGL4_boot.ttf`:                            "wgl4_boot.ttf",
		`\boot\525400123456\boot.wim`:                          "MSWIM",
		"/sources/boot.wim":                                    "MSWIM",
		`\hiberfil.sys`:                                        "",
		`EFI\Microsoft\Boot\Policies\SiPolicy.p7b`:             "",
		"/efi/boot/en-US/bootx64.efi.MUI":                      "",
		"/efi/Microsoft/Boot/resources/bootres.dll":            "",
		`\Boot\Fonts\segoe_slboot.ttf`:                         "",
		"boot/525400123456/boot.stl":                           "",
	} {
		f, err := table.Open(path, here)
		var no *Refusal
		switch {
		case want == "" && (!errors.As(err, &no) || !no.Optional):
			t.Errorf("%s: %v, want an optional no", path, err)
		case want != "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case want != "":
			b := make([]byte, len(want))
			if io.ReadFull(f, b); string(b) != want {
				t.Errorf("%s: %q, want %q", path, b, want)
			}
			f.Close()
		}
	}
	events, _ := table.Timeline(table.AllOrders(1)[0].ID)
	for _, e := range events {
		if e.Step == StepRefused {
			t.Errorf("in the timeline: %s", e.Text)
		}
	}
}

// The order's WIM is the same bytes each time, has the order's files in it, and only its machine gets it.
func TestOrderedWIM(t *testing.T) {
	c := windowsConfig(t)
	base := capture(t, boottest.WindowsPE{DaRT: true})
	addWindows(t, c, dartImage, base)
	addWindows(t, c, with(dartImage, "plain", func(w *images.WindowsPE) { w.DaRT, w.Has = "", plainHas }), base)
	here := netip.MustParseAddr("192.168.77.100")
	c.MACOf = func(a netip.Addr) (MAC, bool) {
		if a == here {
			return mac1, true
		}
		return foreign, true
	}
	var agent []byte
	calls := 0
	c.AgentFor = func(images.Image) ([]byte, error) {
		calls++
		if agent == nil {
			return nil, errors.New("it is not installed")
		}
		return agent, nil
	}
	agent = bytes.Repeat([]byte("MZ agent"), 10_000)
	table := New(c)
	o := arm(t, table, "dart", 0)
	path := Path(mac1, "boot.wim")
	if _, err := table.Open(path, netip.MustParseAddr("192.168.77.66")); err == nil {
		t.Error("another machine got the order's token")
	}
	first, err := table.Open(path, here)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Personal || first.SHA256 != "" || first.Name != "boot.wim" || calls != 1 {
		t.Errorf("%+v, %d calls", first, calls)
	}
	first.Close()
	got := fetch(t, table, path)
	if again := fetch(t, table, `\BOOT\525400123456\BOOT.WIM`); again != got || calls != 1 {
		t.Errorf("another WIM the second time, %d calls", calls)
	}
	if fetch(t, New(c), path) != got { // the box was restarted in mid-transfer
		t.Error("another WIM after a restart")
	}
	if got[208:len(base)] != string(base[208:]) {
		t.Error("the image's own bytes changed")
	}
	wim := filepath.Join(t.TempDir(), "boot.wim")
	os.WriteFile(wim, []byte(got), 0o644)
	if out, err := exec.Command("wimlib-imagex", "verify", wim).CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
	ini, _ := extracted(t, wim, "/windows/system32/winpeshl.ini")
	program, _ := extracted(t, wim, "/windows/system32/rescue-agent.exe")
	config, _ := extracted(t, wim, "/windows/system32/rescue-agent.json")
	if !strings.Contains(ini, lineAgent) || program != string(agent) {
		t.Errorf("winpeshl.ini %q, agent of %d bytes", ini, len(program))
	}
	var told map[string]any
	if err := json.Unmarshal([]byte(config), &told); err != nil || told["token"] != o.Token || told["order"] != o.ID ||
		told["machine"] != "srv01" || told["server"] != "http://192.168.77.1" || told["dart"] != true {
		t.Errorf("%v %v", told, err)
	}
	// Without an agent the image boots all the same, and the timeline says what that means.
	agent = nil
	o = arm(t, table, "dart", 0)
	os.WriteFile(wim, []byte(fetch(t, table, path)), 0o644)
	if ini, _ = extracted(t, wim, "/windows/system32/winpeshl.ini"); !strings.Contains(ini, "RemoteRecovery.exe") {
		t.Errorf("winpeshl.ini %q", ini)
	}
	events, _ := table.Timeline(o.ID)
	if n := slices.IndexFunc(events, func(e Event) bool { return e.Key == "no-agent" && strings.Contains(e.Text, "not installed") }); n < 0 {
		t.Errorf("timeline %+v", events)
	}
	arm(t, table, "plain", 0)
	if fetch(t, table, path) != string(base) {
		t.Error("a plain Windows PE without an agent is not what was imported")
	}
}

// A machine's order of another image, a damaged WIM: refused in words.
func TestOrderedWIMDamaged(t *testing.T) {
	c := windowsConfig(t)
	c.AgentFor = func(images.Image) ([]byte, error) { return []byte("MZ"), nil }
	table := New(c)
	arm(t, table, "dart", 0)
	_, err := table.Open(Path(mac1, "boot.wim"), netip.Addr{})
	var no *Refusal
	if !errors.As(err, &no) || !strings.Contains(no.Reason, "boot.wim of dart") || !strings.Contains(no.Hint, "dart") {
		t.Errorf("%v", err)
	}
}

// The configuration is that for the machine's firmware, which a file's request does not tell: by
// DHCP, by what it loaded before a restart of the box, by the path at last.
func TestWindowsFirmware(t *testing.T) {
	base := windowsConfig(t)
	winload := func(table *Table, path string) string {
		f, err := table.Open(path, netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(f)
		if bytes.Contains(b, utf16le(".efi")) {
			return "efi"
		}
		return "bios"
	}
	for _, test := range []struct {
		name  string
		arch  Arch
		loads string
		path  string
		want  string
	}{
		{"DHCP: BIOS", BIOS, "", "boot/525400123456/bcd", "bios"},
		{"DHCP: UEFI", UEFIX64, "", "boot/525400123456/bcd", "efi"},
		{"DHCP: HTTP Boot", HTTPX64, "", "boot/525400123456/bcd", "efi"},
		{"the box was restarted: BIOS", UnknownArch, "bootmgr.exe", "boot/525400123456/bcd", "bios"},
		{"the box was restarted: UEFI", UnknownArch, "bootmgfw.efi", "boot/525400123456/bcd", "efi"},
		{"a path of UEFI", UnknownArch, "", "boot/525400123456/efi/boot/bcd", "efi"},
		{"nothing is known", UnknownArch, "", "boot/525400123456/boot/bcd", "bios"},
		{"wimboot on a BIOS", UEFIX64, "", "boot/525400123456/wimboot/pcbios/bcd", "bios"},
		{"wimboot under UEFI", BIOS, "", "boot/525400123456/wimboot/efi/bcd", "efi"},
	} {
		c := another(t, base)
		table := New(c)
		arm(t, table, "dart", 0)
		if test.arch != UnknownArch {
			answer(table, Client{MAC: mac1, Arch: test.arch, Program: Firmware})
		}
		if test.loads != "" {
			fetch(t, table, Path(mac1, test.loads))
			table = New(c)
		}
		if got := winload(table, test.path); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// The configuration names paths that bear the machine's MAC, and blocks that its ROM stands.
func TestBootConfiguration(t *testing.T) {
	c := windowsConfig(t)
	small := 0
	c.BlockSize = func(MAC) int { return small }
	table := New(c)
	arm(t, table, "dart", 0)
	answer(table, Client{MAC: mac1b, Arch: UEFIX64, Program: Firmware})
	want := bcd.Store{EFI: true, Loader: `\windows\system32\boot\winload.efi`, WIM: `\boot\525400123457\boot.wim`, SDI: `\boot\525400123457\boot.sdi`,
		BlockSize: 1456, Window: 8, VariableWindow: true, Description: "DaRT 10"}
	for path, change := range map[string]func(*bcd.Store){
		"boot/525400123457/boot/bcd":        func(*bcd.Store) { small = 0 },
		"boot/525400123457/efi/boot/bcd":    func(s *bcd.Store) { small, s.BlockSize = 1024, 1024 },
		"boot/525400123457/wimboot/efi/bcd": func(s *bcd.Store) { s.WIM, s.SDI = `\Boot\boot.wim`, `\Boot\boot.sdi` },
	} {
		want := want
		change(&want)
		if got := fetch(t, table, path); got != string(want.Bytes()) {
			t.Errorf("%s is not %+v", path, want)
		}
	}
}

func utf16le(s string) (b []byte) {
	for _, c := range []byte(s) {
		b = append(b, c, 0)
	}
	return b
}

func TestWindowsScript(t *testing.T) {
	base := windowsConfig(t)
	for _, test := range []struct {
		name  string
		setup func(*Config)
		want  string
	}{
		{"wimboot", func(c *Config) { c.BootSet = "wimboot" }, `kernel http://192.168.77.1/boot/525400123456/wimboot || goto again
iseq ${platform} efi && goto efi ||
initrd --name bootmgr.exe http://192.168.77.1/boot/525400123456/bootmgr.exe bootmgr.exe || goto again
goto windows
:efi
initrd --name bootx64.efi http://192.168.77.1/boot/525400123456/wimboot/bootx64.efi bootx64.efi || goto again
:windows
initrd --name bcd http://192.168.77.1/boot/525400123456/wimboot/${platform}/bcd bcd || goto again
initrd --name wgl4_boot.ttf http://192.168.77.1/boot/525400123456/wgl4_boot.ttf wgl4_boot.ttf || goto again
initrd --name boot.sdi http://192.168.77.1/boot/525400123456/boot.sdi boot.sdi || goto again
initrd --name boot.wim http://192.168.77.1/boot/525400123456/boot.wim boot.wim || goto again
imgfetch --name loaded http://192.168.77.1/boot/525400123456/loaded && imgfree loaded ||
boot || goto again
`},
		{"an iPXE in the ROM, and no wimboot", nil, `iseq ${platform} efi && set loader bootmgfw.efi || set loader pxeboot.n12
:load
ifopen ||
imgfree
chain tftp://192.168.77.1/boot/525400123456/${loader} || goto again
`},
	} {
		c := another(t, base)
		if test.setup != nil {
			test.setup(&c)
		}
		table := New(c)
		arm(t, table, "dart", 0)
		if got := answer(table, Client{MAC: mac1, Arch: BIOS, Program: IPXE}); got != "dart ipxe boot.ipxe" {
			t.Errorf("%s: %s", test.name, got)
		}
		if got := fetch(t, table, Path(mac1, "boot.ipxe")); !strings.Contains(got, test.want) || !strings.HasPrefix(got, "#!ipxe\n") || !strings.Contains(got, ":give_up") {
			t.Errorf("%s:\n%s\nwant:\n%s", test.name, got, test.want)
		}
	}
}

// An order's life: its files are progress, and the agent's report ends it.
func TestWindowsOrder(t *testing.T) {
	c := windowsConfig(t)
	addWindows(t, c, dartImage, capture(t, boottest.WindowsPE{}))
	table := New(c)
	o := arm(t, table, "dart", time.Hour)
	fetch(t, table, Path(mac1, "bootmgfw.efi"))
	fetch(t, table, "boot/525400123456/boot/bcd")
	for _, f := range []string{"boot.sdi", "boot.wim"} {
		fetch(t, table, Path(mac1, f))
	}
	got, open := table.OpenOrder("srv01")
	if !open || got.State != Booting || !slices.Equal(got.Served, []string{"bootmgfw.efi", "boot.sdi", "boot.wim"}) {
		t.Fatalf("%+v", got)
	}
	if err := table.Up(o.ID); err != nil {
		t.Fatal(err)
	}
	if _, open := table.OpenOrder("srv01"); open {
		t.Error("the order is still open")
	}
}

// An overlay is made once for all who ask for it at a time, again after a failure, and only so many are kept.
func TestOverlays(t *testing.T) {
	var l overlays
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			l.of(overlayKey{"1", "a", 1}, func(*overlay) error { made.Add(1); return nil })
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
	failed := errors.New("the disk")
	for _, want := range []error{failed, nil} {
		if _, err := l.of(overlayKey{"2", "a", 1}, func(*overlay) error { return want }); err != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
	for i := range 3 * maxOverlays {
		l.of(overlayKey{strconv.Itoa(i), "b", 1}, func(*overlay) error { return nil })
	}
	l.forget(strconv.Itoa(3*maxOverlays - 4))
	if len(l.list) != maxOverlays-1 {
		t.Errorf("%d are kept", len(l.list))
	}
}

// Orders of one image share what is large in them: the image's tree and the agent. That the
// second is made without the image's file shows that the tree is not unpacked again.
func TestOverlaysShare(t *testing.T) {
	base := capture(t, boottest.WindowsPE{})
	f := &File{Size: int64(len(base)), SHA256: "a"}
	var l overlays
	order := func(id string, from io.ReaderAt) *wim.Patch {
		o, err := l.of(overlayKey{id, "a", 1}, func(o *overlay) error {
			return o.make(from, f, []wim.Added{{Name: agentName, Data: bytes.Repeat([]byte("MZ agent"), 10_000)}, {Name: agentConfigName, Data: []byte(id)}})
		})
		if err != nil {
			t.Fatal(err)
		}
		return o.patch
	}
	first := order("1", bytes.NewReader(base))
	second := order("2", bytes.NewReader(nil))
	same := 0
	for _, a := range first.Tail {
		for _, b := range second.Tail {
			if &a[0] == &b[0] {
				same += len(a)
			}
		}
	}
	if same < 80_000 {
		t.Errorf("two orders share %d bytes, less than the agent has", same)
	}
	if slices.Equal(first.Header, second.Header) && first.Sum == second.Sum {
		t.Error("two orders have the same bytes")
	}
	l.forget("1")
	l.forget("2")
	if len(l.list) > 0 {
		t.Errorf("%d are kept", len(l.list))
	}
}
