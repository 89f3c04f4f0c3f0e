package text

import (
	"context"
	"errors"
	"fmt"
)

// device is a switch that is spoken to by text messages, by one asker at a time.
type device struct {
	turn  chan struct{}
	asker chan string // nil: nobody listens
}

// maxReplies is more than a device says to one question.
const maxReplies = 8

// heardLocked passes on what a device said, and reports whether somebody waits for it.
func (v *device) heardLocked(text string) bool {
	select {
	case v.asker <- plain(text): // never, where it is nil
		return true
	default:
		return false
	}
}

// Ask sends a text to a device and returns what comes from it until ctx is done; then the channel is
// closed. Its error says that the text certainly was not sent: one that may have been is worth listening
// for the reply. ctx must end.
func (d *Desk) Ask(ctx context.Context, number, text string) (<-chan string, error) {
	d.load.Do(d.restore)
	v := d.devices[number]
	if v == nil {
		return nil, fmt.Errorf("ask %s: it is no device of the file", number)
	}
	select {
	case v.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("ask %s: something else is asked already: %w", number, ctx.Err())
	}
	replies := make(chan string, maxReplies)
	d.listen(v, replies)
	err := d.Say(ctx, number, text, Command, func() {})
	context.AfterFunc(ctx, func() {
		d.listen(v, nil)
		close(replies)
		<-v.turn
	})
	if err != nil && !errors.Is(err, ErrUnknown) {
		return replies, err
	}
	return replies, nil
}

func (d *Desk) listen(v *device, asker chan string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v.asker = asker
}
