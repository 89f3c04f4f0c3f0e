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
	"slices"
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
	Metered bool         // each byte costs: a dead hub is called less often
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
	book *book // where the hubs are

	kicked chan struct{} // a switch wants its later kicks
	wake   chan struct{} // something changed that Run should look at now

	// mu is held for moments only: package link asks and steers many times a second, and
	// each moment that it waits is one in which the admin's packets go nowhere. Nothing is
	// asked of WireGuard or the kernel under it, but to steer and to kick.
	mu      sync.Mutex
	wanted  steering // by which uplinks, as last told
	devices []string // by uplink; "" has none
	contest contest  // which hub
	engine  engine   // nil while Run does not run
	seen    seen

	tying sync.Mutex // of sockets to devices; before mu

	write func(file string, data []byte) error // writeFile, which may take its time

	// Run's alone:
	filtered string // the packet filter in place; "": not known
	tried    string // the one of the last write,
	listed   string // and what nft read back after it
	wasOff   bool   // the LAN's forwarding was, before us
}

// New checks cfg and reads the keys, or makes the box's own at the first start. It changes
// nothing on the network: Run does.
func New(cfg Config, log *zap.Logger) (*Tunnel, error) {
	if log == nil {
		return nil, errors.New("make the tunnel: no logger")
	}
	t := &Tunnel{log: log, write: writeFile, kicked: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	if cfg.External != "" {
		t.cfg = Config{External: cfg.External, Unit: cfg.Unit}
		return t, nil
	}
	if cfg.MTU == 0 {
		cfg.MTU = DefaultMTU
	}
	t.cfg = cfg
	err := cfg.check()
	if err == nil {
		t.keys, err = readKeys(cfg)
	}
	if err == nil {
		t.book, err = newBook(cfg, log)
	}
	if err != nil {
		return nil, fmt.Errorf("make the tunnel: %w", err)
	}
	t.book.own = t.own
	t.contest = contest{hubs: len(cfg.Hubs), best: -1}
	for _, u := range cfg.Uplinks {
		t.devices = append(t.devices, u.Device)
	}
	t.wanted.Active = max(0, slices.IndexFunc(t.devices, func(d string) bool { return d != "" }))
	return t, nil
}

// check finds what would only fail later, on a branch that nobody reaches then.
func (c Config) check() error {
	if !c.Address.IsValid() || c.Interface == "" || c.KeyFile == "" {
		return errors.New("it needs an interface, an address and a file for its key")
	}
	if len(c.Hubs) == 0 || len(c.Uplinks) == 0 {
		return errors.New("it needs a hub, and an uplink to go by")
	}
	seen := map[string]string{}
	for _, h := range c.Hubs {
		if other, ok := seen[h.PublicKey]; ok {
			return fmt.Errorf("hubs %s and %s have one public key: write one hub with the endpoints of both", other, h.Name)
		}
		seen[h.PublicKey] = h.Name
	}
	for _, p := range c.ShareLAN {
		if !p.Addr().Is4() || c.LANInterface == "" {
			return fmt.Errorf("the LAN %s cannot be shared: that takes IPv4 and the LAN's interface", p)
		}
	}
	return nil
}

// Use lets the tunnel's packets leave by an uplink from now on. The hub learns of it by three
// packets, now and after 50 and 200 ms. It does nothing if that is so already.
func (t *Tunnel) Use(uplink string) {
	i := t.index(uplink)
	if i < 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wanted.Active != i {
		t.wanted.Active = i
		t.steerLocked()
		t.kickLocked()
	}
}

// Duplicate lets each packet leave by every uplink that has a device, or ends that: for the
// moment in which the uplink in use is suspected. It begins with a packet for the hub, which
// follows the copy that arrives.
func (t *Tunnel) Duplicate(on bool) {
	if t.cfg.External != "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wanted.Duplicate == on {
		return
	}
	t.wanted.Duplicate = on
	t.steerLocked()
	if on && t.engine != nil {
		t.engine.kick(t.contest.using)
	}
}

// SetDevice says that an uplink's interface came, went (""), or was made anew.
func (t *Tunnel) SetDevice(uplink, device string) {
	i := t.index(uplink)
	if i < 0 {
		return
	}
	t.mu.Lock()
	t.devices[i] = device
	t.mu.Unlock()
	t.tie()
	if device != "" {
		t.mu.Lock()
		if t.wanted.Active == i {
			t.kickLocked()
		}
		t.mu.Unlock()
	}
	t.book.again(i)
	tell(t.wake)
}

// SetDNS says which name servers an uplink has; without any it takes the system's.
func (t *Tunnel) SetDNS(uplink string, servers []netip.Addr) {
	if i := t.index(uplink); i >= 0 && t.book != nil {
		t.book.use(i, servers)
	}
}

// index is -1 for an uplink that is not of the tunnel.
func (t *Tunnel) index(uplink string) int {
	return slices.IndexFunc(t.cfg.Uplinks, func(u Uplink) bool { return u.Name == uplink })
}

func (t *Tunnel) steerLocked() {
	if t.engine == nil {
		return
	}
	if err := t.engine.steer(t.wanted); err != nil {
		t.log.Warn("cannot steer the tunnel", zap.NamedError("err", err))
	}
}

// kickLocked lets the hub know where we are, now and in a moment again.
func (t *Tunnel) kickLocked() {
	if t.engine != nil {
		t.engine.kick(t.contest.using)
		tell(t.kicked)
	}
}

// tie has the engine look after its sockets: those of uplinks whose device came, went or was
// made anew. Who is late ties what is wanted then, so that the last word counts.
func (t *Tunnel) tie() {
	t.tying.Lock()
	defer t.tying.Unlock()
	t.mu.Lock()
	e, devices := t.engine, slices.Clone(t.devices)
	t.mu.Unlock()
	if e != nil {
		e.tie(devices)
	}
}

// tell wakes whoever waits on c, once.
func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
