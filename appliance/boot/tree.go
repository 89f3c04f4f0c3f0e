package boot

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"rescuebox/images"
)

// maxPath is more than any firmware sends; the boot file name field has 128 bytes.
const maxPath = 512

// progressEvery is how often a transfer's progress is told to watchers.
const progressEvery = 300 * time.Millisecond

// Path is where a client finds one of its files in the tree that TFTP and HTTP
// both serve: "boot/525400123456/undionly.kpxe". The MAC in it is all that a
// later request needs to be decided; so no server keeps state per client, and
// second stages that a program asks for beside itself are found.
func Path(mac MAC, file string) string { return "boot/" + mac.Plain() + "/" + file }

// File is an open file of the tree. The caller closes it, and tells Served
// when the last byte has gone out. One transfer uses it, from one goroutine.
type File struct {
	io.ReadSeeker // *os.File for image files (so that sendfile works), memory for scripts
	Name          string
	Size          int64
	ModTime       time.Time
	SHA256        string // hexadecimal; "" for rendered scripts
	Decision      Decision

	told time.Time // last progress event
}

// Close closes the file below.
func (f *File) Close() error {
	if c, ok := f.ReadSeeker.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Open finds a file of the tree: whose it is, the decision, then the name
// among the files of what was decided. rawPath is as the wire had it, in any of the
// spellings that firmware uses; from is the peer's address. Errors are
// *Refusal, or say what failed on the box's side.
func (t *Table) Open(rawPath string, from netip.Addr) (*File, error) {
	mac, name, err := t.locate(rawPath, from)
	if err != nil {
		return nil, err
	}
	d, err := t.Decide(Client{MAC: mac, Arch: UnknownArch, Addr: from})
	var f *File
	if err == nil {
		f, err = t.find(d, mac, name)
	}
	if err == nil && f.SHA256 == "" { // a script, or the word that it has done its work
		err = t.ownScript(d, from)
	}
	if err != nil {
		t.tellRefused(d, mac, err)
		return nil, err
	}
	f.Decision = d
	t.begin(d.Order.ID)
	t.tellStart(f, mac)
	return f, nil
}

// locate reads machine and file name off a path. A path that names no machine
// is that of the machine whose address asks: firmware, shim and boot managers
// look for second stages in places of their own.
func (t *Table) locate(rawPath string, from netip.Addr) (MAC, string, error) {
	p, err := cleanPath(rawPath)
	if err != nil {
		return MAC{}, "", err
	}
	if rest, ok := strings.CutPrefix(p, "boot/"); ok {
		if dir, name, ok := strings.Cut(rest, "/"); ok {
			if mac, err := ParseMAC(dir); err == nil {
				return mac, name, nil
			}
		}
	}
	if t.cfg.MACOf != nil {
		if mac, ok := t.cfg.MACOf(from); ok {
			return mac, p, nil
		}
	}
	return MAC{}, "", &Refusal{Reason: fmt.Sprintf("the path %q names no machine, and no machine is known at %s", p, from)}
}

// cleanPath brings the spellings of a path to one form without a leading slash:
// Windows' boot programs use backslashes and capitals; some ROMs send
// the padding or a 0xFF behind the name (netbootxyz#1198, siderolabs/booter#11).
func cleanPath(raw string) (string, error) {
	if len(raw) > maxPath {
		return "", &Refusal{Reason: fmt.Sprintf("the path has %d bytes, more than %d", len(raw), maxPath)}
	}
	for i := range len(raw) {
		if raw[i] < ' ' || raw[i] >= 0x7f {
			raw = raw[:i]
			break
		}
	}
	p := strings.ToLower(strings.ReplaceAll(raw, `\`, "/"))
	if slices.Contains(strings.Split(p, "/"), "..") {
		return "", &Refusal{Reason: fmt.Sprintf("the path %q leads out of the tree", p)}
	}
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "", &Refusal{Reason: "the path names no file"}
	}
	return p, nil
}

// find opens what the decision has under a name: a script, a file of the image,
// or a boot program; first by the whole name, then by its last element.
func (t *Table) find(d Decision, mac MAC, name string) (*File, error) {
	for _, n := range []string{name, path.Base(name)} {
		if n == nbpScript || n == "autoexec.ipxe" {
			return t.script(d, mac)
		}
		if n == loadedMark {
			return &File{ReadSeeker: strings.NewReader("ok\n"), Name: loadedMark, Size: 3}, nil
		}
		for _, i := range []func() (images.Image, error){
			func() (images.Image, error) { return d.Image, nil },
			func() (images.Image, error) { return t.cfg.Images.Get(t.cfg.BootSet) },
		} {
			img, err := i()
			if err != nil {
				return nil, err
			}
			if f, ok := fileOf(img, n); ok {
				return t.openImageFile(img, f)
			}
		}
	}
	return nil, &Refusal{Reason: fmt.Sprintf("%s boots %s, which has no file %q", d.Machine.Name, d.Image.Name, name)}
}

// fileOf finds a file of an image without regard to case.
func fileOf(img images.Image, name string) (string, bool) {
	for _, f := range img.Files {
		if strings.EqualFold(f.Name, name) {
			return f.Name, true
		}
	}
	return "", false
}

func (t *Table) openImageFile(img images.Image, name string) (*File, error) {
	content, entry, err := t.cfg.Images.Open(img, name)
	if err != nil {
		return nil, &Refusal{Reason: err.Error(), Hint: "rescuebox image verify " + img.Name}
	}
	info, err := content.Stat()
	if err != nil {
		content.Close()
		return nil, fmt.Errorf("open %s of %s: %w", name, img.Name, err)
	}
	return &File{ReadSeeker: content, Name: entry.Name, Size: entry.Size, ModTime: info.ModTime(), SHA256: entry.SHA256}, nil
}

func (t *Table) script(d Decision, mac MAC) (*File, error) {
	text, err := ipxeScript(d, mac, t.cfg.Server)
	if err != nil {
		return nil, &Refusal{Reason: err.Error(), Hint: "rescuebox image show " + d.Image.Name}
	}
	return &File{ReadSeeker: bytes.NewReader(text), Name: nbpScript, Size: int64(len(text)), ModTime: time.Now()}, nil
}

// ownScript refuses a boot script to whom it is not for: it has the order's
// token in it, with which the machine proves itself. An address that nothing is
// known of, as behind a relay, is believed.
func (t *Table) ownScript(d Decision, from netip.Addr) error {
	if t.cfg.MACOf == nil {
		return nil
	}
	asks, known := t.cfg.MACOf(from)
	if !known || slices.Contains(d.Machine.MACs, asks) {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if m, ok := t.findMachineLocked(asks, UUID{}); ok && m.Name == d.Machine.Name {
		return nil // by its UUID
	}
	return &Refusal{Reason: fmt.Sprintf("the boot script of %s is not for %s (%s)", d.Machine.Name, from, asks),
		Hint: "add the MAC to the machine if it is one of its network cards"}
}

// tellStart puts the first transfer of each file into the timeline. Retries,
// size probes and ranges would bury what matters.
func (t *Table) tellStart(f *File, mac MAC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.Name == loadedMark || !t.onceLocked(f.Decision.Order.ID, f.Name, maxToldFiles) {
		return
	}
	e := Event{Step: StepFile, Order: f.Decision.Order.ID, Machine: f.Decision.Machine.Name, MAC: mac,
		File: f.Name, Total: f.Size, Text: fmt.Sprintf("loads %s (%d bytes)", f.Name, f.Size)}
	if f.SHA256 == "" {
		e.Step, e.Text = StepScript, "asks for its boot script"
	}
	t.recordLocked(e)
}

// tellRefused puts the refusal of a file into the timeline of the open order, each reason once.
func (t *Table) tellRefused(d Decision, mac MAC, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.onceLocked(d.Order.ID, err.Error(), maxToldRefusals) {
		t.recordLocked(Event{Step: StepRefused, Order: d.Order.ID, Machine: d.Machine.Name, MAC: mac, Text: err.Error()})
	}
}

// Bounds of what is told of one order: whoever knows a machine's MAC can ask
// for names that do not exist, and shall leave room for those that do.
const (
	maxToldRefusals = 30
	maxToldFiles    = 300
)

// onceLocked reports whether something is to be told of an open order for the
// first time, as one of at most max things.
func (t *Table) onceLocked(orderID, what string, max int) bool {
	o, ok := t.orders[orderID]
	if !ok || !o.State.Open() || o.told[what] || len(o.told) >= max {
		return false
	}
	if o.told == nil {
		o.told = map[string]bool{}
	}
	o.told[what] = true
	return true
}

// Progress tells that n of a file's bytes went out; called as often as one likes.
func (t *Table) Progress(f *File, n int64) {
	now := time.Now()
	if now.Sub(f.told) < progressEvery {
		return
	}
	f.told = now
	t.Record(Event{Step: StepFile, Order: f.Decision.Order.ID, Machine: f.Decision.Machine.Name, Time: now,
		File: f.Name, Bytes: n, Total: f.Size, Transient: true})
}

// Served tells that a file went out to its last byte.
func (t *Table) Served(f *File) {
	if f.Name == loadedMark {
		t.served(f.Decision.Order.ID, f.Decision.Image, append(f.Decision.Image.Loads(false), f.Decision.Image.Loads(true)...)...)
		return
	}
	if f.SHA256 == "" {
		return // the script that brings the files: its start is enough
	}
	t.Record(Event{Step: StepFile, Order: f.Decision.Order.ID, Machine: f.Decision.Machine.Name,
		File: f.Name, Bytes: f.Size, Total: f.Size, Text: fmt.Sprintf("has %s (%d bytes)", f.Name, f.Size)})
	t.served(f.Decision.Order.ID, f.Decision.Image, f.Name)
}
