package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) ticketCommand() *cobra.Command {
	return group("ticket", "Tickets: the ways into booted machines", "  rescuebox ticket list",
		c.ticketList(), c.ticketShow())
}

func (c *cli) ticketList() *cobra.Command {
	var machine string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List tickets, newest first",
		Example: "  rescuebox ticket list --machine srv01",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			list, err := client.Tickets(cmd.Context(), machine, "")
			if err != nil {
				return err
			}
			return c.show(list, func(w io.Writer) error {
				var rows [][]string
				for _, t := range list {
					rows = append(rows, []string{t.ID, t.Machine, t.Kind, t.Address, yes(t.Verified), clock(t.Updated), t.Problem})
				}
				return table(w, []string{"TICKET", "MACHINE", "KIND", "ADDRESS", "VERIFIED", "TIME", "PROBLEM"}, rows)
			})
		}),
	}
	cmd.Flags().StringVar(&machine, "machine", "", "only of this machine")
	_ = cmd.RegisterFlagCompletionFunc("machine", c.complete(machineNames))
	return cmd
}

func (c *cli) ticketShow() *cobra.Command {
	var commandOnly bool
	cmd := &cobra.Command{
		Use:   "show TICKET|MACHINE",
		Short: "Show a ticket, or a machine's latest verified one",
		Example: `  rescuebox ticket show srv01
  eval "$(rescuebox ticket show srv01 --ssh-command)"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(ticketNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			t, err := findTicket(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			if commandOnly {
				return c.printCommand(t)
			}
			return c.show(t, func(io.Writer) error { return c.printTicket(t, args[0] == t.ID) })
		}),
	}
	cmd.Flags().BoolVar(&commandOnly, "ssh-command", false, "print only the command that takes the machine over")
	return cmd
}

// findTicket finds a ticket by its id, or the latest of a machine.
func findTicket(ctx context.Context, client *api.Client, name string) (api.Ticket, error) {
	list, err := client.Tickets(ctx, name, "")
	if err != nil {
		return api.Ticket{}, err
	}
	if len(list) > 0 {
		return best(list), nil
	}
	t, err := client.Ticket(ctx, name)
	var e *api.Error
	if errors.As(err, &e) && e.Code == "not_found" {
		return t, hinted(fmt.Errorf("no ticket %q, and no machine of that name has one", name), "rescuebox ticket list")
	}
	return t, err
}

// best is the newest ticket, but one whose machine proved itself before any
// that whoever has its address may have sent.
func best(newestFirst []api.Ticket) api.Ticket {
	for _, t := range newestFirst {
		if t.Verified {
			return t
		}
	}
	return newestFirst[0]
}

func (c *cli) printCommand(t api.Ticket) error {
	command, err := sshCommand(t)
	if err != nil {
		return err
	}
	if command == "" {
		return hinted(fmt.Errorf("the ticket %s says too little for a command", t.ID), "rescuebox ticket show %s", t.ID)
	}
	_, err = fmt.Fprintln(c.out, clean(command))
	return err
}

// printTicket shows a ticket and the one command that takes the machine over;
// exactly says that it was asked for by its id, and may not be the one of the machine that is used by itself.
func (c *cli) printTicket(t api.Ticket, exactly bool) error {
	lines := [][2]string{{"ticket", t.ID}, {"machine", cmp.Or(t.Machine, "not known: nothing in the ticket or its file's name says whose it is")}}
	add := func(label, text string) {
		if text != "" {
			lines = append(lines, [2]string{label, text})
		}
	}
	add("system", strings.TrimSuffix(t.System+", kernel "+t.Kernel, ", kernel "))
	add("Secure Boot", t.SecureBoot)
	add("address", t.Address)
	add("DaRT ticket", t.Code)
	add("port", dartPort(t))
	add("other", strings.Join(others(t), " "))
	add("host key", strings.Join(t.HostKeys, " "))
	add("serial", t.Serial)
	add("time", clock(t.Updated))
	verified := c.green("yes: the machine proved itself with its order's token")
	if !t.Verified {
		verified = c.yellow("no: whoever has the machine's address may have sent it")
	}
	add("verified", verified)
	add("problem", t.Problem)
	if err := fields(c.out, lines); err != nil {
		return err
	}
	command, err := sshCommand(t)
	if err != nil || command == "" {
		return err
	}
	fmt.Fprintf(c.out, "\n%s\n", clean(command))
	if t.Machine != "" { // the box leads to machines that it knows only
		fmt.Fprintf(c.out, "\nor from elsewhere, through the box:\n\n%s\n", clean(c.connectLine(t, exactly)))
	}
	return nil
}

// connectLine is the command that takes the machine over through the box.
func (c *cli) connectLine(t api.Ticket, exactly bool) string {
	line := "rescuebox connect " + t.Machine
	if c.site != "" {
		line = "rescuebox --site " + c.site + " connect " + t.Machine
	}
	if exactly {
		line += " --ticket " + t.ID
	}
	return line
}

// dartPort is the port of a DaRT ticket; that of SSH is in its command.
func dartPort(t api.Ticket) string {
	if t.Code == "" || t.Port == 0 {
		return ""
	}
	return strconv.Itoa(t.Port)
}

// others are a machine's addresses beside the best one.
func others(t api.Ticket) (list []string) {
	for _, a := range t.Addresses {
		if a != t.Address {
			list = append(list, a)
		}
	}
	return list
}

// sshCommand is the command that takes the machine over and trusts its one host key.
// On Windows, where there is no shell that the daemon's command is for, the key goes into a file.
func sshCommand(t api.Ticket) (string, error) {
	if runtime.GOOS != "windows" || t.Command == "" || t.KnownHosts == "" {
		return t.Command, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "rescuebox", "known_hosts-"+filepath.Base(t.ID))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(path, []byte(t.KnownHosts), 0o600); err != nil {
		return "", err
	}
	return fmt.Sprintf(`ssh -o StrictHostKeyChecking=yes -o "UserKnownHostsFile=%s" -p %s %s@%s`, path, strconv.Itoa(t.Port), t.User, t.Address), nil
}

// yes writes a truth for people.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
