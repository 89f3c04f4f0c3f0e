package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/dhcp"
)

// smallestMTU is what an Ethernet LAN has at least; below it somebody made a tunnel of it.
const smallestMTU = 1500

// checks are the doctor's questions about the rescue LAN and this host, beside
// those that the API asks by itself. The keys of their findings:
//
//	interface    interface-missing, interface-down, interface-unreadable, address-missing, no-carrier, small-mtu
//	link         half-duplex, link-flaps, spanning-tree, bridge-delay
//	addresses    address-duplicate, pool-address-in-use
//	ports        port-taken, port-closed
//	firewall     firewall-drops
//	routing      rp-filter, route-elsewhere
//	mtu          full-frames-lost
//	other DHCP   two-dhcp-servers, no-address-server, foreign-option60, foreign-option43, foreign-bootfile,
//	             wrong-next-server, other-proxydhcp, foreign-subnet
//	pool         pool-full, pool-conflicts
//	clock        clock-behind, clock-unsynced
//	boot set     bootset-missing, bootset-damaged
//	ssh keys     no-ssh-key
//	bmc          bmc-refused
//
// and of the API's own: part-failed, disk-full, disk-low, disk-read-only, state-unreadable, no-machine,
// no-image, library-damaged, chain-broken, chain-file-missing, chain-file-changed,
// chain-signature, chain-unsigned, chain-signers-differ, not-told, check-too-slow, doctor-broken,
// and of orders that stand still the keys of boot.Cause.
func (b *box) checks() []admin.Check {
	lan := []string{"interface"}
	return []admin.Check{
		{Name: "interface", Run: b.checkInterface},
		{Name: "link", After: lan, Run: b.checkLink},
		{Name: "addresses", After: lan, Run: b.checkAddresses},
		{Name: "ports", Run: b.checkPorts},
		{Name: "firewall", After: lan, Run: b.checkFirewall},
		{Name: "routing", After: lan, Run: b.checkRouting},
		{Name: "mtu", After: lan, Run: b.checkMTU},
		{Name: "other DHCP", After: lan, Run: b.checkOtherDHCP},
		{Name: "pool", After: lan, Run: b.checkPool},
		{Name: "clock", Run: b.checkClock},
		{Name: "boot set", Run: b.checkBootSet},
		{Name: "ssh keys", Run: b.checkKeys},
		{Name: "bmc", Run: b.checkBMCs},
	}
}

// checkInterface looks whether the rescue LAN is there and has our address.
func (b *box) checkInterface(context.Context) []admin.Finding {
	name, want := b.Config.LAN.Interface, b.Config.LAN.Address
	link, err := netlink.LinkByName(name)
	switch {
	case errors.As(err, new(netlink.LinkNotFoundError)):
		return admin.Fault(admin.Failed, "interface-missing", "interfaces are "+interfaces()+": set [lan] interface", "there is no interface %s", name)
	case err != nil:
		return unreadable(name, err)
	}
	attrs := link.Attrs()
	if attrs.Flags&net.FlagUp == 0 {
		return admin.Fault(admin.Failed, "interface-down", "ip link set "+name+" up, and make it come up at boot", "%s is down", name)
	}
	addrs, err := addressesOf(link)
	if err != nil {
		return unreadable(name, err)
	}
	has := slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(want.Addr().AsSlice()) })
	switch {
	case !has:
		return admin.Fault(admin.Failed, "address-missing", fmt.Sprintf("ip addr add %s dev %s, and make it stay in /etc/network/interfaces", want, name),
			"%s does not have the address %s", name, want)
	case attrs.OperState == netlink.OperDown || attrs.OperState == netlink.OperLowerLayerDown:
		return admin.Fault(admin.Failed, "no-carrier", "look at the cable and the switch port", "%s has no carrier", name)
	case attrs.MTU < smallestMTU:
		return admin.Fault(admin.Warning, "small-mtu", fmt.Sprintf("ip link set %s mtu %d, unless a tunnel is under it", name, smallestMTU),
			"%s has an MTU of %d: TFTP uses smaller blocks, and larger frames of others are lost", name, attrs.MTU)
	}
	return admin.Fine("%s is up and has %s", name, want)
}

