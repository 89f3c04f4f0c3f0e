package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pin/tftp/v3/netascii"
)

// Patience: a client that is silent for so long is given up. A cable that was
// pulled and put back is survived.
const defaultPatience = 20 * time.Second

var errSilent = errors.New("the machine no longer answers")

// peerError is an error packet of the client.
type peerError struct {
	code uint16
	text string
}

func (e *peerError) Error() string {
	return fmt.Sprintf("the machine broke off with error %d: %s", e.code, e.text)
}

// sender sends one file: a window of blocks, then the next after the
// acknowledgement of its last block (RFC 7440). A window of one block is the
// lock-step of RFC 1350, and what is sent to a client that asks for no window.
//
// A window that loses blocks is not made smaller: the client acknowledges
// after as many blocks as were agreed, and would wait in silence for those that a
// smaller window has not. Only Windows can say a new size.
type sender struct {
	sock     *socket
	patience time.Duration
	heard    func() // the client has acknowledged something

	window
	oack     []byte // nil: no option
	data     *stream
	rtt      rtt
	sentAt   time.Time // when the window went out
	try      int       // how often it went out before
	lacks    bool      // the client's last word was that it waits for a block
	answered bool      // something was acknowledged
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
	for heard := time.Now(); s.data.end == 0 || s.acked < s.data.end; {
		fresh := s.sent <= s.acked
		target, err := s.transmit()
		if err != nil {
			return err
		}
		before := s.acked
		err = s.await(target, s.rtt.timeout(s.try))
		switch {
		case err != nil && err != errTimeout:
			return err
		case s.acked > before:
			heard = time.Now()
			if fresh && s.acked == target { // else it is not known which packet was answered (Karn)
				s.rtt.sample(heard.Sub(s.sentAt))
			}
			s.try = 0
		default:
			if s.try++; time.Since(heard) > s.patience {
				return errSilent
			}
		}
	}
	return nil
}

// transmit sends the blocks that may be out, from the first that the client
// lacks, and says which is the last of them.
func (s *sender) transmit() (target int64, err error) {
	s.sentAt = time.Now()
	target, from := s.target(), s.acked+1
	if from == 0 {
		s.resent += s.sent + 1
		s.sent = 0
		return 0, s.sock.send(s.oack)
	}
	for from <= target {
		packets, err := s.data.packets(from, target)
		if err != nil {
			return 0, err
		}
		size := headerSize + s.data.block
		if err := s.sock.sendAll(packets, size); err != nil {
			return 0, err
		}
		last := from + int64((len(packets)-1)/size)
		s.resent += max(0, min(s.sent, last)-from+1)
		s.sent, from = max(s.sent, last), last+1
		if s.data.end > 0 {
			target = min(target, s.data.end)
		}
	}
	return target, nil
}

// await reads acknowledgements until the target is acknowledged, or the time
// is over. The client that acknowledges less has lost a block, or is one that
// acknowledges early; some that lost one say so with every block that comes
// after it (EDK2). So the answers are awaited for as long as a whole window
// takes to be acknowledged, and the new one begins at the furthest.
func (s *sender) await(target int64, timeout time.Duration) error {
	limit := timeout
	for first := true; s.acked < target; first = false {
		if !first {
			left := limit - time.Since(s.sentAt)
			if left <= 0 || !s.sock.wait(left) {
				return errTimeout
			}
		}
		n, err := s.sock.receive(s.in[:], timeout)
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
	return s.answered && !s.lacks && s.try > 0 && s.data.end > 0 && s.sent >= s.data.end
}
