package modem

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// lease is what a modem's DHCP server gave, as far as it counts here.
type lease struct {
	address netip.Prefix
	gateway netip.Addr
	dns     []netip.Addr
	mtu     int
	valid   time.Duration
	renew   time.Duration // T1
}

// The bounds of DHCP with a modem, which is one cable away.
const (
	dhcpTry      = time.Second // doubled with each
	dhcpTries    = 4
	shortestTerm = 10 * time.Second
	longestTerm  = 24 * time.Hour
)

// dhcp is a client on one device.
type dhcp struct {
	client *nclient4.Client
	got    *nclient4.Lease
}

func newDHCP(name string) (*dhcp, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(dhcpTry), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, fmt.Errorf("open a socket for DHCP on %s: %w", name, err)
	}
	return &dhcp{client: c}, nil
}

func (d *dhcp) close() { d.client.Close() }

// wants are the options that a bearer can use.
var wants = dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionInterfaceMTU, dhcpv4.OptionClasslessStaticRoute)

// request asks for a new lease.
func (d *dhcp) request(ctx context.Context) (lease, error) {
	got, err := d.client.Request(ctx, wants)
	if err != nil {
		return lease{}, dhcpError(err)
	}
	l, err := leaseFrom(got.ACK)
	if err == nil {
		d.got = got
	}
	return l, err
}

// extend renews the lease: the server is asked by broadcast, for its answer to get here
// whether or not the main table has a way to it.
func (d *dhcp) extend(ctx context.Context) (lease, error) {
	got, err := d.client.Renew(ctx, d.got, wants)
	if err != nil {
		return lease{}, dhcpError(err)
	}
	l, err := leaseFrom(got.ACK)
	if err == nil {
		d.got = got
	}
	return l, err
}

func dhcpError(err error) error {
	if errors.Is(err, nclient4.ErrNoResponse) {
		return fmt.Errorf("%w: no DHCP server on the modem's side", errNoAnswer)
	}
	if nak := (*nclient4.ErrNak)(nil); errors.As(err, &nak) {
		return &Refusal{Why: "the modem's DHCP server takes its address back"}
	}
	return fmt.Errorf("ask the modem by DHCP: %w", err)
}

// leaseFrom reads an ACK. What it says comes from the modem: an address that is none is
// an error, the rest is left out where it makes no sense.
func leaseFrom(ack *dhcpv4.DHCPv4) (lease, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || !usable(addr) {
		return lease{}, &Refusal{Why: "the modem's DHCP server gives no address that can be used"}
	}
	bits := 24
	if ones, size := ack.SubnetMask().Size(); size == 32 && ones >= 8 {
		bits = ones
	}
	l := lease{address: netip.PrefixFrom(addr, bits)}
	for _, ip := range ack.DNS() {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && usable(a) && len(l.dns) < 4 {
			l.dns = append(l.dns, a)
		}
	}
	l.gateway = gatewayOf(ack)
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= 576 {
		l.mtu = int(mtu)
	}
	l.valid = min(max(ack.IPAddressLeaseTime(time.Hour), shortestTerm), longestTerm)
	l.renew = ack.IPAddressRenewalTime(l.valid / 2)
	if l.renew <= 0 || l.renew > l.valid*7/8 {
		l.renew = l.valid / 2
	}
	return l, nil
}

// gatewayOf is the router: of the classless routes where there are some, for then the
// router option does not count (RFC 3442).
func gatewayOf(ack *dhcpv4.DHCPv4) netip.Addr {
	for _, r := range ack.ClasslessStaticRoute() {
		if ones, _ := r.Dest.Mask.Size(); ones == 0 {
			if a := addr4(r.Router); a.IsValid() {
				return a
			}
		}
	}
	for _, ip := range ack.Router() {
		if a := addr4(ip); a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}

func addr4(ip net.IP) netip.Addr {
	if a, ok := netip.AddrFromSlice(ip.To4()); ok && usable(a) {
		return a
	}
	return netip.Addr{}
}

// usable says no to what no host can have.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
