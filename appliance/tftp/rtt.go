package tftp

import "time"

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

// reply is when the answer to what was sent has come, if the client is quick:
// so long after the n-th try, a client that said what it lacks still lacks it.
func (e *rtt) reply(try int) time.Duration {
	if e.mean == 0 {
		return minTimeout << min(try, 4)
	}
	return min(max(e.mean+4*e.dev, time.Millisecond)<<min(try, 8), e.timeout(try))
}
