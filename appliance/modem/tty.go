package modem

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// port is an open AT port: a tty, in tests a socket too.
type port interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// openTTY opens an AT port: raw before the first byte, for a cooked tty echoes the modem's words back to it. The file
// is non-blocking, so that Close ends a Read and a deadline a Write, which a blocking one does not.
func openTTY(path string, speed int) (*tty, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, ttyError(path, err)
	}
	if err := makeRaw(fd, speed); err != nil {
		unix.Close(fd)
		return nil, ttyError(path, err)
	}
	return &tty{os.NewFile(uintptr(fd), path)}, nil
}

// tty is an open serial port that is ours alone.
type tty struct{ *os.File }

// Close lets others have the port at once. Its lock and its mark of exclusive use would else stay as long as a process
// that we start just now holds what we had open: until it is the other program.
func (t *tty) Close() error {
	return errors.Join(release(t), t.File.Close())
}

// release takes back what makeRaw took the port by.
func release(p port) (err error) {
	onTTY(p, func(fd int) {
		err = errors.Join(unix.IoctlSetInt(fd, unix.TIOCNXCL, 0), unix.Flock(fd, unix.LOCK_UN))
	})
	return err
}

// makeRaw takes the tty for us alone and makes it a plain pipe of bytes.
func makeRaw(fd, speed int) error {
	// The lock tells programs that ask (ModemManager, picocom) and keeps us off theirs; TIOCEXCL stops the rest.
	// A process of somebody who died just now may hold it for a moment: hence more than one try.
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	for tries := 0; errors.Is(err, unix.EWOULDBLOCK) && tries < 10; tries++ {
		time.Sleep(20 * time.Millisecond)
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return err
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return err
	}
	if speed == 0 {
		speed = 115200
	}
	t.Iflag, t.Oflag, t.Lflag = unix.IGNBRK|unix.IGNPAR, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.BOTHER
	t.Ispeed, t.Ospeed = uint32(speed), uint32(speed)
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return err
	}
	// What the modem said to whoever was here before is not for us.
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}

// errNoPort is the absence of the modem, as opposed to one that cannot be used.
var errNoPort = errors.New("it is not there: is the modem plugged in and powered?")

// errNotOurs marks a port that only a person can let us have: no remedy for modems does.
type errNotOurs struct{ error }

func (e errNotOurs) Unwrap() error { return e.error }

// ttyError says what to do about a port.
func ttyError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("AT port %s: %w", path, errNoPort)
	case errors.Is(err, fs.ErrPermission):
		return errNotOurs{fmt.Errorf("AT port %s: we may not open it: rescueboxd must be in the group dialout, and its unit must allow the device: %w", path, err)}
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EWOULDBLOCK):
		return errNotOurs{fmt.Errorf("AT port %s: another program uses it, most often ModemManager: install systemd/70-rescuebox-modem.rules, or let it own the modem with data = \"modemmanager\": %w", path, err)}
	case errors.Is(err, unix.ENOTTY):
		return errNotOurs{fmt.Errorf("AT port %s: it is no serial port: %w", path, err)}
	}
	return fmt.Errorf("AT port %s: %w", path, err)
}
