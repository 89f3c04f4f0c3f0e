package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) notifyCommand() *cobra.Command {
	return group("notify", "Who is told of tickets and failures, and whether it arrives", "  rescuebox notify test",
		c.notifyList(), c.notifyTest())
}

func (c *cli) notifyList() *cobra.Command {
	n := 20
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Who is told, what waits, and why",
		Long: `List who is told, and the latest messages: sent, waiting for the next attempt with
the error of the last, refused by the receiver for good, or dropped because they were
too old or too many. A wrong address or password is waited for until it is put right.
"maybe twice" marks the rare message that was sent again, because the box stopped
before it had the receiver's answer.`,
		Example: "  rescuebox notify list --max 100",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			if n < 1 {
				return usagef("--max %d is less than 1", n)
			}
			list, err := client.Notifications(cmd.Context(), n)
			if err != nil {
				return err
			}
			return c.show(list, func(w io.Writer) error { return c.printNotifications(w, list) })
		}),
	}
	cmd.Flags().IntVar(&n, "max", n, "at most so many messages, the latest")
	return cmd
}

// printNotifications prints the targets and what they were told.
func (c *cli) printNotifications(w io.Writer, list api.Notifications) error {
	if len(list.Targets) == 0 {
		fmt.Fprintln(w, "nobody is told anything: [notify] in the file of the site names no target")
	} else {
		var rows [][]string
		for _, t := range list.Targets {
			rows = append(rows, []string{t.Name, t.Type, strings.Join(t.Addresses, " "), strings.Join(t.Kinds, " "), yes(t.Credentials)})
		}
		if err := table(w, []string{"TARGET", "TYPE", "TO", "KINDS", "CREDENTIALS"}, rows); err != nil {
			return err
		}
	}
	if len(list.Messages) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, m := range list.Messages {
		for _, d := range m.Deliveries {
			rows = append(rows, []string{m.Time.Local().Format("2006-01-02 15:04:05"), m.Kind, m.Machine, d.Address, c.stateOf(d), strconv.Itoa(d.Attempts), d.Error})
		}
	}
	return table(w, []string{"TIME", "KIND", "MACHINE", "TO", "STATE", "TRIES", "LAST ERROR"}, rows)
}

// stateOf writes a delivery's state, coloured where it is good or bad news.
func (c *cli) stateOf(d api.Delivery) string {
	text := clean(d.State)
	if d.Doubt {
		text += ", maybe twice"
	}
	switch d.State {
	case "sent":
		return c.green(text)
	case "refused", "dropped", "unknown":
		return c.red(text)
	}
	return c.yellow(text)
}

func (c *cli) notifyTest() *cobra.Command {
	wait := 30 * time.Second
	cmd := &cobra.Command{
		Use:   "test [TARGET]",
		Short: "Send a test message to all targets, or to one",
		Long: `Put a test message into the outbox, for all targets or for one, and wait until it
was told. What is not told in time stays in the outbox and is tried again.`,
		Example:           "  rescuebox notify test mail",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.complete(targetNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			m, err := client.TestNotification(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if m, err = c.untilTold(cmd.Context(), client, m, wait); err != nil {
				return err
			}
			return c.printTest(m)
		}),
	}
	cmd.Flags().DurationVar(&wait, "wait", wait, "how long to wait for it")
	return cmd
}

// untilTold waits until a message has no open delivery, or the time is over.
func (c *cli) untilTold(ctx context.Context, client *api.Client, m api.Notification, wait time.Duration) (api.Notification, error) {
	limit := time.After(wait)
	for slices.ContainsFunc(m.Deliveries, api.Delivery.Open) {
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case <-limit:
			return m, nil
		case <-time.After(300 * time.Millisecond):
		}
		list, err := client.Notifications(ctx, 1000)
		if err != nil {
			return m, err
		}
		for _, other := range list.Messages {
			if other.ID == m.ID {
				m = other
			}
		}
	}
	return m, nil
}

// printTest says what came of a test; it fails where not everybody was told.
func (c *cli) printTest(m api.Notification) error {
	err := c.show(m, func(w io.Writer) error {
		var rows [][]string
		for _, d := range m.Deliveries {
			rows = append(rows, []string{d.Target, d.Address, c.stateOf(d), d.Error})
		}
		return table(w, []string{"TARGET", "TO", "STATE", "ERROR"}, rows)
	})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(m.Deliveries, func(d api.Delivery) bool { return d.State != "sent" }) {
		return &silentError{}
	}
	return nil
}

// targetNames completes targets.
func targetNames(ctx context.Context, client *api.Client) ([]string, error) {
	list, err := client.Notifications(ctx, 1)
	var names []string
	for _, t := range list.Targets {
		names = append(names, t.Name)
	}
	return names, err
}
