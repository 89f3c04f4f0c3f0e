package boot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"rescuebox/images"
)

// Way is all that a machine loads on one way to its image.
type Way struct {
	Machine Machine
	Arch    Arch // of its firmware
	Chain   Chain
	Image   images.Image
	Links   []Link // in the order in which they are loaded
}

// Link is one file of a way, and the image that it is taken from.
type Link struct {
	Image images.Image
	File  images.File
	Stage string // "loader", "kernel", "initrd" or "root"
}

// Ways lists what a machine with an order or a standing image would load now,
// for the firmware that it was seen with, else for all that it may have. A machine that
// boots its own disk has none. To ask uses nothing up, makes no order, and is
// no sighting. An error beside a Way without links is why that one does not work.
func (t *Table) Ways(machine string) (ways []Way, errs []error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, ok := t.findNameLocked(machine)
	name := m.Image
	o, ordered := t.open[machine]
	if ordered {
		name = o.Image
	}
	if !ok || name == "" {
		return nil, nil
	}
	img, err := t.bootable(name)
	if err != nil {
		return nil, []error{err}
	}
	for _, a := range t.archsLocked(m, img) {
		w, err := t.wayLocked(m, img, a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ways = append(ways, w)
	}
	return ways, errs
}

// archsLocked is what the machine's firmware asked as last, or may be.
func (t *Table) archsLocked(m Machine, img images.Image) []Arch {
	switch f := t.firmware[m.Name]; {
	case f.Asked && f.Arch.CPU() != "":
		return []Arch{f.Arch}
	case img.Arch == "arm64":
		return []Arch{UEFIARM64}
	}
	return []Arch{BIOS, UEFIX64}
}

func (t *Table) wayLocked(m Machine, img images.Image, a Arch) (Way, error) {
	w := Way{Machine: m, Arch: a}
	var err error
	if w.Image, err = t.variantLocked(m, img, a.CPU()); err != nil {
		return w, err
	}
	var first string
	if w.Chain, first, err = t.chainLocked(m, w.Image, Client{MAC: firstOf(m.MACs), Arch: a, Program: Firmware}, a.CPU()); err != nil {
		return w, err
	}
	if w.Image.Windows != nil {
		err = t.windowsLinksLocked(&w, first)
		return w, err
	}
	sets := t.bootSets(m, w.Image, a.CPU())
	for name := first; name != ""; name = nextLoader(name) {
		l, err := linkOf(sets, name, a.CPU())
		if err != nil {
			return w, err
		}
		w.Links = append(w.Links, l)
	}
	if isISO(first) {
		w.addFiles("root", w.others(first)...)
		return w, nil
	}
	kernel := w.Image.Loads(a.UEFI())
	if len(kernel) > 0 {
		w.addFiles("kernel", kernel[0])
		w.addFiles("initrd", kernel[1:]...)
	}
	w.addFiles("root", w.others(kernel...)...)
	return w, nil
}

// linkOf finds a boot program as the tree does.
func linkOf(sets []images.Image, name, cpu string) (Link, error) {
	for _, set := range sets {
		if found, ok := fileOf(set, name, cpu); ok {
			f, _ := set.File(found)
			return Link{set, f, "loader"}, nil
		}
	}
	return Link{}, &Refusal{Reason: "no boot set has " + name, Hint: "restart rescueboxd, which imports Debian's boot programs, or: rescuebox image add --bootset"}
}

// whole hashes all that the machine may load on its way to the image. What is
// damaged elsewhere in the library keeps no other machine from its rescue.
func (t *Table) whole(m Machine, img images.Image) error {
	if img.Windows != nil {
		if err := t.noWindowsWay(m, img); err != nil {
			return err
		}
	} else if len(t.bootSets(m, img, "")) == 1 && len(img.Loads(false)) > 0 {
		return &Refusal{Reason: fmt.Sprintf("the library has no boot set, so no machine could load %s", img.Name),
			Hint: "apt-get install ipxe shim-signed grub-efi-amd64-signed, then restart rescueboxd"}
	}
	for _, name := range []string{m.BootSet, t.cfg.BootSet} {
		if _, err := t.cfg.Images.Get(name); name != "" && err != nil {
			return &Refusal{Reason: fmt.Sprintf("the boot set that is configured cannot be used: %s", err), Err: err,
				Hint: "rescuebox image add --bootset " + name + ", or take the key bootset away"}
		}
	}
	for _, i := range t.needed(m, img) {
		if err := t.cfg.Images.Verify(i); err != nil {
			hint := "import it again with rescuebox image add, or build it again"
			if i.Name == setIPXE || i.Name == setShim {
				hint = "restart rescueboxd, which takes it from its Debian package again"
			}
			return &Refusal{Reason: err.Error(), Hint: hint}
		}
	}
	return nil
}

// needed lists the image, or what the library has of it for the machine's CPU,
// and the boot sets that bring it there, by the firmware that it has or may have.
func (t *Table) needed(m Machine, img images.Image) (list []images.Image) {
	add := func(i images.Image) {
		if !slices.ContainsFunc(list, func(o images.Image) bool { return o.Name == i.Name }) {
			list = append(list, i)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.archsLocked(m, img) {
		w, err := t.wayLocked(m, img, a)
		if err != nil {
			continue // the machine hears why when it asks
		}
		add(w.Image)
		for _, l := range w.Links {
			add(l.Image)
		}
	}
	if len(list) == 0 {
		add(img)
	}
	return list
}

// warm reads what open orders and standing assignments boot. After a start of the box nothing is
// known of its files, and a loader does not wait until a gigabyte is hashed: it gives up.
func (t *Table) warm(ctx context.Context) {
	for _, m := range t.expected() {
		img, err := t.bootable(m.Image)
		if err != nil {
			continue // the machine hears why when it asks
		}
		for _, i := range t.needed(m, img) {
			for _, file := range i.Files {
				if ctx.Err() != nil {
					return
				}
				if f, _, err := t.cfg.Images.Open(i, file.Name); err == nil {
					f.Close()
				}
			}
		}
	}
}

// expected lists the machines that boot something, those with an order first, with its image.
func (t *Table) expected() (list []Machine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, o := range t.open {
		if m, ok := t.findNameLocked(o.Machine); ok {
			m.Image = o.Image
			list = append(list, m)
		}
	}
	list = append(list, t.machines...)
	if t.cfg.Unknown != "local" {
		list = append(list, Machine{Image: t.cfg.Unknown})
	}
	return slices.DeleteFunc(list, func(m Machine) bool { return m.Image == "" })
}

// addFiles adds files of the image; one that it does not name is left out, for
// its import has checked what it needs.
func (w *Way) addFiles(stage string, names ...string) {
	for _, n := range names {
		if f, ok := w.Image.File(n); ok {
			w.Links = append(w.Links, Link{w.Image, f, stage})
		}
	}
}

// others are the image's files that no loader fetches: the system does.
func (w *Way) others(but ...string) (names []string) {
	skip := map[string]bool{}
	for _, n := range append(append(but, w.Image.Loads(false)...), w.Image.Loads(true)...) {
		skip[n] = true
	}
	for _, f := range w.Image.Files {
		if !skip[f.Name] && !isLoader(f.Name) {
			names = append(names, f.Name)
		}
	}
	return names
}

// nextLoader is the second stage that a loader fetches by a name of its own:
// shim grub, and a shim of iPXE the iPXE whose name it bears (shim's
// second stage, ipxe/shim).
func nextLoader(name string) string {
	cpu, isShim := strings.CutPrefix(name, "shim")
	if isShim {
		return "grub" + cpu
	}
	if base, _, ok := strings.Cut(name, "-shim"); ok {
		return base + ".efi"
	}
	return ""
}

func firstOf(macs []MAC) MAC { return cmp.Or(append(macs, MAC{})...) }
