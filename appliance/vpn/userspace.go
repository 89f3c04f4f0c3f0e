package vpn

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// userspace is WireGuard in this process.
type userspace struct {
	bind *bind
	dev  *device.Device
	log  *zap.Logger

	configuring sync.Mutex
	peers       atomic.Pointer[[]peer]

	quit chan struct{}
	wg   sync.WaitGroup
}

// batch is how many packets are handled at once. WireGuard has a buffer of 64 KiB for each
// packet on its way, and its own 128 make a daemon of hundreds of megabytes; see throughput_test.go.
const batch = 8

// newUserspace makes the interface and starts WireGuard on it. It has no peers yet.
func newUserspace(s setup, log *zap.Logger) (engine, error) {
	t, err := tun.CreateTUN(s.Interface, s.MTU)
	if err != nil {
		return nil, fmt.Errorf("make the interface %s: %w", s.Interface, err)
	}
	if err := limitSegments(s.Interface); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("set up the interface %s: %w", s.Interface, err)
	}
	u := &userspace{bind: newBind(s, batch), log: log, quit: make(chan struct{})}
	u.peers.Store(&[]peer{})
	u.dev = device.NewDevice(newEdge(t, u.bind), u.bind, deviceLog(log))
	err = u.dev.IpcSet("private_key=" + s.PrivateKey.hex() + "\n")
	if err == nil {
		err = u.dev.Up()
	}
	if err != nil {
		u.dev.Close()
		return nil, fmt.Errorf("start WireGuard on %s: %w", s.Interface, err)
	}
	u.wg.Go(u.mend)
	return u, nil
}

// edge is a TUN device as this WireGuard's other end: it hands over batch packets at once
// and no more than the gates let through, and says nothing when its interface goes up or
// down: WireGuard would forget its sessions. The Tunnel watches it.
type edge struct {
	tun.Device
	bind   *bind
	events chan tun.Event
	quit   chan struct{}
	once   sync.Once
}

func newEdge(t tun.Device, b *bind) *edge {
	e := &edge{Device: t, bind: b, events: make(chan tun.Event), quit: make(chan struct{})}
	go func() { // it ends when the device is closed
		defer close(e.events)
		for event := range t.Events() {
			if event&tun.EventMTUUpdate != 0 {
				e.events <- tun.EventMTUUpdate
			}
		}
	}()
	return e
}

// BatchSize is how many buffers WireGuard hands over.
func (*edge) BatchSize() int { return batch }

// Events are what WireGuard must hear of the interface.
func (e *edge) Events() <-chan tun.Event { return e.events }

// Read waits until packets may enter, and then for packets.
func (e *edge) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	moment := gateMoment
	if !e.bind.alive() {
		moment = gateLong
	}
	e.bind.outbound.wait(moment, e.quit)
	n, err := e.Device.Read(bufs, sizes, offset)
	e.bind.outbound.enter(n)
	return n, err
}

// Write gives packets of the hub to the kernel.
func (e *edge) Write(bufs [][]byte, offset int) (int, error) {
	n, err := e.Device.Write(bufs, offset)
	e.bind.inbound.leave(len(bufs))
	return n, err
}

// Close takes the interface away.
func (e *edge) Close() error {
	e.once.Do(func() { close(e.quit) })
	return e.Device.Close()
}

// limitSegments lets the kernel join at most as many packets for the interface as one
// reading has buffers: what is more would be lost.
func limitSegments(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetGSOMaxSegs(link, batch)
}

// deviceLog takes WireGuard's own words: what it calls an error is a warning of ours, since
// the Tunnel judges. Its words show no keys but the first letters of public ones.
func deviceLog(log *zap.Logger) *device.Logger {
	l := &device.Logger{Verbosef: device.DiscardLogf, Errorf: seldom(log)}
	if log.Core().Enabled(zap.DebugLevel) {
		l.Verbosef = func(format string, args ...any) { log.Debug("wireguard: " + fmt.Sprintf(format, args...)) }
	}
	return l
}

// seldom logs the same words once a minute: a dead uplink makes an error of every packet.
func seldom(log *zap.Logger) func(format string, args ...any) {
	var mu sync.Mutex
	said := map[string]time.Time{}
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(said[format]) < time.Minute {
			return
		}
		said[format] = time.Now()
		log.Warn("wireguard: " + fmt.Sprintf(format, args...))
	}
}

func (u *userspace) configure(peers []peer) error {
	u.configuring.Lock()
	defer u.configuring.Unlock()
	for _, p := range peers {
		for i, list := range p.Endpoints {
			u.bind.hubs[p.Hub].paths[i].set(list, u.bind.ways[i].answers(p.Hub))
		}
	}
	text := changes(*u.peers.Load(), peers)
	if text == "" {
		return nil
	}
	if err := u.dev.IpcSet(text); err != nil {
		return fmt.Errorf("configure WireGuard: %w", err)
	}
	peers = slices.Clone(peers)
	u.peers.Store(&peers)
	return nil
}

