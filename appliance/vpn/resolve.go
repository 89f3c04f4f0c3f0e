package vpn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	lookupTimeout = 5 * time.Second
	// How often a name is asked for: one that is not known, one whose hub is silent, one
	// that is well; and the latter two where each byte costs.
	askUnknown        = 5 * time.Second
	askSilent         = 30 * time.Second
	askWell           = time.Hour
	askSilentFrugally = 5 * time.Minute
	askWellFrugally   = 24 * time.Hour
)

// book is where the hubs are: addresses of the file as they are, and names as they were
// resolved, by each uplink on its own, since the answers may differ. An address that was good
// once is kept, also over a restart: the day on which DNS is dead is the day of the rescue.
type book struct {
	hubs    [][]place // by hub
	uplinks []Uplink
	file    string
	dial    func(device string) func(ctx context.Context, network, address string) (net.Conn, error)

	mu      sync.Mutex
	known   map[string]map[string][]netip.Addr // by uplink's name and host; "" is by any
	asked   []map[string]time.Time             // by uplink and host
	reach   []reach                            // by uplink
	silent  bool                               // the hub in use does not answer
	changed chan struct{}                      // somebody is to look whether a name is due
}

// place is an endpoint of the file.
type place struct {
	host string     // "" where addr is valid
	addr netip.Addr //
	port uint16
}

func newBook(cfg Config) (*book, error) {
	b := &book{uplinks: slices.Clone(cfg.Uplinks), file: cfg.CacheFile, dial: dialBy,
		known: map[string]map[string][]netip.Addr{}, changed: make(chan struct{}, 1)}
	for range b.uplinks {
		b.asked = append(b.asked, map[string]time.Time{})
		b.reach = append(b.reach, reach{v4: true, v6: true})
	}
	for _, h := range cfg.Hubs {
		var places []place
		for _, e := range h.Endpoints {
			p, err := parsePlace(e)
			if err != nil {
				return nil, fmt.Errorf("read the endpoint of hub %s: %w", h.Name, err)
			}
			places = append(places, p)
		}
		if len(places) == 0 {
			return nil, fmt.Errorf("hub %s has no endpoint: write endpoint = [\"192.0.2.1:51820\"]", h.Name)
		}
		b.hubs = append(b.hubs, places)
	}
	return b, b.load()
}

