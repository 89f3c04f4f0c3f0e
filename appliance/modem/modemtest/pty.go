package modemtest

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// openPTY makes a pty and returns its master and the name of its slave. The master is non-blocking: else closing it,
// the unplug, would never end the other side.
func openPTY(cooked bool) (io.ReadWriteCloser, string, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open a pty: %w", err)
	}
	n, err := preparePTY(fd, cooked)
	if err != nil {
		unix.Close(fd)
		return nil, "", fmt.Errorf("open a pty: %w", err)
	}
	return os.NewFile(uintptr(fd), "ptmx"), fmt.Sprintf("/dev/pts/%d", n), nil
}

func preparePTY(fd int, cooked bool) (int, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return 0, err
	}
	if !cooked {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return 0, err
		}
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
			return 0, err
		}
	}
	return unix.IoctlGetInt(fd, unix.TIOCGPTN)
}
