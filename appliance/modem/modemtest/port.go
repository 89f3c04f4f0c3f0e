package modemtest

import (
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// port is one AT port.
type port struct {
	m    *Modem
	conn io.ReadWriteCloser
	mu   sync.Mutex // of writing
	echo bool
	rest []byte               // read, not yet understood
	call atomic.Pointer[call] // the data call that has the line
}

// serve reads commands until the port is closed.
func (p *port) serve() {
	for {
		line, err := p.line('\r')
		if err != nil {
			return
		}
		p.command(strings.TrimSpace(line))
	}
}

// line reads up to one of the ends, which is echoed and left out.
func (p *port) line(ends ...byte) (string, error) {
	var got []byte
	for {
		c, err := p.next()
		if err != nil {
			return "", err
		}
		if p.echo {
			p.write([]byte{c})
		}
		for _, end := range ends {
			if c == end {
				return string(got), nil
			}
		}
		switch {
		case c == 0x1b && len(ends) == 1: // an escape: forget what was typed
			got = got[:0]
		case len(got) < 1<<16:
			got = append(got, c)
		}
	}
}

func (p *port) next() (byte, error) {
	if len(p.rest) == 0 {
		buf := make([]byte, 4096)
		n, err := p.Read(buf)
		if err != nil {
			return 0, err
		}
		p.rest = buf[:n]
	}
	c := p.rest[0]
	p.rest = p.rest[1:]
	return c, nil
}

// Read is what comes in. Outside of a call nobody at the other end (EIO) is no end: the next may open the port.
func (p *port) Read(b []byte) (int, error) {
	if len(p.rest) > 0 {
		n := copy(b, p.rest)
		p.rest = p.rest[n:]
		return n, nil
	}
	for {
		p.m.mu.Lock()
		stalled := p.m.stalled
		p.m.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		n, err := p.conn.Read(b)
		if n > 0 || err == nil || p.call.Load() != nil || !errors.Is(err, unix.EIO) {
			return n, err
		}
		p.echo = true // who opens it next finds it as after power-on
		time.Sleep(10 * time.Millisecond)
	}
}

// Write is what goes out.
func (p *port) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn.Write(b)
}

func (p *port) write(b []byte) { _, _ = p.Write(b) }

// say writes a line as a modem does.
func (p *port) say(line string) { p.write([]byte("\r\n" + line + "\r\n")) }

// command answers one command line.
func (p *port) command(line string) {
	if len(line) < 2 || !strings.EqualFold(line[:2], "AT") {
		return
	}
	cmd := line[2:]
	f := p.m.hear(cmd)
	if p.m.silent() || f != nil && f.Hang {
		return
	}
	if f != nil {
		p.faulty(cmd, f)
		return
	}
	p.answer(cmd)
}

// faulty answers as the fault wants it.
func (p *port) faulty(cmd string, f *Answer) {
	time.Sleep(f.Delay)
	if f.Do != nil {
		f.Do()
	}
	for _, line := range f.Inside {
		p.say(line)
	}
	if f.Result == "" && f.Lines == nil {
		p.answer(cmd)
		return
	}
	for _, line := range f.Lines {
		p.say(line)
	}
	if f.Result == "" {
		f.Result = "OK"
	}
	p.say(f.Result)
}

// answer is what a sound modem says.
func (p *port) answer(cmd string) {
	for _, one := range split(cmd) {
		name, _, _ := strings.Cut(one, "=")
		name = strings.ToUpper(name)
		if p.inCall(one) {
			return
		}
		switch {
		case name == "+CMGS", name == "+CMGW":
			p.compose(one)
			return
		case strings.HasPrefix(name, "D"):
			p.dial(one[1:])
			return
		case one == "E0", one == "E1":
			p.echo = one == "E1"
			continue
		case name == "Z", name == "&F":
			p.echo = true
			continue
		}
		lines, result := p.m.answer(one)
		for _, line := range lines {
			p.say(line)
		}
		if result != "OK" {
			p.say(result)
			return
		}
	}
	p.say("OK")
}

// split takes "+CGMI;+CGMM" and "E0V1" apart (ITU-T V.250 section 5.4.3).
func split(cmd string) []string {
	var list []string
	for len(cmd) > 0 {
		n := len(cmd)
		switch {
		case strings.ContainsRune("+^*$!#%", rune(cmd[0])), cmd[0] == 'D', cmd[0] == 'd':
			quoted := false
			for i, c := range cmd {
				if c == '"' {
					quoted = !quoted
				}
				if c == ';' && !quoted {
					n = i
					break
				}
			}
		default:
			n = 1
			if cmd[0] == '&' && len(cmd) > 1 {
				n = 2
			}
			for n < len(cmd) && cmd[n] >= '0' && cmd[n] <= '9' {
				n++
			}
		}
		list = append(list, strings.TrimSpace(cmd[:n]))
		cmd = strings.TrimLeft(cmd[n:], "; ")
	}
	return list
}
