package modem

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Memory keeps what a modem must know after a restart: state.Table[modem.Record], durable.
type Memory interface {
	Put(key string, r Record) error
	All() ([]Record, error)
}

// Record is what one modem remembers.
type Record struct {
	Name   string  `json:"name"`
	Device string  `json:"device"` // the configured port that USB belongs to
	USB    usb     `json:"usb"`
	PINs   []tried `json:"pins,omitempty"`
	Climbs climbs  `json:"climbs"`
}

// tried is a PIN that a SIM was given and did not take, or did not answer to. One that was right is forgotten, so what is
// kept unlocks nothing.
type tried struct {
	ICCID string    `json:"iccid"`
	PIN   string    `json:"pin"` // hash
	At    time.Time `json:"at"`
}

// maxTried bounds the SIMs that are remembered.
const maxTried = 100

// pinHash tells one PIN from another. Four digits are soon guessed from it; therefore only wrong ones are kept.
func pinHash(iccid, pin string) string {
	sum := sha256.Sum256([]byte(iccid + ":" + pin))
	return hex.EncodeToString(sum[:])
}

// recall reads the memory.
func (m *Modem) recall() error {
	m.memory = Record{Name: m.Name, Device: m.Device}
	if m.Memory == nil {
		return nil
	}
	list, err := m.Memory.All()
	for _, r := range list {
		if r.Name == m.Name {
			m.memory = r
		}
	}
	if m.memory.Device != m.Device {
		m.memory.Device, m.memory.USB = m.Device, usb{}
	}
	// What else could not be read is not ours, or lost; a modem without its memory still asks the SIM how many tries are left.
	if err != nil && len(list) == 0 {
		return fmt.Errorf("memory of the modem: %w", err)
	}
	return nil
}

// save writes the memory.
func (m *Modem) save() error {
	if m.Memory == nil {
		return nil
	}
	m.memoryLock.Lock()
	defer m.memoryLock.Unlock()
	r := m.memory
	r.PINs, r.Climbs = slices.Clone(r.PINs), r.Climbs.clone()
	if err := m.Memory.Put(m.Name, r); err != nil {
		return fmt.Errorf("remember the modem: %w", err)
	}
	return nil
}

// triedPINs are the PINs a SIM did not take.
func (m *Modem) triedPINs(iccid string) []string {
	m.memoryLock.Lock()
	defer m.memoryLock.Unlock()
	var list []string
	for _, t := range m.memory.PINs {
		if t.ICCID == iccid {
			list = append(list, t.PIN)
		}
	}
	return list
}

// noteTry remembers a try before it is made: after a power cut in the middle of it nobody else knows.
func (m *Modem) noteTry(iccid, hash string) error {
	m.memoryLock.Lock()
	m.memory.PINs = append(m.memory.PINs, tried{iccid, hash, time.Now()})
	if n := len(m.memory.PINs); n > maxTried {
		m.memory.PINs = m.memory.PINs[n-maxTried:]
	}
	m.memoryLock.Unlock()
	return m.save()
}

// forgetTries forgets what a SIM did not take, or only one of them.
func (m *Modem) forgetTries(iccid, hash string) error {
	m.memoryLock.Lock()
	var left []tried
	for _, t := range m.memory.PINs {
		if t.ICCID != iccid || hash != "" && t.PIN != hash {
			left = append(left, t)
		}
	}
	m.memory.PINs = left
	m.memoryLock.Unlock()
	return m.save()
}

func (m *Modem) recallClimbs() climbs {
	m.memoryLock.Lock()
	defer m.memoryLock.Unlock()
	return m.memory.Climbs.clone()
}

// saveClimbs saves the ladder's memory if there is something new in it.
func (m *Modem) saveClimbs(l *ladder) error {
	if !l.changed {
		return nil
	}
	m.memoryLock.Lock()
	m.memory.Climbs = l.memory.clone()
	m.memoryLock.Unlock()
	err := m.save()
	if err != nil {
		m.log.Warn("the modem's memory is not saved", zap.NamedError("err", err))
		return err
	}
	l.changed = false
	return nil
}

// noteUSB remembers the USB device behind the configured port.
func (m *Modem) noteUSB(id usb) {
	m.memoryLock.Lock()
	old := m.memory.USB
	m.memory.USB = id
	m.memoryLock.Unlock()
	if id.Vendor == "" || id.Vendor == old.Vendor && id.Product == old.Product && id.Serial == old.Serial && id.Interface == old.Interface {
		return
	}
	if err := m.save(); err != nil {
		m.log.Warn("the modem's memory is not saved", zap.NamedError("err", err))
	}
}

// knownUSB is what is remembered of the USB device.
func (m *Modem) knownUSB() usb {
	m.memoryLock.Lock()
	defer m.memoryLock.Unlock()
	return m.memory.USB
}

// usbDir is the USB device in sysfs; "" if it is none or is not there.
func (m *Modem) usbDir() string {
	id := m.knownUSB()
	if _, err := os.Stat(id.dir); id.dir == "" || err != nil {
		return ""
	}
	return id.dir
}
