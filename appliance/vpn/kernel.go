package vpn

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// noDuplicates says why the kernel's WireGuard does not send by two uplinks at once.
const noDuplicates = "the kernel's WireGuard has one way at a time: a silent death of the uplink costs as long as it takes to be sure of it"

// kernel is the engine of the kernel's WireGuard. What it sends carries a firewall mark, and
// one routing rule leads that to the routing table of the uplink in use (package link fills it).
//
// The kernel counts for each peer, and not for each uplink: what came in is put down to
// the uplink in use.
type kernel struct {
	setup setup
	log   *zap.Logger
	wg    *wgctrl.Client

	mu       sync.Mutex
	steering steering
	devices  []string
	peers    []peer
	ways     []wayState  // by uplink: Heard and Err
	asks     map[key]ask // by public key
	aims     map[key]*aim
}

// ask is what a peer's counters say of questions that are open.
type ask struct {
	rx, tx int64
	kicks  int // keepalives that were ordered since, which need no answer
	asked  time.Time
}

// keepaliveBytes is a keepalive as wg(8) counts it: a transport message around nothing (whitepaper, section 5.4.6).
const keepaliveBytes = 32

// newKernel makes the interface. One that a crash left is taken away first: its key may be
// an older one. The interface of somebody else is not touched.
func newKernel(s setup, log *zap.Logger) (engine, error) {
	if old, err := netlink.LinkByName(s.Interface); err == nil {
		if old.Type() != "wireguard" {
			return nil, fmt.Errorf("make the tunnel's interface: %s is there already and is no WireGuard: give [vpn] another name", s.Interface)
		}
		if err := netlink.LinkDel(old); err != nil {
			return nil, fmt.Errorf("take the old interface %s away: %w", s.Interface, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = s.Interface, s.MTU
	err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("make the tunnel's interface: this kernel has no WireGuard: take the userspace kind in [vpn]: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("make the tunnel's interface %s: %w", s.Interface, err)
	}
	k := &kernel{setup: s, log: log, ways: make([]wayState, len(s.Uplinks)), asks: map[key]ask{}, aims: map[key]*aim{}}
	if err := k.begin(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

// begin gives the interface its key and mark.
func (k *kernel) begin() (err error) {
	if err := dropRules(); err != nil { // of a daemon that was killed
		return err
	}
	if k.wg, err = wgctrl.New(); err != nil {
		return fmt.Errorf("speak to the kernel's WireGuard: %w", err)
	}
	private, mark := wgtypes.Key(k.setup.PrivateKey), firewallMark
	cfg := wgtypes.Config{PrivateKey: &private, FirewallMark: &mark, ReplacePeers: true}
	if k.setup.ListenPort != 0 {
		cfg.ListenPort = &k.setup.ListenPort
	}
	return k.change(cfg)
}

func (k *kernel) change(cfg wgtypes.Config) error {
	if err := k.wg.ConfigureDevice(k.setup.Interface, cfg); err != nil {
		return fmt.Errorf("configure the interface %s: %w", k.setup.Interface, err)
	}
	return nil
}

func (k *kernel) configure(peers []peer) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var cfg wgtypes.Config
	for _, old := range k.peers {
		if !slices.ContainsFunc(peers, func(p peer) bool { return p.PublicKey == old.PublicKey }) {
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(old.PublicKey), Remove: true})
			delete(k.asks, old.PublicKey)
		}
	}
	for _, p := range peers {
		cfg.Peers = append(cfg.Peers, k.peerConfig(p))
	}
	if err := k.change(cfg); err != nil {
		return err
	}
	k.peers = slices.Clone(peers)
	maps.DeleteFunc(k.aims, func(public key, _ *aim) bool {
		return !slices.ContainsFunc(peers, func(p peer) bool { return p.PublicKey == public })
	})
	return nil
}

// peerConfig is a peer for the kernel. Where it sends to stays while a session lives.
func (k *kernel) peerConfig(p peer) wgtypes.PeerConfig {
	interval, shared := p.Keepalive, wgtypes.Key(p.PresharedKey)
	c := wgtypes.PeerConfig{
		PublicKey: wgtypes.Key(p.PublicKey), PresharedKey: &shared,
		PersistentKeepaliveInterval: &interval, ReplaceAllowedIPs: true,
	}
	for _, n := range p.AllowedIPs {
		c.AllowedIPs = append(c.AllowedIPs, net.IPNet{IP: n.Addr().AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Addr().BitLen())})
	}
	if k.aims[p.PublicKey] == nil {
		k.aims[p.PublicKey] = &aim{}
	}
	c.Endpoint = udpAddr(k.aims[p.PublicKey].next(time.Now(), k.reached(p)))
	return c
}

// reached is where a peer is by the uplink in use, or else by any.
func (k *kernel) reached(p peer) []netip.AddrPort {
	if a := k.steering.Active; a < len(p.Endpoints) && len(p.Endpoints[a]) > 0 {
		return p.Endpoints[a]
	}
	for _, list := range p.Endpoints {
		if len(list) > 0 {
			return list
		}
	}
	return nil
}

// udpAddr is an address for the kernel; none changes nothing.
func udpAddr(a netip.AddrPort) *net.UDPAddr {
	if !a.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(a)
}

func (k *kernel) steer(s steering) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	moved := s.Active != k.steering.Active
	k.steering = s
	if err := k.lead(); err != nil || !moved {
		return err
	}
	return k.aimLocked(func(a *aim, list []netip.AddrPort) netip.AddrPort { return a.move(time.Now(), s.Active, list) })
}

