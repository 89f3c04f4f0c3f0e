package appliance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/dhcp"
)

// scouting is what other servers said last. To ask takes seconds, so that who
// wants to know only roughly gets what somebody else asked.
type scouting struct {
	wait time.Duration // for answers; zero is askTime, shorter in tests

	mu   sync.Mutex
	at   time.Time
	said []dhcp.Said
	err  error
}

// others asks what other servers tell boot clients, or has that not older than age.
func (b *box) others(ctx context.Context, age time.Duration) ([]dhcp.Said, error) {
	s := &b.scouting
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() || time.Since(s.at) > age {
		s.said, s.err = b.scout().Ask(ctx, cmp.Or(s.wait, askTime))
		s.at = time.Now()
	}
	boxes := map[netip.Addr]bool{}
	for _, o := range b.dhcp.Status().Servers {
		boxes[o.Addr] = o.Box
	}
	return slices.DeleteFunc(slices.Clone(s.said), func(a dhcp.Said) bool { return boxes[a.Addr] }), s.err
}

// scoutAge is how old the answers of other servers may be that a diagnosis rests on.
const scoutAge = 2 * time.Minute

// lan is what is around a boot that stands still.
func (b *box) lan(ctx context.Context) boot.LAN {
	st := b.dhcp.Status()
	l := boot.LAN{Mode: string(st.Mode)}
	switch {
	case dhcp.Mode(b.Config.LAN.DHCP) == dhcp.Off:
		l.Mode = string(dhcp.Off)
	case st.Since.IsZero():
		l.Mode = "down"
	}
	if st.Mode == dhcp.Full && len(st.Pools) > 0 {
		l.NoAddress = st.Pools[0].Used() >= st.Pools[0].Size
	}
	said, _ := b.others(ctx, scoutAge) // without an answer: what was heard must do
	servers := map[netip.Addr]boot.ForeignServer{}
	for _, a := range said {
		servers[a.Addr] = b.foreign(servers[a.Addr], a)
	}
	for _, o := range st.Servers {
		if _, asked := servers[o.Addr]; !asked {
			servers[o.Addr] = b.foreign(boot.ForeignServer{}, dhcp.Said{OtherServer: o, Kind: dhcp.Kinds()[2]})
		}
	}
	for _, s := range servers {
		l.Servers = append(l.Servers, s)
	}
	slices.SortFunc(l.Servers, func(x, y boot.ForeignServer) int { return x.Addr.Compare(y.Addr) })
	return l
}

// foreign adds one answer to what is known of a server.
func (b *box) foreign(s boot.ForeignServer, a dhcp.Said) boot.ForeignServer {
	s.Addr, s.Box, s.Proxy = a.Addr, a.Box, a.Proxy
	for _, e := range a.Effects(b.Config.LAN.Address.Addr()) {
		switch e.Key {
		case "foreign-option60":
			s.PXEClient = true
		case "foreign-bootfile":
			s.BootFile = cmp.Or(s.BootFile, a.BootFile)
		case "wrong-next-server":
			s.NextServer = a.NextServer
		}
	}
	return s
}

// checkOtherDHCP asks other servers as every kind of client, and names what
// their answers do to a boot from us.
func (b *box) checkOtherDHCP(ctx context.Context) []admin.Finding {
	said, err := b.others(ctx, time.Second)
	if err != nil {
		return admin.Skip("other servers could not be asked: %s", err)
	}
	st := b.dhcp.Status()
	var list []admin.Finding
	full, boxes, names := addressServers(st, said)
	switch {
	case st.Configured == dhcp.Full && len(full) > 0:
		list = append(list, admin.Fault(admin.Failed, "two-dhcp-servers", `set [lan] dhcp = "auto" or "proxy"`,
			"two DHCP servers give addresses on this LAN, we and %s", strings.Join(full, ", "))...)
	case st.Mode == dhcp.Proxy && len(full)+boxes == 0:
		list = append(list, admin.Fault(admin.Failed, "no-address-server", `start the site's DHCP server, or set [lan] dhcp = "auto" or "full"`,
			"this box adds only the boot part (mode proxy), and no server gives addresses")...)
	}
	list = append(list, b.harm(ctx, said)...)
	if len(list) > 0 {
		return list
	}
	text := "DHCP of this box does not run"
	if !st.Since.IsZero() {
		text = fmt.Sprintf("mode is %s: %s", st.Mode, st.Why)
	}
	if len(names) > 0 {
		text += "; other servers, none of which hurts: " + strings.Join(names, ", ")
	}
	return admin.Fine("%s", text)
}

// addressServers are the others that give addresses, how many rescueboxes may give
// some, of which one serves and the others give way, and all others, by name.
func addressServers(st dhcp.Status, said []dhcp.Said) (full []string, boxes int, all []string) {
	add := func(o dhcp.OtherServer) {
		name := fmt.Sprintf("%s (%s)", o.Addr, o.MAC)
		if o.Box {
			name += ", another rescuebox"
		}
		if slices.Contains(all, name) {
			return
		}
		all = append(all, name)
		switch {
		case o.Proxy:
		case o.Box:
			boxes++
		default:
			full = append(full, name)
		}
	}
	for _, o := range st.Servers {
		add(o)
	}
	for _, a := range said {
		add(a.OtherServer)
	}
	return full, boxes, all
}

// harm is what the answers do, each thing once for each server; of several kinds
// of clients that suffer from it the first is named.
func (b *box) harm(ctx context.Context, said []dhcp.Said) (list []admin.Finding) {
	self := b.Config.LAN.Address
	seen := map[string]bool{}
	for _, a := range said {
		effects := a.Effects(self.Addr())
		if a.Offered.IsValid() && !self.Contains(a.Offered) {
			effects = append(effects, dhcp.Effect{Key: "foreign-subnet",
				Text: fmt.Sprintf("gives addresses such as %s, from which machines reach this box at %s only through a router", a.Offered, self),
				Hint: "give this box an address of that network: [lan] address"})
		}
		for _, e := range effects {
			if at := a.Addr.String() + e.Key; !seen[at] {
				seen[at] = true
				list = append(list, b.effect(ctx, a, e)...)
			}
		}
	}
	return list
}

func (b *box) effect(ctx context.Context, a dhcp.Said, e dhcp.Effect) []admin.Finding {
	level := admin.Warning
	if e.Key == "foreign-option60" {
		level = admin.Failed // no UEFI machine boots beside it
	}
	text := e.Text
	if e.Key == "wrong-next-server" {
		text += "; TFTP there " + tftpState(ctx, a.NextServer)
	}
	return admin.Fault(level, e.Key, e.Hint, "the DHCP server %s (%s) %s", a.Addr, a.MAC, text)
}

// tftpState asks a host for a file that it will not have: any answer shows a TFTP server.
func tftpState(ctx context.Context, host netip.Addr) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp4", ":0")
	if err != nil {
		return "could not be asked"
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline) // the read below ends by it, or at once
	if _, err := c.WriteTo([]byte("\x00\x01rescuebox-doctor\x00octet\x00"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(host, 69))); err != nil {
		return "cannot be reached"
	}
	buf := make([]byte, 600)
	for {
		_, from, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return "does not answer"
		}
		if err != nil {
			return "does not answer: " + err.Error()
		}
		if u, ok := from.(*net.UDPAddr); ok && u.AddrPort().Addr().Unmap() == host {
			return "answers"
		}
	}
}
