package dhcp

import (
	"net/netip"
	"time"

	"rescuebox/appliance/boot"
)

// Lease is an address that a client has.
type Lease struct {
	Addr    netip.Addr
	MAC     boot.MAC
	Host    string    // what the client calls itself
	Since   time.Time // when this client got the address first
	Renewed time.Time // when it asked last
	Expires time.Time
}

// LeaseStore keeps leases over restarts; state.Table[Lease] does. Keys are the
// addresses, so there are never more of them than the pool has addresses.
type LeaseStore interface {
	Put(key string, l Lease) error
	Delete(key string) error
	All() ([]Lease, error)
}

// left is how long a lease that was read from the store still holds.
//
// A box without a battery-backed clock starts with a wrong one. If it is behind,
// the lease would seem to hold for years: no lease holds longer than it was given for.
// If the clock is ahead, or was set forward, the lease seems over: the pool then
// still remembers whose it was, gives it to others last, and probes before that.
// While the daemon runs, only the monotonic clock counts.
func (l Lease) left(now time.Time, term time.Duration) time.Duration {
	return min(l.Expires.Sub(now), term)
}
