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
	o, err := t.overlays.of(overlayKey{d.Order.ID, f.SHA256, w.Index}, func(o *overlay) error {
		added, err := t.orderedFiles(d)
		if err != nil || len(added) == 0 {
			return err
		}
		return o.make(base, f, added)
	})
	if err != nil {
		f.Close()
		return nil, &Refusal{Reason: fmt.Sprintf("%s of %s %s", w.WIM, d.Image.Name, err), Hint: "rescuebox image verify " + d.Image.Name}
	}
	if o.patch != nil {
		f.ReadSeeker = joined(base, f.Size, o.patch)
		f.Size, f.Tag, f.SHA256, f.Personal = o.patch.Size, o.tag, "", true
	}
	return f, nil
}

// joined is a WIM with its patch: it closes the file with itself.
func joined(base *os.File, size int64, p *wim.Patch) *images.Overlay {
	memory := func(b []byte) images.Segment { return images.Segment{Base: bytes.NewReader(b), Size: int64(len(b))} }
	head := memory(p.Header)
	segments := []images.Segment{head, {Base: base, At: head.Size, Size: size - head.Size}}
	for _, part := range p.Tail {
		segments = append(segments, memory(part))
	}
	return images.Join(segments...)
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

// maxOverlays bounds how many are kept. Those of one image share the memory of its
// tree of files and of the agent, so that a further one is but a few hundred kilobytes.
const maxOverlays = 64

// overlays are the WIMs of the orders that machines load now. The same order has the same
// bytes always, so that one that was forgotten is made again in mid-transfer.
type overlays struct {
	mu   sync.Mutex
	list []*overlay // used last first
}

// overlayKey is an order, the SHA-256 of its image's WIM, and the image in that.
type overlayKey struct {
	order, wim string
	index      int
}

// overlay is what an order's WIM has beside the image's; without a patch it is that as it is.
type overlay struct {
	key   overlayKey
	patch *wim.Patch
	tag   string

	wim   *wim.File // what it was made of, for the next order of the same image
	agent []byte

	made sync.Mutex // held while it is made
	done bool
}

// of finds an overlay or makes it, once for all who ask for it meanwhile.
func (l *overlays) of(key overlayKey, create func(*overlay) error) (*overlay, error) {
	o := l.find(key)
	o.made.Lock()
	defer o.made.Unlock()
	if o.done {
		return o, nil
	}
	fresh := &overlay{key: key}
	fresh.wim, fresh.agent = l.parts(key)
	if err := create(fresh); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	o.patch, o.tag, o.wim, o.agent, o.done = fresh.patch, fresh.tag, fresh.wim, fresh.agent, true
	return o, nil
}

// parts are what another order of the same image was made of.
func (l *overlays) parts(key overlayKey) (*wim.File, []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.list {
		if o.wim != nil && o.key.wim == key.wim && o.key.index == key.index {
			return o.wim, o.agent
		}
	}
	return nil, nil
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

// make adds files to a WIM. The tree of one that another order was made of is unpacked
// already, and its reader, which that order has closed, is not read again.
func (o *overlay) make(base io.ReaderAt, f *File, added []wim.Added) (err error) {
	if o.wim == nil {
		if o.wim, err = wim.Open(base, f.Size); err != nil {
			return err
		}
	}
	for i, a := range added {
		switch {
		case a.Name != agentName:
		case bytes.Equal(a.Data, o.agent):
			added[i].Data = o.agent
		default: // the first, or the package was renewed meanwhile
			o.agent = a.Data
		}
	}
	if o.patch, err = o.wim.Patch(o.key.index, added); err != nil {
		return err
	}
	o.tag = tagOf(f.SHA256, o.patch.Header, o.patch.Sum[:])
	return nil
}
