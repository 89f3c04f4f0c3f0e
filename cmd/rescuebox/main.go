// Rescuebox is the admin's command: a client of the daemon's HTTP API, over
// the Unix socket on the box itself or over TLS from elsewhere.
//
// The rules of its output: what was asked for goes to standard output,
// everything else to standard error. It is quiet and aligned; colours and
// progress bars only on a terminal, colours not with NO_COLOR. Every error is
// one sentence, with a hint where there is something to do. It exits with 0
// when the thing is done, 1 when it failed, 2 when the call was wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program the hard way
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its edges as parameters; it returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	c := &cli{in: in, out: out, errOut: errOut}
	root := c.rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	c.printError(err)
	var u *usageError
	if !c.parsed || errors.As(err, &u) {
		return 2
	}
	return 1
}

// printError writes an error and its hint, if it has one.
func (c *cli) printError(err error) {
	var s *silentError
	if errors.As(err, &s) {
		return
	}
	for line := range strings.Lines(err.Error()) { // of a file with several errors
		fmt.Fprintln(c.errOut, clean(line))
	}
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(c.errOut, "hint: %s\n", clean(hint))
	}
}

// hintOf finds the hint of an error: our own, or the daemon's.
func hintOf(err error) string {
	var h *hintError
	if errors.As(err, &h) {
		return h.hint
	}
	var e *api.Error
	if errors.As(err, &e) {
		return e.Hint
	}
	if errors.Is(err, api.ErrUnreachable) && errors.Is(err, os.ErrPermission) {
		return "you may not use the socket: become root or a member of the group rescuebox, or log in over TLS: rescuebox login https://HOST:PORT"
	}
	if errors.Is(err, api.ErrUnreachable) {
		return "is rescueboxd running? systemctl status rescueboxd; or choose another box with --site"
	}
	return ""
}

// rootCommand puts the command together.
func (c *cli) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "rescuebox",
		Short: "Boot servers of the branch into a rescue system and take them over",
		Long: `Rescuebox boots servers of a branch office into a rescue system over the
network and brings the ticket with which to take them over.`,
		Example:       "  rescuebox boot srv01 rescue",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSubcommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			c.parsed = true
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&c.site, "site", "", "box to talk to, as login named it (environment: RESCUEBOX_SITE)")
	f.StringVar(&c.socket, "socket", "", "Unix socket of the daemon (environment: RESCUEBOX_SOCKET; default "+defaultSocket+")")
	f.BoolVar(&c.json, "json", false, "print JSON")
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(
		c.statusCommand(), c.bootCommand(), c.cancelCommand(), c.watchCommand(),
		c.machineCommand(), imageCommand(c), c.ticketCommand(), c.connectCommand(), c.powerCommand(), c.bmcCommand(), c.consoleCommand(), c.linkCommand(), c.vpnCommand(), c.modemCommand(), c.notifyCommand(), c.doctorCommand(), c.configCommand(),
		c.loginCommand(), c.logoutCommand(), c.tokenCommand(), c.auditCommand(),
		c.completionCommand(), c.versionCommand(),
	)
	_ = root.RegisterFlagCompletionFunc("site", completeSites)
	return root
}
