package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/config"
)

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "What would stop a boot, in plain words",
		Long: `Look for what would stop a boot: other DHCP servers and what they say to each
kind of firmware, who owns the ports, the packet filter, duplicate addresses,
MTU, link, clock, and whether all files of every ordered machine are whole and
signed. It harms nobody: it takes no address, and needs at most 15 seconds.

Exits with 1 if a check failed; warnings are none. With --json each fault has a
key that stays the same while its text may change.`,
		Example: "  rescuebox doctor\n  rescuebox doctor --json",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			d, err := client.Doctor(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.show(d, func(w io.Writer) error { return c.printFindings(w, d.Findings) }); err != nil {
				return err
			}
			if !d.OK {
				return &silentError{}
			}
			return nil
		}),
	}
}

func (c *cli) printFindings(w io.Writer, list []api.Finding) error {
	width := 0
	for _, f := range list {
		width = max(width, len(f.Check))
	}
	for _, f := range list {
		level := fmt.Sprintf("%-7s", f.Level)
		switch f.Level {
		case "ok":
			level = c.green(level)
		case "warning":
			level = c.yellow(level)
		case "failed":
			level = c.red(level)
		}
		if _, err := fmt.Fprintf(w, "%s  %-*s  %s\n", level, width, clean(f.Check), clean(f.Text)); err != nil {
			return err
		}
		if f.Hint != "" {
			fmt.Fprintf(w, "%*s  hint: %s\n", width+9, "", clean(f.Hint))
		}
	}
	return nil
}

func (c *cli) configCommand() *cobra.Command {
	return group("config", "The file of the site", "  rescuebox config check rescuebox.toml", c.configCheck())
}

func (c *cli) configCheck() *cobra.Command {
	return &cobra.Command{
		Use:     "check FILE",
		Short:   "Check a file of the site; needs no daemon",
		Example: "  rescuebox config check /etc/rescuebox/rescuebox.toml",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			result := struct {
				File     string   `json:"file"`
				OK       bool     `json:"ok"`
				Site     string   `json:"site,omitempty"`
				Machines int      `json:"machines"`
				Warnings []string `json:"warnings,omitempty"` // settings that work, and are most likely not what was meant
				Error    string   `json:"error,omitempty"`
			}{File: args[0]}
			cfg, err := config.Load(args[0])
			if err != nil && !c.json {
				return err
			}
			if err != nil {
				result.Error = err.Error()
			} else {
				result.OK, result.Site, result.Machines = true, cfg.Site, len(cfg.Machines)
				for _, w := range cfg.Warnings {
					result.Warnings = append(result.Warnings, w.Error())
				}
			}
			if err := c.show(result, func(w io.Writer) error {
				for _, warning := range result.Warnings {
					fmt.Fprintln(w, "warning:", warning)
				}
				noun := "machines"
				if result.Machines == 1 {
					noun = "machine"
				}
				_, err := fmt.Fprintf(w, "%s is in order: site %s, %d %s\n", result.File, result.Site, result.Machines, noun)
				return err
			}); err != nil {
				return err
			}
			if !result.OK {
				return &silentError{}
			}
			return nil
		},
	}
}
