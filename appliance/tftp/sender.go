package tftp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/pin/tftp/v3/netascii"
)

// Patience: a client that is silent for so long is given up. A cable that was
// pulled and put back is survived.
const defaultPatience = 20 * time.Second

// readAhead spares a system call per block.
const readAhead = 32 << 10

var errSilent = errors.New("the machine no longer answers")

// peerError is an error packet of the client.
type peerError struct {
	code uint16
	text string
}

func (e *peerError) Error() string {
	return fmt.Sprintf("the machine broke off with error %d: %s", e.code, e.text)
}

// sender sends one file in lock-step: each block after the acknowledgement of
// the one before (RFC 1350).
type sender struct {
	sock     *socket
	patience time.Duration
	heard    func() // the client has acknowledged something

	rtt      rtt
	answered bool  // something was acknowledged
	acked    int64 // bytes of data acknowledged
	size     int   // bytes of data in the packet sent last
	resent   int
	in       [plainBlock + 5]byte
}

// send sends content as the request wants it. A nil error says that the client
// acknowledged the last block; other errors are reasons for people, or of content.
func (s *sender) send(r *request, content io.Reader, size int64) error {
	if r.timeout > 0 {
		s.rtt.fixed = r.timeout
	}
	if options := r.accept(size); options != nil {
		if err := s.exchange(options, 0); err != nil { // acknowledged as block 0 (RFC 2347)
			return err
		}
	}
	if r.netascii {
		content = netascii.ToReader(content)
	}
	content = bufio.NewReaderSize(content, readAhead)
	packet := make([]byte, 4+r.block())
	binary.BigEndian.PutUint16(packet, opDATA)
	for block := uint16(1); ; block++ { // wraps to 0 after 65535, as every client in the field does
		n, err := io.ReadFull(content, packet[4:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		binary.BigEndian.PutUint16(packet[2:], block)
		s.size = n
		if err := s.exchange(packet[:4+n], block); err != nil {
			return err
		}
		s.acked += int64(n)
		if n < r.block() {
			return nil
		}
	}
}

// exchange sends a packet, again and again, until it is acknowledged.
func (s *sender) exchange(p []byte, block uint16) error {
	begin := time.Now()
	for try := 0; ; try++ {
		if err := s.sock.send(p); err != nil {
			return err
		}
		err := s.await(block, s.rtt.timeout(try))
		if err == nil {
			if try == 0 { // else it is not known which packet was answered (Karn)
				s.rtt.sample(time.Since(begin))
			}
			s.answered = true
			s.heard()
			return nil
		}
		if err != errTimeout {
			return err
		}
		if time.Since(begin) > s.patience {
			return errSilent
		}
		s.resent++
	}
}

// await waits for the acknowledgement of a block. Others are late or doubled:
// an answer to them would double every block from then on (RFC 1123
// section 4.2.3.1, the sorcerer's apprentice).
func (s *sender) await(block uint16, timeout time.Duration) error {
	var begin time.Time
	for {
		n, err := s.sock.receive(s.in[:], timeout)
		if err != nil {
			return err
		}
		p := s.in[:n]
		if len(p) >= 4 {
			code := binary.BigEndian.Uint16(p[2:])
			switch binary.BigEndian.Uint16(p) {
			case opACK:
				if code == block {
					return nil
				}
			case opERROR:
				text, _, _ := bytes.Cut(p[4:], []byte{0})
				return &peerError{code, printable(string(text))}
			}
		}
		if begin.IsZero() {
			begin = time.Now()
		} else if time.Since(begin) > timeout {
			return errTimeout // a stream of stray packets must not hold up the next try
		}
	}
}

// allOut reports whether every byte of a file has been sent to a client that
// was there, if not acknowledged.
func (s *sender) allOut(size int64) bool { return s.answered && s.acked+int64(s.size) >= size }

// accept is the OACK for the options of a request that we do; nil without any.
func (r *request) accept(size int64) []byte {
	p := []byte{0, opOACK}
	option := func(name string, value int64) {
		p = append(p, name...)
		p = append(p, 0)
		p = strconv.AppendInt(p, value, 10)
		p = append(p, 0)
	}
	if r.blksize > 0 {
		option("blksize", int64(r.blksize))
	}
	if r.tsize {
		option("tsize", size)
	}
	if r.timeout > 0 {
		option("timeout", int64(r.timeout/time.Second))
	}
	if len(p) == 2 {
		return nil
	}
	return p
}

// block is the size of the blocks.
func (r *request) block() int {
	if r.blksize > 0 {
		return r.blksize
	}
	return plainBlock
}

// rtt estimates when an acknowledgement is overdue (RFC 6298, in its manner).
type rtt struct {
	fixed     time.Duration // the client wants this one (RFC 2349); 0: estimate
	mean, dev time.Duration
}

// Bounds of the time-out. A lost packet on a LAN shall cost little; firmware
// that stores what it got pauses longer than the network takes, and a packet
// sent twice does no harm.
const (
	firstTimeout = 500 * time.Millisecond
	minTimeout   = 100 * time.Millisecond
	maxTimeout   = 2 * time.Second
)

func (e *rtt) sample(d time.Duration) {
	if e.mean == 0 {
		e.mean, e.dev = d, d/2
		return
	}
	e.dev += ((e.mean - d).Abs() - e.dev) / 4
	e.mean += (d - e.mean) / 8
}

// timeout is that of the n-th try, in powers of two: so the kernel need not
// be told a new one for every block.
func (e *rtt) timeout(try int) time.Duration {
	if e.fixed > 0 {
		return e.fixed
	}
	d := firstTimeout
	if e.mean > 0 {
		for d = minTimeout; d < e.mean+4*e.dev; d *= 2 {
		}
	}
	return min(d<<min(try, 8), maxTimeout)
}
