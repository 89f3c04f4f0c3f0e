package text

import (
	"fmt"
	"time"
)

// Spent is the error of a budget that is used up.
type Spent struct {
	After time.Duration // until there is some again
}

func (s *Spent) Error() string {
	return fmt.Sprintf("the budget for text messages is used up for %v", s.After.Round(time.Minute))
}

// costs is what a message counts for the budget.
func (t *Text) costs() int {
	if time.Since(t.moved) >= budgetFor || t.State != Sent && t.State != Unknown && t.State != Sending {
		return 0
	}
	return max(1, t.Parts)
}

func (d *Desk) budget() int {
	if d.Budget <= 0 {
		return defaultBudget
	}
	return d.Budget
}

// spentLocked is what the last 24 hours cost, and when the first of it comes back.
func (d *Desk) spentLocked() (spent int, back time.Duration) {
	back = budgetFor
	for _, t := range d.texts {
		if n := t.costs(); n > 0 {
			spent += n
			back = min(back, budgetFor-time.Since(t.moved))
		}
	}
	return spent, back
}

// affordLocked reports whether there is money for a message.
func (d *Desk) affordLocked(t *Text) error {
	left := map[Kind]int{Alarm: d.budget() / 5, Notice: d.budget() / 2}[t.Kind] // to those before it
	if spent, back := d.spentLocked(); spent+max(1, t.Parts) > d.budget()-left {
		return &Spent{After: back}
	}
	return nil
}

// mayRefuseLocked bounds what somebody without a code can make us say.
func (d *Desk) mayRefuseLocked(number string) bool {
	hour, day := 0, 0
	for _, t := range d.texts {
		if t.Kind != Refusal || time.Since(t.put) >= budgetFor {
			continue
		}
		day++
		if t.Number == number && time.Since(t.put) < time.Hour {
			hour++
		}
	}
	return hour < 2 && day < max(2, d.budget()/10)
}
