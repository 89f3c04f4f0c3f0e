package link

import (
	"net/netip"
	"sync"
	"time"
)

// inner pings the hub through the tunnel. It is the loop's; only its readers run beside.
type inner struct {
	conn    echoer
	ended   chan struct{} // closed when nobody reads conn any more
	to      netip.Addr
	seq     uint16
	sent    [256]time.Time // by the low byte of the number
	readers sync.WaitGroup
}

// send sends one ping. A socket that fails is opened anew at the next: the tunnel's device
// may have been made anew.
func (p *inner) send(w *Watch, to netip.Addr) {
	w.metrics.pings.Inc()
	if p.conn != nil && (to != p.to || p.unread()) {
		p.conn.close()
		p.conn = nil
	}
	if p.conn == nil {
		conn, err := w.world.pinger(w.c.InnerDevice, to.Is6())
		if err != nil {
			return // silence is what the machine makes of it
		}
		ended := make(chan struct{})
		p.conn, p.to, p.ended = conn, to, ended
		p.readers.Go(func() { read(conn, to, w.echoes); close(ended) })
	}
	p.seq++
	p.sent[p.seq%256] = time.Now()
	if p.conn.send(to, p.seq) != nil {
		p.conn.close()
		p.conn = nil
	}
}

// unread reports whether reading the socket has failed.
func (p *inner) unread() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// read passes the answers of one address on until the socket is closed. What is too many is lost: the
// loop has more than enough to see that the hub is alive.
func read(conn echoer, to netip.Addr, echoes chan<- echo) {
	for {
		from, seq, err := conn.receive()
		if err != nil {
			return
		}
		if from != to {
			continue
		}
		select {
		case echoes <- echo{seq, time.Now()}:
		default:
		}
	}
}

func (p *inner) close() {
	if p.conn != nil {
		p.conn.close()
		p.conn = nil
	}
	p.readers.Wait()
}

// answered takes an answer.
func (w *Watch) answered(e echo) {
	p := &w.inner
	if p.seq-e.seq >= uint16(len(p.sent)) {
		return // older than we remember
	}
	rtt := e.at.Sub(p.sent[e.seq%256])
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listen(time.Now())
	w.m.answer(e.at, rtt)
}
