package bmc

import (
	"context"
	"net/netip"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"
)

// wired is a controller that can say how its network port is connected.
type wired interface {
	Wiring(ctx context.Context) (Wiring, error)
}

// lookAtPort reads how the controller is connected, in whichever protocol it says so. The account
// is known to be right by then.
func (s *subject) lookAtPort(ctx context.Context, lan netip.Prefix) {
	if s.info.Protocol == "" || s.Config.Password == nil {
		return
	}
	var w Wiring
	var err error
	if c, ok := s.Controller.(wired); ok && s.info.Protocol == "redfish" {
		w, err = c.Wiring(ctx)
	}
	hint := "set its network port to dedicated, without failover, in its own pages"
	// Supermicro says it over IPMI only, also where all else goes over Redfish.
	if s.info.Protocol == "ipmi" || w.Mode == "" && makerOf(s.info.Vendor) == supermicro && s.speaks && s.caps.V20 {
		if w = s.wiringOverIPMI(ctx); w.Mode != "" {
			hint, err = "ipmitool raw 0x30 0x70 0x0c 1 0 sets it to dedicated", nil
		}
	}
	s.judge(w, err, lan, hint)
}

// judge says what the wiring means. On a shared port the controller is in the server's own network, and all
// that is there reaches it, a server that somebody broke into among them. That is bad where its address lies in the
// rescue LAN: there the servers are. Elsewhere a VLAN's tag may keep the two apart, or that port of the server
// may lead to a network of controllers only: the box cannot see it, so it is worth knowing, and no more. The same goes for a
// port that fails over: pulling one cable puts the controller on the other network, with the address that it has.
func (s *subject) judge(w Wiring, err error, lan netip.Prefix, hint string) {
	level, where := Note, "; its address is not in the rescue LAN"
	if lan.Contains(s.addr) {
		level, where = Bad, "; its address is in the rescue LAN, where the servers are"
	}
	port := "the server's"
	if w.Port != "" {
		port += " (" + w.Port + ")"
	}
	switch {
	case err != nil:
		s.found(checkNetwork, Note, "", "it does not say how its network port is connected: %v", err)
	case w.Mode == Dedicated:
		s.found(checkNetwork, Good, "", "its network port is dedicated")
	case w.Mode == Shared:
		s.found(checkNetwork, level, hint, "its network port is shared with %s%s", port, where)
	case w.Mode == Failover:
		s.found(checkNetwork, level, hint, "its network port fails over to %s: unplugged, the BMC appears on that network%s", port, where)
	default:
		s.found(checkNetwork, Note, "look whether it is dedicated, in its own pages", "not known whether its network port is shared with the server's: it has no word for it that the box knows")
	}
}

// wiringOverIPMI reads the wiring of a Supermicro, and whether the controller knows itself by another address.
func (s *subject) wiringOverIPMI(ctx context.Context) (w Wiring) {
	_ = s.withAccount().session(ctx, "ask for the network port", func(ctx context.Context, c *client.Client) error {
		var ip types.LanConfigParam_IP
		if c.GetLanConfigParamFor(ctx, types.ChannelNumberSelf, &ip) == nil && !ip.IP.IsUnspecified() && ip.IP.String() != s.addr.String() {
			s.found(checkNetwork, Note, "is there a translation of addresses in between, or a second port?", "it says that its address is %s", ip.IP)
		}
		if makerOf(s.info.Vendor) == supermicro {
			w = supermicroWiring(ctx, c)
		}
		return nil
	})
	return w
}

// withAccount is what speaks IPMI with the configured account: the one that all else goes through,
// so that a password that was refused is not sent once more.
func (s *subject) withAccount() *IPMI {
	switch c := s.Controller.(type) {
	case *Client:
		return c.ipmi
	case *IPMI:
		return c
	}
	return &IPMI{Host: s.addr.String(), Port: s.ipmi, User: s.Config.User, Password: s.Config.Password}
}

// supermicroWiring reads the mode of the network port by Supermicro's own command (0x30 0x70 0x0c,
// puppet-ipmi PR#28): dedicated, shared with the server's first port, or by failover, their default.
func supermicroWiring(ctx context.Context, c *client.Client) Wiring {
	r, err := c.RawCommand(ctx, 0x30, 0x70, []byte{0x0c, 0}, "network port")
	if err != nil || len(r.Response) == 0 {
		return Wiring{}
	}
	modes := []WiringMode{Dedicated, Shared, Failover}
	if n := int(r.Response[0]); n < len(modes) {
		return Wiring{Mode: modes[n]}
	}
	return Wiring{}
}
