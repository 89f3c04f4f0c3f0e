package httpboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"rescuebox/appliance/boot"
	"rescuebox/images"
)

// dirTree is a Tree over a directory that notes what it is told.
type dirTree struct {
	dir   string
	patch *images.Patch // over every file, as an order's text

	mu       sync.Mutex
	hashes   map[string]string
	served   []string
	events   []boot.Event
	progress int64
}

func (t *dirTree) Open(p string, _ netip.Addr) (*boot.File, error) {
	name := path.Base(p)
	switch name {
	case "none":
		return nil, &boot.Refusal{Reason: "srv01 has no order", Hint: "rescuebox boot srv01 IMAGE", Local: true}
	case "broken":
		return nil, errors.New("open /var/lib/rescuebox/secret: input/output error")
	case "panic":
		panic("a bug")
	case "boot.ipxe":
		script := []byte("#!ipxe\necho hello\n")
		return &boot.File{ReadSeeker: bytes.NewReader(script), Name: name, Size: int64(len(script)), Script: true}, nil
	}
	f, err := os.Open(filepath.Join(t.dir, name))
	if err != nil {
		return nil, &boot.Refusal{Reason: "there is no " + name}
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	file := &boot.File{ReadSeeker: f, Name: name, Size: info.Size(), ModTime: info.ModTime(), Tag: t.hash(name, f)}
	if t.patch != nil {
		file.ReadSeeker, file.Personal = images.NewOverlay(f, info.Size(), *t.patch), true
		file.Tag += fmt.Sprintf("%x", sha256.Sum256(t.patch.Data))
	}
	return file, nil
}

func (t *dirTree) hash(name string, f *os.File) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hashes == nil {
		t.hashes = map[string]string{}
	}
	if _, ok := t.hashes[name]; !ok {
		sum := sha256.New()
		io.Copy(sum, f)
		f.Seek(0, io.SeekStart)
		t.hashes[name] = hex.EncodeToString(sum.Sum(nil))
	}
	return t.hashes[name]
}

func (t *dirTree) Served(f *boot.File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.served = append(t.served, f.Name)
}

func (t *dirTree) Progress(_ *boot.File, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.progress = max(t.progress, n)
}

func (t *dirTree) Record(e boot.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
}

// seen is what the tree was told so far.
func (t *dirTree) seen() (served []string, events []boot.Event, progress int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.served...), append([]boot.Event(nil), t.events...), t.progress
}

// TestMain serves a directory when the test program is started again under
// strace: "HTTPBOOT_TEST_SERVE=addr:port,dir".
func TestMain(m *testing.M) {
	if addr, dir, ok := strings.Cut(os.Getenv("HTTPBOOT_TEST_SERVE"), ","); ok {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		s := &Server{Addr: netip.MustParseAddrPort(addr), Tree: &dirTree{dir: dir}}
		if err := s.Run(ctx, func() { fmt.Println("ready") }); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}
