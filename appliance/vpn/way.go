package vpn

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// Lengths of the headers around a WireGuard message, for what an uplink carried.
const (
	overhead4 = 20 + 8
	overhead6 = 40 + 8
)

// way is the bind's end of one uplink:
//
//	no device ──device──▸ socket ──ENODEV, new index──▸ socket anew
//	    ▴                   │
//	    └────device gone────┘
//
// Its socket is replaced under a reader that waits, and the other ways notice nothing.
type way struct {
	b       *bind
	index   int
	name    string
	metered bool
	wished  int  // port
	must    bool // wished or none: it is in the file

	socket atomic.Pointer[socket]

	mu      sync.Mutex
	open    bool // between start and stop
	device  string
	err     error
	port    int           // the last one, which is asked for again
	changed chan struct{} // closed when the socket was replaced, or open changed

	// Of the one reader: where what it read last came from.
	from []netip.AddrPort
	last *endpoint
	made int64 // bind.now

	heard  []atomic.Int64 // by hub
	rx, tx atomic.Uint64
	failed atomic.Pointer[error] // of the last send; nil: it went
}

func newWay(b *bind, index int, u Uplink, s setup) *way {
	return &way{b: b, index: index, name: u.Name, metered: u.Metered, wished: s.ListenPort, must: s.ListenPort != 0,
		port: s.ListenPort, changed: make(chan struct{}), heard: make([]atomic.Int64, s.Hubs), err: errNoDevice}
}

var (
	errNoDevice = errors.New("it has no interface now")
	errNoHub    = errors.New("no address of the hub is known by it yet")
)

// start lets the way have a socket.
func (w *way) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = true
	w.renewLocked()
}

// stop closes the socket; whoever reads is told that it is over.
func (w *way) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = false
	w.replaceLocked(nil)
}

// use gives the way a device, another one, or none. It reports whether there is a new socket.
func (w *way) use(device string) (renewed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if device == w.device && (device == "" || w.freshLocked()) {
		return false
	}
	w.device = device
	w.renewLocked()
	return w.socket.Load() != nil
}

// mend looks whether the device is still the one of the socket.
func (w *way) mend() (renewed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.device == "" || w.freshLocked() {
		return false
	}
	w.renewLocked()
	return w.socket.Load() != nil
}

// freshLocked reports that the socket is tied to the device that now has the name.
func (w *way) freshLocked() bool {
	s := w.socket.Load()
	if s == nil {
		return false
	}
	if failed := w.failed.Load(); failed != nil && gone(*failed) {
		return false
	}
	return s.tiedTo(w.device)
}

// renewLocked opens a socket on the device, in place of the one that there is.
func (w *way) renewLocked() {
	if !w.open {
		return
	}
	w.replaceLocked(nil) // first, since it has the port
	if w.device == "" {
		w.err = errNoDevice
		return
	}
	s, err := openSocket(w.device, w.port, w.must)
	w.err = err
	if err == nil {
		w.port = s.port
		w.replaceLocked(s)
	}
}

func (w *way) replaceLocked(s *socket) {
	old := w.socket.Swap(s)
	w.failed.Store(nil)
	if old != nil {
		old.close()
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// receive is a conn.ReceiveFunc: it waits for packets of this uplink, over all its sockets,
// and ends when the bind is closed.
func (w *way) receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	if len(w.from) < len(packets) {
		w.from = make([]netip.AddrPort, len(packets))
	}
	for {
		s := w.socket.Load()
		if s == nil {
			if !w.wait() {
				return 0, net.ErrClosed
			}
			continue
		}
		w.b.inbound.wait(gateMoment, s.closed)
		n, err := s.read(packets, sizes, w.from)
		if err == nil {
			w.sort(packets[:n], sizes, eps)
			return n, nil
		}
		if !errors.Is(err, net.ErrClosed) {
			w.report(err)
		}
		select { // an error that lasts must not become a busy loop
		case <-s.closed:
		case <-time.After(time.Second):
		}
	}
}

// wait waits for a socket while there is none. It is false when there comes none any more.
func (w *way) wait() bool {
	w.mu.Lock()
	open, changed := w.open, w.changed
	if w.socket.Load() != nil {
		changed = nil
	}
	w.mu.Unlock()
	if open && changed != nil {
		<-changed
	}
	return open
}

// sort says of each packet whose it is. Packets of one hub from one address, which is nearly
// all, share one endpoint, for a second: a hub is followed once to where each leads.
func (w *way) sort(packets [][]byte, sizes []int, eps []conn.Endpoint) {
	now := w.b.now()
	for i, p := range packets {
		hub := w.b.heard(w, p[:sizes[i]], w.from[i], now)
		if w.last == nil || w.last.hub != hub || w.last.addr != w.from[i] || now-w.made > int64(time.Second) {
			w.last, w.made = &endpoint{hub: hub, way: w.index, addr: w.from[i]}, now
		}
		eps[i] = w.last
		w.rx.Add(uint64(sizes[i] + overhead(w.from[i].Addr())))
	}
}

func overhead(a netip.Addr) int {
	if a.Is6() {
		return overhead6
	}
	return overhead4
}

// send sends a hub's packets by this uplink, to the hub's address as it is known here. An
// address that this uplink cannot reach at all gives way to the next one at once.
func (w *way) send(h *hubPaths, p parcel, active bool) error {
	path := h.paths[w.index]
	if p.first.kind == initiation && !path.call(w, h, p.asked, active) {
		return nil
	}
	err := errNoHub
	for range max(1, path.len()) {
		to := path.current()
		if !to.IsValid() {
			break
		}
		if err = w.answer(p.bufs, to); !elsewhere(err) {
			return err
		}
		path.next(to)
	}
	w.report(err)
	return err
}

// answer sends packets to an address by this uplink.
func (w *way) answer(bufs [][]byte, to netip.AddrPort) error {
	s := w.socket.Load()
	if s == nil {
		return errNoDevice
	}
	if err := s.send(bufs, to); err != nil {
		w.report(err)
		return err
	}
	if w.failed.Load() != nil {
		w.failed.Store(nil)
	}
	for _, b := range bufs {
		w.tx.Add(uint64(len(b) + overhead(to.Addr())))
	}
	return nil
}

// report keeps why nothing goes. A device that is gone is somebody's to look for.
func (w *way) report(err error) {
	w.failed.Store(&err)
	if gone(err) {
		select {
		case w.b.broken <- struct{}{}:
		default: // somebody is told already
		}
	}
}

func (w *way) state() wayState {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := wayState{Heard: w.lastHeard(), Rx: w.rx.Load(), Tx: w.tx.Load(), Err: w.err}
	if s := w.socket.Load(); s != nil {
		st.Port = s.port
		if failed := w.failed.Load(); failed != nil {
			st.Err = *failed
		}
	}
	return st
}

func (w *way) lastHeard() time.Time {
	var last int64
	for i := range w.heard {
		last = max(last, w.heard[i].Load())
	}
	return w.b.when(last)
}

// answers reports that a hub was heard by this uplink not longer ago than a session lasts.
func (w *way) answers(hub int) bool {
	last := w.heard[hub].Load()
	return last != 0 && w.b.now()-last < int64(sessionTime)
}
