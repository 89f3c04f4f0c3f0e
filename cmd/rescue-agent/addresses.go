package main

import (
	"net"
	"sort"
	"strings"
)

// addresses lists the addresses that others can use. The one that the route to
// the box uses comes first: it is the one the box, and the admin through it, can reach.
func addresses(server string) []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			list = append(list, n.IP.String())
		}
	}
	sort.Strings(list)
	return firstOnce(source(server), list)
}

// firstOnce puts one of the addresses first, and keeps each once: two cards on
// one network may have the same for a moment.
func firstOnce(first string, list []string) []string {
	var out []string
	for _, addr := range list {
		if n := len(out); n > 0 && out[n-1] == addr {
			continue
		}
		out = append(out, addr)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i] == first && out[j] != first })
	return out
}

// source is our address on the way to the box (host or host:port). No packet is sent.
func source(server string) string {
	host := server
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "80")
	}
	c, err := net.Dial("udp", host)
	if err != nil {
		return ""
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.String()
}

// globalAddress is the text if it is an address that others can use.
func globalAddress(s string) string {
	if ip := net.ParseIP(s); ip != nil && ip.IsGlobalUnicast() {
		return ip.String()
	}
	return ""
}
