package vpn

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Status is what is known of the tunnel.
type Status struct {
	Kind      string // "userspace", "kernel" or "external"
	Interface string
	Address   netip.Prefix // inside; of an external one the first that its interface has
	PublicKey string       // the box's
	Up        bool         // the hub in use, or the external interface, is there
	Reason    string       // why not
	Hub       string       // in use
	Endpoint  string       // where it is, by the uplink in use
	Handshake time.Time    // the last with it
	Rx, Tx    uint64       // bytes of WireGuard with it; of an external one those of its interface
	Uplink    string       // in use
	Duplicate bool         // packets go by every uplink now
	Hubs      []HubStatus
	Uplinks   []UplinkStatus
	Clock     string         // why the clock keeps the tunnel down; "" where it does not
	Shared    []netip.Prefix // networks that admins reach through the box
	Notes     []string       // what else a person should know
}

// HubStatus is one of the hubs.
type HubStatus struct {
	Name      string
	InUse     bool
	Handshake time.Time // the last
	Rx, Tx    uint64
	Silent    time.Duration // for how long it owes an answer
	Endpoints []string      // by uplink, as far as known: "wan 192.0.2.1:51820"
}

// UplinkStatus is the tunnel's end of an uplink.
type UplinkStatus struct {
	Name, Device string
	InUse        bool
	Heard        time.Time // a packet of a hub
	Rx, Tx       uint64    // bytes with all headers
	Port         int       // ours
	Err          string    // why nothing goes by it
	Lacks        string    // what it would need for the hub in use to be reached by it
}

// seen is what Run saw last.
type seen struct {
	peers        []peerState
	ways         []wayState
	noDuplicates string
	clock        string
	lacks        string // what is wrong with routes and packet filter
	external     external
	noted        time.Time
	shaken       map[int]shaken // by hub
}

// shaken is a handshake as WireGuard tells it, by the wall clock, and when it was by ours, which nobody sets.
type shaken struct{ told, at time.Time }

// note keeps what the engine says. Ages of handshakes are then by the monotonic clock: a tunnel is not dead because
// somebody set the clock, nor alive.
func (s *seen) note(st state) {
	now, before := time.Now(), s.shaken
	if s.noted.IsZero() {
		s.noted = now
	}
	s.peers, s.ways, s.noDuplicates, s.shaken = slices.Clone(st.Peers), st.Ways, st.NoDuplicates, map[int]shaken{}
	for i, p := range s.peers {
		if p.Handshake.IsZero() {
			continue
		}
		is := before[p.Hub]
		if !is.told.Equal(p.Handshake) { // it was since the last look
			age := min(max(now.Round(0).Sub(p.Handshake), 0), now.Sub(s.noted))
			is = shaken{p.Handshake, now.Add(-age)}
		}
		s.shaken[p.Hub], s.peers[i].Handshake = is, is.at
	}
	s.noted = now
}

// note keeps, and says once, what is wrong with routes and packet filter.
func (t *Tunnel) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	t.mu.Lock()
	news := text != t.seen.lacks
	t.seen.lacks = text
	t.mu.Unlock()
	if news && text != "" {
		t.log.Warn("the tunnel runs, but not as it should", zap.NamedError("err", err))
	}
}

// sessionTime is how long a session lasts (WireGuard's REJECT_AFTER_TIME).
const sessionTime = 180 * time.Second

