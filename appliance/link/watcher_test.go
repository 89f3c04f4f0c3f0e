package link

import (
	"encoding/binary"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Where routes change all the time, the kernel is looked at all the same.
func TestChurn(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	kernel, w := os.NewFile(uintptr(fds[0]), "kernel"), &watcher{os.NewFile(uintptr(fds[1]), "rtnetlink")}
	route := make([]byte, unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint32(route, unix.NLMSG_HDRLEN)
	binary.NativeEndian.PutUint16(route[4:], unix.RTM_NEWROUTE)
	looks, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- w.run(func() {
			select {
			case looks <- struct{}{}:
			default:
			}
		})
	}()
	began := time.Now()
	for seen := 0; seen < 5; {
		_, err := kernel.Write(route)
		must(t, err)
		select {
		case <-looks:
			seen++
		default:
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("looked %d times", seen)
		}
	}
	kernel.Close()
	w.file.Close()
	must(t, <-ended)
}
