// Package state is the one SQLite file. It knows tables and logs of JSON
// documents, not what they mean: each part brings its own type and reaches its
// table through an interface that the part owns.
//
// One connection holds the file in SQLite's exclusive locking mode: a second
// daemon is told so instead of corrupting it, and the WAL index lies in our own
// memory, not in a mapped -shm file whose pages a full disk could take away
// (SIGBUS). One goroutine writes; what is waiting for it shares a transaction
// and, where durable, one fsync.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Durability says what survives a power cut. Everything survives kill -9.
type Durability bool

// The durabilities.
const (
	Durable Durability = true  // on disk before Put returns
	Relaxed Durability = false // on disk within a second
)

// maxDoc bounds one document. The largest honest one, a ticket with its raw
// report, is far below.
const maxDoc = 1 << 20

// DB is the open file.
type DB struct {
	path    string
	warning error

	mu   sync.Mutex // guards conn: the writer's groups and the readers take turns
	conn *conn
	wal  syncer // the -wal file, for the late fsync of relaxed writes

	queue   chan *write
	closing chan struct{}
	close   sync.Once
	writer  sync.WaitGroup
	err     error // of Close
}

// Open opens the file, makes it if needed, and migrates it to the current
// schema. A corrupt file must not keep the box from rescuing: it is renamed to
// PATH.corrupt-TIME, a new one begins, and Warning says so.
func Open(path string) (*DB, error) { return open(path, schema) }

func open(path string, steps []string) (*DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("state file: %w", err)
	}
	db := &DB{path: path, queue: make(chan *write), closing: make(chan struct{})}
	err = db.begin(steps)
	if damaged(err) {
		if db.warning, err = setAside(path, err); err == nil {
			err = db.begin(steps)
		}
	}
	if err != nil {
		return nil, explain(path, "open", err)
	}
	db.writer.Go(db.run)
	return db, nil
}

// begin opens, migrates and checks the file.
func (db *DB) begin(steps []string) (err error) {
	if err := prepareFile(db.path); err != nil {
		return err
	}
	if db.conn, err = dial(db.path); err != nil {
		return err
	}
	err = db.conn.migrate(steps)
	if err == nil {
		err = db.conn.check("quick_check")
	}
	if err == nil {
		db.wal, err = os.Open(db.path + "-wal")
	}
	if err != nil {
		db.conn.close()
	}
	return err
}

// Warning says what Open found broken and did about it; nil in ordinary times.
func (db *DB) Warning() error { return db.warning }

// Close writes what is left and closes the file.
func (db *DB) Close() error {
	db.close.Do(func() {
		close(db.closing)
		db.writer.Wait()
		db.mu.Lock()
		defer db.mu.Unlock()
		db.err = errors.Join(db.wal.Sync(), db.wal.Close(), db.conn.checkpoint(), db.conn.close())
		db.conn = nil
	})
	if db.err != nil {
		return explain(db.path, "close", db.err)
	}
	return nil
}

// syncer is what is needed of a file to bring it onto the disk.
type syncer interface {
	io.Closer
	Sync() error
}

// errClosed is what a closed DB answers.
var errClosed = errors.New("the state file is closed: the daemon is stopping")

// read runs a query on the one connection.
func (db *DB) read(query string, args []any, row func(seq int64, doc string) error) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.conn == nil {
		return errClosed
	}
	return db.conn.query(query, args, row)
}

// Table keeps one document per key. All methods may be called by many goroutines; concurrent
// writes share one transaction.
type Table[T any] struct {
	db       *DB
	name     string
	durable  bool
	put, del string
	all      string
}

// NewTable is a table of the schema: orders, leases, tickets, machines, tokens.
func NewTable[T any](db *DB, name string, d Durability) Table[T] {
	return Table[T]{
		db: db, name: name, durable: bool(d),
		put: "INSERT INTO " + name + " (key, doc) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET doc = excluded.doc",
		del: "DELETE FROM " + name + " WHERE key = ?",
		all: "SELECT 0, doc FROM " + name + " ORDER BY key",
	}
}

