package ticket

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watcher wakes who waits for changes of a directory (inotify(7)). Which file it
// was does not matter: the directory is read anew each time, and so nothing is
// lost where the kernel's queue was too short.
type watcher struct {
	events *os.File
	woken  chan struct{}
	ended  chan struct{}
	err    error // why it ended; read when ended is closed
}

// What is waited for: files that are whole, and the directory's own end.
const watched = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

var errDirGone = errors.New("it was removed, renamed or unmounted")

func watch(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watcher{events: os.NewFile(uintptr(fd), "inotify"), woken: make(chan struct{}, 1), ended: make(chan struct{})}
	if _, err := unix.InotifyAddWatch(fd, dir, watched); err != nil {
		w.events.Close()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	go w.read()
	return w, nil
}

// read reads events until the watcher is stopped or the directory is gone.
func (w *watcher) read() {
	defer close(w.ended)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.events.Read(buf)
		if err != nil {
			w.err = err
			return
		}
		if w.err = gone(buf[:n]); w.err != nil {
			return
		}
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}
}

// gone looks for the end of the directory among events: watch, mask, cookie
// and the name's length, 32 bits each, then the name.
func gone(events []byte) error {
	const head = unix.SizeofInotifyEvent
	for len(events) >= head {
		mask, name := binary.NativeEndian.Uint32(events[4:]), binary.NativeEndian.Uint32(events[12:])
		if mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT|unix.IN_IGNORED) != 0 {
			return errDirGone
		}
		events = events[min(head+int(name), len(events)):]
	}
	return nil
}

// wait waits for a change, at least and at most so long: what happens within
// the least time is one change.
func (w *watcher) wait(ctx context.Context, least, most time.Duration) error {
	select {
	case <-time.After(least):
	case <-ctx.Done():
		return nil
	}
	select {
	case <-w.woken:
		return nil
	case <-time.After(most):
		return nil
	case <-ctx.Done():
		return nil
	case <-w.ended:
		return w.err
	}
}

func (w *watcher) stop() {
	w.events.Close()
	<-w.ended
}