// aimLocked tells the kernel where peers are, by what to says of each.
func (k *kernel) aimLocked(to func(*aim, []netip.AddrPort) netip.AddrPort) error {
	var cfg wgtypes.Config
	for _, p := range k.peers {
		if there := udpAddr(to(k.aims[p.PublicKey], k.reached(p))); there != nil {
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.PublicKey), UpdateOnly: true, Endpoint: there})
		}
	}
	if len(cfg.Peers) == 0 {
		return nil
	}
	return k.change(cfg)
}

func (k *kernel) tie(devices []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.devices = devices
}

// heard asks the kernel: the uplink is judged by it.
func (k *kernel) heard(uplink int) time.Time {
	st, err := k.ask()
	if err != nil {
		return time.Time{}
	}
	return st.Ways[uplink].Heard
}

// lead makes the rule that leads to the table of the uplink in use.
func (k *kernel) lead() error {
	if k.steering.Active >= len(k.ways) {
		return nil
	}
	err := leadTo(k.setup.Uplinks[k.steering.Active].Table)
	k.ways[k.steering.Active].Err = err
	return err
}

// kick makes the kernel send a keepalive at once, which it does when keepalives are switched on.
func (k *kernel) kick(hub int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.peers {
		if p.Hub != hub {
			continue
		}
		off, on := time.Duration(0), max(p.Keepalive, time.Second)
		steps := []*time.Duration{&off, &on}
		if p.Keepalive == 0 {
			steps = append(steps, &off)
		}
		for _, interval := range steps {
			_ = k.change(wgtypes.Config{Peers: []wgtypes.PeerConfig{ // a dead interface is state's to tell
				{PublicKey: wgtypes.Key(p.PublicKey), UpdateOnly: true, PersistentKeepaliveInterval: interval}}})
		}
		a := k.asks[p.PublicKey]
		a.kicks++
		k.asks[p.PublicKey] = a
	}
}

func (k *kernel) state() (state, error) {
	k.mu.Lock()
	_ = k.lead() // somebody who cleans up rules may have taken ours; the error is in the way's state
	k.mu.Unlock()
	s, err := k.ask()
	if err != nil {
		return s, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.aimLocked(func(a *aim, list []netip.AddrPort) netip.AddrPort { return a.next(time.Now(), list) }); err != nil {
		k.log.Warn("cannot call another address of a hub", zap.NamedError("err", err))
	}
	return s, nil
}

// ask asks the kernel what it counted.
func (k *kernel) ask() (state, error) {
	dev, err := k.wg.Device(k.setup.Interface)
	if err != nil {
		return state{}, fmt.Errorf("ask the kernel's WireGuard for %s: %w", k.setup.Interface, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := state{NoDuplicates: noDuplicates}
	for _, p := range k.peers {
		i := slices.IndexFunc(dev.Peers, func(have wgtypes.Peer) bool { return key(have.PublicKey) == p.PublicKey })
		if i < 0 {
			return state{}, fmt.Errorf("the kernel's WireGuard has lost hub %d: somebody else changes %s", p.Hub, k.setup.Interface)
		}
		s.Peers = append(s.Peers, k.look(p, dev.Peers[i]))
	}
	s.Ways = slices.Clone(k.ways)
	for i := range s.Ways {
		if i < len(k.devices) && k.devices[i] != "" {
			s.Ways[i].Port = dev.ListenPort
		}
	}
	return s, nil
}

// look is what the kernel says of a peer, and what its counters say since the last look.
func (k *kernel) look(p peer, have wgtypes.Peer) peerState {
	before, known := k.asks[p.PublicKey]
	now := ask{rx: have.ReceiveBytes, tx: have.TransmitBytes, asked: before.asked}
	switch {
	case now.rx != before.rx:
		now.asked = time.Time{}
		if k.steering.Active < len(k.ways) {
			k.ways[k.steering.Active].Heard = time.Now()
		}
	case known && now.asked.IsZero() && now.tx-before.tx > keepaliveBytes*int64(1+before.kicks):
		now.asked = time.Now()
	}
	k.asks[p.PublicKey] = now
	s := peerState{Hub: p.Hub, Handshake: have.LastHandshakeTime, Rx: uint64(have.ReceiveBytes), Tx: uint64(have.TransmitBytes), Asked: now.asked}
	if have.Endpoint != nil {
		at := have.Endpoint.AddrPort()
		s.Endpoint = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	a := k.aims[p.PublicKey]
	a.saw(time.Now(), k.steering.Active, s.Endpoint, now.rx != before.rx, now.asked)
	s.Heard = slices.Collect(maps.Values(a.proved))
	return s
}

// close takes the interface and the rules away.
func (k *kernel) close() error {
	err := dropRules()
	if k.wg != nil {
		err = errors.Join(err, k.wg.Close())
	}
	if dev, missing := netlink.LinkByName(k.setup.Interface); missing == nil {
		err = errors.Join(err, netlink.LinkDel(dev))
	}
	if err != nil {
		return fmt.Errorf("take the kernel's tunnel away: %w", err)
	}
	return nil
}
