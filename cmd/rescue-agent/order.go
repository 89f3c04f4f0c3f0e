package main

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"unicode"
)

// order is what the box put on the kernel command line for this boot.
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

// parseOrder reads a kernel command line. What is missing stays empty: the
// initramfs and the booted system need different things. Values are shown in
// errors, except the token's.
func parseOrder(cmdline string) (order, error) {
	var o order
	var err error
	for _, word := range splitCmdline(cmdline) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "rescuebox.server":
			o.Server, err = parseURL(key, value)
		case "rescuebox.url":
			o.URL, err = parseURL(key, value)
		case "rescuebox.sha256":
			o.SHA256, err = parseSHA256(value)
		case "rescuebox.token":
			o.Token, err = parseToken(value)
		case "rescuebox.machine":
			o.Machine = printable(value)
		}
		if err != nil {
			return order{}, err
		}
	}
	return o, nil
}

// splitCmdline splits at spaces outside double quotes, as the kernel does.
func splitCmdline(s string) []string {
	quoted := false
	words := strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && unicode.IsSpace(r)
	})
	for i, w := range words {
		words[i] = strings.ReplaceAll(w, `"`, "")
	}
	return words
}

func parseURL(key, value string) (*url.URL, error) {
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, &badCmdline{fmt.Sprintf("%s=%q is no http URL", key, printable(value))}
	}
	return u, nil
}

func parseSHA256(value string) (string, error) {
	b, err := hex.DecodeString(value)
	if err != nil || len(b) != 32 {
		return "", &badCmdline{fmt.Sprintf("rescuebox.sha256=%q is no SHA-256: want 64 hexadecimal digits", printable(value))}
	}
	return hex.EncodeToString(b), nil
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
