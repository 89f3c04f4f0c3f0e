package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) connectCommand() *cobra.Command {
	k := &connector{cli: c}
	cmd := &cobra.Command{
		Use:   "connect MACHINE [SERVICE] [-- SSH-ARGUMENT...]",
		Short: "Take a booted machine over, or reach its BMC, from wherever you are",
		Long: `Open a port on this computer that leads through the box to exactly the address and
port of the machine's ticket, and start on it what takes the machine over: ssh, which
trusts that ticket's host key and no other, or for DaRT Microsoft's viewer, where it is
installed. Elsewhere the command for a Windows PC is printed, and the port stays open.

The service bmc is the machine's controller instead: a port for each of its services over
TCP, as it says that it has them, so its pages and its remote console work here. IPMI
itself is never led through: rescuebox power and rescuebox console need no port.

The way ends when ssh or the viewer does, with Ctrl-C, or after its time. The box has
its opening and its end in the audit log. The viewer is told the ticket's number in its
arguments, there is no other way: administrators of this PC can see it while it runs.`,
		Example: `  rescuebox connect srv01
  rescuebox connect srv01 -- lsblk
  rescuebox connect srv01 --print
  rescuebox connect srv01 bmc
  rescuebox connect srv01 --listen 10.8.0.5:49161    # for a Windows PC that reaches 10.8.0.5`,
		ValidArgsFunction: c.complete(machineNames, services),
		Args:              k.arguments,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			k.client = client
			if cmd.Flags().Changed("for") && k.to.For <= 0 {
				return usagef("--for %s is no time", k.to.For)
			}
			return k.run(cmd.Context())
		}),
	}
	f := cmd.Flags()
	f.StringVar(&k.to.Ticket, "ticket", "", "id of the ticket (default the newest usable one, verified ones first)")
	f.StringVar(&k.listen, "listen", "127.0.0.1:0", "where to open the port on this computer; port 0 takes any")
	f.DurationVar(&k.to.For, "for", 0, "how long the way stands (default 1h, at most 12h)")
	f.BoolVar(&k.only, "print", false, "start nothing, print the command and keep the port open")
	return cmd
}

// services are what there is to connect to.
func services(context.Context, *api.Client) ([]string, error) {
	return []string{"ticket", serviceBMC}, nil
}

// connector is one call of connect.
type connector struct {
	*cli
	client *api.Client
	to     api.Connect
	listen string
	only   bool
	rest   []string // for ssh
}

// arguments takes MACHINE [SERVICE], and what stands behind -- for ssh.
func (k *connector) arguments(cmd *cobra.Command, args []string) error {
	if n := cmd.ArgsLenAtDash(); n >= 0 {
		args, k.rest = args[:n], args[n:]
	}
	if err := cobra.RangeArgs(1, 2)(cmd, args); err != nil {
		return err
	}
	k.to.Machine = args[0]
	if len(args) == 2 {
		k.to.Service = args[1]
	}
	return nil
}

// run opens the way, and starts or prints what uses it.
func (k *connector) run(ctx context.Context) error {
	if k.to.Service == serviceBMC {
		return k.runBMC(ctx)
	}
	listener, err := listenLocal(k.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	way, err := k.client.Connect(ctx, k.to)
	if err != nil {
		return err
	}
	defer way.Close()
	t, err := k.client.Ticket(ctx, way.Ticket)
	if err != nil {
		return fmt.Errorf("read the ticket: %w", err)
	}
	f := &forward{cli: k.cli, way: way, listener: listener}
	ctx, stop := context.WithCancel(ctx)
	defer f.wg.Wait()
	defer stop()
	f.wg.Go(func() { f.run(ctx) })

	take, err := k.takeoverOf(t, f.port())
	if err != nil {
		return err
	}
	defer take.clean()
	k.announce(way, t, take, f.port())
	if take.program == "" || k.only || k.json {
		return k.wait(ctx, way)
	}
	return k.start(ctx, take, f)
}

// announce says where the port is, and for people who start it themselves the command.
func (k *connector) announce(way *api.Way, t api.Ticket, take takeover, at netip.AddrPort) {
	if k.json {
		k.line("connect", map[string]any{"machine": way.Machine, "ticket": t.ID, "kind": t.Kind, "target": way.Target,
			"local": at.String(), "expires": way.Expires, "command": take.command})
		return
	}
	if !t.Verified {
		fmt.Fprintln(k.errOut, k.yellow("this ticket is not verified: whoever has the machine's address may have sent it"))
	}
	fmt.Fprintf(k.errOut, "%s %s is reached at %s, until %s\n", way.Machine, clean(way.Target), at, clock(way.Expires))
	if take.program != "" && !k.only {
		return
	}
	if take.advice != "" {
		fmt.Fprintln(k.errOut, take.advice)
	}
	fmt.Fprintln(k.errOut, "Ctrl-C closes the port")
	fmt.Fprintln(k.out, clean(take.command))
}

// wait keeps the port open.
func (k *connector) wait(ctx context.Context, way *api.Way) error {
	select {
	case <-ctx.Done():
		return nil // Ctrl-C is how one ends it
	case <-way.Done():
		return fmt.Errorf("the way through the box is closed: %s", way.Why())
	}
}

// start runs the program that takes the machine over, until it ends.
func (k *connector) start(ctx context.Context, take takeover, f *forward) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with ctx
		select {
		case <-f.way.Done():
			fmt.Fprintf(k.errOut, "the way through the box is closed: %s\n", f.way.Why())
			cancel()
		case <-ctx.Done():
		}
	}()
	cmd := take.cmd(ctx)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = k.in, k.out, k.errOut
	err := cmd.Run()
	if take.detaches {
		f.idle(ctx) // the viewer may leave its window to another process
	}
	var exit interface{ ExitCode() int }
	switch {
	case errors.As(err, &exit):
		return &silentError{} // it has said why
	case err != nil:
		return fmt.Errorf("start %s: %w", take.program, err)
	}
	return nil
}

// listenLocal opens the port on this computer.
func listenLocal(text string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, usagef("--listen %s is no address with a port, such as 127.0.0.1:49161", text)
	}
	if at.Addr().IsUnspecified() {
		return nil, &usageError{hinted(fmt.Errorf("--listen %s would let in whoever reaches this computer", text),
			"name the one address that the other PC reaches, such as 10.8.0.5:%d", at.Port())}
	}
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, hinted(fmt.Errorf("open the port %s on this computer: %w", at, err), "choose another one with --listen")
	}
	return l, nil
}

// tempDir is a directory that only its owner can look into.
func tempDir() (dir string, clean func(), err error) {
	dir, err = os.MkdirTemp("", "rescuebox-") // mode 0700
	if err != nil {
		return "", nil, err
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// settled is how long nothing must go through for the viewer to be done.
const settled = 3 * time.Second
