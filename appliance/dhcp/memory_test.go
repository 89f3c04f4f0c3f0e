package dhcp

import (
	"slices"
	"testing"
)

func TestLRU(t *testing.T) {
	l := newLRU[string, int](3)
	for i, k := range []string{"a", "b", "c", "a", "d", "e", "d"} { // b goes for d, c for e
		l.put(k, i)
	}
	if v, ok := l.get("a"); !ok || v != 3 {
		t.Errorf("a is %d %v, want its newest value", v, ok)
	}
	var kept []string
	for e := l.order.Front(); e != nil; e = e.Next() {
		kept = append(kept, e.Value.(*entry[string, int]).key)
	}
	if want := []string{"a", "d", "e"}; !slices.Equal(kept, want) || len(l.byKey) != 3 {
		t.Errorf("kept %v and %d keys, want %v", kept, len(l.byKey), want)
	}
	for _, gone := range []string{"b", "c"} {
		if _, ok := l.get(gone); ok {
			t.Errorf("%s is still there", gone)
		}
	}
	if n := testing.AllocsPerRun(100, func() { l.put("x", 1); l.put("y", 2) }); n > 0 {
		t.Errorf("%v allocations for what takes another's place", n)
	}
}
