package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf16"
)

const (
	ticketFile = "inv32.xml"
	maxTicket  = 64 << 10 // what the box takes; an honest one has less than 4 KiB
	settled    = 10 * time.Second
)

// lookout looks for inv32.xml where RemoteRecovery.exe leaves it: in its current
// directory, which is System32 if we start it, and another if a script of the image does.
type lookout struct {
	paths []string
	seen  map[string]sight
}

// sight is how a file looked last.
type sight struct {
	size  int64
	mod   time.Time
	since time.Time
}

// look is the newest ticket that is there as a whole, or nil. A file that is
// written just now is none: it counts once it has stayed the same between two
// looks and ends as a ticket does, or has stayed the same for ten seconds. That
// it ends as we think is written nowhere, and the box keeps whatever comes.
func (l *lookout) look(now time.Time) []byte {
	var newest time.Time
	var ticket []byte
	for _, path := range l.paths {
		same := l.unchanged(path, now)
		if same < 0 {
			continue
		}
		raw, err := readTicket(path)
		if err != nil || int64(len(raw)) != l.seen[path].size {
			continue
		}
		if mod := l.seen[path].mod; (whole(raw) || same >= settled) && (ticket == nil || mod.After(newest)) {
			newest, ticket = mod, raw
		}
	}
	return ticket
}

// unchanged is for how long a file looks as it does, less than nothing if it does not.
func (l *lookout) unchanged(path string, now time.Time) time.Duration {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() || info.Size() == 0 || info.Size() > maxTicket {
		delete(l.seen, path)
		return -1
	}
	if last, ok := l.seen[path]; ok && last.size == info.Size() && last.mod.Equal(info.ModTime()) {
		return now.Sub(last.since)
	}
	if l.seen == nil {
		l.seen = map[string]sight{}
	}
	l.seen[path] = sight{size: info.Size(), mod: info.ModTime(), since: now}
	return -1
}

func readTicket(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // or somebody writes it just now
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxTicket+1))
	if err == nil && len(raw) > maxTicket {
		return nil, errors.New("too long for a ticket")
	}
	return raw, err
}

// whole says whether a file begins and ends as a ticket ([MS-RAI] section 2.2.2).
func whole(raw []byte) bool {
	text := strings.TrimSpace(decode(raw))
	return strings.Contains(text, "<E>") && strings.HasSuffix(text, "</E>")
}

// decode turns UTF-16 into UTF-8, with and without its mark. What DaRT writes is
// written down nowhere.
func decode(raw []byte) string {
	high := -1 // where the high byte of a character is
	switch {
	case len(raw) >= 2 && raw[0] == 0xff && raw[1] == 0xfe, len(raw) >= 2 && raw[0] == '<' && raw[1] == 0:
		high = 1
	case len(raw) >= 2 && raw[0] == 0xfe && raw[1] == 0xff, len(raw) >= 2 && raw[0] == 0 && raw[1] == '<':
		high = 0
	}
	if high < 0 {
		return strings.Trim(string(raw), "\x00\ufeff")
	}
	units := make([]uint16, 0, len(raw)/2)
	for i := 0; i+1 < len(raw); i += 2 {
		units = append(units, uint16(raw[i+high])<<8|uint16(raw[i+1-high]))
	}
	return strings.Trim(string(utf16.Decode(units)), "\x00\ufeff")
}

// onScreen is what of a ticket the person on site may have to read out.
type onScreen struct {
	Code  string   // 118-497-589, "" in a file of another form
	Ports []string // "192.168.77.100 49161", as the file has them
}

// read is a glance at a ticket, for people. The box has the parser.
func read(raw []byte) onScreen {
	text := decode(raw)
	var s onScreen
	if a := tags(text, "A"); len(a) > 0 {
		s.Code = code(attribute(a[0], "ID"))
	}
	for _, l := range tags(text, "L") {
		name, port := attribute(l, "N"), attribute(l, "P")
		if ip := globalAddress(name); ip != "" && port != "" && len(s.Ports) < 4 {
			s.Ports = append(s.Ports, ip+" port "+printable(port))
		}
	}
	return s
}

// code is the text if it is digits and hyphens: what else stands there, nobody reads out.
func code(s string) string {
	if len(s) > 24 || strings.Trim(s, "0123456789-") != "" {
		return ""
	}
	return s
}

// tags lists the inside of a text's start tags of one name.
func tags(text, name string) []string {
	var list []string
	for len(list) < 64 {
		i := strings.Index(text, "<"+name)
		if i < 0 {
			break
		}
		text = text[i+1+len(name):]
		end := strings.IndexByte(text, '>')
		if end < 0 {
			break
		}
		if strings.IndexAny(text, " \t\r\n") == 0 {
			list = append(list, strings.TrimRight(text[:end], "/"))
		}
		text = text[end:]
	}
	return list
}

func attribute(tag, name string) string {
	for rest := tag; ; {
		key, after, ok := strings.Cut(rest, "=")
		after = strings.TrimSpace(after)
		if !ok || after == "" || (after[0] != '"' && after[0] != '\'') {
			return ""
		}
		end := strings.IndexByte(after[1:], after[0])
		if end < 0 {
			return ""
		}
		if strings.TrimSpace(key) == name {
			return after[1 : 1+end]
		}
		rest = after[end+2:]
	}
}