// Status asks the engine, and says what is known.
func (t *Tunnel) Status() Status {
	t.mu.Lock()
	e := t.engine
	t.mu.Unlock()
	var st state
	err := errClosed
	if e != nil {
		st, err = e.state()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cfg.External != "" {
		return t.seen.external.status(t.cfg)
	}
	if err == nil && t.engine == e {
		t.seen.note(st)
	}
	s := Status{Kind: "userspace", Interface: t.cfg.Interface, Address: t.cfg.Address, PublicKey: t.keys.public.String(),
		Hub: t.cfg.Hubs[t.contest.using].Name, Uplink: t.cfg.Uplinks[t.wanted.Active].Name,
		Duplicate: t.wanted.Duplicate, Clock: t.seen.clock, Shared: t.cfg.ShareLAN}
	if t.cfg.Kernel {
		s.Kind = "kernel"
	}
	s.Hubs, s.Uplinks = t.hubStatus(), t.uplinkStatus()
	for _, p := range t.seen.peers {
		if p.Hub == t.contest.using {
			s.Handshake, s.Rx, s.Tx = p.Handshake, p.Rx, p.Tx
			if p.Endpoint.IsValid() {
				s.Endpoint = p.Endpoint.String()
			}
		}
	}
	s.Reason = t.reason(s)
	s.Up = s.Reason == ""
	for _, note := range []string{t.seen.lacks, t.seen.noDuplicates} {
		if note != "" {
			s.Notes = append(s.Notes, note)
		}
	}
	return s
}

// reason says why the tunnel is not up; "" is up.
func (t *Tunnel) reason(s Status) string {
	hub, way := s.Hubs[t.contest.using], s.Uplinks[t.wanted.Active]
	switch {
	case t.engine == nil && s.Clock != "":
		return s.Clock
	case t.engine == nil:
		return "it does not run"
	case s.Handshake.IsZero() && len(hub.Endpoints) == 0:
		return fmt.Sprintf("hub %s has no address yet: its name could not be resolved by any uplink", s.Hub)
	case s.Handshake.IsZero() && s.Clock != "":
		return s.Clock
	case way.Lacks != "":
		return fmt.Sprintf("hub %s is not reached by %s: %s", s.Hub, way.Name, way.Lacks)
	case s.Handshake.IsZero():
		return fmt.Sprintf("hub %s has not answered: it is not reached, or does not know the box: give it what `rescuebox vpn show` prints", s.Hub)
	case time.Since(s.Handshake) > sessionTime:
		return fmt.Sprintf("hub %s has not answered for %v", s.Hub, time.Since(s.Handshake).Round(time.Second))
	}
	return ""
}

func (t *Tunnel) hubStatus() []HubStatus {
	list := make([]HubStatus, len(t.cfg.Hubs))
	for i, h := range t.cfg.Hubs {
		list[i] = HubStatus{Name: h.Name, InUse: i == t.contest.using}
		for u, addresses := range t.book.endpoints(i) {
			for _, a := range addresses {
				list[i].Endpoints = append(list[i].Endpoints, t.cfg.Uplinks[u].Name+" "+a.String())
			}
		}
	}
	for _, p := range t.seen.peers {
		h := &list[p.Hub]
		h.Handshake, h.Rx, h.Tx = p.Handshake, p.Rx, p.Tx
		if !p.Asked.IsZero() {
			h.Silent = time.Since(p.Asked)
		}
	}
	return list
}

func (t *Tunnel) uplinkStatus() []UplinkStatus {
	list := make([]UplinkStatus, len(t.cfg.Uplinks))
	for i, u := range t.cfg.Uplinks {
		list[i] = UplinkStatus{Name: u.Name, Device: t.devices[i], InUse: i == t.wanted.Active}
		if i < len(t.seen.ways) {
			w := t.seen.ways[i]
			list[i].Heard, list[i].Rx, list[i].Tx, list[i].Port = w.Heard, w.Rx, w.Tx, w.Port
			if w.Err != nil {
				list[i].Err = w.Err.Error()
			}
		}
		if list[i].Device != "" {
			list[i].Lacks = t.book.outOfReach(t.contest.using, i)
		}
	}
	return list
}

// Heard is when the last packet of a hub came in by an uplink: one that answers an index
// which only the hub knows, a first copy or a second.
func (t *Tunnel) Heard(uplink string) time.Time {
	i := t.index(uplink)
	if i < 0 {
		return time.Time{}
	}
	t.mu.Lock()
	e := t.engine
	t.mu.Unlock()
	if e == nil {
		return time.Time{}
	}
	return e.heard(i)
}

// Handshake is when the hub in use last shook hands, as seen within the last second; zero is
// never. Of an external VPN it is when something last came in.
func (t *Tunnel) Handshake() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.seen.peers {
		if p.Hub == t.contest.using {
			return p.Handshake
		}
	}
	return t.seen.external.heard
}

// Peer is what the hub must know of the box, in the words of wg(8): a [Peer] for its file.
func (t *Tunnel) Peer() string {
	if t.cfg.External != "" {
		return ""
	}
	var s strings.Builder
	fmt.Fprintf(&s, "[Peer]\nPublicKey = %s\n", t.keys.public)
	for i, h := range t.cfg.Hubs {
		if h.PresharedKeyFile != "" {
			fmt.Fprintf(&s, "# PresharedKey = as in %s of the box (hub %s)\n", h.PresharedKeyFile, t.cfg.Hubs[i].Name)
		}
	}
	own := netip.PrefixFrom(t.cfg.Address.Addr(), t.cfg.Address.Addr().BitLen())
	allowed := []string{own.String()}
	for _, p := range t.cfg.ShareLAN {
		allowed = append(allowed, p.Masked().String())
	}
	fmt.Fprintf(&s, "AllowedIPs = %s\n", strings.Join(allowed, ", "))
	return s.String()
}
