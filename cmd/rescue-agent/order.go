package main

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
)

// order is what the box gave this boot along: on the kernel command line, or in
// rescue-agent.json.
type order struct {
	Server  *url.URL // rescuebox.server: where to report
	Token   string   // rescuebox.token: proves this boot to the box; never printed
	Machine string   // rescuebox.machine: the name people on site read
	URL     *url.URL // rescuebox.url: the root file system
	SHA256  string   // rescuebox.sha256 of it, 64 lower-case digits
}

// badCmdline is an error in the kernel command line.
type badCmdline struct{ text string }

func (e *badCmdline) Error() string { return e.text }

func parseURL(key, value string) (*url.URL, error) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, &badCmdline{fmt.Sprintf("%s=%q is no http URL", key, printable(value))}
	}
	return u, nil
}

// parseToken makes sure that the token can stand in a header. The error does not show it.
func parseToken(value string) (string, error) {
	for _, r := range value {
		if r <= ' ' || r >= 0x7f {
			return "", &badCmdline{"rescuebox.token holds characters that a header cannot carry"}
		}
	}
	return value, nil
}

// printable keeps a value from moving the cursor of the console it is shown on.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 200 {
		return string(r[:200])
	}
	return s
}
