package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"rsc.io/qr"

	"rescuebox/appliance/admin/api"
)

func (c *cli) modemCommand() *cobra.Command {
	return group("modem", "The box's modems and text messages", "  rescuebox modem status",
		c.modemStatus(), c.modemReset(), c.modemAllow(), c.modemEnroll(), c.modemForget(),
		group("sms", "Text messages", "  rescuebox modem sms list", c.smsList(), c.smsSend(), c.smsStatus()))
}

func (c *cli) modemStatus() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "The modems: network, signal, data, and what is wrong",
		Example: "  rescuebox modem status",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			list, err := client.Modems(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(list, func(w io.Writer) error { return c.printModems(w, list) })
		}),
	}
}

func (c *cli) printModems(w io.Writer, list []api.Modem) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "the box has no modem: [[modem]] in the file of the site names them")
		return err
	}
	for i, m := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := fields(w, modemLines(m)); err != nil {
			return err
		}
	}
	return nil
}

// modemLine is a modem in one line: what ails it, or what it has.
func modemLine(m api.Modem) string {
	if m.Why != "" || !m.Ready {
		return m.Why
	}
	line := strings.Join(strings.Fields(m.Operator+" "+m.Technology+" "+m.Network), " ")
	if m.Signal != nil {
		line += fmt.Sprintf(", %d dBm", *m.Signal)
	}
	return line
}

func modemLines(m api.Modem) [][2]string {
	state := "ready"
	if !m.Ready {
		state = "not ready"
	}
	if m.Why != "" {
		state += ": " + m.Why
	}
	lines := [][2]string{{"modem", m.Name}, {"state", state}}
	add := func(label, value string) {
		if value != "" {
			lines = append(lines, [2]string{label, value})
		}
	}
	add("hint", m.Hint)
	if m.Recovery != nil {
		add("recovery", recoveryLine(*m.Recovery, time.Now()))
	}
	add("device", strings.TrimSpace(m.Model+" "+m.Firmware+" "+m.Port))
	add("network", strings.Join(strings.Fields(m.Operator+" "+m.Technology+" "+m.Network), " "))
	if m.Signal != nil {
		add("signal", fmt.Sprintf("%d dBm", *m.Signal))
	}
	add("IMEI", m.IMEI)
	add("ICCID", m.ICCID)
	add("texts", m.Texts)
	if d := m.Data; d != nil {
		add("data", dataLine(*d))
		add("volume", volumeLine(*d))
	}
	return lines
}

