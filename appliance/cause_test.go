package appliance

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"rescuebox/appliance/boot"
	"rescuebox/appliance/boottest"
	"rescuebox/appliance/dhcp"
	"rescuebox/images"
)

// A program that the firmware loads and that then does nothing is all that can
// be seen of one that Secure Boot has refused.
var mute = boottest.Program(boottest.Kernel, "amd64", 7_000)

// replace puts other files in the place of an image's.
func (c *clinic) replace(i images.Image, files map[string][]byte) {
	c.t.Helper()
	if err := os.RemoveAll(filepath.Join(c.box.library.Dir, i.Name)); err != nil {
		c.t.Fatal(err)
	}
	c.add(i, files)
}

// Simulated firmware boots over real sockets, through the box's real DHCP, TFTP
// and HTTP, and stops where it would; the cause is found by what was seen.
func TestCauseOfAStop(t *testing.T) {
	ipxe, shim := images.Image{Name: "ipxe", Kind: images.BootSet}, images.Image{Name: "shim", Kind: images.BootSet}
	refuses := func(name string) boottest.Faults {
		return boottest.Faults{Starts: func(f boottest.Loaded) bool { return f.Name != name }}
	}
	sound := boottest.Faults{}
	bigInitrd := func(c *clinic) {
		c.replace(images.Image{Name: "rescue", Kind: images.Linux, Arch: "amd64", Kernel: "vmlinuz", Initrd: []string{"initrd.img"}, Up: images.Agent},
			map[string][]byte{"vmlinuz": boottest.Program(boottest.Kernel, "amd64", 20_000), "initrd.img": make([]byte, 8<<20)})
	}
	for _, test := range []struct {
		key, personality, machine string
		fault                     func(c *clinic)
		with                      boottest.Faults
		words                     []string
	}{
		{"secure-boot-refused-nbp", "EDK2 new", `chain = "ipxe"`, func(c *clinic) {
			c.replace(ipxe, map[string][]byte{"undionly.kpxe": mute, "snponly.efi": mute})
		}, sound, []string{`chain = "shim"`}},
		{"nbp-silent", "EDK2 new", "chain = \"ipxe\"\nsecure_boot = \"off\"", func(c *clinic) {
			c.replace(ipxe, map[string][]byte{"undionly.kpxe": mute, "snponly.efi": mute})
		}, sound, nil},
		{"nbp-silent", "Intel UNDI", "", func(c *clinic) {
			c.replace(ipxe, map[string][]byte{"undionly.kpxe": boottest.Program(boottest.Kernel, "", 7_000), "snponly.efi": mute})
		}, sound, nil},
		{"secure-boot-refused-shim", "EDK2 new", "", func(c *clinic) {
			c.replace(shim, map[string][]byte{"shimx64.efi": mute, "grubx64.efi": mute})
		}, sound, nil},
		{"grub-silent", "EDK2 new", "", func(c *clinic) {
			c.replace(shim, map[string][]byte{"shimx64.efi": boottest.Program(boottest.Shim, "amd64", 9_000), "grubx64.efi": mute})
		}, sound, nil},
		{"kernel-silent", "EDK2 new", "", nil, sound, nil},
		{"kernel-silent", "Intel UNDI", "", nil, sound, nil},
		{"file-refused", "Intel UNDI", "", func(c *clinic) {
			if err := os.WriteFile(filepath.Join(c.box.library.Dir, "rescue", "vmlinuz"), []byte("other"), 0o600); err != nil {
				c.t.Fatal(err)
			}
		}, sound, nil},
		// Secure Boot refuses the kernel: GRUB has it, tries a dozen times, and restarts the machine.
		{"secure-boot-refused-kernel", "EDK2 new", "", nil, refuses("vmlinuz"), []string{"shim", "of one distribution"}},
		{"initrd-not-asked", "Intel UNDI", "", nil, refuses("vmlinuz"), nil},
		{"iso-silent", "HTTPClient", "", nil, refuses("rescue.iso"), []string{"PXE (TFTP)"}},
		{"ipxe-no-address", "EDK2 new", `chain = "ipxe"`, nil, boottest.Faults{Deaf: boottest.IPXE1}, []string{"PortFast"}},
		{"ipxe-no-address", "Intel UNDI", "", nil, boottest.Faults{Deaf: boottest.IPXE1}, []string{"PortFast"}},
		{"ipxe-no-script", "Intel UNDI", "", func(c *clinic) { c.filter("in", "tcp dport 80 reject with tcp reset") }, sound, []string{"firewall"}},
		{"http-not-asked", "HTTPClient", "", func(c *clinic) { c.filter("in", "tcp dport 80 reject with tcp reset") }, sound, []string{"firewall"}},
		// A firewall against floods lets the script through, and no more.
		{"kernel-not-asked", "Intel UNDI", "", func(c *clinic) {
			c.filter("in", "tcp dport 80 tcp flags syn limit rate over 1/hour burst 1 packets reject with tcp reset")
		}, sound, []string{"HTTP"}},
		// Of a DATA packet the first two blocks come, however often they are sent.
		{"download-stalled", "Intel UNDI", "", func(c *clinic) {
			c.filter("out", "meta l4proto udp udp sport != { 67, 68, 4011 } @th,64,16 3 @th,80,16 > 2 drop")
		}, sound, []string{"at 2912 of 7000 bytes", "cable"}},
		{"download-stalled", "Intel UNDI", "", bigInitrd, boottest.Faults{Memory: 1 << 20}, []string{"initrd.img ended", "memory"}},
		{"download-stalled", "EDK2 new", "", bigInitrd, boottest.Faults{Memory: 1 << 20}, []string{"initrd.img ended", "memory"}},
	} {
		t.Run(test.key+" "+test.personality, func(t *testing.T) {
			c := newClinic(t)
			c.open("full", test.machine)
			o, err := c.box.table.Arm("srv01", "rescue", "anna", 0)
			if err != nil {
				t.Fatal(err)
			}
			if test.fault != nil { // after the order was made: it looks at all files
				test.fault(c)
			}
			c.power(c.machine(test.with), test.personality)
			c.diagnose(o, test.key, test.words...)
		})
	}
}

