package appliance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/dhcp"
)

// A link that goes down more often than machines are restarted has a fault.
// On a box with one machine at the end of its cable each restart is two changes.
const (
	manyFlaps   = 20 // carrier changes since the start
	flapsPerDay = 100
)

// helloTime is how long a switch is listened to: with spanning tree it says
// so every 2 s (IEEE 802.1D-2004 table 17-1).
const helloTime = 4500 * time.Millisecond

// slowSwitch is a forward delay in which a machine's firmware gives up.
const slowSwitch = 4 * time.Second

// checkLink looks at cable and switch port.
func (b *box) checkLink(ctx context.Context) []admin.Finding {
	name := b.Config.LAN.Interface
	var list []admin.Finding
	if duplex := sysfs(name, "duplex"); duplex == "half" {
		list = append(list, admin.Fault(admin.Warning, "half-duplex", "set both ends to automatic negotiation, or change the cable",
			"%s runs at half duplex: downloads stall under load", name)...)
	}
	since := max(time.Since(b.started), time.Hour)
	if n := carrierChanges(name) - b.carrier; n >= manyFlaps && float64(n) > flapsPerDay*since.Hours()/24 {
		list = append(list, admin.Fault(admin.Warning, "link-flaps", "change the cable, then the switch port; look at energy saving (EEE)",
			"the link of %s went up or down %d times since %s", name, n, b.started.Format("2006-01-02 15:04"))...)
	}
	if delay := sysfs(name, "bridge/forward_delay"); delay != "" && sysfs(name, "bridge/stp_state") == "1" {
		if ticks, err := strconv.Atoi(delay); err == nil && ticks > 400 {
			list = append(list, admin.Fault(admin.Warning, "bridge-delay", fmt.Sprintf("ip link set %s type bridge stp_state 0 forward_delay 0", name),
				"%s is a bridge with spanning tree: a machine at one of its ports is cut off for %d s after its link comes up", name, 2*ticks/100)...)
		}
	}
	bpdu, heard, err := b.scout().SpanningTree(ctx, helloTime)
	if err == nil && heard && bpdu.Version == 0 && bpdu.ForwardDelay >= slowSwitch {
		list = append(list, admin.Fault(admin.Warning, "spanning-tree", "turn on PortFast (edge port) for the ports of box and machines, or rapid spanning tree",
			"the switch speaks old spanning tree: a port may stay shut for %s after a machine's link comes up, in which its firmware gives up", 2*bpdu.ForwardDelay)...)
	}
	if len(list) > 0 {
		return list
	}
	return admin.Fine("the link of %s is steady", name)
}

