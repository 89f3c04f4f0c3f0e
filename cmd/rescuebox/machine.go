package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) machineCommand() *cobra.Command {
	return group("machine", "Machines that are known, and what was seen on the LAN", "  rescuebox machine list --seen",
		c.machineList(), c.machineShow(), c.machineAdopt())
}

func (c *cli) machineList() *cobra.Command {
	var seen, leases bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List machines, or what was seen on the LAN",
		Example: "  rescuebox machine list\n  rescuebox machine list --seen",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			switch {
			case seen:
				return c.listSeen(cmd, client)
			case leases:
				return c.listLeases(cmd, client)
			}
			return c.listMachines(cmd, client)
		}),
	}
	cmd.Flags().BoolVar(&seen, "seen", false, "list the boot clients seen since the daemon started")
	cmd.Flags().BoolVar(&leases, "leases", false, "list the addresses given out")
	cmd.MarkFlagsMutuallyExclusive("seen", "leases")
	return cmd
}

func (c *cli) listMachines(cmd *cobra.Command, client *api.Client) error {
	list, err := client.Machines(cmd.Context())
	if err != nil {
		return err
	}
	return c.show(list, func(w io.Writer) error {
		var rows [][]string
		for _, m := range list {
			order, last := "", ""
			if m.Order != nil {
				order = m.Order.Image + " (" + m.Order.State + ")"
			}
			if m.Seen != nil {
				last = clock(m.Seen.Last)
			}
			rows = append(rows, []string{m.Name, strings.Join(m.MACs, " "), m.Address, order, last})
		}
		return table(w, []string{"MACHINE", "MAC", "ADDRESS", "ORDERED", "SEEN"}, rows)
	})
}

func (c *cli) listSeen(cmd *cobra.Command, client *api.Client) error {
	list, err := client.Seen(cmd.Context())
	if err != nil {
		return err
	}
	return c.show(list, func(w io.Writer) error {
		var rows [][]string
		for _, s := range list {
			rows = append(rows, []string{s.MAC, s.Machine, s.Arch, s.Program, clock(s.Last), strconv.Itoa(s.Count), s.Answer})
		}
		return table(w, []string{"MAC", "MACHINE", "ARCHITECTURE", "PROGRAM", "SEEN", "TIMES", "ANSWER"}, rows)
	})
}

func (c *cli) listLeases(cmd *cobra.Command, client *api.Client) error {
	list, err := client.Leases(cmd.Context())
	if err != nil {
		return err
	}
	return c.show(list, func(w io.Writer) error {
		var rows [][]string
		for _, l := range list {
			rows = append(rows, []string{l.Address, l.MAC, l.Machine, l.Host, l.State, clock(l.Expires)})
		}
		return table(w, []string{"ADDRESS", "MAC", "MACHINE", "HOST", "STATE", "UNTIL"}, rows)
	})
}

func (c *cli) machineShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show MACHINE",
		Short:             "Show one machine",
		Example:           "  rescuebox machine show srv01",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(machineNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			m, err := client.Machine(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(m, func(w io.Writer) error { return fields(w, machineLines(m)) })
		}),
	}
}

func machineLines(m api.Machine) [][2]string {
	lines := [][2]string{{"machine", m.Name}, {"MAC", strings.Join(m.MACs, " ")}}
	add := func(label, text string) {
		if text != "" {
			lines = append(lines, [2]string{label, text})
		}
	}
	add("UUID", m.UUID)
	add("address", m.Address)
	add("always boots", m.Image)
	add("chain", m.Chain)
	add("boot set", m.BootSet)
	add("Secure Boot", m.SecureBoot)
	add("dialect", m.Dialect)
	var power []string
	for _, by := range m.Power {
		power = append(power, byName(by))
	}
	add("power", strings.Join(power, ", "))
	if m.Adopted {
		add("adopted", "yes: not in the file of the site")
	}
	if o := m.Order; o != nil {
		add("order", fmt.Sprintf("%s: %s, %s, by %s, until %s", o.ID, o.Image, o.State, o.By, clock(o.Expires)))
	}
	if s := m.Seen; s != nil {
		add("seen", fmt.Sprintf("%s, %s, %s", clock(s.Last), s.Arch, s.Program))
		add("was told", s.Answer)
	}
	return lines
}

func (c *cli) machineAdopt() *cobra.Command {
	var a api.Adopt
	cmd := &cobra.Command{
		Use:   "adopt NAME MAC",
		Short: "Make a machine of a boot client that was seen",
		Long: `Make a machine of a boot client that was seen on the LAN. The box keeps it until
the file of the site names it.`,
		Example: "  rescuebox machine adopt srv02 52:54:00:12:34:57",
		Args:    cobra.ExactArgs(2),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			a.Name, a.MAC = args[0], args[1]
			m, err := client.Adopt(cmd.Context(), a)
			if err != nil {
				return err
			}
			return c.show(m, func(w io.Writer) error { return fields(w, machineLines(m)) })
		}),
	}
	cmd.Flags().StringVar(&a.UUID, "uuid", "", "its SMBIOS UUID (default what it sent)")
	return cmd
}
