package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"rescuebox/appliance/admin/api"
)

// printer prints events: with a progress bar on a terminal, one line per event
// in a pipe, one JSON document per line with --json.
type printer struct {
	*cli
	terminal bool
	machines bool // name the machine in every line

	mu     sync.Mutex
	drawn  bool // a progress bar stands on the last line
	broken bool // the connection is lost
	rates  map[string]*rate
}

func (c *cli) printer() *printer {
	return &printer{cli: c, terminal: isTerminal(c.out) && !c.json, rates: map[string]*rate{}}
}

// event prints one event.
func (p *printer) event(e api.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.json:
		p.line("event", e)
	case !e.Transient:
		p.wipe()
		delete(p.rates, e.Order+"/"+e.File)
		fmt.Fprintf(p.out, "%s  %s%s  %s\n", e.Time.Local().Format("15:04:05"), p.machine(e), p.step(e.Step), p.text(e))
		for _, l := range e.Lines {
			fmt.Fprintf(p.out, "          %s          | %s\n", p.machine(e), clean(l))
		}
		if e.Hint != "" {
			fmt.Fprintf(p.out, "          %s          hint: %s\n", p.machine(e), clean(e.Hint))
		}
	case p.terminal && e.Total > 0:
		p.wipe()
		fmt.Fprintf(p.out, "          %s%s", p.machine(e), p.bar(e))
		p.drawn = true
	}
}

// machine is the column of the machine's name, where there is one.
func (p *printer) machine(e api.Event) string {
	if !p.machines {
		return ""
	}
	name := e.Machine
	if name == "" {
		name = e.MAC
	}
	return fmt.Sprintf("%-17s  ", clean(name))
}

// step is the column of the step, coloured where it is good or bad news.
func (p *printer) step(step string) string {
	text := fmt.Sprintf("%-8s", clean(step))
	switch step {
	case "done", "up", "ticket":
		return p.green(text)
	case "failed", "expired":
		return p.red(text)
	case "refused", "cause":
		return p.yellow(text)
	}
	return text
}

// text is the event's sentence; that of a cause is what somebody waits for.
func (p *printer) text(e api.Event) string {
	if e.Step == "cause" {
		return p.yellow(clean(e.Text))
	}
	return clean(e.Text)
}

// bar draws a file's progress.
func (p *printer) bar(e api.Event) string {
	const width = 20
	full := int(width * min(e.Bytes, e.Total) / e.Total)
	key := e.Order + "/" + e.File
	r := p.rates[key]
	if r == nil {
		r = &rate{}
		p.rates[key] = r
	}
	return fmt.Sprintf("%-8s  %s  [%s%s] %3d %%  %s of %s  %s/s", e.Step, clean(e.File),
		strings.Repeat("#", full), strings.Repeat(".", width-full), 100*min(e.Bytes, e.Total)/e.Total,
		size(e.Bytes), size(e.Total), size(r.at(e.Time, e.Bytes)))
}

// wipe takes the progress bar off the last line.
func (p *printer) wipe() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}

// end leaves a clean line behind.
func (p *printer) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}

// lost tells once that the daemon does not answer.
func (p *printer) lost(err error, _ time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken {
		return
	}
	p.broken = true
	p.wipe()
	fmt.Fprintf(p.errOut, "connection lost, trying again: %s\n", err)
}

// connected tells that the daemon answers again.
func (p *printer) connected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken {
		p.wipe()
		fmt.Fprintln(p.errOut, "connected again")
	}
	p.broken = false
}

// rate is the speed of a transfer, smoothed, so that it can be read.
type rate struct {
	last  time.Time
	bytes int64
	speed float64
}

// at takes a position and returns the speed there.
func (r *rate) at(now time.Time, bytes int64) int64 {
	const weight = 0.3 // of the newest measurement
	if seconds := now.Sub(r.last).Seconds(); !r.last.IsZero() && seconds > 0 && bytes >= r.bytes {
		speed := float64(bytes-r.bytes) / seconds
		if r.speed == 0 {
			r.speed = speed
		}
		r.speed += weight * (speed - r.speed)
	}
	r.last, r.bytes = now, bytes
	return int64(r.speed)
}
