package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"rescuebox/appliance/admin/api"
)

// doctorLimit bounds one check.
const doctorLimit = 30 * time.Second

// Level is how a check ended.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // boots may still work
	Failed  Level = "failed"
	Skipped Level = "skipped" // a check before it failed
)

// Finding is the result of a check.
type Finding struct {
	Level Level
	Text  string // one sentence
	Hint  string // what to do
}

// Check is one question of the doctor. The checks are a graph: one that fails
// marks those after it as skipped, so that the admin reads of one fault once.
type Check struct {
	Name  string
	After []string // checks that must not have failed
	Run   func(ctx context.Context) Finding
}

// doctor answers GET /v1/doctor.
func (h *service) doctor(c *call) (any, error) {
	checks := slices.Concat(h.ownChecks(), h.Checks)
	d := api.Diagnosis{OK: true, Findings: []api.Finding{}}
	for i, f := range examine(c.req.Context(), checks) {
		d.Findings = append(d.Findings, api.Finding{Check: checks[i].Name, Level: string(f.Level), Text: f.Text, Hint: f.Hint})
		d.OK = d.OK && f.Level != Failed
	}
	return d, nil
}

// examine runs the checks, those that do not wait for each other at once, and
// returns their findings in the checks' order. A check comes behind those that it
// names in After; an unknown or later name there is a finding of its own.
func examine(ctx context.Context, checks []Check) []Finding {
	findings := make([]Finding, len(checks))
	index := map[string]int{}
	done := make([]chan struct{}, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		done[i] = make(chan struct{})
		var before []int
		var unknown []string
		for _, name := range c.After {
			if at, ok := index[name]; ok {
				before = append(before, at)
			} else {
				unknown = append(unknown, name)
			}
		}
		index[c.Name] = i
		wg.Go(func() {
			defer close(done[i])
			if len(unknown) > 0 {
				findings[i] = Finding{Level: Failed, Text: "is to run after " + strings.Join(unknown, ", ") + ", which comes not before it: a mistake in rescuebox"}
				return
			}
			for _, at := range before {
				<-done[at]
				if l := findings[at].Level; l == Failed || l == Skipped {
					findings[i] = Finding{Level: Skipped, Text: "not looked at, since " + checks[at].Name + " comes first"}
					return
				}
			}
			findings[i] = run(ctx, c)
		})
	}
	wg.Wait()
	return findings
}

// run does one check within its time.
func run(ctx context.Context, c Check) (f Finding) {
	ctx, cancel := context.WithTimeout(ctx, doctorLimit)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			f = Finding{Level: Failed, Text: fmt.Sprintf("the check itself failed: %v", r)}
		}
	}()
	f = c.Run(ctx)
	if ctx.Err() != nil && f.Level == "" {
		f = Finding{Level: Failed, Text: "did not end within " + doctorLimit.String()}
	}
	return f
}
