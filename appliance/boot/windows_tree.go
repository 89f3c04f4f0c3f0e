package boot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"rescuebox/images"
	"rescuebox/images/bcd"
	"rescuebox/images/wim"
)

// wimbootDir is the folder, within a machine's own, of what wimboot gets in
// another form than Microsoft's loaders. Below it is a folder for each ${platform} of iPXE.
const wimbootDir = "wimboot"

// TFTP by Microsoft's boot manager. More than 1456 bytes a block make fragments, and
// more than 8 blocks a window drown slow links. It may change the window itself while it
// loads, which our server lets it do (option msftwindow).
const (
	managerBlock  = 1456
	managerWindow = 8
)

// windowsFile opens what a Windows image has for one machine under a name; nil
// is for a name that it has nothing of its own for.
func (t *Table) windowsFile(d Decision, mac MAC, name string) (*File, error) {
	base := path.Base(name)
	if isManager(base) {
		return t.managerFile(d, mac, !forWimboot(name))
	}
	if !forWimboot(name) {
		t.managerWorks(d.Machine.Name) // nobody else asks for more
	}
	switch {
	case base == bcdName:
		return t.bootConfiguration(d, mac, name)
	case strings.EqualFold(base, d.Image.Windows.WIM):
		return t.orderedWIM(d, mac)
	}
	return nil, nil
}

// forWimboot reports whether a path is one that the iPXE script names for wimboot.
func forWimboot(name string) bool { return strings.HasPrefix(name, wimbootDir+"/") }

// managerFile opens the boot manager for UEFI. started: the firmware will start it itself.
func (t *Table) managerFile(d Decision, mac MAC, started bool) (*File, error) {
	t.mu.Lock()
	b, err := t.managerLocked(d.Machine, d.Image, d.CPU)
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f, err := t.openImageFile(d, mac, b.set, b.file.Name)
	if err == nil && started {
		f.ca = b.ca
	}
	return f, err
}