// recoveryLine is what is wrong with a modem and what is done about it.
func recoveryLine(r api.Recovery, now time.Time) string {
	var parts []string
	add := func(format, value string) {
		if value != "" {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	add("%s", r.Fault)
	add("does %s now", r.Doing)
	add("last did %s", r.Last)
	add("that could not be done: %s", r.Error)
	if r.Next != nil && r.Next.After(now) {
		add("waits %s", span(r.Next.Sub(now)))
	}
	add("the last time %s helped", r.Helped)
	return strings.Join(parts, "; ")
}

func dataLine(d api.ModemData) string {
	line := "down"
	if d.Up {
		line = strings.TrimSpace("up, " + d.Interface + " " + strings.Join(d.Addresses, " "))
	}
	if d.Why != "" {
		line += ": " + d.Why
	}
	return line
}

func volumeLine(d api.ModemData) string {
	line := bytesText(d.Used) + " this month"
	if d.Quota > 0 {
		line = fmt.Sprintf("%s of %s (%d %%)", bytesText(d.Used), bytesText(d.Quota), d.Used*100/d.Quota)
	}
	if d.Resets != nil {
		line += ", anew on " + d.Resets.Local().Format("2006-01-02")
	}
	if d.Stopped {
		line += ": used up, only the VPN's control traffic and text messages go"
	}
	return line
}

func (c *cli) modemReset() *cobra.Command {
	var rung string
	cmd := &cobra.Command{
		Use:   "reset MODEM",
		Short: "Reset a modem now",
		Long: `Do one step of a modem's recovery now: the next one where something is wrong with
it, else a restart of the modem; or the one that --rung names. Those of the modem
are, the harmless ones first: attach (leave the network and come back), bearer (dial
anew), radio (off and on), restart, usb (off the bus and back), power (cut it) and
reboot (the box), as far as its file allows. Nobody gets in by it meanwhile.`,
		Example:           "  rescuebox modem reset lte\n  rescuebox modem reset lte --rung usb",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(modemNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			m, err := client.ResetModem(cmd.Context(), args[0], rung)
			if err != nil {
				return err
			}
			return c.show(m, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is being reset; rescuebox modem status shows how it goes\n", clean(m.Name))
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&rung, "rung", "", "do this one")
	return cmd
}

func (c *cli) modemAllow() *cobra.Command {
	return &cobra.Command{
		Use:   "allow MODEM [SIZE]",
		Short: "Allow more data than the quota",
		Long: `Lift a modem's quota until its billing month ends: by SIZE, such as 500MB or 2GB,
or without it by as much as it takes. The operator may bill for it.`,
		Example:           "  rescuebox modem allow lte 500MB",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: c.complete(modemNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			var more int64
			if len(args) == 2 {
				var err error
				if more, err = volume(args[1]); err != nil {
					return err
				}
			}
			m, err := client.AllowData(cmd.Context(), args[0], more)
			if err != nil {
				return err
			}
			return c.show(m, func(w io.Writer) error { return fields(w, modemLines(m)) })
		}),
	}
}

var volumeForm = regexp.MustCompile(`^([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([kMGT]B)$`)

// volume reads a volume as operators bill it.
func volume(s string) (int64, error) {
	m := volumeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, usagef("%q is no volume: want a number and kB, MB, GB or TB, such as 500MB", s)
	}
	n, _ := strconv.ParseFloat(m[1], 64) // the form takes nothing else
	n *= map[string]float64{"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[m[2]]
	if n < 1 {
		return 0, usagef("%q allows nothing", s)
	}
	return int64(n), nil
}

func modemNames(ctx context.Context, client *api.Client) (names []string, err error) {
	list, err := client.Modems(ctx)
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names, err
}

func (c *cli) modemEnroll() *cobra.Command {
	return &cobra.Command{
		Use:   "enroll NUMBER",
		Short: "Give a phone number the secret with which it commands the box",
		Long: `Make the secret with which a number that [[text.sender]] names commands the box by
text message, and show it as a QR code for an authenticator app (HOTP, 8 digits,
SHA-256). It is shown this once; the number's older secret is worth nothing from now
on. Each command then ends with the next code of the app: status 12345678.`,
		Example:           "  rescuebox modem enroll +79161234567",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(senderNames(func(s api.Sender) bool { return !s.Left })),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			e, err := client.Enroll(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(e, func(w io.Writer) error { return printSecret(w, e) })
		}),
	}
}

func (c *cli) modemForget() *cobra.Command {
	return &cobra.Command{
		Use:   "forget NUMBER",
		Short: "Take a phone number's secret away: it commands the box no more",
		Long: `Take away the secret with which a number commands the box by text message, as of a
phone that was lost. From now on no code of that phone counts, what it ordered and was
not begun yet is not done, and no ticket that waits is sent to it. The number may stay
in [[text.sender]]: enroll gives it another secret. News go to [[notify.text]] all the
same; take it out there.`,
		Example:           "  rescuebox modem forget +79161234567",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(senderNames(func(s api.Sender) bool { return s.Enrolled })),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			if err := client.Forget(cmd.Context(), args[0]); err != nil {
				return err
			}
			return c.show(api.Enroll{Number: args[0]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s has no secret any more: no command of it is followed\n", clean(args[0]))
				return err
			})
		}),
	}
}

