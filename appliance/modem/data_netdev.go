package modem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/vishvananda/netlink"
)

// netdev is a network device that is there by itself and leads to the Internet: a modem
// that is a router of its own (HiLink, ECM, RNDIS), or a separate LTE router on a cable.
// Nothing is dialled. Whoever else sets the device up is left to it.
type netdev struct {
	name   string
	v4, v6 bool
	// owner is who else sets the device up, "" nobody; a function for tests.
	owner func(link netlink.Link) string
	term  time.Duration // as of setup
}

// hold waits for the device, and for its addresses.
func (n *netdev) hold(ctx context.Context, changed func(Link)) error {
	link, err := device(n.name).find()
	if err != nil {
		return err
	}
	if !carrier(link) {
		if link, err = device(n.name).raise(); err != nil {
			return err
		}
	}
	if who := n.owner(link); who != "" {
		return n.follow(ctx, who, changed)
	}
	s := &setup{name: n.name, v4: n.v4, v6: n.v6, term: n.term}
	return s.keep(ctx, changed)
}

// follow says what somebody else does with the device.
func (n *netdev) follow(ctx context.Context, who string, changed func(Link)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := netChanges(ctx)
	if err != nil {
		return err
	}
	for {
		link, err := device(n.name).find()
		if err != nil {
			return fmt.Errorf("%w: %w", errLost, err)
		}
		now, err := n.found(link, who)
		if err != nil {
			return err
		}
		changed(now)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-events:
		}
		if n.owner(link) == "" {
			return fmt.Errorf("%w: %s no longer sets up %s", errLost, who, n.name)
		}
	}
}

// found is the device as somebody else has set it up.
func (n *netdev) found(link netlink.Link, who string) (Link, error) {
	addrs, err := addressesOn(link)
	if err != nil {
		return Link{}, err
	}
	switch {
	case !carrier(link):
		return Link{Err: fmt.Errorf("%s has no carrier: is the modem or its cable plugged in?", n.name)}, nil
	case len(addrs) == 0:
		return Link{Err: fmt.Errorf("%s sets up %s and has given it no address yet", who, n.name)}, nil
	}
	l := Link{Device: n.name, Addresses: addrs, MTU: link.Attrs().MTU}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		l.via(gatewayOn(link, family))
	}
	return l, nil
}

// down takes the addresses that we set; a modem that routes goes on by itself. What
// somebody else set stays.
func (n *netdev) down(context.Context) error {
	link, err := device(n.name).find()
	if err != nil || n.owner(link) != "" {
		return nil
	}
	return device(n.name).flush()
}

// ownerOf is who else sets up a device: NetworkManager, systemd-networkd, ifupdown, or
// somebody unknown who gave it an address that never ends. Ours all end with their lease.
func ownerOf(link netlink.Link) string {
	a := link.Attrs()
	switch {
	case networkdHas("/run/systemd/netif/links", a.Index):
		return "systemd-networkd"
	case networkManagerHas(a.Name):
		return "NetworkManager"
	case ifupdownHas("/run/network", a.Name):
		return "ifupdown"
	case strangerOn(link):
		return "another program"
	}
	return ""
}

// networkdHas reads what networkd says of a link (sd_network_link_get_setup_state).
func networkdHas(dir string, index int) bool {
	b, err := os.ReadFile(dir + "/" + strconv.Itoa(index))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if state, ok := strings.CutPrefix(strings.TrimSpace(line), "ADMIN_STATE="); ok {
			return state != "unmanaged" && state != "pending" && state != "initialized"
		}
	}
	return false
}

// ifupdownHas reads the states that ifup keeps, one file each.
func ifupdownHas(dir, name string) bool {
	b, err := os.ReadFile(dir + "/ifstate." + name)
	return err == nil && strings.TrimSpace(string(b)) != ""
}

// networkManagerHas asks NetworkManager, if it runs.
func networkManagerHas(name string) bool {
	bus, err := dbus.ConnectSystemBus()
	if err != nil {
		return false
	}
	defer bus.Close()
	const service = "org.freedesktop.NetworkManager"
	ctx, cancel := context.WithTimeout(context.Background(), busTimeout)
	defer cancel()
	var path dbus.ObjectPath
	nm := bus.Object(service, "/org/freedesktop/NetworkManager")
	if nm.CallWithContext(ctx, service+".GetDeviceByIpIface", dbus.FlagNoAutoStart, name).Store(&path) != nil {
		return false
	}
	var managed dbus.Variant
	err = bus.Object(service, path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", dbus.FlagNoAutoStart,
		service+".Device", "Managed").Store(&managed)
	is, ok := managed.Value().(bool)
	return err == nil && ok && is
}

// forever is the lifetime of an address that somebody set by hand, or by his own DHCP
// client that takes it away itself.
const forever = 1<<32 - 1

func strangerOn(link netlink.Link) bool {
	list, err := addrList(link, netlink.FAMILY_V4)
	if err != nil {
		return false
	}
	for _, a := range list {
		if uint32(a.ValidLft) == forever && a.IP.IsGlobalUnicast() {
			return true
		}
	}
	return false
}

var errNoDevice = errors.New("data = \"netdev\" needs the modem's interface")

func newNetdev(name, ipType string) (*netdev, error) {
	if name == "" {
		return nil, errNoDevice
	}
	v4, v6 := families(ipType)
	return &netdev{name: name, v4: v4, v6: v6, owner: ownerOf}, nil
}

// families of an IP type; both by default.
func families(ipType string) (v4, v6 bool) {
	return ipType != "v6", ipType != "v4"
}

// pdpType is the IP type as 3GPP TS 27.007 10.1.1 has it.
func pdpType(ipType string) string {
	switch v4, v6 := families(ipType); {
	case v4 && v6:
		return "IPV4V6"
	case v6:
		return "IPV6"
	}
	return "IP"
}
