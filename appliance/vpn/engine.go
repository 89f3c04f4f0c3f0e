package vpn

import (
	"net/netip"
	"time"
)

// engine is WireGuard itself, running: userspace.go has ours, kernel.go the kernel's. It
// owns the interface with its MTU and key, and nothing else: address, routes and packet
// filter are the Tunnel's. All methods may be called at any time and by many until close.
type engine interface {
	// configure makes peers the only ones. It is called again at each change, and does
	// nothing to a peer that stays: its session lives on. A new peer with a Keepalive is
	// called at once.
	configure(peers []peer) error
	// steer says by which uplinks packets go from now on. It is quick: nothing is asked of
	// the kernel that may take its time.
	steer(steering) error
	// tie gives each uplink its device, "" for none, and looks whether those that it has are
	// still the same. It may take a while, and is called by one at a time.
	tie(devices []string)
	// kick sends the hub an authenticated packet now by the uplink in use, so that it roams
	// to us there; without a session it begins one.
	kick(hub int)
	// heard is when the last packet of a hub came in by an uplink.
	heard(uplink int) time.Time
	// state is what is known of the peers, and of the engine's way by each uplink. An error
	// means that the engine is dead: the interface is gone, or its device failed.
	state() (state, error)
	// close takes the interface away.
	close() error
}

// key is a WireGuard key: private, public or preshared.
type key [32]byte

// setup is what an engine is made with.
type setup struct {
	Interface  string
	MTU        int
	ListenPort int
	PrivateKey key
	Uplinks    []Uplink // names, metered and tables; devices come by tie
	Hubs       int
}

// peer is a hub as the engine must know it.
type peer struct {
	Hub          int // index in Config.Hubs
	PublicKey    key
	PresharedKey key            // zero: none
	AllowedIPs   []netip.Prefix // empty while the hub is only tried
	Keepalive    time.Duration
	// Endpoints are its addresses by uplink, best first. An uplink without any knows none
	// yet, or has no device.
	Endpoints [][]netip.AddrPort
}

// steering is by which uplinks packets leave.
type steering struct {
	Active    int  // index in Config.Uplinks
	Duplicate bool // by every other uplink with a device too
}

// state is what an engine knows.
type state struct {
	Peers []peerState // as configured
	Ways  []wayState  // by uplink
	// NoDuplicates says why Duplicate does nothing here; "" where it does.
	NoDuplicates string
}

// peerState is a hub as seen by WireGuard.
type peerState struct {
	Hub       int
	Endpoint  netip.AddrPort   // where packets for it go now, by the uplink in use
	Heard     []netip.AddrPort // where it proved to be, by any uplink
	Handshake time.Time        // of the last; zero: none
	Rx, Tx    uint64           // bytes of WireGuard, as wg(8) counts
	// Asked is when the oldest packet left that the hub had to answer and has not; zero
	// where nothing is open. A keepalive needs no answer.
	Asked time.Time
}

// wayState is an uplink as seen by the engine.
type wayState struct {
	Heard  time.Time // when the last packet of a hub came in by it
	Rx, Tx uint64    // bytes on the wire, IP headers included; 0 where they are not known
	Port   int       // our UDP port there; 0: no socket
	Err    error     // why nothing can be sent by it
}
