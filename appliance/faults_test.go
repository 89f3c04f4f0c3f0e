package appliance

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"rescuebox/appliance/boot"
	"rescuebox/appliance/boottest"
)

// inVain is how much firmware hurries that is to find nothing.
const inVain = 20

// twoMachines is a site with a second machine, which is there for the faults.
const twoMachines = "[[machine]]\nname = \"srv02\"\nmac = [\"52:54:00:12:34:57\"]\n[[machine]]\nname = \"srv01\"\nmac = [\"52:54:00:12:34:56\"]\n"

var srv02 = boot.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x57}

// system is a running system of a machine, with a real DHCP client: it asks for
// an address and takes the one that it gets.
func (c *clinic) system(mac boot.MAC) *boottest.Host {
	c.t.Helper()
	need(c.t, "busybox", "busybox")
	h := c.host("")
	run(c.t, h.Command("ip", "link", "set", "eth0", "address", mac.String())...)
	script := c.t.TempDir() + "/take"
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] && exec ip addr replace $ip/$mask dev eth0\nexit 0\n"), 0o700); err != nil {
		c.t.Fatal(err)
	}
	run(c.t, h.Command("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-V", "Linux", "-s", script)...)
	return h
}

// starts boots srv01 up to its kernel, and then what that does: it asks for an address.
func (c *clinic) starts() *boottest.Host {
	c.t.Helper()
	if out := c.boot("Intel UNDI"); out.Err != nil || out.Kernel != "vmlinuz" {
		c.t.Fatalf("no kernel starts: %v", out.Err)
	}
	c.card.Unplug() // the firmware's driver goes, the system's comes
	c.card = nil
	return c.system(srv01)
}

// The kernel runs, has an address, and a firewall of the box keeps it from its root.
func TestCauseRootNotAsked(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	h := c.starts()
	c.filter("in", "tcp dport 80 reject with tcp reset")
	if text, err := c.fetch(h, "root.squashfs"); err == nil {
		t.Fatalf("the root comes through the firewall: %s", text)
	}
	c.diagnose(o, "root-not-asked", "firewall")
}

// The root was fetched, and then the system hangs.
func TestCauseNoReport(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	if text, err := c.fetch(c.starts(), "root.squashfs"); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	c.diagnose(o, "no-report", "memory")
}

// fetch loads a file of srv01's folder over HTTP, as its system does.
func (c *clinic) fetch(h *boottest.Host, file string) (string, error) {
	need(c.t, "curl", "curl")
	return output(h.Command("curl", "-sS", "--noproxy", "*", "--fail", "--max-time", "20", "-o", "/dev/null", "http://192.168.77.1/"+boot.Path(srv01, file))...)
}

// A kernel that crashes, and a machine that begins anew: once, and again.
func TestCauseKernelRestarted(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	for range 2 {
		if out := c.boot("EDK2 new"); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	c.diagnose(o, "kernel-restarted", "serial console")
}

// Where Secure Boot refuses the kernel, GRUB's configuration restarts the machine,
// and all begins anew. That changes nothing about the cause.
func TestCauseSecureBootAgain(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	m := c.machine(boottest.Faults{Starts: func(f boottest.Loaded) bool { return f.Name != "vmlinuz" }})
	for range 2 {
		c.power(m, "EDK2 new")
		c.diagnose(o, "secure-boot-refused-kernel")
	}
}

// The machine asks by a card that is not in the file of the site. It was seen by its right one before.
func TestCauseOtherCard(t *testing.T) {
	c := newClinic(t)
	c.open("full", "")
	c.boot("EDK2 new") // without an order: its own disk
	o := c.order()
	m := c.machine(boottest.Faults{})
	m.Card = c.plug(boot.MAC{0x52, 0x54, 0, 0x12, 0x34, 0x99})
	m.Hurry = inVain
	c.power(m, "EDK2 new")
	c.diagnose(o, "other-card", "52:54:00:12:34:99", "mac list of srv01")
}

// The range has one address, and another machine has it.
func TestCauseNoFreeAddress(t *testing.T) {
	c := newClinic(t)
	c.last, c.machines = "192.168.77.100", twoMachines
	c.open("full", "")
	c.expect("pool")
	c.system(srv02)
	c.expect("pool", "pool-full")
	o := c.order()
	m := c.machine(boottest.Faults{})
	m.Hurry = inVain
	c.power(m, "EDK2 new")
	c.diagnose(o, "no-free-address", "[lan] range")
}

// The box cannot send: its own packet filter drops what goes out.
func TestCauseNotOffered(t *testing.T) {
	need(t, "nft", "nftables")
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	run(t, "nft", "add table netdev clinic; add chain netdev clinic out { type filter hook egress device srv priority 0; }; add rule netdev clinic out udp sport 67 drop")
	t.Cleanup(func() { run(t, "nft", "flush", "ruleset") })
	m := c.machine(boottest.Faults{})
	m.Hurry = inVain
	c.power(m, "EDK2 new")
	c.diagnose(o, "not-offered", "journalctl")
}

// DHCP snooping on the switch: servers are trusted on another port than the box's.
func TestCauseOfferNotTaken(t *testing.T) {
	need(t, "nft", "nftables")
	c := newClinic(t)
	c.open("full", "")
	o := c.order()
	run(t, c.lan.Command("nft", "add table bridge snoop; add chain bridge snoop f { type filter hook forward priority 0; }; add rule bridge snoop f udp sport 67 drop")...)
	m := c.machine(boottest.Faults{})
	m.Hurry = inVain
	c.power(m, "EDK2 new")
	c.diagnose(o, "offer-not-taken", "DHCP snooping")
}

// The site's server names a next server of its own, and the firmware has one place for that.
func TestCauseWrongNextServer(t *testing.T) {
	c := newClinic(t)
	c.dnsmasq("192.168.77.254/24", "--dhcp-range=192.168.77.50,192.168.77.99,1h", "--dhcp-boot=,,192.168.77.9")
	c.host("192.168.77.9/24")
	c.open("proxy", "")
	o := c.order()
	c.power(c.machine(boottest.Faults{OneOffer: true}), "Intel UNDI")
	c.diagnose(o, "wrong-next-server", "192.168.77.9", "option 66")
}

// A loose cable: the box begins to listen for other DHCP servers again and again,
// and answers nobody.
func TestCauseBoxListening(t *testing.T) {
	c := newClinic(t)
	c.open("auto", "")
	o := c.order()
	stop, ended := make(chan bool), make(chan bool)
	port := c.switchPort("srv")
	go func() {
		defer close(ended)
		for state := "down"; ; {
			output(c.lan.Command("ip", "link", "set", port, state)...)
			state = map[string]string{"down": "up", "up": "down"}[state]
			select {
			case <-stop:
				return
			case <-time.After(1500 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended })
	m := c.machine(boottest.Faults{})
	m.Hurry = 5
	c.power(m, "EDK2 new")
	c.diagnose(o, "box-listening", "cable")
}

// switchPort is the other end of an interface's cable.
func (c *clinic) switchPort(name string) string {
	c.t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		c.t.Fatal(err)
	}
	list, err := output(c.lan.Command("ip", "-o", "link")...)
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(list) {
		if rest, ok := strings.CutPrefix(line, fmt.Sprintf("%d: ", link.Attrs().ParentIndex)); ok {
			port, _, _ := strings.Cut(rest, "@")
			return port
		}
	}
	c.t.Fatalf("no port of the switch leads to %s:\n%s", name, list)
	return ""
}
