package boot

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"rescuebox/images"
)

// pe is the head of a UEFI program for a machine type (PE format, section
// "COFF file header"), and then a text that tells which one it is.
func pe(machine uint16, text string) io.Reader {
	b := make([]byte, 512)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], 64)
	copy(b[64:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(b[68:], machine)
	binary.LittleEndian.PutUint16(b[68+16:], 240)   // size of the optional header
	binary.LittleEndian.PutUint16(b[68+18:], 0x22)  // executable, large addresses
	binary.LittleEndian.PutUint16(b[68+20:], 0x20b) // PE32+
	binary.LittleEndian.PutUint32(b[68+20+60:], 512)
	binary.LittleEndian.PutUint16(b[68+20+68:], 10) // EFI application
	binary.LittleEndian.PutUint32(b[68+20+108:], 16)
	if machine == peI386 {
		binary.LittleEndian.PutUint16(b[68+16:], 224)
		binary.LittleEndian.PutUint16(b[68+20:], 0x10b) // PE32
		binary.LittleEndian.PutUint32(b[68+20+92:], 16)
	}
	return io.MultiReader(bytes.NewReader(b), strings.NewReader(text))
}

var (
	from100 = netip.MustParseAddr("192.168.77.100")
	from101 = netip.MustParseAddr("192.168.77.101")
	from102 = netip.MustParseAddr("192.168.77.102")
)

const (
	peAMD64 = 0x8664
	peARM64 = 0xaa64
	peI386  = 0x14c
)

// chainConfig has what Debian's packages bring for three CPUs, the rescue image for two of them, and a signed iPXE of the admin's.
func chainConfig(t testing.TB) Config {
	t.Helper()
	c := testConfig(t, newMemory())
	add := func(i images.Image, files map[string]io.Reader) {
		if _, err := c.Images.Add(i, files); err != nil {
			t.Fatal(err)
		}
	}
	add(images.Image{Name: "ipxe", Kind: images.BootSet}, map[string]io.Reader{
		"undionly.kpxe": strings.NewReader("bios nbp"), "snponly.efi": pe(peAMD64, "ipxe")})
	add(images.Image{Name: "shim", Kind: images.BootSet}, map[string]io.Reader{
		"shimx64.efi": pe(peAMD64, "shim"), "grubx64.efi": pe(peAMD64, "grub"), "grubia32.efi": pe(peI386, "grub")})
	add(images.Image{Name: "signed", Kind: images.BootSet}, map[string]io.Reader{
		"snponly-shimx64.efi": pe(peAMD64, "shim"), "snponly.efi": pe(peAMD64, "signed ipxe")})
	add(images.Image{Name: "rescue-arm64", Kind: images.Linux, Arch: "arm64", Kernel: "vmlinuz", Up: images.Agent}, map[string]io.Reader{
		"vmlinuz": strings.NewReader("arm kernel"), "shimaa64.efi": pe(peARM64, "shim"), "grubaa64.efi": pe(peARM64, "grub")})
	iso := bytes.Repeat([]byte("."), 4096)
	add(images.Image{Name: "live", Kind: images.Linux, Title: `A "live" $system`, Arch: "amd64", Kernel: "vmlinuz", Initrd: []string{"a.img", "b.img"}, Up: images.Served,
		Cmdline: `quiet url={{.URL}}/x token={{.Token}} what=it's a;b`, ISO: &images.ISO{File: "live.iso", ConfigAt: 100, ConfigSize: 2048}},
		map[string]io.Reader{"vmlinuz": strings.NewReader("kernel"), "a.img": strings.NewReader("a"), "b.img": strings.NewReader("b"), "live.iso": bytes.NewReader(iso)})
	return c
}

// another is the same site with a library and a store of its own. A copy spares
// the disk what Add brings to it.
func another(t *testing.T, c Config) Config {
	t.Helper()
	lib, m := &images.Library{Dir: t.TempDir()}, newMemory()
	if err := os.CopyFS(lib.Dir, os.DirFS(c.Images.Dir)); err != nil {
		t.Fatal(err)
	}
	c.Machines = slices.Clone(c.Machines)
	c.Images, c.Orders, c.Events, c.Adopted = lib, orderStore{m}, m, machineStore{m}
	return c
}

func TestChains(t *testing.T) {
	base := chainConfig(t)
	site := func(chain Chain) func(*Config) { return func(c *Config) { c.Chain = chain } }
	machine := func(edit func(*Machine)) func(*Config) {
		return func(c *Config) { edit(&c.Machines[0]) }
	}
	secureBoot := func(s SecureBoot) func(*Config) { return machine(func(m *Machine) { m.SecureBoot = s }) }
	for _, test := range []struct {
		name  string
		setup func(c *Config)
		image string
		arch  Arch
		want  string
	}{
		{"by default UEFI gets what starts with Secure Boot on or off", nil, "live", UEFIX64, "live shim shimx64.efi"},
		{"architecture 9 too", nil, "live", UEFIEBC, "live shim shimx64.efi"},
		{"BIOS", nil, "live", BIOS, "live ipxe undionly.kpxe"},
		{"BIOS has no shim", site(ChainShim), "live", BIOS, "live ipxe undionly.kpxe"},
		{"Secure Boot on", secureBoot(SecureBootOn), "live", UEFIX64, "live shim shimx64.efi"},
		{"Secure Boot off", secureBoot(SecureBootOff), "live", UEFIX64, "live ipxe snponly.efi"},
		{"the site's chain", site(ChainIPXE), "live", UEFIX64, "live ipxe snponly.efi"},
		{"the machine's chain goes before", func(c *Config) { c.Chain, c.Machines[0].Chain = ChainIPXE, ChainShim }, "live", UEFIX64, "live shim shimx64.efi"},
		{"a pinned chain is not left", func(c *Config) { c.Chain = ChainShim; remove(c, "shim") }, "live", UEFIX64,
			"refused: srv01 asks as UEFI x64 (7), and there is no boot program for that: chain shim on amd64"},
		{"without shim iPXE is better than nothing", func(c *Config) { remove(c, "shim") }, "live", UEFIX64, "live ipxe snponly.efi"},
		{"a signed iPXE that was put in is meant to be used", func(c *Config) { c.BootSet = "signed" }, "live", UEFIX64, "live ipxe snponly-shimx64.efi"},
		{"for one machine", machine(func(m *Machine) { m.BootSet = "signed" }), "live", UEFIX64, "live ipxe snponly-shimx64.efi"},
		{"the machine's boot set has no iPXE, the site's a signed one", func(c *Config) { c.BootSet, c.Machines[0].BootSet = "signed", "shim" }, "live", UEFIX64, "live ipxe snponly-shimx64.efi"},
		{"a boot set changes nothing for BIOS", func(c *Config) { c.BootSet = "signed" }, "live", BIOS, "live ipxe undionly.kpxe"},
		{"Windows' loaders bring Windows", site(ChainWindows), "live", UEFIX64, "refused: live is no Windows image"},

		{"HTTP Boot gets the ISO", nil, "live", HTTPX64, "live shim live.iso"},
		{"HTTP Boot, Secure Boot off", secureBoot(SecureBootOff), "live", HTTPX64, "live ipxe snponly.efi"},
		{"HTTP Boot, no ISO", nil, "rescue", HTTPX64, "rescue ipxe snponly.efi"},
		{"HTTP Boot, no ISO, shim insisted on", site(ChainShim), "rescue", HTTPX64, "refused: rescue cannot reach srv01 by HTTP Boot with Secure Boot: the image has no ISO"},
		{"BIOS by HTTP", nil, "live", HTTPBIOS, "live ipxe undionly.kpxe"},

		{"arm64 takes the image made for it", nil, "rescue-arm64", UEFIARM64, "rescue-arm64 shim shimaa64.efi"},
		{"amd64 image, no arm64 variant", nil, "live", UEFIARM64, "refused: live is made for amd64 and srv01 is arm64"},
		{"arm64 image, amd64 machine", nil, "rescue-arm64", UEFIX64, "refused: rescue-arm64 is made for arm64 and srv01 is amd64"},
		{"no iPXE for arm64", site(ChainIPXE), "rescue-arm64", UEFIARM64, "refused: srv01 asks as UEFI arm64 (11), and there is no boot program for that: chain ipxe on arm64"},
		{"ia32 gets a 32-bit loader, with a 64-bit kernel", nil, "live", UEFIIA32, "live shim grubia32.efi"},
		{"ia32 never gets the x64 file", func(c *Config) { remove(c, "shim") }, "live", UEFIIA32,
			"refused: srv01 asks as UEFI ia32 (6), and there is no boot program for that: chain shim on i386"},
		{"ia32 by HTTP Boot never gets x64 loaders in an ISO", nil, "live", HTTPIA32,
			"refused: live cannot reach srv01 by HTTP Boot: the loaders in its ISO are for amd64, the firmware is i386"},
		{"arm32", nil, "rescue", UEFIARM32, "refused: srv01 asks as UEFI arm32 (10), and there is no boot program for that"},
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

func remove(c *Config, set string) { os.RemoveAll(c.Images.Dir + "/" + set) }

// An order is refused for what the machine would be given damaged, and for nothing else.
func TestArmLooksAtWhatTheMachineNeeds(t *testing.T) {
	base := chainConfig(t)
	if _, err := base.Images.Add(images.Image{Name: "rescue", Kind: images.Linux, Arch: "amd64", Kernel: "vmlinuz", Up: images.Agent},
		map[string]io.Reader{"vmlinuz": strings.NewReader("x64 kernel")}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		seen    Arch
		image   string
		damaged string // file of the library
		refused bool
	}{
		"BIOS needs no shim":                 {BIOS, "live", "shim/grubx64.efi", false},
		"UEFI does":                          {UEFIX64, "live", "shim/grubx64.efi", true},
		"UEFI needs no undionly":             {UEFIX64, "live", "ipxe/undionly.kpxe", false},
		"BIOS does":                          {BIOS, "live", "ipxe/undionly.kpxe", true},
		"nobody knows: UEFI":                 {UnknownArch, "live", "shim/shimx64.efi", true},
		"nobody knows: BIOS":                 {UnknownArch, "live", "ipxe/undionly.kpxe", true},
		"a boot set that nobody chose":       {UnknownArch, "live", "signed/snponly.efi", false},
		"the image's own root, for any":      {UEFIX64, "live", "live/live.iso", true},
		"arm64 takes its own image":          {UEFIARM64, "rescue", "rescue/vmlinuz", false},
		"which must be whole":                {UEFIARM64, "rescue", "rescue-arm64/vmlinuz", true},
		"no way at all: the image, at least": {UEFIARM64, "live", "live/vmlinuz", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := another(t, base)
			table := New(c)
			if test.seen != UnknownArch {
				answer(table, Client{MAC: mac1, Arch: test.seen, Program: Firmware})
			}
			if err := os.WriteFile(c.Images.Dir+"/"+test.damaged, []byte("?"), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := table.Arm("srv01", test.image, "anna", 0)
			if _, file, _ := strings.Cut(test.damaged, "/"); test.refused != (err != nil) || err != nil && !strings.Contains(err.Error(), file) {
				t.Errorf("Arm: %v", err)
			}
		})
	}
}

// An order for rescue takes what is made for the machine's CPU, also for files,
// whose requests do not say it, and after a restart of the box.
func TestVariant(t *testing.T) {
	c := chainConfig(t)
	c.Images.Add(images.Image{Name: "rescue", Kind: images.Linux, Arch: "amd64", Kernel: "vmlinuz", Up: images.Agent},
		map[string]io.Reader{"vmlinuz": strings.NewReader("x64 kernel")})
	table := New(c)
	arm(t, table, "rescue", 0)
	arm64 := Client{MAC: mac1, Arch: UEFIARM64, Program: Firmware}
	if got := answer(table, arm64); got != "rescue-arm64 shim shimaa64.efi" {
		t.Errorf("got %q", got)
	}
	for _, table := range []*Table{table, New(c)} {
		if got := fetch(t, table, "boot/525400123456/vmlinuz"); got != "arm kernel" {
			t.Errorf("the machine got %q", got)
		}
	}
}

// 32-bit firmware gets the 64-bit kernel too, which is a program for another CPU by its head.
func TestKernelFor32BitFirmware(t *testing.T) {
	c := chainConfig(t)
	if _, err := c.Images.Add(images.Image{Name: "pe", Kind: images.Linux, Arch: "amd64", Kernel: "vmlinuz", Up: images.Agent},
		map[string]io.Reader{"vmlinuz": pe(peAMD64, "kernel")}); err != nil {
		t.Fatal(err)
	}
	table := New(c)
	arm(t, table, "pe", 0)
	if got := answer(table, Client{MAC: mac1, Arch: UEFIIA32, Program: Firmware}); got != "pe shim grubia32.efi" {
		t.Errorf("got %q", got)
	}
	if got := fetch(t, table, "boot/525400123456/vmlinuz"); !strings.HasSuffix(got, "kernel") {
		t.Errorf("got %q", got)
	}
}

// Boot programs of one name for several CPUs do not stand in for each other.
func TestLoaderOfTheMachinesCPU(t *testing.T) {
	c := chainConfig(t)
	if _, err := c.Images.Add(images.Image{Name: "arm", Kind: images.BootSet}, map[string]io.Reader{"snponly.efi": pe(peARM64, "arm ipxe")}); err != nil {
		t.Fatal(err)
	}
	c.BootSet, c.Chain = "arm", ChainIPXE
	table := New(c)
	arm(t, table, "live", 0)
	if got := answer(table, Client{MAC: mac1, Arch: UEFIX64, Program: Firmware}); got != "live ipxe snponly.efi" {
		t.Errorf("got %q", got)
	}
	if got := fetch(t, table, "boot/525400123456/snponly.efi"); !strings.HasSuffix(got, "ipxe") || strings.HasSuffix(got, "arm ipxe") {
		t.Errorf("x64 firmware got %q", got[512:])
	}
}

// What an agent reports of Secure Boot chooses the next chain, over restarts;
// the file of the site goes before it.
func TestSecureBootIsRemembered(t *testing.T) {
	c := chainConfig(t)
	kept := firmwareStore{}
	c.Firmware = kept
	table := New(c)
	arm(t, table, "live", 0)
	uefi := Client{MAC: mac1, Arch: UEFIX64, Program: Firmware}
	table.NoteSecureBoot("srv01", SecureBootOff)
	table.NoteSecureBoot("nobody", SecureBootOff)
	table.NoteSecureBoot("srv01", "")
	for _, table := range []*Table{table, New(c)} {
		if got := answer(table, uefi); got != "live ipxe snponly.efi" || table.SecureBoot("srv01") != SecureBootOff {
			t.Errorf("got %q, Secure Boot %q", got, table.SecureBoot("srv01"))
		}
	}
	if len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
	c.Machines[0].SecureBoot = SecureBootOn
	if got := answer(New(c), uefi); got != "live shim shimx64.efi" {
		t.Errorf("the file says on: got %q", got)
	}
}

// Secure Boot that was switched on since the last report costs one attempt, not the night.
func TestSecureBootMayHaveChanged(t *testing.T) {
	uefi := Client{MAC: mac1, Arch: UEFIX64, Program: Firmware}
	ipxe := Client{MAC: mac1, Arch: UEFIX64, Program: IPXE}
	for name, test := range map[string]struct {
		configured SecureBoot
		started    bool // iPXE is heard of
		want       string
	}{
		"iPXE was refused":                       {"", false, "live shim shimx64.efi"},
		"iPXE started":                           {"", true, "live ipxe snponly.efi"},
		"the file of the site knows it for sure": {SecureBootOff, false, "live ipxe snponly.efi"},
	} {
		t.Run(name, func(t *testing.T) {
			c := chainConfig(t)
			c.Machines[0].SecureBoot, c.Firmware = test.configured, firmwareStore{}
			table := New(c)
			arm(t, table, "live", 0)
			table.NoteSecureBoot("srv01", SecureBootOff)
			for range 3 { // DISCOVER, REQUEST, and that on port 4011
				if got := answer(table, uefi); got != "live ipxe snponly.efi" {
					t.Fatalf("got %q", got)
				}
			}
			fetch(t, table, Path(mac1, "snponly.efi"))
			if test.started {
				answer(table, ipxe)
			}
			if got := answer(table, uefi); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if got := answer(New(c), uefi); got != test.want {
				t.Errorf("after a restart got %q, want %q", got, test.want)
			}
		})
	}
}

type firmwareStore map[string]FirmwareState

func (s firmwareStore) Put(k string, f FirmwareState) error { s[k] = f; return nil }
func (s firmwareStore) All() (all []FirmwareState, err error) {
	for _, f := range s {
		all = append(all, f)
	}
	return all, nil
}

// GRUB finds its configuration by whatever name it asks for first, and a
// shell of its own takes it; the order's token reaches the kernel as it is.
func TestGRUB(t *testing.T) {
	c := chainConfig(t)
	table := New(c)
	o := arm(t, table, "live", 0)
	want := fetch(t, table, "/grub/grub.cfg-01-52-54-00-12-34-56")
	for _, path := range []string{"boot/525400123456/grub.cfg", "boot/52:54:00:12:34:56/grub.cfg", "/boot/525400123456/grub/x86_64-efi/grub.cfg"} {
		if got := fetch(t, table, path); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	script, err := exec.LookPath("grub-script-check")
	if err != nil {
		needed(t, "grub-script-check", "grub-common")
	}
	check := exec.Command(script)
	check.Stdin = strings.NewReader(want)
	if said, err := check.CombinedOutput(); err != nil {
		t.Errorf("grub-script-check: %v: %s\n%s", err, said, want)
	}
	for _, part := range []string{
		`linux '(tftp,192.168.77.1)/boot/525400123456/vmlinuz' 'quiet' 'url=http://192.168.77.1/boot/525400123456/x' 'token=` + o.Token + `' 'what=it'\''s' 'a;b'; then`,
		`initrd '(tftp,192.168.77.1)/boot/525400123456/a.img' '(tftp,192.168.77.1)/boot/525400123456/b.img'; then`,
		`boots A  live   system on srv01.`,
	} {
		if !strings.Contains(want, part) {
			t.Errorf("%q is not in\n%s", part, want)
		}
	}
}

// From an address that nothing is known of GRUB is sent on to the
// configuration of its MAC.
func TestGRUBIsToldToAskByMAC(t *testing.T) {
	table := New(chainConfig(t))
	arm(t, table, "live", 0)
	if got := fetch(t, table, "/grub/grub.cfg"); got != "configfile (tftp,192.168.77.1)/boot/$net_default_mac/grub.cfg\n" {
		t.Errorf("got %q", got)
	}
	for _, path := range []string{"/boot//grub.cfg", "/boot/net0/grub.cfg"} { // a GRUB that knows no MAC must not go round in circles
		if f, err := table.Open(path, from102); err == nil {
			t.Errorf("%s leads to %s", path, f.Name)
		}
	}
}

// A machine whose order ended while its loader started does not wait at GRUB's prompt for ever.
func TestGRUBGoesOnWithoutOrder(t *testing.T) {
	table := New(chainConfig(t))
	o := arm(t, table, "live", 0)
	if _, err := table.Cancel("srv01", "anna"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/grub/grub.cfg-01-52-54-00-12-34-56", "boot/525400123456/grub.cfg"} {
		if got := fetch(t, table, path); got != "echo \"srv01 has no order\"\nsleep 5\nexit\n" || strings.Contains(got, o.Token) {
			t.Errorf("%s: %q", path, got)
		}
	}
	if _, err := table.Open("boot/525400123456/vmlinuz", from100); err == nil {
		t.Error("other files are still there")
	}
}

// What a loader can do without is answered "no" and not told.
func TestOptionalFiles(t *testing.T) {
	c := chainConfig(t)
	table := New(c)
	o := arm(t, table, "live", 0)
	for _, name := range []string{"grub/x86_64-efi/command.lst", "grub.cfg-c0a84d64", "revocations_sbat.efi", "oader/revocations.efi", "shim_certificate_0.efi"} {
		if _, err := table.Open("boot/525400123456/"+name, from100); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	if events, _ := table.Timeline(o.ID); len(events) != 1 {
		t.Errorf("the timeline tells of %v", events[1:])
	}
}

// The ISO is the image's own, with the order's arguments in their place; it has
// the token in it and goes to nobody else. It ends an order of an image that is up when served.
func TestISO(t *testing.T) {
	c := chainConfig(t)
	c.MACOf = func(a netip.Addr) (MAC, bool) {
		return map[netip.Addr]MAC{from100: mac1, from101: foreign}[a], a != from102
	}
	table := New(c)
	o := arm(t, table, "live", 0)
	if _, err := table.Open("boot/525400123456/live.iso", from101); err == nil || !strings.Contains(err.Error(), "is not for") {
		t.Errorf("another machine: %v", err)
	}
	f, err := table.Open("boot/525400123456/live.iso", from100)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.ReadSeeker.(*images.Overlay); !ok {
		t.Errorf("%T cannot go out by sendfile", f.ReadSeeker)
	}
	got, err := io.ReadAll(f)
	if err != nil || len(got) != 4096 || f.Size != 4096 {
		t.Fatalf("%d bytes of %d, %v", len(got), f.Size, err)
	}
	line := `set rescuebox_args="quiet url=http://192.168.77.1/boot/525400123456/x token=` + o.Token + ` what=it's a;b"` + "\n"
	if text := string(got[100 : 100+2048]); text != line+strings.Repeat("\n", 2048-len(line)) {
		t.Errorf("in its place is %q", text)
	}
	if rest := slices.Concat(got[:100], got[2148:]); !bytes.Equal(rest, bytes.Repeat([]byte("."), len(rest))) {
		t.Error("something else was changed")
	}
	again, err := table.Open("boot/525400123456/live.iso", from100)
	if err != nil || again.Tag != f.Tag || f.Tag == "" {
		t.Errorf("tags %q and %q, %v", f.Tag, again.Tag, err)
	}
	again.Close()
	table.Served(f)
	if _, open := table.OpenOrder("srv01"); open {
		t.Error("the order is still open")
	}
	arm(t, table, "live", 0)
	other, err := table.Open("boot/525400123456/live.iso", from100)
	if err != nil || other.Tag == f.Tag {
		t.Errorf("another order has the same tag, %v", err)
	}
	other.Close()
}

// needed fails a test that lacks its tool, but on a developer's machine skips it.
func needed(t *testing.T, tool, pkg string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: apt-get install %s", tool, pkg)
	}
	t.Skipf("%s is missing: apt-get install %s", tool, pkg)
}

// An iPXE that was started with Secure Boot has the kernel checked by its distribution's shim.
func TestScriptNamesShim(t *testing.T) {
	c := chainConfig(t)
	c.BootSet = "signed"
	table := New(c)
	arm(t, table, "live", 0)
	answer(table, Client{MAC: mac1, Arch: UEFIX64, Program: IPXE})
	want := "initrd http://192.168.77.1/boot/525400123456/b.img || goto again\n" +
		"iseq ${platform} efi && shim http://192.168.77.1/boot/525400123456/shimx64.efi ||\nimgfetch"
	for _, name := range []string{"boot/525400123456/boot.ipxe", "boot/525400123456/autoexec.ipxe"} {
		if got := fetch(t, table, name); !strings.Contains(got, want) {
			t.Errorf("%s: %q is not in\n%s", name, want, got)
		}
	}
}

// What a machine would load is told for its own firmware, also after a restart of the box;
// of one that was never seen it is not said that an arm64 image is not for it.
func TestWaysOfTheFirmware(t *testing.T) {
	c := chainConfig(t)
	c.Firmware = firmwareStore{}
	ways := func(image string) (got string) {
		table := New(c)
		arm(t, table, image, 0)
		list, errs := table.Ways("srv01")
		for _, w := range list {
			got += w.Arch.String() + " " + w.Links[0].File.Name
		}
		for _, err := range errs {
			got += err.Error()
		}
		return got
	}
	if got := ways("rescue-arm64"); got != "UEFI arm64 (11) shimaa64.efi" {
		t.Errorf("never seen: %s", got)
	}
	answer(New(c), Client{MAC: mac1, Arch: HTTPX64, Program: Firmware})
	if got := ways("live"); got != "UEFI HTTP Boot (16) live.iso" {
		t.Errorf("after a restart: %s", got)
	}
}
