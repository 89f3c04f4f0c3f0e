package sshd

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// System starts programs for sessions. The command "" is an interactive shell.
type System interface {
	// Pipes starts a command without a terminal.
	Pipes(command string) (*Process, error)
	// Terminal starts a command in a terminal; ErrNoTerminal where the system has none.
	Terminal(command string, size Size) (*Process, error)
}

// ErrNoTerminal is the error of a Windows older than the pseudo console.
var ErrNoTerminal = errors.New("this Windows has no pseudo console")

// Size is that of a terminal, in characters.
type Size struct{ Columns, Rows int }

// Process is a program of a session.
type Process struct {
	In     io.WriteCloser
	Out    io.ReadCloser
	Err    io.ReadCloser   // nil: Out has it all
	Wait   func() uint32   // until it ends; its exit code
	Kill   func()          // it and all it started
	Resize func(size Size) // nil: it has no terminal
}

// drain is how long a program's pipes may be silent after its end, because a program it started holds them. It
// is taken in steps, so that a machine that stood still meanwhile does not count as silence.
const (
	drain      = 2 * time.Second
	drainSteps = 20
)

// session is one channel: a shell, one command, or SFTP.
type session struct {
	server  *Server
	ch      ssh.Channel
	tty     bool
	size    Size
	process *Process
	done    chan struct{} // closed when what was started has ended; nil: nothing was
	next    func()        // what follows the answer to a request: the program may be quicker
	out     outlet        // for all that the client is shown of a program
}

// serve answers requests (RFC 4254 section 6) until the client closes the channel
// or the program ends, which closes it too.
func (s *session) serve(requests <-chan *ssh.Request) {
	defer s.ch.Close()
	for r := range requests {
		ok := s.request(r)
		if r.WantReply {
			r.Reply(ok, nil)
		}
		if s.next != nil {
			go s.next()
			s.next = nil
		}
	}
	if s.process != nil {
		s.process.Kill()
	}
	if s.done != nil {
		s.ch.Close()
		<-s.done
	}
}

func (s *session) request(r *ssh.Request) bool {
	switch r.Type {
	case "pty-req":
		var p struct {
			Term                         string
			Columns, Rows, Width, Height uint32
			Modes                        string
		}
		if ssh.Unmarshal(r.Payload, &p) != nil || s.done != nil {
			return false
		}
		s.tty, s.size = true, size(p.Columns, p.Rows)
		return true
	case "window-change":
		var p struct{ Columns, Rows, Width, Height uint32 }
		if ssh.Unmarshal(r.Payload, &p) != nil {
			return false
		}
		s.size = size(p.Columns, p.Rows)
		if s.process != nil && s.process.Resize != nil {
			s.process.Resize(s.size)
		}
		return true
	case "shell":
		return s.start("")
	case "exec":
		var p struct{ Command string }
		return ssh.Unmarshal(r.Payload, &p) == nil && s.start(p.Command)
	case "subsystem":
		var p struct{ Name string }
		return ssh.Unmarshal(r.Payload, &p) == nil && p.Name == "sftp" && s.sftp()
	case "signal":
		if s.process != nil {
			s.process.Kill()
		}
		return s.process != nil
	}
	return false // environment, agent and X11 forwarding, …
}

// size takes what a client says within what a console can have.
func size(columns, rows uint32) Size {
	if columns == 0 || rows == 0 {
		columns, rows = 80, 25
	}
	return Size{int(min(columns, 1000)), int(min(rows, 1000))}
}

func (s *session) start(command string) bool {
	if s.done != nil {
		return false
	}
	p, cook, err := s.open(command)
	if err != nil {
		fmt.Fprintf(s.ch.Stderr(), "rescuebox: the command does not start: %v\r\n", err)
		s.done = make(chan struct{})
		s.next = func() { defer close(s.done); s.exit(1) }
		return true
	}
	s.process, s.done = p, make(chan struct{})
	s.next = func() {
		defer close(s.done)
		s.join(p, cook)
	}
	return true
}

// open starts the program, in a terminal if the client has one. Where Windows has
// none, we do ourselves what a console does with keys.
func (s *session) open(command string) (*Process, *cooked, error) {
	if s.tty {
		p, err := s.server.System.Terminal(command, s.size)
		if !errors.Is(err, ErrNoTerminal) {
			return p, nil, err
		}
	}
	p, err := s.server.System.Pipes(command)
	if err != nil || !s.tty {
		return p, nil, err
	}
	return p, &cooked{program: p.In, client: s.out.to(s.ch)}, nil
}

// join carries bytes both ways until the program ends, and says how it did.
func (s *session) join(p *Process, cook *cooked) {
	in := p.In
	out, errs := s.out.to(s.ch), s.out.to(s.ch.Stderr())
	if cook != nil {
		in, out, errs = cook, cook.output(), cook.output()
	}
	go func() {
		io.Copy(in, s.ch) // ends with the channel
		in.Close()
	}()
	copies := make(chan struct{}, 2)
	carry := func(to io.Writer, from io.ReadCloser) {
		io.Copy(to, from)
		copies <- struct{}{}
	}
	go carry(out, p.Out)
	n := 1
	if p.Err != nil {
		go carry(errs, p.Err)
		n++
	}
	code := p.Wait()
	s.drained(copies, n)
	s.exit(code)
	p.In.Close()
	p.Out.Close()
	if p.Err != nil {
		p.Err.Close()
	}
}

// drained waits until what the program wrote is out. What waits for the client, whose line may stand still, is not
// out yet.
func (s *session) drained(copies <-chan struct{}, n int) {
	step := time.NewTimer(drain / drainSteps)
	defer step.Stop()
	for silent := 0; n > 0 && silent < drainSteps; {
		select {
		case <-copies:
			n--
		case <-step.C:
			if silent++; s.out.used() {
				silent = 0
			}
			step.Reset(drain / drainSteps)
		}
	}
}

func (s *session) exit(code uint32) {
	s.out.shut()
	s.ch.CloseWrite()
	s.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
	s.ch.Close()
}

// sftp serves files until the client has enough.
func (s *session) sftp() bool {
	if s.done != nil {
		return false
	}
	options := []sftp.ServerOption{sftp.WindowsRootEnumeratesDrives()}
	if s.server.Home != "" {
		options = append(options, sftp.WithServerWorkingDirectory(s.server.Home))
	}
	server, err := sftp.NewServer(s.ch, options...)
	if err != nil {
		return false
	}
	s.done = make(chan struct{})
	s.next = func() {
		defer close(s.done)
		server.Serve()
		s.exit(0)
	}
	return true
}

// outlet is what all goes out by that the client is shown of a program, until it is shut.
type outlet struct {
	mu     sync.Mutex // held while something goes out
	moved  bool
	closed bool
}

// to is the way to w.
func (o *outlet) to(w io.Writer) io.Writer { return way{o, w} }

// used reports whether something goes out, or did since it was asked last.
func (o *outlet) used() bool {
	if !o.mu.TryLock() {
		return true
	}
	defer o.mu.Unlock()
	moved := o.moved
	o.moved = false
	return moved
}

// shut waits for what goes out, and lets nothing more.
func (o *outlet) shut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// way leads through an outlet.
type way struct {
	*outlet
	w io.Writer
}

func (w way) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	w.moved = true
	return w.w.Write(p)
}
