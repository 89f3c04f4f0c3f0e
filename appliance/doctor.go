package appliance

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/dhcp"
)

// smallestMTU is what an Ethernet LAN has at least; below it somebody made a tunnel of it.
const smallestMTU = 1500

// checks are the doctor's questions about the rescue LAN, beside those that the
// API asks by itself.
func (b *box) checks() []admin.Check {
	return []admin.Check{
		{Name: "interface", Run: b.checkInterface},
		{Name: "other DHCP", After: []string{"interface"}, Run: b.checkOtherDHCP},
		{Name: "pool", After: []string{"interface"}, Run: b.checkPool},
		{Name: "boot set", Run: b.checkBootSet},
		{Name: "ssh keys", Run: b.checkKeys},
	}
}

// checkInterface looks whether the rescue LAN is there and has our address.
func (b *box) checkInterface(context.Context) admin.Finding {
	name, want := b.Config.LAN.Interface, b.Config.LAN.Address
	link, err := netlink.LinkByName(name)
	if err != nil {
		return admin.Finding{Level: admin.Failed, Text: fmt.Sprintf("there is no interface %s", name),
			Hint: "interfaces are " + interfaces() + ": set [lan] interface"}
	}
	attrs := link.Attrs()
	if attrs.Flags&net.FlagUp == 0 {
		return admin.Finding{Level: admin.Failed, Text: name + " is down", Hint: "ip link set " + name + " up, and make it come up at boot"}
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return admin.Finding{Level: admin.Failed, Text: fmt.Sprintf("the addresses of %s cannot be read: %s", name, err)}
	}
	has := false
	for _, a := range addrs {
		has = has || a.IP.Equal(want.Addr().AsSlice())
	}
	switch {
	case !has:
		return admin.Finding{Level: admin.Failed, Text: fmt.Sprintf("%s does not have the address %s", name, want),
			Hint: fmt.Sprintf("ip addr add %s dev %s, and make it stay in /etc/network/interfaces", want, name)}
	case attrs.OperState == netlink.OperDown || attrs.OperState == netlink.OperLowerLayerDown:
		return admin.Finding{Level: admin.Failed, Text: name + " has no carrier", Hint: "look at the cable and the switch port"}
	case attrs.MTU < smallestMTU:
		return admin.Finding{Level: admin.Warning, Text: fmt.Sprintf("%s has an MTU of %d: TFTP uses smaller blocks", name, attrs.MTU)}
	}
	return admin.Finding{Level: admin.OK, Text: fmt.Sprintf("%s is up and has %s", name, want)}
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

// checkOtherDHCP names other servers and what they do to a boot.
func (b *box) checkOtherDHCP(context.Context) admin.Finding {
	st := b.dhcp.Status()
	if st.Since.IsZero() {
		return admin.Finding{Level: admin.Skipped, Text: "DHCP does not run, so nobody listens for other servers"}
	}
	var said []string
	level := admin.OK
	for _, s := range st.Servers {
		text := fmt.Sprintf("%s (%s)", s.Addr, s.MAC)
		if s.Box {
			text += " is another rescuebox"
		}
		if strings.HasPrefix(s.VendorClass, "PXEClient") && !s.Box {
			level = admin.Warning
			text += " sends option 60 PXEClient: UEFI machines then ask that server, not us, for the boot file"
		}
		if s.BootFile != "" && !s.Box {
			level = admin.Warning
			text += fmt.Sprintf(" names a boot file of its own, %q", s.BootFile)
		}
		said = append(said, text)
	}
	if st.Configured == dhcp.Full && len(said) > 0 {
		return admin.Finding{Level: admin.Failed, Text: "two DHCP servers give addresses on this LAN, we and " + strings.Join(said, "; "),
			Hint: `set [lan] dhcp = "auto" or "proxy"`}
	}
	f := admin.Finding{Level: level, Text: fmt.Sprintf("mode is %s: %s", st.Mode, st.Why)}
	if len(said) > 0 {
		f.Text += "; other servers: " + strings.Join(said, "; ")
	}
	if level == admin.Warning {
		f.Hint = "remove the boot options (60, 43, 66, 67) from that server"
	}
	return f
}

// checkPool looks whether there are addresses left.
func (b *box) checkPool(context.Context) admin.Finding {
	st := b.dhcp.Status()
	if st.Since.IsZero() {
		return admin.Finding{Level: admin.Skipped, Text: "DHCP does not run"}
	}
	if st.Mode != dhcp.Full {
		return admin.Finding{Level: admin.OK, Text: "the other server gives the addresses, not we"}
	}
	for _, p := range st.Pools {
		if p.Used() >= p.Size {
			return admin.Finding{Level: admin.Failed, Text: fmt.Sprintf("all %d addresses of %s are in use", p.Size, p.Network),
				Hint: "make [lan] range larger, or the lease shorter"}
		}
		if p.Quarantined > 0 {
			return admin.Finding{Level: admin.Warning, Text: fmt.Sprintf("%d addresses of the range are in use by somebody else", p.Quarantined),
				Hint: "keep fixed addresses out of [lan] range"}
		}
	}
	return admin.Finding{Level: admin.OK, Text: "there are addresses left"}
}

// checkBootSet looks whether iPXE is there and whole.
func (b *box) checkBootSet(context.Context) admin.Finding {
	hint := "apt-get install ipxe && rescuebox image add --bootset " + bootSet
	set, err := b.library.Get(bootSet)
	if err == nil {
		err = b.library.Verify(set)
	}
	if err != nil {
		return admin.Finding{Level: admin.Failed, Text: "no machine can be booted: " + err.Error(), Hint: hint}
	}
	return admin.Finding{Level: admin.OK, Text: "the boot programs are whole"}
}

// checkKeys looks whether anybody could log in to a rescue system.
func (b *box) checkKeys(context.Context) admin.Finding {
	if n := len(b.Config.Rescue.SSHKeys); n > 0 {
		return admin.Finding{Level: admin.OK, Text: fmt.Sprintf("%d SSH keys may log in to a rescue system", n)}
	}
	return admin.Finding{Level: admin.Warning, Text: "nobody could log in to a booted rescue system: there is no SSH key",
		Hint: "set [rescue] ssh_keys or ssh_keys_file"}
}
