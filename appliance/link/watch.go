package link

import (
	"context"
	"errors"
	"time"
)

// Watch watches the uplinks of a Config.
type Watch struct {
	c Config
}

// New checks the configuration. Nothing is opened yet.
func New(c Config) (*Watch, error) { return &Watch{c: c}, nil }

// Run watches until ctx is done, then takes everything of ours out of the kernel.
func (w *Watch) Run(ctx context.Context, ready func()) error {
	return errors.New("not built yet")
}

// Bearer takes a change of an uplink's bearer.
func (w *Watch) Bearer(uplink string, b BearerState) {}

// Status says how everything is.
func (w *Watch) Status() Status { return Status{} }

// Fail makes an uplink count as dead until Restore, over restarts too.
func (w *Watch) Fail(uplink string) error { return nil }

// Restore ends Fail. The uplink is used as soon as its probes answer.
func (w *Watch) Restore(uplink string) error { return nil }

// Set changes the mode until the next Set, over restarts too; "" is that of the configuration again.
func (w *Watch) Set(mode Mode) error { return nil }

// Wake brings up the bearers of metered uplinks for a while: somebody asked for them.
func (w *Watch) Wake(d time.Duration) {}

// Test is a drill: the active uplink is cut for d, as if it died silently, and what that costs is
// measured. The kernel ends the cut even if the daemon does not live to.
func (w *Watch) Test(ctx context.Context, d time.Duration) (Report, error) { return Report{}, nil }
