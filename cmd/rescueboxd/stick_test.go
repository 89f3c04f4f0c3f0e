package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// stickSize is larger than any ISO, as a stick is: the partition table's copy at the end is elsewhere.
const stickSize = 2 << 30

// stick writes an image to a stick as an admin does, with "rescuebox image usb" and the options given. The stick is
// the file $STICK, a loop device meanwhile.
func (s *site) stick(ts *testscript.TestScript, args []string) error {
	file := filepath.Join(s.dir, "stick.img")
	ts.Setenv("STICK", file)
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(stickSize); err != nil {
		return err
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("losetup (Debian's package mount): %w: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "--detach", device).Run()
	return ts.Exec("rescuebox", append([]string{"image", "usb", args[0], device, "--library", filepath.Join(s.dir, "state", "images")}, args[1:]...)...)
}
