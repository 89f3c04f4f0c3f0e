package tftp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// dirTree is a Tree over a directory that notes what it is told.
type dirTree struct {
	dir   string
	block int // largest block of its clients

	mu       sync.Mutex
	served   []string
	events   []boot.Event
	progress int64
}

func (t *dirTree) Open(path string, _ netip.Addr) (*boot.File, error) {
	switch {
	case strings.HasPrefix(path, "no order"):
		return nil, &boot.Refusal{Reason: "srv01 has no order", Hint: "rescuebox boot srv01 IMAGE", Local: true}
	case strings.HasPrefix(path, "broken"):
		return nil, errors.New("open /var/lib/rescuebox/secret: input/output error")
	case strings.HasPrefix(path, "panic"):
		panic("a bug")
	}
	f, err := os.Open(filepath.Join(t.dir, filepath.Clean("/"+path)))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size()
	if path == "short" {
		size += 5000 // as if the disk had lost the end
	}
	return &boot.File{ReadSeeker: f, Name: path, Size: size, SHA256: "00", BlockSize: t.block}, nil
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
func (t *dirTree) seen() (served []string, events []boot.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.served...), append([]boot.Event(nil), t.events...)
}

// TestMain is a server or a client where the test program is started again in a
// network namespace: "TFTP_TEST_SERVE=addr:port,dir", "TFTP_TEST_GET=addr:port blksize windowsize",
// which fetches "f" and prints the block size and the hash, and "TFTP_TEST_MEASURE=…", which
// scripts/bench uses; see measure.
func TestMain(m *testing.M) {
	if addr, dir, ok := strings.Cut(os.Getenv("TFTP_TEST_SERVE"), ","); ok {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		tree := &dirTree{dir: dir}
		s := &Server{Addr: netip.MustParseAddrPort(addr), Tree: tree, Log: zap.NewNop()}
		if err := s.Run(ctx, func() { fmt.Println("ready") }); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		served, events := tree.seen()
		fmt.Println(served, events)
		return
	}
	if words := os.Getenv("TFTP_TEST_GET"); words != "" {
		var addr string
		f, hash := &fetch{path: "f"}, sha256.New()
		_, err := fmt.Sscan(words, &addr, &f.block, &f.window)
		if f.server = netip.MustParseAddrPort(addr); err == nil {
			err = f.get(hash)
		}
		fmt.Printf("%d %x %v", f.block, hash.Sum(nil), err)
		return
	}
	if words := os.Getenv("TFTP_TEST_MEASURE"); words != "" {
		if err := measure(words); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}