func parsePlace(endpoint string) (place, error) {
	host, service, err := net.SplitHostPort(endpoint)
	if err != nil {
		return place{}, fmt.Errorf("%q is no host:port", endpoint)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 || host == "" {
		return place{}, fmt.Errorf("%q is no host:port", endpoint)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return place{addr: a.Unmap(), port: uint16(port)}, nil
	}
	return place{host: host, port: uint16(port)}, nil
}

// load reads what was good before. A file that makes no sense is as none: it is only a memory.
func (b *book) load() error {
	if b.file == "" {
		return nil
	}
	text, err := os.ReadFile(b.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read where the hubs were: %w", err)
	}
	known := map[string]map[string][]netip.Addr{}
	if json.Unmarshal(text, &known) == nil {
		b.known = known
	}
	return nil
}

// reach is which families an uplink's device has addresses of. Without an address the kernel
// does not refuse to send: it takes another interface's and calls into the dark.
type reach struct{ v4, v6 bool }

// reaches notes what an uplink reaches, and reports a change.
func (b *book) reaches(uplink int, r reach) bool {
	if !r.v4 && !r.v6 {
		r = reach{true, true} // nothing is known: let it try
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := b.reach[uplink] != r
	b.reach[uplink] = r
	return changed
}

// endpoints are a hub's addresses by each uplink, in the order of the file: those that the
// uplink reaches, or all where it reaches none. An uplink that resolved nothing itself takes
// what another one did.
func (b *book) endpoints(hub int) [][]netip.AddrPort {
	b.mu.Lock()
	defer b.mu.Unlock()
	lists := make([][]netip.AddrPort, len(b.uplinks))
	for i := range b.uplinks {
		for _, p := range b.hubs[hub] {
			for _, a := range b.addressesLocked(i, p) {
				if ap := netip.AddrPortFrom(a, p.port); !slices.Contains(lists[i], ap) {
					lists[i] = append(lists[i], ap)
				}
			}
		}
		lists[i] = b.reach[i].choose(lists[i])
	}
	return lists
}

func (r reach) choose(list []netip.AddrPort) []netip.AddrPort {
	var reached []netip.AddrPort
	for _, a := range list {
		if a.Addr().Is4() && r.v4 || a.Addr().Is6() && r.v6 {
			reached = append(reached, a)
		}
	}
	if len(reached) == 0 {
		return list
	}
	return reached
}

func (b *book) addressesLocked(uplink int, p place) []netip.Addr {
	if p.host == "" {
		own := []netip.Addr{p.addr}
		if via, ok := throughNAT64(b.known[b.uplinks[uplink].Name][wellKnown], p.addr); ok {
			own = append(own, via)
		}
		return own
	}
	if list := b.known[b.uplinks[uplink].Name][p.host]; len(list) > 0 {
		return list
	}
	for _, name := range slices.Sorted(maps.Keys(b.known)) {
		if list := b.known[name][p.host]; len(list) > 0 {
			return list
		}
	}
	return nil
}

// wellKnown is the name that has only IPv4 addresses: an IPv6 one for it is made by the
// operator's DNS64, and shows how its NAT64 is reached (RFC 7050).
const wellKnown = "ipv4only.arpa"

// throughNAT64 is how an operator without IPv4 reaches an IPv4 address, from its answers for
// wellKnown (192.0.0.170 and 171). Its prefix has 96 bits wherever anybody looked; others (RFC 6052,
// section 2.2) are left to names, which the operator translates itself.
func throughNAT64(answers []netip.Addr, a netip.Addr) (netip.Addr, bool) {
	for _, known := range answers {
		bytes := known.As16()
		if known.Is6() && a.Is4() && bytes[12] == 192 && bytes[13] == 0 && bytes[14] == 0 && bytes[15]|1 == 171 {
			four := a.As4()
			copy(bytes[12:], four[:])
			return netip.AddrFrom16(bytes), true
		}
	}
	return netip.Addr{}, false
}

// hosts are the names to resolve by an uplink: those of the file, and the way through NAT64
// where there is no IPv4 for a hub that has only that.
func (b *book) hosts(uplink int) []string {
	list := b.names()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reach[uplink].v4 {
		return list
	}
	for _, places := range b.hubs {
		for _, p := range places {
			if p.addr.Is4() && !slices.Contains(list, wellKnown) {
				list = append(list, wellKnown)
			}
		}
	}
	return list
}

// names are those of the file.
func (b *book) names() []string {
	var list []string
	for _, places := range b.hubs {
		for _, p := range places {
			if p.host != "" && !slices.Contains(list, p.host) {
				list = append(list, p.host)
			}
		}
	}
	return list
}

// use gives an uplink its name servers.
func (b *book) use(uplink int, servers []netip.Addr) {
	b.mu.Lock()
	same := slices.Equal(b.uplinks[uplink].DNS, servers)
	b.uplinks[uplink].DNS = slices.Clone(servers)
	b.mu.Unlock()
	if !same {
		b.again(uplink)
	}
}

// again makes every name due by an uplink: it is another one now.
func (b *book) again(uplink int) {
	if uplink < 0 {
		return
	}
	b.mu.Lock()
	clear(b.asked[uplink])
	b.mu.Unlock()
	tell(b.changed)
}

// doubt says whether the hub in use is silent: it may have moved.
func (b *book) doubt(silent bool) {
	b.mu.Lock()
	changed := b.silent != silent
	b.silent = silent
	b.mu.Unlock()
	if changed {
		tell(b.changed)
	}
}

// run keeps the names resolved, by each uplink on its own: one that is dead holds none up.
func (b *book) run(ctx context.Context, log *zap.Logger, device func(uplink int) string, changed func()) {
	var wg sync.WaitGroup
	wake := make([]chan struct{}, len(b.uplinks))
	for i := range b.uplinks {
		wake[i] = make(chan struct{}, 1)
		wg.Go(func() {
			for ctx.Err() == nil {
				wait := b.due(ctx, i, device(i), log, changed)
				select {
				case <-ctx.Done():
				case <-wake[i]:
				case <-time.After(wait):
				}
			}
		})
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-b.changed:
			for _, w := range wake {
				tell(w)
			}
		}
	}
	wg.Wait()
}

// due asks for the names whose time it is, and says when it is again.
func (b *book) due(ctx context.Context, uplink int, device string, log *zap.Logger, changed func()) time.Duration {
	wait := askWell
	if device == "" {
		return wait // its device comes with again
	}
	for _, host := range b.hosts(uplink) {
		left := b.left(uplink, host)
		if left <= 0 {
			if b.ask(ctx, uplink, device, host, log) {
				changed()
			}
			left = b.left(uplink, host)
		}
		wait = min(wait, left)
	}
	return max(wait, time.Second)
}

// left is the time until a name is due.
func (b *book) left(uplink int, host string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.uplinks[uplink]
	every := askWell
	switch unknown := len(b.known[u.Name][host]) == 0; {
	case u.Metered && (b.silent || unknown):
		every = askSilentFrugally
	case unknown:
		every = askUnknown
	case b.silent:
		every = askSilent
	case u.Metered:
		every = askWellFrugally
	}
	return time.Until(b.asked[uplink][host].Add(every))
}

// ask resolves a name by an uplink. An answer that says nothing changes nothing.
func (b *book) ask(ctx context.Context, uplink int, device, host string, log *zap.Logger) (changed bool) {
	b.mu.Lock()
	u := b.uplinks[uplink]
	b.mu.Unlock()
	list, err := b.lookup(ctx, device, u.DNS, host)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[uplink][host] = time.Now()
	if err != nil {
		log.Debug("cannot resolve the hub's name", zap.String("uplink", u.Name), zap.String("host", host), zap.NamedError("err", err))
		return false
	}
	if slices.Equal(b.known[u.Name][host], list) {
		return false
	}
	if b.known[u.Name] == nil {
		b.known[u.Name] = map[string][]netip.Addr{}
	}
	b.known[u.Name][host] = list
	if b.file != "" {
		text, err := json.Marshal(b.known)
		if err == nil {
			err = writeFile(b.file, append(text, '\n'))
		}
		if err != nil {
			log.Warn("cannot keep where the hubs are", zap.NamedError("err", err))
		}
	}
	return true
}

// lookup asks for both families by a device. The order of the answers is kept stable, so that
// a name server that turns them round changes nothing.
func (b *book) lookup(ctx context.Context, device string, servers []netip.Addr, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var turn atomic.Uint32 // both families are asked at once, and each server in its turn
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if len(servers) > 0 {
			address = netip.AddrPortFrom(servers[int(turn.Add(1)-1)%len(servers)], 53).String()
		}
		return b.dial(device)(ctx, network, address)
	}}
	list, err := r.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")+".")
	if err != nil {
		return nil, err
	}
	for i, a := range list {
		list[i] = a.Unmap()
	}
	slices.SortFunc(list, func(a, c netip.Addr) int {
		if a.Is4() != c.Is4() { // IPv4 first: more uplinks have it
			if a.Is4() {
				return -1
			}
			return 1
		}
		return a.Compare(c)
	})
	return slices.Compact(list), nil
}

// dialBy dials name servers by a device; one on this host itself, such as
// systemd-resolved's, is asked as everybody asks it.
func dialBy(device string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
			d.Control = func(_, _ string, c syscall.RawConn) error {
				var err error
				if e := c.Control(func(fd uintptr) {
					err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device)
				}); e != nil {
					return e
				}
				return err
			}
		}
		return d.DialContext(ctx, network, address)
	}
}
