package boottest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// grubTFTP is what GRUB 2.06 asks for.
var grubTFTP = tftpOptions{block: 1024, size: true}

// runGRUB is Debian's signed grubnet: it looks for its configuration by its
// MAC, by ever less of its address, then plain (net/net.c,
// grub_net_search_config_file), and before it starts that for lists of modules.
func (m *Machine) runGRUB(from origin) error {
	g := &grub{m: m, server: from.server, vars: map[string]string{"net_default_mac": m.Card.MAC.String(), "prefix": "/grub"}}
	dashes := strings.ReplaceAll(m.Card.MAC.String(), ":", "-")
	names := []string{"grub.cfg-01-" + dashes}
	for hex := fmt.Sprintf("%X", m.address.Addr().AsSlice()); hex != ""; hex = hex[:len(hex)-1] {
		names = append(names, "grub.cfg-"+hex)
	}
	for _, name := range append(names, "grub.cfg") {
		config, ok := m.optional(from.at("/grub/"+name), grubTFTP)
		if !ok {
			continue
		}
		for _, list := range []string{"command.lst", "fs.lst", "crypto.lst", "terminal.lst"} {
			m.optional(from.at("/grub/"+grubPlatform(m.cpu())+"/"+list), grubTFTP)
		}
		return g.config(string(config.Data))
	}
	return errors.New("GRUB found no configuration and waits at its prompt for ever")
}

func grubPlatform(cpu string) string {
	return map[string]string{"amd64": "x86_64-efi", "arm64": "arm64-efi", "i386": "i386-efi"}[cpu]
}

// grub runs configurations in the part of GRUB's language that ours are in.
type grub struct {
	m      *Machine
	server netip.AddrPort
	vars   map[string]string
	kernel string
	args   string
	nested int // configurations within configurations
	booted bool
}

// errReboot is how a configuration gives up.
var errReboot = errors.New("GRUB restarts the machine")

func (g *grub) config(text string) error {
	if g.nested++; g.nested > 5 {
		return errors.New("a loop: GRUB's configuration loads itself")
	}
	statements, err := parseGRUB(text)
	if err == nil {
		_, err = g.run(statements)
	}
	if err == nil && !g.booted {
		err = errors.New("GRUB's configuration started nothing: it waits at its prompt for ever")
	}
	return err
}

// statement is a command, or "if" and "for" with what belongs to them.
type statement struct {
	words       []string
	body, other []statement // then and else of if; body of for
	condition   []statement
}

// run runs statements; ok is the last one's result.
func (g *grub) run(list []statement) (ok bool, err error) {
	ok = true
	for _, s := range list {
		if g.booted || err != nil {
			return ok, err
		}
		switch s.words[0] {
		case "if":
			var yes bool
			if yes, err = g.run(s.condition); err == nil {
				ok, err = g.run(map[bool][]statement{true: s.body, false: s.other}[yes])
			}
		case "for":
			for _, v := range s.words[min(3, len(s.words)):] {
				g.vars[s.words[1]] = v
				if ok, err = g.run(s.body); err != nil || g.booted {
					break
				}
			}
		default:
			ok, err = g.command(s.words)
		}
	}
	return ok, err
}

// command runs one command. An error ends everything; ok false is a command that failed.
func (g *grub) command(words []string) (ok bool, err error) {
	args := make([]string, len(words)-1)
	for i, w := range words[1:] {
		args[i] = g.expand(w)
	}
	if needs := []string{"set", "sleep", "linux", "initrd", "configfile", "source"}; len(args) == 0 && slices.Contains(needs, words[0]) {
		return false, fmt.Errorf("GRUB: %s without arguments", words[0])
	}
	switch words[0] {
	case "set":
		name, value, _ := strings.Cut(args[0], "=")
		g.vars[name] = value
	case "echo":
		g.m.logf("GRUB: %s", strings.Join(args, " "))
	case "sleep":
		seconds, _ := strconv.Atoi(args[len(args)-1])
		g.m.pause(time.Duration(seconds) * time.Second)
	case "linux":
		g.kernel, g.args = "", strings.Join(args[1:], " ")
		return g.load(args[:1], func(f Loaded) bool { g.kernel = f.Name; return g.m.starts(f) }) // else "bad shim signature"
	case "initrd":
		return g.load(args, func(Loaded) bool { return true })
	case "boot":
		if g.booted = g.kernel != ""; g.booted {
			g.m.out.Kernel, g.m.out.Cmdline = g.kernel, g.args
		}
		return g.booted, nil
	case "configfile", "source":
		return g.other(args[0])
	case "reboot":
		return false, errReboot
	default:
		return false, fmt.Errorf("GRUB has no command %q: the signed one may load no module", words[0])
	}
	return true, nil
}

