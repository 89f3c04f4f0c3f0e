package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// In a pipe, a step that took a while leaves one line, and one that did not leaves none.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, errOut strings.Builder
		p := (&cli{out: &out, errOut: &errOut, json: true}).progress()
		for n := range int64(31) {
			p.tell("checking boot.wim", n<<20, 30<<20)
			time.Sleep(100 * time.Millisecond)
		}
		p.tell("copying boot.wim", 5, 5)
		p.end()
		p.end()
		if want := "checking boot.wim: 30.0 MiB in 3.1 s\n"; errOut.String() != want || out.String() != "" {
			t.Errorf("%q and %q, want %q", errOut.String(), out.String(), want)
		}
	})
}

// On a terminal a bar is drawn, and wiped before anything else is said.
func TestProgressBar(t *testing.T) {
	var errOut strings.Builder
	p := (&cli{errOut: &errOut}).progress()
	p.terminal = true
	p.tell("checking boot.wim", 15<<20, 30<<20)
	p.tell("checking boot.wim", 30<<20, 30<<20)
	p.end()
	got := errOut.String()
	for _, want := range []string{"checking  boot.wim  [##########..........]  50 %  15.0 MiB of 30.0 MiB", "100 %"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("the bar is left behind: %q", got)
	}
}
