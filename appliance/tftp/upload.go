package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// Bounds of a ticket on its way in. A real one has less than 2 KiB.
const (
	maxTicket    = 64 << 10
	maxUploading = time.Minute      // from the request to the last block
	askAgain     = time.Second      // after which an acknowledgement is repeated
	maxAskAgain  = 10 * time.Second // that a client can ask for
)

// defaultDally is how long the last acknowledgement can be repeated, should it
// be lost: atftp and tftp-hpa send a block again after five seconds.
const defaultDally = 6 * time.Second

// Bounds of how often one address may write.
const (
	writesEach = 10
	writesTime = time.Minute
	maxWriters = 1024
	tooLarge   = "the ticket is larger than 64 KiB"
	tooOften   = "too many tickets from this address: try again in a minute"
)

// writers counts how often each address wrote of late.
type writers struct {
	mu   sync.Mutex
	seen map[netip.Addr]writing
}

type writing struct {
	since time.Time
	count int
}

// admit reports whether an address may write once more.
func (w *writers) admit(from netip.Addr, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for addr, one := range w.seen {
		if now.Sub(one.since) >= writesTime {
			delete(w.seen, addr)
		}
	}
	one, known := w.seen[from]
	if !known && len(w.seen) >= maxWriters || one.count >= writesEach {
		return false
	}
	if w.seen == nil {
		w.seen = map[netip.Addr]writing{}
	}
	if !known {
		one.since = now
	}
	one.count++
	w.seen[from] = one
	return true
}

