package images

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func ownerOf(t *testing.T, path string) (uid, gid uint32, mode fs.FileMode) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid, fi.Mode()
}

func TestFilesBelongToTheLibrarysOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	l := &Library{Dir: filepath.Join(t.TempDir(), "images")}
	os.Mkdir(l.Dir, 0o755)
	if err := os.Chown(l.Dir, 4242, 4343); err != nil {
		t.Skip(err)
	}
	i := addTest(t, l, "rescue", "k")
	for _, path := range []string{i.Dir, filepath.Join(i.Dir, tomlName), filepath.Join(i.Dir, "vmlinuz")} {
		uid, gid, mode := ownerOf(t, path)
		if uid != 4242 || gid != 4343 || mode.Perm()&0o444 != 0o444 || mode.Perm()&0o022 != 0 {
			t.Errorf("%s: owner %d:%d mode %v", path, uid, gid, mode)
		}
	}
}

// TestMain is also the process that TestKilledImport kills: it imports an
// image whose second file never ends, and says when it has come that far.
func TestMain(m *testing.M) {
	if dir := os.Getenv("IMAGES_TEST_IMPORT"); dir != "" {
		l := &Library{Dir: dir}
		_, err := l.Add(Image{Name: os.Getenv("IMAGES_TEST_NAME"), Kind: BootSet},
			map[string]io.Reader{"a": strings.NewReader("first"), "b": &endless{}})
		panic(err)
	}
	os.Exit(m.Run())
}

type endless struct{ n int }

func (e *endless) Read(b []byte) (int, error) {
	if e.n += len(b); e.n > 1<<20 {
		os.Stdout.WriteString("importing\n")
		time.Sleep(time.Hour)
	}
	return len(b), nil
}

// startImport starts a process that is in the middle of an import.
func startImport(t *testing.T, dir, name string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "IMAGES_TEST_IMPORT="+dir, "IMAGES_TEST_NAME="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "importing\n" {
		t.Fatalf("the importing process said %q, %v", line, err)
	}
	return cmd
}

// backdate makes the library's temporary directories older than any that is never swept.
func backdate(t *testing.T, dir string) (n int) {
	t.Helper()
	left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	old := time.Now().Add(-2 * young)
	for _, path := range left {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	return len(left)
}

func TestKilledImport(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	old := addTest(t, l, "rescue", "old")
	killed := startImport(t, l.Dir, "rescue")
	alive := startImport(t, l.Dir, "other")
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed.Wait()

	list, errs := l.List()
	if len(list) != 1 || len(errs) != 0 || list[0].Name != "rescue" {
		t.Errorf("List after the kill: %v, %v", list, errs)
	}
	if got, err := l.Get("rescue"); err != nil || !cmp.Equal(got, old) || l.Verify(got) != nil {
		t.Errorf("the image that was to be replaced: %+v, %v", got, err)
	}
	if n := backdate(t, l.Dir); n != 2 {
		t.Fatalf("%d temporary directories, want that of the killed and that of the living", n)
	}
	addTest(t, l, "rescue", "new")
	if n := backdate(t, l.Dir); n != 1 {
		t.Errorf("%d temporary directories after the next Add, want only that of the living import", n)
	}
	if err := alive.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error(err)
	}
}

func TestPipeIsNotWaitedFor(t *testing.T) {
	l := &Library{Dir: t.TempDir()}
	i := addTest(t, l, "rescue", "kernel")
	path := filepath.Join(i.Dir, "vmlinuz")
	os.Remove(path)
	if err := syscall.Mkfifo(path, 0o644); err != nil {
		t.Skip(err)
	}
	if _, _, err := l.Open(i, "vmlinuz"); err == nil || !strings.Contains(err.Error(), "vmlinuz is no regular file") {
		t.Errorf("Open of a pipe: %v", err)
	}
}

// small makes a library on a file system of 256 KiB.
func small(t *testing.T) *Library {
	t.Helper()
	l := &Library{Dir: filepath.Join(t.TempDir(), "images")}
	if err := os.Mkdir(l.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", l.Dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("mount: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(l.Dir, syscall.MNT_DETACH) })
	return l
}

func TestFullDisk(t *testing.T) {
	l := small(t)
	addTest(t, l, "rescue", "old")
	big := strings.NewReader(strings.Repeat("x", 1<<20))
	_, err := l.Add(Image{Name: "rescue", Kind: BootSet}, map[string]io.Reader{"big": big})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "add image rescue: file big:") {
		t.Errorf("Add: %v", err)
	}
	if names := visible(t, l); !cmp.Equal(names, []string{"rescue"}) {
		t.Errorf("left %v", names)
	}
	addTest(t, l, "rescue", "there is room again")
}

func TestReadOnlyLibrary(t *testing.T) {
	l := small(t)
	i := addTest(t, l, "rescue", "kernel")
	if err := syscall.Mount("", l.Dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skip("remount: ", err)
	}
	if _, err := l.Add(Image{Name: "x", Kind: BootSet}, nil); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), l.Dir) {
		t.Errorf("Add: %v", err)
	}
	if err := l.Remove("rescue"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Remove: %v", err)
	}
	if err := l.Verify(i); err != nil {
		t.Errorf("reading: %v", err)
	}
}
