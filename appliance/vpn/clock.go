package vpn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
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

// clock keeps the newest time that a hub took from us.
type clock struct {
	file   string
	newest time.Time // that is known
	saved  time.Time // that is in the file
}

// readClock reads what was kept. A file that makes no sense counts for nothing: it must
// not keep the box away for good.
func readClock(file string) (*clock, error) {
	c := &clock{file: file}
	if file == "" {
		return c, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read when a hub heard of us last: %w", err)
	}
	if at, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text))); err == nil {
		c.newest, c.saved = at, at
	}
	return c, nil
}

// behind says what is wrong with the clock; "" is nothing.
func (c *clock) behind(now time.Time) string {
	if missing := c.newest.Sub(now.Round(0)); missing > 0 {
		return fmt.Sprintf("the box's clock says %s, but a hub took a handshake of %s: until then, or until it is restarted, it takes no other; set the clock (timedatectl)",
			now.UTC().Format(time.DateTime), c.newest.UTC().Format(time.DateTime))
	}
	return ""
}

// shook notes handshakes.
func (c *clock) shook(peers []peerState) {
	for _, p := range peers {
		if p.Handshake.After(c.newest) {
			c.newest = p.Handshake
		}
	}
	if c.newest.Sub(c.saved) > saveEvery {
		_ = c.save() // a disk that takes nothing is told of by those who store more
	}
}

// save writes the newest time down.
func (c *clock) save() error {
	if c.file == "" || !c.newest.After(c.saved) {
		return nil
	}
	if err := writeFile(c.file, []byte(c.newest.UTC().Format(time.RFC3339Nano)+"\n")); err != nil {
		return fmt.Errorf("keep when a hub heard of us last: %w", err)
	}
	c.saved = c.newest
	return nil
}

// waitForClock waits until the clock is past the last handshake. The part is ready while it
// does: that the clock comes is not its doing.
func (t *Tunnel) waitForClock(ctx context.Context, ready func()) (*clock, error) {
	c, err := readClock(t.cfg.ClockFile)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	for {
		reason := c.behind(time.Now())
		t.holdBack(reason)
		if reason == "" {
			return c, nil
		}
		ready()
		if time.Since(began) > clockPatience {
			t.log.Warn("calls the hub with a clock that is behind", zap.String("reason", reason))
			return c, nil
		}
		select {
		case <-ctx.Done():
			return c, nil
		case <-time.After(clockEvery):
		}
	}
}

func (t *Tunnel) holdBack(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen.clock == "" && reason != "" {
		t.log.Warn("holds the tunnel back", zap.String("reason", reason))
	}
	t.seen.clock = reason
}
