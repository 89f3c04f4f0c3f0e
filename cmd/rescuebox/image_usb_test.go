//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rescuebox/images"
)

// fakeSys is a /sys and /proc in which disks can be put.
type fakeSys struct {
	*sticks
	dir string
	dev string // of the test's own nodes
}

func newFakeSys(t *testing.T) *fakeSys {
	t.Helper()
	dir := t.TempDir()
	s := &fakeSys{dir: dir, dev: filepath.Join(dir, "dev"),
		sticks: &sticks{sys: filepath.Join(dir, "sys"), mounts: filepath.Join(dir, "mountinfo"), swaps: filepath.Join(dir, "swaps")}}
	for _, d := range []string{s.dev, filepath.Join(s.sys, "class/block")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.file(t, s.mounts, "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n30 22 0:44 / /data rw - btrfs /dev/sdf1 rw\n")
	s.file(t, s.swaps, "Filename\tType\tSize\tUsed\tPriority\n/dev/sdg2 partition 1 0 -2\n")
	return s
}

func (s *fakeSys) file(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// disk puts a disk on a bus, and its node, which is a plain file.
func (s *fakeSys) disk(t *testing.T, name, bus string, files map[string]string) string {
	t.Helper()
	real := filepath.Join(s.sys, "devices", bus, "block", name)
	for file, text := range files {
		s.file(t, filepath.Join(real, file), text+"\n")
	}
	link := filepath.Join(s.sys, "class/block", name)
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(s.dev, name)
	if _, err := os.Stat(node); err != nil {
		s.file(t, node, "")
	}
	return node
}

const usbBus = "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host4/target4:0:0/4:0:0:0"

func TestStickCheck(t *testing.T) {
	with := func(more ...string) map[string]string {
		files := map[string]string{"dev": "8:160", "size": "60000", "ro": "0", "removable": "0", "device/vendor": "SanDisk", "device/model": "Ultra"}
		for i := 0; i < len(more); i += 2 {
			files[more[i]] = more[i+1]
		}
		return files
	}
	for _, c := range []struct {
		name, disk, bus string
		files           map[string]string
		want            string
	}{
		{"a stick", "sdx", usbBus, with(), ""},
		{"an SSD on USB, which does not call itself removable", "sdx", usbBus, with("removable", "0"), ""},
		{"a card in a reader that does", "sdx", "pci0000:00/0000:02:00.0/host6", with("removable", "1"), ""},
		{"a disk in a bay that does", "sdx", "pci0000:00/0000:00:17.0/ata3/host2", with("removable", "1"), "is built in"},
		{"an SD card", "mmcblk1", "platform/mmc1", with("device/type", "SD"), ""},
		{"a disk that is built in", "sdx", "pci0000:00/ata1/usbless", with(), "is built in"},
		{"an eMMC", "mmcblk0", "platform/mmc0", with("device/type", "MMC"), "is built in"},
		{"a CD drive", "sr0", usbBus, with("removable", "1", "device/type", "5"), "is built in"},
		{"a partition", "sdx1", usbBus, with("partition", "1"), "is a partition"},
		{"write-protected", "sdx", usbBus, with("ro", "1"), "write-protected"},
		{"no medium", "sdx", usbBus, with("size", "0"), "no medium"},
		{"too small", "sdx", usbBus, with("size", "2047"), "has room for"},
		{"just large enough", "sdx", usbBus, with("size", "2048"), ""},
		{"mounted as a whole", "sdx", usbBus, with("dev", "8:2"), "mounted at /"},
		{"a partition of it is mounted", "sdx", usbBus, with("sdx1/partition", "1", "sdx1/dev", "8:2"), "sdx1 is mounted at /"},
		{"mounted by name, with a number of its own", "sdf", usbBus, with("sdf1/partition", "1", "sdf1/dev", "8:81"), "mounted at /data"},
		{"swap", "sdg", usbBus, with("sdg2/partition", "2", "sdg2/dev", "8:98"), "as swap"},
		{"in a RAID", "sdx", usbBus, with("sdx1/partition", "1", "sdx1/dev", "8:161", "sdx1/holders/md0", ""), "part of md0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newFakeSys(t)
			node := s.disk(t, c.disk, c.bus, c.files)
			found, err := s.check(node, 1<<20)
			switch {
			case c.want == "" && (err != nil || found.model != "SanDisk Ultra"):
				t.Errorf("%+v, %v", found, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%+v, %v", found, err)
			}
		})
	}
	s := newFakeSys(t)
	onFile := s.disk(t, "loop7", "virtual", with("device/vendor", "", "device/model", "", "loop/backing_file", "/srv/stick.img\x1b[2J"))
	if found, err := s.check(onFile, 1<<20); err != nil || !strings.HasPrefix(found.model, "the file /srv/stick.img") || strings.Contains(found.model, "\x1b") {
		t.Errorf("a loop device: %+v, %v", found, err)
	}
	if _, err := s.check(s.disk(t, "loop8", "virtual", with()), 1<<20); err == nil {
		t.Error("a loop device without a file is a stick")
	}
	file := filepath.Join(s.dir, "file")
	s.file(t, file, "")
	if _, err := s.check(file, 1); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("a file: %v", err)
	}
	if _, err := s.check(filepath.Join(s.dir, "nothing"), 1); err == nil {
		t.Error("nothing is a stick")
	}
	link := filepath.Join(s.dir, "by-id")
	if err := os.Symlink(s.disk(t, "sdx", usbBus, with()), link); err != nil {
		t.Fatal(err)
	}
	if _, err := s.check(link, 1); err != nil {
		t.Errorf("by its id: %v", err)
	}
}

// loop is a block device of a size, filled with something old.
func loop(t *testing.T, bytesLarge int64) (node string, backing string) {
	t.Helper()
	if _, err := exec.LookPath("losetup"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("losetup is missing: install Debian's mount")
		}
		t.Skip("losetup is missing")
	}
	backing = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(backing, bytes.Repeat([]byte{0xaa}, int(bytesLarge)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", backing).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device to be had: %s", out)
	}
	node = strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", node).Run() })
	return node, backing
}

