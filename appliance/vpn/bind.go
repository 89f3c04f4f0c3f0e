package vpn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// repeatAfter is how long a question may be open before a handshake goes by every
	// uplink, as it does to a hub that was never heard: whoever decides about uplinks may
	// be wrong, or know nothing yet.
	repeatAfter = 2 * time.Second
	// patience is how long an address of the hub may take to answer a handshake before the
	// next one is tried.
	patience = 3 * time.Second
	// frugal is how often a dead hub is called at most by an uplink where each byte costs:
	// one that is not in use, or any after impatient.
	frugal    = 30 * time.Second
	impatient = 5 * time.Minute
)

// bind is what WireGuard sends and receives by: a way for each uplink, one of which is in
// use. It implements conn.Bind.
//
// WireGuard's notion of an endpoint is one address. Ours is a hub, which may have another
// address by each uplink: a name with other answers, an IPv6 address where the operator has
// no IPv4. So the endpoint that WireGuard keeps for a peer says only which hub it is, and
// Send knows where that is by the uplink of the moment. A hub that answers from elsewhere is
// followed there, on that uplink.
type bind struct {
	ways []*way
	hubs []*hubPaths
	born time.Time // times are kept as what passed since, in atomics

	active    atomic.Int32
	duplicate atomic.Bool
	batchSize int
	inbound   *gate // packets of hubs on their way to the kernel
	outbound  *gate

	// broken is told when a socket's device is no more: somebody has to look whether it is
	// there again under another index.
	broken  chan struct{}
	callers callers
}

// newBind makes a bind without sockets. WireGuard opens it, and steering gives it devices.
func newBind(s setup, batchSize int) *bind {
	b := &bind{born: time.Now().Add(-time.Hour), batchSize: batchSize,
		inbound: newGate(), outbound: newGate(), broken: make(chan struct{}, 1), callers: callers{came: make(chan struct{}, 1)}}
	for i, u := range s.Uplinks {
		b.ways = append(b.ways, newWay(b, i, u, s))
	}
	for i := range s.Hubs {
		b.hubs = append(b.hubs, newHubPaths(i, len(s.Uplinks)))
	}
	return b
}

// now is the monotonic time since born; never 0, which means "never".
func (b *bind) now() int64 { return int64(time.Since(b.born)) }

// when is the time that now once was.
func (b *bind) when(t int64) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return b.born.Add(time.Duration(t))
}

// endpoint is where a packet goes, or came from.
type endpoint struct {
	hub  int // index; nobody where a packet says of no hub
	way  int // the uplink that it came by
	addr netip.AddrPort
}

// nobody is the hub of a packet that says of none.
const nobody = -1

// ClearSrc does nothing: the source is the uplink's.
func (*endpoint) ClearSrc() {}

// SrcToString is empty: the source is the uplink's.
func (*endpoint) SrcToString() string { return "" }

// SrcIP is none: the source is the uplink's.
func (*endpoint) SrcIP() netip.Addr { return netip.Addr{} }

// DstIP is the address, where the packet came from one.
func (e *endpoint) DstIP() netip.Addr { return e.addr.Addr() }

// DstToBytes is what WireGuard makes cookies from, for those who call us.
func (e *endpoint) DstToBytes() []byte {
	b, _ := e.addr.MarshalBinary() // it never fails
	return b
}

// DstToString names the hub, as ParseEndpoint reads it, or the address of a stranger.
func (e *endpoint) DstToString() string {
	if e.hub == nobody {
		return e.addr.String()
	}
	return strconv.Itoa(e.hub)
}

// ParseEndpoint reads the index of a hub.
func (b *bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	hub, err := strconv.Atoi(s)
	if err != nil || hub < 0 || hub >= len(b.hubs) {
		return nil, fmt.Errorf("there is no hub %q", s)
	}
	return &endpoint{hub: hub}, nil
}

// BatchSize is how many packets are handled at once.
func (b *bind) BatchSize() int { return b.batchSize }

// SetMark is refused: our sockets go by their device, not by a mark.
func (*bind) SetMark(mark uint32) error {
	if mark == 0 {
		return nil
	}
	return errors.New("packets of this bind have no mark: its sockets are tied to devices")
}

// Open opens what has a device. One without, or with one that is broken, is no error: its
// socket comes when its device does.
func (b *bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receivers := make([]conn.ReceiveFunc, 0, len(b.ways))
	for _, w := range b.ways {
		w.start()
		receivers = append(receivers, w.receive)
	}
	return receivers, port, nil
}

// Close ends all receiving.
func (b *bind) Close() error {
	for _, w := range b.ways {
		w.stop()
	}
	return nil
}

// Send sends packets to a hub by the uplink in use; by the others too while it is suspected,
// or if it takes nothing.
func (b *bind) Send(bufs [][]byte, to conn.Endpoint) error {
	e, ok := to.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	if len(bufs) == 0 {
		return nil
	}
	first, _ := parseMessage(bufs[0])
	if e.hub == nobody && first.kind != cookie {
		b.callers.answered(e, first)
	}
	if e.hub == nobody || first.kind == cookie {
		return b.ways[e.way].answer(bufs, e.addr)
	}
	if first.kind == transport {
		b.outbound.leave(len(bufs))
	}
	h := b.hubs[e.hub]
	h.follow(e)
	asked := h.note(b.now(), bufs)
	repeated := first.kind == initiation && (h.heard.Load() == 0 || b.now()-asked > int64(repeatAfter))
	p, everywhere := parcel{bufs, first, asked}, b.duplicate.Load() || repeated
	if first.kind == initiation || first.kind == response { // alone in bufs
		return b.shake(h, p, everywhere)
	}
	return b.sendBy(int(b.active.Load()), h, p, everywhere)
}

// parcel is packets on their way to a hub.
type parcel struct {
	bufs  [][]byte
	first message
	asked int64 // since when the hub owes an answer
}

// sendBy sends by one uplink, and by the others if that fails or everywhere is set. It is
// well if one of them takes it.
func (b *bind) sendBy(active int, h *hubPaths, p parcel, everywhere bool) error {
	err := b.ways[active].send(h, p, true)
	if err == nil && !everywhere {
		return nil
	}
	for i, w := range b.ways {
		if i == active {
			continue
		}
		if other := w.send(h, p, false); other == nil {
			err = nil
		}
	}
	return err
}

// alive reports that there may be a session with a hub.
func (b *bind) alive() bool {
	now := b.now()
	for _, h := range b.hubs {
		if last := h.heard.Load(); last != 0 && now-last < int64(sessionTime) {
			return true
		}
	}
	return false
}

// heard notes a datagram that came by an uplink, and says which hub's it is. A handshake of
// the hub's own is known by its address only.
func (b *bind) heard(w *way, datagram []byte, from netip.AddrPort, now int64) int {
	m, ok := parseMessage(datagram)
	if !ok {
		return nobody
	}
	for i, h := range b.hubs {
		if m.kind == initiation && h.at(w.index, from) || m.kind != initiation && h.gave(m.receiver) {
			if m.kind == transport && !m.empty {
				b.inbound.enter(1)
			}
			if m.kind == response {
				h.responded.Store(now)
			}
			if m.kind != initiation {
				w.heard[i].Store(now)
				h.heard.Store(now)
				h.asked.Store(0)
			}
			return i
		}
	}
	return nobody
}

// gone reports errors that mean that the device is another one, or none.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.Is(err, net.ErrClosed)
}

// elsewhere reports errors that another address of the hub may not have.
func elsewhere(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)
}
