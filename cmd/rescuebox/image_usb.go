package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/images"
)

// usbCommand writes an image's ISO to a stick.
func (o *imageOptions) usbCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "usb IMAGE DEVICE",
		Short: "Write an image to a USB stick that any machine boots, BIOS or UEFI",
		Long: `Write an image to a USB stick, for the machine that cannot boot from the network.
The stick boots with BIOS and UEFI, with Secure Boot too; the rescue system on
it finds this box by DHCP and brings its ticket as ever. All that was on the
stick is lost. A disk that is built in, mounted, or in use is refused; a loop device
is taken: it is a file that somebody made a disk, for a virtual machine or to keep.`,
		Example: "  rescuebox image usb rescue /dev/sdX", Args: cobra.ExactArgs(2), ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.usb(&sticks{sys: "/sys", mounts: "/proc/self/mountinfo", swaps: "/proc/swaps"}, args[0], args[1], yes)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask before the stick is overwritten")
	return cmd
}

// usb writes an image's ISO to a stick, and reads it back.
func (o *imageOptions) usb(s *sticks, image, device string, yes bool) error {
	iso, file, err := o.openISO(image)
	if err != nil {
		return boxError(err)
	}
	defer iso.Close()
	found, err := s.check(device, file.Size)
	if err != nil {
		return err
	}
	if err := o.confirmStick(found, yes); err != nil {
		return err
	}
	begin := time.Now()
	progress := o.progress()
	err = found.write(iso, file, progress.tell)
	progress.end()
	if err != nil {
		return stickError(err)
	}
	_, err = fmt.Fprintf(o.out, "%s: %s (%s) holds %s, and reads back as it was written, in %.1f s\n",
		found.path, found.model, size(found.size), image, time.Since(begin).Seconds())
	return err
}

// openISO opens the image's ISO; the library compares its hash.
func (o *imageOptions) openISO(name string) (*os.File, images.File, error) {
	lib := o.local()
	i, err := lib.Get(name)
	if err != nil {
		return nil, images.File{}, err
	}
	if i.ISO == nil {
		return nil, images.File{}, hinted(fmt.Errorf("image %s has no ISO that boots by itself", name), "rescuebox image build rescue makes one that has")
	}
	return lib.Open(i, i.ISO.File)
}

// confirmStick asks whoever sits there. What it shows is what tells one stick from another.
func (o *imageOptions) confirmStick(s *stick, yes bool) error {
	if yes {
		return nil
	}
	if !isTerminal(o.in) {
		return &usageError{hinted(fmt.Errorf("all that is on %s (%s, %s) would be lost", s.path, s.model, size(s.size)), "--yes says that it may be")}
	}
	fmt.Fprintf(o.errOut, "All that is on %s (%s, %s) will be lost. Write to it? [y/N] ", s.path, s.model, size(s.size))
	line, err := readLine(o.in)
	if answer := strings.ToLower(line); err != nil || answer != "y" && answer != "yes" {
		return errors.New("nothing was written")
	}
	return nil
}

// sticks finds out what a device is.
type sticks struct {
	sys    string // /sys
	mounts string // /proc/self/mountinfo
	swaps  string // /proc/swaps
}

// stick is a device that may be overwritten.
type stick struct {
	path  string
	model string
	size  int64
}

// check refuses what is no stick: a file, a partition, a disk that is built in, one that is
// mounted or in use, one without a medium or too small for need bytes.
func (s *sticks) check(device string, need int64) (*stick, error) {
	path, err := filepath.EvalSymlinks(device) // /dev/disk/by-id/… names the stick itself
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", device, err)
	}
	name := filepath.Base(path)
	dir := filepath.Join(s.sys, "class/block", name)
	if _, err := os.Stat(dir); err != nil {
		return nil, hinted(fmt.Errorf("%s is no disk", device), "lsblk shows the disks of this machine; this works on Linux")
	}
	if s.has(dir, "partition") {
		return nil, hinted(fmt.Errorf("%s is a partition", device), "name the whole stick, such as /dev/sdb for /dev/sdb1")
	}
	backing := s.read(dir, "loop/backing_file")
	if backing == "" && !s.external(dir) {
		return nil, hinted(fmt.Errorf("%s is a disk that is built in, and is not overwritten", device), "lsblk -o NAME,TRAN,RM,SIZE,MODEL shows which one is the stick")
	}
	if s.read(dir, "ro") == "1" {
		return nil, fmt.Errorf("%s is write-protected", device)
	}
	if err := s.free(dir, name, device); err != nil {
		return nil, err
	}
	sectors, _ := strconv.ParseInt(s.read(dir, "size"), 10, 64) // of 512 bytes, whatever the disk's own
	found := &stick{path: path, size: sectors * 512, model: clean(s.read(dir, "device/vendor") + " " + s.read(dir, "device/model"))}
	if backing != "" {
		found.model = "the file " + clean(backing)
	}
	found.model = cmp.Or(strings.TrimSpace(found.model), "without a name")
	switch {
	case found.size == 0:
		return nil, fmt.Errorf("there is no medium in %s", device)
	case found.size < need:
		return nil, fmt.Errorf("%s has room for %s, and %s are needed", device, size(found.size), size(need))
	}
	return found, nil
}