// Beside the site's DHCP server things go wrong that this box never sees; the other
// server is asked, and its answer is the cause. (By the chain "shim" the machine gets its
// address from the box, too, and does not mind.)
func TestCauseIsAnotherServer(t *testing.T) {
	for _, test := range []struct {
		key, personality, machine string
		args                      []string
	}{
		{"foreign-option60", "EDK2 old", `chain = "ipxe"`, []string{"--dhcp-option-force=60,PXEClient"}},
		{"foreign-bootfile", "HP UEFI", `dialect = "binl"`, []string{"--dhcp-boot=elsewhere.efi"}},
		// It names us as next server, and a file that we do not have.
		{"file-refused", "HP UEFI", `dialect = "binl"`, []string{"--dhcp-boot=pxelinux.0,,192.168.77.1", "--dhcp-option-force=60,PXEClient", "--dhcp-option-force=43,06:01:08"}},
		{"proxy-offer-not-taken", "HP UEFI", `dialect = "binl"`, nil}, // pinned: left alone, DHCP finds one that works
	} {
		t.Run(test.key, func(t *testing.T) {
			c := newClinic(t)
			c.dnsmasq("192.168.77.254/24", append([]string{"--dhcp-range=192.168.77.50,192.168.77.99,1h"}, test.args...)...)
			c.open("proxy", test.machine)
			o := c.order()
			m := c.machine(boottest.Faults{})
			m.Hurry = inVain
			c.power(m, test.personality)
			c.diagnose(o, test.key)
		})
	}
}

// Nobody gives addresses where this box is only a proxy: the firmware's own DISCOVERs, and no more.
func TestCauseNoAddressServer(t *testing.T) {
	c := newClinic(t)
	c.open("proxy", "")
	o := c.order()
	m := c.machine(boottest.Faults{})
	m.Hurry = inVain
	c.power(m, "EDK2 new")
	c.diagnose(o, "no-address-server")
}

// Of two boxes the one that serves knows of no order, and sends the machine to its own disk.
func TestCauseOtherBox(t *testing.T) {
	c := newClinic(t)
	c.firstBox()
	c.open("auto", `chain = "ipxe"`)
	eventually(t, "the second box does not serve", func() bool { return c.box.dhcp.Status().Mode == dhcp.Proxy })
	o := c.order()
	m := c.machine(boottest.Faults{})
	m.Hurry = inVain
	c.power(m, "EDK2 new")
	c.diagnose(o, "other-box", "192.168.76.2")
}

// The packet filter of the box drops TFTP: the machine has an address and comes no farther.
func TestCauseTFTPDropped(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	c.filter("in", "udp dport 69 drop")
	c.boot("EDK2 new")
	c.diagnose(o, "tftp-not-asked")
}

// What the box sends by TFTP is lost on the way: asked for, and not one block arrives.
func TestCauseBlocksLost(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	c.filter("out", "meta l4proto udp udp sport != { 67, 68, 4011 } udp length > 300 drop")
	c.boot("EDK2 new")
	c.diagnose(o, "blocks-lost")
}

// The machine starts its installed system: a real DHCP client without a boot request.
func TestCauseOwnDisk(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	c.system(srv01)
	c.diagnose(o, "boots-own-disk")
}

// Another card asks.
func TestCauseUnknownCard(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	m := c.machine(boottest.Faults{})
	m.Card = c.plug(boot.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x99})
	m.Hurry = inVain
	c.power(m, "Intel UNDI")
	c.diagnose(o, "unknown-card")
}

// Nobody has seen the machine; and DHCP that is off says so first.
func TestCauseNoPacket(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	c.diagnose(c.order(), "no-packet")
}

// DHCP of the box is off, and nobody else tells the machine of it.
func TestCauseDHCPOff(t *testing.T) {
	c := newClinic(t)
	c.open("off", "")
	c.diagnose(c.order(), "dhcp-off")
}

// A machine that is refused is told why, and so is the admin.
func TestCauseRefused(t *testing.T) {
	c := newClinic(t)
	c.open("full", `chain = "windows"`)
	o := c.order()
	c.boot("EDK2 new")
	c.diagnose(o, "refused")
}

var srv01 = boot.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x56}

// order orders rescue for srv01.
func (c *clinic) order() boot.Order {
	c.t.Helper()
	o, err := c.box.table.Arm("srv01", "rescue", "anna", time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	return o
}
