package tftp

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rescuebox/appliance/boot"
)

// The transfers at one time: in total, for one address, for one machine, and
// for those machines together that boot without an admin's order. Firmware needs
// one or two: a size probe that it has not ended, and the file. Half of the
// places are kept for machines with an order: whoever is on the LAN can
// make up addresses and MACs, but no orders.
const (
	maxTransfers  = 256
	maxPerAddress = 8
	maxPerMachine = 16
	maxStanding   = maxTransfers / 2
	maxUploads    = 32
)

// byStanding is who "gives" the order of a standing assignment (boot.Order.By).
const byStanding = "standing"

var (
	errReplaced = errors.New("the machine asked for something else")
	errCrowded  = errors.New("the place was given to another machine")
)

// transfers knows what is being sent.
type transfers struct {
	mu      sync.Mutex
	running map[netip.AddrPort]*transfer
}

// transfer is one answer to a read request.
type transfer struct {
	peer     netip.AddrPort
	request  string      // the datagram
	begun    time.Time   //
	machine  string      // "" until place
	upload   bool        // the client writes
	standing bool        // the machine boots without an admin's order
	heard    atomic.Bool // the client has acknowledged something
	again    atomic.Bool // the client has sent the request again
	cancel   context.CancelCauseFunc
}

// hear notes that the client has acknowledged something.
func (t *transfer) hear() {
	if !t.heard.Load() {
		t.heard.Store(true)
	}
}

// verdict is what becomes of a request.
type verdict int

const (
	admitted verdict = iota
	repeated         // the client has sent it again before it heard our answer, which stands
	busy
)

// admit makes room for a transfer. A client that asks again from the same port
// has given up what it asked for before: some ROMs use one port for ever.
func (t *transfers) admit(parent context.Context, peer netip.AddrPort, datagram []byte) (context.Context, *transfer, verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.running[peer]; ok {
		if old.request == string(datagram) && !old.heard.Load() {
			old.again.Store(true)
			return nil, nil, repeated
		}
		old.cancel(errReplaced)
		t.removeLocked(old)
	}
	if !t.roomLocked(maxPerAddress, func(o *transfer) bool { return o.peer.Addr() == peer.Addr() }) ||
		!t.roomLocked(maxTransfers, func(*transfer) bool { return true }) {
		return nil, nil, busy
	}
	ctx, cancel := context.WithCancelCause(parent)
	tr := &transfer{peer: peer, request: string(datagram), begun: time.Now(), cancel: cancel}
	if t.running == nil {
		t.running = map[netip.AddrPort]*transfer{}
	}
	t.running[peer] = tr
	return ctx, tr, admitted
}

// place finds room among the transfers of the same machine and kind, once it is
// known whose the request is.
func (t *transfers) place(tr *transfer, d boot.Decision) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	machine, standing := d.Machine.Name, d.Order.By == byStanding
	ok := t.roomLocked(maxPerMachine, func(o *transfer) bool { return machine != "" && o.machine == machine }) &&
		(!standing || t.roomLocked(maxStanding, func(o *transfer) bool { return o.standing }))
	if ok {
		tr.machine, tr.standing = machine, standing
	}
	return ok
}

// placeUpload finds room among those who write.
func (t *transfers) placeUpload(tr *transfer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	tr.upload = t.roomLocked(maxUploads, func(o *transfer) bool { return o.upload })
	return tr.upload
}

// roomLocked reports whether there is room for one more among the transfers of
// a kind. If need be the oldest of those gives way whose client was never heard:
// with an address that somebody made up a request can be sent, and no
// acknowledgement.
func (t *transfers) roomLocked(most int, kind func(*transfer) bool) bool {
	count, oldest := 0, (*transfer)(nil)
	for _, o := range t.running {
		if !kind(o) {
			continue
		}
		count++
		if !o.heard.Load() && (oldest == nil || o.begun.Before(oldest.begun)) {
			oldest = o
		}
	}
	if count < most {
		return true
	}
	if oldest == nil {
		return false
	}
	oldest.cancel(errCrowded)
	t.removeLocked(oldest)
	return true
}

// release ends a transfer's place.
func (t *transfers) release(tr *transfer) {
	tr.cancel(nil)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(tr)
}

func (t *transfers) removeLocked(tr *transfer) {
	if t.running[tr.peer] != tr {
		return // another took its place
	}
	delete(t.running, tr.peer)
}
