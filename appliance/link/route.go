package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What is ours among the kernel's rules and routes.
const (
	firstTable = 7100 // the first uplink's; the others' follow
	lastTable  = 7199
	ourMark    = 114 // as their protocol: who made them (rtnetlink(7) leaves 5 to 255 to programs)
)

// The priorities of our rules. Each pair asks table main first, without its default routes, so that
// what the admin routed goes where it did: the LAN, other networks of his, other VPNs.
const (
	prefDevice  = 7100 // sockets bound to an uplink's device: the tunnel's and the probes'
	prefAddress = 7110 // answers to who called an uplink's address
	prefOwn     = 7120 // the box's own traffic, when main's default route leads to another uplink than the active one
)

// plan is how the kernel's routing is to be.
type plan struct {
	paths  []sight // by uplink
	active int     // -1: none
	leads  [2]int  // the device of main's own best default route, by family; 0: there is none
}

func (p plan) equal(q plan) bool {
	return p.active == q.active && p.leads == q.leads && slices.EqualFunc(p.paths, q.paths, func(a, b sight) bool {
		return a.device == b.device && a.index == b.index && a.v4 == b.v4 && a.v6 == b.v6 && slices.Equal(a.addresses, b.addresses)
	})
}

// rules are those that a plan wants, of one family.
func (p plan) rules(family int) (list []netlink.Rule) {
	pair := func(pref, table int, set func(*netlink.Rule)) {
		for i := range 2 {
			r := netlink.NewRule()
			r.Family, r.Priority, r.Protocol, r.Table = family, pref+i, ourMark, table
			if i == 0 {
				r.Table, r.SuppressPrefixlen = unix.RT_TABLE_MAIN, 0
			}
			set(r)
			list = append(list, *r)
		}
	}
	for i, s := range p.paths {
		if !s.way(family).ok {
			continue
		}
		pair(prefDevice, firstTable+i, func(r *netlink.Rule) { r.OifName = s.device })
		for _, a := range s.addresses {
			if a.Addr().Is4() == (family == netlink.FAMILY_V4) && p.owner(a.Addr(), family) == i {
				pair(prefAddress, firstTable+i, func(r *netlink.Rule) { r.Src = host(a.Addr()) })
			}
		}
	}
	if p.active >= 0 && p.paths[p.active].way(family).ok && p.paths[p.active].index != p.leads[place(family)] {
		pair(prefOwn, firstTable+p.active, func(r *netlink.Rule) { r.IifName = "lo" })
	}
	return list
}

// owner is the uplink by which packets from an address leave: of several that have it the active one, for nothing tells
// what came in by which, and the box's own connections bear the address, too.
func (p plan) owner(a netip.Addr, family int) int {
	has := func(s sight) bool { return s.way(family).ok && s.has(a) }
	if p.active >= 0 && has(p.paths[p.active]) {
		return p.active
	}
	return slices.IndexFunc(p.paths, has)
}

// has reports whether an address is one of an uplink.
func (s sight) has(a netip.Addr) bool {
	return slices.ContainsFunc(s.addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}

// elsewhere reports whether an uplink other than i, with a carrier, has an address.
func (p plan) elsewhere(i int, a netip.Addr) bool {
	for o, s := range p.paths {
		if o != i && s.carrier && s.has(a) {
			return true
		}
	}
	return false
}

// twins says which uplinks have an address in common, as behind two LTE sticks of one maker. They work; but neither
// conntrack nor a caller's address tells them apart.
func (p plan) twins() (errs []error) {
	for i, s := range p.paths {
		for _, a := range s.addresses {
			for o, t := range p.paths[:i] {
				if s.carrier && t.carrier && t.has(a.Addr()) {
					errs = append(errs, fmt.Errorf("%s and %s both have the address %s: connections that are open when one of them dies may hang until they time out, for the kernel does not tell them from those by the other; give one of the two routers another network", p.paths[o].device, s.device, a.Addr()))
				}
			}
		}
	}
	return errs
}

// routes are those that a plan wants, of one family: a default route in each uplink's table.
func (p plan) routes(family int) (list []netlink.Route) {
	for i, s := range p.paths {
		w := s.way(family)
		if !w.ok {
			continue
		}
		r := netlink.Route{Family: family, Table: firstTable + i, LinkIndex: s.index, Protocol: ourMark, Dst: anywhere(family), Scope: netlink.SCOPE_LINK}
		if w.gateway.IsValid() {
			// A provider's router may be outside of the address's network.
			r.Gw, r.Scope, r.Flags = w.gateway.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
		}
		if family == netlink.FAMILY_V6 {
			r.Scope = netlink.SCOPE_UNIVERSE // IPv6 knows no other
			r.Priority = 1024                // what the kernel makes of 0
		}
		list = append(list, r)
	}
	return list
}

func (s sight) way(family int) way {
	if family == netlink.FAMILY_V6 {
		return s.v6
	}
	return s.v4
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func anywhere(family int) *net.IPNet {
	if family == netlink.FAMILY_V6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
}

// route makes the kernel's rules and routes those of a plan: adds what is missing, then takes away what
// is ours and too much. Nothing that bears another mark is touched.
func route(p plan) error {
	var errs []error
	for _, family := range families() {
		errs = append(errs, setRoutes(family, p.routes(family)), setRules(family, p.rules(family)))
	}
	return errors.Join(errs...)
}

// families are those that the kernel has: IPv6 may be switched off.
func families() []int {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return []int{netlink.FAMILY_V4}
	}
	return []int{netlink.FAMILY_V4, netlink.FAMILY_V6}
}

// leads is the device of main's best default route, by family.
func leads() (to [2]int, err error) {
	for _, family := range families() {
		list, err := defaults(family)
		if err != nil {
			return to, fmt.Errorf("ask the kernel for its default routes: %w", err)
		}
		if len(list) > 0 {
			to[place(family)] = hops(list[0])[0].LinkIndex
		}
	}
	return to, nil
}

func place(family int) int {
	if family == netlink.FAMILY_V6 {
		return 1
	}
	return 0
}

func setRules(family int, want []netlink.Rule) error {
	have, err := netlink.RuleList(family)
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	have = slices.DeleteFunc(have, func(r netlink.Rule) bool { return r.Protocol != ourMark })
	seen := map[string]bool{}
	var surplus []netlink.Rule
	for _, r := range have {
		k := ruleKey(r)
		if seen[k] || !slices.ContainsFunc(want, func(w netlink.Rule) bool { return ruleKey(w) == k }) {
			surplus = append(surplus, r)
		}
		seen[k] = true
	}
	var errs []error
	for _, r := range want {
		if !seen[ruleKey(r)] {
			if err := netlink.RuleAdd(&r); err != nil && !errors.Is(err, unix.EEXIST) {
				errs = append(errs, fmt.Errorf("add routing rule %s: %w", ruleKey(r), err))
			}
		}
	}
	for _, r := range surplus {
		r.Family = family
		if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("delete routing rule %s: %w", ruleKey(r), err))
		}
	}
	return errors.Join(errs...)
}

