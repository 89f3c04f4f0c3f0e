package text

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Kind says what a message that we send is for. Money that is short goes to the more important.
type Kind string

// The kinds, the dearest first, with the share of the budget that they leave to those before them.
const (
	Answer  Kind = "answer"  // to a command with a right code: all of it
	Command Kind = "command" // to a switch: all of it
	Alarm   Kind = "alarm"   // a ticket, a failure: leaves a fifth
	Notice  Kind = "notice"  // other news, and what anybody on the rescue LAN can cause: leaves a half
	Refusal Kind = "refusal" // to a command without a right code: has a tenth, and two in an hour for a number
)

// valid is how long the network shall try to hand a message over.
func (k Kind) valid() time.Duration {
	switch k {
	case Command:
		return 5 * time.Minute // the least it knows (3GPP TS 23.040, section 9.2.3.12.1)
	case Answer, Refusal:
		return answerAge
	}
	return 24 * time.Hour
}

// State is how far a message came.
//
//	waiting --at the modem--> sending --network took it--> sent
//	   ^                         |--certainly not--> waiting, failed
//	   |                         '--nobody knows, box stopped--> unknown
//	   '--too old--> failed
type State string

// The states. Those that come are received.
const (
	Waiting  State = "waiting"
	Sending  State = "sending"
	Sent     State = "sent"
	Failed   State = "failed"
	Unknown  State = "unknown" // it may have arrived; it is not sent again
	Received State = "received"
)

// Text is a message that was sent or came: one document of the store.
type Text struct {
	ID       string    `json:"id"`
	Number   string    `json:"number"` // to, or from whom
	Kind     Kind      `json:"kind,omitempty"`
	Text     string    `json:"text,omitempty"`    // without codes, and without what was private once it is over
	Private  bool      `json:"private,omitempty"` // it takes a machine over
	Parts    int       `json:"parts,omitempty"`
	State    State     `json:"state"`
	Error    string    `json:"error,omitempty"` // why it was not sent, or not followed
	Attempts int       `json:"attempts,omitempty"`
	Time     time.Time `json:"time"` // it was put, or came
	Changed  time.Time `json:"changed"`

	queued bool // by us; else the caller comes again
	retry  time.Time
	// When it was put, or came, and changed, by a clock that nobody sets: one that is set during an outage, as that of a
	// box without a battery, makes no answer too old, frees no budget, and keeps none spent for years.
	put, moved time.Time
}

// kept is a message as it is stored and shown.
func (t *Text) kept() Text {
	c := *t
	if t.Private && !(t.queued && (t.State == Waiting || t.State == Sending)) {
		c.Text = ""
	}
	return c
}

// Store keeps messages over restarts; state.Table does. Put has the message on disk when it returns.
type Store interface {
	Put(key string, t Text) error
	Delete(key string) error
	All() ([]Text, error)
}

const (
	budgetFor   = 24 * time.Hour
	answerAge   = 6 * time.Hour // who asked has found another way
	keepTexts   = 300
	maxWaiting  = 100
	keepStrange = 20 // in an hour, of those that are not followed
	firstRetry  = 30 * time.Second
	soonRetry   = 5 * time.Second // a network that comes and goes does not make it oftener
	lastRetry   = 15 * time.Minute
	sendLimit   = 10 * time.Minute // a modem may take 2 minutes for each part
	idle        = time.Hour
)

// Errors of what is not sent.
var (
	ErrFailed  = errors.New("the text message was not sent")
	ErrUnknown = errors.New("nobody knows whether the text message was sent; it is not sent again")
)

// restoreTexts reads what was sent, is to be sent, and came.
func (d *Desk) restoreTexts() {
	d.texts = map[string]*Text{}
	list, err := d.Store.All()
	if err != nil {
		d.log().Error("older text messages are missing; their cost is not counted", zap.NamedError("err", err))
	}
	now, _ := d.now()
	start := time.Now()
	for _, t := range list {
		t.queued = true
		t.put, t.moved = start.Add(-max(0, now.Sub(t.Time))), start.Add(-max(0, now.Sub(t.Changed))) // ahead of a clock that was put back: of now
		d.texts[t.ID] = &t
		if t.State == Sending {
			d.endLocked(&t, Unknown, "the box stopped while it was being sent")
		}
	}
}

