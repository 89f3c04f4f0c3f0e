package notify

import (
	"context"
	"errors"
)

// Text tells by text message, for which Letter.Short is made.
type Text struct {
	To []string // numbers, +79160000000
	// Out sends one message and calls mark when the modem gets it. Urgent news may cost what is put aside for
	// it. Its errors are those of Sender.Send.
	Out func(ctx context.Context, number, text string, urgent bool, mark func()) error
}

// Addresses is that of Sender.
func (t *Text) Addresses() []string { return t.To }

// Show is that of Sender.
func (t *Text) Show(address string) string { return address }

// Once is that of the interface Once: a text costs money, and a modem that no longer answers would send
// the same one until there is none left.
func (t *Text) Once() {}

// Send is that of Sender.
func (t *Text) Send(ctx context.Context, l Letter, mark func()) error {
	if t.Out == nil {
		return errors.New("there is no modem to send text messages with")
	}
	return t.Out(ctx, l.Address, l.Short, l.urgent(), mark)
}

// urgent is what somebody is waiting for, or must do something about. What anybody on the rescue
// LAN can cause is not.
func (m Message) urgent() bool {
	return !m.Weak && (m.Kind == Ticket || m.Kind == Failed || m.Kind == Alarm)
}
