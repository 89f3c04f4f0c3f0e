package modem

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// escapeGuard is the silence around "+++" that makes an escape of it: a second as modems come (S12=50), and what a busy
// system may take of that.
const escapeGuard = 1500 * time.Millisecond

// leaveCall leads a modem that thinks itself in a data call, so that what it is told goes to the network, back to
// commands: one that does not heed DTR (&D0), or whose caller died on a line that keeps it. First DTR falls, which
// ends the call of all others (ITU-T V.250 section 6.2.9); then comes the escape of Hayes, which leaves the call
// up, and ATH, which ends it. say sends a command. Nobody else may write meanwhile: that would be no silence.
func leaveCall(ctx context.Context, p port, say func(cmd string) error) error {
	hangUp(p)
	// The end of the line is for a modem that took commands all along: the pluses stand on its line now.
	for _, text := range []string{"+++", "\r"} {
		if err := wait(ctx, escapeGuard); err != nil {
			return err
		}
		if err := p.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return fmt.Errorf("lead the modem out of a call: %w", err)
		}
		if _, err := p.Write([]byte(text)); err != nil {
			return fmt.Errorf("lead the modem out of a call: %w", err)
		}
	}
	return say("H")
}

// hangUp drops DTR, at which a modem ends the call (&D2). A pty has none.
func hangUp(p port) {
	onTTY(p, func(fd int) {
		if unix.IoctlSetPointerInt(fd, unix.TIOCMBIC, unix.TIOCM_DTR) == nil {
			time.Sleep(500 * time.Millisecond)
			_ = unix.IoctlSetPointerInt(fd, unix.TIOCMBIS, unix.TIOCM_DTR)
		}
	})
}

// unread throws away what the modem said and nobody read.
func unread(p port) {
	onTTY(p, func(fd int) { _ = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) })
}

// onTTY does something to the tty, if the port is one.
func onTTY(p port, do func(fd int)) {
	c, ok := p.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
}
