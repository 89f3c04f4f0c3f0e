package admin

import (
	"strings"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
)

// listMachines answers GET /v1/machines.
func (h *service) listMachines(*call) (any, error) {
	list := []api.Machine{}
	seen := h.lastSeen()
	for _, m := range h.Boot.Machines() {
		list = append(list, h.machine(m, seen))
	}
	return list, nil
}

// showMachine answers GET /v1/machines/{name}.
func (h *service) showMachine(c *call) (any, error) {
	m, err := h.findMachine(c.path("name"))
	if err != nil {
		return nil, err
	}
	return h.machine(m, h.lastSeen()), nil
}

// machine is a machine with its open order and when it was last seen.
func (h *service) machine(m boot.Machine, seen map[string]api.Seen) api.Machine {
	out := machineOf(m)
	out.SecureBoot = string(h.Boot.SecureBoot(m.Name))
	means := h.means(m.Name)
	out.Power, out.Caution = means.list(), means.Caution
	if o, ok := h.Boot.OpenOrder(m.Name); ok {
		order := orderOf(o)
		out.Order = &order
	}
	if s, ok := seen[m.Name]; ok {
		out.Seen = &s
	}
	return out
}

// lastSeen is when each machine last asked to boot.
func (h *service) lastSeen() map[string]api.Seen {
	seen := map[string]api.Seen{}
	for _, s := range h.Boot.Seen() { // newest first
		if _, known := seen[s.Machine]; s.Machine != "" && !known {
			seen[s.Machine] = seenOf(s)
		}
	}
	return seen
}

// findMachine finds a machine by name; the error lists those there are.
func (h *service) findMachine(name string) (boot.Machine, error) {
	var names []string
	for _, m := range h.Boot.Machines() {
		if m.Name == name {
			return m, nil
		}
		names = append(names, m.Name)
	}
	return boot.Machine{}, noSuch("machine", name, names)
}

// listSeen answers GET /v1/clients.
func (h *service) listSeen(*call) (any, error) {
	list := []api.Seen{}
	for _, s := range h.Boot.Seen() {
		list = append(list, seenOf(s))
	}
	return list, nil
}

// listLeases answers GET /v1/leases.
func (h *service) listLeases(*call) (any, error) {
	if h.Leases == nil {
		return []api.Lease{}, nil
	}
	list, err := h.Leases()
	if list == nil {
		list = []api.Lease{}
	}
	return list, err
}

// adopt answers POST /v1/machines.
func (h *service) adopt(c *call) (any, error) {
	var a api.Adopt
	if err := c.read(&a); err != nil {
		return nil, err
	}
	c.note("%s %s", quoteIfOdd(a.Name), quoteIfOdd(a.MAC))
	if !goodName(a.Name) {
		return nil, badRequest("%q is no name of a machine: want letters, digits, dots and dashes, at most 63", a.Name)
	}
	mac, err := boot.ParseMAC(a.MAC)
	if err != nil {
		return nil, badRequest("%s", err)
	}
	s, ok := h.sighting(mac)
	if !ok {
		return nil, notFound("no boot client with the MAC %s was seen since the daemon started", mac).
			hint("rescuebox machine list --seen shows who was; power the machine on and let it boot from the network")
	}
	m := boot.Machine{Name: a.Name, MACs: []boot.MAC{mac}, UUID: s.Client.UUID}
	if a.UUID != "" {
		if m.UUID, err = boot.ParseUUID(a.UUID); err != nil {
			return nil, badRequest("%s", err)
		}
	}
	if err := h.Boot.Adopt(m); err != nil {
		return nil, err
	}
	m.Adopted = true
	return h.machine(m, h.lastSeen()), nil
}

// sighting finds a client that was seen.
func (h *service) sighting(mac boot.MAC) (boot.Sighting, bool) {
	for _, s := range h.Boot.Seen() {
		if s.Client.MAC == mac {
			return s, true
		}
	}
	return boot.Sighting{}, false
}

// goodName says whether a name can stand in paths, commands and tables.
func goodName(name string) bool {
	return len(name) <= 63 && strings.Trim(name, "-.") == name && name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}
