package modem

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is a network device that a driver sets up. It is found by its name each time: a
// modem's device comes back with another index.
type device string

// find is the kernel's view of it.
func (d device) find() (netlink.Link, error) {
	link, err := netlink.LinkByName(string(d))
	if err != nil {
		return nil, fmt.Errorf("the network device %s is not there: is the modem plugged in, and in the right mode?", d)
	}
	return link, nil
}

// raise sets it up, and keeps the kernel from taking a default route out of the network's
// router advertisements: routes are made in tables of our own. Where /proc/sys may not
// be written, noDefault takes it away again.
func (d device) raise() (netlink.Link, error) {
	link, err := d.find()
	if err != nil {
		return nil, err
	}
	for key, value := range map[string]string{"accept_ra_defrtr": "0", "accept_ra_rt_info_max_plen": "0"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+string(d)+"/"+key, []byte(value), 0o644)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", d, err)
	}
	return link, nil
}

// noDefault takes out of the main table the default routes that the kernel made for this
// device by router advertisements.
func (d device) noDefault(link netlink.Link) {
	routes, err := told(func() ([]netlink.Route, error) { return netlink.RouteList(link, netlink.FAMILY_V6) })
	if err != nil {
		return
	}
	for _, r := range routes {
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		if ones == 0 && r.Protocol == unix.RTPROT_RA {
			_ = netlink.RouteDel(&r)
		}
	}
}

// told asks for a list once more where something changed, be it another device's, while the kernel told it: some of it may
// be missing. Where that does not end, what came counts.
func told[T any](list func() ([]T, error)) (got []T, err error) {
	for range 5 {
		if got, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
	return got, nil
}

func addrList(link netlink.Link, family int) ([]netlink.Addr, error) {
	return told(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
}

// addresses are the ones on it that reach beyond the cable.
func addressesOn(link netlink.Link) ([]netip.Prefix, error) {
	var found []netip.Prefix
	list, err := addrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("read the addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range list {
		if p, ok := prefixOf(a.IPNet); ok && a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0 {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, comparePrefix)
	return found, nil
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	if !ok || bits == 0 || a.BitLen() != bits {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, ones), true
}

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// put sets an address, or renews it. One that has a lifetime goes by itself when nobody
// renews it: a daemon that died shall not leave an address that is another's by then.
func put(link netlink.Link, p netip.Prefix, valid time.Duration) error {
	a := &netlink.Addr{IPNet: netOf(p)}
	if valid > 0 {
		a.ValidLft = int(valid / time.Second)
		a.PreferedLft = a.ValidLft
	}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // nobody else is on a modem's link, and to wait costs a second
	}
	if err := netlink.AddrReplace(link, a); err != nil {
		return fmt.Errorf("set the address %v on %s: %w", p, link.Attrs().Name, err)
	}
	return nil
}

func remove(link netlink.Link, prefixes ...netip.Prefix) {
	for _, p := range prefixes {
		_ = netlink.AddrDel(link, &netlink.Addr{IPNet: netOf(p)})
	}
}

// flush takes all addresses that reach beyond the cable.
func (d device) flush() error {
	link, err := d.find()
	if err != nil {
		return nil // what is not there has no addresses
	}
	found, err := addressesOn(link)
	if err != nil {
		return err
	}
	remove(link, found...)
	return nil
}

func setMTU(link netlink.Link, mtu int) error {
	if mtu < 576 || mtu == link.Attrs().MTU {
		return nil
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set the MTU %d on %s: %w", mtu, link.Attrs().Name, err)
	}
	return nil
}

// carrier reports whether the device has a link; one that does not know counts as one that has.
func carrier(link netlink.Link) bool {
	a := link.Attrs()
	return a.Flags&net.FlagUp != 0 && (a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown)
}

// gatewayOn is the next hop of the best default route by the device, whoever made it.
func gatewayOn(link netlink.Link, family int) netip.Addr {
	routes, err := told(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return netip.Addr{}
	}
	best, metric := netip.Addr{}, -1
	for _, r := range routes {
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		gw, ok := netip.AddrFromSlice(r.Gw)
		if ones == 0 && ok && (metric < 0 || r.Priority < metric) {
			best, metric = gw.Unmap(), r.Priority
		}
	}
	return best
}

// netChanges sends after every change of links, addresses and IPv6 routes, until ctx is
// done; several at once are one. A kernel that had more news than were heard, as while the disk stands still, is
// listened to anew, and what was missed is one more change.
func netChanges(ctx context.Context) (<-chan struct{}, error) {
	out := make(chan struct{}, 1)
	deaf, err := hearChanges(ctx, out)
	if err != nil {
		return nil, err
	}
	go func() {
		for <-deaf; ctx.Err() == nil; <-deaf {
			again, err := hearChanges(ctx, out)
			if err != nil { // for want of memory, or files
				_ = wait(ctx, time.Second)
				continue
			}
			deaf = again
			poke(out)
		}
	}()
	return out, nil
}

// hearChanges pokes out after each change, until ctx is done or something was missed: then deaf is closed.
func hearChanges(ctx context.Context, out chan struct{}) (deaf <-chan struct{}, err error) {
	links, addrs, routes := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16), make(chan netlink.RouteUpdate, 16)
	ctx, cancel := context.WithCancel(ctx)
	err = errors.Join(
		netlink.LinkSubscribe(links, ctx.Done()),
		netlink.AddrSubscribe(addrs, ctx.Done()),
		netlink.RouteSubscribe(routes, ctx.Done()),
	)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("listen to the kernel's network events: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		for links != nil || addrs != nil || routes != nil {
			ok := true
			select {
			case _, ok = <-links:
				links = open(links, ok)
			case _, ok = <-addrs:
				addrs = open(addrs, ok)
			case _, ok = <-routes:
				routes = open(routes, ok)
			}
			if !ok { // one that has missed something: all of them end
				cancel()
			}
			poke(out)
		}
	}()
	return ended, nil
}

// open is the channel, or nil once it is closed.
func open[T any](c chan T, ok bool) chan T {
	if ok {
		return c
	}
	return nil
}

// counters are what the device has carried since it came to be.
func counters(name string) (index int, rx, tx uint64, err error) {
	link, err := device(name).find()
	if err != nil {
		return 0, 0, 0, err
	}
	if s := link.Attrs().Statistics; s != nil {
		return link.Attrs().Index, s.RxBytes, s.TxBytes, nil
	}
	return 0, 0, 0, errors.New("the kernel counts nothing for " + name + " (index " + strconv.Itoa(link.Attrs().Index) + ")")
}
