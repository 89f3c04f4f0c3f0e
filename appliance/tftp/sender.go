package tftp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pin/tftp/v3/netascii"
	"golang.org/x/sync/semaphore"
)

// Patience: a client that is silent for so long is given up, and for three of
// its time-outs if it asked for longer ones. A cable that was pulled and put back is survived.
const defaultPatience = 20 * time.Second

// Bounds of what all windows together have on the way. Fifty clients that ask
// for 64 blocks would have 5 MB in the queue of a switch, which drops it. Instead
// they take turns. A window leaves room for the next one when it is
// acknowledged, or after the time in which it has surely left the box.
const (
	maxInAir  = 1 << 20
	maxFlight = 20 * time.Millisecond
)

// minProbe is how soon the last block of a window is sent again at the least.
const minProbe = 5 * time.Millisecond

// unknownWindow is added to what is not known of the answer to a window after
// that to the OACK: nobody knows yet how fast the client takes many blocks.
const unknownWindow = 3 * time.Millisecond

var errSilent = errors.New("the machine no longer answers")

// peerError is an error packet of the client.
type peerError struct {
	code uint16
	text string
}

func (e *peerError) Error() string {
	return fmt.Sprintf("the machine broke off with error %d: %s", e.code, e.text)
}

// wire is the way to one client; *socket is one.
type wire interface {
	sendAll(packets []byte, size int) error                     // all but the last have the size
	receive(p []byte, timeout time.Duration) (n int, err error) // errTimeout, or why it is over
	wait(d time.Duration) bool                                  // for a packet
}

// sender sends one file: a window of blocks, then the next after the
// acknowledgement of its last block (RFC 7440). A window of one block is the
// lock-step of RFC 1350, and what is sent to a client that asks for no window.
//
// A window that loses blocks is not made smaller: the client acknowledges
// after as many blocks as were agreed, and would wait in silence for those that a
// smaller window has not (measured with 5 % loss, 1000 blocks, 16 agreed: 0.8 s;
// sending 8 at a time 54 s). Only Windows can say a new size.
type sender struct {
	ctx      context.Context // of the transfer
	wire     wire
	field    *field              // all transfers; nil: there are no others
	air      *semaphore.Weighted // bytes that may be on their way at once, of all transfers
	patience time.Duration
	heard    func() // the client has acknowledged something

	window
	oack     []byte // nil: no option
	data     *stream
	rtt      rtt
	place    *runner       // in the field; nil until the client was heard
	sentAt   time.Time     // when the window went out
	inAir    int64         // what it has of air
	last     int64         // its last block
	probe    time.Duration // when to send the window's last block again; 0: done, or not at all
	again    bool          // something of the window went out a second time
	shifted  bool          // the client counts its windows from elsewhere
	try      int           // how often it went out before
	stays    bool          // try is that of the window before
	lacks    bool          // the client's last word was that it waits for a block
	answered bool          // something was acknowledged
	resent   int64
	in       [plainBlock + 5]byte
}

// send sends content as the request wants it. A nil error says that the client
// acknowledged the last block; other errors are reasons for people, or of content.
func (s *sender) send(r *request, content io.ReadSeeker, size int64) error {
	s.rtt.fixed = r.timeout
	s.oack = r.accept(size)
	s.window = window{size: int64(max(1, r.window)), msft: r.msft}
	if s.oack != nil {
		s.acked, s.sent = -1, -1
	}
	if r.netascii {
		s.data = newStream(netascii.ToReader(content), r.block(), 2*size) // at worst every byte becomes two
	} else {
		s.data = newStream(content, r.block(), size)
		s.data.seek = func(offset int64) error { _, err := content.Seek(offset, io.SeekStart); return err }
	}
	return s.run()
}

