package power

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is a switch that programs of the site's know how to work.
type command struct {
	on, off, cycle, status []string
	taking                 func()
}

func newCommand(c Config) (*command, error) {
	for _, argv := range [][]string{c.On, c.Off, c.Cycle, c.Status} {
		if argv != nil && (len(argv) == 0 || !strings.HasPrefix(argv[0], "/")) {
			return nil, errors.New("a switch's program is named by its whole path")
		}
	}
	return &command{c.On, c.Off, c.Cycle, c.Status, c.Taking}, nil
}

func (c *command) State(ctx context.Context) (State, error) {
	said, err := run(ctx, "status", c.status)
	if err != nil {
		return Unknown, err
	}
	switch s := State(strings.ToLower(strings.TrimSpace(said))); s {
	case On, Off, Unknown:
		return s, nil
	}
	return Unknown, fmt.Errorf("the program for status prints neither on nor off, but %q", excerpt(said, c.status))
}

func (c *command) On(ctx context.Context) error  { return c.to(ctx, "on", c.on, On) }
func (c *command) Off(ctx context.Context) error { return c.to(ctx, "off", c.off, Off) }

func (c *command) to(ctx context.Context, name string, argv []string, want State) error {
	if _, err := run(ctx, name, argv); err != nil {
		return err
	}
	if c.status == nil {
		return nil
	}
	return settle(ctx, want, settling, c.State)
}

// Cycle has what is off already switched on, where there are programs that can say and do so.
func (c *command) Cycle(ctx context.Context) error {
	if c.status != nil && c.on != nil {
		if s, err := c.State(ctx); err == nil && s == Off {
			return c.On(ctx)
		}
	}
	if c.cycle == nil && c.on != nil && c.off != nil {
		return offAndOn(ctx, c, c.taking, resting)
	}
	if c.cycle != nil {
		c.taking()
	}
	_, err := run(context.WithoutCancel(ctx), "cycle", c.cycle) // one that was killed might leave the power off
	return err
}

// The bounds of a program.
const (
	running   = 60 * time.Second
	maxOutput = 16 << 10
	maxSaid   = 200
)

// run runs a program, without a shell, and returns what it printed. All that it started
// in its process group ends with it.
func run(ctx context.Context, name string, argv []string) (string, error) {
	if argv == nil {
		return "", fmt.Errorf("%w: no program for %s is configured", ErrUnsupported, name)
	}
	ctx, cancel := context.WithTimeout(ctx, running)
	defer cancel()
	read, write, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer read.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/"}
	cmd.Stdout, cmd.Stderr = write, write
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	write.Close()
	if err != nil {
		return "", fmt.Errorf("start the program for %s: %w", name, err)
	}
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(killed); killGroup(cmd.Process.Pid) })
	said := make(chan []byte, 1)
	go func() { said <- drain(read) }()
	err = reap(cmd, func() {
		if !stop() {
			<-killed
		}
	})
	// Whoever left the group may hold the pipe; it is not waited for.
	_ = read.SetReadDeadline(time.Now().Add(time.Second))
	output := string(<-said)
	switch {
	case err == nil:
		return output, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", fmt.Errorf("%w: the program for %s did not end in time and was killed; it printed %q", ErrSilent, name, excerpt(output, argv))
	}
	return "", fmt.Errorf("the program for %s failed: %w; it printed %q", name, err, excerpt(output, argv))
}

// reap waits for the program, ends what it left in its group, and only then collects it: as
// long as it is not collected, its number cannot have become another group's.
func reap(cmd *exec.Cmd, stop func()) error {
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	stop()
	killGroup(cmd.Process.Pid)
	return cmd.Wait()
}

// killGroup ends a process group; one that is gone already is no error.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

// drain keeps the beginning and reads the rest, so that the program does not block.
func drain(r io.Reader) []byte {
	kept, _ := io.ReadAll(io.LimitReader(r, maxOutput))
	_, _ = io.Copy(io.Discard, r)
	return kept
}

// excerpt is the beginning of what a program printed, in one line. Its arguments are
// taken out: programs that fail like to repeat them, and there may be a password in one.
func excerpt(said string, argv []string) string {
	for _, a := range argv[min(1, len(argv)):] {
		if len(a) > 3 {
			said = strings.ReplaceAll(said, a, "…")
		}
	}
	return plain(said)
}
