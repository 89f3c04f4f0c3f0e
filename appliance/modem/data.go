package modem

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Up reports whether packets can leave by it.
func (l Link) Up() bool { return l.Device != "" && len(l.Addresses) > 0 }

func (l Link) equal(o Link) bool {
	return l.Device == o.Device && l.Gateway == o.Gateway && l.Gateway6 == o.Gateway6 && l.MTU == o.MTU &&
		slices.Equal(l.Addresses, o.Addresses) && slices.Equal(l.DNS, o.DNS) && sameError(l.Err, o.Err)
}

// via adds a router; the first one of a family counts.
func (l *Link) via(router netip.Addr) {
	switch {
	case !router.IsValid():
	case !l.Gateway.IsValid():
		l.Gateway = router
	case l.Gateway.Is4() && router.Is6() && !l.Gateway6.IsValid():
		l.Gateway6 = router
	case l.Gateway.Is6() && router.Is4():
		l.Gateway, l.Gateway6 = router, l.Gateway
	}
}

func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Error() == b.Error()
}

// driver is a way to have a modem carry data.
type driver interface {
	// hold brings the bearer up, or finds it up, says so and every change after that, and
	// holds it until ctx is done or it is lost, which is an error. It leaves no goroutine
	// and no program behind; what the modem itself holds up may stay up.
	hold(ctx context.Context, changed func(Link)) error
	// down takes it down, from whatever state it is in: also one that an earlier
	// daemon left.
	down(ctx context.Context) error
}

// The bounds of a dial and of hanging up, and the pauses between dials: networks lock out
// modems that dial without a break, the longer the more certain the refusal is
// (3GPP TS 24.008 10.5.7.4a, T3396).
const (
	dialTimeout = 3 * time.Minute
	downTimeout = 45 * time.Second
	firstPause  = 2 * time.Second
	lastPause   = 5 * time.Minute
	firstBanned = time.Minute
	lastBanned  = 15 * time.Minute
	// steadyAfter is how long a bearer must have been up for its loss to count as the first.
	steadyAfter = 2 * time.Minute
	// mayAgain is how often what forbids to dial is asked for again without a nudge.
	mayAgain = 15 * time.Second
)

// data has the bearer be as it is wanted: level-triggered, so that what was missed, or
// happened while nobody looked, does not matter.
//
//	down --wanted, nothing forbids--> dialling --an address--> up
//	dialling --error--> pausing --grown pause, or redial--> dialling
//	up --lost--> pausing (briefly)      up, dialling --redial--> dialling
//	any --not wanted, or forbidden--> down
type data struct {
	driver  driver
	may     func() error // why it must not dial now; nil: nothing forbids it
	changed func(Link)   // told of every change, by one goroutine
	log     *zap.Logger

	telling sync.Mutex // held while changed is told, so that it hears the latest last

	mu     sync.Mutex
	wanted bool
	anew   bool // Redial was called
	last   Link
	tries  int   // in a row that came to nothing
	failed error // why the last of them did
	poke   chan struct{}
}

func newData(b driver, may func() error, changed func(Link), log *zap.Logger) *data {
	return &data{driver: b, may: may, changed: changed, log: log, poke: make(chan struct{}, 1)}
}

// want says whether the bearer shall be up.
func (d *data) want(up bool) {
	d.mu.Lock()
	same := d.wanted == up
	d.wanted = up
	d.mu.Unlock()
	if !same {
		d.nudge()
	}
}

// redial takes the bearer down and up again: it is up, and nothing comes through. One that is down is dialled at once.
func (d *data) redial() {
	d.mu.Lock()
	d.anew = true
	d.mu.Unlock()
	d.nudge()
}

// isRedial reports whether redial was called since it was asked last.
func (d *data) isRedial() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	anew := d.anew
	d.anew = false
	return anew
}

// nudge has the loop look again: registration, roaming or the quota changed.
func (d *data) nudge() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// state is what changed was told last.
func (d *data) state() Link {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// trouble is how many dials in a row came to nothing, and why the last one did.
func (d *data) trouble() (tries int, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tries, d.failed
}

func (d *data) isWanted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wanted
}

// run keeps the bearer until ctx is done. A bearer that is up then stays up as far as the
// modem holds it: a restart of the daemon shall not cost the admin his session.
func (d *data) run(ctx context.Context) {
	dirty := true // what an earlier daemon left is not known
	for ctx.Err() == nil {
		if err := d.forbidden(); err != nil {
			if dirty {
				dirty = !d.hangUp(ctx)
			}
			d.rest(ctx, err, dirty)
			continue
		}
		dirty = true
		began := time.Now()
		err := d.hold(ctx)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errNotWanted):
			dirty = !d.hangUp(ctx)
		default:
			if time.Since(began) > steadyAfter && d.wasUp() {
				d.reset()
			}
			d.pause(ctx, err)
		}
	}
}

