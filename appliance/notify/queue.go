package notify

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Delays between attempts at one address.
const (
	firstRetry = 5 * time.Second
	lastRetry  = 15 * time.Minute
	maxLater   = 24 * time.Hour // a receiver may ask us to stay away for so long
	jitter     = 0.2            // boxes of many branches shall not come at once
	tidyEvery  = time.Hour
)

// attemptLimit is longer than the sum of what SMTP may take (RFC 5321, section
// 4.5.3.2: 10 minutes for the last answer alone).
const attemptLimit = 20 * time.Minute

// queue tells one address, one message at a time. A receiver that is down is
// asked by one of the waiting messages after growing delays; a new message has one attempt of its
// own at once, so that neither a message that the receiver cannot digest nor a long outage delays the
// news of the hour.
type queue struct {
	*Outbox
	target  Target
	address string
	wake    chan struct{}

	// All below is only touched by run.
	failures int       // in a row
	retry    time.Time // not before this for what was tried already
	away     time.Time // not before this for anything: the receiver said so
}

// Run tells what is put until ctx is done.
func (o *Outbox) Run(ctx context.Context, ready func()) error {
	o.load.Do(o.restore)
	var wg sync.WaitGroup
	for _, q := range o.queues {
		wg.Go(func() { q.run(ctx) })
	}
	wg.Go(func() { o.tidy(ctx) })
	ready()
	wg.Wait()
	return nil
}

// tidy drops what is too old, and brings onto the disk what a full one refused.
func (o *Outbox) tidy(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(tidyEvery):
		}
		o.mu.Lock()
		o.pruneLocked()
		for _, e := range o.entries {
			if !e.stored {
				_ = o.storeLocked(e)
			}
		}
		o.mu.Unlock()
	}
}

func (q *queue) wakeUp() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run sends until ctx is done.
func (q *queue) run(ctx context.Context) {
	for ctx.Err() == nil {
		e, wait := q.next(time.Now())
		if e != nil {
			q.attempt(ctx, e)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-q.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next chooses the message to send now: the one tried least, then the oldest;
// or says how long there is nothing to do.
func (q *queue) next(now time.Time) (*Entry, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var best *Entry
	for _, e := range q.openLocked(q.target.Name, q.address) {
		if best == nil || q.before(e, best) {
			best = e
		}
	}
	if best == nil {
		return nil, tidyEvery
	}
	due := q.away
	if q.attemptsOf(best) > 0 && q.retry.After(due) {
		due = q.retry
	}
	if wait := due.Sub(now); wait > 0 {
		return nil, wait
	}
	return best, 0
}

func (q *queue) attemptsOf(e *Entry) int { return e.to(q.target.Name, q.address).Attempts }

func (q *queue) before(a, b *Entry) bool {
	if n, m := q.attemptsOf(a), q.attemptsOf(b); n != m {
		return n < m
	}
	if !a.Time.Equal(b.Time) {
		return a.Time.Before(b.Time)
	}
	return a.ID < b.ID
}

// attempt sends one message and notes what came of it.
func (q *queue) attempt(ctx context.Context, e *Entry) {
	limited, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	l, err := q.letter(e)
	if err == nil {
		err = q.target.Sender.Send(limited, l, func() { q.mark(e) })
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d := e.to(q.target.Name, q.address)
	if ctx.Err() != nil && err != nil {
		return // the daemon stops; what the disk says of it stands
	}
	d.Attempts++
	now := time.Now()
	if err == nil {
		q.failures, q.retry, q.away = 0, time.Time{}, time.Time{}
		q.endLocked(e, d, Sent, "")
		return
	}
	q.failedLocked(e, d, err, now)
}

// failedLocked notes an attempt that failed.
func (q *queue) failedLocked(e *Entry, d *Delivery, err error, now time.Time) {
	var refused *Refused
	var later *Later
	var unsure *Unsure
	if errors.As(err, &refused) {
		q.endLocked(e, d, Refuse, oneLine(err.Error(), maxError))
		return
	}
	if errors.As(err, &unsure) && q.once() {
		q.endLocked(e, d, Unknown, oneLine(err.Error(), maxError))
		return
	}
	q.failures++
	wait := backoff(q.failures)
	q.retry = now.Add(wait)
	if errors.As(err, &later) {
		q.away = now.Add(min(max(later.After, wait), maxLater))
	}
	d.Doubt = d.Doubt || errors.As(err, &unsure)
	d.State, d.Error, d.Changed = Waiting, oneLine(err.Error(), maxError), now.UTC()
	q.log().Warn("not told yet", zap.String("machine", e.Machine), zap.String("order", e.Order), zap.String("to", q.show(*d)),
		zap.Int("attempts", d.Attempts), zap.String("err", d.Error), zap.Duration("again_in", wait))
	_ = q.storeLocked(e) // logged
}

// once reports whether what may have arrived is not sent again.
func (q *queue) once() bool {
	_, once := q.target.Sender.(Once)
	return once
}

// maxError bounds what is kept of an error.
const maxError = 300

// mark notes that the receiver may have the message from now on. Where the disk
// fails the message goes all the same.
func (q *queue) mark(e *Entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.to(q.target.Name, q.address).State = Sending
	_ = q.storeLocked(e) // logged
}

// letter is what goes to the address.
func (q *queue) letter(e *Entry) (Letter, error) {
	q.mu.Lock()
	m := e.Message
	q.mu.Unlock()
	if !q.target.Credentials {
		m.Secret, m.SecretShort = "", ""
	}
	w, err := m.Words()
	return Letter{ID: letterID(m.ID, q.target.Name, q.address), Address: q.address, Message: m, Words: w}, err
}

// backoff is the delay after so many failures in a row.
func backoff(failures int) time.Duration {
	d := min(lastRetry, firstRetry<<min(failures-1, 20))
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
}
