package admin

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"rescuebox/images"
)

// ownChecks are those for which the API has all at hand.
func (h *service) ownChecks() []Check {
	return []Check{
		{Name: "parts", Run: h.checkParts},
		{Name: "disk", Run: h.checkDisk},
		{Name: "machines", Run: h.checkMachines},
		{Name: "images", Run: h.checkImages},
		{Name: "orders", After: []string{"images"}, Run: h.checkOrders},
	}
}

// checkParts looks whether all parts of the daemon run.
func (h *service) checkParts(context.Context) Finding {
	if h.Server.Status == nil {
		return Finding{Level: OK, Text: "this daemon does not tell of its parts"}
	}
	var bad []string
	parts := h.Server.Status().Parts
	for _, p := range parts {
		if p.Error != "" {
			bad = append(bad, p.Name+": "+p.Error)
		}
	}
	if len(bad) > 0 {
		return Finding{Level: Failed, Text: "parts of the daemon do not run: " + strings.Join(bad, "; "), Hint: "journalctl -u rescueboxd"}
	}
	return Finding{Level: OK, Text: fmt.Sprintf("all %d parts run", len(parts))}
}

// Free space below which the disk is worth a word, and below which orders may fail.
const (
	lowSpace  = 512 << 20
	fullSpace = 32 << 20
)

// checkDisk looks at the space for state and images.
func (h *service) checkDisk(context.Context) Finding {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(h.StateDir, &fs); err != nil {
		return Finding{Level: Failed, Text: fmt.Sprintf("the state directory %s cannot be looked at: %s", h.StateDir, err)}
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	f := Finding{Level: OK, Text: fmt.Sprintf("%d MiB are free in %s", free>>20, h.StateDir)}
	if free < lowSpace {
		f.Level, f.Hint = Warning, "remove an image that nobody boots: rescuebox image rm"
	}
	if free < fullSpace {
		f.Level = Failed
	}
	if fs.Flags&syscall.MS_RDONLY != 0 {
		return Finding{Level: Failed, Text: h.StateDir + " is read-only, so no order and no ticket can be kept", Hint: "look for disk errors: dmesg"}
	}
	return f
}

// checkMachines looks whether there is anything to boot.
func (h *service) checkMachines(context.Context) Finding {
	if n := len(h.Boot.Machines()); n > 0 {
		return Finding{Level: OK, Text: fmt.Sprintf("%d machines are known", n)}
	}
	return Finding{Level: Warning, Text: "no machine is known",
		Hint: "name it in the file of the site, or let it boot from the network and adopt it: rescuebox machine list --seen"}
}

// checkImages looks whether the library can be read and can boot anything.
func (h *service) checkImages(context.Context) Finding {
	list, errs := h.Images.List()
	if len(errs) > 0 {
		return Finding{Level: Failed, Text: "the library is damaged: " + errs[0].Error(), Hint: "remove the image and import it again"}
	}
	sets := 0
	for _, i := range list {
		if i.Kind == images.BootSet {
			sets++
		}
	}
	if sets == len(list) {
		return Finding{Level: Failed, Text: "the library has no image to boot", Hint: "rescuebox image build rescue"}
	}
	return Finding{Level: OK, Text: fmt.Sprintf("%d images and %d boot sets can be read", len(list)-sets, sets)}
}

// checkOrders looks whether the image of every open order is whole.
func (h *service) checkOrders(ctx context.Context) Finding {
	open := 0
	for _, o := range h.Boot.AllOrders(maxOrders) {
		if !o.State.Open() || ctx.Err() != nil {
			continue
		}
		open++
		i, err := h.Images.Get(o.Image)
		if err == nil {
			err = h.Images.Verify(i)
		}
		if err != nil {
			return Finding{Level: Failed, Text: fmt.Sprintf("%s cannot boot what is ordered: %s", o.Machine, err), Hint: "import the image again"}
		}
	}
	return Finding{Level: OK, Text: fmt.Sprintf("%d orders are open", open)}
}