// isoLibrary is a library with one image that has an ISO.
func isoLibrary(t *testing.T, iso []byte) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "images")
	l := &images.Library{Dir: dir}
	_, err := l.Add(images.Image{Name: "rescue", Kind: images.Linux, Title: "Rescue", Arch: "amd64", Kernel: "vmlinuz",
		ISO: &images.ISO{File: "rescue.iso", ConfigAt: 0, ConfigSize: 512}},
		map[string]io.Reader{"vmlinuz": strings.NewReader("kernel"), "rescue.iso": bytes.NewReader(iso)})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// The command as a person uses it, down to a block device: what is on it afterwards is the ISO, and no trace of a
// partition table at its end.
func TestImageUSB(t *testing.T) {
	const large = 12 << 20
	iso := bytes.Repeat([]byte("rescuebox iso 16"), 9<<20/16)
	node, backing := loop(t, large)
	s := newFakeSys(t)
	name := filepath.Base(node)
	s.disk(t, name, usbBus, map[string]string{"dev": "7:0", "size": "24576", "device/model": "Flash\x1b[2J"})
	var out, errOut bytes.Buffer
	o := &imageOptions{cli: &cli{in: strings.NewReader("y\n"), out: &out, errOut: &errOut}, dir: isoLibrary(t, iso)}

	var usage *usageError
	if err := o.usb(s.sticks, "rescue", node, false); !errors.As(err, &usage) || !strings.Contains(err.Error(), "would be lost") {
		t.Errorf("nobody was there to ask, and it says %v", err)
	}
	if got, _ := os.ReadFile(backing); !bytes.Equal(got, bytes.Repeat([]byte{0xaa}, large)) {
		t.Error("something was written")
	}
	if err := o.usb(s.sticks, "rescue", node, true); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(backing)
	if err != nil || !bytes.Equal(got[:len(iso)], iso) || got[len(iso)] != 0xaa || !bytes.Equal(got[large-64<<10:], make([]byte, 64<<10)) {
		t.Errorf("%v: the stick does not hold the ISO, or its end an old table", err)
	}
	if !strings.Contains(out.String(), "reads back") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("said %q", out.String())
	}
	if err := o.usb(s.sticks, "drat", node, true); err == nil {
		t.Error("there is no such image")
	}
	held, err := os.OpenFile(node, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := o.usb(s.sticks, "rescue", node, true); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("somebody holds it, and it says %v", err)
	}
}

// A stick that does not hold what it was told is found out.
func TestStickVerifies(t *testing.T) {
	node, _ := loop(t, 1<<20)
	want := sha256.Sum256([]byte("the ISO"))
	st := &stick{path: node, size: 1 << 20}
	err := st.write(strings.NewReader("another"), images.File{Name: "rescue.iso", Size: 7, SHA256: hex.EncodeToString(want[:])}, func(string, int64, int64) {})
	if err == nil || !strings.Contains(err.Error(), "does not hold") {
		t.Errorf("got %v", err)
	}
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&stick{path: plain}).write(strings.NewReader(""), images.File{}, nil); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("a file: %v", err)
	}
}
