package admin

import (
	"net/netip"
	"sync"
	"time"
)

// Lock-out of addresses that bring wrong tokens. A token cannot be guessed; the
// lock-out keeps a scanner, or a script with an old token, from filling the log, and
// shows an admin that it goes on.
const (
	freeFailures = 5                // so many wrong tokens cost nothing
	firstLock    = time.Second      // the next one locks for this long, each after it for twice as long,
	maxLock      = 15 * time.Minute // up to this
	forgetAfter  = time.Hour        // without a failure the address starts anew
	maxAddresses = 1024             // remembered; strangers must not fill the memory
)

// failures is the record of one address.
type failures struct {
	count int
	last  time.Time
	until time.Time // locked until then
}

// lockout remembers failures by address. The zero value is ready.
type lockout struct {
	mu     sync.Mutex
	byAddr map[netip.Prefix]failures
}

// place is the part of an address that is locked: one host, or an IPv6 network of
// which a host can take any address.
func place(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // fails for the zero address only, whose prefix serves as well
	return p
}

// locked says how long an address still has to wait.
func (l *lockout) locked(addr netip.Addr, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, l.byAddr[place(addr)].until.Sub(now))
}

// failed notes a wrong token and returns how long the address is locked for it.
func (l *lockout) failed(addr netip.Addr, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byAddr == nil {
		l.byAddr = map[netip.Prefix]failures{}
	}
	at := place(addr)
	f, known := l.byAddr[at]
	if now.Sub(f.last) > forgetAfter {
		f = failures{}
	}
	if !known {
		l.makeRoomLocked(now)
	}
	f.count++
	f.last = now
	wait := lockFor(f.count)
	f.until = now.Add(wait)
	l.byAddr[at] = f
	return wait
}

// lockFor is the wait after so many failures.
func lockFor(count int) time.Duration {
	over := count - freeFailures - 1
	if over < 0 {
		return 0
	}
	return min(maxLock, firstLock<<min(over, 20))
}

// makeRoomLocked forgets the address that failed least recently, if there is no room.
func (l *lockout) makeRoomLocked(now time.Time) {
	if len(l.byAddr) < maxAddresses {
		return
	}
	var oldest netip.Prefix
	first := now.Add(time.Hour)
	for at, f := range l.byAddr {
		if f.last.Before(first) {
			oldest, first = at, f.last
		}
	}
	delete(l.byAddr, oldest)
}

// passed forgets the failures of an address that brought a right token.
func (l *lockout) passed(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byAddr, place(addr))
}
