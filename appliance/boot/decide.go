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
}

// Refusal is the error of Decide, Open, Arm and the like: a "no" with its reason.
type Refusal struct {
	Reason string // one sentence for the log, the TFTP error and the HTTP body
	Hint   string // what to do; may be ""
	Local  bool   // nothing is wrong: nobody ordered anything, the machine boots its own disk
	Err    error  // what it is about, such as *images.NotFound; may be nil
}

func (r *Refusal) Error() string { return r.Reason }

// Unwrap gives Err to errors.As.
func (r *Refusal) Unwrap() error { return r.Err }

// Names of the files that a chain begins with, in the boot set.
const (
	nbpBIOS   = "undionly.kpxe" // uses the firmware's own network driver, as snponly.efi does:
	nbpUEFI   = "snponly.efi"   // a native driver bounces the link and hangs on some machines (ipxe#972, #1337)
	nbpScript = "boot.ipxe"
	// loadedMark is what the script asks for when all files are in the machine's
	// memory. It starts them at once, and the acknowledgement of the last
	// bytes may never leave it: seen with memtest86+ under UEFI.
	loadedMark = "loaded"
)

// Decide says what the client boots, or refuses with a *Refusal. It is asked
// for every boot packet and every file, and asking uses nothing up.
func (t *Table) Decide(c Client) (Decision, error) {
	t.mu.Lock()
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
	if d.Chain, d.File, err = chainFor(m, c); err != nil || ordered != nil {
		return d, err
	}
	d.Order = t.standingLocked(m.Name, image, !known)
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

// chainFor chooses how the image reaches the client, and the next file on that way.
func chainFor(m Machine, c Client) (Chain, string, error) {
	switch {
	case c.Program == IPXE && (c.Arch == BIOS || c.Arch.UEFI() || c.Arch == UnknownArch):
		return ChainIPXE, nbpScript, nil
	case c.Arch == BIOS:
		return ChainIPXE, nbpBIOS, nil
	case c.Arch.UEFI():
		return ChainIPXE, nbpUEFI, nil
	case c.Arch == UnknownArch && c.Program == "": // a file request: the path says what it wants
		return ChainIPXE, "", nil
	}
	return "", "", &Refusal{Reason: fmt.Sprintf("%s asks as %s, and there is no boot program for that", m.Name, c.Arch),
		Hint: "switch its firmware to BIOS or UEFI x64 network boot (PXE over IPv4)"}
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
		if _, known := t.findNameLocked(name); !known {
			name = ""
		}
		t.seen.note(c, name, answer, time.Now())
	}
}
