package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands, machines and images in your shell",
		Example: `  source <(rescuebox completion bash)
  rescuebox completion fish | source`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.out, true)
			case "zsh":
				return root.GenZshCompletion(c.out)
			case "fish":
				return root.GenFishCompletion(c.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(c.out)
			}
			return fmt.Errorf("no shell %q", args[0])
		},
	}
}

// lister asks the daemon for names.
type lister func(ctx context.Context, client *api.Client) ([]string, error)

// complete completes arguments one after the other with the daemon's names. A daemon that does not
// answer at once completes nothing: the shell must not hang.
func (c *cli) complete(arguments ...lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		none := cobra.ShellCompDirectiveNoFileComp
		if len(args) >= len(arguments) {
			return nil, none
		}
		client, err := c.connect()
		if err != nil {
			return nil, none
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		names, err := arguments[len(args)](ctx, client)
		if err != nil {
			return nil, none
		}
		return names, none
	}
}

func machineNames(ctx context.Context, client *api.Client) (names []string, err error) {
	list, err := client.Machines(ctx)
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names, err
}

// imageNames names the images that can be ordered.
func imageNames(ctx context.Context, client *api.Client) (names []string, err error) {
	library, err := client.Images(ctx)
	for _, i := range library.Images {
		if i.Kind != "bootset" {
			names = append(names, i.Name+"\t"+i.Title)
		}
	}
	return names, err
}

// orderedMachines names the machines that have an open order.
func orderedMachines(ctx context.Context, client *api.Client) (names []string, err error) {
	s, err := client.Status(ctx)
	for _, o := range s.OpenOrders {
		names = append(names, o.Machine)
	}
	return names, err
}

func ticketNames(ctx context.Context, client *api.Client) (names []string, err error) {
	list, err := client.Tickets(ctx, "", "")
	for _, t := range list {
		names = append(names, t.ID+"\t"+t.Machine)
		if !slices.Contains(names, t.Machine) {
			names = append(names, t.Machine)
		}
	}
	return names, err
}

func tokenIDs(ctx context.Context, client *api.Client) (names []string, err error) {
	list, err := client.Tokens(ctx)
	for _, t := range list {
		names = append(names, t.ID+"\t"+t.Name)
	}
	return names, err
}

func completeSites(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, _ := loadSites()
	return slices.Sorted(maps.Keys(all)), cobra.ShellCompDirectiveNoFileComp
}

// sorted walks a map by its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
