package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"rescuebox/appliance/admin/api"
)

// progress draws how far a step of an import is, on a terminal; in a pipe it says
// that a step that took a while is done.
type progress struct {
	*printer
	mu          sync.Mutex
	step        string
	began, drew time.Time
	total       int64
}

// slow is what a step takes that a person wants to hear of.
const slow = time.Second

// progress goes to where errors go: what comes out is the result alone.
func (c *cli) progress() *progress {
	to := *c
	to.out, to.json = c.errOut, false
	return &progress{printer: to.printer()}
}

// tell is called often, with what has been done of a step.
func (p *progress) tell(step string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if step != p.step {
		p.finish(now)
		p.step, p.began, p.drew, p.total = step, now, time.Time{}, total
	}
	if now.Sub(p.drew) < 100*time.Millisecond && done < total {
		return
	}
	p.drew = now
	verb, file, _ := strings.Cut(step, " ")
	p.event(api.Event{Time: now, Step: verb, File: file, Bytes: done, Total: total, Transient: true})
}

// finish says that a step is done.
func (p *progress) finish(now time.Time) {
	p.wipe()
	if took := now.Sub(p.began); p.step != "" && took >= slow {
		fmt.Fprintf(p.errOut, "%s: %s in %.1f s\n", p.step, size(p.total), took.Seconds())
	}
	p.step = ""
}

// end leaves a clean line behind.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish(time.Now())
}
