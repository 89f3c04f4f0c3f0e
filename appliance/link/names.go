package link

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// names keeps what names of probes were resolved to. Its zero value is ready.
//
// The day on which a name server is dead is no day on which the uplink is: what was known once is asked while it is
// looked up again beside, and a lookup may take longer than a round of probes.
type names struct {
	mu    sync.Mutex
	dns   []netip.Addr // of the uplink; none: the system's
	known map[string]*known
}

// known is what is known of one name.
type known struct {
	list  []netip.Addr // the first of each family is the next to be asked
	good  []netip.Addr // that answered a probe: the last of each family
	at    time.Time    // of the answer that list is from
	tried time.Time    // the last lookup
	under chan struct{}
	err   error // of the last lookup
}

const (
	freshName = 10 * time.Minute // a resolved name is not looked up again
	retryName = time.Minute      // nor is one whose lookup failed, while there is an old answer
	lookupFor = 5 * time.Second  // a lookup may take
	mostNamed = 4                // addresses of each family are kept of an answer
)

func (n *names) servers(list []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dns = list
}

// resolve finds the address of a name through the path's own uplink. It waits only where none is known.
func (n *names) resolve(ctx context.Context, w path, host string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip, nil
	}
	n.mu.Lock()
	k := n.ofLocked(host)
	to := k.choose(w)
	if k.under == nil && (!to.IsValid() || k.stale(time.Now())) {
		n.beginLocked(w, host, k)
	}
	under := k.under
	n.mu.Unlock()
	if to.IsValid() {
		return to, nil
	}
	select {
	case <-under:
	case <-ctx.Done():
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", host, bare(ctx.Err()))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if to = k.choose(w); to.IsValid() {
		return to, nil
	}
	if k.err != nil {
		return netip.Addr{}, fmt.Errorf("resolve %s: %w", host, bare(k.err))
	}
	return netip.Addr{}, fmt.Errorf("resolve %s: the answer has no address that the uplink reaches", host)
}

func (n *names) ofLocked(host string) *known {
	if n.known == nil {
		n.known = map[string]*known{}
	}
	if n.known[host] == nil {
		n.known[host] = &known{}
	}
	return n.known[host]
}

// beginLocked looks a name up beside.
func (n *names) beginLocked(w path, host string, k *known) {
	under, dns := make(chan struct{}), n.dns
	k.under, k.tried = under, time.Now()
	w.begin(func(ctx context.Context) {
		n.lookUp(ctx, w, host, dns)
		n.mu.Lock()
		k.under = nil
		n.mu.Unlock()
		close(under)
	})
}

// lookUp asks a name server and takes what can be believed.
func (n *names) lookUp(ctx context.Context, w path, host string, dns []netip.Addr) {
	ctx, stop := context.WithTimeout(ctx, lookupFor)
	defer stop()
	said, err := w.resolver(dns).LookupNetIP(ctx, "ip", host)
	own, _ := net.InterfaceAddrs() // unknown: a lie less is seen
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ofLocked(host).take(believable(said, own), err)
}

// take takes an answer. What was good is asked first if the answer still has it, and last if it has not:
// a portal may lead all names to itself. An answer without addresses changes nothing.
func (k *known) take(list []netip.Addr, err error) {
	if k.err = err; len(list) == 0 {
		return
	}
	k.at = time.Now()
	for _, a := range k.good {
		if i := slices.Index(list, a); i >= 0 {
			list = slices.Insert(slices.Delete(list, i, i+1), 0, a)
		} else {
			list = append(list, a)
		}
	}
	k.list = list
}

// choose is the address to ask of those that the uplink reaches.
func (k *known) choose(w path) netip.Addr {
	for _, a := range k.list {
		if a.Is4() && w.v4 || a.Is6() && w.v6 {
			return a
		}
	}
	return netip.Addr{}
}

func (k *known) stale(now time.Time) bool {
	return now.Sub(k.at) >= freshName && now.Sub(k.tried) >= retryName
}

// tried takes whether an address answered. After one that did not the next is asked.
func (n *names) tried(host string, a netip.Addr, answered bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.known[host]
	if k == nil {
		return // no name
	}
	if answered {
		k.good = append(slices.DeleteFunc(k.good, func(g netip.Addr) bool { return g.Is4() == a.Is4() }), a)
		return
	}
	if i := slices.Index(k.list, a); i >= 0 {
		k.list = append(slices.Delete(k.list, i, i+1), a)
	}
}

// believable is what of a name server's answer a probe may ask. A portal, a name server of a line that is not paid
// for, or a liar says 127.0.0.1, 0.0.0.0, or an address of the box itself, which would answer whatever the uplink
// does; and more addresses than anybody can try.
func believable(answer []netip.Addr, own []net.Addr) (list []netip.Addr) {
	count := map[bool]int{}
	for _, a := range answer {
		a = a.Unmap()
		ours := slices.ContainsFunc(own, func(o net.Addr) bool {
			p, ok := o.(*net.IPNet)
			return ok && p.IP.Equal(a.AsSlice())
		})
		nowhere := a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) // RFC 1122, section 3.2.1.3; RFC 1112, section 4
		if a.IsGlobalUnicast() && a.Zone() == "" && !ours && !nowhere && count[a.Is4()] < mostNamed && !slices.Contains(list, a) {
			count[a.Is4()]++
			list = append(list, a)
		}
	}
	return list
}

// resolver asks the uplink's name servers, or else the system's, through the uplink. A stub on
// the box itself cannot be asked that way: an address in the probe does without all this.
func (w path) resolver(dns []netip.Addr) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if len(dns) > 0 {
			address = netip.AddrPortFrom(dns[rand.IntN(len(dns))], 53).String() // each try may ask another one
		}
		if ap, err := netip.ParseAddrPort(address); err == nil && ap.Addr().IsLoopback() {
			return nil, fmt.Errorf("the system's name server %s is on the box itself and cannot be asked through %s; write the probe with an address", ap.Addr(), w.device)
		}
		return w.dialer().DialContext(ctx, network, address)
	}}
}