// changes says in WireGuard's own protocol how to come from old peers to new ones. What a
// new one takes over of an old one's addresses moves without a gap; who is no more goes last.
func changes(old, peers []peer) string {
	var s strings.Builder
	for _, p := range peers {
		i := slices.IndexFunc(old, func(o peer) bool { return o.PublicKey == p.PublicKey })
		if i >= 0 && old[i].Keepalive == p.Keepalive && slices.Equal(old[i].AllowedIPs, p.AllowedIPs) {
			continue
		}
		fmt.Fprintf(&s, "public_key=%s\n", p.PublicKey.hex())
		if i < 0 {
			fmt.Fprintf(&s, "preshared_key=%s\nendpoint=%d\n", p.PresharedKey.hex(), p.Hub)
		}
		s.WriteString("replace_allowed_ips=true\n")
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(&s, "allowed_ip=%s\n", a.Masked())
		}
		fmt.Fprintf(&s, "persistent_keepalive_interval=%d\n", int((p.Keepalive+time.Second-1)/time.Second))
	}
	for _, o := range old {
		if !slices.ContainsFunc(peers, func(p peer) bool { return o.PublicKey == p.PublicKey }) {
			fmt.Fprintf(&s, "public_key=%s\nremove=true\n", o.PublicKey.hex())
		}
	}
	return s.String()
}

func (u *userspace) steer(s steering) error {
	u.bind.active.Store(int32(s.Active))
	u.bind.duplicate.Store(s.Duplicate)
	return nil
}

func (u *userspace) tie(devices []string) {
	for i, device := range devices {
		if u.bind.ways[i].use(device) && i == int(u.bind.active.Load()) {
			u.kickAll()
		}
	}
}

// mend opens a socket anew when sending says that its device is another one now, and finds out who called us.
func (u *userspace) mend() {
	for {
		select {
		case <-u.quit:
			return
		case <-u.bind.callers.came:
			if err := u.greet(); err != nil {
				u.log.Warn("a hub called from an unknown address", zap.NamedError("err", err))
			}
		case <-u.bind.broken:
			for i, w := range u.bind.ways {
				if w.mend() && i == int(u.bind.active.Load()) {
					u.kickAll()
				}
			}
		}
		select { // where there is no device, each packet says so; and each from a hub until it is known
		case <-u.quit:
		case <-time.After(mendEvery):
		}
	}
}

// mendEvery is how long a device that is gone is not looked for again, but by netlink's word.
const mendEvery = 100 * time.Millisecond

// kickAll lets every hub know that we come from a new socket.
func (u *userspace) kickAll() {
	for i := range u.bind.hubs {
		u.kick(i)
	}
}

func (u *userspace) kick(hub int) {
	peers := *u.peers.Load()
	i := slices.IndexFunc(peers, func(p peer) bool { return p.Hub == hub })
	if i < 0 {
		return
	}
	u.bind.resend(hub)
	if p := u.dev.LookupPeer(device.NoisePublicKey(peers[i].PublicKey)); p != nil {
		p.SendKeepalive()
	}
}

// errClosed is an engine's state after its device ended.
var errClosed = errors.New("the device of the tunnel is closed: its interface was taken away, or cannot be read")

func (u *userspace) state() (state, error) {
	select {
	case <-u.dev.Wait():
		return state{}, errClosed
	default:
	}
	text, err := u.dev.IpcGet()
	if err != nil {
		return state{}, fmt.Errorf("ask WireGuard for its state: %w", err)
	}
	st := state{Peers: parseState(text, *u.peers.Load())}
	for i := range st.Peers {
		h := u.bind.hubs[st.Peers[i].Hub]
		st.Peers[i].Asked = u.bind.when(h.asked.Load())
		st.Peers[i].Endpoint = h.paths[u.bind.active.Load()].current()
		for _, p := range h.paths {
			if at := p.proved.Load(); at != nil {
				st.Peers[i].Heard = append(st.Peers[i].Heard, *at)
			}
		}
	}
	for _, w := range u.bind.ways {
		st.Ways = append(st.Ways, w.state())
	}
	return st, nil
}

func (u *userspace) heard(uplink int) time.Time { return u.bind.ways[uplink].lastHeard() }

// parseState reads what WireGuard says of its peers. They come in any order.
func parseState(text string, peers []peer) []peerState {
	states := make([]peerState, len(peers))
	for i, p := range peers {
		states[i].Hub = p.Hub
	}
	var seconds int64
	one := &peerState{} // lines before the first peer are the device's
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), "=")
		n, _ := strconv.ParseInt(value, 10, 64) // of other lines nothing is read
		switch name {
		case "public_key":
			one = &peerState{}
			if i := slices.IndexFunc(peers, func(p peer) bool { return p.PublicKey.hex() == value }); i >= 0 {
				one = &states[i]
			}
		case "last_handshake_time_sec":
			seconds = n
		case "last_handshake_time_nsec":
			if seconds != 0 {
				one.Handshake = time.Unix(seconds, n)
			}
		case "tx_bytes":
			one.Tx = uint64(n)
		case "rx_bytes":
			one.Rx = uint64(n)
		}
	}
	return states
}

func (u *userspace) close() error {
	close(u.quit)
	u.wg.Wait()
	u.dev.Close()
	<-u.dev.Wait() // it may be closing already
	return nil
}
