package admin

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rescuebox/appliance/admin/api"
	"rescuebox/images"
)

// ownChecks are those for which the API has all at hand.
func (h *service) ownChecks() []Check {
	return []Check{
		{Name: "parts", Run: h.checkParts},
		{Name: "disk", Run: h.checkDisk},
		{Name: "machines", Run: h.checkMachines},
		{Name: "images", Run: h.checkImages},
		{Name: "chains", After: []string{"images"}, Run: h.checkChains},
		{Name: "orders", Run: h.checkOrders},
		{Name: "notify", Run: h.checkNotify},
	}
}

// checkParts looks whether all parts of the daemon run.
func (h *service) checkParts(context.Context) []Finding {
	if h.Server.Status == nil {
		return Fine("this daemon does not tell of its parts")
	}
	var bad []Finding
	parts := h.Server.Status().Parts
	for _, p := range parts {
		if p.Error != "" {
			bad = append(bad, Fault(Failed, "part-failed", "journalctl -u rescueboxd", "the part %s of the daemon does not run: %s", p.Name, p.Error)...)
		}
	}
	if len(bad) > 0 {
		return bad
	}
	return Fine("all %d parts run", len(parts))
}

// Free space below which the disk is worth a word, and below which orders may fail.
const (
	lowSpace  = 512 << 20
	fullSpace = 32 << 20
	fewFiles  = 64 // inodes
)

// checkDisk looks at the space for state and images.
func (h *service) checkDisk(context.Context) []Finding {
	var fs unix.Statfs_t
	if err := errors.Join(unix.Statfs(h.StateDir, &fs), inUse(h.StateDir)); err != nil {
		return Fault(Failed, "state-unreadable", "look whether its disk is there (findmnt, dmesg) and whose it is: ls -la "+h.StateDir,
			"the state directory %s cannot be looked at: %s", h.StateDir, err)
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	const hint = "remove an image that nobody boots: rescuebox image rm"
	switch {
	case fs.Flags&unix.ST_RDONLY != 0:
		return Fault(Failed, "disk-read-only", "look for disk errors: dmesg", "%s is read-only, so no order and no ticket can be kept", h.StateDir)
	case free < fullSpace:
		return Fault(Failed, "disk-full", hint, "%d MiB are free in %s", free>>20, h.StateDir)
	case fs.Files > 0 && fs.Ffree < fewFiles:
		return Fault(Failed, "disk-full", "look who made so many: du --inodes -d 2 "+h.StateDir, "%d more files can be made in %s", fs.Ffree, h.StateDir)
	case free < lowSpace:
		return Fault(Warning, "disk-low", hint, "%d MiB are free in %s", free>>20, h.StateDir)
	}
	return Fine("%d MiB are free in %s", free>>20, h.StateDir)
}

// inUse looks whether a directory is the one that the state was opened in: a disk
// that has fallen off leaves an empty directory, which seems to have all the space there is.
func inUse(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); errors.Is(err, io.EOF) {
		return errors.New("it is empty: the disk that it was on is gone, and what is kept now is lost with the next start")
	} else if err != nil {
		return err
	}
	return nil
}

// checkMachines looks whether there is anything to boot.
func (h *service) checkMachines(context.Context) []Finding {
	if n := len(h.Boot.Machines()); n > 0 {
		return Fine("%d machines are known", n)
	}
	return Fault(Warning, "no-machine", "name it in the file of the site, or let it boot from the network and adopt it: rescuebox machine list --seen",
		"no machine is known")
}

// checkImages looks whether the library can be read and can boot anything.
func (h *service) checkImages(context.Context) []Finding {
	list, errs := h.Images.List()
	if len(errs) > 0 {
		return Fault(Failed, "library-damaged", "remove the image and import it again", "the library is damaged: %s", errs[0])
	}
	sets := 0
	for _, i := range list {
		if i.Kind == images.BootSet {
			sets++
		}
	}
	if sets == len(list) {
		return Fault(Failed, "no-image", "rescuebox image build rescue", "the library has no image to boot")
	}
	return Fine("%d images and %d boot sets can be read", len(list)-sets, sets)
}

// checkOrders looks whether each open order goes on, and if not, why.
func (h *service) checkOrders(ctx context.Context) []Finding {
	var stuck []Finding
	open := 0
	for _, o := range h.Boot.AllOrders(maxOrders) {
		if !o.State.Open() || ctx.Err() != nil {
			continue
		}
		open++
		if c, ok := h.Boot.Cause(ctx, o.ID, time.Now()); ok {
			stuck = append(stuck, Fault(Warning, c.Key, c.Hint, "%s does not go on to boot %s: %s", o.Machine, o.Image, c.Text)...)
		}
	}
	if len(stuck) > 0 {
		return stuck
	}
	return Fine("%d orders are open, and none stands still", open)
}

// checkNotify looks whether people are told: who waits for a message does not see that it does not come.
func (h *service) checkNotify(context.Context) []Finding {
	if h.Notifier == nil || len(h.Notifier.Targets()) == 0 {
		return Fine("nobody is to be told anything")
	}
	gone := func(target string) bool {
		return !slices.ContainsFunc(h.Notifier.Targets(), func(t api.NotifyTarget) bool { return t.Name == target })
	}
	reached := map[[2]string]bool{} // whom the latest message that was tried has reached, or not
	var bad []Finding
	for _, m := range h.Notifier.Messages() { // newest first
		for _, d := range m.Deliveries {
			to := [2]string{d.Target, d.Address}
			if _, known := reached[to]; known || d.Attempts == 0 && d.State != "dropped" || gone(d.Target) {
				continue
			}
			reached[to] = d.State == "sent"
			if !reached[to] {
				bad = append(bad, Fault(Warning, "not-told", "rescuebox notify list shows what waits; to try it: rescuebox notify test "+d.Target,
					"%s (%s) is told nothing: %s", d.Target, d.Address, d.Error)...)
			}
		}
	}
	if len(bad) > 0 {
		return bad
	}
	return Fine("whoever was to be told was told")
}
