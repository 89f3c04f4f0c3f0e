// Package vpn is the box's way in: a WireGuard tunnel to a hub where the admins are, over
// the uplink of the hour.
//
// WireGuard itself is an engine (engine.go). The usual one runs in this process over a
// bind of ours with a socket for each uplink, tied to its device, so that a switch of the
// uplink is one atomic store and a suspect uplink can be doubled by the others. The other
// one is the kernel's, steered by a firewall mark and a routing rule. Around the engine
// stand the parts that both need: the key, the hubs' addresses, which hub is used, the
// address and routes of the interface, the packet filter, and what is said of it all.
//
// Which uplink is used is not decided here: package link does, and says so with Use,
// Duplicate and SetDevice.
package vpn

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Config is a tunnel, or with External one of somebody else's.
type Config struct {
	Interface  string       // "rescuevpn"
	Address    netip.Prefix // ours inside, 10.99.0.2/24
	MTU        int          // 0: 1280, which passes every uplink
	ListenPort int          // UDP; 0 is any
	KeyFile    string       // the private key; made at the first start
	CacheFile  string       // where the hubs' names led last; "" keeps that in memory only
	ClockFile  string       // the newest time that a hub took from us; "" keeps none
	Kernel     bool         // the kernel's WireGuard in place of our own
	Hubs       []Hub        // in order: the next one when one is dead by every uplink
	Uplinks    []Uplink     // in order: the first with a device is used until Use

	// ShareLAN is what of the rescue LAN the hub's admins reach through the box, as if they
	// were the box. IPv4 only; empty is nothing.
	ShareLAN     []netip.Prefix
	LANInterface string

	External string // somebody else's VPN, by its interface: watched and reported
	Unit     string // its systemd unit, started when it is down
}

// Uplink is a way to the Internet, as the tunnel sees it.
type Uplink struct {
	Name    string
	Device  string       // "" until its bearer is up
	Metered bool         // each byte costs: only the tunnel comes in by it, and a dead hub is called less often
	Table   int          // its own routing table (package link), for Kernel
	DNS     []netip.Addr // its name servers; empty takes the system's
}

// Hub is a WireGuard peer that admins come from.
type Hub struct {
	Name             string
	PublicKey        string // base64
	PresharedKeyFile string // "" is none
	Endpoints        []string
	AllowedIPs       []netip.Prefix
	Keepalive        time.Duration
	Ping             netip.Addr // its address inside, which answers ICMP echo
}

// DefaultMTU passes every uplink: it is the least that IPv6 allows, and 80 bytes of
// WireGuard around it stay below what LTE and PPPoE carry.
const DefaultMTU = 1280

// Tunnel is the way in. Its methods may be called by many, before, during and after Run.
type Tunnel struct {
	cfg  Config
	log  *zap.Logger
	keys keys

	mu     sync.Mutex
	wanted steering // by which uplinks, as last told
	engine engine   // nil while Run does not run
}

// New checks cfg and reads the keys, or makes the box's own at the first start. It changes
// nothing on the network: Run does.
func New(cfg Config, log *zap.Logger) (*Tunnel, error) {
	if log == nil {
		return nil, errors.New("make the tunnel: no logger")
	}
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	t := &Tunnel{cfg: cfg, log: log}
	if cfg.External != "" {
		return t, nil
	}
	var err error
	if t.keys, err = readKeys(cfg); err != nil {
		return nil, fmt.Errorf("make the tunnel: %w", err)
	}
	return t, nil
}
