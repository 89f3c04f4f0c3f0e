package images

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/iotest"
)

// whole is what an overlay must read as.
func whole(base []byte, patches []Patch) []byte {
	out := bytes.Clone(base)
	for _, p := range patches {
		for i, c := range p.Data {
			if at := p.At + int64(i); at >= 0 && at < int64(len(out)) {
				out[at] = c
			}
		}
	}
	return out
}

// randomBytes of a small range, so that a byte from a wrong place shows.
func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func randomPatches(r *rand.Rand, size int) (list []Patch) {
	for range r.IntN(6) {
		at := int64(r.IntN(size+20) - 10) // also over the edges
		list = append(list, Patch{At: at, Data: randomBytes(r, r.IntN(size/2+2))})
	}
	return list
}

// Whatever is patched, in whatever pieces it is read: the bytes are those of the patched whole.
func TestOverlay(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		base := randomBytes(r, 1+r.IntN(400))
		patches := randomPatches(r, len(base))
		want := whole(base, patches)
		o := NewOverlay(bytes.NewReader(base), int64(len(base)), patches...)
		if err := iotest.TestReader(o, want); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for range 20 {
			at := r.IntN(len(want) + 5)
			b := make([]byte, r.IntN(len(want)+5))
			n, err := o.ReadAt(b, int64(at))
			rest := want[min(at, len(want)):]
			if !bytes.Equal(b[:n], rest[:min(len(rest), len(b))]) || (err == io.EOF) != (n < len(b)) {
				t.Fatalf("seed %d: %d bytes at %d of %d: %d, %v", seed, len(b), at, len(want), n, err)
			}
		}
	}
}

// Joined files, as a head with patches and a tail: the segments lead to the same bytes.
func TestOverlaySegments(t *testing.T) {
	head, tail := []byte("0123456789"), []byte("abcdef")
	o := Join(Segment{bytes.NewReader(head), 2, 6}, Segment{}, Segment{bytes.NewReader(tail), 1, 4})
	got, err := io.ReadAll(o)
	if string(got) != "234567bcde" || err != nil || o.Size() != 10 {
		t.Fatalf("%q, %v, %d bytes", got, err, o.Size())
	}
	for at, want := range got {
		s := o.Segment(int64(at))
		b := make([]byte, 1)
		if _, err := s.Base.ReadAt(b, s.At); err != nil || b[0] != want {
			t.Errorf("at %d: %q, want %q", at, b, want)
		}
	}
	if s := o.Segment(10); s.Size != 0 || o.Segment(-1).Size != 0 || o.Segment(3).Size != 3 {
		t.Errorf("segments %+v %+v", s, o.Segment(3))
	}
}

// Many read at once: one file, one overlay.
func TestOverlayIsSharable(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	base := randomBytes(r, 1<<16)
	path := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(path, base, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	patches := []Patch{{100, randomBytes(r, 5000)}, {60000, randomBytes(r, 9000)}}
	want := whole(base, patches)
	o := NewOverlay(f, int64(len(base)), patches...)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			got, err := io.ReadAll(io.NewSectionReader(o, int64(i*1000), o.Size()-int64(i*1000)))
			if err != nil || !bytes.Equal(got, want[i*1000:]) {
				t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	all.Wait()
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Stat(); err == nil {
		t.Error("the file is still open")
	}
}

// A file that became shorter is an error, not an end.
func TestOverlayOfATruncatedFile(t *testing.T) {
	o := NewOverlay(bytes.NewReader([]byte("short")), 10, Patch{8, []byte("xx")})
	if got, err := io.ReadAll(o); string(got) != "short" || err != io.ErrUnexpectedEOF {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := o.Seek(-1, io.SeekStart); err == nil {
		t.Error("a place before the beginning was taken")
	}
	if _, err := o.Seek(0, 9); err == nil {
		t.Error("whence 9 was taken")
	}
	if _, err := o.ReadAt(nil, -1); err == nil {
		t.Error("a read before the beginning was taken")
	}
}
