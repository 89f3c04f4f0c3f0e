package wim

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// mostFuzzed bounds what a fuzzed file may unpack to, so that the fuzzer is quick.
const mostFuzzed = 1 << 20

// Whatever the bytes are, there is a result or an error, and a result is a WIM that is
// read again with what was added.
func FuzzOpen(f *testing.F) {
	f.Add(windowsPE().bytes(), "winpeshl.ini", []byte("new"))
	f.Add(lzxFile().bytes(), "x", []byte{})
	f.Fuzz(func(t *testing.T, b []byte, name string, data []byte) {
		w, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, img := range w.Images() {
			n, total := 0, int64(0)
			_ = w.walk(img.Index, func(path string, file node) error {
				total += w.entry(file).Size
				if n++; n > 1000 {
					return io.EOF
				}
				_, _ = w.ReadFile(img.Index, path, mostFuzzed)
				return nil
			})
			if total > mostFuzzed {
				continue // a few bytes can say that they are many
			}
			_ = w.Check(img.Index, func(done, total int64) {
				if done > total {
					t.Fatalf("%d of %d bytes are checked", done, total)
				}
			})
		}
		p, err := w.With(0, []Added{{name, data}})
		if err != nil {
			return
		}
		joined := append(append(bytes.Clone(p.Header), b[len(p.Header):]...), p.Tail...)
		again, err := Open(bytes.NewReader(joined), int64(len(joined)))
		if err != nil {
			t.Fatalf("what was patched cannot be opened: %v", err)
		}
		got, err := again.ReadFile(0, system32+`\`+name, int64(len(data)))
		if err != nil && len(data) > 0 && w.blobs.find(sha1Of(string(data))) >= 0 {
			return // it was there already, and damaged
		}
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%q of %d bytes: %d bytes, %v", name, len(data), len(got), err)
		}
	})
}

// The metadata of an image that has the right SHA-1 is still anybody's.
func FuzzMetadata(f *testing.F) {
	f.Add(windowsPE().metadata, "winpeshl.ini")
	f.Fuzz(func(t *testing.T, metadata []byte, name string) {
		if len(metadata) == 0 {
			return // and there is no image
		}
		w := openBytes(t, (&crafted{metadata: metadata}).bytes())
		if _, err := w.Patch(0, []Added{{name, []byte("x")}}); err != nil {
			return
		}
		tr, _ := w.tree(0)
		dir, _ := tr.find(system32)
		err := tr.list(dir, func(n node) bool {
			name := n.text()
			if got, err := w.Entry(0, system32+"/"+name); err != nil && name != "" && utf8.ValidString(name) && !strings.ContainsAny(name, `\/\ufffd`) {
				t.Fatalf("%q is listed and not found: %+v, %v", name, got, err)
			}
			return true
		})
		if err != nil {
			t.Fatalf("what can be patched cannot be read: %v", err)
		}
	})
}

func FuzzLZX(f *testing.F) {
	f.Add(lzxChunk(3), 1200, byte(0))
	f.Add(lzxChunk(7), 40_000, byte(3))
	f.Fuzz(func(t *testing.T, src []byte, size int, order byte) {
		if size < 0 || size > mostFuzzed {
			return
		}
		d := newLZX(1 << (15 + order%7))
		once(t, d, src, size)
	})
}

func FuzzXPRESS(f *testing.F) {
	f.Add(append(bytes.Repeat([]byte{0x88}, 256), "some bits of some symbols"...), 40_000)
	f.Fuzz(func(t *testing.T, src []byte, size int) {
		if size < 0 || size > 1<<16 {
			return
		}
		once(t, &xpress{}, src, size)
	})
}

// once unpacks the same twice: nothing may be left from the first time.
func once(t *testing.T, u unpacker, src []byte, size int) {
	first, second := make([]byte, size), make([]byte, size)
	err := u.unpack(first, src)
	_ = u.unpack(make([]byte, 100), src)
	if again := u.unpack(second, src); (err == nil) != (again == nil) || !bytes.Equal(first, second) {
		t.Errorf("%v, then %v", err, again)
	}
}

// lzxChunk is a chunk with blocks of two kinds.
func lzxChunk(shift int) []byte {
	var w bitWriter
	w.verbatim(900+shift, true, true)
	w.raw([]byte("12345"), 3, 2, 1)
	w.verbatim(200, true, false)
	w.bits(0, 16)
	return w.b
}

// lzxFile is a Windows PE in a file that says LZX.
func lzxFile() *crafted {
	c := windowsPE()
	c.flags, c.chunk = fileCompressed|fileLZX, 1<<15
	b := lzxChunk(0)
	c.blob(b, 900+19+5+200+19, flagCompressed, 1, sha1Of("whatever"))
	return c
}
