package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Times of serial ports.
const (
	serialWrite = 10 * time.Second       // for a port to take what is typed
	serialBreak = 300 * time.Millisecond // length of a break; Linux and routers want more than 250 ms
)

// Serial opens a serial port of the box, for Machine's Open: raw, eight bits, no parity, one
// stop bit, no flow control. A port on USB that is pulled out is lost, and found again
// when it is plugged in under the same name; those in /dev/serial/by-id stay the same.
func Serial(path string, speed int) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		// O_NONBLOCK: to open without it waits for a carrier, perhaps for good;
		// and Read and Write of such a file end with its Close.
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, portError(path, err)
		}
		if err := prepare(fd, speed); err != nil {
			unix.Close(fd)
			return nil, portError(path, err)
		}
		return &port{os.NewFile(uintptr(fd), path)}, nil
	}
}

// prepare makes the port ours and raw.
func prepare(fd, speed int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return err
	}
	// The kernel keeps out who opens it after us (TIOCEXCL), the lock those who had it
	// open and ask (util-linux, systemd, picocom).
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return err
	}
	t.Iflag = unix.IGNBRK | unix.IGNPAR
	t.Oflag, t.Lflag = 0, 0
	// CLOCAL: a carrier that goes away is no hang-up. Without HUPCL the end of the daemon does
	// not drop DTR, on which some machines reset or log out.
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.BOTHER
	t.Ispeed, t.Ospeed = uint32(speed), uint32(speed)
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS2, t)
}

// portError says what to do about a port.
func portError(path string, err error) error {
	what := err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		what = "it is not there: is it plugged in?"
	case errors.Is(err, fs.ErrPermission):
		what = "we may not open it: rescueboxd must be in the group dialout, and its unit must allow the device"
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EWOULDBLOCK):
		what = "another program uses it: is there a getty, ModemManager or a terminal program on it?"
	case errors.Is(err, unix.ENOTTY):
		what = "it is no serial port"
	}
	return &portProblem{fmt.Sprintf("serial port %s: %s", path, what), err}
}

// portProblem is an error in words of ours.
type portProblem struct {
	text string
	err  error
}

func (e *portProblem) Error() string { return e.text }
func (e *portProblem) Unwrap() error { return e.err }

// port is an open serial port.
type port struct{ f *os.File }

func (p *port) Read(b []byte) (int, error) {
	n, err := p.f.Read(b)
	if errors.Is(err, io.EOF) { // a hang-up (tty_ioctl(4)): there is no carrier that we listen to, so it is gone
		return n, fmt.Errorf("serial port %s went away: was it pulled out?", p.f.Name())
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		return n, fmt.Errorf("serial port %s went away: %w", p.f.Name(), cause(err))
	}
	return n, err
}

// Write gives up on a port that takes nothing: somebody waits.
func (p *port) Write(b []byte) (int, error) {
	if err := p.f.SetWriteDeadline(time.Now().Add(serialWrite)); err != nil {
		return 0, err
	}
	n, err := p.f.Write(b)
	if err != nil {
		return n, fmt.Errorf("serial port %s does not take what is typed: %w", p.f.Name(), cause(err))
	}
	return n, nil
}

func (p *port) Close() error { return p.f.Close() }

// Break holds the line for a while (tty_ioctl(4)).
func (p *port) Break() error {
	if err := p.ioctl(unix.TIOCSBRK); err != nil {
		return err
	}
	time.Sleep(serialBreak)
	return p.ioctl(unix.TIOCCBRK)
}

func (p *port) ioctl(request uint) error {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.IoctlSetInt(int(fd), request, 0) }); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("send a break on %s: %w", p.f.Name(), failed)
	}
	return nil
}

// cause is an error of a file without its path, which is said already.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
