package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Uplink is [[uplink]], a way to the Internet. The order in the file is that of preference.
type Uplink struct {
	Name      string
	Interface string // "" where a modem makes it
	Modem     string // name of the [[modem]] whose data it is, or ""
	Gateway   netip.Addr
	Metered   bool          // each byte costs: probed frugally
	Probes    []Probe       // nil: the VPN's hubs by ping
	Interval  time.Duration // between probes while nothing else was heard
}

// Probe is something on the Internet that answers while an uplink works.
type Probe struct {
	Kind string // "icmp", "dns", "tcp", "http" or "handshake"
	Host string // address or name; "" of a handshake
	Port int    // 0: the usual one
	Path string // of http, with its query
}

// Link is [link]: how the box goes from one uplink to another.
type Link struct {
	Mode        string        // "standby", "dormant" or "lte-only"
	Failback    time.Duration // how long a better uplink must be good
	MaxSwitches int           // per hour
}

// VPN is [vpn].
type VPN struct {
	Kind       string       // "userspace", "kernel" or "external"
	Interface  string       // ours, or that of External
	Address    netip.Prefix // the box's own inside; zero if external
	MTU        int
	ListenPort int // 0: any
	ShareLAN   bool
	Unit       string // systemd unit of an external one, or ""
	Hubs       []Hub
}

// Hub is [[vpn.hub]], a WireGuard peer that admins come from.
type Hub struct {
	Name             string
	PublicKey        string // base64
	PresharedKeyFile string // or ""
	Endpoints        []string
	AllowedIPs       []netip.Prefix
	Keepalive        time.Duration // 0: none
	Ping             netip.Addr    // its address inside, or zero
}

// The bounds of the link's times. Probes more often than each 20 ms find nothing sooner.
const (
	quickestProbe = 20 * time.Millisecond
	slowestProbe  = time.Hour
	wireInterval  = 50 * time.Millisecond
	meterInterval = 10 * time.Minute
)

func (c *checker) uplinks(raw []rawUplink, modems []Modem, lan LAN) []Uplink {
	var list []Uplink
	taken := owners{}
	for i, r := range raw {
		path := fmt.Sprintf("uplink[%d]", i)
		u := c.uplink(path, r, modems, lan)
		c.unique(taken, "name", path, ".name", u.Name)
		c.unique(taken, "interface", path, ".interface", u.Interface)
		c.unique(taken, "modem", path, ".modem", u.Modem)
		list = append(list, u)
	}
	return list
}

func (c *checker) uplink(path string, raw rawUplink, modems []Modem, lan LAN) Uplink {
	u := Uplink{
		Name:      read(c, path+".name", raw.Name, uplinkName),
		Interface: read(c, path+".interface", raw.Interface, optional(interfaceName)),
		Modem:     raw.Modem,
		Gateway:   read(c, path+".gateway", raw.Gateway, optional(anyAddress)),
		Metered:   raw.Metered != nil && *raw.Metered || raw.Metered == nil && raw.Modem != "",
	}
	for i, s := range raw.Probe {
		u.Probes = append(u.Probes, read(c, fmt.Sprintf("%s.probe[%d]", path, i), s, probe))
	}
	u.Interval = wireInterval
	if u.Metered {
		u.Interval = meterInterval
	}
	if raw.Interval != "" {
		u.Interval = read(c, path+".interval", raw.Interval, between(quickestProbe, slowestProbe, u.Interval.String()))
	}
	switch {
	case (raw.Interface == "") == (raw.Modem == ""):
		c.wrong(path+".interface", *faultf(`interface = "eth0", or modem = "lte" for the data of a [[modem]]`, "want one of interface and modem"))
	case raw.Interface != "" && raw.Interface == lan.Interface:
		c.wrong(path+".interface", *faultf("the Internet is behind another one, or behind a router that is no uplink of the box", "%s is the rescue LAN", raw.Interface))
	case raw.Modem != "" && !slices.ContainsFunc(modems, func(m Modem) bool { return m.Name == raw.Modem && m.Data != "none" }):
		c.wrong(path+".modem", *faultf("write a [[modem]] with that name, and with data", "there is no modem %s that carries data", quote(raw.Modem)))
	}
	if u.Metered && raw.Interval != "" && u.Interval < time.Minute {
		c.warn(path+".interval", fmt.Sprintf("each byte costs here, and the probes take about %d MB in 30 days", monthly(u.Interval)>>20),
			`leave it out, or metered = false where nobody counts`)
	}
	return u
}

// monthly is what probes cost in 30 days: 216 bytes there and back at the IP layer each.
func monthly(interval time.Duration) int64 { return int64(30*24*time.Hour/interval) * 216 }

func (c *checker) link(raw rawLink) Link {
	usual := defaults().Link
	return Link{
		Mode:        read(c, "link.mode", raw.Mode, linkMode),
		Failback:    read(c, "link.failback", raw.Failback, between(time.Second, 24*time.Hour, usual.Failback)),
		MaxSwitches: c.readInt("link.max_switches", raw.MaxSwitches, 2, 1000, usual.MaxSwitches),
	}
}

