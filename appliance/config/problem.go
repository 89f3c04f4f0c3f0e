package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// Problem is one thing that is wrong in the file, and what to do about it.
// The error of Parse is one or more of them, joined, in the order of lines.
type Problem struct {
	File string
	Line int    // from 1
	Key  string // as a person writes it: `lan.range`, `machine "srv01": mac`; "" for the text as a whole
	Text string // what is wrong
	Hint string // what to do
}

// Error is the problem on one line, with its place in front as compilers have it.
func (p *Problem) Error() string {
	where := fmt.Sprintf("%s:%d: ", p.File, p.Line)
	if p.Key != "" {
		where += p.Key + ": "
	}
	if p.Hint == "" {
		return where + p.Text
	}
	return where + p.Text + " (hint: " + p.Hint + ")"
}

// fault is a problem before it has a place: what parsers of single values
// return. It never holds a value that could be a secret.
type fault struct{ text, hint string }

func faultf(hint, format string, args ...any) *fault {
	return &fault{text: fmt.Sprintf(format, args...), hint: hint}
}

// maxProblems bounds what a file that is no configuration at all can cost.
const maxProblems = 50

func byLine(a, b *Problem) int { return cmp.Compare(a.Line, b.Line) }

// join makes one error of problems that are sorted by line.
func join(problems []*Problem) error {
	errs := make([]error, 0, len(problems))
	for i, p := range problems {
		if i == maxProblems {
			errs = append(errs, fmt.Errorf("%s: and %d more problems", p.File, len(problems)-i))
			break
		}
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// quote shows a value of the file, cut where it would flood the line.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
