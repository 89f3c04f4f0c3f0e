package api

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// Whatever comes, a frame is whole and bounded or an error, and written again it is the same bytes.
func FuzzFrame(f *testing.F) {
	for _, seed := range []string{"", "d\x00\x05hello", "h\x00\x00", "d\xff\xff", "n\x00\x02{}e\x00\x00", "d\x40\x00x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, rest := bytes.NewReader(in), in
		for {
			kind, b, err := ReadFrame(r)
			if err != nil {
				if errors.Is(err, io.EOF) && len(rest) != 0 {
					t.Errorf("a clean end with %d bytes left", len(rest))
				}
				return
			}
			var again bytes.Buffer
			if err := WriteFrame(&again, kind, b); err != nil {
				t.Fatal(err)
			}
			if n := again.Len(); n > len(rest) || !bytes.Equal(again.Bytes(), rest[:n]) {
				t.Fatalf("%q became %q", rest, again.Bytes())
			}
			rest = rest[again.Len():]
		}
	})
}
