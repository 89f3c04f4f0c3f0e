package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) linkCommand() *cobra.Command {
	return group("link", "How the box reaches the Internet: uplinks and failover", "  rescuebox link status",
		c.linkStatus(), c.linkFail(), c.linkRestore(), c.linkTest(), c.linkMode())
}

func (c *cli) linkStatus() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "The uplinks, which one is used, and why",
		Example: "  rescuebox link status",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			l, err := client.Link(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(l, func(w io.Writer) error { return c.printLink(w, l) })
		}),
	}
}

func (c *cli) linkFail() *cobra.Command {
	var span string
	cmd := &cobra.Command{
		Use:   "fail UPLINK",
		Short: "Take an uplink out of use, as if it were dead",
		Long: `Take an uplink out of use, as if it were dead, until it is restored or the time is
over, also if the daemon restarts meanwhile. While no other one works it is used all
the same. The last one that works cannot be failed without a time.`,
		Example: `  rescuebox link fail wan
  rescuebox link fail wan --for 2h`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(uplinkNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return c.changeLink(cmd.Context(), client, api.LinkAction{Action: "fail", Uplink: args[0], For: span})
		}),
	}
	cmd.Flags().StringVar(&span, "for", "", "for so long, 1s to 168h (default until it is restored)")
	return cmd
}

func (c *cli) linkRestore() *cobra.Command {
	return &cobra.Command{
		Use:               "restore UPLINK",
		Short:             "Take an uplink into use again after fail",
		Example:           "  rescuebox link restore wan",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(uplinkNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return c.changeLink(cmd.Context(), client, api.LinkAction{Action: "restore", Uplink: args[0]})
		}),
	}
}

func (c *cli) linkMode() *cobra.Command {
	return &cobra.Command{
		Use:   "mode standby|dormant|lte-only",
		Short: "What metered uplinks do while a better one works",
		Long: `What metered uplinks do while a better one works: standby keeps their tunnel warm,
dormant lets their bearer down until it is needed, lte-only prefers them, and a wire
stands in where none of them works. It holds over restarts, until the mode of the file
of the site, or another one, is asked for.`,
		Example:   "  rescuebox link mode dormant",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"standby", "dormant", "lte-only"},
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return c.changeLink(cmd.Context(), client, api.LinkAction{Action: "mode", Mode: args[0]})
		}),
	}
}

func (c *cli) changeLink(ctx context.Context, client *api.Client, a api.LinkAction) error {
	l, err := client.ChangeLink(ctx, a)
	if err != nil {
		return err
	}
	if a.Action == "fail" && l.Active == a.Uplink && !c.json {
		fmt.Fprintf(c.errOut, "%s is used all the same until another one works\n", clean(a.Uplink))
	}
	return c.show(l, func(w io.Writer) error { return c.printLink(w, l) })
}

func (c *cli) linkTest() *cobra.Command {
	var d api.LinkDrill
	cmd := &cobra.Command{
		Use:   "test [UPLINK]",
		Short: "A drill: fail an uplink for a while and measure what that does",
		Long: `Fail the uplink that is used for a minute; measure how long the VPN's hub was not
reached; restore it. It is restored even if the daemon or the box restarts meanwhile.
Whoever names an uplink means that one, and no other if it is not used just then. Exit
code 1 when nothing stood in.`,
		Example: `  rescuebox link test
  rescuebox link test wan --for 20s`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.complete(uplinkNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			d.Uplink = strings.Join(args, "")
			r, err := client.DrillLink(cmd.Context(), d)
			if err != nil {
				return err
			}
			if err := c.show(r, func(w io.Writer) error { _, err := fmt.Fprintln(w, clean(r.Text)); return err }); err != nil || r.OK {
				return err
			}
			return &silentError{}
		}),
	}
	cmd.Flags().StringVar(&d.For, "for", "", "for so long, 1s to 10m (default 60s)")
	return cmd
}

func uplinkNames(ctx context.Context, client *api.Client) (names []string, err error) {
	l, err := client.Link(ctx)
	for _, u := range l.Uplinks {
		names = append(names, u.Name)
	}
	return names, err
}

