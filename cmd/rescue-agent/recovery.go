package main

import (
	"context"
	"fmt"
	"time"
)

// remoteRecovery is DaRT's program; its switch keeps it from asking.
const remoteRecovery = "RemoteRecovery.exe"

// How often programs are started, and how patiently.
const (
	maxStarts     = 10
	firstRestart  = 5 * time.Second
	maxRestart    = time.Minute
	noTicketAfter = 2 * time.Minute
	firewallAgain = 30 * time.Second
)

// programs starts programs of this machine.
type programs interface {
	// Start runs a program of System32, with that as its current directory and apart
	// from us. The channel yields its exit code, once.
	Start(name string, args ...string) (<-chan int, error)
	// Running says whether somebody runs a program of that name.
	Running(name string) bool
	// Have says whether System32 has it.
	Have(name string) bool
}

// recovery sees to it that RemoteRecovery.exe runs until there is a ticket.
//
//	stopped --start--> running --ticket--> done
//	running --ends without a ticket--> stopped, later;  ten times --> given up
type recovery struct {
	programs programs
	ticket   func() bool // there is one
	tell     func(string)
	poll     time.Duration
}

func (r *recovery) run(ctx context.Context) {
	if !r.programs.Have(remoteRecovery) {
		r.tell(remoteRecovery + " is not in this image: it is no DaRT, and there will be no ticket")
		return
	}
	delay := firstRestart
	for starts := 1; !r.ticket(); starts++ {
		if starts > maxStarts {
			r.tell(fmt.Sprintf("%s was started %d times and made no ticket; restart this machine, or start Remote Connection in DaRT's menu", remoteRecovery, maxStarts))
			return
		}
		why := r.once(ctx)
		if ctx.Err() != nil || r.ticket() {
			return
		}
		r.tell(why)
		if !sleep(ctx, delay) {
			return
		}
		delay = grow(delay, maxRestart)
	}
}

// once runs the program until it ends or there is a ticket, and says why there
// is none. One that somebody else started is left to do its work.
func (r *recovery) once(ctx context.Context) string {
	begin, told := time.Now(), false
	exited, err := r.start()
	if err != nil {
		return fmt.Sprintf("%s does not start: %v", remoteRecovery, err)
	}
	for sleep(ctx, r.poll) && !r.ticket() {
		select {
		case code := <-exited:
			return fmt.Sprintf("%s ended with code %d and made no ticket; it is started again", remoteRecovery, code)
		default:
		}
		if exited == nil && !r.programs.Running(remoteRecovery) {
			return remoteRecovery + ", which the image started, ended and made no ticket; it is started again"
		}
		if !told && time.Since(begin) > noTicketAfter {
			told = true
			r.tell(remoteRecovery + " runs for two minutes and has made no ticket: does this machine have an address, and Windows a driver for its network card?")
		}
	}
	return ""
}

func (r *recovery) start() (<-chan int, error) {
	if r.programs.Running(remoteRecovery) {
		return nil, nil
	}
	return r.programs.Start(remoteRecovery, "-nomessage")
}

// keepFirewallOpen lets the administrator in for as long as Windows PE runs: its own firewall
// refuses connections from outside in some builds, and comes back with every wpeinit.exe, of which the
// image's own startnet.cmd runs one after us.
func keepFirewallOpen(ctx context.Context, p programs) {
	for p.Have("wpeutil.exe") {
		if done, err := p.Start("wpeutil.exe", "DisableFirewall"); err == nil {
			select {
			case <-done:
			case <-ctx.Done():
			}
		}
		if !sleep(ctx, firewallAgain) {
			return
		}
	}
}