// bootConfiguration renders the BCD. Microsoft's boot manager asks for it
// under a path of its own (\Boot\BCD), by the machine's address; the paths in it have the
// machine's MAC, so that nothing behind it depends on the address. wimboot has all files in
// one flat disk, and looks there in \Boot.
func (t *Table) bootConfiguration(d Decision, mac MAC, name string) (*File, error) {
	w := d.Image.Windows
	s := bcd.Store{EFI: t.firmwareIsUEFI(d, mac, name), Description: titleOf(d.Image), BlockSize: managerBlock, Window: managerWindow, VariableWindow: true}
	folder := `\boot\` + mac.Plain() + `\`
	if platform, ok := strings.CutPrefix(path.Dir(name), wimbootDir+"/"); ok {
		s.EFI, folder = platform == "efi", `\Boot\`
	} else if t.cfg.BlockSize != nil && t.cfg.BlockSize(mac) > 0 {
		s.BlockSize = min(s.BlockSize, t.cfg.BlockSize(mac))
	}
	s.Loader, s.WIM, s.SDI = w.WinloadBIOS, folder+w.WIM, folder+w.SDI
	if s.EFI {
		s.Loader = w.WinloadEFI
	}
	if err := s.Check(); err != nil {
		return nil, &Refusal{Reason: fmt.Sprintf("no boot configuration for %s: %s", d.Image.Name, err), Hint: "rescuebox image show " + d.Image.Name}
	}
	return textFile(bcdName, string(s.Bytes())), nil
}

// agentConfig is rescue-agent.json, by which the agent knows for whom it runs.
type agentConfig struct {
	Server  string `json:"server"`
	Token   string `json:"token"`
	Machine string `json:"machine"`
	Order   string `json:"order"`
	DaRT    bool   `json:"dart"`
}

// orderedWIM opens the image's WIM with the order's files in it. The WIM itself
// is not touched: its bytes go out as they lie on the disk, between a header and a tail of the order's.
func (t *Table) orderedWIM(d Decision, mac MAC) (*File, error) {
	w := d.Image.Windows
	f, err := t.openImageFile(d, mac, d.Image, w.WIM)
	if err != nil {
		return nil, err
	}
	base := f.ReadSeeker.(*os.File)
	o, err := t.overlays.of(overlayKey{d.Order.ID, f.SHA256}, func() (*overlay, error) {
		added, err := t.orderedFiles(d)
		if err != nil || len(added) == 0 {
			return &overlay{}, err
		}
		return newOverlay(base, f, w.Index, added)
	})
	if err != nil {
		f.Close()
		return nil, &Refusal{Reason: fmt.Sprintf("%s of %s %s", w.WIM, d.Image.Name, err), Hint: "rescuebox image verify " + d.Image.Name}
	}
	if o.patched == nil {
		return f, nil
	}
	head, tail := o.patched.Header, o.patched.Tail
	f.ReadSeeker = images.Join(images.Segment{Base: bytes.NewReader(head), Size: int64(len(head))},
		images.Segment{Base: base, At: int64(len(head)), Size: f.Size - int64(len(head))},
		images.Segment{Base: bytes.NewReader(tail), Size: int64(len(tail))}) // closes the file with itself
	f.Size, f.Tag, f.SHA256, f.Personal = o.patched.Size, o.tag, "", true
	return f, nil
}

// orderedFiles are what goes into \Windows\System32 for one order. Without an agent
// what can be done without it is done, and the timeline says what cannot.
func (t *Table) orderedFiles(d Decision) ([]wim.Added, error) {
	w := *d.Image.Windows
	program, err := t.agentFor(d.Image)
	if err != nil {
		t.tellNoAgent(d, err)
		if w.DaRT == "" {
			return nil, nil // it starts as it always did
		}
		return []wim.Added{{Name: winpeshlName, Data: winpeshl(w, false)}}, nil
	}
	config, err := json.Marshal(agentConfig{t.cfg.Server, d.Order.Token, d.Machine.Name, d.Order.ID, w.DaRT != ""})
	if err != nil {
		return nil, err
	}
	return []wim.Added{{Name: winpeshlName, Data: winpeshl(w, true)}, {Name: agentName, Data: program}, {Name: agentConfigName, Data: config}}, nil
}

func (t *Table) agentFor(img images.Image) ([]byte, error) {
	if t.cfg.AgentFor == nil {
		return nil, errors.New("there is no agent for Windows")
	}
	return t.cfg.AgentFor(img)
}

// tellNoAgent says in the timeline why nobody will report.
func (t *Table) tellNoAgent(d Decision, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, ok := t.orders[d.Order.ID]
	if !ok || !t.onceLocked(o.ID, "no agent", maxToldFiles) {
		return
	}
	hint := "look at the machine's screen, then: rescuebox cancel " + d.Machine.Name
	if d.Image.Windows.DaRT != "" {
		hint = "the ticket number is on the machine's screen, in the window of Remote Connection; then: rescuebox cancel " + d.Machine.Name
	}
	t.causeLocked(o, Cause{Key: "no-agent", Hint: hint,
		Text: fmt.Sprintf("%s boots, but no ticket will come by itself: %s", d.Image.Name, why)})
}

// maxOverlays bounds the memory for them: each has the agent in it, some 5 MB.
const maxOverlays = 8

// overlays are the WIMs of the orders that machines load now. The same order has the same
// bytes always, so that one that was forgotten is made again in mid-transfer.
type overlays struct {
	mu   sync.Mutex
	list []*overlay // used last first
}

// overlayKey is an order and the SHA-256 of its image's WIM.
type overlayKey struct{ order, wim string }

// overlay is what an order's WIM has beside the image's; without patched it is that as it is.
type overlay struct {
	key     overlayKey
	made    sync.Mutex // held while it is made
	patched *wim.Patched
	tag     string
	done    bool
}

// of finds an overlay or makes it, once for all who ask for it meanwhile.
func (l *overlays) of(key overlayKey, create func() (*overlay, error)) (*overlay, error) {
	o := l.find(key)
	o.made.Lock()
	defer o.made.Unlock()
	if o.done {
		return o, nil
	}
	fresh, err := create()
	if err != nil {
		return nil, err
	}
	o.patched, o.tag, o.done = fresh.patched, fresh.tag, true
	return o, nil
}

func (l *overlays) find(key overlayKey) *overlay {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := &overlay{key: key}
	list := []*overlay{found}
	for _, o := range l.list {
		if o.key == key {
			found, list[0] = o, o
		} else if len(list) < maxOverlays {
			list = append(list, o)
		}
	}
	l.list = list
	return found
}

// forget drops those of an order that has ended. Who still reads one keeps it meanwhile.
func (l *overlays) forget(order string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(o *overlay) bool { return o.key.order == order })
}

// newOverlay adds files to a WIM.
func newOverlay(base io.ReaderAt, f *File, index int, added []wim.Added) (*overlay, error) {
	w, err := wim.Open(base, f.Size)
	if err != nil {
		return nil, err
	}
	p, err := w.With(index, added)
	if err != nil {
		return nil, err
	}
	return &overlay{patched: p, tag: tagOf(f.SHA256, p.Header, p.Tail)}, nil
}
