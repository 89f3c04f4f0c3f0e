package wim_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rescuebox/appliance/boot"
	"rescuebox/appliance/httpboot"
	"rescuebox/images"
	"rescuebox/images/wim"
)

// TestMeasure is no test but the program of scripts/bench.d/wim, which says in
// WIM_MEASURE what is to be done: "tree DIR" writes a tree like a Windows PE's, "time WIM" prints
// how many milliseconds an overlay takes, "serve ADDRESS WIM" serves the file and its overlay.
func TestMeasure(t *testing.T) {
	args := strings.Fields(os.Getenv("WIM_MEASURE"))
	if len(args) < 2 {
		t.Skip("for scripts/bench wim")
	}
	var err error
	switch args[0] {
	case "tree":
		err = writeTree(args[1])
	case "time":
		err = timeOverlay(args[1])
	case "serve":
		err = serve(args[1], args[2])
	}
	if err != nil {
		t.Fatal(err)
	}
}

// writeTree writes 20,000 files of 850 MB: 4,500 of them in System32, many in WinSxS, as
// in a Windows PE with its optional components.
func writeTree(root string) error {
	r := rand.New(rand.NewPCG(1, 2))
	pool := make([]byte, 8<<20)
	for i := 0; i < len(pool); { // a third of it comes again, as in programs
		n := min(1+r.IntN(60), len(pool)-i)
		if i > 1<<16 && r.IntN(2) == 0 {
			copy(pool[i:i+n], pool[i-r.IntN(1<<15)-n:])
		} else {
			for j := range n {
				pool[i+j] = byte(r.NormFloat64() * 40)
			}
		}
		i += n
	}
	for i := range 20_000 {
		dir := fmt.Sprintf("Windows/WinSxS/amd64_component-%04d_31bf3856ad364e35_10.0.26100.1_none_%08x", i/3, i/3)
		switch {
		case i < 4500:
			dir = "Windows/System32"
		case i < 5000:
			dir = fmt.Sprintf("Windows/System32/DriverStore/FileRepository/driver%d.inf_amd64", i%100)
		}
		dir = filepath.Join(root, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		size := min(int(r.ExpFloat64()*44_000), len(pool)/2)
		at := r.IntN(len(pool) - size)
		content := append(fmt.Appendf(nil, "%d\n", i), pool[at:at+size]...)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("library-%05d.dll", i)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// added is what an order brings: the agent has 5 MB.
func added() []wim.Added {
	agent := make([]byte, 5<<20)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range agent {
		agent[i] = byte(r.Uint32())
	}
	return []wim.Added{
		{Name: "winpeshl.ini", Data: []byte("[LaunchApps]\r\n%SYSTEMROOT%\\system32\\rescue-agent.exe, start\r\n")},
		{Name: "rescue-agent.exe", Data: agent},
		{Name: "rescue-agent.json", Data: []byte(`{"server":"http://192.168.77.1","token":"0123456789abcdef"}`)},
	}
}

// timeOverlay prints the milliseconds: of the first overlay with nothing of the file in memory,
// of the first with all of it, and of another one.
func timeOverlay(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	files := added()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	var w *wim.File
	var p *wim.Patched
	measure := func(what string, do func() error) error {
		runtime.GC()
		begin := time.Now()
		err := do()
		fmt.Printf("%s %.1f\n", what, float64(time.Since(begin).Microseconds())/1000)
		return err
	}
	first := func() (err error) {
		if w, err = wim.Open(f, info.Size()); err == nil {
			p, err = w.With(0, files)
		}
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{{"disk", first}, {"cold", first}, {"warm", func() (err error) { p, err = w.With(0, files); return err }}} {
		if err := measure(step.name, step.do); err != nil {
			return err
		}
	}
	fmt.Printf("tail %d\n", p.Size-info.Size())
	return nil
}

// shelf is a tree of two files: /plain and /overlay.
type shelf struct {
	path  string
	patch *wim.Patch
}

func (s *shelf) Open(path string, _ netip.Addr) (*boot.File, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	file := &boot.File{ReadSeeker: f, Name: path, Size: info.Size(), ModTime: info.ModTime()}
	if strings.Contains(path, "overlay") {
		file.ReadSeeker, file.Size = joined(f, info.Size(), s.patch), s.patch.Size
	}
	return file, nil
}

// joined is the patched file.
func joined(f io.ReaderAt, size int64, p *wim.Patch) *images.Overlay {
	head := int64(len(p.Header))
	list := []images.Segment{{Base: bytes.NewReader(p.Header), Size: head}, {Base: f, At: head, Size: size - head}}
	for _, b := range p.Tail {
		list = append(list, images.Segment{Base: bytes.NewReader(b), Size: int64(len(b))})
	}
	return images.Join(list...)
}

func (s *shelf) Served(*boot.File)          {}
func (s *shelf) Progress(*boot.File, int64) {}
func (s *shelf) Record(boot.Event)          {}

// serve serves until it is interrupted, and prints the hash that the overlay shall have.
func serve(address, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w, err := wim.Open(f, info.Size())
	if err != nil {
		return err
	}
	p, err := w.Patch(0, added())
	if err != nil {
		return err
	}
	h := sha256.New()
	for _, part := range []io.Reader{bytes.NewReader(p.Header), io.NewSectionReader(f, int64(len(p.Header)), info.Size()-int64(len(p.Header))),
		bytes.NewReader(bytes.Join(p.Tail, nil))} {
		if _, err := io.Copy(h, part); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := httpboot.Server{Addr: netip.MustParseAddrPort(address), Tree: &shelf{path, p}}
	return s.Run(ctx, func() { fmt.Printf("ready %x\n", h.Sum(nil)) })
}