// addressesOf asks once more where the list changed while the kernel told it.
func addressesOf(link netlink.Link) (list []netlink.Addr, err error) {
	for range 3 {
		if list, err = netlink.AddrList(link, netlink.FAMILY_V4); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}

// unreadable is about this daemon, not about the interface.
func unreadable(name string, err error) []admin.Finding {
	return admin.Fault(admin.Failed, "interface-unreadable",
		"journalctl -u rescueboxd; its unit must leave it AF_NETLINK (RestrictAddressFamilies) and enough files (LimitNOFILE)",
		"the interface %s cannot be looked at: %s", name, err)
}

func interfaces() string {
	links, err := netlink.LinkList()
	if err != nil {
		return "not readable"
	}
	var names []string
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			names = append(names, l.Attrs().Name)
		}
	}
	return strings.Join(names, ", ")
}

// checkPool looks whether there are addresses left.
func (b *box) checkPool(context.Context) []admin.Finding {
	st := b.dhcp.Status()
	if st.Since.IsZero() {
		return admin.Skip("DHCP does not run")
	}
	if st.Mode != dhcp.Full {
		return admin.Fine("the other server gives the addresses, not we")
	}
	for _, p := range st.Pools {
		if p.Used() >= p.Size {
			return admin.Fault(admin.Failed, "pool-full", "make [lan] range larger, or the lease shorter", "all %d addresses of %s are in use", p.Size, p.Network)
		}
		if p.Quarantined > 0 {
			return admin.Fault(admin.Warning, "pool-conflicts", "keep fixed addresses out of [lan] range",
				"%d addresses of the range are in use by somebody else", p.Quarantined)
		}
	}
	return admin.Fine("there are addresses left")
}

// checkBootSet looks whether what boots begin with is there and whole. Without the
// shim an order still finds its way, by an iPXE that nobody has signed.
func (b *box) checkBootSet(context.Context) []admin.Finding {
	list := append(b.bootSetFaults(bootSet, admin.Failed, "ipxe", "no BIOS machine can be booted"),
		b.bootSetFaults("shim", admin.Warning, "shim-signed grub-efi-"+runtime.GOARCH+"-signed", "UEFI machines get iPXE, which Secure Boot refuses")...)
	if len(list) > 0 {
		return list
	}
	return admin.Fine("the boot programs are whole")
}

func (b *box) bootSetFaults(name string, level admin.Level, packages, without string) []admin.Finding {
	hint := "apt-get install " + packages + " && rescuebox image add --bootset " + name
	set, err := b.library.Get(name)
	if err != nil {
		return admin.Fault(level, "bootset-missing", hint, "%s: %s", without, err)
	}
	if err := b.library.Verify(set); err != nil {
		return admin.Fault(level, "bootset-damaged", hint, "%s: %s", without, err)
	}
	return nil
}

// checkKeys looks whether anybody could log in to a rescue system.
func (b *box) checkKeys(context.Context) []admin.Finding {
	if n := len(b.Config.Rescue.SSHKeys); n > 0 {
		return admin.Fine("%d SSH keys may log in to a rescue system", n)
	}
	return admin.Fault(admin.Warning, "no-ssh-key", "set [rescue] ssh_keys or ssh_keys_file",
		"nobody could log in to a booted rescue system: there is no SSH key")
}

// scout asks the rescue LAN.
func (b *box) scout() *dhcp.Scout {
	return &dhcp.Scout{Interface: b.Config.LAN.Interface, Address: b.Config.LAN.Address}
}

// askTime is how long other servers have to answer: dnsmasq pings an address for 3 s before it offers it.
const askTime = 5 * time.Second
