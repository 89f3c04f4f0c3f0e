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
	maxStarts     = 10 // quickly one after the other
	firstRestart  = 5 * time.Second
	maxRestart    = time.Minute
	noTicketAfter = 2 * time.Minute
	seldom        = 5 * time.Minute
	ticketTime    = 30 * time.Second // in which a ticket is made, or replaces the one before
	ownSession    = time.Minute      // so long runs one that is the session itself
	firewallAgain = 30 * time.Second
)

// programs starts programs of this machine.
type programs interface {
	// Start runs a program of System32, with that as its current directory and apart
	// from us.
	Start(name string, args ...string) (*process, error)
	// Running says whether somebody runs a program of that name.
	Running(name string) bool
	// Have says whether System32 has it.
	Have(name string) bool
}

// process is a program that runs.
type process struct {
	exited <-chan int // yields its exit code, once
	kill   func()
}

// recovery sees to it that RemoteRecovery.exe runs: until there is a ticket, and, since with the
// program the way in ends, also after it.
//
//	stopped --start--> running --ends--> stopped, later;  ten times without a ticket --> stopped, from then on for long:
//	                                                  somebody may plug the cable in at last
//	running --ends soon after its first ticket--> done: what it started does its work
type recovery struct {
	programs programs
	ticket   func() bool // there has been one
	useless  func() bool // it names no listener, and this machine has an address by now
	tell     func(string)
	poll     time.Duration
}

func (r *recovery) run(ctx context.Context) {
	if !r.programs.Have(remoteRecovery) {
		r.tell(remoteRecovery + " is not in this image: it is no DaRT, and there will be no ticket")
		return
	}
	delay, limit, owns := firstRestart, maxRestart, false
	for starts := 1; ; starts++ {
		begin := time.Now()
		why, ended := r.once(ctx)
		switch {
		case ctx.Err() != nil, r.ticket() && ended && !owns && time.Since(begin) < ownSession:
			return
		case r.ticket() && time.Since(begin) >= ownSession:
			owns, starts, delay, limit = true, 0, firstRestart, maxRestart
		}
		if starts <= maxStarts {
			r.tell(why)
		}
		if starts == maxStarts {
			r.tell(fmt.Sprintf("%s was started %d times and made no ticket; it is started every %v from now on; restart this machine, or start Remote Connection in DaRT's menu", remoteRecovery, maxStarts, seldom))
			delay, limit = seldom, seldom
		}
		if !sleep(ctx, delay) {
			return
		}
		delay = grow(delay, limit)
	}
}

// once runs the program until it ends by itself or must be ended, and says so. One that somebody else
// started is left to do its work.
func (r *recovery) once(ctx context.Context) (why string, ended bool) {
	begin, told := time.Now(), false
	p, err := r.start()
	if err != nil {
		return fmt.Sprintf("%s does not start: %v", remoteRecovery, err), false
	}
	for sleep(ctx, r.poll) {
		select {
		case code := <-p.exited:
			return fmt.Sprintf("%s ended with code %d%s", remoteRecovery, code, r.again()), true
		default:
		}
		if p.exited == nil && !r.programs.Running(remoteRecovery) {
			return remoteRecovery + ", which the image started, ended" + r.again(), true
		}
		if p.kill != nil && r.useless() && time.Since(begin) > ticketTime {
			p.kill()
			return remoteRecovery + " made its ticket before this machine had an address, so that nobody could reach it; it is started again", false
		}
		if !told && !r.ticket() && time.Since(begin) > noTicketAfter {
			told = true
			r.tell(remoteRecovery + " runs for two minutes and has made no ticket: does this machine have an address, and Windows a driver for its network card?")
		}
	}
	return "", true
}

func (r *recovery) again() string {
	if r.ticket() {
		return "; it is started again, for another ticket"
	}
	return " and made no ticket; it is started again"
}

func (r *recovery) start() (*process, error) {
	if r.programs.Running(remoteRecovery) {
		return &process{}, nil
	}
	return r.programs.Start(remoteRecovery, "-nomessage")
}

// keepFirewallOpen lets the administrator in for as long as Windows PE runs: its own firewall
// refuses connections from outside in some builds, and comes back with every wpeinit.exe, of which the
// image's own startnet.cmd runs one after us.
func keepFirewallOpen(ctx context.Context, p programs) {
	for p.Have("wpeutil.exe") {
		if u, err := p.Start("wpeutil.exe", "DisableFirewall"); err == nil {
			select {
			case <-u.exited:
			case <-ctx.Done():
			}
		}
		if !sleep(ctx, firewallAgain) {
			return
		}
	}
}
