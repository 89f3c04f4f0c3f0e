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
		return &hinted{err, "make the directory " + dir + " for the user that runs rescueboxd, or set [state] dir"}
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return &hinted{fmt.Errorf("directory %s: %w", dir, err), "make it writable for the user that runs rescueboxd, or set [state] dir"}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return protect(path)
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), syncDir(dir))
}

// protect makes sure that an existing file can be written, and read by its
// owner only.
func protect(path string) error {
	const hint = "give the file to the user that runs rescueboxd"
	if err := unix.Access(path, unix.R_OK|unix.W_OK); err != nil {
		return &hinted{err, hint}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return &hinted{err, hint}
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
			return nil, fmt.Errorf("the file is damaged and cannot be set aside: %w", err)
		}
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("the damaged file was set aside, but not for good: %w", err)
	}
	return fmt.Errorf("state %s was damaged (%w): orders, leases, tickets and API tokens start anew; the damaged file is kept as %s; check the disk", path, why, aside), nil
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

// hinted is an error that knows what to do about it.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// explain says which file failed at what, and what to do.
func explain(path, doing string, err error) error {
	return fmt.Errorf("state %s: %s: %w%s", path, doing, err, hint(filepath.Dir(path), err))
}

// hint is what to do about an error, by its code.
func hint(dir string, err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return ": " + h.hint
	}
	if errors.Is(err, unix.ENOSPC) {
		return ": free some space on the file system of " + dir
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return ": make " + dir + " writable for the user that runs rescueboxd"
	}
	switch code(err) {
	case sqlite3.SQLITE_FULL:
		return ": no space left: free some on the file system of " + dir
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return ": another process holds the file, most likely a second rescueboxd: stop that one"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return ": make " + dir + " writable for the user that runs rescueboxd"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return ": restart rescueboxd, which sets the damaged file aside and starts anew, and check the disk"
	case sqlite3.SQLITE_IOERR:
		return ": the disk failed, look at what the kernel says (dmesg)"
	}
	return ""
}