// errNotWanted is why a bearer is let go: not wanted, forbidden, or to be dialled anew.
var errNotWanted = errors.New("not wanted")

// forbidden is why the bearer shall be down; errNotWanted where nobody wants it.
func (d *data) forbidden() error {
	if !d.isWanted() {
		return errNotWanted
	}
	if d.may == nil {
		return nil
	}
	return d.may()
}

// rest tells why the bearer is down, and waits for that to change.
func (d *data) rest(ctx context.Context, why error, again bool) {
	d.mu.Lock()
	d.tries, d.anew = 0, false
	d.mu.Unlock()
	if errors.Is(why, errNotWanted) {
		why = nil
	}
	d.tell(Link{Err: why})
	wait := mayAgain
	if why == nil && !again {
		wait = 24 * time.Hour // until the nudge
	}
	d.sleep(ctx, wait)
}

// sleep reports whether it was ended by a nudge.
func (d *data) sleep(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-d.poke:
		return true
	}
	return false
}

// hold is the driver's, ended when it takes too long to come up, or is not wanted any more.
func (d *data) hold(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	slow := time.AfterFunc(dialTimeout, func() {
		end(fmt.Errorf("%w: no bearer within %v", errNoAnswer, dialTimeout))
	})
	defer slow.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	watched, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { d.watch(watched, end) })
	d.tell(Link{Err: errDialling})
	err := d.driver.hold(ctx, func(s Link) {
		if s.Up() {
			slow.Stop()
		}
		d.tell(s)
	})
	switch cause := context.Cause(ctx); {
	case cause == nil || errors.Is(cause, context.Canceled):
	case errors.Is(cause, errNoAnswer) && passing(err):
		return err // it was not the network that gave no answer: it was not asked
	default:
		return cause
	}
	if err == nil {
		err = errLost
	}
	return err
}

// watch ends a hold that is not wanted any more.
func (d *data) watch(ctx context.Context, end context.CancelCauseFunc) {
	for ctx.Err() == nil {
		if why := d.forbidden(); d.isRedial() || why != nil && !passing(why) {
			end(errNotWanted)
			return
		}
		d.sleep(ctx, mayAgain)
	}
}

// passing says that something is in the way of a dial only: an AT port that is lost for a moment is no reason to
// take down a bearer that is up, nor is a look in vain for a network that it may still have. The driver sees its loss.
func passing(why error) bool {
	later := notNow("")
	return errors.As(why, &later)
}

// hangUp reports whether the bearer is down.
func (d *data) hangUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	err := d.driver.down(ctx)
	if err != nil && !passing(err) { // a modem that is not there has no bearer to speak of
		d.log.Warn("the modem's bearer does not go down; it is tried again", zap.NamedError("err", err))
	}
	return err == nil
}

// pause tells what went wrong, and waits before the next dial, unless somebody wants it at once: a person who has mended
// what was wrong, or the ladder.
func (d *data) pause(ctx context.Context, err error) {
	d.mu.Lock()
	tries := d.tries
	d.tries++
	d.failed = err
	d.mu.Unlock()
	wait := pauseAfter(tries, err)
	d.log.Info("the modem's bearer is down", zap.NamedError("err", err), zap.Duration("again_in", wait))
	d.tell(Link{Err: err})
	for until := time.Now().Add(wait); ctx.Err() == nil && time.Now().Before(until); {
		if d.sleep(ctx, time.Until(until)) && (d.isRedial() || d.forbidden() != nil) {
			return
		}
	}
}

// pauseAfter is the pause after a dial that failed, a tenth longer or shorter: boxes whose
// operator comes back shall not all dial in the same second.
func pauseAfter(tries int, err error) time.Duration {
	first, last := firstPause, lastPause
	if isLasting(err) {
		first, last = firstBanned, lastBanned
	}
	wait := first
	for ; tries > 0 && wait < last; tries-- {
		wait *= 2
	}
	wait = min(wait, last)
	return wait - wait/10 + rand.N(wait/5)
}

func (d *data) wasUp() bool {
	return d.state().Up()
}

func (d *data) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries = 0
}

// again tells the state once more: what is said of it changed.
func (d *data) again() {
	d.telling.Lock()
	defer d.telling.Unlock()
	if d.changed != nil {
		d.changed(d.state())
	}
}

// tell passes on what is new.
func (d *data) tell(s Link) {
	d.telling.Lock()
	defer d.telling.Unlock()
	d.mu.Lock()
	same := d.last.equal(s)
	if s.Up() && s.Err == nil && !d.last.Up() {
		d.anew = false
	}
	d.last = s
	d.mu.Unlock()
	if !same && d.changed != nil {
		d.changed(s)
	}
}
