package boot

import (
	"errors"
	"path"
	"slices"

	"rescuebox/images"
)

// openStick opens the root of a rescue system for a machine that has no order: it was
// booted from a stick, by a person beside it, and its initramfs asks for the rest. Nothing of an
// order is in that file, and firmware never asks for it. What is on the stick knows the file's hash,
// so that of several rescue systems a wrong one is noticed there.
func (t *Table) openStick(refused error, d Decision, mac MAC, name string) (*File, bool) {
	var no *Refusal
	if !errors.As(refused, &no) || !no.Local || d.Machine.Name == "" || path.Ext(name) != ".squashfs" {
		return nil, false
	}
	cpu := t.seenArch(mac).CPU()
	list, _ := t.cfg.Images.List()
	list = slices.DeleteFunc(list, func(i images.Image) bool {
		_, ok := i.File(path.Base(name))
		return i.ISO == nil || !ok
	})
	if len(list) == 0 {
		return nil, false
	}
	img := list[max(0, slices.IndexFunc(list, func(i images.Image) bool { return i.Arch == cpu }))]
	f, err := t.openImageFile(d, mac, img, path.Base(name))
	if err != nil {
		return nil, false
	}
	d.Image = img
	f.Decision = d
	return f, true
}
