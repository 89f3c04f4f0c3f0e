package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
)

// On a terminal a bar is drawn in place, and gives way to the next line; in a pipe there is none.
func TestPrinter(t *testing.T) {
	at := time.Date(2026, 11, 22, 3, 4, 5, 0, time.Local)
	events := []api.Event{
		{Time: at, Step: "script", Text: "boot.ipxe fetched"},
		{Time: at, Step: "file", File: "root.squashfs", Bytes: 0, Total: 100 << 20, Transient: true},
		{Time: at.Add(time.Second), Step: "file", File: "root.squashfs", Bytes: 50 << 20, Total: 100 << 20, Transient: true},
		{Time: at.Add(2 * time.Second), Step: "file", File: "root.squashfs", Text: "root.squashfs\x1b[2J fetched"},
	}
	const script, file = "03:04:05  script    boot.ipxe fetched\n", "03:04:07  file      root.squashfs[2J fetched\n"
	const empty = "          file      root.squashfs  [....................]   0 %  0 B of 100.0 MiB  0 B/s"
	const half = "          file      root.squashfs  [##########..........]  50 %  50.0 MiB of 100.0 MiB  50.0 MiB/s"
	for name, c := range map[string]struct {
		terminal, json bool
		want           string
	}{
		"terminal": {true, false, script + empty + "\r\x1b[K" + half + "\r\x1b[K" + file},
		"pipe":     {false, false, script + file},
	} {
		var out bytes.Buffer
		p := (&cli{out: &out, json: c.json}).printer()
		p.terminal = c.terminal
		for _, e := range events {
			p.event(e)
		}
		p.end()
		if got := out.String(); got != c.want {
			t.Errorf("%s:\n%q, want\n%q", name, got, c.want)
		}
	}
	var out bytes.Buffer
	p := (&cli{out: &out, json: true}).printer()
	for _, e := range events {
		p.event(e)
	}
	if got := strings.Count(out.String(), "\n"); got != len(events) || strings.ContainsRune(out.String(), '\x1b') {
		t.Errorf("JSON: %q", &out)
	}
}

// A likely cause stands out, and what to do is below it; the order's end repeats that.
func TestCause(t *testing.T) {
	cause := api.Event{Time: time.Date(2026, 11, 22, 3, 4, 5, 0, time.Local), Step: "cause", Machine: "srv01", Key: "no-packet",
		Text: "no packet from srv01", Hint: "look at its power"}
	var out bytes.Buffer
	c := &cli{out: &out, errOut: &out}
	f := &follower{cli: c, order: api.Order{ID: "1", Machine: "srv01", Reason: "srv01 did not boot in time"}, print: c.printer(), client: api.OverSocket("/nowhere/api.sock")}
	if over, err := f.take(t.Context(), cause); over || err != nil {
		t.Errorf("a cause ended the command: %v", err)
	}
	if got, want := out.String(), "03:04:05  cause     no packet from srv01\n                    hint: look at its power\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	f.order.State = "expired"
	if err := f.end(t.Context()); err == nil || hintOf(err) != "look at its power" {
		t.Errorf("the end of the order: %v, hint %q", err, hintOf(err))
	}
}

// The connection's end is told once, not at every try.
func TestPrinterLost(t *testing.T) {
	var errOut bytes.Buffer
	p := (&cli{out: &bytes.Buffer{}, errOut: &errOut}).printer()
	p.connected()
	for range 3 {
		p.lost(errors.New("refused"), time.Second)
	}
	p.connected()
	p.connected()
	if got, want := errOut.String(), "connection lost, trying again: refused\nconnected again\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// What an order's end means for the command.
func TestFollowerEnd(t *testing.T) {
	var out bytes.Buffer
	c := &cli{out: &out, errOut: &out}
	f := &follower{cli: c, order: api.Order{ID: "1", Machine: "srv01", State: "expired", Reason: "srv01 did not boot in time"}, print: c.printer()}
	f.client = api.OverSocket("/nowhere/api.sock") // does not answer
	if err := f.end(t.Context()); err == nil || err.Error() != "the order expired: srv01 did not boot in time" || hintOf(err) == "" {
		t.Errorf("of an expired order: %v", err)
	}
	f.order.State, f.done = "armed", true
	if err := f.end(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "srv01 is up, but its ticket cannot be read") {
		t.Errorf("without a daemon: %v", err)
	}
	f.noTicket = true
	if err := f.end(t.Context()); err != nil {
		t.Errorf("of an image that brings no ticket: %v", err)
	}
}

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"srv01": "srv01", "": "", "a\x1b[2Jb": "a[2Jb", "a\r\nb\tc": "abc", "\x1b]0;title\x07": "]0;title",
		red + "failed" + plain: red + "failed" + plain, "a\u202eb": "ab", "Казань": "Казань", "\u009b2J": "2J", "a\xffb\x1b": "a\ufffdb",
	} {
		if got := clean(text); got != want {
			t.Errorf("clean(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestColours(t *testing.T) {
	c := &cli{out: &bytes.Buffer{}}
	if got := c.red("x"); got != "x" {
		t.Errorf("in a pipe: %q", got)
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 345 << 20: "345.0 MiB", 5 << 30: "5.0 GiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 59*time.Second + 1: "59s", 61 * time.Minute: "1h01m", 72 * time.Hour: "3 days"} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %q, want %q", d, got, want)
		}
	}
	for text, want := range map[string]time.Duration{"90d": 2160 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "0d": 0, "-1d": 0, "d": 0, "": 0, "9999999d": 0, "-1h": 0} {
		got, err := days(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("days(%q) = %s, %v; want %s", text, got, err, want)
		}
	}
}

// A ticket of a machine that proved itself comes before a newer one that anybody may have sent.
func TestBest(t *testing.T) {
	list := []api.Ticket{{ID: "new"}, {ID: "proved", Verified: true}, {ID: "old", Verified: true}}
	if got := best(list); got.ID != "proved" {
		t.Errorf("best = %s", got.ID)
	}
	if got := best(list[:1]); got.ID != "new" {
		t.Errorf("best of one = %s", got.ID)
	}
}