func linkMode(s string) (string, *fault) {
	switch s {
	case "standby", "dormant", "lte-only":
		return s, nil
	}
	return "", faultf(`"standby" keeps the modem's tunnel warm`, "%s is no mode: want standby, dormant or lte-only", quote(s))
}

// probe reads icmp://9.9.9.9, dns://9.9.9.9, tcp://192.0.2.1:443, http://example.org/generate_204, handshake.
func probe(s string) (Probe, *fault) {
	const hint = `for example "icmp://9.9.9.9", "dns://9.9.9.9", "tcp://192.0.2.1:443", "http://www.example.org/generate_204" or "handshake"`
	if s == "handshake" {
		return Probe{Kind: s}, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.Hostname() == "" || !slices.Contains([]string{"icmp", "dns", "tcp", "http"}, u.Scheme) {
		return Probe{}, faultf(hint, "%s is no probe", quote(s))
	}
	p := Probe{Kind: u.Scheme, Host: u.Hostname()}
	if u.Scheme == "http" {
		p.Path = u.RequestURI()
	}
	if u.Port() != "" {
		if p.Port, err = strconv.Atoi(u.Port()); err != nil || p.Port < 1 || p.Port > 65535 || p.Kind == "icmp" {
			return Probe{}, faultf(hint, "%s has a port that is none", quote(s))
		}
	}
	if p.Kind == "tcp" && p.Port == 0 {
		return Probe{}, faultf(hint, "%s has no port", quote(s))
	}
	return p, nil
}

// vpn checks [vpn]; nil is none.
func (c *checker) vpn(raw *rawVPN, uplinks []Uplink, lan LAN) *VPN {
	if raw == nil {
		return nil
	}
	if raw.External != "" {
		return c.externalVPN(*raw)
	}
	v := &VPN{
		Kind:       read(c, "vpn.kind", orUsual(raw.Kind, "userspace"), vpnKind),
		Interface:  read(c, "vpn.interface", orUsual(raw.Interface, "rescuevpn"), interfaceName),
		Address:    read(c, "vpn.address", raw.Address, innerAddress),
		MTU:        c.readInt("vpn.mtu", orUsual(raw.MTU, 1280), 576, 1500, 1280),
		ListenPort: c.readInt("vpn.listen_port", raw.ListenPort, 0, 65535, 0),
		ShareLAN:   raw.ShareLAN,
	}
	if raw.Unit != "" {
		c.wrong("vpn.unit", *faultf(`it goes with external = "tailscale0"`, "the box's own VPN has no unit"))
	}
	if lan.Address.IsValid() && v.Address.IsValid() && lan.Address.Overlaps(v.Address.Masked()) {
		c.wrong("vpn.address", *faultf("give the VPN addresses that neither branch nor office uses", "%s overlaps the rescue LAN", v.Address))
	}
	if len(uplinks) == 0 {
		c.wrong("vpn", *faultf("write an [[uplink]] for the branch's router: name = \"wan\", interface = \"eth0\"", "the VPN has no uplink to go by"))
	}
	if len(raw.Hub) == 0 {
		c.wrong("vpn", *faultf("write a [[vpn.hub]]", "the VPN has no hub to go to"))
	}
	taken := owners{}
	for i, r := range raw.Hub {
		path := fmt.Sprintf("vpn.hub[%d]", i)
		h := c.hub(path, r, v.Address)
		c.unique(taken, "name", path, ".name", h.Name)
		c.unique(taken, "key", path, ".public_key", h.PublicKey)
		v.Hubs = append(v.Hubs, h)
	}
	return v
}

// externalVPN is somebody else's: the box knows its interface and unit and nothing more.
func (c *checker) externalVPN(raw rawVPN) *VPN {
	for key, given := range map[string]bool{"kind": raw.Kind != "", "interface": raw.Interface != "", "address": raw.Address != "", "mtu": raw.MTU != 0,
		"listen_port": raw.ListenPort != 0, "share_lan": raw.ShareLAN} {
		if given {
			c.wrong("vpn."+key, *faultf("leave it out", "an external VPN has its own settings"))
		}
	}
	if len(raw.Hub) > 0 {
		c.wrong("vpn.hub[0]", *faultf("leave it out", "an external VPN has its own settings"))
	}
	return &VPN{Kind: "external", Interface: read(c, "vpn.external", raw.External, interfaceName),
		Unit: read(c, "vpn.unit", raw.Unit, optional(unitName))}
}

func (c *checker) hub(path string, raw rawHub, inner netip.Prefix) Hub {
	h := Hub{
		Name:             read(c, path+".name", raw.Name, optional(uplinkName)),
		PublicKey:        read(c, path+".public_key", raw.PublicKey, wireguardKey),
		PresharedKeyFile: read(c, path+".preshared_key_file", raw.PresharedKeyFile, optional(absolutePath)),
		Keepalive:        read(c, path+".keepalive", orUsual(raw.Keepalive, "25s"), between(0, 18*time.Hour, "25s")),
		Ping:             read(c, path+".ping", raw.Ping, optional(anyAddress)),
	}
	for i, s := range raw.Endpoint {
		h.Endpoints = append(h.Endpoints, read(c, fmt.Sprintf("%s.endpoint[%d]", path, i), s, endpoint))
	}
	if len(raw.Endpoint) == 0 {
		c.wrong(path+".endpoint", *faultf(`for example endpoint = ["192.0.2.1:51820"]`, "missing: where the hub is"))
	}
	for i, s := range raw.AllowedIPs {
		h.AllowedIPs = append(h.AllowedIPs, read(c, fmt.Sprintf("%s.allowed_ips[%d]", path, i), s, network0))
	}
	if len(raw.AllowedIPs) == 0 && inner.IsValid() {
		h.AllowedIPs = []netip.Prefix{inner.Masked()}
	}
	if h.Name == "" && len(h.Endpoints) > 0 {
		h.Name, _, _ = net.SplitHostPort(h.Endpoints[0])
	}
	if !h.Ping.IsValid() && inner.IsValid() {
		h.Ping = inner.Masked().Addr().Next()
	}
	if h.Ping.IsValid() && h.Ping == inner.Addr() {
		c.wrong(path+".ping", *faultf(`ping = "10.99.0.1", the hub's address in the VPN`, "%s is the box itself", h.Ping))
	}
	if slices.ContainsFunc(h.AllowedIPs, func(p netip.Prefix) bool { return p.IsValid() && p.Bits() == 0 }) {
		c.warn(path+".allowed_ips", "all of the box's traffic would be of the VPN: the box adds a route for each network here but none for this one",
			"name the networks that admins come from")
	}
	return h
}

// orUsual is a value, or the usual one where the key is not there.
func orUsual[T comparable](v, usual T) T {
	var none T
	if v == none {
		return usual
	}
	return v
}

func uplinkName(s string) (string, *fault) {
	if !imageForm.MatchString(s) {
		return "", faultf(`small letters, digits, dots and dashes: name = "wan"`, "%s is no name", quote(s))
	}
	return s, nil
}

func vpnKind(s string) (string, *fault) {
	if s != "userspace" && s != "kernel" {
		return "", faultf(`leave it out for "userspace"; somebody else's VPN is external = "tailscale0"`, "%s is neither userspace nor kernel", quote(s))
	}
	return s, nil
}

func anyAddress(s string) (netip.Addr, *fault) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, faultf("", "%s is no address", quote(s))
	}
	return a.Unmap(), nil
}

