package wim

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
)

// What is damaged is found and named, whatever else is right; so is what nobody can read.
func TestCheckFinds(t *testing.T) {
	good := windowsPE()
	b := good.bytes()
	driver := resourceOf(openBytes(t, b).blobs.raw[openBytes(t, b).blobs.find(sha1Of("driver")):])
	b[driver.at] ^= 1
	plain := &crafted{}
	plain.tree([]thing{{name: "Windows", children: []thing{{name: "System32", children: []thing{{name: "a.txt", attributes: attributeNormal, content: []byte("driver")}}}}}})
	whole := plain.bytes()
	damaged := bytes.Clone(whole)
	damaged[headerSize] ^= 1
	lost := &crafted{}
	lost.tree([]thing{{name: "a.txt", attributes: attributeNormal, content: []byte("driver")}})
	lost.table = nil
	for name, c := range map[string]struct {
		wim  []byte
		is   error
		want string
	}{
		"whole":     {whole, nil, ""},
		"damaged":   {damaged, ErrDamaged, `\Windows\System32\a.txt: `},
		"encrypted": {b, ErrEncrypted, `secret.txt is encrypted`},
		"lost":      {lost.bytes(), ErrDamaged, `\a.txt: `},
	} {
		err := openBytes(t, c.wim).Check(1, func(int64, int64) {})
		if !errors.Is(err, c.is) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// widest is a file that notes the largest read.
type widest struct {
	io.ReaderAt
	mu   sync.Mutex
	most int
}

func (w *widest) ReadAt(b []byte, at int64) (int, error) {
	w.mu.Lock()
	w.most = max(w.most, len(b))
	w.mu.Unlock()
	return w.ReaderAt.ReadAt(b, at)
}

// A box with little memory checks a file that is larger than that, and a file that is there under
// many names once.
func TestCheckInPieces(t *testing.T) {
	large := bytes.Repeat(program(rand.New(rand.NewPCG(1, 2)), 3<<20+17), 7)
	tree := maps.Clone(smallTree())
	for _, name := range []string{"Windows/large.dat", "Windows/again.dat", "Windows/System32/large.dat"} {
		tree[name] = large
	}
	for _, options := range [][]string{{"--compress=none"}, {"--compress=LZX:20"}, {"--compress=XPRESS", "--chunk-size=4K"}, {"--compress=LZX:20", "--chunk-size=2M"}} {
		path := tree.capture(t, options...)
		r, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		info, err := r.Stat()
		if err != nil {
			t.Fatal(err)
		}
		w := &widest{ReaderAt: r}
		f, err := Open(w, info.Size())
		if err != nil {
			t.Fatal(err)
		}
		var last, step, sum int64
		err = f.Check(1, func(done, total int64) {
			step, last, sum = max(step, done-last), done, total
		})
		if err != nil || last != sum || sum != tree.size() {
			t.Errorf("%v: checked %d of %d bytes, and there are %d: %v", options, last, sum, tree.size(), err)
		}
		if most := 2 << 20; w.most > most || step > int64(most) {
			t.Errorf("%v: read %d bytes at once and unpacked %d, more than %d", options, w.most, step, most)
		}
	}
}
