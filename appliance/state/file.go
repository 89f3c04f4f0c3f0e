package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// prepareFile makes the file where it does not exist, readable by nobody else
// (it holds order tokens), and says what is wrong with its directory. SQLite
// gives the -wal file the same mode.
//
// An existing file is looked at without opening it: closing it again would drop
// the POSIX locks that this process may hold on it.
func prepareFile(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state directory %s does not exist: create it for the user that runs rescueboxd, or set [state] dir", dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("state directory %s is not writable: %w: mount it read-write and give it to the user that runs rescueboxd, or set [state] dir", dir, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return protect(path)
	}
	if err != nil {
		return explain(path, "create", err)
	}
	return errors.Join(f.Close(), syncDir(dir))
}

// protect makes sure that an existing file can be written, and by its owner only.
func protect(path string) error {
	if err := unix.Access(path, unix.R_OK|unix.W_OK); err != nil {
		return fmt.Errorf("state file %s cannot be written: %w: give it to the user that runs rescueboxd", path, err)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm() == 0o600 {
		return nil
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("state file %s may be read by others: %w: give it to the user that runs rescueboxd", path, err)
	}
	return nil
}

// syncDir makes a new or renamed file's name survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keepDamaged is how many damaged files are kept: a dying flash card must not
// fill itself with them.
const keepDamaged = 3

// setAside renames a damaged file and its WAL, and says so.
func setAside(path string, why error) (warning, err error) {
	old, _ := filepath.Glob(path + ".corrupt-*Z")
	slices.Sort(old)
	for len(old) >= keepDamaged {
		os.Remove(old[0])
		os.Remove(old[0] + "-wal")
		old = old[1:]
	}
	aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000Z")
	for _, suffix := range []string{"-wal", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("state file %s is damaged and cannot be set aside: %w", path, err)
		}
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("set the damaged state file %s aside: %w", path, err)
	}
	return fmt.Errorf("orders, tickets and leases start anew, the damaged file is kept as %s: check the disk: %w", aside, why), nil
}

// errDamaged is what the check of a damaged file answers.
var errDamaged = errors.New("the file is damaged")

// damaged reports whether the file's content is the trouble, not the way to it.
func damaged(err error) bool {
	switch code(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return true
	}
	return errors.Is(err, errDamaged)
}

// ownFault reports whether an error is one statement's own, so that the
// transaction around it stands.
func ownFault(err error) bool {
	switch code(err) {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return true
	}
	return false
}

// code is SQLite's primary result code, or 0.
func code(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff
}

// explain says which file failed at what, and what to do.
func explain(path, doing string, err error) error {
	dir := filepath.Dir(path)
	hint := ""
	switch c := code(err); {
	case c == sqlite3.SQLITE_FULL, errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("state %s: %s: no space left on the file system of %s: free some space, the daemon keeps running on what it has: %w", path, doing, dir, err)
	case c == sqlite3.SQLITE_BUSY, c == sqlite3.SQLITE_LOCKED:
		hint = ": another process holds it, most likely a second rescueboxd: stop that one"
	case c == sqlite3.SQLITE_READONLY, c == sqlite3.SQLITE_CANTOPEN, c == sqlite3.SQLITE_PERM, errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		hint = ": make " + dir + " writable for the user that runs rescueboxd"
	case c == sqlite3.SQLITE_CORRUPT, c == sqlite3.SQLITE_NOTADB:
		hint = ": the file is damaged: restart rescueboxd, which sets it aside and starts anew, and check the disk"
	case c == sqlite3.SQLITE_IOERR:
		hint = ": the disk failed: look into dmesg"
	}
	return fmt.Errorf("state %s: %s: %w%s", path, doing, err, hint)
}
