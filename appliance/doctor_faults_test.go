package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rescuebox/appliance/admin/api"
	"rescuebox/images"
)

// ownChecks is where the API answers as the box's does, but for the checks of the
// LAN, which take seconds each time.
func (c *clinic) ownChecks() *api.Client {
	c.t.Helper()
	if c.api == nil {
		s := c.box.adminServer()
		s.Socket, s.Checks = filepath.Join(socketDir(c.t), "own.sock"), nil
		ctx, cancel := context.WithCancel(context.Background())
		ready, ended := make(chan bool), make(chan error, 1)
		go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
		c.t.Cleanup(func() { cancel(); <-ended })
		select {
		case <-ready:
		case err := <-ended:
			ended <- err
			c.t.Fatal(err)
		}
		c.api = api.OverSocket(s.Socket)
	}
	return c.api
}

// reports wants exactly these keys of one of the API's own checks in what
// `rescuebox doctor` gets, and gives their sentences.
func (c *clinic) reports(check string, keys ...string) (text string) {
	c.t.Helper()
	d, err := c.ownChecks().Doctor(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	var found []string
	for _, f := range d.Findings {
		if f.Check == check && f.Key != "" {
			found = append(found, f.Key)
			text += f.Text + "\n"
			c.says(f.Key, f.Text, f.Hint)
		}
	}
	slices.Sort(found)
	if found = slices.Compact(found); !slices.Equal(found, slices.Sorted(slices.Values(keys))) {
		c.t.Errorf("%s: keys %q, want %q: %+v", check, found, keys, d.Findings)
	}
	return text
}

// disk gives the state a file system of its own.
func (c *clinic) disk() {
	c.t.Helper()
	c.state = c.t.TempDir()
	c.t.Cleanup(func() { syscall.Unmount(c.state, syscall.MNT_DETACH) }) // after the box has ended
	c.mount("tmpfs", "tmpfs", 0, "size=2g")
}

func (c *clinic) mount(source, kind string, flags uintptr, options string) {
	c.t.Helper()
	if err := syscall.Mount(source, c.state, kind, flags, options); err != nil {
		c.t.Fatalf("mount %s (%s): %v", source, options, err)
	}
}

// A disk that is small, full, out of inodes, read-only, and gone.
func TestDoctorDisk(t *testing.T) {
	c := newClinic(t)
	c.disk()
	c.open("off", "")
	c.reports("disk")
	c.mount("", "", syscall.MS_REMOUNT, "size=100m")
	c.reports("disk", "disk-low")
	if err := os.WriteFile(filepath.Join(c.state, "more"), make([]byte, 80<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c.reports("disk", "disk-full")
	c.mount("", "", syscall.MS_REMOUNT, "size=2g")
	c.reports("disk")

	c.mount("", "", syscall.MS_REMOUNT, "nr_inodes=1000")
	var err error
	for i := 0; err == nil; i++ {
		err = os.Mkdir(filepath.Join(c.state, "many"+strings.Repeat("x", i%200)+string(rune('a'+i/200))), 0o700)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if text := c.reports("disk", "disk-full"); !strings.Contains(text, "files") {
		t.Errorf("does not say that it is about the number of files: %s", text)
	}
	c.mount("", "", syscall.MS_REMOUNT, "nr_inodes=100000")

	c.mount(c.state, "", syscall.MS_BIND, "")
	c.mount("", "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, "")
	if err := os.WriteFile(filepath.Join(c.state, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("not read-only: %v", err)
	}
	c.reports("disk", "disk-read-only")
	for range 2 { // the disk falls off: what is there now is the directory that it was mounted on
		if err := syscall.Unmount(c.state, syscall.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	c.reports("disk", "state-unreadable")
}

// Whom the box is to tell hears nothing: the receiver is down, and then it is back.
func TestDoctorNotTold(t *testing.T) {
	c := newClinic(t)
	var up atomic.Bool
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer hook.Close()
	c.open("off", fmt.Sprintf("[[notify.webhook]]\nname = \"chat\"\nurl = %q\n", hook.URL+"/s3cret"))
	c.reports("notify")
	told := func() string {
		list := notifier{c.box}.Messages()
		return list[0].Deliveries[0].State + list[0].Deliveries[0].Error
	}
	try := func(want string) {
		t.Helper()
		if _, err := (notifier{c.box}).Test("", "anna"); err != nil {
			t.Fatal(err)
		}
		eventually(t, want, func() bool { return strings.Contains(told(), want) })
	}
	try("502")
	if text := c.reports("notify", "not-told"); !strings.Contains(text, "chat") || !strings.Contains(text, "502") || strings.Contains(text, "s3cret") {
		t.Errorf("says %s", text)
	}
	up.Store(true)
	try("sent")
	c.reports("notify")
}

// Nobody told the box of a machine, and then it has nothing for any.
func TestDoctorEmptySite(t *testing.T) {
	c := newClinic(t)
	c.machines = "# none yet\n"
	c.open("off", "")
	c.reports("machines", "no-machine")
	c.reports("images")
	if err := c.box.library.Remove("rescue"); err != nil {
		t.Fatal(err)
	}
	c.reports("images", "no-image")
}

// The description of an image is damaged. What the doctor advises heals it.
func TestDoctorLibrary(t *testing.T) {
	c := newClinic(t)
	c.open("off", "")
	if err := os.WriteFile(filepath.Join(c.box.library.Dir, "rescue", "image.toml"), []byte("name = \"res\x00\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text := c.reports("images", "library-damaged"); !strings.Contains(text, "rescue") {
		t.Errorf("does not name the image: %s", text)
	}
	if err := c.box.library.Remove("rescue"); err != nil {
		t.Fatal(err)
	}
	c.add(images.Image{Name: "rescue", Kind: images.Linux, Kernel: "vmlinuz", Up: images.Served}, map[string][]byte{"vmlinuz": []byte("kernel")})
	c.reports("images")
}

// The daemon may open no more files: then it cannot look at its interface, which is
// there all the same.
func TestDoctorInterfaceUnreadable(t *testing.T) {
	c := newClinic(t)
	c.open("off", "")
	c.expect("interface")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 3, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	found := c.ask("interface")
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if keys := keysOf(found); !slices.Equal(keys, []string{"interface-unreadable"}) {
		t.Fatalf("%+v", found)
	}
	c.says("interface-unreadable", found[0].Text, found[0].Hint, "too many open files")
	c.expect("interface")
}

// Whether a time server keeps the clock right the doctor says as another program
// does that asks this kernel. Virtual machines and sandboxes mostly have none.
func TestDoctorClockUnsynced(t *testing.T) {
	need(t, "busybox", "busybox")
	c := newClinic(t)
	c.open("off", "")
	said, err := exec.Command("busybox", "adjtimex").Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	if strings.Contains(string(said), "UNSYNC") {
		want = []string{"clock-unsynced"}
	}
	c.expect("clock", want...)
}
