package linktest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// ispRules make an isp: NAT towards the hubs; nothing from or to an interface in
// the set silent is forwarded, and an isp that is deaf does not even answer for itself. What goes
// over the branch's cable is counted, at the level of IP, by direction and by what it is:
// WireGuard's messages by their length with the header of UDP.
const ispRules = `
table inet isp {
	set silent { type ifname; }
	set deaf { type ifname; }
	counter up { }
	counter down { }
	counter initiation { }
	counter response { }
	counter keepalive { }
	counter data { }
	counter ping { }
	counter other { }
	chain tunnel {
		udp length 156 counter name "initiation" return
		udp length 100 counter name "response" return
		udp length 40 counter name "keepalive" return
		counter name "data"
	}
	chain kinds {
		udp dport 51820 goto tunnel
		udp sport 51820 goto tunnel
		icmp type { echo-request, echo-reply } counter name "ping" return
		counter name "other"
	}
	chain pre {
		type filter hook prerouting priority -300
		iifname "lan" counter name "up" jump kinds
	}
	chain post {
		type filter hook postrouting priority 300
		oifname "lan" counter name "down" jump kinds
	}
	chain input {
		type filter hook input priority 0
		iifname @deaf drop
	}
	chain output {
		type filter hook output priority 0
		oifname @deaf drop
	}
	chain lossy { }
	chain forward {
		type filter hook forward priority 0
		iifname @silent drop
		oifname @silent drop
		jump lossy
	}
	chain nat {
		type nat hook postrouting priority 100
		oifname "net*" masquerade
	}
}
`

// Silence makes an uplink swallow everything that is not for its next hop, as when the
// provider's network is broken: link and addresses stay as they are.
func (w *World) Silence(uplink string) error {
	return w.Uplink(uplink).ISP.nft(`add element inet isp silent { "lan" }`)
}

// Deafen makes an uplink's next hop dead as well: the cable is in, and nobody is there.
func (w *World) Deafen(uplink string) error {
	return w.Uplink(uplink).ISP.nft(`add element inet isp silent { "lan" }; add element inet isp deaf { "lan" }`)
}

// Unplug takes an uplink's carrier away: its interface is no longer running, but keeps
// its address and routes.
func (w *World) Unplug(uplink string) error {
	return w.Uplink(uplink).ISP.IP("link set lan down")
}

// Lose makes an uplink lose so many of a hundred packets, at random, in each direction.
func (w *World) Lose(uplink string, percent int) error {
	return w.Uplink(uplink).ISP.nft(fmt.Sprintf("flush chain inet isp lossy; add rule inet isp lossy numgen random mod 100 < %d drop", percent))
}

// Delay makes an uplink's packets take so long in each direction, give or take jitter. Only
// kernels with netem can: the guest's.
func (w *World) Delay(uplink string, d, jitter time.Duration) error {
	isp := w.Uplink(uplink).ISP
	for _, dev := range []string{"lan", "net0"} {
		if _, err := run(isp.Command("tc", "qdisc", "replace", "dev", dev, "root", "netem", "delay", d.String(), jitter.String()), ""); err != nil {
			return err
		}
	}
	return nil
}

// Mend undoes Silence, Deafen, Unplug and Lose.
func (w *World) Mend(uplink string) error {
	isp := w.Uplink(uplink).ISP
	if err := isp.nft(`flush set inet isp silent; flush set inet isp deaf; flush chain inet isp lossy`); err != nil {
		return err
	}
	return isp.IP("link set lan up")
}

// Age makes an uplink's NAT forget a UDP flow that was quiet for so long.
func (w *World) Age(uplink string, after time.Duration) error {
	seconds := strconv.Itoa(int(after / time.Second))
	return w.Uplink(uplink).ISP.sysctl(map[string]string{
		"netfilter/nf_conntrack_udp_timeout": seconds, "netfilter/nf_conntrack_udp_timeout_stream": seconds})
}

// Hole makes an uplink drop what is longer than mtu without a word, as where
// somebody filters ICMP.
func (w *World) Hole(uplink string, mtu int) error {
	u := w.Uplink(uplink)
	if err := u.ISP.nft(fmt.Sprintf(`add rule inet isp forward meta length > %d drop
		add rule inet isp output icmp type destination-unreachable drop`, mtu)); err != nil {
		return err
	}
	// A cable of veth passes what is to be cut into several packets as one, which would be too long.
	one := " gso_max_segs 1"
	if err := w.Branch.IP("link set " + u.Device + one); err != nil {
		return err
	}
	if err := u.ISP.IP(fmt.Sprintf("link set net0 mtu %d%s", mtu, one), "link set lan"+one); err != nil {
		return err
	}
	return w.hubs[0].IP(fmt.Sprintf("link set e%d mtu %d%s", u.side, mtu, one))
}

// Open takes an uplink's NAT away: the hubs see the branch's own address. They answer it from the address of
// the interface that it comes in by, and not from the one that it asked.
func (w *World) Open(uplink string) error {
	u := w.Uplink(uplink)
	if err := u.ISP.nft("flush chain inet isp nat"); err != nil {
		return err
	}
	return w.hubs[0].IP(fmt.Sprintf("route replace %s via %s.2", u.Address.Masked(), u.outside))
}

// Remove takes an uplink's interface away, as when a modem falls off its bus.
func (w *World) Remove(uplink string) error {
	return w.Branch.IP("link del " + w.Uplink(uplink).Device)
}

// Recreate brings it back, under the same name with another index, as after a redial.
func (w *World) Recreate(uplink string) error { return w.plug(w.Uplink(uplink)) }

// Volume is what went over an uplink, in both directions, at the level of IP.
type Volume struct{ Packets, Bytes int64 }

// Sub is what came since an earlier reading.
func (v Volume) Sub(earlier Volume) Volume {
	return Volume{v.Packets - earlier.Packets, v.Bytes - earlier.Bytes}
}

// Volume reads an uplink's counters.
func (w *World) Volume(uplink string) (Volume, error) {
	c, err := w.counters(uplink)
	up, down := c["up"], c["down"]
	return Volume{up.Packets + down.Packets, up.Bytes + down.Bytes}, err
}

// Kinds are what packets over an uplink may be.
func Kinds() []string {
	return []string{"initiation", "response", "keepalive", "data", "ping", "other"}
}

// VolumeOf reads an uplink's counters of one kind.
func (w *World) VolumeOf(uplink, kind string) (Volume, error) {
	c, err := w.counters(uplink)
	return c[kind], err
}

func (w *World) counters(uplink string) (map[string]Volume, error) {
	out, err := run(w.Uplink(uplink).ISP.Command("nft", "-j", "list", "counters", "table", "inet", "isp"), "")
	if err != nil {
		return nil, err
	}
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name string
				Volume
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("read nft's counters: %w", err)
	}
	counters := map[string]Volume{}
	for _, item := range list.Nftables {
		if c := item.Counter; c != nil {
			counters[c.Name] = c.Volume
		}
	}
	return counters, nil
}
