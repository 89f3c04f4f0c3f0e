package text

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// command is what a message orders.
type command struct {
	verb    string // status, help, boot, power, link, vpn, reset, ticket, yes
	machine string // of boot, power and ticket
	arg     string // image, action, uplink, or the number of a yes
}

// String is the command as it is best written; it has no code in it.
func (c command) String() string {
	switch c.verb {
	case "vpn":
		return "vpn up"
	case "reset":
		return "reset modem"
	}
	return strings.Join(strings.Fields(c.verb+" "+c.machine+" "+c.arg), " ")
}

// synonyms are what people write for a word: the commands in Russian, for phones whose keyboard has no
// Latin letters at hand, and what the hand writes by itself.
var synonyms = map[string]string{
	"?": "help", "помощь": "help", "справка": "help",
	"stat": "status", "state": "status", "статус": "status", "состояние": "status",
	"загрузить": "boot", "загрузи": "boot", "загрузка": "boot",
	"питание": "power", "вкл": "on", "включить": "on", "включи": "on", "выкл": "off", "выключить": "off", "выключи": "off",
	"restart": "cycle", "reboot": "cycle", "перезапуск": "cycle", "перезагрузить": "cycle", "перезагрузи": "cycle", "цикл": "cycle",
	"канал": "link", "впн": "vpn", "сброс": "reset", "модем": "modem", "билет": "ticket", "тикет": "ticket", "да": "yes",
}

// alike are the Cyrillic small letters that look like Latin ones, or whose capitals do: a name that was
// written with them is meant in Latin.
var alike = strings.NewReplacer("а", "a", "в", "b", "с", "c", "е", "e", "ё", "e", "н", "h", "і", "i", "ј", "j", "к", "k", "м", "m", "о", "o", "р", "p", "ѕ", "s", "т", "t", "у", "y", "х", "x")

// words takes a message apart: what autocorrection and keyboards put around words is dropped, and capitals
// are as good as small letters.
func words(text string) (list []string) {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Cf, r): // zero-width spaces, marks of direction
			return -1
		case unicode.Is(unicode.Pd, r): // "srv–01": a phone makes dashes of hyphens
			return '-'
		}
		return unicode.ToLower(r)
	}, text)
	for _, w := range strings.Fields(text) {
		bare := strings.TrimFunc(w, func(r rune) bool { return unicode.IsPunct(r) || unicode.IsSymbol(r) })
		if bare == "" && strings.HasPrefix(w, "?") {
			bare = "?"
		}
		if bare == "" {
			continue
		}
		if meant, ok := synonyms[bare]; ok {
			bare = meant
		}
		list = append(list, alike.Replace(bare))
	}
	return list
}

// takeCodes takes one or two codes off the end of the words, or else off their beginning.
//
// An image may be called 20240101, and then it is no code.
func takeCodes(list []string) (rest, codes []string) {
	rest, codes = takeAll(list)
	if _, err := parse(rest); err == nil || len(codes) < 2 {
		return rest, codes
	}
	code, n := codeIn(list, true)
	if _, err := parse(list[:len(list)-n]); err == nil {
		return list[:len(list)-n], []string{code}
	}
	return rest, codes
}

// takeAll takes as many as there may be.
func takeAll(list []string) (rest, codes []string) {
	rest = list
	for len(codes) < 2 {
		code, n := codeIn(rest, true)
		if n == 0 {
			break
		}
		rest, codes = rest[:len(rest)-n], append([]string{code}, codes...)
	}
	for ahead := len(codes) == 0; ahead && len(codes) < 2; {
		code, n := codeIn(rest, false)
		if n == 0 {
			break
		}
		rest, codes = rest[n:], append(codes, code)
	}
	return rest, codes
}

