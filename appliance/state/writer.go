package state

import (
	"time"
)

const (
	// maxGroup bounds a transaction, and so what a caller waits for.
	maxGroup = 512
	// syncAfter is how long relaxed writes wait for their fsync: with the time
	// that a slow flash card takes for it they are on disk within a second.
	syncAfter = 500 * time.Millisecond
)

// write is one caller's statement on its way through the writer.
type write struct {
	query   string
	args    []any
	durable bool
	prune   string // for logs: deletes what is older than the last keep documents
	keep    int64
	seq     int64 // rowid of what was inserted
	err     error
	done    chan struct{}
}

// do hands a write to the writer and waits until it is committed. The queue has
// no buffer: what is accepted is written, also while Close waits.
func (db *DB) do(w *write) error {
	select {
	case db.queue <- w:
		<-w.done
		return w.err
	case <-db.closing:
		return errClosed
	}
}

// run is the writer: it takes all who wait, writes them in one transaction, and
// answers. Relaxed writes get their fsync a moment later.
func (db *DB) run() {
	late := time.NewTimer(syncAfter)
	late.Stop()
	waiting := false // relaxed writes that are not synced
	for {
		select {
		case w := <-db.queue:
			group := db.gather(w)
			synced := db.commit(group)
			switch {
			case synced:
				late.Stop()
			case !waiting:
				late.Reset(syncAfter)
			}
			waiting = !synced
			for _, w := range group {
				close(w.done)
			}
		case <-late.C:
			// Where fsync fails the next group is synced by SQLite, whose
			// callers then get the error.
			waiting = db.wal.Sync() != nil
			db.mu.Lock()
			db.conn.owed = waiting
			db.mu.Unlock()
		case <-db.closing:
			return
		}
	}
}

// gather collects the writes that wait behind the first.
func (db *DB) gather(first *write) []*write {
	group := []*write{first}
	for len(group) < maxGroup {
		select {
		case w := <-db.queue:
			group = append(group, w)
		default:
			return group
		}
	}
	return group
}

// commit writes a group, and each of it alone if that fails: one document that
// a full disk has no room for shall not fail its neighbours.
func (db *DB) commit(group []*write) (synced bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	durable := db.conn.owed
	for _, w := range group {
		durable = durable || w.durable
	}
	err := db.conn.transact(group, durable)
	if err != nil && len(group) > 1 {
		for _, w := range group {
			w.err = db.conn.transact([]*write{w}, durable)
		}
		return false
	}
	if err != nil {
		group[0].err = err
		return false
	}
	db.conn.owed = false
	return durable
}

// transact writes a group in one transaction. What is wrong with one statement
// alone becomes that write's error; any other error undoes the whole.
func (c *conn) transact(group []*write, durable bool) (err error) {
	if err := c.synchronous(durable); err != nil {
		return err
	}
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = c.exec("ROLLBACK") // SQLite may have done so itself
		}
	}()
	for _, w := range group {
		w.seq, w.err = c.insert(w.query, w.args...)
		if w.err != nil && !ownFault(w.err) {
			return w.err
		}
	}
	if err := c.prune(group); err != nil {
		return err
	}
	return c.exec("COMMIT")
}

// prune drops the oldest documents of the logs that grew: once per group and
// log, by the primary key, so that no append costs a scan.
func (c *conn) prune(group []*write) error {
	done := ""
	for i := len(group) - 1; i >= 0; i-- {
		w := group[i]
		if w.keep <= 0 || w.err != nil || w.prune == done {
			continue
		}
		if err := c.exec(w.prune, w.seq-w.keep); err != nil {
			return err
		}
		done = w.prune
	}
	return nil
}
