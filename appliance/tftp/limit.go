package tftp

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
)

// The transfers at one time, in total and for one address. Firmware needs one
// or two: a size probe that it has not ended, and the file.
const (
	maxTransfers  = 256
	maxPerAddress = 8
)

var errReplaced = errors.New("the machine asked for something else")

// transfers knows what is being sent.
type transfers struct {
	mu      sync.Mutex
	running map[netip.AddrPort]*transfer
	perAddr map[netip.Addr]int
}

// transfer is one answer to a read request.
type transfer struct {
	peer    netip.AddrPort
	request string      // the datagram
	heard   atomic.Bool // the client has acknowledged something
	again   atomic.Bool // the client has sent the request again
	cancel  context.CancelCauseFunc
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
	if len(t.running) >= maxTransfers || t.perAddr[peer.Addr()] >= maxPerAddress {
		return nil, nil, busy
	}
	ctx, cancel := context.WithCancelCause(parent)
	tr := &transfer{peer: peer, request: string(datagram), cancel: cancel}
	if t.running == nil {
		t.running, t.perAddr = map[netip.AddrPort]*transfer{}, map[netip.Addr]int{}
	}
	t.running[peer] = tr
	t.perAddr[peer.Addr()]++
	return ctx, tr, admitted
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
	if t.perAddr[tr.peer.Addr()]--; t.perAddr[tr.peer.Addr()] == 0 {
		delete(t.perAddr, tr.peer.Addr())
	}
}
