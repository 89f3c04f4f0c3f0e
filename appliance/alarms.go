package appliance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/link"
	"rescuebox/appliance/modem"
	"rescuebox/appliance/notify"
)

// alarms tells people what they must know of the way in, since nobody watches a screen, and no more
// than that: each text message costs, and of a line that flaps all night nobody wants to hear each turn.
//
// Of each subject (which uplink is used, whether the hub answers, a SIM) people know a state:
//
//	          news: told at once                  pause is over: nothing happened
//	quiet ────────────────────────▸ pausing ──────────────────────────────────────▸ quiet
//	                                 │   ▴
//	                                 └───┘ pause is over, there was news: told if it is another state than
//	                                       people know; the next pause is twice as long
//
// So people know the truth at the end of each pause, and a subject that never rests costs some ten
// messages on its first day. What people know outlives the daemon: its restart is no news.
type alarms struct {
	store alarmStore
	tell  func(notify.Message) error // to the outbox
	// handshake is when the tunnel last shook hands with a hub, and hub names those of the file. A hub that
	// never answered is no alarm: at the very first start it does not know the box yet.
	handshake func() time.Time
	hub       string
	site      string
	log       *zap.Logger

	mu       sync.Mutex
	subjects map[string]*subject
	drill    time.Time // since when; zero: none
	wake     chan struct{}
}

// alarmStore keeps what people know; state.Table is one.
type alarmStore interface {
	Put(key string, s subject) error
	All() ([]subject, error)
}

// subject is what people know of one.
type subject struct {
	Name  string        `json:"name"`
	Known string        `json:"known"` // the state that people know
	Until time.Time     `json:"until"` // nothing is told before; zero: quiet
	Pause time.Duration `json:"pause"` // the last one
	News  *news         `json:"news,omitempty"`
}

// news is what happened in a pause.
type news struct {
	Since time.Time `json:"since"` // the first of it
	Count int       `json:"count"`
	At    time.Time `json:"at"` // the last of it
	State string    `json:"state"`
	Text  string    `json:"text"`
}

const (
	firstQuiet = 10 * time.Minute
	lastQuiet  = 4 * time.Hour
	// settling is how long the uplink of a new start may still change: it is chosen before all of them were heard.
	settling = 2 * time.Minute
	// drillMost is how long a drill may take; its end is told by the drill.
	drillMost = time.Hour

	onLink, onHub   = "link", "hub"
	silent, answers = "silent", "answers"
	usedUplink      = "" // of a subject nobody knows anything of
)

// Run tells until ctx is done.
func (a *alarms) Run(ctx context.Context, ready func()) error {
	list, err := a.store.All()
	if err != nil {
		return fmt.Errorf("what people know of the way in: %w", err)
	}
	a.recall(list, time.Now())
	ready()
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		next := a.due(time.Now())
		timer := time.NewTimer(time.Until(next))
		if next.IsZero() {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-a.wake:
		case <-timer.C:
		case <-tick.C: // the tunnel does not tell when it shakes hands; and a disk may be well again
		}
		timer.Stop()
	}
}

