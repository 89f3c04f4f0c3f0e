// Package state is the one SQLite file. It knows tables and logs of JSON
// documents, not what they mean: each part brings its own type and reaches its
// table through an interface that the part owns.
package state

// Durability says what survives a power cut. Everything survives kill -9.
type Durability bool

// The durabilities.
const (
	Durable Durability = true  // on disk before Put returns
	Relaxed Durability = false // on disk within a second
)

// DB is the open file.
type DB struct{}

// Open opens the file, makes it if needed, and migrates it to the current schema.
func Open(path string) (*DB, error) { return nil, nil }

// Close writes what is left and closes the file.
func (db *DB) Close() error { return nil }

// Table keeps one document per key. All methods may be called by many goroutines; concurrent
// writes share one transaction.
type Table[T any] struct{}

// NewTable is a table of the schema: orders, leases, tickets, machines, tokens.
func NewTable[T any](db *DB, name string, d Durability) Table[T] { return Table[T]{} }

// Put stores a document; it is committed when Put returns.
func (t Table[T]) Put(key string, v T) error { return nil }

// Delete removes a document; deleting what is not there is no error.
func (t Table[T]) Delete(key string) error { return nil }

// All reads all documents, in the order of their keys.
func (t Table[T]) All() ([]T, error) { return nil, nil }

// Log keeps documents in the order in which they came, the oldest ones dropped
// beyond its size.
type Log[T any] struct{}

// NewLog is a log of the schema: events, audit.
func NewLog[T any](db *DB, name string, d Durability, max int) Log[T] { return Log[T]{} }

// Append stores a document under a key (an order's id, say) and returns its number.
func (l Log[T]) Append(key string, v T) (seq int64, err error) { return 0, nil }

// Read returns the documents of a key ("" for all) with numbers above after, oldest
// first, at most max. A T with a method SetSeq(int64) on its pointer is told its number.
func (l Log[T]) Read(key string, after int64, max int) ([]T, error) { return nil, nil }
