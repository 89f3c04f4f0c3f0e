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
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// filterTable is our nftables table.
const filterTable = "rescuebox_link"

// filter is what our table does: on metered uplinks nothing comes in but what answers us, the
// tunnel, and what addresses themselves need. The tunnel's hub may speak after this host forgot the flow.
type filter struct {
	metered []string
	ports   []int // of the tunnel
}

// rules is the table in nft's language. The first lines take an old one away, all in one transaction.
func (f filter) rules() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %[1]s\ndelete table inet %[1]s\n", filterTable)
	if len(f.metered) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "table inet %s {\n", filterTable)
	fmt.Fprintf(&b, "\tset metered { type ifname; %s}\n", elements(f.metered))
	b.WriteString(`	chain input {
		type filter hook input priority -10; policy accept;
		iifname != @metered accept
		ct state established,related accept
		udp sport 67 udp dport 68 accept
		udp sport 547 udp dport 546 accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
		icmp type echo-reply accept
		icmpv6 type echo-reply accept
`)
	for _, p := range f.ports {
		fmt.Fprintf(&b, "\t\tudp dport %d accept\n", p)
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
	return "elements = { " + strings.Join(quoted, ", ") + " }; "
}

// set puts the table into the kernel.
func (f filter) set() error {
	err := nft(f.rules())
	if errors.Is(err, exec.ErrNotFound) {
		if len(f.metered) == 0 {
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

// cutTable is the nftables table of a drill.
const cutTable = "rescuebox_cut"

// cut is a table that cuts a device off for a time; the kernel itself ends that, whatever becomes of
// us. It is one of the device: what the other families drop on the way out is told to the sender, and a
// line that dies tells nobody. ARP and DHCP go on, so that all is there when it ends.
func cut(device string, d time.Duration) string {
	return fmt.Sprintf(`table netdev %[1]s
delete table netdev %[1]s
table netdev %[1]s {
	set cut { type ifname; flags timeout; elements = { %[2]q timeout %[3]dms }; }
	chain in {
		type filter hook ingress device %[2]q priority -400; policy accept;
		ether type arp accept
		udp sport { 67, 547 } accept
		iifname @cut drop
	}
	chain out {
		type filter hook egress device %[2]q priority 400; policy accept;
		ether type arp accept
		udp dport { 67, 547 } accept
		oifname @cut drop
	}
}
`, cutTable, device, d.Milliseconds())
}

// uncut takes the table of a drill away, if there is one.
func uncut() error {
	err := nft(fmt.Sprintf("table netdev %[1]s\ndelete table netdev %[1]s\n", cutTable))
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	return err
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

// listed is our table as nft reads it back from the kernel; "" where there is none to be, or none is.
func (f filter) listed() string {
	if len(f.metered) == 0 {
		return ""
	}
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	out, err := exec.CommandContext(ctx, "nft", "--stateless", "list", "table", "inet", filterTable).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// hearFilter calls changed when somebody changed our table, us among them, until the socket is closed.
func hearFilter(socket *os.File, changed func()) {
	for buf := make([]byte, 1<<16); ; {
		n, err := socket.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS): // more changed than the socket holds
		case err != nil:
			return
		case !ofFilter(buf[:n]):
			continue
		}
		changed()
	}
}

// ofFilter reports whether messages of nfnetlink speak of our table: each names the one that it is about.
func ofFilter(b []byte) bool {
	list, _ := syscall.ParseNetlinkMessage(b)
	return slices.ContainsFunc(list, func(m syscall.NetlinkMessage) bool {
		return m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && bytes.Contains(m.Data, []byte(filterTable+"\x00"))
	})
}
