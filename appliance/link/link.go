// Package link keeps the box reachable: it watches the uplinks, decides which one the tunnel
// uses, and gives each a routing table of its own.
//
// What dies silently is found by the tunnel itself: its hub is pinged through it, and when the
// answer is late the tunnel's packets leave by every uplink at once (Tunnel.Duplicate), so that
// nothing is lost while the machine makes up its mind. What dies at the plug is told by the
// kernel. Uplinks that carry nothing are asked by probes bound to their device.
//
// The decision is one pure type, machine: events with their times in, actions out. Watch is what
// stands around it: sockets, netlink, timers, routes. Nothing of the admin's is changed: what is
// ours in the kernel is routing tables 7100 and up, rules of priorities 7100 to 7199 and the nft
// table rescuebox_link; all of it goes when Run ends, and what a crash left is put right at the start.
package link

import (
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Mode is what metered uplinks do.
type Mode string

// The modes.
const (
	Standby Mode = "standby"  // their bearers are up, so that the tunnel is over in a moment
	Dormant Mode = "dormant"  // their bearers are down until no better uplink works, or somebody asks
	LTEOnly Mode = "lte-only" // they are preferred; a wire is used only when none of them works
)

// Config is what to watch.
type Config struct {
	Uplinks     []Uplink      // in order of preference
	Mode        Mode          // "": Standby
	Failback    time.Duration // how long a better uplink must be good without a break before it is used again; 0: a minute. Doubles to 30 minutes with each return that lasts less than an hour
	MaxSwitches int           // per hour; beyond it a flapping uplink is left alone. 0: 12
	InnerDevice string        // the tunnel's interface, or "": no inner probe
	Ports       func() []int  // the tunnel's own UDP ports, open on metered uplinks. nil: none, only what answers us comes in

	Tunnel  Tunnel                // nil: only routes follow the uplink
	Inner   func() netip.Addr     // the hub's address inside the tunnel, which answers ping; asked often. nil or the zero address: no inner probe
	Hubs    func() []netip.Addr   // the hub's addresses outside: asked by ping where an uplink has no probes of its own. nil: none
	Bearers map[string]Bearer     // of uplinks whose data a modem makes, by uplink
	Store   Store                 // what survives a restart; nil: nothing does
	Changed func(Event)           // told of each event, one after the other, beside the loop; nil: nobody. Run ends when all is told
	Metrics prometheus.Registerer // nil: none
	Log     *zap.Logger           // nil: none
}

// Uplink is a way to the Internet.
type Uplink struct {
	Name     string
	Device   string        // "" while its bearer is down
	Metered  bool          // each byte costs
	Probes   []Probe       // what answers while it works; none: Config.Hubs by ping
	Need     int           // how many of Probes must answer; 0: one
	Interval time.Duration // silence after which the tunnel is probed while this uplink is active; 0: 50 ms, 15 s where metered
	Suspect  time.Duration // how late the answer may be beyond the usual; 0: 30 ms, 2 s where metered
	Check    time.Duration // between rounds of Probes while it stands by; 0: 1 s, 10 minutes where metered
	Down, Up int           // so many of the last Of rounds make it dead, or alive; 0: 3
	Of       int           // 0: 5
	Gateway  netip.Addr    // zero: that of the kernel's own default route on Device
}

// Kind is how a probe asks.
type Kind string

// The kinds of probe.
const (
	ICMP      Kind = "icmp"      // echo
	DNS       Kind = "dns"       // a name that does not exist: NXDOMAIN is a good answer
	TCP       Kind = "tcp"       // a connection; refused is a good answer
	HTTP      Kind = "http"      // must answer 204: a portal in the way does not
	Handshake Kind = "handshake" // the tunnel's last handshake is young; says nothing about an uplink that stands by
)

// Probe is something on the Internet that answers while an uplink works.
type Probe struct {
	Kind Kind
	Host string // address, or a name, which is resolved through the uplink itself; "" of Handshake
	Port int    // 0: 53 of DNS, 80 of HTTP
	Path string // of HTTP, with its query
}

// Tunnel is the VPN that follows the uplink: *vpn.Tunnel.
type Tunnel interface {
	Use(uplink string)             // its packets leave by this one from now on
	Duplicate(on bool)             // by every uplink
	Heard(uplink string) time.Time // when a packet of the hub last came in by it
	Handshake() time.Time
}

// Bearer is the data of a modem: *modem.Modem.
type Bearer interface {
	Want(up bool) // returns at once
}

// BearerState is what a bearer has to say of its uplink.
type BearerState struct {
	Device    string         // "" while it is down
	Addresses []netip.Prefix // what the network gave
	Gateway   netip.Addr     // zero: none is needed, or the kernel's routes know it
	Gateway6  netip.Addr     // of IPv6, where Gateway is IPv4's
	DNS       []netip.Addr   // used for the names of this uplink's probes only
	MTU       int
	Err       error // why it is down
}

// Health is what is known of an uplink.
type Health string

// The healths.
const (
	Absent   Health = "absent"   // no device, no carrier, no address, or no bearer
	Unproven Health = "unproven" // there, and nothing has answered yet
	Alive    Health = "alive"
	Dead     Health = "dead"   // there, and nothing answers
	Failed   Health = "failed" // somebody said so: rescuebox link fail
)

// Store keeps what survives a restart: table "uplinks" of the state.
type Store interface {
	Put(key string, k Kept) error
	Delete(key string) error
	All() ([]Kept, error)
}

// Kept is what somebody ordered: that an uplink counts as failed, or another mode than the file's.
type Kept struct {
	Uplink string    `json:"uplink,omitempty"`
	Mode   Mode      `json:"mode,omitempty"`
	At     time.Time `json:"at"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is restored
}

// Event is something that a person or a notice wants to know.
type Event struct {
	At     time.Time
	Kind   EventKind
	Uplink string // that it is about; of a Switch the new one
	From   string // of a Switch the old one, "" at the start
	Reason string // one sentence
}

// EventKind says what an Event is.
type EventKind string

// The kinds of event.
const (
	Switched EventKind = "switch" // the tunnel and the box's own traffic use another uplink
	Turned   EventKind = "health" // an uplink is alive, dead, absent or failed now
	Hub      EventKind = "hub"    // the hub is silent on every uplink, or back
	Drill    EventKind = "drill"  // a drill began or ended
	Trouble  EventKind = "trouble"
)

// Status is how everything is.
type Status struct {
	Mode      Mode           `json:"mode"`
	Active    string         `json:"active"` // "": none yet
	Since     time.Time      `json:"since"`
	Reason    string         `json:"reason"`            // of the last switch
	Phase     string         `json:"phase"`             // "steady", "doubtful", "mute"
	Silent    time.Time      `json:"silent,omitzero"`   // since when the hub is silent on every uplink
	RTT       time.Duration  `json:"rtt"`               // of the inner probe
	Switches  int            `json:"switches"`          // in the last hour
	Capped    bool           `json:"capped"`            // so many that a better uplink is left alone for a while
	Failback  time.Time      `json:"failback,omitzero"` // when the box goes back, if the better uplink stays good
	Uplinks   []UplinkStatus `json:"uplinks"`
	LastDrill *Report        `json:"last_drill,omitempty"`
	Trouble   []string       `json:"trouble,omitempty"` // what is wrong with routes, rules or filters, and what to do
}

// UplinkStatus is how one uplink is.
type UplinkStatus struct {
	Name      string         `json:"name"`
	Device    string         `json:"device"`
	Metered   bool           `json:"metered"`
	Health    Health         `json:"health"`
	Reason    string         `json:"reason"`         // why it is dead or absent
	Since     time.Time      `json:"since"`          // of Health
	Heard     time.Time      `json:"heard,omitzero"` // when the hub, or a probe, was last heard by it
	Wanted    bool           `json:"wanted"`         // its bearer is asked for
	Until     time.Time      `json:"until,omitzero"` // of Failed, where that ends by itself
	Gateway   netip.Addr     `json:"gateway,omitzero"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	RTT       time.Duration  `json:"rtt"`     // of its probes
	Monthly   int64          `json:"monthly"` // bytes in 30 days that its probes cost, there and back
	Targets   []TargetStatus `json:"targets,omitempty"`
}

// TargetStatus is one probe's last answer.
type TargetStatus struct {
	Probe string        `json:"probe"`
	Err   string        `json:"err,omitempty"`
	RTT   time.Duration `json:"rtt"`
	At    time.Time     `json:"at,omitzero"`
}

// Report is what a drill measured: the longest time without an answer of the hub through the tunnel.
type Report struct {
	Uplink string        `json:"uplink"` // that was cut
	Other  string        `json:"other"`  // that took over, or "" if none did
	Began  time.Time     `json:"began"`
	Away   time.Duration `json:"away"`   // longest silence as the uplink was cut
	Back   time.Duration `json:"back"`   // longest silence as it came back
	Sent   int           `json:"sent"`   // probes
	Lost   int           `json:"lost"`   // of them
	Result string        `json:"result"` // one sentence
}

// Table is the routing table of an uplink, by its place in Config.Uplinks.
func Table(uplink int) int { return firstTable + uplink }
