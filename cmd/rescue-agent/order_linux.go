package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
)

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

func parseSHA256(value string) (string, error) {
	b, err := hex.DecodeString(value)
	if err != nil || len(b) != 32 {
		return "", &badCmdline{fmt.Sprintf("rescuebox.sha256=%q is no SHA-256: want 64 hexadecimal digits", printable(value))}
	}
	return hex.EncodeToString(b), nil
}
