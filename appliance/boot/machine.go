package boot

import (
	"fmt"
	"slices"
	"strings"
)

// Machines lists the machines, by name.
func (t *Table) Machines() []Machine {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := slices.Clone(t.machines)
	slices.SortFunc(list, func(a, b Machine) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// MachineOf names the machine that a MAC belongs to.
func (t *Table) MachineOf(mac MAC) (name string, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, known := t.findMachineLocked(mac, UUID{})
	return m.Name, known
}

// Named finds a machine by its name, in any case, or by one of its MACs in any usual spelling.
func (t *Table) Named(s string) (name string, ok bool) {
	if mac, err := ParseMAC(s); err == nil {
		return t.MachineOf(mac)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m, ok := t.findNameLocked(strings.ToLower(s))
	return m.Name, ok
}

// machineNamesLocked is for hints.
func (t *Table) machineNamesLocked() string {
	var names []string
	for _, m := range t.machines {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "no machine is configured: name it in the file of the site, or adopt one that was seen with: rescuebox machine adopt"
	}
	return "machines are " + strings.Join(names, ", ")
}

// Adopt makes a machine of a client that was seen on the LAN; it is kept in
// the state until the file of the site names it.
func (t *Table) Adopt(m Machine) error {
	if t.cfg.Adopted == nil {
		return &Refusal{Reason: "this box keeps no state for adopted machines"}
	}
	if m.Name == "" || len(m.MACs) == 0 {
		return &Refusal{Reason: "a machine needs a name and a MAC address"}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if with := t.clash(m); with != "" {
		return &Refusal{Reason: "cannot adopt " + m.Name + ": " + with}
	}
	m.Adopted = true
	if err := t.cfg.Adopted.Put(m.Name, m); err != nil {
		return fmt.Errorf("store machine %s: %w", m.Name, err)
	}
	t.addMachineLocked(m)
	return nil
}

// clash says which name, MAC or UUID of m is taken already, or "".
func (t *Table) clash(m Machine) string {
	for _, other := range t.machines {
		if other.Name == m.Name {
			return "the name is taken"
		}
		if !m.UUID.IsZero() && other.UUID == m.UUID {
			return "its UUID belongs to " + other.Name
		}
	}
	for _, mac := range m.MACs {
		if i, taken := t.byMAC[mac]; taken {
			return fmt.Sprintf("%s belongs to %s", mac, t.machines[i].Name)
		}
	}
	return ""
}

func (t *Table) addMachineLocked(m Machine) {
	t.machines = append(t.machines, m)
	for _, mac := range m.MACs {
		t.byMAC[mac] = len(t.machines) - 1
	}
}

// findMachineLocked matches by any of a machine's MACs, else by its UUID: a
// replaced network card must not cost the night.
func (t *Table) findMachineLocked(mac MAC, uuid UUID) (Machine, bool) {
	if i, ok := t.byMAC[mac]; ok {
		return t.machines[i], true
	}
	if uuid.IsZero() {
		uuid = t.seen.uuid(mac) // TFTP and HTTP requests carry none: what DHCP saw of this MAC
	}
	if !uuid.IsZero() {
		for _, m := range t.machines {
			if m.UUID == uuid {
				return m, true
			}
		}
	}
	return Machine{}, false
}

// findNameLocked finds a machine by its name.
func (t *Table) findNameLocked(name string) (Machine, bool) {
	for _, m := range t.machines {
		if m.Name == name {
			return m, true
		}
	}
	return Machine{}, false
}