// take receives a ticket, and says how that ended, in one word.
func (d *dispatcher) take(ctx context.Context, t *transfer, r *request, local netip.Addr) (result string) {
	log := d.Log.With(zap.Stringer("from", t.peer.Addr()), zap.String("path", printable(r.path)))
	defer func() {
		if p := recover(); p != nil {
			log.Error("TFTP upload panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			result = "failed"
		}
	}()
	if no := d.mayWrite(t, r); no != nil {
		d.refuse(no, t.peer, local)
		return "refused"
	}
	if !d.transfers.placeUpload(t) {
		return d.crowded(t.peer, local)
	}
	sock, err := dial(local, t.peer)
	if err != nil {
		log.Warn("TFTP upload not begun", zap.NamedError("err", err))
		return "failed"
	}
	defer sock.close()
	defer context.AfterFunc(ctx, sock.cut)()
	if r.blksize > 0 {
		r.blksize = max(minBlock, min(r.blksize, d.BlockSize, sock.mtu()-headers))
	}
	if r.timeout > maxAskAgain {
		r.timeout = 0
	}
	u := &receiver{wire: sock, patience: d.patience, heard: t.hear}
	raw, err := u.receive(r)
	if err != nil {
		log.Info("a ticket did not come over TFTP", zap.NamedError("err", err))
		if no := (*refusal)(nil); errors.As(err, &no) {
			sock.last(no.packet())
		} else if ctx.Err() != nil && errors.Is(err, errCut) {
			sock.last((&refusal{codeOther, "the box is stopping, or the machine asked anew"}).packet())
		}
		return "broken"
	}
	result = "taken"
	if err := d.Tickets.Ticket("", t.peer.Addr(), raw); err != nil {
		result = d.notTaken(log, u, err)
	} else {
		log.Info("took a ticket over TFTP", zap.Int("bytes", len(raw)))
	}
	u.finish(d.dally)
	return result
}

// mayWrite refuses what can be refused before anything has come.
func (d *dispatcher) mayWrite(t *transfer, r *request) *refusal {
	switch {
	case d.Tickets == nil:
		return &refusal{codeAccess, "this box takes no files over TFTP"}
	case r.size > maxTicket:
		return &refusal{codeTooLarge, tooLarge}
	case !d.writers.admit(t.peer.Addr(), time.Now()):
		return &refusal{codeAccess, tooOften}
	}
	return nil
}

// notTaken makes the last answer a "no". The machine gets it in place of the
// last acknowledgement, so that it does not take the ticket for stored.
func (d *dispatcher) notTaken(log *zap.Logger, u *receiver, err error) string {
	var no *boot.Refusal
	if errors.As(err, &no) {
		log.Info("refused a ticket over TFTP", zap.NamedError("err", err))
		u.said = (&refusal{codeAccess, no.Reason}).packet()
		return "refused"
	}
	log.Error("a ticket that came over TFTP is not stored", zap.NamedError("err", err))
	u.said = (&refusal{codeOther, "the box failed: see its log"}).packet()
	return "failed"
}

// Error makes a refusal the end of an upload.
func (r *refusal) Error() string { return r.text }

// receiver takes one small file: it acknowledges the last block of each window,
// and what it has when one is missing (RFC 7440 section 4).
//
// The last block is acknowledged by finish, once the file is on disk.
type receiver struct {
	wire     wire
	patience time.Duration
	heard    func() // the client has sent something

	block, window int
	said          []byte // sent last, and again when nothing comes
	next          uint16 // block; a ticket has too few for the number to wrap
	since         int    // blocks since the last acknowledgement
	gap           bool   // a block is missing, and the client knows
	data          []byte
	in            []byte
}

// receive answers a request and takes the file, all but the last acknowledgement.
func (u *receiver) receive(r *request) ([]byte, error) {
	u.block, u.window, u.next = r.block(), max(1, r.window), 1
	u.in = make([]byte, headerSize+u.block+1)
	if u.said = r.accept(r.size); u.said == nil {
		u.said = acknowledgement(0)
	}
	if err := u.say(); err != nil {
		return nil, err
	}
	wait := askAgain
	if r.timeout > 0 {
		wait = r.timeout
	}
	begin, heard := time.Now(), time.Now()
	patience := max(u.patience, min(3*wait, maxUploading))
	for {
		n, err := u.wire.receive(u.in, min(wait, patience))
		switch now := time.Now(); {
		case now.Sub(begin) > maxUploading:
			return nil, &refusal{codeOther, "the ticket takes longer than a minute"}
		case err == errTimeout && now.Sub(heard) > patience:
			return nil, errSilent
		case err == errTimeout:
			err = u.say()
		case err == nil:
			heard = now
			var done bool
			if done, err = u.hear(u.in[:n]); done {
				return u.file(r)
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

// hear takes a packet, and says whether it was the last block.
func (u *receiver) hear(p []byte) (done bool, err error) {
	if len(p) < headerSize {
		return false, nil
	}
	number := uint16(p[2])<<8 | uint16(p[3])
	switch op, rest := uint16(p[0])<<8|uint16(p[1]), p[headerSize:]; op {
	case opERROR:
		text, _, _ := bytes.Cut(rest, []byte{0})
		return false, &peerError{number, printable(string(text))}
	case opDATA:
		u.heard()
		switch {
		case len(rest) > u.block:
			return false, &refusal{codeIllegal, fmt.Sprintf("a block is longer than %d bytes", u.block)}
		case number == u.next:
			return u.add(rest)
		case number == u.next-1 && number > 0: // our acknowledgement was lost
			return false, u.acknowledge()
		case number > u.next && !u.gap:
			u.gap = true
			return false, u.acknowledge()
		}
	}
	return false, nil
}

// add takes the next block.
func (u *receiver) add(block []byte) (done bool, err error) {
	if len(u.data)+len(block) > maxTicket {
		return false, &refusal{codeTooLarge, tooLarge}
	}
	u.data, u.gap = append(u.data, block...), false
	u.next++
	if len(block) < u.block {
		u.said = acknowledgement(u.next - 1)
		return true, nil
	}
	if u.since++; u.since >= u.window {
		return false, u.acknowledge()
	}
	return false, nil
}

func (u *receiver) acknowledge() error {
	u.said, u.since = acknowledgement(u.next-1), 0
	return u.say()
}

func (u *receiver) say() error { return u.wire.sendAll(u.said, len(u.said)) }

func acknowledgement(block uint16) []byte {
	return []byte{0, opACK, byte(block >> 8), byte(block)}
}

// file is what came, as it was on the client's disk.
func (u *receiver) file(r *request) ([]byte, error) {
	if len(u.data) == 0 {
		return nil, &refusal{codeOther, "the ticket is empty"}
	}
	if r.netascii {
		return fromNetascii(u.data), nil
	}
	return u.data, nil
}

// fromNetascii undoes the mode of RFC 764: CR LF is a new line, CR NUL is CR.
//
// Windows' own tftp names that mode and sends files as they are. In UTF-16 a CR
// is followed by a NUL there; a client that does convert leaves CR LF.
func fromNetascii(p []byte) []byte {
	utf16 := bytes.HasPrefix(p, []byte{0xff, 0xfe}) || bytes.HasPrefix(p, []byte{0xfe, 0xff})
	if utf16 && !bytes.Contains(p, []byte("\r\n")) {
		return p
	}
	p = bytes.ReplaceAll(p, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(p, []byte("\r\x00"), []byte("\r"))
}

// finish sends the last answer, and again whenever the last block comes again:
// the answer was lost then (RFC 1350 section 6).
func (u *receiver) finish(dally time.Duration) {
	for end := time.Now().Add(dally); u.say() == nil; {
		for again := false; !again; {
			left := time.Until(end)
			if left <= 0 {
				return
			}
			n, err := u.wire.receive(u.in, left)
			if err != nil {
				return
			}
			again = n >= headerSize && bytes.Equal(u.in[:headerSize], []byte{0, opDATA, byte((u.next - 1) >> 8), byte(u.next - 1)})
		}
	}
}
