package appliance

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"rescuebox/appliance/admin"
)

// checkFirewall looks whether the host's own packet filter lets machines in.
// DHCP's ports are tried: a broadcast of ours comes back to us
// through the same hooks as a machine's. For the others the rules are read.
func (b *box) checkFirewall(ctx context.Context) []admin.Finding {
	rules, rulesErr := readRuleset(ctx)
	var list []admin.Finding
	lost := map[int]bool{}
	for _, num := range b.dhcp.LostEchoes(ctx, 2*time.Second) {
		lost[num] = true
	}
	for _, p := range b.ports() {
		where, drops := "", false
		if rulesErr == nil {
			where, drops = rules.drops(b.arrivalAt(p))
		}
		if !drops && !(p.proto == "udp" && lost[p.num]) {
			continue
		}
		if where == "" {
			where = "a test packet did not come through the packet filter"
		}
		list = append(list, admin.Fault(admin.Failed, "firewall-drops",
			fmt.Sprintf("nft insert rule inet filter input iifname %s %s dport %d accept (with your table and chain), and keep it in /etc/nftables.conf",
				b.Config.LAN.Interface, p.proto, p.num),
			"the packet filter of this host drops what machines send to %s: %s", p, where)...)
	}
	if len(list) > 0 {
		return list
	}
	if rulesErr != nil {
		return admin.Skip("DHCP comes through; the packet filter's rules for other ports could not be read: %s", rulesErr)
	}
	return admin.Fine("the packet filter of this host lets machines in")
}

// arrivalAt is a machine's first packet to a port.
func (b *box) arrivalAt(p port) arrival {
	self := b.Config.LAN.Address.Addr()
	a := arrival{iface: b.Config.LAN.Interface, proto: p.proto, port: p.num, src: b.Config.LAN.Range.First, dst: self}
	if !a.src.IsValid() {
		a.src = self.Next()
	}
	if p.num == 67 {
		a.src, a.dst = netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return a
}

// readRuleset asks nft, which needs CAP_NET_ADMIN to see anything.
func readRuleset(ctx context.Context) (*ruleset, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "--json", "list", "ruleset")
	cmd.WaitDelay = time.Second
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		if text := strings.TrimSpace(complaint.String()); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return nil, fmt.Errorf("ask nft: %w", err)
	}
	return parseRuleset(out)
}
