package vpn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
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
	// that is well; and the latter two where each byte costs. There one that is not known is asked
	// for ever more rarely: an uplink that has just come up may not carry the first question.
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
	inside  []netip.Prefix        // where no hub can be: in the tunnel, on the LAN,
	own     func() []netip.Prefix // nor on the box itself or where no uplink leads to; nil: not known
	log     *zap.Logger

	unsaved chan struct{} // told when the file is to be written

	mu      sync.Mutex                         // held by nobody while the disk takes its time
	known   map[string]map[string][]netip.Addr // by uplink's name and host; "" has those that a hub was heard from
	asked   []map[string]asking                // by uplink and host
	reach   []reach                            // by uplink
	silent  bool                               // the hub in use does not answer
	changed chan struct{}                      // somebody is to look whether a name is due
}

// asking is when a name was asked for last, and how often since the uplink is this one.
type asking struct {
	at    time.Time
	times int
}

func newBook(cfg Config, log *zap.Logger) (*book, error) {
	b := &book{uplinks: slices.Clone(cfg.Uplinks), file: cfg.CacheFile, dial: dialBy, log: log, inside: append([]netip.Prefix{cfg.Address.Masked()}, cfg.ShareLAN...),
		known: map[string]map[string][]netip.Addr{}, unsaved: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	for range b.uplinks {
		b.asked = append(b.asked, map[string]asking{})
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
	b.load()
	return b, nil
}

// load reads what was good before. A file that cannot be read or makes no sense is as none: it is only a memory. Of
// names and uplinks that are no more, and of what no name server may say, nothing is taken over.
func (b *book) load() {
	if b.file == "" {
		return
	}
	text, err := readSmall(b.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.log.Warn("cannot read where the hubs were", zap.NamedError("err", err))
	}
	var known map[string]map[string][]netip.Addr
	if err != nil || json.Unmarshal(text, &known) != nil {
		return
	}
	uplinks := []string{""}
	for _, u := range b.uplinks {
		uplinks = append(uplinks, u.Name)
	}
	for _, u := range uplinks {
		for _, host := range append(b.names(), wellKnown) {
			if list := b.believable(known[u][host]); len(list) > 0 {
				b.keepLocked(u, host, list)
			}
		}
	}
}

func (b *book) keepLocked(uplink, host string, list []netip.Addr) {
	if b.known[uplink] == nil {
		b.known[uplink] = map[string][]netip.Addr{}
	}
	b.known[uplink][host] = list
}

// save has what is known written down.
func (b *book) save(write func(file string, data []byte) error) {
	if b.file == "" {
		return
	}
	b.mu.Lock()
	text, err := json.Marshal(b.known)
	b.mu.Unlock()
	if err == nil {
		err = write(b.file, append(text, '\n'))
	}
	if err != nil {
		b.log.Warn("cannot keep where the hubs are", zap.NamedError("err", err))
	}
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
func (b *book) run(ctx context.Context, device func(uplink int) string, changed func()) {
	var wg sync.WaitGroup
	wake := make([]chan struct{}, len(b.uplinks))
	for i := range b.uplinks {
		wake[i] = make(chan struct{}, 1)
		wg.Go(func() {
			for ctx.Err() == nil {
				wait := b.due(ctx, i, device(i), changed)
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
func (b *book) due(ctx context.Context, uplink int, device string, changed func()) time.Duration {
	wait := askWell
	if device == "" {
		return wait // its device comes with again
	}
	for _, host := range b.hosts(uplink) {
		left := b.left(uplink, host)
		if left <= 0 {
			if b.ask(ctx, uplink, device, host) {
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
	asked, every := b.asked[uplink][host], askWell
	switch unknown := len(b.known[u.Name][host]) == 0; {
	case u.Metered && unknown:
		every = min(askUnknown<<min(asked.times, 10), askSilentFrugally)
	case unknown:
		every = askUnknown
	case u.Metered && b.silent:
		every = askSilentFrugally
	case b.silent:
		every = askSilent
	case u.Metered:
		every = askWellFrugally
	}
	return time.Until(asked.at.Add(every))
}

// ask resolves a name by an uplink. An answer that says nothing changes nothing.
func (b *book) ask(ctx context.Context, uplink int, device, host string) (changed bool) {
	b.mu.Lock()
	u := b.uplinks[uplink]
	b.asked[uplink][host] = asking{time.Now(), b.asked[uplink][host].times + 1} // now: it may become another one meanwhile
	b.mu.Unlock()
	list, err := b.lookup(ctx, device, u.DNS, host)
	if err == nil {
		if list = b.believable(list); len(list) == 0 {
			err = errNowhere
		}
	}
	b.mu.Lock()
	if changed = err == nil && !slices.Equal(b.known[u.Name][host], list); changed {
		b.keepLocked(u.Name, host, list)
	}
	b.mu.Unlock()
	if err != nil {
		b.log.Debug("cannot resolve the hub's name", zap.String("uplink", u.Name), zap.String("host", host), zap.NamedError("err", err))
	}
	if changed {
		tell(b.unsaved)
	}
	return changed
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
