package modem

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// field is the parameter, or "".
func field(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

var errNoState = errors.New("the modem does not say whether its bearer is up")

// ndisUp reads ^NDISSTATQRY, whose answer is a state for each family in one line
// (1,,,"IPV4",0,33,,"IPV6") or in two, and in old firmware a mere number. One family that is
// up is enough. Where none is, the network's cause is the error.
func ndisUp(lines []string) (bool, error) {
	known := false
	var refused error
	for _, line := range lines {
		f := fields(line)
		for i := 0; i < len(f); i += 4 {
			switch f[i] {
			case "1":
				return true, nil
			case "0", "2", "3": // down, connecting, disconnecting
				known = true
			}
			if cause, err := strconv.Atoi(field(f, i+1)); err == nil && cause > 0 && f[i] == "0" {
				refused = ofCause(cause)
			}
		}
	}
	if !known {
		return false, errNoState
	}
	return false, refused
}

// contextUp reads +CGACT? and its like: the number of each context and whether it is up.
func contextUp(lines []string) (bool, error) {
	for _, line := range lines {
		if f := fields(line); field(f, 0) == strconv.Itoa(contextID) {
			return field(f, 1) == "1", nil
		}
	}
	if len(lines) > 0 {
		return false, nil
	}
	return false, errNoState
}

// zteUp reads +ZGACT?: "1,1" as +CGACT, or a mere "1".
func zteUp(lines []string) (bool, error) {
	if len(lines) == 1 && !strings.Contains(lines[0], ",") {
		return strings.TrimSpace(lines[0]) == "1", nil
	}
	return contextUp(lines)
}

// telitUp reads #ECM?: the device, then its state.
func telitUp(lines []string) (bool, error) {
	for _, line := range lines {
		if f := fields(line); len(f) >= 2 {
			return f[1] == "1", nil
		}
	}
	return false, errNoState
}

// parseContext reads +CGCONTRDP (3GPP TS 27.007 10.1.23): for each family of our context
//
//	cid, bearer, apn, address and mask, gateway, primary DNS, secondary DNS, …
//
// where an address and its mask are one word of 8 or 32 numbers with dots between. Some
// modems leave out the mask, or write IPv6 with colons (+CGPIAF).
func parseContext(lines []string) (Link, error) {
	var l Link
	for _, line := range lines {
		f := fields(line)
		if field(f, 0) != strconv.Itoa(contextID) {
			continue
		}
		if p, ok := parsePrefix(field(f, 3)); ok && len(l.Addresses) < 4 {
			l.Addresses = append(l.Addresses, p)
		}
		if gw, ok := parseDotted(field(f, 4)); ok && usable(gw) {
			l.via(gw)
		}
		for i := 5; i <= 6; i++ {
			if s, ok := parseDotted(field(f, i)); ok && usable(s) && len(l.DNS) < 4 && !slices.Contains(l.DNS, s) {
				l.DNS = append(l.DNS, s)
			}
		}
		if mtu, err := strconv.Atoi(field(f, 11)); err == nil && mtu >= 576 && mtu <= 65535 {
			l.MTU = mtu
		}
	}
	if len(l.Addresses) == 0 {
		return Link{}, errors.New("the modem names no address of its bearer")
	}
	return l, nil
}

// parseAddress reads +CGPADDR: cid, address, maybe another one.
func parseAddress(lines []string) (Link, error) {
	var l Link
	for _, line := range lines {
		f := fields(line)
		if field(f, 0) != strconv.Itoa(contextID) {
			continue
		}
		for _, word := range f[1:] {
			if p, ok := parsePrefix(word); ok && len(l.Addresses) < 4 {
				l.Addresses = append(l.Addresses, p)
			}
		}
	}
	if len(l.Addresses) == 0 {
		return Link{}, errors.New("the modem names no address of its bearer")
	}
	return l, nil
}

// parsePrefix reads an address with or without its mask behind it.
func parsePrefix(word string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(word); err == nil && strings.Contains(word, ":") {
		return whole(a)
	}
	n, ok := dotted(word)
	if !ok {
		return netip.Prefix{}, false
	}
	switch len(n) {
	case 4, 16:
		a, _ := netip.AddrFromSlice(n)
		return whole(a)
	case 8, 32:
		half := len(n) / 2
		a, _ := netip.AddrFromSlice(n[:half])
		bits, ok := maskBits(n[half:])
		if p := netip.PrefixFrom(a, bits); ok && usable(a) && !a.IsLinkLocalUnicast() && p.IsValid() {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// whole is an address that says nothing of its network: alone on it in IPv4, and with the
// half that a network gives in IPv6 (RFC 6459 section 5.2). A link-local one is only
// half of what router advertisements make an address of.
func whole(a netip.Addr) (netip.Prefix, bool) {
	a = a.Unmap().WithZone("")
	switch {
	case !usable(a) || a.IsLinkLocalUnicast():
		return netip.Prefix{}, false
	case a.Is4():
		return netip.PrefixFrom(a, 32), true
	}
	return netip.PrefixFrom(a, 64), true
}

// parseDotted reads an address of 4 or 16 numbers, or with colons.
func parseDotted(word string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(word); err == nil {
		return a.Unmap().WithZone(""), true
	}
	n, ok := dotted(word)
	if !ok || len(n) != 16 {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(n)
	return a.Unmap(), ok
}

// dotted reads bytes in decimal with dots between.
func dotted(word string) ([]byte, bool) {
	if len(word) > 4*32 {
		return nil, false
	}
	var n []byte
	for part := range strings.SplitSeq(word, ".") {
		b, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return nil, false
		}
		n = append(n, byte(b))
	}
	return n, true
}

// maskBits is the length of a mask that is one.
func maskBits(mask []byte) (bits int, ok bool) {
	for i, b := range mask {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
		if b != 0 || bits < 8*(i+1) && slices.ContainsFunc(mask[i+1:], func(b byte) bool { return b != 0 }) {
			return 0, false
		}
	}
	return bits, true
}

// parseDHCP reads Huawei's ^DHCP: address, mask, gateway, server, two of DNS, each as a number
// in hexadecimal whose last byte is the address's first.
func parseDHCP(line string) (Link, error) {
	var addrs []netip.Addr
	for _, word := range fields(line)[:min(6, len(fields(line)))] {
		if len(word) < 8 {
			word = strings.Repeat("0", 8-len(word)) + word
		}
		b, err := hex.DecodeString(word)
		if err != nil || len(b) != 4 {
			return Link{}, fmt.Errorf("the modem's ^DHCP has no address %q", word)
		}
		addrs = append(addrs, netip.AddrFrom4([4]byte(binary.LittleEndian.AppendUint32(nil, binary.BigEndian.Uint32(b)))))
	}
	if len(addrs) < 3 || !usable(addrs[0]) {
		return Link{}, errors.New("the modem's ^DHCP names no address")
	}
	mask := addrs[1].As4()
	bits, ok := maskBits(mask[:])
	if !ok || bits == 0 {
		bits = 32
	}
	l := Link{Addresses: []netip.Prefix{netip.PrefixFrom(addrs[0], bits)}}
	if usable(addrs[2]) {
		l.Gateway = addrs[2]
	}
	for _, s := range addrs[min(4, len(addrs)):] {
		if usable(s) && !slices.Contains(l.DNS, s) {
			l.DNS = append(l.DNS, s)
		}
	}
	return l, nil
}
