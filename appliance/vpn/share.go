package vpn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"text/template"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// filterTable is ours alone. Its chains only take away: what they accept, the site's own
// tables may still refuse.
const (
	filterName  = "rescuebox_vpn"
	filterTable = "inet " + filterName
)

// wasOff is an empty chain in our table that says that we switched forwarding on for the
// LAN. It lives as long as that does, beyond a crash of ours.
const wasOff = "lan_forwarding_was_off"

// filter is what the table is made of.
type filter struct {
	Interface, LAN string
	Share          []netip.Prefix
	MSS4, MSS6     int
	WasOff         bool
}

// table is the whole of it, put in place of an older one in one step.
//
// The tunnel's packets go to the shared LAN and nowhere else, and as the box itself, so that
// machines without a route answer. From the LAN, which is hostile, only answers go in. A TCP
// stream is told how little fits into the tunnel: ICMP that says so is lost too often.
//
// What comes in by an uplink where each byte costs is package link's to guard.
var table = template.Must(template.New("table").Funcs(template.FuncMap{"nets": nets}).Parse(`
table inet rescuebox_vpn
delete table inet rescuebox_vpn
table inet rescuebox_vpn {
	{{- if .WasOff}}
	chain lan_forwarding_was_off { }
	{{- end}}
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname "{{.Interface}}" jump mss
		oifname "{{.Interface}}" jump mss
		{{- if .Share}}
		iifname "{{.Interface}}" oifname "{{.LAN}}" ip daddr { {{nets .Share}} } accept
		iifname "{{.LAN}}" oifname "{{.Interface}}" ct state established,related accept
		{{- end}}
		iifname "{{.Interface}}" drop
		oifname "{{.Interface}}" drop
		{{- if .WasOff}}
		iifname "{{.LAN}}" drop
		{{- end}}
	}
	chain mss {
		meta nfproto ipv4 tcp flags & (syn | rst) == syn tcp option maxseg size set {{.MSS4}}
		meta nfproto ipv6 tcp flags & (syn | rst) == syn tcp option maxseg size set {{.MSS6}}
	}
	{{- if .Share}}
	chain nat {
		type nat hook postrouting priority srcnat; policy accept;
		iifname "{{.Interface}}" oifname "{{.LAN}}" masquerade
	}
	{{- end}}
}
`))

func nets(list []netip.Prefix) string {
	var words []string
	for _, p := range list {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

// text renders the rules.
func (f filter) text() string {
	var b strings.Builder
	if err := table.Execute(&b, f); err != nil {
		return "" // a template that is parsed, with fields that are there
	}
	return b.String()
}

// share puts the packet filter in place and lets packets through between tunnel and LAN.
// Forwarding is switched on for these two interfaces and for no other: the host's own
// ip_forward stays as it is. The filter stands also where the LAN's interface is missing, and
// where nothing is shared: a host that forwards would let the tunnel go anywhere.
func (t *Tunnel) share() error {
	f := filter{Interface: t.cfg.Interface, LAN: t.cfg.LANInterface, MSS4: t.cfg.MTU - 40, MSS6: t.cfg.MTU - 60}
	for _, p := range t.cfg.ShareLAN {
		f.Share = append(f.Share, p.Masked())
	}
	var missing error
	if len(f.Share) > 0 {
		var on bool
		if on, missing = forwards(f.LAN); missing != nil {
			missing = fmt.Errorf("share the LAN: %w", missing)
		}
		t.wasOff = t.wasOff || missing == nil && !on || leftOn()
		f.WasOff = t.wasOff
	}
	if err := t.filter(f.text()); err != nil {
		return errors.Join(fmt.Errorf("put the tunnel's packet filter in place: %w", err), t.shut())
	}
	if len(f.Share) == 0 || missing != nil {
		return missing
	}
	return errors.Join(forward(t.cfg.Interface, true), forward(f.LAN, true))
}

// filter puts the table in place if it is to be another one than before, or is another one, or gone, as after somebody
// flushed the ruleset: `systemctl restart nftables` does.
func (t *Tunnel) filter(text string) error {
	if now, _ := nft("list table " + filterTable + "\n"); text == t.filtered && now != "" && now == t.listed {
		return nil
	}
	t.filtered = "" // until nft says so: what it did before an error is not known
	if _, err := nft(text); err != nil {
		return err
	}
	now, _ := nft("list table " + filterTable + "\n")
	if text == t.tried && now == t.listed { // twice the same: nobody was quicker. Else the news of this write ask once more
		t.filtered = text
	}
	t.tried, t.listed = text, now
	return nil
}

// shut lets nothing through where there is no packet filter: nothing from the tunnel, even on a host
// that forwards, and nothing from a LAN that we opened.
func (t *Tunnel) shut() error {
	err := forward(t.cfg.Interface, false)
	if t.wasOff {
		err = errors.Join(err, forward(t.cfg.LANInterface, false))
	}
	return err
}

// unshare takes it all away again, and what a crash left too.
func (t *Tunnel) unshare() error {
	if _, err := exec.LookPath("nft"); err != nil {
		return nil // then nothing is there
	}
	var err error
	if t.cfg.LANInterface != "" && (t.wasOff || leftOn()) {
		err = forward(t.cfg.LANInterface, false)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			err = nil
		}
	}
	t.filtered, t.wasOff = "", false
	_, gone := nft("table " + filterTable + "\ndelete table " + filterTable + "\n")
	return errors.Join(err, gone)
}

// leftOn reports that it was us who switched the LAN's forwarding on, maybe in an earlier life.
func leftOn() bool {
	_, err := nft("list chain " + filterTable + " " + wasOff + "\n")
	return err == nil
}

// nft gives rules to nft(8): all of them, or none. It returns what they ask for.
func nft(rules string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(rules), &said
	out, err := cmd.Output()
	if err != nil {
		first, _, _ := strings.Cut(said.String(), "\n")
		return "", fmt.Errorf("nft: %w: %s", err, first)
	}
	return string(out), nil
}

// forwards reports that packets that come in by an interface may leave by another one.
func forwards(name string) (bool, error) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/forwarding")
	return strings.TrimSpace(string(b)) == "1", err
}

// forward switches that for one interface, by netlink: below systemd's
// ProtectKernelTunables= nothing of /proc/sys can be written.
func forward(name string, on bool) error {
	is, err := forwards(name)
	if err == nil && is == on {
		return nil
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("let packets through by %s: %w", name, err)
	}
	value := uint32(0)
	if on {
		value = 1
	}
	// rtnetlink(7): IFLA_AF_SPEC holds AF_INET, that IFLA_INET_CONF, and that the settings.
	const forwarding = 1 // IPV4_DEVCONF_FORWARDING
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(link.Attrs().Index)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil).AddRtAttr(forwarding, nl.Uint32Attr(value))
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	request.AddData(message)
	request.AddData(spec)
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("let packets through by %s: %w", name, err)
	}
	return nil
}

// right puts address, routes and packet filter as they have to be. That a route or the filter
// cannot be had is said and no more: the tunnel is the admin's way in.
func (t *Tunnel) right() error {
	t.mu.Lock()
	allowed := t.cfg.Hubs[t.contest.using].AllowedIPs
	t.mu.Unlock()
	link, err := t.address()
	if err != nil {
		return err
	}
	t.note(errors.Join(t.route(link, routed(allowed, t.cfg.Address)), t.share()))
	return nil
}