// Put stores a document; it is committed when Put returns.
func (t Table[T]) Put(key string, v T) error {
	doc, err := encode(v)
	if err != nil {
		return fmt.Errorf("put %q into %s: %w", key, t.name, err)
	}
	return t.write("put into", t.put, key, doc)
}

// Delete removes a document; deleting what is not there is no error.
func (t Table[T]) Delete(key string) error { return t.write("delete from", t.del, key) }

func (t Table[T]) write(doing, query string, args ...any) error {
	w := &write{query: query, args: args, durable: t.durable, done: make(chan struct{})}
	if err := t.db.do(w); err != nil {
		return explain(t.db.path, doing+" "+t.name, err)
	}
	return nil
}

// All reads all documents, in the order of their keys. Documents that cannot
// be decoded are left out and named in the error; the others are returned beside it.
func (t Table[T]) All() ([]T, error) {
	var list []T
	var broken []error
	err := t.db.read(t.all, nil, func(_ int64, doc string) error {
		var v T
		if err := json.Unmarshal([]byte(doc), &v); err != nil {
			broken = append(broken, fmt.Errorf("a document of %s cannot be read: %w", t.name, err))
			return nil
		}
		list = append(list, v)
		return nil
	})
	if err != nil {
		return nil, explain(t.db.path, "read "+t.name, err)
	}
	return list, errors.Join(broken...)
}

// Log keeps documents in the order in which they came, the oldest ones dropped
// beyond its size.
type Log[T any] struct {
	db      *DB
	name    string
	durable bool
	max     int
	add     string
	prune   string
}

// NewLog is a log of the schema: events, audit.
func NewLog[T any](db *DB, name string, d Durability, max int) Log[T] {
	return Log[T]{
		db: db, name: name, durable: bool(d), max: max,
		add:   "INSERT INTO " + name + " (key, time, doc) VALUES (?, ?, ?)",
		prune: "DELETE FROM " + name + " WHERE seq <= ?",
	}
}

// Append stores a document under a key (an order's id, say) and returns its number.
func (l Log[T]) Append(key string, v T) (seq int64, err error) {
	doc, err := encode(v)
	if err != nil {
		return 0, fmt.Errorf("append to %s under %q: %w", l.name, key, err)
	}
	w := &write{
		query: l.add, args: []any{key, time.Now().UnixMilli(), doc}, durable: l.durable,
		prune: l.prune, keep: int64(l.max), done: make(chan struct{}),
	}
	if err := l.db.do(w); err != nil {
		return 0, explain(l.db.path, "append to "+l.name, err)
	}
	return w.seq, nil
}

// Read returns the documents of a key ("" for all) with numbers above after, oldest
// first, at most max; max below 1 is all. A T with a method SetSeq(int64) on its
// pointer is told its number. Documents that cannot be decoded are left out and
// named in the error; the others are returned beside it.
func (l Log[T]) Read(key string, after int64, max int) ([]T, error) {
	query, args := "SELECT seq, doc FROM "+l.name+" WHERE key = ? AND seq > ? ORDER BY seq LIMIT ?", []any{key, after, limit(max)}
	if key == "" {
		query, args = "SELECT seq, doc FROM "+l.name+" WHERE seq > ? ORDER BY seq LIMIT ?", args[1:]
	}
	var list []T
	var broken []error
	err := l.db.read(query, args, func(seq int64, doc string) error {
		var v T
		if err := json.Unmarshal([]byte(doc), &v); err != nil {
			broken = append(broken, fmt.Errorf("document %d of %s cannot be read: %w", seq, l.name, err))
			return nil
		}
		if s, ok := any(&v).(interface{ SetSeq(int64) }); ok {
			s.SetSeq(seq)
		}
		list = append(list, v)
		return nil
	})
	if err != nil {
		return nil, explain(l.db.path, "read "+l.name, err)
	}
	return list, errors.Join(broken...)
}

// limit is SQL's LIMIT for a maximum: -1 is none.
func limit(max int) int64 {
	if max < 1 {
		return -1
	}
	return int64(max)
}

// encode is a document's JSON text.
func encode(v any) (string, error) {
	doc, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	if len(doc) > maxDoc {
		return "", fmt.Errorf("the document has %d bytes, more than the %d that are stored", len(doc), maxDoc)
	}
	return string(doc), nil
}
