package modem

import (
	"context"
	"sync"
	"time"
)

// group is the goroutines of one hold: the first error ends them all.
type group struct {
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

func (g *group) run(f func() error) {
	g.wg.Go(func() {
		if err := f(); err != nil {
			g.cancel(err)
		}
	})
}

func (g *group) wait() { g.wg.Wait() }

// send hands over a value unless nobody wants it any more.
func send[T any](ctx context.Context, c chan<- T, v T) {
	select {
	case c <- v:
	case <-ctx.Done():
	}
}

// wait pauses; its error is ctx's.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
