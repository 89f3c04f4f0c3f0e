package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rescuebox/appliance/admin/api"
)

func (c *cli) consoleCommand() *cobra.Command {
	v := &seat{cli: c}
	var readOnly, takeOver, log bool
	cmd := &cobra.Command{
		Use:   "console MACHINE",
		Short: "Sit at a machine's serial console",
		Long: `Join those who look at a machine's serial console. The box keeps it open, through the
BMC or a serial port, and keeps its log while nobody looks: one person types, all read.
Who comes while another one types reads, until taking over.

Keys that are not for the machine, at the beginning of a line:
  ~.  leave      ~w  take over      ~B  send a break      ~~  a tilde      ~?  this list

Where the input is no terminal, it is typed as it is; after its end the command stays
until the machine has all of it and is silent for a second. Into a pipe goes what the machine says as it
is; the log (--log) is always plain lines with their times.`,
		Example: `  rescuebox console srv01
  rescuebox console srv01 --read-only
  rescuebox console srv01 --log --lines 1000 | less`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(machineNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			v.client, v.machine, v.mode = client, args[0], consoleMode(readOnly, takeOver)
			lines := cmd.Flags().Changed("lines")
			switch {
			case readOnly && takeOver:
				return usagef("--read-only and --take-over exclude each other")
			case v.lines < 0:
				return usagef("--lines %d is no number of lines", v.lines)
			case log:
				if !lines {
					v.lines = 200
				}
				return v.log(cmd.Context())
			case c.json:
				return usagef("--json is for --log only")
			}
			return v.run(cmd.Context())
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&readOnly, "read-only", false, "type nothing")
	f.BoolVar(&takeOver, "take-over", false, "put out who types")
	f.BoolVar(&log, "log", false, "print the end of the log and leave")
	f.IntVar(&v.lines, "lines", 50, "lines of the log to begin with (with --log 200)")
	return cmd
}

func consoleMode(readOnly, takeOver bool) api.ConsoleMode {
	switch {
	case readOnly:
		return api.ConsoleRead
	case takeOver:
		return api.ConsoleTakeOver
	}
	return api.ConsoleWrite
}

// seat is one call of console.
type seat struct {
	*cli
	client  *api.Client
	machine string
	mode    api.ConsoleMode
	lines   int

	raw    bool // the input is a terminal, and raw: it does not begin lines by itself
	column bool // something stands on the line already
	filter screen
	leave  context.CancelCauseFunc

	mu      sync.Mutex
	session *api.Console // nil while there is none
	heard   chan struct{}
}

// errLeft is the cause of an end that was wished.
var errLeft = errors.New("left")

// lostInput is the cause of an end where not all that was piped in has reached the machine.
type lostInput struct{ why error }

func (e *lostInput) Error() string { return "not all of the input was typed: " + e.why.Error() }

// log prints the end of the log.
func (v *seat) log(ctx context.Context) error {
	list, err := v.client.ConsoleLog(ctx, v.machine, v.lines)
	if err != nil {
		return err
	}
	if v.json {
		return v.show(list, nil)
	}
	for _, line := range list {
		if _, err := fmt.Fprintln(v.out, line); err != nil {
			return err
		}
	}
	return nil
}

// run looks at the console until the admin leaves.
func (v *seat) run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP) // the terminal's window is closed
	defer stop()
	ctx, v.leave = context.WithCancelCause(ctx)
	defer v.leave(nil)
	v.heard = make(chan struct{}, 1)
	s, err := v.client.Console(ctx, v.machine, v.mode, v.lines)
	if err != nil {
		return err
	}
	restore, err := v.makeRaw()
	if err != nil {
		s.Close()
		return err
	}
	defer restore()
	v.join(s) // before the first key is read, which would be lost
	if v.raw || v.mode != api.ConsoleRead {
		go v.typing(ctx) // a Read of the standard input has no end: this ends with the program
	}
	for delay := time.Second; ; delay = min(2*delay, 8*time.Second) {
		begun := time.Now()
		err := v.look(s)
		if lost := (*lostInput)(nil); errors.As(context.Cause(ctx), &lost) {
			return lost
		}
		if ctx.Err() != nil {
			return nil // ~., a signal, or the input's end
		}
		if !v.raw {
			return err
		}
		if time.Since(begun) > time.Minute {
			delay = time.Second
		}
		v.notice(time.Now(), err.Error()+"; trying again, ~. leaves")
		if s, err = v.again(ctx, delay); err != nil {
			return err
		}
		if s == nil {
			return nil
		}
	}
}

