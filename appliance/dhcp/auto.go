package dhcp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rescuebox/appliance/boot"
)

// Mode is what the part does on the LAN.
type Mode string

// The modes. Auto is only ever configured, Listening only ever reported.
const (
	Auto      Mode = "auto"
	Full      Mode = "full"
	Proxy     Mode = "proxy"
	Off       Mode = "off"
	Listening Mode = "listening" // auto before its first verdict: answers nobody
)

// pace is how often auto asks the LAN for other servers, and when silence
// means that there is none.
type pace struct {
	start, full, proxy time.Duration // between probes
	startMisses        int           // silent probes before the first verdict
	proxyMisses        int           // silent probes before we take over
}

// defaultPace: a verdict after 4.5 s (dnsmasq pings an address for 3 s before
// it offers it), stepping back at the latest 10 s after another server is
// back, taking over 45–75 s after it died.
func defaultPace() pace {
	return pace{start: 1500 * time.Millisecond, full: 10 * time.Second, proxy: 15 * time.Second, startMisses: 3, proxyMisses: 3}
}

// settling is how long after its start, or after the cable came back, a full
// server keeps probing fast: spanning tree may have held its own port shut for
// 50 s, so that the silence of the first probes meant nothing.
const settling = 75 * time.Second

// askAgain is how often a configured proxy asks who gives the addresses: what
// it tells UEFI rests on that (see nextServerElsewhere), and its memory is longer.
const askAgain = 3 * time.Minute

// firstLease is the shortest lease of auto: see term.
const firstLease = 5 * time.Minute

const (
	maxServers   = 16               // remembered, the longest unheard of forgotten first
	serverMemory = 10 * time.Minute // and none longer than that
)

// OtherServer is a DHCP or proxyDHCP server that is not us.
type OtherServer struct {
	Addr        netip.Addr
	MAC         boot.MAC
	Last        time.Time // heard of
	Proxy       bool      // offers no addresses
	Box         bool      // another rescuebox
	VendorClass string    // option 60 of its answers; "PXEClient" there makes UEFI ask port 4011 of that server
	NextServer  netip.Addr
	BootFile    string // header or option 67
}

// arbiter decides in auto mode whether we are the LAN's DHCP server.
//
//	listening --3 silent probes--> full
//	listening, full --another server answers--> proxy
//	proxy --3 silent probes--> full
//	any --the cable was out--> listening
//
// Between two boxes the one with the lower address serves: it disregards the
// other, which steps back. With a configured mode the arbiter only remembers
// which servers there are. Only become changes the mode.
type arbiter struct {
	mu      sync.Mutex
	self    netip.Addr
	auto    bool
	pace    pace
	mode    Mode
	why     string
	since   time.Time
	began   time.Time // of listening
	sent    bool      // a probe went out since the last judgement
	heard   bool      // and was answered
	misses  int
	servers map[netip.Addr]OtherServer
	changed func(from, to Mode, why string) // called with the lock held
}

func newArbiter(m Mode, self netip.Addr, p pace, now time.Time) *arbiter {
	a := &arbiter{self: self, pace: p, mode: m, why: "configured", since: now, began: now, servers: map[netip.Addr]OtherServer{}}
	if m == Auto {
		a.auto, a.mode, a.why = true, Listening, "listens for other DHCP servers before it answers"
	}
	return a
}

// now is the mode at this moment.
func (a *arbiter) now() Mode {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mode
}

// term is how long a lease may hold that is given now, at most so long. In auto that is
// as long as we have been the server: after a power cut the site's server comes up
// minutes after us, and the whole office would keep what we gave it, with our
// gateway or none, for an hour after we have stepped back.
func (a *arbiter) term(most time.Duration, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.auto || a.mode != Full {
		return most
	}
	return min(most, max(firstLease, now.Sub(a.since)))
}

// probe is called when a probe goes out. It judges the one before, in auto
// mode, and says when to send the next.
func (a *arbiter) probe(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.heard:
		a.misses = 0
	case a.sent:
		a.misses++
	}
	a.sent, a.heard = true, false
	switch {
	case !a.auto:
	case a.mode == Listening && a.misses >= a.pace.startMisses:
		a.become(Full, "no other DHCP server answers", now)
	case a.mode == Proxy && a.misses >= a.pace.proxyMisses:
		a.become(Full, fmt.Sprintf("the other DHCP server has been silent for %d probes", a.misses), now)
	}
	switch {
	case a.auto && (a.mode == Listening || a.mode == Full && now.Sub(a.began) < settling):
		return a.pace.start
	case a.auto && a.mode == Full:
		return a.pace.full
	case !a.auto && now.Sub(a.began) > settling:
		return askAgain
	}
	return a.pace.proxy
}

// hear is told of every answer of another server.
func (a *arbiter) hear(now time.Time, s OtherServer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Last = now
	a.remember(s)
	if s.Proxy || (s.Box && a.self.Less(s.Addr)) {
		return
	}
	a.heard, a.misses = true, 0
	if a.auto && a.mode != Proxy {
		a.become(Proxy, fmt.Sprintf("DHCP server %s answers", s.Addr), now)
	}
}

// restart begins anew: on a LAN that we were cut off from anything may have changed.
func (a *arbiter) restart(now time.Time, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent, a.heard, a.misses, a.began = false, false, 0, now
	if a.auto && a.mode != Listening {
		a.become(Listening, why, now)
	}
}

func (a *arbiter) become(m Mode, why string, now time.Time) {
	from := a.mode
	a.mode, a.why, a.since, a.misses = m, why, now, 0
	if a.changed != nil {
		a.changed(from, m, why)
	}
}

func (a *arbiter) remember(s OtherServer) {
	if _, ok := a.servers[s.Addr]; !ok && len(a.servers) >= maxServers {
		list := a.list(s.Last)
		delete(a.servers, list[len(list)-1].Addr)
	}
	a.servers[s.Addr] = s
}

// list is the servers, last heard of first; those not heard of for long are forgotten.
func (a *arbiter) list(now time.Time) []OtherServer {
	var out []OtherServer
	for addr, s := range a.servers {
		if now.Sub(s.Last) > serverMemory {
			delete(a.servers, addr)
			continue
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(x, y OtherServer) int {
		return cmp.Or(y.Last.Compare(x.Last), x.Addr.Compare(y.Addr))
	})
	return out
}

// isBox reports whether a server was a rescuebox when it was last heard of.
func (a *arbiter) isBox(s OtherServer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.servers[s.Addr]
	return known.Box && known.MAC == s.MAC
}

// first reports whether no other rescuebox with a lower address was heard of lately.
func (a *arbiter) first(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !slices.ContainsFunc(a.list(now), func(s OtherServer) bool { return s.Box && s.Addr.Less(a.self) })
}

// snapshot is the arbiter's part of the status.
func (a *arbiter) snapshot(now time.Time) (m Mode, why string, since time.Time, others []OtherServer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mode, a.why, a.since, a.list(now)
}