func (c *cli) printLink(w io.Writer, l api.Link) error {
	if len(l.Uplinks) == 0 {
		_, err := fmt.Fprintln(w, "no uplinks are watched: [[uplink]] in the file of the site names them")
		return err
	}
	lines := [][2]string{{"uplink", activeLine(l)}, {"mode", l.Mode}}
	if l.Switches > 0 {
		lines = append(lines, [2]string{"changes", fmt.Sprintf("%d in the last hour", l.Switches)})
	}
	if l.VPN != nil {
		lines = append(lines, [2]string{"VPN", vpnLine(*l.VPN, time.Now())})
	}
	if err := fields(w, lines); err != nil {
		return err
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, u := range l.Uplinks {
		state := u.State
		if u.Until != nil {
			state += " until " + clock(*u.Until)
		}
		cost := ""
		if u.Monthly > 0 {
			cost = bytesText(u.Monthly) + "/month"
		}
		rows = append(rows, []string{u.Name, u.Interface, strings.Join(u.Addresses, " "), state, u.RTT, cost, u.Why})
	}
	return table(w, []string{"UPLINK", "INTERFACE", "ADDRESS", "STATE", "RTT", "PROBES", "WHY"}, rows)
}

// activeLine says which uplink is used, since when and why.
func activeLine(l api.Link) string {
	if l.Active == "" {
		return "none works"
	}
	line := l.Active
	if l.Since != nil {
		line += " since " + clock(*l.Since)
	}
	if l.Why != "" {
		line += ": " + l.Why
	}
	return line
}

// vpnLine is the VPN in one line.
func vpnLine(v api.VPN, now time.Time) string {
	state := "down"
	if v.Up {
		state = "up"
	}
	line := strings.TrimSpace(v.Interface + " " + v.Address + " " + state)
	if v.Why != "" {
		line += ": " + v.Why
	}
	if v.Hub != "" {
		line += ", hub " + v.Hub
	}
	if v.Uplink != "" {
		line += " by " + v.Uplink
	}
	if v.Handshake != nil {
		line += ", last handshake " + span(now.Sub(*v.Handshake)) + " ago"
	}
	return line
}

// bytesText is a volume for people, in decimal units as operators bill them.
func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f kB", float64(n)/1e3)
}

func (c *cli) vpnCommand() *cobra.Command {
	return group("vpn", "The box's VPN to the admins", "  rescuebox vpn show", c.vpnStatus(), c.vpnShow())
}

func (c *cli) vpnStatus() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Whether the VPN is up, by which uplink and hub",
		Example: "  rescuebox vpn status",
		Args:    cobra.NoArgs,
		RunE: c.vpn(func(w io.Writer, v api.VPN) error {
			return fields(w, [][2]string{{"VPN", vpnLine(v, time.Now())}, {"kind", v.Kind}, {"public key", v.PublicKey}, {"endpoint", v.Endpoint},
				{"received", bytesText(v.Received)}, {"sent", bytesText(v.Sent)}})
		}),
	}
}

func (c *cli) vpnShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print what the hub must know of the box",
		Long: `Print the part of the hub's WireGuard configuration that lets this box in. The box
made its own key at its first start; nothing of it that is printed is secret.`,
		Example: `  rescuebox vpn show
  rescuebox vpn show | ssh hub 'cat >> /etc/wireguard/wg0.conf && wg syncconf wg0 <(wg-quick strip wg0)'`,
		Args: cobra.NoArgs,
		RunE: c.vpn(func(w io.Writer, v api.VPN) error {
			if v.Peer == "" {
				return hinted(fmt.Errorf("the box does not know the peer of a VPN that is %s", v.Kind), "only its own WireGuard has one")
			}
			_, err := io.WriteString(w, v.Peer)
			return err
		}),
	}
}

// vpn is the RunE of a command about the VPN.
func (c *cli) vpn(human func(w io.Writer, v api.VPN) error) func(*cobra.Command, []string) error {
	return c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
		l, err := client.Link(cmd.Context())
		if err != nil {
			return err
		}
		if l.VPN == nil {
			return hinted(fmt.Errorf("the box has no VPN"), "add [vpn] to the file of the site")
		}
		return c.show(l.VPN, func(w io.Writer) error { return human(w, *l.VPN) })
	})
}
