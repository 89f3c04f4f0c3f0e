package dhcp

import (
	"context"
	"net/netip"
	"time"

	"rescuebox/appliance/boot"
)

// roster is the known machines, made for quick asking.
type roster struct {
	byMAC  map[boot.MAC]boot.Machine
	byUUID map[boot.UUID]boot.Machine
}

func newRoster(machines []boot.Machine) *roster {
	r := &roster{byMAC: map[boot.MAC]boot.Machine{}, byUUID: map[boot.UUID]boot.Machine{}}
	for _, m := range machines {
		for _, mac := range m.MACs {
			r.byMAC[mac] = m
		}
		if !m.UUID.IsZero() {
			r.byUUID[m.UUID] = m
		}
	}
	return r
}

func (r *roster) has(m boot.MAC) bool {
	_, ok := r.byMAC[m]
	return ok
}

// machine finds who sent a packet.
func (r *roster) machine(p *packet) (boot.Machine, bool) {
	if m, ok := r.byMAC[p.mac]; ok {
		return m, true
	}
	if p.notBoot != "" || p.client.UUID.IsZero() {
		return boot.Machine{}, false
	}
	m, ok := r.byUUID[p.client.UUID]
	return m, ok
}

// reservations says whose each reserved address is: any MAC of the machine may have it.
func reservations(machines []boot.Machine) map[netip.Addr][]boot.MAC {
	out := map[netip.Addr][]boot.MAC{}
	for _, m := range machines {
		if m.Address.IsValid() {
			out[m.Address] = append(out[m.Address], m.MACs...)
		}
	}
	return out
}

// rosterEvery is how soon an adopted machine counts as known.
const rosterEvery = 2 * time.Second

func (s *Server) readMachines() {
	var machines []boot.Machine
	if s.Machines != nil {
		machines = s.Machines()
	}
	s.roster.Store(newRoster(machines))
	s.pool.reserve(reservations(machines))
}

func (s *Server) watchMachines(ctx context.Context) {
	for sleep(ctx, rosterEvery) {
		s.readMachines()
		s.metrics.pools(s.pool.status(time.Now()))
	}
}
