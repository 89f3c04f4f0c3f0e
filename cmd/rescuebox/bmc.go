package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) bmcCommand() *cobra.Command {
	return group("bmc", "The controllers of servers: what lets strangers in, whose certificate is trusted", "  rescuebox bmc audit",
		c.bmcAudit(), c.bmcTrust())
}

func (c *cli) bmcAudit() *cobra.Command {
	var lan bool
	cmd := &cobra.Command{
		Use:   "audit [MACHINE]",
		Short: "What lets strangers into the controllers of servers",
		Long: `Look at the controller of every machine, or of one, and with --lan at all that answer
on the rescue LAN: sessions without a password (cipher suite 0), users without a name,
accounts as the factory left them, IPMI 1.5, weak or expired TLS, a network port that is
shared with the server's or fails over to it, one controller under two addresses, its
firmware.

It changes nothing. Each known factory account is tried once, and not again within an
hour, so that none is locked; the user that the box itself uses is never tried.

Exits with 1 if something is bad; notes are nothing that can always be changed.`,
		Example:           "  rescuebox bmc audit\n  rescuebox bmc audit srv01 --json\n  rescuebox bmc audit --lan",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.complete(machineNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			machine := ""
			if len(args) == 1 {
				machine = args[0]
			}
			a, err := client.AuditBMCs(cmd.Context(), machine, lan)
			if err != nil {
				return err
			}
			if err := c.show(a, func(w io.Writer) error { return c.printAudit(w, a) }); err != nil {
				return err
			}
			if !a.OK {
				return &silentError{}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&lan, "lan", false, "also whatever answers on the rescue LAN, at most 1024 addresses")
	return cmd
}

// printAudit prints the findings of each controller, the worst first.
func (c *cli) printAudit(w io.Writer, a api.BMCAudit) error {
	if len(a.Findings) == 0 {
		fmt.Fprintln(w, "no controller to look at")
	}
	list, head, width := slices.Clone(a.Findings), "", 0
	slices.SortStableFunc(list, func(x, y api.BMCFinding) int {
		if x.Host != y.Host || x.Machine != y.Machine {
			return 0 // as they came
		}
		return cmp.Compare(severity(x.Level), severity(y.Level))
	})
	for _, f := range list {
		width = max(width, len(f.Check))
	}
	for _, f := range list {
		if title := fmt.Sprintf("%s  %s", cmp.Or(clean(f.Machine), "(no machine)"), clean(f.Host)); title != head {
			head = title
			fmt.Fprintln(w, head)
		}
		if _, err := fmt.Fprintf(w, "  %s  %-*s  %s\n", c.severity(f.Level), width, clean(f.Check), clean(f.Text)); err != nil {
			return err
		}
		if f.Hint != "" && f.Level != "good" {
			fmt.Fprintf(w, "  %*s  hint: %s\n", width+6, "", clean(f.Hint))
		}
	}
	if a.Swept > 0 {
		fmt.Fprintf(w, "%d addresses of the rescue LAN were asked\n", a.Swept)
	}
	return nil
}

func severity(level string) int { return slices.Index([]string{"bad", "note", "good"}, level) }

// severity colours a level.
func (c *cli) severity(level string) string {
	text := fmt.Sprintf("%-4s", clean(level))
	switch level {
	case "bad":
		return c.red(text)
	case "note":
		return c.yellow(text)
	}
	return c.green(text)
}

func (c *cli) bmcTrust() *cobra.Command {
	var other bool
	cmd := &cobra.Command{
		Use:   "trust MACHINE",
		Short: "Pin the certificate that a controller shows now",
		Long: `Pin the certificate that the machine's controller shows now, in place of the one that it
had: its board was changed, or somebody gave it another certificate. If nobody did, find
out who answers in its place first: the box will send it the password.

With --switch, or for a machine without a controller, the certificates of its PiKVM and of
its Windows (WinRM) are forgotten instead: the ones that they show next are pinned.`,
		Example:           "  rescuebox bmc trust srv01\n  rescuebox bmc trust srv01 --switch",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(machineNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			t, err := client.TrustBMC(cmd.Context(), args[0], other)
			if err != nil {
				return err
			}
			return c.show(t, func(w io.Writer) error { return printTrust(w, t) })
		}),
	}
	cmd.Flags().BoolVar(&other, "switch", false, "forget the certificates of its PiKVM and its WinRM instead")
	return cmd
}

func printTrust(w io.Writer, t api.BMCTrust) (err error) {
	switch {
	case t.SHA256 != "":
		_, err = fmt.Fprintf(w, "the certificate of the BMC of %s is pinned: SHA-256 %s\n", clean(t.Machine), clean(t.SHA256))
	case len(t.Forgotten) == 0:
		_, err = fmt.Fprintf(w, "no certificate of what switches %s was pinned\n", clean(t.Machine))
	default:
		_, err = fmt.Fprintf(w, "forgotten: the certificate of %s; the next one that is shown is pinned\n", clean(strings.Join(t.Forgotten, " and ")))
	}
	return err
}
