package vpn

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// firewallMark is on every packet that the kernel's WireGuard sends for us.
	firewallMark = 0x72620001
	// rulePriority is before package link's rules.
	rulePriority = 7100
)

// families are those that a hub can be reached by.
var families = []int{unix.AF_INET, unix.AF_INET6}

// leadTo makes one rule for each family that leads the tunnel's packets to a table, and takes those
// to other tables away after it. It changes nothing that is right.
func leadTo(table int) error {
	if table == 0 {
		return errors.New("lead the tunnel by the uplink: it has no routing table of its own")
	}
	for _, family := range families {
		ours, err := markRules(family)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(ours, func(r netlink.Rule) bool { return r.Table == table }) {
			// Before the old one goes, so that no packet meets neither.
			err := netlink.RuleAdd(markRule(family, table))
			if errors.Is(err, unix.EAFNOSUPPORT) && family == unix.AF_INET6 {
				continue // a kernel without IPv6
			}
			if err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("lead the tunnel to routing table %d: %w", table, err)
			}
		}
		for _, r := range ours {
			if r.Table == table {
				continue
			}
			if err := netlink.RuleDel(markRule(family, r.Table)); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("lead the tunnel away from routing table %d: %w", r.Table, err)
			}
		}
	}
	return nil
}

// dropRules takes our rules away.
func dropRules() error {
	for _, family := range families {
		ours, err := markRules(family)
		if err != nil {
			return err
		}
		for _, r := range ours {
			if err := netlink.RuleDel(markRule(family, r.Table)); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("take the tunnel's routing rule away: %w", err)
			}
		}
	}
	return nil
}

// markRules are ours of a family; a kernel without IPv6 has none.
func markRules(family int) ([]netlink.Rule, error) {
	list, err := netlink.RuleListFiltered(family, &netlink.Rule{Priority: rulePriority, Mark: firewallMark}, netlink.RT_FILTER_PRIORITY|netlink.RT_FILTER_MARK)
	if errors.Is(err, unix.EAFNOSUPPORT) && family == unix.AF_INET6 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the routing rules: %w", err)
	}
	return list, nil
}

func markRule(family, table int) *netlink.Rule {
	r := netlink.NewRule()
	mask := uint32(0xffffffff)
	r.Family, r.Table, r.Priority, r.Mark, r.Mask = family, table, rulePriority, firewallMark, &mask
	return r
}
