package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rescuebox/appliance/admin/api"
)

// login is "rescuebox login" with its flags.
type login struct {
	*cli
	name        string
	fingerprint string
	tokenFile   string
}

func (c *cli) loginCommand() *cobra.Command {
	l := &login{cli: c}
	cmd := &cobra.Command{
		Use:   "login [https://HOST:PORT]",
		Short: "Log in to a box elsewhere, or list those known",
		Long: `Log in to a box elsewhere. Its certificate is pinned by the fingerprint that
"rescuebox status" shows on the box: compare the two. The token comes from
"rescuebox token create" on the box; it is read from --token-file, from
standard input, or asked for.

Without an address the boxes known so far are listed.`,
		Example: `  rescuebox login https://10.9.0.2:8443
  rescuebox login https://10.9.0.2:8443 --fingerprint SHA256:iBYx… --token-file token`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.listSites()
			}
			return l.run(cmd.Context(), args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&l.name, "name", "", "name of the box for --site (default the site's own name)")
	f.StringVar(&l.fingerprint, "fingerprint", "", "fingerprint of the box's certificate; without it you are asked")
	f.StringVar(&l.tokenFile, "token-file", "", "file with the token; - is standard input")
	return cmd
}

func (c *cli) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "logout SITE",
		Short:             "Forget a box and its token",
		Long:              "Forget a box and its token. The token stays valid on the box: see \"rescuebox token revoke\".",
		Example:           "  rescuebox logout kazan-2",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSites,
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := loadSites()
			if err != nil {
				return err
			}
			if _, err := all.client(args[0]); err != nil {
				return err
			}
			delete(all, args[0])
			return all.save()
		},
	}
}

// listSites shows the boxes known.
func (c *cli) listSites() error {
	all, err := loadSites()
	if err != nil {
		return err
	}
	type shown struct {
		Name        string `json:"name"`
		URL         string `json:"url"`
		Fingerprint string `json:"fingerprint"`
	}
	list := []shown{}
	for name, s := range sorted(all) {
		list = append(list, shown{name, s.URL, s.Fingerprint})
	}
	return c.show(list, func(w io.Writer) error {
		var rows [][]string
		for _, s := range list {
			rows = append(rows, []string{s.Name, s.URL, s.Fingerprint})
		}
		return table(w, []string{"SITE", "URL", "FINGERPRINT"}, rows)
	})
}

// run pins the certificate, tries the token, and keeps both.
func (l *login) run(ctx context.Context, address string) error {
	base, err := api.BaseURL(address)
	if err != nil {
		return &usageError{err}
	}
	fingerprint, err := l.pin(ctx, base)
	if err != nil {
		return err
	}
	token, err := l.token()
	if err != nil {
		return err
	}
	client, err := api.OverTLS(base, fingerprint, token)
	if err != nil {
		return err
	}
	who, err := client.WhoAmI(ctx)
	if err != nil {
		return err
	}
	name := l.siteName(ctx, client, base)
	all, err := loadSites()
	if err != nil {
		return err
	}
	if old, taken := all[name]; taken && old.URL != base && l.name == "" {
		return hinted(fmt.Errorf("the name %s belongs to %s already", name, old.URL), "give this box another one with --name")
	}
	all[name] = site{URL: base, Fingerprint: fingerprint, Token: token}
	if err := all.save(); err != nil {
		return err
	}
	fmt.Fprintf(l.errOut, "logged in to %s as %s (%s); use it with --site %s\n", name, who.Name, who.Role, name)
	return nil
}

// pin finds the certificate's fingerprint and makes sure that a person knows it.
func (l *login) pin(ctx context.Context, base string) (string, error) {
	got, err := api.Peek(ctx, base)
	if err != nil {
		return "", hinted(err, "look at listen in [admin] on the box, and whether the way there is open")
	}
	if l.fingerprint != "" {
		if got != l.fingerprint {
			return "", hinted(fmt.Errorf("the certificate of %s has the fingerprint %s, not the one given", base, got),
				"somebody may be in between: compare with rescuebox status on the box")
		}
		return got, nil
	}
	if !isTerminal(l.in) {
		return "", &usageError{hinted(fmt.Errorf("the certificate of %s has the fingerprint %s", base, got),
			"compare it with rescuebox status on the box, then give it with --fingerprint")}
	}
	fmt.Fprintf(l.errOut, "The certificate of %s has the fingerprint\n  %s\nCompare it with rescuebox status on the box. Is it the same? [y/N] ", base, got)
	line, err := readLine(l.in)
	if answer := strings.ToLower(line); err != nil || answer != "y" && answer != "yes" {
		return "", errors.New("not logged in")
	}
	return got, nil
}

// token gets the token from where the flags say; it is not echoed.
func (l *login) token() (string, error) {
	text, err := l.readToken()
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	if text = strings.TrimSpace(text); !strings.HasPrefix(text, "rbx_") {
		return "", hinted(errors.New("this is no token of a rescuebox"), "it begins with rbx_; rescuebox token create makes one on the box")
	}
	return text, nil
}

func (l *login) readToken() (string, error) {
	if l.tokenFile != "" && l.tokenFile != "-" {
		text, err := os.ReadFile(l.tokenFile)
		return string(text), err
	}
	if !isTerminal(l.in) {
		return readLine(l.in)
	}
	fmt.Fprint(l.errOut, "Token: ")
	text, err := term.ReadPassword(int(l.in.(*os.File).Fd()))
	fmt.Fprintln(l.errOut)
	return string(text), err
}

// siteName is the name asked for, else what the box calls its site, else its host.
func (l *login) siteName(ctx context.Context, client *api.Client, base string) string {
	if l.name != "" {
		return l.name
	}
	if s, err := client.Status(ctx); err == nil && s.Site != "" {
		return s.Site
	}
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	return u.Hostname()
}

// readLine reads one line of at most 4 KiB.
func readLine(r io.Reader) (string, error) {
	s := bufio.NewScanner(io.LimitReader(r, 4096))
	if !s.Scan() {
		return "", errors.Join(s.Err(), io.ErrUnexpectedEOF)
	}
	return strings.TrimSpace(s.Text()), nil
}

// isTerminal reports whether a person sits at the other end.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
