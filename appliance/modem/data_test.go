package modem

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// dummy is a driver whose network does what the test says.
type dummy struct {
	mu     sync.Mutex
	dials  []time.Duration // since the start
	downs  int
	began  time.Time
	refuse error         // to every dial
	silent bool          // a dial comes to nothing, ever
	port   error         // why a silent dial was not even begun
	last   time.Duration // a bearer is lost after that; 0: never
	held   bool
}

func (d *dummy) hold(ctx context.Context, changed func(Link)) error {
	d.mu.Lock()
	d.dials = append(d.dials, time.Since(d.began))
	refuse, silent, last, port := d.refuse, d.silent, d.last, d.port
	d.held = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.held = false
		d.mu.Unlock()
	}()
	if silent {
		<-ctx.Done()
		return cmp.Or(port, ctx.Err())
	}
	if err := wait(ctx, time.Second); err != nil {
		return err
	}
	if refuse != nil {
		return refuse
	}
	changed(Link{Device: "wwan0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}})
	if last == 0 {
		last = 365 * 24 * time.Hour
	}
	if err := wait(ctx, last); err != nil {
		return err
	}
	return errLost
}

func (d *dummy) down(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held {
		panic("hung up under a hold")
	}
	d.downs++
	return nil
}

func (d *dummy) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// watch runs the loop over a driver, and notes what it told.
func keepData(t *testing.T, d *dummy, may func() error) (*data, func() []string) {
	t.Helper()
	d.began = time.Now()
	var mu sync.Mutex
	var told []string
	k := newData(d, may, func(l Link) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case l.Up():
			told = append(told, "up")
		case l.Err != nil:
			told = append(told, l.Err.Error())
		default:
			told = append(told, "down")
		}
	}, zap.NewNop())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { k.run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return k, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), told...)
	}
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestBearerIsAsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dummy{}
		k, told := keepData(t, d, nil)
		pass(time.Hour)
		if len(d.dials) != 0 || d.downs != 1 {
			t.Errorf("unwanted: %d dials, %d times hung up; want what an earlier daemon left taken down, once", len(d.dials), d.downs)
		}
		k.want(true)
		pass(2 * time.Second)
		if l := k.state(); !l.Up() {
			t.Errorf("not up: %v", l)
		}
		k.want(true)
		pass(time.Hour)
		k.want(false)
		pass(time.Second)
		if l := k.state(); l.Up() || l.Err != nil || d.downs != 2 {
			t.Errorf("not down: %v, %d", l, d.downs)
		}
		if got := strings.Join(told(), ", "); got != "dialling, up, down" {
			t.Errorf("told %s", got)
		}
	})
}

// A loss is dialled again after two seconds, dials that fail wait longer and longer, those
// that a network refused for good longer still.
func TestPausesBetweenDials(t *testing.T) {
	for name, tt := range map[string]struct {
		refuse    error
		within    time.Duration
		from, to  int
		lastPause time.Duration
	}{
		"no service": {errNoAnswer, time.Hour, 15, 22, lastPause},
		"wrong APN":  {ofCode(133), 3 * time.Hour, 13, 19, lastBanned},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &dummy{refuse: tt.refuse}
				k, _ := keepData(t, d, nil)
				k.want(true)
				pass(tt.within)
				if n := len(d.dials); n < tt.from || n > tt.to {
					t.Errorf("%d dials in %v, want %d to %d: %v", n, tt.within, tt.from, tt.to, d.dials)
				}
				if l := k.state(); errors.Is(l.Err, errDialling) { // in its middle
					pass(2 * time.Second)
				}
				l := k.state()
				tries, _ := k.trouble()
				if tries != len(d.dials) || !errors.Is(l.Err, tt.refuse) {
					t.Errorf("%d tries of %d, %v", tries, len(d.dials), l.Err)
				}
				d.set(func() { d.refuse = nil })
				pass(tt.lastPause * 2)
				if l := k.state(); !l.Up() {
					t.Errorf("the network is back, and the bearer is not: %v", l)
				}
			})
		})
	}
}

func TestLossIsDialledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dummy{last: time.Hour}
		k, _ := keepData(t, d, nil)
		k.want(true)
		pass(10 * time.Hour)
		for i := 1; i < len(d.dials); i++ {
			if gap := d.dials[i] - d.dials[i-1] - time.Hour; gap > 4*time.Second {
				t.Errorf("dial %d came %v after the loss", i, gap)
			}
		}
		if len(d.dials) != 10 {
			t.Errorf("%d dials in ten hours of one each", len(d.dials))
		}
	})
}

func TestDialThatNeverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dummy{silent: true}
		k, _ := keepData(t, d, nil)
		k.want(true)
		pass(dialTimeout + time.Second)
		if l := k.state(); !errors.Is(l.Err, errNoAnswer) {
			t.Errorf("it says %v", l.Err)
		}
		d.set(func() { d.port = notNow("the port was not free") })
		pass(dialTimeout + 3*time.Second) // the network is not blamed for what it was not asked
		if l := k.state(); l.Err == nil || !strings.Contains(l.Err.Error(), "not free") {
			t.Errorf("without the port it says %v", l.Err)
		}
		d.set(func() { d.silent = false })
		pass(2 * dialTimeout)
		if l := k.state(); !l.Up() {
			t.Errorf("it is not dialled again: %v", l)
		}
	})
}

// What forbids to dial takes an existing bearer down, and is told; when it is gone, the
// bearer comes back without anybody's doing.
func TestForbiddenBearer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dummy{}
		var mu sync.Mutex
		var forbids error
		say := func(err error) { mu.Lock(); defer mu.Unlock(); forbids = err }
		k, _ := keepData(t, d, func() error { mu.Lock(); defer mu.Unlock(); return forbids })
		say(notNow("no network yet"))
		k.want(true)
		pass(time.Hour)
		if l := k.state(); len(d.dials) != 0 || l.Err == nil || l.Err.Error() != "no network yet" {
			t.Errorf("%d dials without a network: %v", len(d.dials), l)
		}
		say(nil)
		k.nudge()
		pass(2 * time.Second)
		if l := k.state(); !l.Up() {
			t.Errorf("not up: %v", l)
		}
		downs := d.downs
		say(errRoaming)
		pass(mayAgain + time.Second)
		if l := k.state(); l.Up() || !errors.Is(l.Err, errRoaming) || d.downs != downs+1 {
			t.Errorf("it carries data in a foreign network: %v", l)
		}
		say(nil)
		pass(mayAgain + 3*time.Second)
		if l := k.state(); !l.Up() {
			t.Errorf("not up again: %v", l)
		}
	})
}

func TestRedial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dummy{}
		k, _ := keepData(t, d, nil)
		k.want(true)
		pass(time.Minute)
		downs := d.downs
		k.redial()
		pass(3 * time.Second)
		if l := k.state(); !l.Up() || len(d.dials) != 2 || d.downs != downs+1 {
			t.Errorf("%v, %d dials, %d times hung up", l, len(d.dials), d.downs-downs)
		}
		d.set(func() { d.refuse = ofCode(133) }) // the operator does not know the APN
		k.redial()
		pass(time.Hour)
		d.set(func() { d.refuse = nil }) // somebody has called him
		dials := len(d.dials)
		k.redial()
		pass(3 * time.Second)
		if l := k.state(); !l.Up() || len(d.dials) != dials+1 {
			t.Errorf("in a pause: %v, %d dials", l, len(d.dials)-dials)
		}
	})
}

// A lease that is renewed in the moment in which somebody wants the bearer dialled anew is no bearer that was.
func TestRedialDuringRenewal(t *testing.T) {
	d := newData(&dummy{}, nil, nil, zap.NewNop())
	up := Link{Device: "wwan0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}}
	d.tell(up)
	d.redial()
	d.tell(up)
	if !d.isRedial() {
		t.Error("it is not dialled anew")
	}
	d.redial() // while it is dialled: what comes up is new
	d.tell(Link{Err: errDialling})
	d.tell(up)
	if d.isRedial() {
		t.Error("it is dialled once more")
	}
}