// ruleKey tells our rules apart, and reads as `ip rule` prints them.
func ruleKey(r netlink.Rule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.Priority)
	if r.Src != nil {
		fmt.Fprintf(&b, " from %s", r.Src)
	}
	if r.IifName != "" {
		fmt.Fprintf(&b, " iif %s", r.IifName)
	}
	if r.OifName != "" {
		fmt.Fprintf(&b, " oif %s", r.OifName)
	}
	fmt.Fprintf(&b, " lookup %d", r.Table)
	if r.SuppressPrefixlen >= 0 {
		fmt.Fprintf(&b, " suppress_prefixlength %d", r.SuppressPrefixlen)
	}
	return b.String()
}

func setRoutes(family int, want []netlink.Route) error {
	have, err := ourRoutes(family)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for _, r := range want {
		if !slices.ContainsFunc(have, func(h netlink.Route) bool { return routeKey(h) == routeKey(r) }) {
			errs = append(errs, addRoute(r, have))
		}
	}
	// Of IPv4 the replaced route is gone already; asked again, none that is wanted is deleted.
	have, err = ourRoutes(family)
	errs = append(errs, err)
	for _, r := range have {
		if !slices.ContainsFunc(want, func(w netlink.Route) bool { return routeKey(w) == routeKey(r) }) {
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("delete route %s: %w", routeKey(r), err))
			}
		}
	}
	return errors.Join(errs...)
}

// addRoute adds a route, or puts it in the place of ours in its table, so that there is always one.
func addRoute(r netlink.Route, have []netlink.Route) error {
	add := netlink.RouteAdd
	if slices.ContainsFunc(have, func(h netlink.Route) bool { return h.Table == r.Table }) {
		add = netlink.RouteReplace
	}
	err := add(&r)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add route %s: somebody else has a default route in that table; tables %d to %d are ours", routeKey(r), firstTable, lastTable)
	}
	if err != nil {
		return fmt.Errorf("add route %s: %w", routeKey(r), err)
	}
	return nil
}

func ourRoutes(family int) ([]netlink.Route, error) {
	every := &netlink.Route{Protocol: ourMark, Table: unix.RT_TABLE_UNSPEC} // without that it lists main only
	all, err := netlink.RouteListFiltered(family, every, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	return slices.DeleteFunc(all, func(r netlink.Route) bool { return r.Table < firstTable || r.Table > lastTable }), err
}

func routeKey(r netlink.Route) string {
	via := ""
	if len(r.Gw) > 0 {
		via = " via " + r.Gw.String()
	}
	return fmt.Sprintf("default%s dev %d table %d", via, r.LinkIndex, r.Table)
}

// clearRoutes takes all that is ours away.
func clearRoutes() error { return route(plan{active: -1}) }

// flush forgets the connections of a lost uplink, and of no other: those that went out with one of its
// addresses, NAT included; an address that another uplink has as well is not to be among them. The next packet of each finds the new way, in place of being sent into
// the void until the entry is old. Of a long-lived flow through the box that would be never.
func flush(lost []netip.Prefix) error {
	var errs []error
	for _, family := range families() {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(family), lostFlows(lost)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("forget the connections of the lost uplink: %w", err))
		}
	}
	return errors.Join(errs...)
}

// lostFlows are the addresses whose flows are lost.
type lostFlows []netip.Prefix

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (l lostFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return slices.ContainsFunc(l, func(p netip.Prefix) bool {
		ip := net.IP(p.Addr().AsSlice())
		return ip.Equal(f.Forward.SrcIP) || ip.Equal(f.Reverse.DstIP)
	})
}
