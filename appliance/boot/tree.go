package boot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
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
	io.ReadSeeker // *os.File or *images.Overlay for image files (so that sendfile works), memory for scripts
	Name          string
	Size          int64
	ModTime       time.Time
	SHA256        string // hexadecimal; "" where an order's own text is in it
	Tag           string // changes with the content, for HTTP's ETag
	Script        bool   // rendered for this request
	Personal      bool   // the order's token is in it: only for its machine
	BlockSize     int    // largest TFTP block that the machine's ROM stands; 0: any
	Decision      Decision

	ca   string    // whose signature it bears, of Microsoft's boot manager that firmware starts
	mac  MAC       // whose folder it was asked for in
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
	if p, err := cleanPath(rawPath); err == nil && strings.HasPrefix(p, mediaDir) {
		return t.openMedia(strings.TrimPrefix(p, mediaDir))
	}
	mac, name, err := t.locate(rawPath, from)
	if err != nil {
		if path.Base(name) == grubConfig && !strings.HasPrefix(name, "boot/") { // where the redirect leads: GRUB must not go round in circles
			return t.grubRedirect(), nil
		}
		return nil, err
	}
	d, err := t.Decide(Client{MAC: mac, Arch: UnknownArch, Addr: from})
	var f *File
	if err == nil {
		f, err = t.find(d, mac, name)
	} else if f, ok := t.openStick(err, d, mac, name); ok {
		return f, nil
	}
	if err == nil && f.Personal {
		if err = t.ownScript(d, from); err != nil {
			f.Close()
		}
	}
	if err != nil {
		t.tellRefused(d, mac, err)
		if path.Base(name) == grubConfig && errors.As(err, new(*Refusal)) {
			return grubGoesOn(err), nil
		}
		return nil, err
	}
	f.Decision, f.mac = d, mac
	if t.cfg.Fetched != nil {
		t.cfg.Fetched(mac, false)
	}
	if t.cfg.BlockSize != nil {
		f.BlockSize = t.cfg.BlockSize(mac)
	}
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
	// GRUB's own name for a machine's configuration: 01 is Ethernet.
	if rest, ok := strings.CutPrefix(path.Base(p), grubConfig+"-01-"); ok {
		if mac, err := ParseMAC(rest); err == nil {
			return mac, grubConfig, nil
		}
	}
	if t.cfg.MACOf != nil {
		if mac, ok := t.cfg.MACOf(from); ok {
			return mac, p, nil
		}
	}
	return MAC{}, p, &Refusal{Reason: fmt.Sprintf("the path %q names no machine, and no machine is known at %s", p, from)}
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
	if d.Image.Windows != nil {
		if f, err := t.windowsFile(d, mac, name); f != nil || err != nil {
			return f, err
		}
	}
	sets := t.bootSets(d.Machine, d.Image, d.CPU)
	for _, n := range []string{name, path.Base(name)} {
		switch n {
		case nbpScript, autoexec:
			return personal(nbpScript, d, mac, t.ipxeScript)
		case grubConfig:
			return personal(grubConfig, d, mac, t.grubScript)
		case loadedMark:
			f := textFile(loadedMark, "ok\n")
			f.Personal = true
			return f, nil
		}
		for _, set := range sets {
			if f, ok := fileOf(set, n, d.CPU); ok {
				return t.openImageFile(d, mac, set, f)
			}
		}
	}
	return nil, &Refusal{Reason: fmt.Sprintf("%s boots %s, which has no file %q", d.Machine.Name, d.Image.Name, name),
		Optional: optional(path.Base(name))}
}

// fileOf finds a file of an image without regard to case. In boot sets programs
// for several CPUs may have one name: it is that for the machine's. An image
// is made for one, and its 64-bit kernel also starts on 32-bit UEFI.
func fileOf(img images.Image, name, cpu string) (string, bool) {
	for _, f := range img.Files {
		if strings.EqualFold(f.Name, name) && (img.Kind != images.BootSet || f.Arch == "" || cpu == "" || f.Arch == cpu) {
			return f.Name, true
		}
	}
	return "", false
}

