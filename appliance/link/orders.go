package link

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Keys of Kept.
const (
	keyMode   = "mode"
	keyUplink = "uplink/"
)

// recall reads what somebody ordered before the restart and is not over.
func (w *Watch) recall(now time.Time) (list []Kept) {
	if w.c.Store == nil {
		return nil
	}
	all, err := w.c.Store.All()
	if err != nil {
		w.c.Log.Warn("orders about uplinks were not read: all uplinks are used, as the configuration says", zap.NamedError("err", err))
	}
	for _, k := range all {
		if over, _ := k.ends(now); !over {
			list = append(list, k)
		} else if k.Uplink != "" {
			w.drop(k.Uplink)
		}
	}
	return list
}

// takeUp does what a kept order says.
func (w *Watch) takeUp(k Kept, now time.Time) {
	if i := w.index(k.Uplink); i >= 0 {
		_, until := k.ends(now)
		w.m.fail(i, until)
		w.tidyAt(i, until)
	} else if k.Uplink == "" && validMode(k.Mode) {
		w.m.set(k.Mode)
	}
}

// ends says whether an order's time is over, and else when it will be. The clock of a box that has just started may be
// wrong: the time that is left is never more than was ordered.
func (k Kept) ends(now time.Time) (over bool, until time.Time) {
	if k.Until.IsZero() {
		return false, time.Time{}
	}
	left := min(k.Until.Sub(now), k.Until.Sub(k.At))
	return left <= 0, now.Add(left)
}

// untidy is the time until an order that is over, and could not be deleted, is deleted again.
const untidy = time.Minute

// tidyAt deletes the order about an uplink once its time is over: a clock that is behind after the next start would make
// it one that is still in force.
func (w *Watch) tidyAt(i int, until time.Time) {
	if w.c.Store != nil && !until.IsZero() {
		time.AfterFunc(time.Until(until), func() { w.tidy(i) })
	}
}

func (w *Watch) tidy(i int) {
	w.ordering.Lock()
	defer w.ordering.Unlock()
	w.mu.Lock()
	u := w.m.ups[i]
	keep := !w.running || u.failed && (u.until.IsZero() || u.until.After(time.Now()))
	w.mu.Unlock()
	if keep {
		return // the next start does it; or there is a newer order
	}
	if !w.drop(u.Name) {
		time.AfterFunc(untidy, func() { w.tidy(i) })
	}
}

// drop deletes an order that is over.
func (w *Watch) drop(uplink string) bool {
	err := w.forget(keyUplink + uplink)
	if err != nil {
		w.c.Log.Warn("an order about an uplink that is over was not deleted", zap.String("uplink", uplink), zap.NamedError("err", err))
	}
	return err == nil
}

func validMode(m Mode) bool { return m == Standby || m == Dormant || m == LTEOnly }

// Fail makes an uplink count as dead for a span, or with 0 until Restore, over restarts too. While nothing else
// works, it is used all the same; but without a span it must not be the only one.
func (w *Watch) Fail(uplink string, span time.Duration) error {
	i, err := w.find(uplink)
	if err != nil {
		return err
	}
	w.ordering.Lock()
	defer w.ordering.Unlock()
	now := time.Now()
	if span == 0 && !w.mayFail(i, now) {
		return fmt.Errorf("fail %s: no other uplink works, and you would be cut off; see rescuebox link status", uplink)
	}
	k, until := Kept{Uplink: uplink, At: now}, time.Time{}
	if span > 0 {
		until = now.Add(span)
		k.Until = until
	}
	if err := w.keep(keyUplink+uplink, k); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m.fail(i, until)
	w.tidyAt(i, until)
	w.nudge()
	return nil
}

// mayFail reports whether the box is still reached without an uplink.
func (w *Watch) mayFail(i int, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.othersWork(i, now) || w.othersMayCome(i)
}

// othersWork reports whether an uplink other than i is alive.
func (w *Watch) othersWork(i int, now time.Time) bool {
	for o := range w.m.ups {
		if o != i && w.m.healthOf(o, now) == Alive {
			return true
		}
	}
	return false
}

// othersMayCome reports whether another uplink has a bearer that is down because nobody needed it. Until it
// is up, the failed one goes on.
func (w *Watch) othersMayCome(i int) bool {
	for o := range w.m.ups {
		if u := &w.m.ups[o]; o != i && u.bearer && !u.wanted && !u.failed {
			return true
		}
	}
	return false
}

// Restore ends Fail. The uplink is used as soon as its probes answer, without the usual hold.
func (w *Watch) Restore(uplink string) error {
	i, err := w.find(uplink)
	if err != nil {
		return err
	}
	w.ordering.Lock()
	defer w.ordering.Unlock()
	if err := w.forget(keyUplink + uplink); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m.restore(i, time.Now())
	w.nudge()
	return nil
}

// Set changes the mode until the next Set, over restarts too; "", or the one of the configuration, is that of the
// configuration again.
func (w *Watch) Set(mode Mode) (err error) {
	w.ordering.Lock()
	defer w.ordering.Unlock()
	switch {
	case mode == "", mode == w.c.Mode:
		mode, err = w.c.Mode, w.forget(keyMode)
	case validMode(mode):
		err = w.keep(keyMode, Kept{Mode: mode, At: time.Now()})
	default:
		err = fmt.Errorf("mode %q: want standby, dormant or lte-only", mode)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m.set(mode)
	w.nudge()
	return nil
}

// Wake brings up the bearers of metered uplinks for a while: somebody asked for them.
func (w *Watch) Wake(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m.woken = later(w.m.woken, time.Now().Add(d))
	w.nudge()
}

func (w *Watch) find(uplink string) (int, error) {
	i := w.index(uplink)
	if i < 0 {
		var names []string
		for _, u := range w.c.Uplinks {
			names = append(names, u.Name)
		}
		slices.Sort(names)
		return -1, fmt.Errorf("no uplink %q: uplinks are %s", uplink, strings.Join(names, ", "))
	}
	return i, nil
}

func (w *Watch) keep(key string, k Kept) error {
	if w.c.Store == nil {
		return nil
	}
	if err := w.c.Store.Put(key, k); err != nil {
		return fmt.Errorf("keep the order over restarts: %w", err)
	}
	return nil
}

func (w *Watch) forget(key string) error {
	if w.c.Store == nil {
		return nil
	}
	if err := w.c.Store.Delete(key); err != nil {
		return fmt.Errorf("end the order: %w", err)
	}
	return nil
}