// run sends windows until the last block is acknowledged.
func (s *sender) run() error {
	defer s.leave() // also a window that did not go out whole
	patience := max(s.patience, 3*s.rtt.fixed)
	for heard := time.Now(); s.data.end == 0 || s.acked < s.data.end; {
		out := s.sent
		target, err := s.transmit()
		if err != nil {
			return err
		}
		before, fresh, guessed := s.acked, !s.again, s.shifted
		err = s.await(target, s.rtt.timeout(s.try))
		s.shifted = s.acked > before && s.acked == out && s.acked < target
		switch {
		case err != nil && err != errTimeout:
			return err
		case s.acked > before:
			heard = time.Now()
			s.learn(before < 0, fresh && s.acked == target)
		case time.Since(heard) > patience:
			return errSilent
		case !guessed:
			s.try++
		}
	}
	return nil
}

// learn takes the time of a window's answer, if it is clear which of the packets
// that were sent was answered. If not, the next window has
// a longer time-out still (Karn): a slow client would get all of its windows twice. If that one goes
// out twice as well, it is loss, not slowness. The last block alone may have gone out
// twice: that makes the estimate too long at worst.
func (s *sender) learn(oack, clear bool) {
	if s.stays = !clear && s.try > 0 && !s.stays; s.stays {
		s.try++
		return
	}
	s.try = 0
	if !clear {
		return
	}
	s.rtt.sample(time.Since(s.sentAt))
	if oack && s.size > 1 {
		s.rtt.dev += unknownWindow
	}
}

// transmit sends the blocks that may be out, from the first that the client
// lacks, and says which is the last of them.
//
// A client that gets blocks which it had says what it has, and counts its next
// window from there. If that is all that was out before, it lacks nothing of what
// followed: only blocks that are new are sent now. All of them, and it would get some
// twice again, and begin anew again: once two packets had overtaken each other, every window
// went out twice, with a pause before it (50 clients with 16 blocks each: one of
// them took ten times as long as the others). If it was loss after all, the blocks go
// out again when the answer to the new ones is overdue.
func (s *sender) transmit() (target int64, err error) {
	target, from := s.target(), s.acked+1
	if s.shifted = s.shifted && s.sent < target && s.sent != s.data.end; s.shifted {
		from = s.sent + 1
	}
	if err := s.takeOff(target); err != nil {
		return 0, err
	}
	s.sentAt, s.again = time.Now(), from <= s.sent
	if from == 0 {
		s.resent += s.sent + 1
		s.sent = 0
		return 0, s.wire.sendAll(s.oack, len(s.oack))
	}
	if err := s.emit(from, target); err != nil {
		return 0, err
	}
	if s.data.end > 0 {
		target = min(target, s.data.end)
	}
	s.last, s.probe = target, 0
	if target > from {
		s.probe = max(minProbe, 2*s.rtt.reply(s.try))
	}
	return target, nil
}

// emit sends blocks, none after the last of the file.
func (s *sender) emit(from, to int64) error {
	size := headerSize + s.data.block
	for from <= to && (s.data.end == 0 || from <= s.data.end) {
		packets, err := s.data.packets(from, to)
		if err != nil {
			return err
		}
		if err := s.wire.sendAll(packets, size); err != nil {
			return err
		}
		last := from + int64((len(packets)-1)/size)
		s.resent += max(0, min(s.sent, last)-from+1)
		s.sent, from = max(s.sent, last), last+1
	}
	return nil
}

// takeOff waits for the turn of the blocks up to one: until nobody is far behind
// in the field, and until they have room in the air. One block alone needs no room: in
// lock-step even a thousand clients fill no queue.
func (s *sender) takeOff(target int64) error {
	if s.place == nil && s.answered && s.field != nil {
		s.place = s.field.join()
	}
	size := int64(headerSize + s.data.block)
	if s.place != nil {
		if err := s.place.pass(s.ctx, max(0, target-max(s.acked, s.sent))*size); err != nil {
			return err
		}
	}
	if target-s.acked <= 1 {
		return nil
	}
	n := min((target-s.acked)*size, maxInAir)
	if s.air.Acquire(s.ctx, n) != nil {
		return errCut
	}
	s.inAir = n
	return nil
}

