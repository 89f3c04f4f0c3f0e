package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) bootCommand() *cobra.Command {
	var o api.NewOrder
	var detach, yes bool
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "boot MACHINE IMAGE",
		Short: "Boot a machine into an image, once, and bring its ticket",
		Long: `Order that a machine boots an image, once, and follow the timeline until the
ticket is here; then print the one command that takes the machine over. A machine with
a BMC or a switch is power cycled for it, at once: --soft asks its system to shut down
first, --no-power leaves the button to you. A switch that pulls its plug (a socket that
obeys text messages, an outlet, a program of yours) is asked about first; scripts say
--yes. One yes is for one time. --via media boots the image as the BMC's
virtual CD, where the network cannot be booted from.

Ctrl-C leaves the order armed: the machine boots the image whenever it is
powered on, until the order expires.`,
		Example: `  rescuebox boot srv01 rescue
  rescuebox boot srv01 rescue --soft
  rescuebox boot srv01 rescue --via media
  rescuebox boot srv01 memtest --ttl 2h --detach`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: c.complete(machineNames, imageNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			o.Machine, o.Image = args[0], args[1]
			switch {
			case o.Via != "" && o.Via != "network" && o.Via != "media":
				return usagef("--via %s is no way into a machine: want network or media", o.Via)
			case o.NoPower && (o.Soft || o.Via == "media"):
				return usagef("--no-power leaves the machine's power alone: leave --soft and --via media out, or --no-power")
			}
			if cmd.Flags().Changed("ttl") {
				if ttl <= 0 {
					return usagef("--ttl %s is no time to live", ttl)
				}
				o.TTL = ttl.String()
			}
			o.Confirmed = yes
			return c.boot(cmd.Context(), client, o, detach)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&o.NoPower, "no-power", false, "leave the machine's power alone")
	f.BoolVar(&o.Soft, "soft", false, "ask its system to shut down before power is cut")
	f.StringVar(&o.Via, "via", "", "how the image comes to it: network, or media for the BMC's virtual CD (default network)")
	_ = cmd.RegisterFlagCompletionFunc("via", cobra.FixedCompletions([]string{"network", "media"}, cobra.ShellCompDirectiveNoFileComp))
	f.BoolVarP(&yes, "yes", "y", false, "do not ask before its plug is pulled")
	f.BoolVar(&detach, "detach", false, "order only, do not wait")
	f.DurationVar(&ttl, "ttl", 0, "how long the order stands (default as configured, 30m)")
	return cmd
}

func (c *cli) boot(ctx context.Context, client *api.Client, ask api.NewOrder, detach bool) error {
	order, err := c.order(ctx, client, ask)
	if err != nil {
		return err
	}
	f := &follower{cli: c, client: client, order: order}
	f.showOrder(ask, detach)
	if detach {
		return nil
	}
	// What tells that the image is up says what to wait for; where that cannot be asked, a ticket is hoped for.
	if image, err := client.Image(ctx, order.Image); err == nil {
		f.noTicket = image.Up == "served"
	}
	return f.run(ctx)
}

// order makes an order. The daemon knows which of them pull a plug: those are asked about first.
func (c *cli) order(ctx context.Context, client *api.Client, ask api.NewOrder) (api.Order, error) {
	order, err := client.Boot(ctx, ask)
	if no := (*api.Error)(nil); !errors.As(err, &no) || no.Code != api.Unconfirmed {
		return order, err
	}
	if !isTerminal(c.in) {
		return order, &usageError{hinted(fmt.Errorf("%w: that is asked about first, and nobody is here to answer", err),
			"in a script: rescuebox boot %s %s --yes; or --no-power, and somebody presses its button", ask.Machine, ask.Image)}
	}
	question := "Cut the power of %s by its switch, and boot it into "
	if ask.Soft {
		question = "Ask the system of %s to shut down, cut its power by its switch though it may not have, and boot it into "
	}
	p := &powerer{cli: c, client: client, machine: ask.Machine, by: api.BySwitch, question: question + strings.ReplaceAll(ask.Image, "%", "%%")}
	if err := p.confirm(ctx); err != nil {
		return order, err
	}
	ask.Confirmed = true
	return client.Boot(ctx, ask)
}

func (c *cli) cancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "cancel MACHINE",
		Short:             "Cancel a machine's order",
		Long:              "Cancel a machine's order. A machine that is loading already loads on; its next boot is its own disk.",
		Example:           "  rescuebox cancel srv01",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(orderedMachines),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			o, err := client.Cancel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(o, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "order %s is cancelled: %s boots its own disk\n", o.ID, o.Machine)
				return err
			})
		}),
	}
}

func (c *cli) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch [MACHINE]",
		Short: "The timeline as it happens",
		Long: `Show what happens, of one machine or of all, until Ctrl-C. A machine's open
order is shown from its beginning. --json prints one event per line.`,
		Example:           "  rescuebox watch srv01",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.complete(machineNames),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			w := api.Watch{After: -1}
			if len(args) == 1 {
				w.Machine = args[0]
			}
			return c.watch(cmd.Context(), client, w)
		}),
	}
}

func (c *cli) watch(ctx context.Context, client *api.Client, w api.Watch) error {
	p := c.printer()
	p.machines = w.Machine == ""
	if w.Machine != "" {
		m, err := client.Machine(ctx, w.Machine)
		if err != nil {
			return err
		}
		if m.Order != nil {
			events, err := client.Timeline(ctx, m.Order.ID)
			if err != nil {
				return err
			}
			for _, e := range events {
				p.event(e)
				w.After = e.Seq
			}
		}
	}
	w.Lost, w.Connected = p.lost, p.connected
	err := client.Follow(ctx, w, func(e api.Event) error {
		p.event(e)
		return nil
	})
	p.end()
	if ctx.Err() != nil {
		return nil // Ctrl-C is how one ends a watch
	}
	return err
}
