package vpn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// A hub takes a handshake only with a later time than that of the last one (TAI64N; WireGuard
// whitepaper, section 5.1), until it is restarted. A box without a battery for its clock that
// starts years ago, or one whose clock was ahead and was put right, calls in vain. So the
// time of the last handshake is kept: before it nothing can come of calling, and the reason
// is told.
const (
	// clockPatience is how long a clock that is too early is waited for. After that the tunnel
	// is tried all the same: the hub may have been restarted since, and calling does no harm.
	clockPatience = 10 * time.Minute
	clockEvery    = time.Second
	// saveEvery spares the box's flash; a handshake comes each two minutes.
	saveEvery = 10 * time.Minute
)

// clock keeps the last time that a hub took from us.
type clock struct {
	file    string
	unsaved chan struct{}     // told when the file is to be written
	seen    map[int]time.Time // by hub, in this run

	mu    sync.Mutex // held by nobody while the disk takes its time
	last  time.Time  // that is known
	saved time.Time  // that is in the file
}

// readClock reads what was kept. A file that cannot be read or makes no sense counts for nothing: it must
// not keep the box away for good.
func readClock(file string, log *zap.Logger) *clock {
	c := &clock{file: file, unsaved: make(chan struct{}, 1), seen: map[int]time.Time{}}
	if file == "" {
		return c
	}
	text, err := readSmall(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("cannot read when a hub heard of us last", zap.NamedError("err", err))
	}
	if at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text))); err == nil {
		c.last, c.saved = at, at
	}
	return c
}

// behind says what is wrong with the clock; "" is nothing.
func (c *clock) behind(now time.Time) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if missing := c.last.Sub(now.Round(0)); missing > 0 {
		return fmt.Sprintf("the box's clock says %s, but a hub took a handshake of %s: until then, or until it is restarted, it takes no other; set the clock (timedatectl)",
			now.UTC().Format(time.DateTime), c.last.UTC().Format(time.DateTime))
	}
	return ""
}

// shook notes handshakes. One with an earlier time than the last counts as well: the hub was restarted, or it is
// another one, and what it took it will take again.
func (c *clock) shook(peers []peerState) {
	var latest time.Time
	for _, p := range peers {
		if p.Handshake.Equal(c.seen[p.Hub]) {
			continue
		}
		c.seen[p.Hub] = p.Handshake
		if p.Handshake.After(latest) {
			latest = p.Handshake
		}
	}
	if latest.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = latest
	if c.last.Before(c.saved) || c.last.Sub(c.saved) > saveEvery {
		tell(c.unsaved)
	}
}

// save has the last time written down.
func (c *clock) save(write func(file string, data []byte) error) error {
	c.mu.Lock()
	last, same := c.last, c.last.Equal(c.saved)
	c.mu.Unlock()
	if c.file == "" || same {
		return nil
	}
	if err := write(c.file, []byte(last.UTC().Format(time.RFC3339Nano)+"\n")); err != nil {
		return fmt.Errorf("keep when a hub heard of us last: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saved = last
	return nil
}

// waitForClock waits until the clock is past the last handshake. The part is ready while it
// does: that the clock comes is not its doing.
func (t *Tunnel) waitForClock(ctx context.Context, ready func()) *clock {
	c := readClock(t.cfg.ClockFile, t.log)
	began := time.Now()
	for {
		reason := c.behind(time.Now())
		t.holdBack(reason)
		if reason == "" {
			return c
		}
		ready()
		if time.Since(began) > clockPatience {
			t.log.Warn("calls the hub with a clock that is behind", zap.String("reason", reason))
			return c
		}
		select {
		case <-ctx.Done():
			return c
		case <-time.After(clockEvery):
		}
	}
}

func (t *Tunnel) holdBack(reason string) {
	t.mu.Lock()
	news := t.seen.clock == "" && reason != ""
	t.seen.clock = reason
	t.mu.Unlock()
	if news {
		t.log.Warn("holds the tunnel back", zap.String("reason", reason))
	}
}
