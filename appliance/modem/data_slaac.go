package modem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// advert is what a router advertisement says (RFC 4861 section 4.2), as far as it counts
// for a bearer: its prefix, its router and its name servers.
type advert struct {
	prefixes []advertised
	router   bool // it is a default router
	dns      []netip.Addr
	mtu      int
}

type advertised struct {
	prefix netip.Prefix
	valid  time.Duration
}

// The types of the options: RFC 4861 section 4.6, RFC 8106 section 5.1.
const (
	optionPrefix = 3
	optionMTU    = 5
	optionRDNSS  = 25
)

var errAdvert = errors.New("not a router advertisement")

// parseAdvert reads the ICMPv6 message.
func parseAdvert(b []byte) (advert, error) {
	if len(b) < 16 || b[0] != byte(ipv6.ICMPTypeRouterAdvertisement) || b[1] != 0 {
		return advert{}, errAdvert
	}
	a := advert{router: binary.BigEndian.Uint16(b[6:]) > 0}
	for b = b[16:]; len(b) > 0; {
		if len(b) < 2 || b[1] == 0 || len(b) < 8*int(b[1]) {
			return advert{}, errAdvert // RFC 4861 section 6.1.2: dropped as a whole
		}
		a.option(b[0], b[:8*int(b[1])])
		b = b[8*int(b[1]):]
	}
	return a, nil
}

func (a *advert) option(kind byte, b []byte) {
	switch {
	case kind == optionPrefix && len(b) == 32:
		// Only a /64 that is meant for it makes an address (RFC 4862 section 5.5.3).
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte(b[16:])), int(b[2])).Masked()
		valid := lifetime(binary.BigEndian.Uint32(b[4:]))
		if b[3]&0x40 != 0 && b[2] == 64 && valid > 0 && usable(p.Addr()) && !p.Addr().IsLinkLocalUnicast() && !p.Addr().Is4In6() && len(a.prefixes) < 4 {
			a.prefixes = append(a.prefixes, advertised{p, valid})
		}
	case kind == optionMTU && len(b) == 8:
		if mtu := binary.BigEndian.Uint32(b[4:]); mtu >= 1280 && mtu <= 65535 {
			a.mtu = int(mtu)
		}
	case kind == optionRDNSS && len(b) >= 24:
		for b = b[8:]; len(b) >= 16 && len(a.dns) < 4; b = b[16:] {
			if s := netip.AddrFrom16([16]byte(b)); usable(s) && !s.Is4In6() {
				a.dns = append(a.dns, s)
			}
		}
	}
}

// lifetime of an address; for ever is cut down to a day, which the next advertisement renews.
func lifetime(seconds uint32) time.Duration {
	return min(time.Duration(seconds)*time.Second, longestTerm)
}

// solicitor asks a network for its advertisements and hears them.
type solicitor struct {
	conn  *ipv6.PacketConn
	raw   net.PacketConn
	index int
	name  string
}

func newSolicitor(name string, index int) (*solicitor, error) {
	lc := net.ListenConfig{Control: bindToDevice(name)}
	raw, err := lc.ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("open a socket for IPv6 on %s: %w", name, err)
	}
	conn := ipv6.NewPacketConn(raw)
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterAdvertisement)
	err = errors.Join(conn.SetICMPFilter(&only), conn.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true),
		conn.SetMulticastHopLimit(255), conn.SetHopLimit(255))
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("set up a socket for IPv6 on %s: %w", name, err)
	}
	return &solicitor{conn: conn, raw: raw, index: index, name: name}, nil
}

func (s *solicitor) close() { s.raw.Close() }

// ask sends a router solicitation. It fails while the device has no link-local address.
func (s *solicitor) ask() error {
	msg := []byte{byte(ipv6.ICMPTypeRouterSolicitation), 0, 0, 0, 0, 0, 0, 0}
	_, err := s.conn.WriteTo(msg, &ipv6.ControlMessage{IfIndex: s.index}, &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: s.name})
	return err
}

// next is the next advertisement of a neighbour: a hop limit below 255 has crossed a router.
func (s *solicitor) next() (advert, netip.Addr, error) {
	buf := make([]byte, 1500)
	for {
		n, cm, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return advert{}, netip.Addr{}, err
		}
		ip, ok := from.(*net.IPAddr)
		if !ok || cm == nil || cm.HopLimit != 255 || cm.IfIndex != s.index {
			continue
		}
		router, ok := netip.AddrFromSlice(ip.IP)
		if a, err := parseAdvert(buf[:n]); err == nil && ok && router.IsLinkLocalUnicast() {
			return a, router, nil
		}
	}
}

// bindToDevice keeps a socket's packets on one device, both ways.
func bindToDevice(name string) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name)
		})
		return errors.Join(err, set)
	}
}
