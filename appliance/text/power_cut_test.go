package text

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// disk is a file system in a file, of which nothing comes to the file but what was synced.
type disk struct{ file, at string }

// mount has it in this thread's own world. What a power cut would leave is the file.
func (d disk) mount() error {
	if err := os.Mkdir(d.at, 0o700); err != nil {
		return err
	}
	// Ext4 would guess that a file which replaces another one is to be synced.
	out, err := exec.Command("mount", "-o", "loop,commit=300,noauto_da_alloc", d.file, d.at).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// When a command is followed, that its code was used is on the disk, and not only on its way there.
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to mount a disk takes root")
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("mkfs.ext4 is missing: install the Debian package e2fsprogs")
	}
	if err != nil {
		t.Skip("mkfs.ext4 is missing")
	}
	dir := t.TempDir()
	live, cut := disk{filepath.Join(dir, "live.img"), filepath.Join(dir, "live")}, disk{filepath.Join(dir, "cut.img"), filepath.Join(dir, "cut")}
	if err := os.WriteFile(live.file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", "-F", live.file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	skip := ""
	done := make(chan struct{})
	go func() { // in a thread, and with it a world of mounts, that end with the function
		defer close(done)
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_FS | syscall.CLONE_NEWNS); err != nil {
			skip = err.Error()
			return
		}
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			skip = err.Error()
			return
		}
		if err := live.mount(); err != nil {
			skip = err.Error()
			return
		}
		powerCut(t, live, cut)
	}()
	<-done
	if skip != "" {
		t.Skip("no disk can be mounted here: ", skip)
	}
}

func powerCut(t *testing.T, live, cut disk) {
	w := &world{t: t, store: &table{all: map[string]Text{}}, acts: &acts{}, out: make(chan sent, 10)}
	w.Desk = w.desk(live.at, "all")
	uri, err := w.Enroll(admin)
	if err != nil {
		t.Error(err)
		return
	}
	w.secret = secretOf(t, uri)
	for range 3 {
		w.text("vpn up " + w.code())
	}
	left, err := os.ReadFile(live.file)
	if err == nil {
		err = os.WriteFile(cut.file, left, 0o600)
	}
	if err == nil {
		err = cut.mount()
	}
	if err != nil {
		t.Error(err)
		return
	}
	r, err := readRecord(filepath.Join(cut.at, "secrets"), admin)
	if err != nil || r == nil || r.Counter != 3 || len(r.Doing) != 3 {
		t.Errorf("after a power cut the disk has %+v, %v; want the counter 3 and what was begun", r, err)
	}
}
