package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// filterTable is our nftables table.
const filterTable = "rescuebox_link"

// filter is what our table does: on metered uplinks nothing comes in but what answers us, the
// tunnel, and what addresses themselves need. While a drill runs, one device is cut off; the
// kernel itself ends that, whatever becomes of us.
type filter struct {
	metered []string
	port    int // of the tunnel
	cut     string
	until   time.Time
}

// rules is the table in nft's language. The first lines take an old one away, all in one transaction.
func (f filter) rules(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %[1]s\ndelete table inet %[1]s\n", filterTable)
	if len(f.metered) == 0 && f.cut == "" {
		return b.String()
	}
	fmt.Fprintf(&b, "table inet %s {\n", filterTable)
	fmt.Fprintf(&b, "\tset metered { type ifname%s }\n", elements(f.metered))
	cut := ""
	if left := f.until.Sub(now); f.cut != "" && left > 0 {
		cut = fmt.Sprintf("; elements = { %q timeout %dms }", f.cut, left.Milliseconds())
	}
	fmt.Fprintf(&b, "\tset cut { type ifname; flags timeout%s }\n", cut)
	b.WriteString(`	chain cut_in {
		type filter hook prerouting priority -400; policy accept;
		udp sport { 67, 547 } accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
		iifname @cut drop
	}
	chain cut_out {
		type filter hook postrouting priority 400; policy accept;
		udp dport { 67, 547 } accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept
		oifname @cut drop
	}
	chain input {
		type filter hook input priority -10; policy accept;
		iifname != @metered accept
		ct state established,related accept
		udp dport { 68, 546 } accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
		icmp type echo-reply accept
		icmpv6 type echo-reply accept
`)
	if f.port != 0 {
		fmt.Fprintf(&b, "\t\tudp dport %d accept\n", f.port)
	}
	b.WriteString(`		drop
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
		iifname @metered ct state new,invalid drop
	}
}
`)
	return b.String()
}

func elements(names []string) string {
	if len(names) == 0 {
		return ""
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	return "; elements = { " + strings.Join(quoted, ", ") + " }"
}

// same reports whether two filters make the same table.
func (f filter) same(g filter) bool {
	return slices.Equal(f.metered, g.metered) && f.port == g.port && f.cut == g.cut && f.until.Equal(g.until)
}

// set puts the table into the kernel.
func (f filter) set() error {
	err := nft(f.rules(time.Now()))
	if errors.Is(err, exec.ErrNotFound) {
		if len(f.metered) == 0 && f.cut == "" {
			return nil
		}
		return errors.New("filter metered uplinks: the program nft is missing: apt-get install nftables")
	}
	return err
}

func nft(rules string) error {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		first, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		return fmt.Errorf("set nftables table %s: %w: %s", filterTable, err, first)
	}
	return nil
}

// strict says what stands in the way of an uplink whose packets come in while main's default route
// leads elsewhere. The kernel's reverse path filter asks the rules, ours too; so strict is right with
// them, unless somebody's rule of a lower number leads elsewhere.
func strict(s sight) error {
	if !reversePathStrict(s.device) {
		return nil
	}
	for _, a := range s.addresses {
		if !a.Addr().Is4() || !s.v4.ok {
			continue
		}
		found, err := netlink.RouteGetWithOptions(probeAddress, &netlink.RouteGetOptions{SrcAddr: a.Addr().AsSlice()})
		if err == nil && len(found) > 0 && found[0].LinkIndex != s.index {
			return fmt.Errorf("the kernel drops what comes in by %s: rp_filter is strict there and a routing rule before %d leads elsewhere; set net.ipv4.conf.%s.rp_filter=2, or move that rule behind ours", s.device, prefDevice, s.device)
		}
	}
	return nil
}

// probeAddress stands for any host of the Internet (RFC 5737).
var probeAddress = []byte{192, 0, 2, 1}

// reversePathStrict: the stricter of the setting for all and for the device counts (ip-sysctl.rst).
func reversePathStrict(device string) bool {
	value := ""
	for _, of := range []string{"all", device} {
		b, _ := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", filepath.Base(of), "rp_filter"))
		value = max(value, strings.TrimSpace(string(b)))
	}
	return value == "1"
}

// tableThere reports whether our table is in the kernel, if it has to be.
func tableThere(f filter) bool {
	if len(f.metered) == 0 && f.cut == "" {
		return true
	}
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	return exec.CommandContext(ctx, "nft", "list", "table", "inet", filterTable).Run() == nil
}
