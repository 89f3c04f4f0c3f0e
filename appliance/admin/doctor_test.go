package admin

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"rescuebox/appliance/admin/api"
)

// A failed check marks those behind it, and those behind them; others run at once.
func TestExamine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		says := func(l Level, wait time.Duration) func(context.Context) []Finding {
			return func(context.Context) []Finding {
				time.Sleep(wait)
				return []Finding{{Level: l, Text: string(l)}}
			}
		}
		start := time.Now()
		got := examine(t.Context(), []Check{
			{Name: "link", Run: says(Failed, time.Second)},
			{Name: "dhcp", After: []string{"link"}, Run: says(OK, 0)},
			{Name: "boot", After: []string{"dhcp"}, Run: says(OK, 0)},
			{Name: "disk", Run: says(Warning, time.Second)},
			{Name: "state", After: []string{"disk"}, Run: says(OK, time.Second)},
			{Name: "typo", After: []string{"dsik"}, Run: says(OK, 0)},
			{Name: "panics", Run: func(context.Context) []Finding { panic("oops") }},
			{Name: "hangs", Run: func(ctx context.Context) []Finding { <-ctx.Done(); return nil }},
			{Name: "deaf", Run: func(context.Context) []Finding { time.Sleep(time.Hour); return nil }},
		})
		var levels []Level
		for _, list := range got {
			for _, f := range list {
				levels = append(levels, f.Level)
			}
		}
		if d := cmp.Diff([]Level{Failed, Skipped, Skipped, Warning, OK, Failed, Failed, Warning, Warning}, levels); d != "" {
			t.Error(d)
		}
		if took := time.Since(start); took != checkLimit+leaveAfter {
			t.Errorf("took %s, want %s and %s of the one that does not heed its time", took, checkLimit, leaveAfter)
		}
		time.Sleep(time.Hour)
	})
}

func TestOwnChecks(t *testing.T) {
	s := newSite(t)
	s.Checks = []Check{{Name: "lan", After: []string{"parts"}, Run: func(context.Context) []Finding { return Fine("fine") }}}
	h, token := s.handler(t)
	if d := decode[api.Diagnosis](t, ask(h, "GET", "/v1/doctor", token[api.Operator], "")); !d.OK {
		t.Errorf("of a sound box: %+v", d)
	}
	if _, err := s.table.Arm("srv01", "rescue", "alice", 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Images.Dir, "rescue", "vmlinuz"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Server.Status = func() api.Status {
		return api.Status{Parts: []api.Part{{Name: "dhcp", State: "failed", Error: "no interface eth1"}}}
	}
	d := decode[api.Diagnosis](t, ask(h, "GET", "/v1/doctor", token[api.Operator], ""))
	text := map[string]string{}
	for _, f := range d.Findings {
		text[f.Check] = f.Level + ": " + f.Text
	}
	for check, want := range map[string]string{"parts": "failed: the part dhcp of the daemon does not run: no interface eth1",
		"chains": "failed: srv01 cannot boot what is ordered", "lan": "skipped", "disk": "ok"} {
		if !strings.HasPrefix(text[check], want) {
			t.Errorf("%s: %q, want %q", check, text[check], want)
		}
	}
	if d.OK {
		t.Error("OK, though checks failed")
	}
}