// sysfs reads what the kernel says of an interface; "" where it says nothing.
func sysfs(iface, file string) string {
	text, err := os.ReadFile(filepath.Join("/sys/class/net", iface, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// carrierChanges counts how often the link went up or down.
func carrierChanges(iface string) int {
	n, _ := strconv.Atoi(sysfs(iface, "carrier_changes"))
	return n
}

// maxScan is how many addresses of a pool are asked for.
const maxScan = 512

// checkAddresses asks who else has our address, and who sits in our pool
// without a lease.
func (b *box) checkAddresses(ctx context.Context) []admin.Finding {
	self := b.Config.LAN.Address.Addr()
	free := b.unleased()
	wait := 1500*time.Millisecond + time.Duration(len(free))*6*time.Millisecond
	found, err := b.scout().Claims(ctx, wait, append(free, self)...)
	if err != nil {
		return admin.Skip("nobody could be asked: %s", err)
	}
	own := ownMACs()
	var list []admin.Finding
	for _, mac := range found[self] {
		if own[mac] {
			continue
		}
		list = append(list, admin.Fault(admin.Failed, "address-duplicate", "give one of the two another address",
			"%s has our address %s too: machines load from now us, now it", mac, self)...)
	}
	for _, a := range free {
		for _, mac := range found[a] {
			if own[mac] {
				continue
			}
			list = append(list, admin.Fault(admin.Warning, "pool-address-in-use", "move it out of [lan] range, or make it a machine with a reserved address",
				"%s uses %s out of our range without a lease", mac, a)...)
		}
	}
	if len(list) > 0 {
		return list
	}
	return admin.Fine("nobody else has %s, and nobody sits in the range without a lease", self)
}

// unleased are the addresses of our pool that nobody should have. Beside another
// server the range may be its range too, so that hosts there are right.
func (b *box) unleased() (list []netip.Addr) {
	r := b.Config.LAN.Range
	if b.dhcp.Status().Mode != dhcp.Full || !r.First.IsValid() {
		return nil
	}
	leased := map[netip.Addr]bool{b.Config.LAN.Address.Addr(): true}
	for _, l := range b.dhcp.Leases() {
		leased[l.Addr] = true
	}
	for _, m := range b.table.Machines() {
		leased[m.Address] = true
	}
	for a := r.First; a.IsValid() && a.Compare(r.Last) <= 0 && len(list) < maxScan; a = a.Next() {
		if !leased[a] {
			list = append(list, a)
		}
	}
	return list
}

func ownMACs() map[boot.MAC]bool {
	own := map[boot.MAC]bool{}
	list, err := net.Interfaces()
	if err != nil {
		return own
	}
	for _, i := range list {
		if len(i.HardwareAddr) == len(boot.MAC{}) {
			own[boot.MAC(i.HardwareAddr)] = true
		}
	}
	return own
}

// checkRouting looks whether the answers to machines leave by the interface that
// they came in by; where not, the kernel's reverse path filter may drop what
// machines send (ip-sysctl, rp_filter).
func (b *box) checkRouting(context.Context) []admin.Finding {
	name := b.Config.LAN.Interface
	link, err := netlink.LinkByName(name)
	if err != nil {
		return admin.Skip("%s is not there", name)
	}
	var list []admin.Finding
	for _, host := range b.exampleHosts() {
		routes, err := netlink.RouteGet(host.AsSlice())
		if err != nil || len(routes) == 0 || routes[0].LinkIndex != link.Attrs().Index {
			list = append(list, b.astray(name, host, routes, err)...)
		}
	}
	if len(list) > 0 {
		return list
	}
	return admin.Fine("the way to all machines leads over %s", name)
}

// exampleHosts is one address of each network that machines are in.
func (b *box) exampleHosts() []netip.Addr {
	lan := b.Config.LAN
	list := []netip.Addr{lan.Address.Masked().Addr().Next()}
	if lan.Range.First.IsValid() {
		list = []netip.Addr{lan.Range.First, lan.Range.Last}
	}
	for _, r := range lan.Relays {
		list = append(list, r.Range.First)
	}
	return list
}

func (b *box) astray(name string, host netip.Addr, routes []netlink.Route, err error) []admin.Finding {
	if err != nil || len(routes) == 0 {
		return admin.Fault(admin.Failed, "route-elsewhere", "add a route to that network", "there is no route to %s, where machines are: %s", host, errors.Join(err))
	}
	via := strconv.Itoa(routes[0].LinkIndex)
	if l, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
		via = l.Attrs().Name
	}
	if strictReverse(name) {
		return admin.Fault(admin.Failed, "rp-filter", fmt.Sprintf("correct the route, or sysctl net.ipv4.conf.%s.rp_filter=2", name),
			"the way to %s leads over %s and not %s, so that the kernel drops what machines there send (rp_filter is strict)", host, via, name)
	}
	return admin.Fault(admin.Warning, "route-elsewhere", "look at: ip route get "+host.String(), "the way to %s, where machines are, leads over %s and not %s", host, via, name)
}

// strictReverse reports whether the reverse path filter is strict: the higher of
// the two settings counts, and 1 is strict.
func strictReverse(iface string) bool {
	level := 0
	for _, dir := range []string{"all", iface} {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", dir, "rp_filter"))
		if n, numErr := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && numErr == nil {
			level = max(level, n)
		}
	}
	return level == 1
}

// maxPinged is how many hosts are asked for a full frame.
const maxPinged = 8

// checkMTU sends frames of full size to hosts of the LAN that answer small ones.
func (b *box) checkMTU(ctx context.Context) []admin.Finding {
	link, err := netlink.LinkByName(b.Config.LAN.Interface)
	if err != nil {
		return admin.Skip("%s is not there", b.Config.LAN.Interface)
	}
	full := min(link.Attrs().MTU, smallestMTU)
	hosts, err := b.neighbours(link)
	if err != nil || len(hosts) == 0 {
		return admin.Skip("no host of the LAN is known that could be asked")
	}
	small, err := ping(ctx, b.Config.LAN.Interface, hosts, 64)
	if err != nil {
		return admin.Skip("hosts of the LAN cannot be asked: %s", err)
	}
	if len(small) == 0 {
		return admin.Skip("none of %d hosts of the LAN answers a ping", len(hosts))
	}
	large, err := ping(ctx, b.Config.LAN.Interface, small, full)
	if err != nil {
		return admin.Skip("frames of full size cannot be sent: %s", err)
	}
	for _, h := range small {
		if !slices.Contains(large, h) {
			return admin.Fault(admin.Warning, "full-frames-lost",
				"look for a tunnel, a VLAN or a jumbo-frame setting on the way; meanwhile set [tftp] block_size = 1024",
				"%s answers small packets, but none of %d bytes: something on the way has a smaller MTU", h, full)
		}
	}
	return admin.Fine("packets of %d bytes reach all of %d hosts that answer", full, len(small))
}

// neighbours are hosts of the LAN that the kernel or DHCP has met, no more than are worth asking.
func (b *box) neighbours(link netlink.Link) (hosts []netip.Addr, err error) {
	self := b.Config.LAN.Address
	add := func(a netip.Addr) {
		if a.IsValid() && a != self.Addr() && self.Contains(a) && !slices.Contains(hosts, a) && len(hosts) < maxPinged {
			hosts = append(hosts, a)
		}
	}
	for _, s := range b.dhcp.Status().Servers {
		add(s.Addr)
	}
	add(b.Config.LAN.Router)
	for _, l := range b.dhcp.Leases() {
		add(l.Addr)
	}
	list, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	for _, n := range list {
		if a, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY) != 0 {
			add(a)
		}
	}
	return hosts, err
}

// pingTime is how long hosts have to answer.
const pingTime = 1200 * time.Millisecond

// ping returns the hosts that answer an echo request in an IP packet of a size,
// which may not be cut into pieces on the way.
func ping(ctx context.Context, iface string, hosts []netip.Addr, size int) (answered []netip.Addr, err error) {
	lc := net.ListenConfig{Control: wholePackets(iface)}
	c, err := lc.ListenPacket(ctx, "ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	const headers = 20 + 8 // IPv4 and ICMP
	id := os.Getpid() & 0xffff
	msg := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: size, Data: make([]byte, max(0, size-headers))}}
	packet, err := msg.Marshal(nil)
	if err != nil {
		return nil, err
	}
	for range 2 {
		for _, h := range hosts {
			if _, err := c.WriteTo(packet, &net.IPAddr{IP: h.AsSlice()}); err != nil && !errors.Is(err, unix.EHOSTUNREACH) {
				return nil, err
			}
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(pingTime)); err != nil {
		return nil, err
	}
	buf := make([]byte, 2048)
	for len(answered) < len(hosts) {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return answered, nil // the time is over
		}
		reply, err := icmp.ParseMessage(1, buf[:n])
		if err != nil || reply.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		echo, ok := reply.Body.(*icmp.Echo)
		a, isAddr := netip.AddrFromSlice(from.(*net.IPAddr).IP.To4())
		if ok && isAddr && echo.ID == id && echo.Seq == size && !slices.Contains(answered, a) {
			answered = append(answered, a)
		}
	}
	return answered, nil
}

// wholePackets makes a socket send by one interface, and nothing in pieces.
func wholePackets(iface string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		control := c.Control(func(fd uintptr) {
			err = errors.Join(unix.BindToDevice(int(fd), iface),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE))
		})
		return errors.Join(err, control)
	}
}