// again attaches anew, until it succeeds, the daemon says no, or the admin leaves: then there is neither session nor error.
func (v *seat) again(ctx context.Context, delay time.Duration) (*api.Console, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(delay):
		}
		// Never takeover: whoever took over in the meantime did so for a reason.
		mode := v.mode
		if mode == api.ConsoleTakeOver {
			mode = api.ConsoleWrite
		}
		s, err := v.client.Console(ctx, v.machine, mode, 0)
		var no *api.Error
		switch {
		case err == nil:
			v.join(s)
			v.notice(time.Now(), "connected again")
			return s, nil
		case ctx.Err() != nil:
			return nil, nil
		case errors.As(err, &no) && no.Status < 500:
			return nil, err
		}
		delay = min(2*delay, 8*time.Second)
	}
}

// makeRaw has every key go to us, if a person types them. restore must be called in the end.
func (v *seat) makeRaw() (restore func(), err error) {
	f, ok := v.in.(*os.File)
	if !ok || !isTerminal(f) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	v.raw = true
	v.notice(time.Now(), v.machine+"'s console; ~. leaves, ~? lists more")
	return func() {
		if isTerminal(v.out) {
			fmt.Fprint(v.out, calm)
		}
		_ = term.Restore(int(f.Fd()), old) // there is nothing else to do
		fmt.Fprintf(v.errOut, "\nleft the console of %s\n", clean(v.machine))
	}, nil
}

// calm takes back what a machine may have left switched on: colours, the other screen,
// the hidden cursor, reports of the mouse and of pasting (xterm's control sequences).
const calm = "\x1b[0m\x1b[?47l\x1b[?25h\x1b[?7h\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l"

// look shows what comes until the session ends.
func (v *seat) look(s *api.Console) error {
	defer func() {
		v.join(nil)
		s.Close()
	}()
	for {
		data, notice, err := s.Next()
		if err != nil {
			return err
		}
		select {
		case v.heard <- struct{}{}:
		default:
		}
		if notice != nil {
			v.notice(notice.Time, notice.Text)
			continue
		}
		if isTerminal(v.out) {
			data = v.filter.pass(data)
		}
		if n := len(data); n > 0 {
			v.column = data[n-1] != '\n'
		}
		if _, err := v.out.Write(data); err != nil {
			v.leave(errLeft) // nobody reads the pipe any more
			return err
		}
	}
}

// notice prints a remark on a line of its own.
func (v *seat) notice(at time.Time, text string) {
	begin, end := "", "\n"
	if v.raw {
		end = "\r\n"
		if v.column {
			begin = "\r\n"
		}
		v.column = false
	}
	fmt.Fprint(v.errOut, begin, v.yellow("-- "+at.Local().Format("15:04:05")+" "+clean(text)), end)
}

// join has what is typed go to s, or nowhere if it is nil.
func (v *seat) join(s *api.Console) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.session = s
}

// current is the session, or nil.
func (v *seat) current() *api.Console {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.session
}

// typing passes on what is typed.
func (v *seat) typing(ctx context.Context) {
	keys := escapes{begins: true}
	b := make([]byte, 4096)
	for {
		n, err := v.in.Read(b)
		if v.raw {
			keys.feed(b[:n], v.send, v.act)
		} else if n > 0 {
			v.send(b[:n])
		}
		if err != nil {
			v.leave(v.finish(ctx))
			return
		}
	}
}

// finish waits, after the input's end, until the machine has all of it, and then until it has said what it has to say.
func (v *seat) finish(ctx context.Context) error {
	if s := v.current(); s != nil {
		if err := s.Flush(); err != nil {
			return &lostInput{err}
		}
	}
	v.quiet(ctx)
	return errLeft
}

// send types; what is typed while there is no session is lost, as a remark has said.
func (v *seat) send(b []byte) {
	if s := v.current(); s != nil {
		_, _ = s.Write(b) // who reads the connection learns of its end
	}
}

// quiet waits until the machine has been silent for a while.
func (v *seat) quiet(ctx context.Context) {
	const silent, longest = time.Second, time.Minute
	limit := time.After(longest)
	for {
		select {
		case <-v.heard:
		case <-time.After(silent):
			return
		case <-limit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// act does what an escape asks for.
func (v *seat) act(key byte) {
	s := v.current()
	switch {
	case key == '.':
		v.leave(errLeft)
		if s != nil {
			s.Close()
		}
	case key == '?':
		fmt.Fprint(v.errOut, "\r\n~.  leave\r\n~w  take over: type, and put out who does\r\n~B  send a break\r\n~~  a tilde\r\n")
	case s == nil:
	case key == 'B':
		_ = s.Break() // as for send
	case key == 'w':
		_ = s.TakeOver()
	}
}
