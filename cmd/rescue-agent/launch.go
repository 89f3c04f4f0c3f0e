package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// launchTime is how long DaRT's local menu waits for the ticket. WaitForConnection.exe
// is the next entry of winpeshl.ini, and does nothing unless RemoteRecovery.exe runs.
const launchTime = time.Minute

// launcher is what winpeshl.ini waits for. Whatever goes wrong, it ends: the
// person on site gets DaRT's menu.
type launcher struct {
	detach   func() error // starts the agent that stays
	programs programs
	look     func(time.Time) []byte
	dart     bool
	out      io.Writer
	poll     time.Duration
}

func (l *launcher) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, launchTime)
	defer cancel()
	err := l.start(ctx)
	if err != nil {
		fmt.Fprintf(l.out, "rescuebox: the agent does not start: %v\r\n", err)
	}
	if !l.dart {
		return
	}
	if err != nil {
		l.withoutAgent()
	}
	fmt.Fprintf(l.out, "rescuebox: waiting for the ticket, for at most %v. You need not do anything.\r\n", launchTime)
	for sleep(ctx, l.poll) {
		if l.look(time.Now()) != nil && l.programs.Running(remoteRecovery) {
			return
		}
	}
}

// start tries for a while: right after the start of Windows PE not all is there.
func (l *launcher) start(ctx context.Context) error {
	var err error
	for i := 0; i < 3; i++ {
		if err = l.detach(); err == nil || !sleep(ctx, 2*time.Second) {
			break
		}
	}
	return err
}

// withoutAgent makes at least a ticket that can be read from the screen.
func (l *launcher) withoutAgent() {
	if l.programs.Running(remoteRecovery) || !l.programs.Have(remoteRecovery) {
		return
	}
	if _, err := l.programs.Start(remoteRecovery, "-nomessage"); err != nil {
		fmt.Fprintf(l.out, "rescuebox: %s does not start: %v\r\n", remoteRecovery, err)
	}
}
