package rescue

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// kernelPackage is a tree as the kernel's package has it.
func kernelPackage() *tree {
	t := sample("usr/bin/busybox")
	const dir = "usr/lib/modules/6.1/"
	for _, m := range []string{"drivers/net/ethernet/r8169.ko", "drivers/net/phy/realtek.ko", "drivers/net/phy/libphy.ko",
		"drivers/net/ethernet/bnx2.ko", "drivers/net/mdio/mdio_devres.ko", "fs/ext4.ko", "crypto/crc32c_generic.ko", "drivers/net/virtio-net.ko"} {
		t.addFile(dir+"kernel/"+m, 0o644, []byte(m))
	}
	t.addFile(dir+"modules.dep", 0o644, []byte(`kernel/drivers/net/ethernet/r8169.ko: kernel/drivers/net/mdio/mdio_devres.ko kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/mdio/mdio_devres.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/phy/realtek.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/phy/libphy.ko:
kernel/drivers/net/ethernet/bnx2.ko:
kernel/drivers/net/virtio-net.ko:
kernel/crypto/crc32c_generic.ko:
kernel/fs/ext4.ko:
`))
	t.addFile(dir+"modules.alias", 0o644, []byte(`# Aliases extracted from modules themselves.
alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169
alias pci:v000014E4d00001639sv*sd*bc*sc*i* bnx2
alias virtio:d00000001v* virtio_net
alias crc32c crc32c_generic
alias fs-ext4 ext4
`))
	t.addFile(dir+"modules.softdep", 0o644, []byte("# Soft dependencies\nsoftdep r8169 pre: realtek\nsoftdep virtio_net pre: crc32c post: ext4\n"))
	return t
}

func TestModules(t *testing.T) {
	m, err := readModules(kernelPackage(), "usr/lib/modules/6.1")
	if err != nil {
		t.Fatal(err)
	}
	chosen := m.choose(patterns{"drivers/net/ethernet/*", "drivers/net/virtio-net.ko", "!*/bnx2.ko"})
	want := []string{"kernel/crypto/crc32c_generic.ko", "kernel/drivers/net/ethernet/r8169.ko", "kernel/drivers/net/mdio/mdio_devres.ko",
		"kernel/drivers/net/phy/libphy.ko", "kernel/drivers/net/phy/realtek.ko", "kernel/drivers/net/virtio-net.ko"}
	if !slices.Equal(chosen, want) {
		t.Errorf("\ngot  %q\nwant %q", chosen, want)
	}
	const deps = "kernel/drivers/net/ethernet/r8169.ko: kernel/drivers/net/phy/realtek.ko kernel/drivers/net/mdio/mdio_devres.ko kernel/drivers/net/phy/libphy.ko\n"
	if got := string(m.depFile(chosen)); !strings.Contains(got, deps) {
		t.Errorf("modules.dep\n%swants %s", got, deps)
	}
	const aliases = "alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169\nalias virtio:d00000001v* virtio_net\nalias crc32c crc32c_generic\n"
	if got := string(m.aliasFile(chosen)); got != aliases {
		t.Errorf("modules.alias\n%swant\n%s", got, aliases)
	}
}

func TestInitramfsTree(t *testing.T) {
	got, err := initramfs(kernelPackage(), "6.1", []byte("agent"))
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]int64{"init": 0o755, "dhcp": 0o755, "bin/busybox": 0o755, "bin/rescue-agent": 0o755, "newroot": 0o755} {
		if e := got.entries[name]; e == nil || e.head.Mode != mode {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if e := got.entries["sbin"]; e == nil || e.head.Linkname != "bin" {
		t.Error("the kernel finds no /sbin/modprobe")
	}
}

// The scripts are read by the shell that runs them.
func TestScriptsParse(t *testing.T) {
	busybox := need(t, "busybox", "busybox")
	for _, name := range []string{"initramfs/init", "initramfs/dhcp", "root/usr/lib/rescuebox/resolv-conf", "root/usr/lib/rescuebox/console"} {
		text, err := recipe.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(busybox, "sh", "-n")
		cmd.Stdin = strings.NewReader(string(text))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// The values the script takes from the kernel command line cannot leave the
// word they are used in, whatever the command line holds.
func TestArg(t *testing.T) {
	busybox := need(t, "busybox", "busybox")
	text, err := recipe.ReadFile("initramfs/init")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\narg() {")
	body, _, _ := strings.Cut(rest, "\n}")
	for cmdline, want := range map[string]string{
		"quiet rescuebox.machine=srv01 x":           "srv01",
		"rescuebox.machine=srv01":                   "srv01",
		"xrescuebox.machine=no rescuebox.machine=a": "a",
		"rescuebox.machine=$(reboot);x":             "rebootx",
		"quiet":                                     "",
		"BOOTIF=01-52-54-00-12-34-56":               "",
	} {
		script := "arg() {" + strings.ReplaceAll(body, "/proc/cmdline", "-") + "\n}\narg rescuebox.machine"
		cmd := exec.Command(busybox, "sh", "-c", script)
		cmd.Stdin = strings.NewReader(cmdline + "\n")
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%q: %q, %v, want %q", cmdline, out, err, want)
		}
	}
}