func (g *grub) other(name string) (bool, error) {
	f, err := g.fetch(name)
	if err != nil {
		g.m.logf("GRUB: %v", err)
		return false, nil
	}
	return true, g.config(string(f.Data))
}

func (g *grub) load(names []string, each func(Loaded) bool) (bool, error) {
	for _, name := range names {
		f, err := g.fetch(name)
		if err != nil {
			g.m.logf("GRUB: %v", err)
			return false, nil
		}
		if !each(f) {
			return false, nil
		}
	}
	return true, nil
}

// fetch loads "(tftp,SERVER)/path", or a path of where GRUB came from.
func (g *grub) fetch(name string) (Loaded, error) {
	from := origin{"tftp", g.server, name}
	if device, path, ok := strings.Cut(name, ")"); ok {
		kind, server, _ := strings.Cut(strings.TrimPrefix(device, "("), ",")
		addr, err := netip.ParseAddr(server)
		if kind != "tftp" || err != nil {
			return Loaded{}, fmt.Errorf("%s): the signed GRUB knows tftp and an address only", device)
		}
		from = origin{"tftp", netip.AddrPortFrom(addr, 69), path}
	}
	return g.m.tftpGet(from, grubTFTP)
}

// expand puts variables in the place of $name. What was in single quotes has none.
func (g *grub) expand(word string) string {
	var out strings.Builder
	for word != "" {
		before, rest, ok := strings.Cut(word, "$")
		out.WriteString(before)
		if word = rest; !ok {
			break
		}
		n := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz_0123456789", r) })
		if n < 0 {
			n = len(rest)
		}
		out.WriteString(g.vars[rest[:n]])
		word = rest[n:]
	}
	return strings.ReplaceAll(out.String(), quotedDollar, "$")
}

// quotedDollar stands for a dollar sign that begins no variable.
const quotedDollar = "\x00"

// parseGRUB reads a configuration.
func parseGRUB(text string) ([]statement, error) {
	p := &grubParser{}
	for line := range strings.Lines(text) {
		words, err := grubWords(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, line)
		}
		p.words = append(append(p.words, words...), "\n")
	}
	list, end := p.statements()
	if end != "" {
		return nil, fmt.Errorf("GRUB configuration: %q without its beginning", end)
	}
	return list, nil
}

type grubParser struct{ words []string }

// separators end a command; a quoted word never is one, see grubWords.
var separators = []string{"\n", ";"}

// statements reads until a word that ends a block, which it returns.
func (p *grubParser) statements() (list []statement, end string) {
	for len(p.words) > 0 {
		switch w := p.words[0]; {
		case slices.Contains(separators, w):
			p.words = p.words[1:]
		case slices.Contains([]string{"then", "else", "fi", "do", "done"}, w):
			p.words = p.words[1:]
			return list, w
		default:
			list = append(list, p.statement())
		}
	}
	return list, ""
}

func (p *grubParser) statement() statement {
	var s statement
	if p.words[0] == "if" {
		p.words = p.words[1:]
		s.words = []string{"if"}
		s.condition, _ = p.statements()
		var end string
		if s.body, end = p.statements(); end == "else" {
			s.other, _ = p.statements()
		}
		return s
	}
	n := slices.IndexFunc(p.words, func(w string) bool { return slices.Contains(separators, w) })
	s.words, p.words = p.words[:n], p.words[n:]
	if s.words[0] == "for" && len(s.words) < 3 {
		s.words = []string{"for with nothing"}
	}
	if s.words[0] == "for" {
		p.statements() // the empty list before do
		s.body, _ = p.statements()
	}
	return s
}

// grubWords splits a line into words, without their quotes. A comment ends it.
func grubWords(line string) (words []string, err error) {
	var word strings.Builder
	open, quote := false, rune(0)
	end := func() {
		if open {
			words = append(words, word.String())
		}
		word.Reset()
		open = false
	}
	escaped := false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteString(strings.ReplaceAll(string(r), "$", quotedDollar))
			escaped = false
		case quote == '\'' && r == '$':
			word.WriteString(quotedDollar)
		case quote == '\'' && r != '\'', quote == '"' && r != '"' && r != '\\':
			word.WriteRune(r)
		case r == '\\':
			escaped, open = true, true
		case quote != 0:
			quote = 0
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == '#' && !open:
			return words, nil
		case r == ' ' || r == '\t':
			end()
		case r == ';':
			end()
			words = append(words, ";")
		default:
			open = true
			word.WriteRune(r)
		}
	}
	end()
	if quote != 0 {
		return nil, errors.New("GRUB configuration: a quote is not closed")
	}
	return words, nil
}