// recall takes up what an earlier life knew. News may have come in before.
func (a *alarms) recall(list []subject, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range list {
		if s.Until.Sub(now) > lastQuiet { // by a clock that was ahead
			s.Until = now.Add(lastQuiet)
		}
		if early := a.subjects[s.Name]; early != nil {
			s.News = early.News
			s.Until = later(s.Until, early.Until)
		}
		a.subjects[s.Name] = &s
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// link is what happened to the uplinks.
func (a *alarms) link(e link.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch e.Kind {
	case link.Switched:
		s := a.subject(onLink)
		switch {
		case s.Known == usedUplink && e.From == "":
			s.Known = e.Uplink // the first start of all: whoever did it is there
		case s.Known == usedUplink:
			s.Known = e.From
		}
		if e.From == "" {
			s.Until = later(s.Until, e.At.Add(settling))
		}
		s.hear(e.At, e.Uplink, e.Reason)
	case link.Hub:
		state := silent
		if e.Uplink != "" {
			state = answers
		}
		a.subject(onHub).hear(e.At, state, e.Reason)
	case link.Drill: // what comes of it, whoever drills sees
		s := a.subject(onLink)
		if e.At.Sub(a.drill) > drillMost {
			a.drill, s.Until = e.At, later(s.Until, e.At.Add(drillMost))
		} else {
			a.drill, s.Until = time.Time{}, e.At
		}
	}
	a.nudge()
}

// modem is what happened to a modem that a person must know.
func (a *alarms) modem(e modem.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.subject("modem "+e.Modem+" "+e.Kind).hear(e.Time, e.Text+" "+e.Time.String(), e.Text) // each is another state
	a.nudge()
}

func (a *alarms) subject(name string) *subject {
	s := a.subjects[name]
	if s == nil {
		s = &subject{Name: name}
		a.subjects[name] = s
	}
	return s
}

func (a *alarms) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// hear keeps the newest.
func (s *subject) hear(at time.Time, state, text string) {
	if s.News == nil {
		s.News = &news{Since: at}
	}
	s.News.Count++
	s.News.At, s.News.State, s.News.Text = at, state, text
}

// due tells what is to be told now, and returns when there may be more; zero is not before something happens.
func (a *alarms) due(now time.Time) (next time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.meetHub()
	for _, s := range a.subjects {
		if s.Until.After(now) {
			if next.IsZero() || s.Until.Before(next) {
				next = s.Until
			}
			continue
		}
		if s.News == nil && s.Until.IsZero() {
			continue
		}
		if err := a.settle(s, now); err != nil {
			a.log.Error("an alarm is not in the outbox yet", zap.NamedError("err", err))
			continue // the next minute
		}
		if !s.Until.IsZero() && (next.IsZero() || s.Until.Before(next)) {
			next = s.Until
		}
	}
	return next
}

// meetHub notes that one of the hubs of the file answered, ever.
func (a *alarms) meetHub() {
	if s := a.subject(onHub); s.Known == "" || !strings.HasSuffix(s.Known, a.hub) {
		if a.handshake().IsZero() {
			s.News = nil // it is no news that it does not
			return
		}
		s.Known = answers + " " + a.hub
		a.keep(s)
	}
}

// settle ends a pause, or quiet, with what happened meanwhile.
func (a *alarms) settle(s *subject, now time.Time) error {
	n, after := s.News, *s
	after.News = nil
	same := n == nil || a.state(s.Name, n.State) == s.Known
	if n == nil || same && s.Pause == 0 {
		after.Until, after.Pause = time.Time{}, 0
	} else {
		after.Pause = min(max(2*s.Pause, firstQuiet), lastQuiet)
		after.Until = now.Add(after.Pause)
	}
	if !same {
		after.Known = a.state(s.Name, n.State)
		if err := a.tell(a.message(s.Name, n)); err != nil {
			return err
		}
	}
	*s = after
	a.keep(s)
	return nil
}

// state is what people know once they are told. That of the hub goes with which hubs they are.
func (a *alarms) state(name, state string) string {
	if name == onHub {
		return state + " " + a.hub
	}
	return state
}

func (a *alarms) keep(s *subject) {
	if err := a.store.Put(s.Name, *s); err != nil {
		a.log.Error("what people were told cannot be stored; they may be told again", zap.NamedError("err", err))
	}
}

func (a *alarms) message(name string, n *news) notify.Message {
	m := notify.Message{ID: fmt.Sprintf("alarm-%s-%d", strings.ReplaceAll(name, " ", "-"), n.At.UnixNano()), Kind: notify.Alarm, Site: a.site, Time: n.At, Text: n.Text}
	if n.Count > 1 {
		m.Text += fmt.Sprintf(" (%d changes since %s)", n.Count, n.Since.Format("15:04"))
	}
	return m
}
