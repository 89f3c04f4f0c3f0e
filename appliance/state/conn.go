package state

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"

	"modernc.org/sqlite"
)

// conn is the one connection, used by one goroutine at a time. It stands on the
// driver's own interface: database/sql would bring a pool that reopens
// connections behind our back, losing the exclusive lock and the settings.
type conn struct {
	c     driver.Conn
	stmts map[string]driver.Stmt
	full  bool // PRAGMA synchronous is FULL, not NORMAL
	owed  bool // a late fsync failed: the next group has to be synced
}

// settings make the file ours alone, small in memory, and never mapped.
const settings = `
PRAGMA busy_timeout = 1000;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA foreign_keys = ON;
PRAGMA trusted_schema = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -1024;
PRAGMA mmap_size = 0;
PRAGMA synchronous = FULL;
PRAGMA journal_size_limit = 4194304;
PRAGMA wal_autocheckpoint = 1000;`

func dial(path string) (*conn, error) {
	uri := "file:" + (&url.URL{Path: path}).EscapedPath()
	dc, err := new(sqlite.Driver).Open(uri)
	if err != nil {
		return nil, err
	}
	c := &conn{c: dc, stmts: map[string]driver.Stmt{}, full: true}
	err = c.script(settings)
	if err == nil {
		err = c.script("PRAGMA journal_mode = WAL")
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// script runs statements that are needed once.
func (c *conn) script(text string) error {
	_, err := c.c.(driver.ExecerContext).ExecContext(context.Background(), text, nil)
	return err
}

func (c *conn) exec(query string, args ...any) error {
	_, err := c.insert(query, args...)
	return err
}

// insert runs a statement that it prepares once, and returns the last rowid.
func (c *conn) insert(query string, args ...any) (int64, error) {
	s, err := c.stmt(query)
	if err != nil {
		return 0, err
	}
	r, err := s.(driver.StmtExecContext).ExecContext(context.Background(), named(args))
	if err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

// query calls row for every row of a statement of the form SELECT number, text.
func (c *conn) query(query string, args []any, row func(n int64, text string) error) (err error) {
	s, err := c.stmt(query)
	if err != nil {
		return err
	}
	rows, err := s.(driver.StmtQueryContext).QueryContext(context.Background(), named(args))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	cells := make([]driver.Value, 2)
	for {
		switch err := rows.Next(cells); err {
		case nil:
		case io.EOF:
			return nil
		default:
			return err
		}
		n, ok := cells[0].(int64)
		text, ok2 := cells[1].(string)
		if !ok || !ok2 {
			return fmt.Errorf("the file holds %T, %T where number and text belong", cells[0], cells[1])
		}
		if err := row(n, text); err != nil {
			return err
		}
	}
}

func (c *conn) stmt(query string) (driver.Stmt, error) {
	if s := c.stmts[query]; s != nil {
		return s, nil
	}
	s, err := c.c.Prepare(query)
	if err == nil {
		c.stmts[query] = s
	}
	return s, err
}

func named(args []any) []driver.NamedValue {
	list := make([]driver.NamedValue, len(args))
	for i, a := range args {
		list[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return list
}

// number reads a pragma's or statement's single number.
func (c *conn) number(query string) (n int64, err error) {
	rows, err := c.c.(driver.QueryerContext).QueryContext(context.Background(), query, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	cells := make([]driver.Value, 1)
	if err := rows.Next(cells); err != nil {
		return 0, err
	}
	n, _ = cells[0].(int64)
	return n, nil
}

// synchronous chooses whether a commit waits for the disk. It cannot be changed
// within a transaction.
func (c *conn) synchronous(full bool) error {
	if full == c.full {
		return nil
	}
	level := "NORMAL"
	if full {
		level = "FULL"
	}
	if err := c.script("PRAGMA synchronous = " + level); err != nil {
		return err
	}
	c.full = full
	return nil
}

// check reads through the whole file: quick_check its structure,
// integrity_check the indexes too.
func (c *conn) check(pragma string) error {
	rows, err := c.c.(driver.QueryerContext).QueryContext(context.Background(), "PRAGMA "+pragma+"(1)", nil)
	if err != nil {
		return err
	}
	defer rows.Close()
	cells := make([]driver.Value, 1)
	if err := rows.Next(cells); err != nil {
		return err
	}
	if cells[0] != "ok" {
		return fmt.Errorf("%w: %v", errDamaged, cells[0])
	}
	return nil
}

// checkpoint brings the WAL into the file, so that what is left behind is one file.
func (c *conn) checkpoint() error { return c.script("PRAGMA wal_checkpoint(TRUNCATE)") }

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.c.Close())...)
}