// Send puts a message into the queue, on disk first. It is sent when there is a network and a budget, within
// some hours or not at all.
func (d *Desk) Send(number, text string) (Text, error) {
	d.load.Do(d.restore)
	number, err := dialled(number)
	if err != nil {
		return Text{}, err
	}
	if n := parts(text); n > maxParts {
		return Text{}, fmt.Errorf("a text of %d messages is too dear: at most %d", n, maxParts)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.waitingLocked(); n >= maxWaiting {
		return Text{}, fmt.Errorf("%d messages wait already: rescuebox modem status says why they are not sent", n)
	}
	t := &Text{Number: number, Kind: Answer, Text: text}
	if err := d.queueLocked(t); err != nil { // who asked hears of it and comes again
		delete(d.texts, t.ID)
		return Text{}, err
	}
	return t.kept(), nil
}

func (d *Desk) waitingLocked() (n int) {
	for _, t := range d.texts {
		if t.State == Waiting {
			n++
		}
	}
	return n
}

// dialled is a number as the network wants it: with its country, or the short one of an operator's service.
func dialled(s string) (string, error) {
	n := strings.NewReplacer(" ", "", "-", "", "(", "", ")", "").Replace(s)
	if bare := strings.TrimPrefix(n, "+"); len(bare) < 2 || len(bare) > 15 || strings.Trim(bare, "0123456789") != "" {
		return "", fmt.Errorf("%q is no number: write it with its country, as +79160000000", short(plain(s)))
	}
	return n, nil
}

// queueLocked takes a message into the queue. What cannot be stored is sent all the same.
func (d *Desk) queueLocked(t *Text) error {
	t.queued = true
	d.newLocked(t)
	err := d.putLocked(t)
	d.nudge(d.wake)
	return err
}

// newLocked enters a message into the book.
func (d *Desk) newLocked(t *Text) {
	now, _ := d.now()
	for t.ID == "" || d.texts[t.ID] != nil { // a clock that was put back has been there before
		d.serial++
		t.ID = fmt.Sprintf("%016x-%04x", now.UnixNano(), d.serial&0xffff)
	}
	t.State, t.Parts = cmp.Or(t.State, Waiting), parts(t.Text)
	t.Time, t.put = now.UTC(), time.Now()
	t.changed(now)
	d.texts[t.ID] = t
	d.pruneLocked()
}

func (d *Desk) putLocked(t *Text) error {
	err := d.Store.Put(t.ID, t.kept())
	if err != nil {
		d.log().Error("a text message is not on disk", zap.NamedError("err", err))
		return fmt.Errorf("store the text message: %w", err)
	}
	return nil
}

// pruneLocked forgets the oldest, but not what counts for the budget.
func (d *Desk) pruneLocked() {
	if len(d.texts) <= keepTexts {
		return
	}
	for _, t := range d.oldestFirstLocked() {
		if len(d.texts) <= keepTexts || t.State == Waiting || t.State == Sending || t.costs() > 0 {
			continue
		}
		if err := d.Store.Delete(t.ID); err != nil {
			d.log().Error("an old text message stays on disk", zap.NamedError("err", err))
		}
		delete(d.texts, t.ID)
	}
}

func (d *Desk) oldestFirstLocked() (list []*Text) {
	for _, t := range d.texts {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *Text) int {
		return cmp.Or(a.put.Compare(b.put), a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// keepLocked keeps a message that came, and why it was not followed. Of those without a right code only
// so many are kept in an hour: they must not wear out the disk.
func (d *Desk) keepLocked(m Message, why string) {
	n := 0
	for _, o := range d.texts {
		if o.State == Received && o.Error != "" && time.Since(o.put) < time.Hour {
			n++
		}
	}
	if why != "" && n >= keepStrange {
		return
	}
	t := &Text{Number: bounded(masked(plain(m.From))), State: Received, Error: why, Text: bounded(masked(plain(m.Text)))}
	d.newLocked(t)
	_ = d.putLocked(t) // logged
}

// deliver sends what waits, one message at a time, until ctx is done.
func (d *Desk) deliver(ctx context.Context) {
	for ctx.Err() == nil {
		t, wait := d.next()
		if t != nil {
			d.attempt(ctx, t)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Retry has what waits for a network sent soon: there is one again.
func (d *Desk) Retry() {
	d.load.Do(d.restore)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.network++ // for the one that is being sent
	soon := time.Now().Add(soonRetry)
	for _, t := range d.texts {
		if t.State == Waiting && t.retry.After(soon) {
			t.retry = soon
		}
	}
	d.nudge(d.wake)
}

// next is the oldest message that is due, or how long there is none.
func (d *Desk) next() (due *Text, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait = idle
	now := time.Now()
	for _, t := range d.oldestFirstLocked() {
		switch {
		case t.State != Waiting:
		case now.Sub(t.put) > answerAge:
			d.endLocked(t, Failed, "it could not be sent in time; "+t.Error)
		case !t.retry.After(now):
			return t, 0
		default:
			wait = min(wait, t.retry.Sub(now))
		}
	}
	return nil, wait
}

// attempt sends a message of the queue. Where the network came back in its middle, it is sent soon, too.
func (d *Desk) attempt(ctx context.Context, t *Text) {
	d.mu.Lock()
	network := d.network
	d.mu.Unlock()
	err := d.transmit(ctx, t, func() {})
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrUnknown) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	pause := min(lastRetry, firstRetry<<min(max(t.Attempts-1, 0), 10))
	if d.network != network {
		pause = soonRetry
	}
	if spent := (*Spent)(nil); errors.As(err, &spent) {
		pause = max(time.Minute, min(spent.After, idle))
	}
	t.retry = time.Now().Add(pause)
}

// Say sends one message now, for callers that keep what they have to tell themselves. mark is called just
// before the modem gets it. Errors are ErrFailed, ErrUnknown, or *Spent. What it says is not kept.
func (d *Desk) Say(ctx context.Context, number, text string, k Kind, mark func()) error {
	d.load.Do(d.restore)
	t := &Text{Number: number, Kind: k, Text: fit(text), Private: true}
	if k == Command { // a program reads it, to the letter
		t.Text = text
	}
	if n := parts(t.Text); n > 1 {
		return fmt.Errorf("%w: it would be %d messages", ErrFailed, n)
	}
	d.mu.Lock()
	if err := d.affordLocked(t); err != nil {
		d.mu.Unlock()
		return err
	}
	d.newLocked(t)
	t.State = Sending // not the queue's
	d.mu.Unlock()
	err := d.transmit(ctx, t, mark)
	if err != nil && t.Attempts == 0 { // it did not come to its turn, and is no news
		d.mu.Lock()
		delete(d.texts, t.ID)
		d.mu.Unlock()
	}
	return err
}

// transmit is the one way out: in turn, within the budget, and with the attempt on disk before
// it is made.
func (d *Desk) transmit(ctx context.Context, t *Text, mark func()) error {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrFailed, ctx.Err())
	}
	defer func() { <-d.turn }()
	if err := d.begin(t); err != nil {
		return err
	}
	mark()
	limited, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	result, err := d.Out(limited, t.Number, t.Text, t.Kind.valid())
	d.mu.Lock()
	defer d.mu.Unlock()
	switch result {
	case ResultSent:
		d.endLocked(t, Sent, "")
		return nil
	case ResultFailed:
		d.endLocked(t, map[bool]State{true: Waiting, false: Failed}[t.queued], fmt.Sprint(err))
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	d.endLocked(t, Unknown, fmt.Sprint(err))
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// begin notes an attempt.
func (d *Desk) begin(t *Text) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := t.State
	t.State = Waiting // what is not sent yet does not count
	if err := d.affordLocked(t); err != nil {
		t.State = was
		return err
	}
	now, _ := d.now()
	t.State = Sending
	t.changed(now)
	t.Attempts++
	_ = d.putLocked(t) // logged; it is sent all the same
	return nil
}

// changed notes when.
func (t *Text) changed(now time.Time) { t.Changed, t.moved = now.UTC(), time.Now() }

// endLocked ends an attempt.
func (d *Desk) endLocked(t *Text, s State, why string) {
	now, _ := d.now()
	t.State, t.Error = s, why
	t.changed(now)
	log := d.log().With(zap.String("to", t.Number), zap.String("kind", string(t.Kind)))
	if s == Sent {
		log.Info("text message sent")
	} else {
		log.Warn("text message not sent", zap.String("state", string(s)), zap.String("err", why))
	}
	_ = d.putLocked(t) // logged
}
