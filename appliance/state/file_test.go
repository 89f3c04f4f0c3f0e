package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// wants fails unless an error has all the parts.
func wants(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q lacks %q", err, p)
		}
	}
}

// inMountNamespace runs the rest of a test in a child that has mounts of its
// own: reports whether this is the child.
func inMountNamespace(t *testing.T) bool {
	const mark = "RESCUEBOX_TEST_MOUNTS"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounts a file system: run as root")
		}
		t.Skip("mounts a file system: needs root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Error("the child ran nothing")
	}
	return false
}

func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFullDisk(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	dir := mountTmpfs(t, "size=1m")
	path := filepath.Join(dir, "rescuebox.db")
	db := mustOpen(t, path)
	tickets := NewTable[string](db, "tickets", Durable)
	events := NewLog[string](db, "events", Relaxed, 100)
	var err error
	stored := 0
	for ; err == nil && stored < 1000; stored++ {
		err = tickets.Put(fmt.Sprint(stored), strings.Repeat("x", 10_000))
	}
	wants(t, err, path, "no space left", "free some", dir, "free some on")
	t.Logf("after %d documents: %v", stored, err)
	if list, err := tickets.All(); err != nil || len(list) != stored-1 {
		t.Errorf("%d documents can be read, %v; want %d", len(list), err, stored-1)
	}
	for err = nil; err == nil; {
		_, err = events.Append("order", strings.Repeat("y", 100))
	}
	wants(t, err, "no space left")

	// Space comes back: so does the daemon, without a restart.
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	if err := tickets.Put("last", "z"); err != nil {
		t.Error(err)
	}
	if err := db.conn.check("integrity_check"); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}

	// A full disk at the start.
	fill(t, filepath.Join(dir, "filler"))
	db, err = Open(path)
	if err != nil {
		t.Fatalf("a full disk keeps the daemon from starting: %v", err)
	}
	if list, err := NewTable[string](db, "tickets", Durable).All(); err != nil || len(list) != stored {
		t.Errorf("%d documents, %v; want %d", len(list), err, stored)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	_, err = Open(filepath.Join(dir, "new.db"))
	wants(t, err, "new.db", "free some")
}

// fill takes all the space that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

func TestReadOnlyDir(t *testing.T) {
	if !inMountNamespace(t) {
		return
	}
	dir := mountTmpfs(t, "")
	path := filepath.Join(dir, "rescuebox.db")
	mustOpen(t, path).Close()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Join(dir, "new.db")} {
		_, err := Open(p)
		wants(t, err, p, "read-only file system", dir, "writable")
	}
}

func TestMissingDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nowhere")
	_, err := Open(filepath.Join(dir, "rescuebox.db"))
	wants(t, err, dir, "no such file", "make the directory", "[state] dir")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}

// TestLocked: a second daemon in a process of its own, and in ours.
func TestLocked(t *testing.T) {
	const mark = "RESCUEBOX_TEST_LOCKED"
	if path := os.Getenv(mark); path != "" {
		_, err := Open(path)
		fmt.Printf("second: %v\n", err)
		return
	}
	path := filepath.Join(t.TempDir(), "rescuebox.db")
	db := mustOpen(t, path)
	_, err := Open(path)
	wants(t, err, path, "another process holds", "stop that one")

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLocked$")
	cmd.Env = append(os.Environ(), mark+"="+path)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "another process holds the file") {
		t.Errorf("second process: %v\n%s", err, out)
	}
	if err := NewTable[int](db, "orders", Durable).Put("a", 1); err != nil {
		t.Errorf("the first daemon suffers: %v", err)
	}
}

func TestMode(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	path := filepath.Join(t.TempDir(), "rescuebox.db")
	mode := func() (modes []fs.FileMode) {
		files, err := filepath.Glob(path + "*")
		if err != nil || len(files) < 2 {
			t.Fatal("want the file and its WAL:", files, err)
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			modes = append(modes, info.Mode().Perm())
		}
		return modes
	}
	want := []fs.FileMode{0o600, 0o600}
	db := mustOpen(t, path)
	if got := mode(); !cmp.Equal(want, got) {
		t.Errorf("a new file's modes: %v", got)
	}
	db.Close()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path)
	if got := mode(); !cmp.Equal(want, got) {
		t.Errorf("modes of a file that others could read: %v", got)
	}
}

// TestDamaged breaks a file in many ways: the box must start every time, with
// a file that takes documents, and must have kept and named what it gave up.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "good.db")
	db := mustOpen(t, path)
	leases := NewTable[string](db, "leases", Relaxed)
	for i := range 300 {
		if err := leases.Put(fmt.Sprint(i), strings.Repeat("x", 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	setAside := 0
	for i := range 60 {
		bad := append([]byte(nil), good...)
		switch i % 3 {
		case 0:
			bad = bad[:1+rnd.IntN(len(bad)-1)]
		case 1:
			at := rnd.IntN(len(bad)/4096) * 4096
			for j := range 200 {
				bad[at+j] = byte(rnd.Uint32())
			}
		case 2:
			clear(bad[rnd.IntN(len(bad)/512)*512:][:512])
		}
		if startsWith(t, bad) {
			setAside++
		}
	}
	t.Logf("%d of 60 were set aside", setAside)
	if setAside < 20 {
		t.Errorf("only %d of 60 were found damaged", setAside)
	}
	if !startsWith(t, []byte("<E><A ID=...>this was never a database")) {
		t.Error("a file of another kind was not set aside")
	}
}

// startsWith opens a file of the content and uses it.
func startsWith(t *testing.T, content []byte) (setAside bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rescuebox.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := Open(path)
	if err != nil {
		t.Error(err)
		return false
	}
	defer db.Close()
	orders := NewTable[int](db, "orders", Durable)
	if err := orders.Put("a", 1); err != nil {
		t.Error(err)
	}
	if list, err := orders.All(); err != nil || len(list) != 1 {
		t.Error(list, err)
	}
	kept, _ := filepath.Glob(path + ".corrupt-*")
	if db.Warning() == nil {
		return false
	}
	wants(t, db.Warning(), path, "start anew", "check the disk")
	if len(kept) != 1 || !strings.Contains(db.Warning().Error(), kept[0]) {
		t.Errorf("kept %v, warning %v", kept, db.Warning())
		return true
	}
	if was, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(was, content) {
		t.Errorf("what was kept is not what was there: %v", err)
	}
	return true
}

// TestDamagedOften: a dying disk must not be filled with its own remains.
func TestDamagedOften(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rescuebox.db")
	for range 6 {
		if err := os.WriteFile(path, []byte("not a database at all"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := mustOpen(t, path).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if kept, _ := filepath.Glob(path + ".corrupt-*"); len(kept) != keepDamaged {
		t.Errorf("%d damaged files are kept: %v", len(kept), kept)
	}
}
