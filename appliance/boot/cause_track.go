package boot

import (
	"path"
	"strings"
	"time"
)

// stage is how far an attempt to boot got.
type stage int

const (
	stageArmed  stage = iota // nothing seen of the machine
	stageAsked               // DISCOVER
	stageTook                // REQUEST, on port 67 or 4011
	stageLoader              // a loader has gone out whole
	stageScript              // the script or grub.cfg was asked for
	stageKernel              // some of kernel and initrds have gone out
	stageLoaded              // all of them
	stageRoot                // the system's root has gone out
	stageUp
	stageFile stage = -1 // a file is on its way
)

// track is what an order's events say of one attempt to boot. An attempt
// begins when the machine's firmware asks anew.
//
//	armed → asked → took → loader → script → kernel → loaded → root → up
//
// Between any two of them a file can be on its way: at is stageFile then.
type track struct {
	stage   stage
	since   time.Time // the last step forward
	mac     MAC       // that asks
	offered bool
	ipxe    bool      // iPXE has asked DHCP
	took    bool      // and taken an address
	system  time.Time // an operating system asked for an address
	loading string    // the file on its way; "" for none
	bytes   int64     // of it that went out
	total   int64
	broke   string // why it broke off last; "" while it did not
	brokeAt time.Time
	first   string // the loader that went out first
	loader  string // and last
	has     map[string]bool
	refused Event // the last "no"
	again   bool  // this attempt is over: the firmware has begun the next
}

// at is the stage to judge.
func (t *track) at() stage {
	if t.loading != "" {
		return stageFile
	}
	return t.stage
}

// follow reads the events of an order and returns the attempt to look at: the
// last one, or the one before where that ended with all fetched that was begun, and the
// next has not got farther.
func follow(f Facts) track {
	now, before := track{since: f.Order.Created}, track{}
	started := map[string]bool{}
	for _, e := range f.Events {
		if e.Step == StepDiscover && e.Key != string(IPXE) && now.stage > stageTook {
			if now.loading == "" {
				before = now
				before.again = true
			}
			now = track{since: e.Time}
		}
		now.add(f, e, started)
	}
	if before.again && now.stage <= before.stage {
		return before
	}
	if m := f.Moving; now.loading != "" && m.File == now.loading && m.Time.After(now.since) {
		now.since, now.bytes = m.Time, m.Bytes
		if m.Time.After(now.brokeAt) {
			now.broke = ""
		}
	}
	return now
}

// add takes in one event. started is which files were ever begun in this order:
// the timeline tells the beginning of each only once.
func (t *track) add(f Facts, e Event, started map[string]bool) {
	switch e.Step {
	case StepDiscover:
		t.mac = e.MAC
		if e.Key == string(IPXE) {
			t.asksAsIPXE(e)
			return
		}
		t.reach(stageAsked, e)
	case StepOffer:
		t.offered = true
	case StepRequest:
		if t.ipxe && !t.took {
			t.took, t.since = true, e.Time
		}
		t.reach(stageTook, e)
	case StepScript:
		t.loading = ""
		t.reach(stageScript, e)
	case StepFile:
		t.file(f, e, started)
	case StepSystem:
		if t.loaded() && t.system.Before(t.since) { // its first question is a step forward, however long it took to start
			t.since = e.Time
		}
		t.system = e.Time
	case StepUp, StepDone:
		t.loading = ""
		t.reach(stageUp, e)
	case StepRefused:
		t.refused = e
	}
}

// reach notes a step forward; a repetition is none.
func (t *track) reach(s stage, e Event) {
	if s > t.stage {
		t.stage, t.since = s, e.Time
	}
}

// loaded reports whether all has gone out that a kernel starts with.
func (t *track) loaded() bool {
	return t.stage == stageLoaded || t.stage == stageLoader && isISO(t.loader)
}

// asksAsIPXE is iPXE's own DISCOVER, which proves that the loader runs, though
// its last acknowledgement may have been lost.
func (t *track) asksAsIPXE(e Event) {
	if t.ipxe {
		return
	}
	t.ipxe, t.loading, t.since = true, "", e.Time
	t.stage = max(t.stage, stageLoader)
}

// file is a transfer that begins, ends, or breaks off.
func (t *track) file(f Facts, e Event, started map[string]bool) {
	first := !started[e.File]
	started[e.File] = true
	switch {
	case e.Bytes == e.Total && e.Total > 0:
		t.whole(f, e)
	case first:
		t.loading, t.bytes, t.total, t.broke, t.since = e.File, 0, e.Total, "", e.Time
	default: // broke off: no step forward; the machine tries again or gives up
		if t.loading != e.File {
			t.since = e.Time
		}
		t.loading, t.bytes, t.total = e.File, e.Bytes, e.Total
		t.brokeAt = e.Time
		_, t.broke, _ = strings.Cut(e.Text, ": ") // "x broke off over HTTP after 1 of 2 bytes: why"
	}
}

// whole is a file that went out to its last byte.
func (t *track) whole(f Facts, e Event) {
	if t.loading == e.File {
		t.loading = ""
	}
	if t.has[e.File] {
		return
	}
	if t.has == nil {
		t.has = map[string]bool{}
	}
	t.has[e.File], t.since = true, e.Time
	if isLoader(e.File) && !kernelFile(f, e.File) { // memtest86+ has a kernel named like a loader
		t.loader = e.File
		if t.first == "" {
			t.first = e.File
		}
	}
	t.stage = max(t.stage, t.rank(f))
}

// rank is the stage that the files which have gone out stand for.
func (t *track) rank(f Facts) stage {
	loads := func(uefi bool) (some, all bool) {
		names := f.Image.Loads(uefi)
		all = len(names) > 0
		for _, n := range names {
			some, all = some || t.has[n], all && t.has[n]
		}
		return some, all
	}
	someBIOS, allBIOS := loads(false)
	someUEFI, allUEFI := loads(true)
	for name := range t.has {
		if _, ours := f.Image.File(name); ours && f.Image.Windows == nil && !isLoader(name) && !kernelFile(f, name) {
			return stageRoot
		}
	}
	switch {
	case allBIOS || allUEFI:
		return stageLoaded
	case someBIOS || someUEFI:
		return stageKernel
	}
	return stageLoader
}

// kernelFile reports whether a file is one that loaders fetch.
func kernelFile(f Facts, name string) bool {
	for _, n := range append(f.Image.Loads(false), f.Image.Loads(true)...) {
		if n == name {
			return true
		}
	}
	return false
}

// isLoader tells boot programs from the files of a system, by their names.
func isLoader(name string) bool {
	switch path.Ext(name) {
	case ".efi", ".kpxe", ".kkpxe", ".pxe", ".0", ".signed", ".n12", ".exe":
		return true
	}
	return isISO(name)
}

func isIPXELoader(name string) bool {
	return hasAnyPrefix(name, "undionly", "snponly", "ipxe") && !strings.Contains(name, "shim")
}
func isShim(name string) bool { return strings.Contains(name, "shim") }
func isGRUB(name string) bool { return hasAnyPrefix(name, "grub", "gcd") }
func isISO(name string) bool  { return path.Ext(name) == ".iso" }

func hasAnyPrefix(name string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
