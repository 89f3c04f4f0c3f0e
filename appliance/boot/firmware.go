package boot

import (
	"strings"
	"time"

	"go.uber.org/zap"
)

// SecureBoot is whether a machine's firmware starts signed programs only. DHCP
// does not carry it: it is configured, or a booted machine has told it.
type SecureBoot string

// What is known of it; "" is nothing.
const (
	SecureBootOn  SecureBoot = "on"
	SecureBootOff SecureBoot = "off"
)

// FirmwareState is what a booted machine has told of its firmware, and what was seen of it.
type FirmwareState struct {
	Machine    string
	SecureBoot SecureBoot
	Told       time.Time // of Secure Boot
	Asked      bool      // its firmware was seen to boot from the network, as Arch says
	Arch       Arch      // what it last asked as
	LoaderCA   string    // whose signature its firmware took last on Microsoft's boot manager: CA2011, CA2023
}

// FirmwareStates keeps it over restarts; state.Table does. The key is the machine's name.
type FirmwareStates interface {
	Put(key string, f FirmwareState) error
	All() ([]FirmwareState, error)
}

func (t *Table) loadFirmware() {
	t.firmware, t.unheard, t.managersSent = map[string]FirmwareState{}, map[string]bool{}, map[string]managerSent{}
	if t.cfg.Firmware == nil {
		return
	}
	all, err := t.cfg.Firmware.All()
	if err != nil {
		t.log.Error("what some machines told of their firmware cannot be read", zap.NamedError("err", err))
	}
	for _, f := range all {
		t.firmware[f.Machine] = f
	}
}

// NoteSecureBoot keeps what a machine's agent has reported. Only a report that
// bears an order's token is to be believed: a false "off" would choose a
// boot program that the firmware refuses.
func (t *Table) NoteSecureBoot(machine string, s SecureBoot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.findNameLocked(machine); !known || s == "" || t.firmware[machine].SecureBoot == s {
		return
	}
	f := t.firmware[machine]
	f.Machine, f.SecureBoot, f.Told = machine, s, time.Now()
	t.keepFirmwareLocked(f)
}

// noteArchLocked keeps by what kind of firmware a machine boots: its BMC is told.
func (t *Table) noteArchLocked(machine string, c Client) {
	f := t.firmware[machine]
	if c.Program != Firmware || c.Arch == UnknownArch || f.Asked && f.Arch == c.Arch {
		return
	}
	f.Machine, f.Asked, f.Arch = machine, true, c.Arch
	t.keepFirmwareLocked(f)
}

// BootsUEFI reports by which kind of firmware a machine boots, as far as it was seen.
func (t *Table) BootsUEFI(machine string) (uefi, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.firmware[machine]
	return f.Arch.UEFI(), f.Asked
}

func (t *Table) keepFirmwareLocked(f FirmwareState) {
	t.firmware[f.Machine] = f
	if t.cfg.Firmware == nil {
		return
	}
	if err := t.cfg.Firmware.Put(f.Machine, f); err != nil { // it is told again at the next boot
		t.log.Warn("state of Secure Boot not stored", zap.String("machine", f.Machine), zap.NamedError("err", err))
	}
}

// doubtLocked forgets that Secure Boot is off where that may have changed: an iPXE
// that nobody has signed went out on the machine's word, was not heard of, and
// now the firmware asks anew. It then gets what starts either way.
func (t *Table) doubtLocked(c Client) {
	m, known := t.findMachineLocked(c.MAC, c.UUID)
	if !known || c.Program == "" || !t.unheard[m.Name] {
		return
	}
	delete(t.unheard, m.Name)
	if c.Program == Firmware && t.firmware[m.Name].SecureBoot == SecureBootOff {
		t.log.Info("iPXE was fetched and did not start: Secure Boot may be on by now", zap.String("machine", m.Name))
		f := t.firmware[m.Name]
		f.SecureBoot, f.Told = "", time.Now()
		t.keepFirmwareLocked(f)
	}
}

// loaderWent notes that a machine has an iPXE, which will be heard of if it starts.
func (t *Table) loaderWent(machine, file string) {
	if !isIPXELoader(file) || !strings.HasSuffix(file, ".efi") {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.findNameLocked(machine); known {
		t.unheard[machine] = true
	}
}

// SecureBoot is what is known of a machine's Secure Boot: what the file of the
// site says, else what the machine has told.
func (t *Table) SecureBoot(machine string) SecureBoot {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, _ := t.findNameLocked(machine)
	return t.secureBootLocked(m)
}

func (t *Table) secureBootLocked(m Machine) SecureBoot {
	if m.SecureBoot != "" {
		return m.SecureBoot
	}
	return t.firmware[m.Name].SecureBoot
}