func (s *sticks) read(dir, file string) string {
	text, _ := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(text))
}

func (s *sticks) has(dir, file string) bool {
	_, err := os.Stat(filepath.Join(dir, file))
	return err == nil
}

// external reports whether a disk hangs on USB, is an SD card, or calls itself removable. A
// CD drive does too, and is none; and so does what sits in a bay of the server that can be
// pulled while it runs (AHCI's external ports): that is one of its disks.
func (s *sticks) external(dir string) bool {
	const cdDrive = "5" // SCSI's type
	real, err := filepath.EvalSymlinks(dir)
	if err != nil || s.read(dir, "device/type") == cdDrive {
		return false
	}
	on := func(bus string) bool {
		return slices.ContainsFunc(strings.Split(real, "/"), func(part string) bool {
			number, ok := strings.CutPrefix(part, bus)
			return ok && number != "" && strings.Trim(number, "0123456789") == ""
		})
	}
	return on("usb") || s.read(dir, "device/type") == "SD" || s.read(dir, "removable") == "1" && !on("ata")
}

// free refuses a disk of which something is mounted, swapped to, or part of a RAID, LVM or
// encrypted volume.
func (s *sticks) free(dir, name, device string) error {
	parts := map[string]string{name: dir}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if sub := filepath.Join(dir, e.Name()); s.has(sub, "partition") {
			parts[e.Name()] = sub
		}
	}
	mounts, err := os.ReadFile(s.mounts)
	if err != nil {
		return fmt.Errorf("see what is mounted: %w", err)
	}
	swaps, _ := os.ReadFile(s.swaps)
	for part, dir := range parts {
		node := "/dev/" + part
		if holders, _ := os.ReadDir(filepath.Join(dir, "holders")); len(holders) > 0 {
			return fmt.Errorf("%s is in use: %s is part of %s", device, node, holders[0].Name())
		}
		if at := mountedAt(mounts, s.read(dir, "dev"), node); at != "" {
			return hinted(fmt.Errorf("%s is mounted at %s", node, at), "umount %s", at)
		}
		for line := range strings.Lines(string(swaps)) {
			if f := strings.Fields(line); len(f) > 0 && f[0] == node {
				return fmt.Errorf("%s is in use as swap", node)
			}
		}
	}
	return nil
}

// mountedAt looks a device up in a mountinfo file (proc(5)), by number and, since some file systems
// have numbers of their own, by name.
func mountedAt(mounts []byte, number, node string) string {
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		dash := slices.Index(f, "-")
		byName := dash > 0 && len(f) > dash+2 && f[dash+2] == node
		if number != "" && f[2] == number || byName {
			return f[4]
		}
	}
	return ""
}

// stickChunk is what is written at a time.
const stickChunk = 4 << 20

// write writes the ISO, waits until it is on the stick, and reads it back from there. O_EXCL is the kernel's own
// word on whether somebody uses the disk.
func (s *stick) write(iso io.Reader, file images.File, tell func(step string, done, total int64)) error {
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
		return errors.Join(fmt.Errorf("%s is no disk", s.path), err)
	}
	settled := func(done int64) error { // else all of it is in memory at once, and then nothing seems to happen for minutes
		tell("write "+file.Name, done, file.Size)
		return f.Sync()
	}
	if err := copyTold(f, iso, file.Size, settled); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := s.wipeEnd(f, file.Size); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := errors.Join(f.Sync(), dropCache(f)); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	if err := copyTold(sum, f, file.Size, func(done int64) error { tell("verify "+file.Name, done, file.Size); return nil }); err != nil {
		return fmt.Errorf("read %s back: %w", s.path, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != file.SHA256 {
		return hinted(fmt.Errorf("%s does not hold what was written to it", s.path), "the stick is broken, or smaller than it says: take another one")
	}
	readPartitions(f)
	return f.Close()
}

// wipeEnd removes the copy of a GUID partition table that an earlier use left at the end.
func (s *stick) wipeEnd(f *os.File, used int64) error {
	const tail = 64 << 10
	at := max(used, s.size-tail)
	if at >= s.size {
		return nil
	}
	_, err := f.WriteAt(bytes.Repeat([]byte{0}, int(s.size-at)), at)
	return err
}

// copyTold copies exactly n bytes, and tells how far it is.
func copyTold(to io.Writer, from io.Reader, n int64, tell func(done int64) error) error {
	for done := int64(0); done < n; {
		m, err := io.CopyN(to, from, min(stickChunk, n-done))
		done += m
		if err == nil {
			err = tell(done)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func stickError(err error) error {
	switch {
	case errors.Is(err, syscall.EBUSY):
		return hinted(err, "something on this machine uses it: lsblk shows what")
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return hinted(err, "run it as root")
	}
	return err
}
