package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "The box on one screen",
		Example: "  rescuebox status",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			s, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(s, func(w io.Writer) error { return c.printStatus(w, s) })
		}),
	}
}

func (c *cli) printStatus(w io.Writer, s api.Status) error {
	lines := [][2]string{
		{"site", s.Site},
		{"daemon", "rescueboxd " + s.Version + ", up " + span(s.Now.Sub(s.Started))},
		{"LAN", s.LAN.Interface + " " + s.LAN.Address},
		{"DHCP", dhcpLine(s.DHCP)},
	}
	if s.Link != nil {
		lines = append(lines, [2]string{"uplink", activeLine(*s.Link)})
		if s.Link.VPN != nil {
			lines = append(lines, [2]string{"VPN", vpnLine(*s.Link.VPN, s.Now)})
		}
	}
	for _, m := range s.Modems {
		lines = append(lines, [2]string{"modem " + m.Name, modemLine(m)})
	}
	if s.Admin.Listen != "" {
		lines = append(lines, [2]string{"API", s.Admin.Listen + ", fingerprint " + s.Admin.Fingerprint})
	}
	lines = append(lines, [2]string{"machines", strconv.Itoa(s.Machines)}, [2]string{"tickets", strconv.Itoa(s.Tickets)})
	lines = append(lines, c.partLines(s.Parts)...)
	if err := fields(w, lines); err != nil {
		return err
	}
	if len(s.OpenOrders) == 0 {
		_, err := fmt.Fprintln(w, "\nno machine is ordered")
		return err
	}
	fmt.Fprintln(w)
	return orderTable(w, s.OpenOrders)
}

// dhcpLine says what DHCP does and why, such as "proxy (auto): 192.168.77.254 answers".
func dhcpLine(d api.DHCP) string {
	mode := d.Mode
	if mode == "" {
		mode = "not decided yet"
	}
	if d.Configured != d.Mode && d.Configured != "" {
		mode += " (" + d.Configured + ")"
	}
	if d.Why != "" {
		mode += ": " + d.Why
	}
	return mode
}

// partLines is quiet about parts that run.
func (c *cli) partLines(parts []api.Part) [][2]string {
	var lines [][2]string
	running := 0
	for _, p := range parts {
		if p.State == "running" {
			running++
			continue
		}
		text := c.red(p.State) + " since " + clock(p.Since)
		if p.Error != "" {
			text += ": " + p.Error
		}
		if p.Retry != nil {
			text += "; next try at " + clock(*p.Retry)
		}
		lines = append(lines, [2]string{p.Name, text})
	}
	if len(parts) == 0 {
		return nil
	}
	return append([][2]string{{"parts", fmt.Sprintf("%d of %d run", running, len(parts))}}, lines...)
}

func orderTable(w io.Writer, orders []api.Order) error {
	var rows [][]string
	for _, o := range orders {
		rows = append(rows, []string{o.ID, o.Machine, o.Image, o.State, o.By, clock(o.Expires)})
	}
	return table(w, []string{"ORDER", "MACHINE", "IMAGE", "STATE", "BY", "UNTIL"}, rows)
}

// clock writes a time for people: the date only where it is not today.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	t = t.Local()
	if now := time.Now(); t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04")
}

// span writes a time span for people.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < 48*time.Hour:
		d = d.Truncate(time.Minute)
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "The versions of this command and of the daemon",
		Example: "  rescuebox version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version string       `json:"version"`
				Daemon  *api.Version `json:"daemon,omitempty"`
			}{Version: version}
			if client, err := c.connect(); err == nil {
				if d, err := client.Version(cmd.Context()); err == nil {
					v.Daemon = &d
				}
			}
			return c.show(v, func(w io.Writer) error {
				lines := [][2]string{{"rescuebox", v.Version}}
				if v.Daemon != nil {
					lines = append(lines, [2]string{"rescueboxd", v.Daemon.Version})
				}
				return fields(w, lines)
			})
		},
	}
}
