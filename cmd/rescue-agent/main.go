// Command rescue-agent runs inside a booted rescue system and brings its
// ticket back to the box.
//
// In the Linux rescue system:
//
//	rescue-agent              fetch the admins' keys, report that this machine is up, again when its addresses change
//	rescue-agent fetch FILE   in the initramfs: fetch the root file system into FILE and check its SHA-256
//	rescue-agent big TEXT     write a text in large letters
//
// The first two read what they need from the kernel command line; a box that it
// does not name is looked for where DHCP points.
//
// In Windows PE, from what the box lays into \Windows\System32:
//
//	rescue-agent start        for winpeshl.ini: start "run" in a window of its own, and wait a while for DaRT's ticket
//	rescue-agent run          on DaRT: start RemoteRecovery.exe and bring its ticket to the box; else: serve SSH
//
// It reads rescue-agent.json beside itself. All but the SSH server uses the
// standard library only, and of that what Go 1.20 has: with that version, the last
// one for Windows 7 and 8, the agent for DaRT is built (agent.mod, scripts/package).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "devel"

// Exit codes. The initramfs retries after exitFailed only.
const (
	exitFailed    = 1
	exitUsage     = 2 // the command line is wrong: trying again cannot help
	exitWithdrawn = 3 // the box no longer has what the command line names
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	fmt.Fprintf(os.Stderr, "rescuebox: %v\n", err)
	var bad *badCmdline
	if errors.As(err, &bad) {
		os.Exit(exitUsage)
	}
	var gone *withdrawn
	if errors.As(err, &gone) {
		os.Exit(exitWithdrawn)
	}
	os.Exit(exitFailed)
}

// withdrawn says that the box no longer has what the command line names. To
// boot again is what helps: by the order if there is one, else from the own disk.
type withdrawn struct{ err error }

func (e *withdrawn) Error() string { return e.err.Error() }
