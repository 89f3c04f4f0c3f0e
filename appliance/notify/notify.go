// Package notify tells people what became of an order: by webhook, by mail, and by
// text message.
//
// What is to be told goes into the Outbox, which has it on disk before anybody is
// told, and keeps what was told, so that the same news (Message.ID) is told once to
// each address, over restarts and power cuts.
//
// # Once
//
// Nobody can promise that a message arrives exactly once: whoever loses power after the
// receiver has taken it and before that is noted cannot know. A Sender notes therefore
// when it reaches the point of no return (mark), just before the last byte that makes the
// receiver act. What was cut off before it certainly did not arrive; what was cut off after it
// is in doubt, and is sent again, since a ticket that does not arrive costs more than one that arrives
// twice. The repetition has the same id (webhook-id, Message-ID), by which the receiver
// can tell, and `rescuebox notify list` says that it happened. Text messages are the exception
// (Once): they have no id, and cost money.
package notify

import (
	"context"
	"time"
)

// Kind says what a message is about; each has a template of its own.
type Kind string

// The kinds.
const (
	Ticket  Kind = "ticket"  // a machine can be taken over
	Done    Kind = "done"    // an order's image is up
	Failed  Kind = "failed"  // an order failed
	Expired Kind = "expired" // an order's machine did not come in time
	Alarm   Kind = "alarm"   // the box's own way in: an uplink died, a quota ends
	Test    Kind = "test"    // somebody tries the way; every target takes it
)

// Kinds are those that a target can choose from.
var Kinds = []Kind{Ticket, Done, Failed, Expired, Alarm}

// UsualKinds is what a target takes that chooses none. The end of an order whose ticket
// is here is no news.
var UsualKinds = []Kind{Ticket, Failed, Expired, Alarm}

// Message is one piece of news.
type Message struct {
	ID      string    `json:"id"` // the same news has the same id, and is told once
	Kind    Kind      `json:"kind"`
	Site    string    `json:"site"`
	Machine string    `json:"machine,omitempty"` // "": one that is not known
	Image   string    `json:"image,omitempty"`
	Order   string    `json:"order,omitempty"`
	Time    time.Time `json:"time"`
	Text    string    `json:"text,omitempty"` // one sentence: what happened; of a ticket why it opens nothing, "" where it does
	Hint    string    `json:"hint,omitempty"` // what to do
	// Weak news can be caused by anybody on the rescue LAN: it is limited in
	// number, and the first to go where there is too much.
	Weak bool `json:"weak,omitempty"`

	// Secret is what takes the machine over, for a person to use; SecretShort
	// the same for a text message. They go only to targets with Credentials, and
	// are forgotten as soon as everybody was told.
	Secret      string `json:"secret,omitempty"`
	SecretShort string `json:"secret_short,omitempty"`
}

// Letter is a message on its way to one address.
type Letter struct {
	ID      string // of this message to this address: the same in every attempt
	Address string
	Message // with its secrets only where they may go
	Words
}

// Sender delivers letters to one kind of address.
type Sender interface {
	// Addresses are all that the target has; each gets its own letter. They are
	// names for the store and may be secret: what people see is Show.
	Addresses() []string
	// Show is how an address is written in logs and lists, without secrets.
	Show(address string) string
	// Send delivers one letter and returns nil once the receiver has taken it. It calls mark
	// before the point of no return. Errors are *Refused, *Later, *Unsure, or may heal. None of
	// them shows a secret.
	Send(ctx context.Context, l Letter, mark func()) error
}

// Once is a Sender whose letters are never sent again when they may have arrived.
type Once interface{ Once() }

// Target is one way to tell people.
type Target struct {
	Name        string
	Kinds       []Kind // nil: UsualKinds
	Credentials bool   // may have tickets' codes and commands
	Sender      Sender
}

// Refused is the error of a receiver that will never take the letter.
type Refused struct{ Err error }

func (e *Refused) Error() string { return e.Err.Error() }
func (e *Refused) Unwrap() error { return e.Err }

// Later is the error of a receiver that said when to come again.
type Later struct {
	After time.Duration
	Err   error
}

func (e *Later) Error() string { return e.Err.Error() }
func (e *Later) Unwrap() error { return e.Err }

// Unsure is the error of a receiver that may have taken the letter: it went
// away after the point of no return.
type Unsure struct{ Err error }

func (e *Unsure) Error() string { return e.Err.Error() + "; it may have arrived all the same" }
func (e *Unsure) Unwrap() error { return e.Err }
