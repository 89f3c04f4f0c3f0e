package state

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type doc struct {
	Name string
	N    int
	Seq  int64 `json:"-"`
}

func (d *doc) SetSeq(n int64) { d.Seq = n }

func mustOpen(t testing.TB, path string) *DB {
	t.Helper()
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?%41#.db")
	db := mustOpen(t, path)
	orders := NewTable[doc](db, "orders", Durable)
	for i, key := range []string{"b", "a", "c", "a"} {
		if err := orders.Put(key, doc{Name: key, N: i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := orders.Delete("c"); err != nil {
		t.Fatal(err)
	}
	if err := orders.Delete("nobody"); err != nil {
		t.Fatal(err)
	}
	want := []doc{{Name: "a", N: 3}, {Name: "b", N: 0}}
	got, err := orders.All()
	if err != nil || !cmp.Equal(want, got) {
		t.Fatal(cmp.Diff(want, got), err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := orders.Put("d", doc{}); err == nil {
		t.Fatal("a closed file takes documents")
	}
	got, err = NewTable[doc](mustOpen(t, path), "orders", Durable).All()
	if err != nil || !cmp.Equal(want, got) {
		t.Fatal("after opening again:", cmp.Diff(want, got), err)
	}
}

func TestLog(t *testing.T) {
	db := mustOpen(t, filepath.Join(t.TempDir(), "s.db"))
	events := NewLog[doc](db, "events", Relaxed, 10)
	for i := range 25 {
		seq, err := events.Append(fmt.Sprint("order", i%2), doc{N: i})
		if err != nil || seq != int64(i+1) {
			t.Fatal(seq, err)
		}
	}
	read := func(key string, after int64, max int) (n []int64) {
		list, err := events.Read(key, after, max)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			if int64(d.N+1) != d.Seq {
				t.Errorf("document %d was told number %d", d.N, d.Seq)
			}
			n = append(n, d.Seq)
		}
		return n
	}
	for _, c := range []struct {
		key   string
		after int64
		max   int
		want  []int64
	}{
		{"", 0, 0, []int64{16, 17, 18, 19, 20, 21, 22, 23, 24, 25}},
		{"", 22, 2, []int64{23, 24}},
		{"order0", 0, 100, []int64{17, 19, 21, 23, 25}},
		{"order1", 20, 1, []int64{22}},
		{"order2", 0, 0, nil},
	} {
		if got := read(c.key, c.after, c.max); !cmp.Equal(c.want, got) {
			t.Errorf("Read(%q, %d, %d): %v, want %v", c.key, c.after, c.max, got, c.want)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	for _, d := range []Durability{Relaxed, Durable} {
		b.Run(fmt.Sprintf("durable=%v", d), func(b *testing.B) {
			leases := NewTable[doc](mustOpen(b, filepath.Join(b.TempDir(), "s.db")), "leases", d)
			var wg sync.WaitGroup
			for c := range 64 {
				wg.Go(func() {
					for i := c; i < b.N; i += 64 {
						if err := leases.Put(fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8&0xff, i&0xff), doc{N: i, Name: "192.168.77.100 and the rest of a lease of a usual size, some 200 bytes in all with its times and host names"}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
		})
	}
}
