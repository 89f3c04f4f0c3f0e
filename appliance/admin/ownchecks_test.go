package admin

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The state is somebody else's: the daemon runs as a user who may not look into it.
func TestStateOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	s := newSite(t)
	s.StateDir = filepath.Join(s.dir, "images")
	if err := os.Chmod(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	found := asNobody(t, func() []Finding { return (&service{Server: s.Server}).checkDisk(t.Context()) })
	if len(found) != 1 || found[0].Key != "state-unreadable" || !strings.Contains(found[0].Text, "permission denied") || found[0].Hint == "" {
		t.Errorf("%+v", found)
	}
	if found := (&service{Server: s.Server}).checkDisk(t.Context()); slices.ContainsFunc(found, func(f Finding) bool { return f.Key == "state-unreadable" }) {
		t.Errorf("whose it is may look: %+v", found)
	}
}

// asNobody runs f on a thread of another user, which is thrown away after it.
func asNobody(t *testing.T, f func() []Finding) []Finding {
	t.Helper()
	const nobody = 65534
	result := make(chan []Finding, 1)
	go func() {
		defer close(result)
		runtime.LockOSThread()                                                                // never unlocked: the thread ends with the goroutine
		if _, _, no := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); no == 0 { // of this thread only, unlike syscall.Setuid
			result <- f()
		}
	}()
	found, ok := <-result
	if !ok {
		t.Fatal("cannot become another user")
	}
	return found
}
