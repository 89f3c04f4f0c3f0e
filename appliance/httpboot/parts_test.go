package httpboot

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Whatever the order of the parts: a file is whole when every byte was there, and not before.
func TestParts(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		key := partKey{name: "f", size: int64(1 + r.IntN(40))}
		have := make([]bool, key.size)
		var p parts
		for step := 0; ; step++ {
			start := r.Int64N(key.size)
			end := start + r.Int64N(key.size-start) + 1
			missing := 0
			for i := range have {
				have[i] = have[i] || int64(i) >= start && int64(i) < end
				if !have[i] {
					missing++
				}
			}
			whole := p.add(key, span{start, end})
			if whole != (missing == 0) {
				t.Fatalf("seed %d, step %d: whole is %v with %d bytes missing: %v", seed, step, whole, missing, p.have)
			}
			if whole {
				break
			}
		}
		if len(p.have) != 0 || len(p.keys) != 0 {
			t.Fatalf("left behind: %v", p.have)
		}
	}
}

func TestPartsAreBounded(t *testing.T) {
	var p parts
	for i := range 2 * maxParts {
		p.add(partKey{name: fmt.Sprint(i), size: 10}, span{0, 1})
	}
	if len(p.have) != maxParts || len(p.keys) != maxParts {
		t.Errorf("%d files, %d keys", len(p.have), len(p.keys))
	}
	for i := range int64(1000) {
		p.add(partKey{name: "holes", size: 10_000}, span{2 * i, 2*i + 1})
	}
	if n := len(p.have[partKey{name: "holes", size: 10_000}]); n > maxSpans {
		t.Errorf("%d holes", n)
	}
	if !p.add(partKey{name: "empty"}, span{0, 0}) {
		t.Error("an empty file never ends")
	}
}
