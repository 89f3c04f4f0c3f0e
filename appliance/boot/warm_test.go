package boot

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rescuebox/images"
)

// accessed tells of a file that is read (inotify(7)).
func accessed(t *testing.T, path string) (read func(within time.Duration) bool) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { events.Close() })
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_ACCESS); err != nil {
		t.Fatal(err)
	}
	return func(within time.Duration) bool {
		events.SetReadDeadline(time.Now().Add(within))
		n, _ := events.Read(make([]byte, 4096))
		return n > 0
	}
}

// After a restart of the box, what a machine is about to boot is hashed before it asks; nothing else is.
func TestWarm(t *testing.T) {
	for name, prepare := range map[string]func(*Config){
		"an order":              func(c *Config) { arm(t, New(*c), "rescue", time.Hour) },
		"a standing assignment": func(c *Config) { c.Machines[0].Image = "rescue" },
		"whoever comes":         func(c *Config) { c.Unknown = "rescue" },
	} {
		c := testConfig(t, newMemory())
		prepare(&c)
		c.Images = &images.Library{Dir: c.Images.Dir}
		root := accessed(t, filepath.Join(c.Images.Dir, "rescue", "root.squashfs"))
		other := accessed(t, filepath.Join(c.Images.Dir, "setup", "linux"))
		go New(c).Run(t.Context(), func() {})
		if !root(30 * time.Second) {
			t.Errorf("%s: its image was not read", name)
		}
		if other(100 * time.Millisecond) {
			t.Errorf("%s: an image was read that nobody boots", name)
		}
	}
}
