package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestConcurrent is for the race detector: writers, readers and Close at once.
func TestConcurrent(t *testing.T) {
	db := mustOpen(t, filepath.Join(t.TempDir(), "s.db"))
	leases := NewTable[int](db, "leases", Relaxed)
	events := NewLog[doc](db, "events", Durable, 50)
	var confirmed atomic.Int64
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				if err := leases.Put(fmt.Sprint(w, i), i); err != nil {
					if !errors.Is(err, errClosed) {
						t.Error(err)
					}
					return
				}
				confirmed.Add(1)
				events.Append(fmt.Sprint(w), doc{N: i})
				if _, err := events.Read(fmt.Sprint(w), 0, 0); err != nil && !errors.Is(err, errClosed) {
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond) // and longer, where the machine stalls
	for end := time.Now().Add(time.Minute); confirmed.Load() < 100 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	list, err := NewTable[int](mustOpen(t, db.path), "leases", Relaxed).All()
	if err != nil || int64(len(list)) != confirmed.Load() || len(list) == 0 {
		t.Errorf("%d documents, %v; %d were confirmed", len(list), err, confirmed.Load())
	}
	if _, err := leases.All(); !errors.Is(err, errClosed) {
		t.Errorf("a closed file is read: %v", err)
	}
}

// TestNeighbours: what is wrong with one document is the trouble of its caller alone.
func TestNeighbours(t *testing.T) {
	db := mustOpen(t, filepath.Join(t.TempDir(), "s.db"))
	orders := NewTable[string](db, "orders", Durable)
	put := func(key any, n int) *write {
		return &write{query: orders.put, args: []any{key, strings.Repeat("x", n)}}
	}

	group := []*write{put("a", 1), put(nil, 1), put("b", 1)} // a key that no table takes
	db.commit(group)
	if group[0].err != nil || group[1].err == nil || group[2].err != nil {
		t.Errorf("errors %v, %v, %v: want only the second", group[0].err, group[1].err, group[2].err)
	}
	if n, err := db.conn.number("SELECT count(*) FROM orders"); n != 2 || err != nil {
		t.Errorf("%d documents, %v; want 2", n, err)
	}
	wants(t, orders.Put("c", strings.Repeat("x", maxDoc)), `"c"`, "orders", "bytes")
	wants(t, NewTable[func()](db, "orders", Durable).Put("d", func() {}), `"d"`, "orders", "unsupported type")
	wants(t, NewTable[int](db, "orcs", Durable).Put("d", 1), "orcs", "no such table")
	if err := orders.Put("e", "x"); err != nil {
		t.Error(err)
	}
}

// TestNeighboursFullDisk: one document is larger than what is left of the disk.
func TestNeighboursFullDisk(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	db := mustOpen(t, filepath.Join(mountTmpfs(t, "size=512k"), "s.db"))
	orders := NewTable[string](db, "orders", Durable)
	var group []*write
	for i, n := range []int{10, 800_000, 10} {
		group = append(group, &write{query: orders.put, args: []any{fmt.Sprint(i), strings.Repeat("x", n)}})
	}
	db.commit(group)
	if group[0].err != nil || group[2].err != nil {
		t.Errorf("the neighbours fail: %v, %v", group[0].err, group[2].err)
	}
	wants(t, explain(db.path, "put", group[1].err), "no space left")
	if n, err := db.conn.number("SELECT count(*) FROM orders"); n != 2 || err != nil {
		t.Errorf("%d documents, %v; want 2", n, err)
	}
}

// syncs counts what goes to the disk.
type syncs struct {
	n   atomic.Int32
	err error
}

func (s *syncs) Sync() error  { s.n.Add(1); return s.err }
func (s *syncs) Close() error { return nil }

// level is PRAGMA synchronous of the last commit: 1 is NORMAL, 2 is FULL.
func level(t *testing.T, db *DB) int64 {
	t.Helper()
	db.mu.Lock()
	defer db.mu.Unlock()
	n, err := db.conn.number("PRAGMA synchronous")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDurability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := mustOpen(t, filepath.Join(t.TempDir(), "s.db"))
		orders, leases := NewTable[int](db, "orders", Durable), NewTable[int](db, "leases", Relaxed)
		wal := new(syncs)
		db.wal = wal
		put := func(table Table[int], want int64) {
			t.Helper()
			if err := table.Put("a", 1); err != nil {
				t.Error(err)
			}
			if got := level(t, db); got != want {
				t.Errorf("synchronous is %d, want %d", got, want)
			}
		}
		put(leases, 1)
		put(leases, 1)
		time.Sleep(900 * time.Millisecond)
		if n := wal.n.Load(); n != 1 {
			t.Errorf("%d late syncs after 0.9 s, want 1", n)
		}
		put(leases, 1)
		put(orders, 2) // brings the lease onto the disk, too
		time.Sleep(900 * time.Millisecond)
		if n := wal.n.Load(); n != 1 {
			t.Errorf("%d late syncs, want no other", n)
		}
		wal.err = errors.New("medium error")
		put(leases, 1)
		time.Sleep(900 * time.Millisecond)
		put(leases, 2) // SQLite has to say what is wrong
		wal.err = nil
	})
}

// TestWALBound: readers and writers in turn must not let the WAL grow.
func TestWALBound(t *testing.T) {
	db := mustOpen(t, filepath.Join(t.TempDir(), "s.db"))
	leases := NewTable[string](db, "leases", Relaxed)
	for i := range 5000 {
		if err := leases.Put(fmt.Sprint(i%100), strings.Repeat("x", 2000)); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			if _, err := leases.All(); err != nil {
				t.Fatal(err)
			}
		}
	}
	info, err := os.Stat(db.path + "-wal")
	if err != nil || info.Size() > 6<<20 {
		t.Errorf("the WAL has %d bytes, %v", info.Size(), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(db.path, &st); err != nil || st.Size > 2<<20 {
		t.Errorf("the file has %d bytes, %v", st.Size, err)
	}
}
