package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

func run(ctx context.Context, args []string) error {
	m := newPE()
	switch {
	case len(args) == 1 && args[0] == "start":
		m.launch(ctx)
		return nil
	case len(args) == 1 && args[0] == "run":
		return m.stay(ctx, os.Stdout)
	case len(args) == 1 && args[0] == "window": // what "start" starts
		// Ctrl+C is what a person presses to copy the ticket.
		return m.stay(context.Background(), openWindow())
	case len(args) == 2 && args[0] == "big":
		fmt.Println(strings.Join(bigText(printable(args[1])), "\r\n"))
		return nil
	}
	return &badCmdline{"usage: rescue-agent [start | run | big TEXT]"}
}

// pe is a running Windows PE.
type pe struct {
	system32 system32
	own      string // where the agent lies
	errand   errand
	trouble  error // of the file with the errand
}

func newPE() *pe {
	m := &pe{system32: system32(filepath.Join(windowsDir(), "System32"))}
	if exe, err := os.Executable(); err == nil {
		m.own = filepath.Dir(exe)
	}
	if m.errand, m.trouble = readErrand(filepath.Join(m.own, errandFile)); m.trouble != nil {
		m.errand.DaRT = m.system32.Have(remoteRecovery)
	}
	if m.errand.Machine == "" {
		m.errand.Machine, _ = os.Hostname()
	}
	return m
}

func windowsDir() string {
	if dir := os.Getenv("SystemRoot"); dir != "" {
		return dir
	}
	return `X:\Windows`
}

// lookout looks in all the places where the field found inv32.xml.
func (m *pe) lookout() *lookout {
	dirs := []string{string(m.system32), m.own, `X:\Windows\System32`, `X:\sms\bin\x64`, `X:\sms\bin\i386`}
	if cwd, err := os.Getwd(); err == nil {
		dirs = append(dirs, cwd)
	}
	l, had := &lookout{}, map[string]bool{}
	for _, dir := range dirs {
		path := filepath.Join(dir, ticketFile)
		if key := strings.ToLower(path); !had[key] {
			had[key] = true
			l.paths = append(l.paths, path)
		}
	}
	return l
}

func (m *pe) launch(ctx context.Context) {
	l := &launcher{
		detach: m.detach, programs: m.system32, look: m.lookout().look,
		dart: m.errand.DaRT, out: os.Stdout, poll: 500 * time.Millisecond,
	}
	l.run(ctx)
}

// detach starts the agent that stays, in a window of its own: it outlives the
// launcher, and winpeshl.exe does not wait for it.
func (m *pe) detach() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "window")
	cmd.Dir = string(m.system32)
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: createNewConsole | syscall.CREATE_NEW_PROCESS_GROUP}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// errRunning is the error of a second agent.
var errRunning = errors.New("the agent runs already")

// stay does the work until this Windows PE ends.
func (m *pe) stay(ctx context.Context, out io.Writer) error {
	if !alone() {
		return errRunning
	}
	s := newScreen(out)
	box := boxClient{order: m.errand.order, client: newClient()}
	say := newSayer(box, s)
	addresses := func() []string { return addresses(m.server()) }
	var wg sync.WaitGroup
	start := func(part func(context.Context)) {
		wg.Add(1)
		go func() { defer wg.Done(); part(ctx) }()
	}
	start(s.run)
	start(say.run)
	m.greet(s)
	start(func(ctx context.Context) { watchLink(ctx, addresses, s) })
	c := &courier{
		box: box, look: m.lookout().look, addresses: addresses, screen: s, machine: m.errand.Machine,
		poll: time.Second, minDelay: time.Second, maxDelay: 30 * time.Second,
	}
	start(func(ctx context.Context) { keepFirewallOpen(ctx, m.system32) })
	start(c.run) // without DaRT, too: a person may start what makes a ticket
	if m.errand.DaRT {
		r := &recovery{programs: m.system32, ticket: c.here, useless: c.useless, tell: say.tell, poll: 500 * time.Millisecond}
		start(r.run)
	} else {
		start(func(ctx context.Context) { m.serveSSH(ctx, box, say) })
	}
	wg.Wait()
	return nil
}

func (m *pe) server() string {
	if m.errand.Server == nil {
		return ""
	}
	return m.errand.Server.Host
}

// greet says whose machine this is, and what is to be done: nothing.
func (m *pe) greet(s *screen) {
	s.block(append(bigText(m.errand.Machine), "",
		"The rescue system of this machine has started. It calls the administrator.",
		"You need not do anything. Please leave the machine on.")...)
	switch {
	case errors.Is(m.trouble, fs.ErrNotExist):
		s.block("There is no "+errandFile+" beside the agent, so nobody is called.", "",
			"As soon as there is a ticket it is shown here: read it to the administrator.")
	case m.trouble != nil:
		s.block(m.trouble.Error())
	}
}
