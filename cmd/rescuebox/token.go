package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

func (c *cli) tokenCommand() *cobra.Command {
	return group("token", "Tokens with which admins log in from elsewhere", "  rescuebox token create alice --role operator",
		c.tokenCreate(), c.tokenList(), c.tokenRevoke())
}

func (c *cli) tokenCreate() *cobra.Command {
	var role, ttl string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token; it is shown this once",
		Long: `Make a token for an admin. It is printed this once; the box keeps only its hash.

viewer reads all but tickets; operator also boots machines and reads tickets;
admin also changes images and tokens and reads the audit log.`,
		Example: "  rescuebox token create alice --role operator --ttl 90d",
		Args:    cobra.ExactArgs(1),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			life, err := days(ttl)
			if err != nil {
				return err
			}
			t, err := client.CreateToken(cmd.Context(), api.CreateToken{Name: args[0], Role: api.Role(role), TTL: life.String()})
			if err != nil {
				return err
			}
			return c.show(t, func(w io.Writer) error {
				fmt.Fprintf(c.errOut, "token %s of %s, %s, until %s; it is shown this once:\n", t.ID, t.Name, t.Role, t.Expires.Local().Format(time.DateOnly))
				_, err := fmt.Fprintln(w, t.Secret)
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&role, "role", string(api.Operator), "viewer, operator or admin")
	cmd.Flags().StringVar(&ttl, "ttl", "90d", "how long it lives: days (90d) or a time span (12h)")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"viewer", "operator", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// days reads a time span that may be in days.
func days(text string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(text, "d"); ok {
		if d, err := strconv.Atoi(n); err == nil && d > 0 && d <= 3660 {
			return time.Duration(d) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, usagef("--ttl %s is no time span: want one such as 90d or 12h", text)
	}
	return d, nil
}

func (c *cli) tokenList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List tokens, without their secrets",
		Example: "  rescuebox token list",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			list, err := client.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(list, func(w io.Writer) error {
				var rows [][]string
				for _, t := range list {
					until := t.Expires.Local().Format(time.DateOnly)
					if time.Now().After(t.Expires) {
						until += " (expired)"
					}
					rows = append(rows, []string{t.ID, t.Name, string(t.Role), t.By, until})
				}
				return table(w, []string{"ID", "NAME", "ROLE", "MADE BY", "UNTIL"}, rows)
			})
		}),
	}
}

func (c *cli) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use:               "revoke ID",
		Short:             "End a token at once",
		Example:           "  rescuebox token revoke 4f2a9c01",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(tokenIDs),
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return client.RevokeToken(cmd.Context(), args[0])
		}),
	}
}

func (c *cli) auditCommand() *cobra.Command {
	n := 50
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Who changed what",
		Example: "  rescuebox audit --max 200",
		Args:    cobra.NoArgs,
		RunE: c.reading(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			if n < 1 {
				return usagef("--max %d is less than 1", n)
			}
			list, err := client.Audit(cmd.Context(), n)
			if err != nil {
				return err
			}
			return c.show(list, func(w io.Writer) error {
				var rows [][]string
				for _, e := range list {
					result := "done"
					if e.Error != "" {
						result = e.Error
					}
					rows = append(rows, []string{e.Time.Local().Format("2006-01-02 15:04:05"), e.Who, e.From, e.What, e.Args, result})
				}
				return table(w, []string{"TIME", "WHO", "FROM", "CALL", "WHAT", "RESULT"}, rows)
			})
		}),
	}
	cmd.Flags().IntVar(&n, "max", n, "at most so many, the latest")
	return cmd
}
