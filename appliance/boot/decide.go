package boot

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"rescuebox/images"
)

// Decision is what one client boots, now.
type Decision struct {
	Machine Machine
	Order   Order
	Image   images.Image
	Chain   Chain
	// File is what the client loads next: a name in the machine's own folder
	// of the tree (see Path), such as "undionly.kpxe" or "boot.ipxe".
	File string
	CPU  string // what the client's programs are made for, as Debian names it; "" if not known
}

// Refusal is the error of Decide, Open, Arm and the like: a "no" with its reason.
type Refusal struct {
	Reason string // one sentence for the log, the TFTP error and the HTTP body
	Hint   string // what to do; may be ""
	Local  bool   // nothing is wrong: nobody ordered anything, the machine boots its own disk
	// Optional: a loader asked for a file that it can do without.
	Optional bool
	Err      error // what it is about, such as *images.NotFound; may be nil
}

func (r *Refusal) Error() string { return r.Reason }

// Unwrap gives Err to errors.As.
func (r *Refusal) Unwrap() error { return r.Err }

// Decide says what the client boots, or refuses with a *Refusal. It is asked
// for every boot packet and every file, and asking uses nothing up.
func (t *Table) Decide(c Client) (Decision, error) {
	t.mu.Lock()
	t.doubtLocked(c)
	t.doubtManagerLocked(c)
	d, err := t.decideLocked(c)
	t.noteLocked(c, d, err)
	t.mu.Unlock()
	return d, err
}

func (t *Table) decideLocked(c Client) (Decision, error) {
	m, known := t.findMachineLocked(c.MAC, c.UUID)
	if !known {
		if t.cfg.Unknown == "" || t.cfg.Unknown == "local" {
			return Decision{}, &Refusal{Local: true, Reason: fmt.Sprintf("no machine has the MAC %s", c.MAC),
				Hint: "rescuebox machine adopt makes it one"}
		}
		m = Machine{Name: c.MAC.Plain(), MACs: []MAC{c.MAC}, Image: t.cfg.Unknown}
	}
	d := Decision{Machine: m}
	image, ordered := m.Image, t.currentOrderLocked(m.Name)
	if ordered != nil {
		image, d.Order = ordered.Image, ordered.Order
	}
	if image == "" {
		return d, &Refusal{Local: true, Reason: m.Name + " has no order", Hint: "rescuebox boot " + m.Name + " IMAGE"}
	}
	var err error
	if d.Image, err = t.bootable(image); err != nil {
		return d, err
	}
	cpu := t.cpuLocked(c, ordered)
	if d.Image, err = t.variantLocked(m, d.Image, cpu); err != nil {
		return d, err
	}
	if d.Chain, d.File, err = t.chainLocked(m, d.Image, c, cpu); err != nil {
		return d, err
	}
	if ordered == nil {
		ordered = t.standingLocked(m.Name, image, !known)
	}
	t.learnCPULocked(ordered, cpu)
	d.Order, d.CPU = ordered.Order, cpu
	return d, nil
}

// currentOrderLocked is the machine's open order, or nil.
func (t *Table) currentOrderLocked(machine string) *entry {
	o, ok := t.open[machine]
	if !ok {
		return nil
	}
	if now := time.Now(); !now.Before(o.Expires) {
		t.logged(t.endLocked(o, Expired, "its time was over", now), o)
		return nil
	}
	return o
}

// bootable finds an image that an order can name.
func (t *Table) bootable(name string) (images.Image, error) {
	img, err := t.cfg.Images.Get(name)
	if err != nil {
		return images.Image{}, &Refusal{Reason: err.Error(), Hint: t.imageNames(), Err: err}
	}
	if img.Kind == images.BootSet {
		return images.Image{}, &Refusal{Reason: fmt.Sprintf("%s is a boot set, which brings other images to a machine and cannot be ordered", name),
			Hint: t.imageNames()}
	}
	return img, nil
}

// imageNames is for hints.
func (t *Table) imageNames() string {
	var names []string
	list, _ := t.cfg.Images.List()
	for _, i := range list {
		if i.Kind != images.BootSet {
			names = append(names, i.Name)
		}
	}
	if len(names) == 0 {
		return "the library has no image to boot yet: rescuebox image build rescue"
	}
	return "images are " + strings.Join(names, ", ")
}

// noteLocked counts the decision and remembers who asked. Requests for files
// come without a program: they are no sightings.
func (t *Table) noteLocked(c Client, d Decision, err error) {
	answer, result := "boots "+d.Image.Name, "boot"
	var no *Refusal
	if errors.As(err, &no) {
		answer, result = no.Reason, "refused"
		if no.Local {
			result = "local"
		}
	}
	t.decisions.WithLabelValues(result).Inc()
	if c.Program != "" {
		name := d.Machine.Name
		if _, known := t.findNameLocked(name); known {
			t.noteArchLocked(name, c)
		} else {
			name = ""
		}
		t.seen.note(c, name, answer, time.Now())
	}
}
