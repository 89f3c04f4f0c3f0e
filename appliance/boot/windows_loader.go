package boot

import (
	"fmt"
	"time"

	"go.uber.org/zap"
)

// managerSent is what became of the boot manager that a machine was given.
//
//	"" --its last byte went out--> sent --a file that it asks for--> works, and kept
//	sent --the firmware asks anew--> refused: another generation is tried
type managerSent struct {
	sent    string // the generation that went out and was not heard of yet
	refused string // the one that was never heard of
}

// managerWent notes that a machine has the boot manager, which will be heard of if the firmware starts it.
func (t *Table) managerWent(machine, ca string) {
	if ca == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.findNameLocked(machine); known {
		s := t.managersSent[machine]
		s.sent = ca
		t.managersSent[machine] = s
	}
}

// managerWorks keeps which generation a machine's firmware has started: the
// boot manager asks for its files.
func (t *Table) managerWorks(machine string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ca := t.managersSent[machine].sent
	if ca == "" {
		return
	}
	delete(t.managersSent, machine)
	if f := t.firmware[machine]; f.LoaderCA != ca {
		f.Machine, f.LoaderCA = machine, ca
		t.keepFirmwareLocked(f)
	}
}

// doubtManagerLocked takes a boot manager for refused that went out whole and asked
// for nothing, where the firmware now asks anew: Secure Boot does not trust its signer, or
// has revoked it. The machine gets the other generation this time, without anybody's help.
func (t *Table) doubtManagerLocked(c Client) {
	m, known := t.findMachineLocked(c.MAC, c.UUID)
	s := t.managersSent[m.Name]
	if !known || c.Program != Firmware || s.sent == "" {
		return
	}
	t.managersSent[m.Name] = managerSent{refused: s.sent}
	o, open := t.open[m.Name]
	if m.LoaderCA != "" || !open {
		return
	}
	text := fmt.Sprintf("Microsoft's boot manager of the CA of %s was fetched and did not start: another generation is tried if the image has one", s.sent)
	t.log.Info(text, zap.String("machine", m.Name))
	t.recordLocked(Event{Step: StepDialect, Order: o.ID, Machine: m.Name, MAC: c.MAC, Time: time.Now(), Text: text})
}
