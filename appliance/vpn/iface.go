package vpn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routeProtocol marks our routes, so that we take away no other's.
	routeProtocol = 114
	// routeMetric keeps our routes beside those of the site, which win: a hub must not take
	// the branch's own networks away by its allowed IPs.
	routeMetric = 7100
)

// clearLeftover takes away what a crash of a daemon with the kernel's WireGuard left. A TUN
// device ends with its daemon. The interface of somebody else is not touched.
func clearLeftover(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an older interface %s: %w", name, err)
	}
	switch link.Type() {
	case "tuntap", "tun":
		return nil // of a daemon that is just ending; or made beforehand, for us to use
	case "wireguard":
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("take the old interface %s away: %w", name, err)
		}
		return dropRules()
	}
	return fmt.Errorf("make the tunnel's interface: %s is there already and is somebody else's: give [vpn] another name", name)
}

// address gives the interface its address, and sets it up. What is right already stays as
// it is.
func (t *Tunnel) address() (netlink.Link, error) {
	link, err := netlink.LinkByName(t.cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("find the tunnel's interface %s: %w", t.cfg.Interface, err)
	}
	a := &netlink.Addr{IPNet: ipNet(t.cfg.Address)}
	if t.cfg.Address.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // nobody else is there to have it
	}
	if err := netlink.AddrReplace(link, a); err != nil {
		return nil, fmt.Errorf("give %s the address %s: %w", t.cfg.Interface, t.cfg.Address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", t.cfg.Interface, err)
	}
	return link, nil
}

// routed are the networks that need a route: not the tunnel's own, which has one with
// its address, and not all of the Internet, which stays where it is.
func routed(allowed []netip.Prefix, own netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range allowed {
		p = p.Masked()
		inside := own.Contains(p.Addr()) && p.Bits() >= own.Bits()
		if p.Bits() > 0 && !inside && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

// route makes the routes to the networks behind the hub, and takes those to others away.
func (t *Tunnel) route(link netlink.Link, networks []netip.Prefix) error {
	index := link.Attrs().Index
	var stale []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		old, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: index, Protocol: routeProtocol}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		if err != nil && family == unix.AF_INET {
			return fmt.Errorf("list the routes of %s: %w", t.cfg.Interface, err)
		}
		stale = append(stale, old...)
	}
	for _, n := range networks {
		stale = slices.DeleteFunc(stale, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == n.String() })
		r := &netlink.Route{LinkIndex: index, Dst: ipNet(n), Protocol: routeProtocol, Priority: routeMetric, Scope: netlink.SCOPE_LINK}
		if n.Addr().Is4() == t.cfg.Address.Addr().Is4() {
			r.Src = t.cfg.Address.Addr().AsSlice()
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("make a route to %s by %s: %w", n, t.cfg.Interface, err)
		}
	}
	for _, r := range stale {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("take the route to %s away: %w", r.Dst, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// reachOf looks which families a device has addresses of that lead anywhere.
func reachOf(device string) (r reach) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return r
	}
	list, _ := netlink.AddrList(link, netlink.FAMILY_ALL) // what could not be read is not known
	for _, a := range list {
		switch ip := a.IP; {
		case ip.To4() != nil:
			r.v4 = r.v4 || !ip.IsLinkLocalUnicast()
		case !ip.IsLinkLocalUnicast():
			r.v6 = true
		}
	}
	return r
}

// own are the networks where no hub is: those of the box's interfaces but of uplinks, of which it is its own address only.
func (t *Tunnel) own() (list []netip.Prefix) {
	t.mu.Lock()
	uplinks := slices.Clone(t.devices)
	t.mu.Unlock()
	all, _ := net.Interfaces() // what could not be read is not known
	for _, i := range all {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			if slices.Contains(uplinks, i.Name) {
				p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
			}
			list = append(list, p.Masked())
		}
	}
	return list
}