// senderNames are the numbers of some senders.
func senderNames(which func(api.Sender) bool) lister {
	return func(ctx context.Context, client *api.Client) (names []string, err error) {
		t, err := client.Texting(ctx)
		for _, s := range t.Senders {
			if which(s) {
				names = append(names, s.Number)
			}
		}
		return names, err
	}
}

// printSecret draws the URI as a QR code of half blocks, dark on light whatever the terminal's colours are.
func printSecret(w io.Writer, e api.Enrolled) error {
	code, err := qr.Encode(e.URI, qr.L)
	if err != nil {
		return fmt.Errorf("draw the QR code: %w", err)
	}
	const quiet = 2 // modules of margin; scanners do with that much
	for y := -quiet; y < code.Size+quiet; y += 2 {
		fmt.Fprint(w, "\x1b[30;47m")
		for x := -quiet; x < code.Size+quiet; x++ {
			fmt.Fprint(w, [...]string{" ", "▀", "▄", "█"}[bit(code.Black(x, y))+2*bit(code.Black(x, y+1))])
		}
		fmt.Fprintln(w, "\x1b[0m")
	}
	_, err = fmt.Fprintf(w, "%s\nScan this with an authenticator app now; it is not shown again.\n", clean(e.URI))
	return err
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (c *cli) smsList() *cobra.Command {
	n := 20
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "The latest text messages, both ways",
		Example: "  rescuebox modem sms list --max 100",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			if n < 1 {
				return usagef("--max %d is less than 1", n)
			}
			list, err := client.TextMessages(cmd.Context(), n)
			if err != nil {
				return err
			}
			return c.show(list, func(w io.Writer) error {
				var rows [][]string
				for _, m := range list {
					way := "from"
					if m.Sent {
						way = "to"
					}
					rows = append(rows, []string{m.Time.Local().Format("2006-01-02 15:04:05"), way, m.Number, m.State, m.Text, m.Why})
				}
				return table(w, []string{"TIME", "", "NUMBER", "STATE", "TEXT", "WHY"}, rows)
			})
		}),
	}
	cmd.Flags().IntVar(&n, "max", n, "at most so many, the latest")
	return cmd
}

func (c *cli) smsSend() *cobra.Command {
	return &cobra.Command{
		Use:     "send NUMBER TEXT",
		Short:   "Send a text message",
		Example: `  rescuebox modem sms send +79161234567 "the box is at work"`,
		Args:    cobra.MinimumNArgs(2),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			m, err := client.SendText(cmd.Context(), api.NewTextMessage{To: args[0], Text: strings.Join(args[1:], " ")})
			if err != nil {
				return err
			}
			return c.show(m, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "message %s to %s waits to be sent\n", clean(m.ID), clean(m.Number))
				return err
			})
		}),
	}
}

func (c *cli) smsStatus() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "The budget for text messages, and who commands the box by them",
		Example: "  rescuebox modem sms status",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			t, err := client.Texting(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(t, func(w io.Writer) error { return printTexting(w, t) })
		}),
	}
}

func printTexting(w io.Writer, t api.Texting) error {
	if err := fields(w, [][2]string{{"budget", fmt.Sprintf("%d of %d messages sent in 24 hours", t.Spent, t.Budget)}, {"waiting", fmt.Sprint(t.Waiting)}}); err != nil {
		return err
	}
	if len(t.Senders) == 0 {
		_, err := fmt.Fprintln(w, "nobody commands the box by text message: [[text.sender]] in the file of the site names who may")
		return err
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, s := range t.Senders {
		state := "enrolled"
		switch {
		case s.Left:
			state = "not in the file any more, its secret is there: rescuebox modem forget " + s.Number
		case !s.Enrolled:
			state = "no secret: rescuebox modem enroll " + s.Number
		case s.Locked:
			state = "wrong codes came: for an hour two codes in a row count"
		}
		rows = append(rows, []string{s.Number, strings.Join(s.May, ", "), state})
	}
	return table(w, []string{"NUMBER", "MAY", "STATE"}, rows)
}
