package dhcp

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rescuebox/appliance/boot"
)

// lru is a map that forgets what was not used for longest.
type lru[K comparable, V any] struct {
	max   int
	byKey map[K]*list.Element
	order *list.List // most recently used first
}

type entry[K comparable, V any] struct {
	key K
	v   V
}

func newLRU[K comparable, V any](most int) *lru[K, V] {
	return &lru[K, V]{max: most, byKey: map[K]*list.Element{}, order: list.New()}
}

func (l *lru[K, V]) get(k K) (v V, ok bool) {
	e, ok := l.byKey[k]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*entry[K, V]).v, true
}

func (l *lru[K, V]) put(k K, v V) {
	if e, ok := l.byKey[k]; ok {
		e.Value.(*entry[K, V]).v = v
		l.order.MoveToFront(e)
		return
	}
	if len(l.byKey) >= l.max {
		last := l.order.Back() // its place is the new one's: a storm shall make no garbage
		e := last.Value.(*entry[K, V])
		delete(l.byKey, e.key)
		e.key, e.v = k, v
		l.byKey[k] = last
		l.order.MoveToFront(last)
		return
	}
	l.byKey[k] = l.order.PushFront(&entry[K, V]{k, v})
}

// Limits per client: a boot is a dozen packets, a client with a fault in its
// network stack sends thousands.
const (
	burst       = 24
	perSecond   = 6
	sameVerdict = 3 * time.Second // a retransmission is not decided again
	localAgain  = time.Minute     // between two events of a machine that nobody ordered
	againEvent  = 2 * time.Second // between two equal events of one that is ordered
)

// memory is what is remembered of one client between its packets. Nothing
// depends on it but speed and the number of events. It belongs to its shard.
type memory struct {
	tokens  float64
	last    time.Time
	xid     dhcpv4.TransactionID
	asked   stage // what the verdict is for
	decided time.Time
	verdict verdict
	waiting *packet // newest DISCOVER whose address is being probed
	events  map[boot.Step]time.Time
}

// allow is a token bucket.
func (m *memory) allow(now time.Time) bool {
	if m.last.IsZero() {
		m.tokens = burst
	}
	m.tokens = min(burst, m.tokens+now.Sub(m.last).Seconds()*perSecond)
	m.last = now
	if m.tokens < 1 {
		return false
	}
	m.tokens--
	return true
}

// once reports whether an event of this step is due again.
func (m *memory) once(step boot.Step, now time.Time, gap time.Duration) bool {
	if last, ok := m.events[step]; ok && now.Sub(last) < gap {
		return false
	}
	if m.events == nil {
		m.events = map[boot.Step]time.Time{}
	}
	m.events[step] = now
	return true
}

const (
	bookSize    = 4096
	bookServers = 64
)

// book remembers which client was seen with which address: in proxy mode
// there are no leases to ask.
type book struct {
	mu      sync.Mutex
	clients *lru[netip.Addr, boot.MAC]
	servers map[netip.Addr]bool
	inside  bool // another server gives addresses of our range, or clients have them
	outside bool // and of others
}

func newBook() *book {
	return &book{clients: newLRU[netip.Addr, boot.MAC](bookSize), servers: map[netip.Addr]bool{}}
}

// note notes that a client has an address. Who is not sure takes it from nobody.
func (b *book) note(a netip.Addr, m boot.MAC, sure bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.clients.get(a); !ok || sure {
		b.clients.put(a, m)
	}
}

func (b *book) find(a netip.Addr) (boot.MAC, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clients.get(a)
}

// given notes that another server gives addresses, and whether of our range.
func (b *book) given(inRange bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inside, b.outside = b.inside || inRange, b.outside || !inRange
}

// othersElsewhere reports whether other servers' addresses were seen, and none of them in our range.
func (b *book) othersElsewhere() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.outside && !b.inside
}

// server reports whether a server was known already. Past its size the book
// knows everybody, so that a liar with many addresses does not fill the log.
func (b *book) server(a netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.servers[a] || len(b.servers) >= bookServers
	if !known {
		b.servers[a] = true
	}
	return known
}