// codeIn is the code at an end of the words, and how many of them it takes: apps show codes as
// "1234 5678", and people copy them so.
func codeIn(list []string, atEnd bool) (code string, n int) {
	one, two := list[:min(1, len(list))], list[:min(2, len(list))]
	if atEnd {
		one, two = list[max(0, len(list)-1):], list[max(0, len(list)-2):]
	}
	switch {
	case len(one) == 1 && number(one[0], digits):
		return one[0], 1
	case len(two) == 2 && number(two[0], digits/2) && number(two[1], digits/2):
		return two[0] + two[1], 2
	}
	return "", 0
}

// number reports whether a word is one of so many digits.
func number(w string, n int) bool {
	return len(w) == n && !strings.ContainsFunc(w, func(r rune) bool { return r < '0' || r > '9' })
}

// parse reads a message without its codes.
func parse(list []string) (command, error) {
	if len(list) == 0 {
		return command{}, fmt.Errorf("no command: help lists them")
	}
	c, args := command{verb: list[0]}, list[1:]
	i := slices.IndexFunc(forms, func(f form) bool { return f.verb == c.verb })
	if i < 0 {
		return command{}, fmt.Errorf("no command %q: help lists them", short(c.verb))
	}
	f := forms[i]
	if len(args) != f.words || f.args != nil && !slices.Contains(f.args, args[len(args)-1]) {
		return command{}, fmt.Errorf("write it as: %s", f.usage)
	}
	switch {
	case f.machine:
		c.machine = args[0]
		c.arg = strings.Join(args[1:], " ")
	case f.words == 1:
		c.arg = args[0]
	}
	return c, nil
}

// form is how a command is written.
type form struct {
	verb, usage string
	words       int      // after the verb
	machine     bool     // the first of them is one
	args        []string // what the last of them may be; nil: anything
}

// forms are the commands, the most needed first.
var forms = []form{
	{verb: "status", usage: "status"},
	{verb: "boot", usage: "boot MACHINE IMAGE", words: 2, machine: true},
	{verb: "power", usage: "power MACHINE on/off/cycle/status", words: 2, machine: true, args: []string{"on", "off", "cycle", "status"}},
	{verb: "ticket", usage: "ticket MACHINE", words: 1, machine: true},
	{verb: "link", usage: "link lte/wan", words: 1},
	{verb: "vpn", usage: "vpn up", words: 1, args: []string{"up"}},
	{verb: "reset", usage: "reset modem", words: 1, args: []string{"modem"}},
	{verb: "help", usage: "help"},
	{verb: "yes", usage: "yes NUMBER", words: 1},
}

// may reports whether a number has the right to a command.
func (s Sender) may(c command) bool {
	if c.verb == "help" || c.verb == "yes" { // a yes is for what was allowed
		return true
	}
	return slices.ContainsFunc(s.May, func(right string) bool {
		verb, machine, one := strings.Cut(strings.ToLower(right), " ")
		return right == "all" || verb == c.verb && (!one || machine == c.machine)
	})
}

// help lists what a number may.
func (s Sender) help() string {
	var list []string
	for _, f := range forms {
		if f.verb != "help" && f.verb != "yes" && slices.ContainsFunc(s.May, func(right string) bool {
			verb, _, _ := strings.Cut(strings.ToLower(right), " ")
			return right == "all" || verb == f.verb
		}) {
			list = append(list, f.usage)
		}
	}
	if len(list) == 0 {
		return "this number may order nothing"
	}
	return strings.Join(list, "; ") + "; + code"
}

// looks reports whether a command changes nothing.
func (c command) looks() bool {
	return c.verb == "status" || c.verb == "ticket" || c.verb == "help" || c.verb == "power" && c.arg == "status"
}

// askBack reports whether a command is asked back (see the package's table).
func (c command) askBack(clockIsRight bool, plug func(machine string) bool) bool {
	switch c.verb {
	case "power":
		return c.arg == "off" || c.arg == "cycle" || c.arg == "on" && !clockIsRight
	case "boot":
		return !clockIsRight || plug != nil && plug(c.machine)
	}
	return false
}

// short is a word as it may be repeated in an answer.
func short(s string) string {
	if r := []rune(s); len(r) > 20 {
		return string(r[:20]) + "..."
	}
	return s
}
