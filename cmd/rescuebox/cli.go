package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"rescuebox/appliance/admin/api"
)

// defaultSocket is where the daemon listens on the box.
const defaultSocket = "/run/rescuebox/api.sock"

// cli is what all commands share.
type cli struct {
	in     io.Reader
	out    io.Writer
	errOut io.Writer

	site   string // --site
	socket string // --socket
	json   bool   // --json

	parsed bool // flags and arguments were in order: an error after that is no wrong usage
}

// usageError is a wrong call that shows only when the command runs; exit code 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usagef makes a usageError.
func usagef(format string, a ...any) error { return &usageError{fmt.Errorf(format, a...)} }

// hintError is an error with what to do about it.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// hinted adds a hint to an error.
func hinted(err error, format string, a ...any) error {
	return &hintError{err, fmt.Sprintf(format, a...)}
}

// silentError fails the command after it has said all there is to say.
type silentError struct{}

func (*silentError) Error() string { return "failed" }

// group is a command that only holds others, such as "rescuebox machine".
func group(name, short, example string, sub ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use:     name,
		Short:   short,
		Example: example,
		Args:    noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("%s needs a subcommand: %s", cmd.CommandPath(), strings.Join(subcommands(cmd), ", "))
		},
	}
	g.AddCommand(sub...)
	return g
}

// noSubcommand refuses arguments of a group: they are commands that do not exist.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return hinted(fmt.Errorf("no command %q in %s", args[0], cmd.CommandPath()),
		"commands are %s", strings.Join(subcommands(cmd), ", "))
}

// subcommands names the visible commands below one.
func subcommands(cmd *cobra.Command) []string {
	var names []string
	for _, s := range cmd.Commands() {
		if s.IsAvailableCommand() && s.Name() != "help" {
			names = append(names, s.Name())
		}
	}
	return names
}

// reading is the RunE of a command that calls the daemon.
func (c *cli) reading(do func(cmd *cobra.Command, client *api.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := c.connect()
		if err != nil {
			return err
		}
		return do(cmd, client, args)
	}
}

// show prints v as JSON, or as human does.
func (c *cli) show(v any, human func(w io.Writer) error) error {
	if !c.json {
		return human(c.out)
	}
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints rows in aligned columns under a header; an empty cell shows as a dash.
func table(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, row := range rows {
		for i, cell := range row {
			row[i] = cmp.Or(clean(cell), "-")
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// fields prints labels and their values in two columns.
func fields(w io.Writer, lines [][2]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, l := range lines {
		fmt.Fprintf(t, "%s\t%s\n", l[0], cmp.Or(clean(l[1]), "-"))
	}
	return t.Flush()
}

// The colours of a terminal.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

func (c *cli) red(s string) string    { return c.colour(red, s) }
func (c *cli) green(s string) string  { return c.colour(green, s) }
func (c *cli) yellow(s string) string { return c.colour(yellow, s) }

// colour colours a text on a terminal, unless NO_COLOR is set (no-color.org).
func (c *cli) colour(code, s string) string {
	if !isTerminal(c.out) || os.Getenv("NO_COLOR") != "" {
		return s
	}
	return code + s + plain
}

// clean takes control and formatting characters out of a text, all but our colours: what
// machines on the rescue LAN call themselves must not steer the admin's terminal.
func clean(s string) string {
	steers := func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }
	if !strings.ContainsFunc(s, steers) {
		return s
	}
	var b strings.Builder
	for s != "" {
		if code := colourAt(s); code != "" {
			b.WriteString(code)
			s = s[len(code):]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		if !steers(r) {
			b.WriteRune(r)
		}
		s = s[n:]
	}
	return b.String()
}

// colourAt is the colour that a text begins with, or "".
func colourAt(s string) string {
	for _, code := range []string{red, green, yellow, plain} {
		if strings.HasPrefix(s, code) {
			return code
		}
	}
	return ""
}

// size writes a number of bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit; m /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTPE"[exp])
}