// optionalFiles are what loaders ask for and can do without: GRUB's lists of
// modules and configurations by address; shim's revocations and certificates, whose names
// it gets wrong at times (shim#649, #696); of Microsoft's boot manager a system that was put to
// sleep, policies of Secure Boot, its texts in other languages, fonts and pictures.
var optionalFiles = []string{"*.lst", grubConfig + "-*", "*revocations*.efi", "*shim_certificate*.efi",
	"hiberfil.sys", "*.p7b", "*.cip", "*.mui", "*.ttf", "boot.stl", "bootres.dll", "bootstat.dat", "bcd.log*"}

func optional(name string) bool {
	return slices.ContainsFunc(optionalFiles, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

func (t *Table) openImageFile(d Decision, mac MAC, img images.Image, name string) (*File, error) {
	content, entry, err := t.cfg.Images.Open(img, name)
	if err != nil {
		return nil, &Refusal{Reason: err.Error(), Hint: "rescuebox image verify " + img.Name}
	}
	info, err := content.Stat()
	if err != nil {
		content.Close()
		return nil, fmt.Errorf("open %s of %s: %w", name, img.Name, err)
	}
	f := &File{ReadSeeker: content, Name: entry.Name, Size: entry.Size, ModTime: info.ModTime(), SHA256: entry.SHA256, Tag: entry.SHA256}
	if d.Image.ISO != nil && d.Image.ISO.File == name {
		return t.ordered(f, d, mac)
	}
	return f, nil
}

// ordered puts the order's kernel arguments into the image's ISO as it goes out.
func (t *Table) ordered(f *File, d Decision, mac MAC) (*File, error) {
	text, err := t.isoConfig(d, mac)
	if err != nil {
		f.Close()
		return nil, &Refusal{Reason: err.Error(), Hint: "rescuebox image show " + d.Image.Name}
	}
	f.ReadSeeker = images.NewOverlay(f.ReadSeeker.(*os.File), f.Size, images.Patch{At: d.Image.ISO.ConfigAt, Data: text}) // closes the file with itself
	f.Tag, f.SHA256, f.Personal = tagOf(f.SHA256, text), "", true
	return f, nil
}

// personal renders a script for one machine's order.
func personal(name string, d Decision, mac MAC, render func(Decision, MAC) ([]byte, error)) (*File, error) {
	text, err := render(d, mac)
	if err != nil {
		return nil, &Refusal{Reason: err.Error(), Hint: "rescuebox image show " + d.Image.Name}
	}
	f := textFile(name, string(text))
	f.Personal = true
	return f, nil
}

func textFile(name, text string) *File {
	return &File{ReadSeeker: strings.NewReader(text), Name: name, Size: int64(len(text)), ModTime: time.Now(),
		Tag: tagOf(name, []byte(text)), Script: true}
}

// tagOf is a name for a content made of a known file and a text.
func tagOf(base string, texts ...[]byte) string {
	h := sha256.New()
	io.WriteString(h, base)
	for _, text := range texts {
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))
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
	if f.Script {
		e.Step, e.Text = StepScript, "asks for its boot script"
		if f.Name == bcdName {
			e.Text = "asks for its boot configuration (BCD)"
		}
	}
	t.recordLocked(e)
}

// tellRefused puts the refusal of a file into the timeline of the open order, each reason once.
func (t *Table) tellRefused(d Decision, mac MAC, err error) {
	var no *Refusal
	if errors.As(err, &no) && no.Optional {
		return
	}
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
	maxToldSayings  = 200
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
	if t.cfg.Fetched != nil && !f.mac.IsZero() {
		t.cfg.Fetched(f.mac, true)
	}
	if f.Name == loadedMark {
		t.served(f.Decision.Order.ID, f.Decision.Image, append(f.Decision.Image.Loads(false), f.Decision.Image.Loads(true)...)...)
		return
	}
	if f.Script {
		return // the script that brings the files: its start is enough
	}
	t.Record(Event{Step: StepFile, Order: f.Decision.Order.ID, Machine: f.Decision.Machine.Name,
		File: f.Name, Bytes: f.Size, Total: f.Size, Text: fmt.Sprintf("has %s (%d bytes)", f.Name, f.Size)})
	t.loaderWent(f.Decision.Machine.Name, f.Name)
	t.managerWent(f.Decision.Machine.Name, f.ca)
	t.served(f.Decision.Order.ID, f.Decision.Image, f.Name)
}
