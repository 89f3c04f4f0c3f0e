package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// way is how packets of one family leave by a device.
type way struct {
	ok      bool
	gateway netip.Addr // zero: the other end is the only neighbour
}

// sight is what the kernel says of an uplink.
type sight struct {
	device    string
	index     int
	carrier   bool
	why       string // why it cannot be used
	addresses []netip.Prefix
	v4, v6    way
	err       error // the kernel could not be asked, and nothing is known
}

func (s sight) routed() bool { return s.v4.ok || s.v6.ok }

// look asks the kernel for an uplink's device. last is what was seen before: a DHCP client that
// renews takes its route away for a moment, and a router stays one while its network is there.
func look(u Uplink, b BearerState, last sight) sight {
	s := sight{device: u.Device}
	if s.device == "" {
		s.why = "its bearer is down"
		if b.Err != nil {
			s.why += ": " + b.Err.Error()
		}
		return s
	}
	l, err := netlink.LinkByName(s.device)
	switch {
	case errors.As(err, &netlink.LinkNotFoundError{}):
		s.why = fmt.Sprintf("there is no interface %s", s.device)
		return s
	case err != nil:
		return sight{err: fmt.Errorf("ask the kernel for %s: %w", s.device, err)}
	}
	a := l.Attrs()
	s.index = a.Index
	if s.index != last.index {
		last = sight{}
	}
	if a.Flags&net.FlagUp == 0 {
		s.why = fmt.Sprintf("interface %s is down", s.device)
		return s
	}
	if a.RawFlags&unix.IFF_LOWER_UP == 0 || a.RawFlags&unix.IFF_RUNNING == 0 {
		s.why = fmt.Sprintf("%s has no carrier: is the cable in, and the other end on?", s.device)
		return s
	}
	s.carrier = true
	direct := a.RawFlags&(unix.IFF_POINTOPOINT|unix.IFF_NOARP) != 0
	gateways, err := gatewaysOf(l, u, b)
	if err == nil {
		s.addresses, err = addressesOf(l)
	}
	if err != nil {
		return sight{err: fmt.Errorf("ask the kernel for routes and addresses of %s: %w", s.device, err)}
	}
	s.v4 = wayOf(gateways, s.addresses, last.v4, direct, netip.Addr.Is4)
	s.v6 = wayOf(gateways, s.addresses, last.v6, direct, netip.Addr.Is6)
	switch {
	case len(s.addresses) == 0:
		s.why = fmt.Sprintf("%s has no address: its DHCP server may be dead", s.device)
	case !s.routed():
		s.why = fmt.Sprintf("no default route names a router on %s; write gateway in its [[uplink]], or let its DHCP server give one", s.device)
	}
	return s
}

// carrier reports that a device is there and has its carrier.
func carrier(device string) bool {
	l, err := netlink.LinkByName(device)
	return err == nil && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// addressesOf are a device's addresses that can reach the Internet.
func addressesOf(l netlink.Link) (list []netip.Prefix, err error) {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if fails(err) {
		return nil, err
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if ip = ip.Unmap(); ok && ip.IsGlobalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			list = append(list, netip.PrefixFrom(ip, bits))
		}
	}
	return list, nil
}

// fails is not where something changed meanwhile: that is told, and looked at again.
func fails(err error) bool { return err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) }

// gatewaysOf are the routers on a device: the configured one, that of its bearer, those of the kernel's
// default routes, whoever made them.
func gatewaysOf(l netlink.Link, u Uplink, b BearerState) (list []way, err error) {
	for _, ip := range []netip.Addr{u.Gateway, b.Gateway, b.Gateway6} {
		if ip.IsValid() {
			list = append(list, way{true, ip})
		}
	}
	routes, err := defaults(netlink.FAMILY_ALL)
	for _, r := range routes {
		for _, hop := range hops(r) {
			if hop.LinkIndex != l.Attrs().Index {
				continue
			}
			ip, ok := netip.AddrFromSlice(hop.Gw)
			if !ok { // "default dev X": 0.0.0.0 stands for the family
				ip = netip.IPv4Unspecified()
				if r.Family == netlink.FAMILY_V6 {
					ip = netip.IPv6Unspecified()
				}
			}
			list = append(list, way{true, ip.Unmap()})
		}
	}
	return list, err
}

// defaults are the default routes of table main, the best first.
func defaults(family int) ([]netlink.Route, error) {
	all, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if fails(err) {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(r netlink.Route) bool {
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		return ones != 0 || r.Type != unix.RTN_UNICAST
	})
	slices.SortStableFunc(all, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	return all, nil
}

// hops are a route's next hops: one, or those of a multipath route.
func hops(r netlink.Route) []netlink.NexthopInfo {
	if len(r.MultiPath) == 0 {
		return []netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	list := make([]netlink.NexthopInfo, len(r.MultiPath))
	for i, h := range r.MultiPath {
		list[i] = *h
	}
	return list
}

// wayOf is how one family leaves by a device.
func wayOf(gateways []way, addresses []netip.Prefix, last way, direct bool, family func(netip.Addr) bool) way {
	if !slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return family(p.Addr()) }) {
		return way{}
	}
	for _, g := range gateways {
		if !family(g.gateway) {
			continue
		}
		if g.gateway.IsUnspecified() {
			return way{ok: true}
		}
		return g
	}
	if direct {
		return way{ok: true}
	}
	reachable := func(p netip.Prefix) bool { return p.Contains(last.gateway) || last.gateway.IsLinkLocalUnicast() }
	if last.ok && last.gateway.IsValid() && slices.ContainsFunc(addresses, reachable) {
		return last
	}
	return way{}
}

// watcher hears of changes of devices, addresses, routes and rules.
type watcher struct{ file *os.File }

// groups of rtnetlink(7).
var groups = []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE}

func newWatcher() (*watcher, error) {
	file, err := subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return nil, fmt.Errorf("watch the kernel's interfaces: %w", err)
	}
	return &watcher{file}, nil
}

// subscribe opens a netlink socket that hears news of groups.
func subscribe(protocol int, groups ...int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// Changes of addresses and routes may follow each other before one look: so long each, and so long in all, for
// somebody may change routes all the time.
const (
	settled   = 20 * time.Millisecond
	unsettled = 200 * time.Millisecond
)

// run calls changed after each change: at once for those of devices, a carrier among them. It ends
// when the watcher is closed.
func (w *watcher) run(changed func()) error {
	var first time.Time // change that nobody looked at yet
	for buf := make([]byte, 1<<16); ; {
		n, err := w.file.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS): // more changed than the socket holds: look at all
		case errors.Is(err, os.ErrDeadlineExceeded): // it has settled, or takes too long to
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("watch the kernel's interfaces: %w", err)
		case !ofDevices(buf[:n]):
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			if due, last := now.Add(settled), first.Add(unsettled); due.Before(last) {
				_ = w.file.SetReadDeadline(due)
			} else {
				_ = w.file.SetReadDeadline(last)
			}
			continue
		}
		first = time.Time{}
		_ = w.file.SetReadDeadline(first)
		changed()
	}
}

// ofDevices reports whether messages of rtnetlink speak of a device itself.
func ofDevices(b []byte) bool {
	list, _ := syscall.ParseNetlinkMessage(b)
	return slices.ContainsFunc(list, func(m syscall.NetlinkMessage) bool {
		return m.Header.Type == unix.RTM_NEWLINK || m.Header.Type == unix.RTM_DELLINK
	})
}