// leave gives back what the transfer has of the air and its place in the field.
func (s *sender) leave() {
	s.land()
	if s.place != nil {
		s.place.leave()
	}
}

// land ends a turn.
func (s *sender) land() {
	if s.inAir > 0 {
		s.air.Release(s.inAir)
		s.inAir = 0
	}
}

// await reads acknowledgements until the target is acknowledged, or the time
// is over. The client that acknowledges less has lost a block, or is one that
// acknowledges early; some that lost one say so with every block that comes
// after it (EDK2). So the answers are awaited for as long as a whole window
// takes to be acknowledged, and the new one begins at the furthest.
func (s *sender) await(target int64, timeout time.Duration) error {
	defer s.land()
	limit := timeout
	if s.shifted {
		limit = min(timeout, s.rtt.reply(s.try))
	}
	for quick := s.inAir == 0; s.acked < target; quick = false {
		if !quick {
			if ok, err := s.stillBefore(limit); !ok {
				return cmp.Or(err, errTimeout)
			}
		}
		n, err := s.wire.receive(s.in[:], timeout)
		if err != nil {
			return err
		}
		news, err := s.hear(s.in[:n])
		if err != nil {
			return err
		}
		// With one block out there is no gap to see, and this is the
		// acknowledgement of a block that came twice.
		if news == forward || news == lacking && s.sent-s.acked > 1 {
			limit = min(timeout, s.rtt.reply(s.try))
		}
	}
	return nil
}

// stillBefore waits for a packet until so long after the window went out.
//
// The client cannot know that it lacks the last block of a window, and says
// nothing. So this one is sent again long before the time-out: the client has then all, or
// says what it lacks, or says again what it said when its acknowledgement was lost.
func (s *sender) stillBefore(limit time.Duration) (bool, error) {
	for {
		next := limit
		if s.inAir > 0 {
			next = min(next, maxFlight)
		}
		if s.probe > 0 {
			next = min(next, s.probe)
		}
		if left := next - time.Since(s.sentAt); left > 0 && s.wire.wait(left) {
			return true, nil
		}
		switch next {
		case limit:
			return false, nil
		case s.probe:
			s.probe, s.again = 0, true
			if err := s.emit(s.last, s.last); err != nil {
				return false, err
			}
		default:
			s.land()
		}
	}
}

// hear takes a packet of the client.
func (s *sender) hear(p []byte) (news, error) {
	if len(p) < headerSize {
		return stale, nil
	}
	code := binary.BigEndian.Uint16(p[2:])
	switch binary.BigEndian.Uint16(p) {
	case opACK:
		news := s.ack(code, p[headerSize:])
		switch news {
		case forward:
			s.answered, s.lacks = true, false
			s.heard()
		case lacking: // so late, it does not cross with what went out
			s.lacks = s.lacks || time.Since(s.sentAt) > s.rtt.reply(s.try)
		}
		return news, nil
	case opERROR:
		text, _, _ := bytes.Cut(p[headerSize:], []byte{0})
		return stale, &peerError{code, printable(string(text))}
	}
	return stale, nil
}

// ackedBytes is how much of a file of some size the client has acknowledged.
func (s *sender) ackedBytes(size int64) int64 {
	return min(max(0, s.acked)*int64(s.data.block), size)
}

// allOut reports whether a client that fell silent, or closed its port, has the
// whole file as far as one can know. The last acknowledgement can be lost, and
// who has all closes its port; to take that for a failure would boot the machine
// into its order again. But a client that asked for a block once more has not
// got it (packets of full size may not reach it at all), and one whose port was closed
// when the last window came first has left before.
func (s *sender) allOut() bool {
	return s.answered && !s.lacks && s.again && s.data.end > 0 && s.sent >= s.data.end
}
