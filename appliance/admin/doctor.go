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

// Bounds of the doctor: an admin waits for it.
const (
	checkLimit  = 10 * time.Second // one check
	doctorLimit = 14 * time.Second // all of them
)

// Level is how a check ended.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // boots may still work
	Failed  Level = "failed"
	Skipped Level = "skipped" // a check before it failed
)

// Finding is one result of a check.
type Finding struct {
	Level Level
	Key   string // stable name of the fault, for programs and tests; "" if there is none
	Text  string // one sentence
	Hint  string // what to do
}

// Fine is the result of a check that found no fault.
func Fine(format string, args ...any) []Finding {
	return []Finding{{Level: OK, Text: fmt.Sprintf(format, args...)}}
}

// Fault is the result of a check that found one.
func Fault(level Level, key, hint, format string, args ...any) []Finding {
	return []Finding{{Level: level, Key: key, Text: fmt.Sprintf(format, args...), Hint: hint}}
}

// Skip is the result of a check that cannot look, and why.
func Skip(format string, args ...any) []Finding {
	return []Finding{{Level: Skipped, Text: fmt.Sprintf(format, args...)}}
}

// Check is one question of the doctor. The checks are a graph: one that fails
// marks those after it as skipped, so that the admin reads of one fault once.
type Check struct {
	Name  string
	After []string                            // checks that must not have failed
	Run   func(ctx context.Context) []Finding // at least one
}

// doctor answers GET /v1/doctor.
func (h *service) doctor(c *call) (any, error) {
	ctx, cancel := context.WithTimeout(c.req.Context(), doctorLimit)
	defer cancel()
	checks := slices.Concat(h.ownChecks(), h.Checks)
	d := api.Diagnosis{OK: true, Findings: []api.Finding{}}
	for i, findings := range examine(ctx, checks) {
		for _, f := range findings {
			d.Findings = append(d.Findings, api.Finding{Check: checks[i].Name, Level: string(f.Level), Key: f.Key, Text: f.Text, Hint: f.Hint})
			d.OK = d.OK && f.Level != Failed
		}
	}
	return d, nil
}

// examine runs the checks, those that do not wait for each other at once, and
// returns their findings in the checks' order. A check comes behind those that it
// names in After; an unknown or later name there is a finding of its own.
func examine(ctx context.Context, checks []Check) [][]Finding {
	findings := make([][]Finding, len(checks))
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
				findings[i] = Fault(Failed, "doctor-broken", "", "is to run after %s, which comes not before it: a mistake in rescuebox", strings.Join(unknown, ", "))
				return
			}
			for _, at := range before {
				<-done[at]
				if blocks(findings[at]) {
					findings[i] = Skip("not looked at, since %s comes first", checks[at].Name)
					return
				}
			}
			findings[i] = run(ctx, c)
		})
	}
	wg.Wait()
	return findings
}

// blocks reports whether checks after one with these findings have no sense.
func blocks(list []Finding) bool {
	return slices.ContainsFunc(list, func(f Finding) bool { return f.Level == Failed || f.Level == Skipped })
}

// run does one check within its time. One that does not heed its context is
// left behind: a slow disk shall not keep the admin from the other answers.
func run(ctx context.Context, c Check) []Finding {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	answer := make(chan []Finding, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				answer <- Fault(Failed, "doctor-broken", "", "the check itself failed: %v", r)
			}
		}()
		answer <- c.Run(ctx)
	}()
	var list []Finding
	select {
	case list = <-answer:
	case <-ctx.Done():
		select {
		case list = <-answer:
		case <-time.After(leaveAfter):
		}
	}
	if len(list) == 0 {
		return Fault(Warning, "check-too-slow", "is the box, or its disk, under load? Run the doctor again", "did not end in time")
	}
	return list
}

// leaveAfter is what a check has to end in when its time is over.
const leaveAfter = 500 * time.Millisecond
