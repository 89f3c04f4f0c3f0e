package wim

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

// One File serves many at once: it unpacks once, and what one has in hand no other changes.
func TestManyAtOnce(t *testing.T) {
	tree := smallTree()
	f := openPath(t, tree.capture(t))
	want, err := openPath(t, tree.capture(t)).ReadFile(1, `Windows\System32\zzz.dll`, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	patches := make([]*Patch, 16)
	var wg sync.WaitGroup
	for i := range patches {
		wg.Go(func() {
			p, err := f.Patch(0, []Added{{"token.json", fmt.Append(nil, i%2)}})
			if err != nil {
				t.Error(err)
				return
			}
			patches[i] = p
			if got, err := f.ReadFile(0, "windows/system32/ZZZ.dll", 1<<20); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, p := range patches {
		first := patches[i%2]
		if p.Sum != first.Sum || !bytes.Equal(bytes.Join(p.Tail, nil), bytes.Join(first.Tail, nil)) || !bytes.Equal(p.Header, first.Header) {
			t.Errorf("patch %d is not patch %d", i, i%2)
		}
	}
	if patches[0].Sum == patches[1].Sum {
		t.Error("two orders have one sum")
	}
}