func innerAddress(s string) (netip.Prefix, *fault) {
	const hint = `the box's own address in the VPN with the VPN's prefix length: address = "10.99.0.2/24"`
	p, err := netip.ParsePrefix(s)
	switch {
	case s == "":
		return netip.Prefix{}, faultf(hint, "missing")
	case err != nil:
		return netip.Prefix{}, faultf(hint, "%s is no address with a prefix length", quote(s))
	case p.Bits() < p.Addr().BitLen()-1 && p.Masked().Addr() == p.Addr():
		return netip.Prefix{}, faultf(hint, "%s is a network, not an address in it", quote(s))
	}
	return p, nil
}

func network0(s string) (netip.Prefix, *fault) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, faultf(`for example allowed_ips = ["10.99.0.0/24"]`, "%s is no network", quote(s))
	case p.Masked() != p:
		return netip.Prefix{}, faultf(fmt.Sprintf("write %q", p.Masked()), "%s is an address in a network", quote(s))
	}
	return p, nil
}

func endpoint(s string) (string, *fault) {
	const hint = `for example endpoint = ["192.0.2.1:51820"]; an address does without DNS`
	host, port, err := net.SplitHostPort(s)
	if n, perr := strconv.Atoi(port); err != nil || perr != nil || n < 1 || n > 65535 || host == "" || strings.ContainsAny(host, "/@") || strings.ContainsFunc(host, notGraphic) {
		return "", faultf(hint, "%s is no host with its port", quote(s))
	}
	return s, nil
}

func wireguardKey(s string) (string, *fault) {
	key, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(key) != 32 {
		return "", faultf("`wg show` on the hub prints it: 44 characters that end in =", "this is no WireGuard key")
	}
	return s, nil
}

func unitName(s string) (string, *fault) {
	if strings.HasPrefix(s, "-") || !strings.HasSuffix(s, ".service") || strings.ContainsAny(s, "/ ") || strings.ContainsFunc(s, notGraphic) {
		return "", faultf(`for example unit = "tailscaled.service"`, "%s is no service of systemd", quote(s))
	}
	return s, nil
}
