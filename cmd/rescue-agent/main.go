// Command rescue-agent runs inside a booted rescue system and brings its
// ticket back to the box.
//
//	rescue-agent              fetch the admins' keys, report that this machine is up, again when its addresses change
//	rescue-agent fetch FILE   in the initramfs: fetch the root file system into FILE and check its SHA-256
//	rescue-agent big TEXT     write a text in large letters
//
// The first two read what they need from the kernel command line; a box that it
// does not name is looked for where DHCP points. The agent uses the
// standard library only, and of that what Go 1.20 has: the part that runs in
// WinPE is compiled with that version, the last one for old Windows.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

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

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "big" {
		_, err := fmt.Println(strings.Join(bigText(printable(args[1])), "\n"))
		return err
	}
	order, err := readOrder()
	if err != nil {
		return err
	}
	fetch := len(args) == 2 && args[0] == "fetch"
	if len(args) != 0 && !fetch {
		return &badCmdline{"usage: rescue-agent [fetch FILE | big TEXT]"}
	}
	if order, err = newFinder(os.Stdout).complete(ctx, order); err != nil {
		return err
	}
	if fetch {
		return fetchRoot(ctx, order, args[1], os.Stdout)
	}
	return newAgent(order).run(ctx)
}
