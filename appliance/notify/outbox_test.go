package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// memory is a store; it can refuse.
type memory struct {
	mu   sync.Mutex
	docs map[string]Entry
	err  error
}

func (m *memory) Put(key string, e Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	if m.docs == nil {
		m.docs = map[string]Entry{}
	}
	e.Deliveries = slices.Clone(e.Deliveries)
	m.docs[key] = e
	return nil
}

func (m *memory) Delete(key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.docs, key)
	return m.err
}

func (m *memory) All() (list []Entry, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.docs {
		e.Deliveries = slices.Clone(e.Deliveries)
		list = append(list, e)
	}
	return list, nil
}

// people are a sender that remembers; answer decides what each attempt comes to.
type people struct {
	names  []string
	answer func(l Letter, mark func()) error

	mu  sync.Mutex
	got []attempt
}

type attempt struct {
	at time.Duration
	Letter
}

func (p *people) Addresses() []string  { return p.names }
func (p *people) Show(a string) string { return "<" + a + ">" }
func (p *people) letters() []attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *people) attempts() (n []string) {
	for _, a := range p.letters() {
		n = append(n, fmt.Sprintf("%s %s %s", a.at.Round(time.Second), a.Address, a.Message.ID))
	}
	return n
}

var begun time.Time // of the bubble: every synctest bubble begins at the same time

func (p *people) Send(ctx context.Context, l Letter, mark func()) error {
	p.mu.Lock()
	p.got = append(p.got, attempt{time.Since(begun), l})
	answer := p.answer
	p.mu.Unlock()
	if answer != nil {
		return answer(l, mark)
	}
	mark()
	return nil
}

// running runs an outbox in a bubble until the test or stop ends it.
func running(t *testing.T, o *Outbox) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { o.Run(ctx, func() {}); close(done) }()
	return func() { cancel(); <-done }
}

func news(id string) Message {
	return Message{ID: id, Kind: Ticket, Site: "kazan-2", Machine: "srv01", Order: "ab12cd34", Image: "dart", Time: time.Now(),
		Secret: "  DartRemoteViewer.exe -ticket=118-497-589\n", SecretShort: "118-497-589 192.168.77.101:49161"}
}

func bubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		begun = time.Now()
		f(t)
	})
}

// Each address is told once, however often the news is put, in this life and the next; who
// may not have secrets gets none, and in the end the store has none either.
func TestOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := &memory{}
		chat, mail := &people{names: []string{"chat"}}, &people{names: []string{"anna", "boris"}}
		targets := []Target{{Name: "chat", Sender: chat}, {Name: "mail", Sender: mail, Credentials: true, Kinds: Kinds}}
		for range 3 {
			o := &Outbox{Store: store, Targets: targets}
			stop := running(t, o)
			for range 3 {
				if err := o.Put(news("ticket-1")); err != nil {
					t.Fatal(err)
				}
				done := news("order-1")
				done.Kind = Done
				if err := o.Put(done); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			stop()
		}
		if d := cmp.Diff([]string{"0s chat ticket-1"}, chat.attempts()); d != "" {
			t.Error(d)
		}
		got := mail.attempts()
		slices.Sort(got)
		if d := cmp.Diff([]string{"0s anna order-1", "0s anna ticket-1", "0s boris order-1", "0s boris ticket-1"}, got); d != "" {
			t.Error(d)
		}
		if l := chat.got[0]; l.Secret != "" || l.SecretShort != "" || strings.Contains(l.Words.Text+l.Short, "118-497-589") {
			t.Errorf("the chat has the secret: %+v", l)
		}
		if i := slices.IndexFunc(mail.got, func(a attempt) bool { return a.Kind == Ticket }); !strings.Contains(mail.got[i].Words.Text, "-ticket=118-497-589") {
			t.Errorf("the mail does not have the secret: %s", mail.got[i].Words.Text)
		}
		ids := map[string]bool{}
		for _, a := range append(mail.got, chat.got...) {
			ids[a.Letter.ID] = true
		}
		if len(ids) != 5 {
			t.Errorf("5 letters have %d ids", len(ids))
		}
		for _, e := range store.docs {
			if e.Secret != "" || e.SecretShort != "" {
				t.Errorf("the store keeps the secret of %s", e.ID)
			}
		}
	})
}

// Nobody who may have secrets: none is ever stored.
func TestSecretIsNotStored(t *testing.T) {
	store := &memory{}
	o := &Outbox{Store: store, Targets: []Target{{Name: "chat", Sender: &people{names: []string{"chat"}}}}}
	if err := o.Put(news("1")); err != nil || store.docs["1"].Secret+store.docs["1"].SecretShort != "" {
		t.Errorf("%v; stored %+v", err, store.docs["1"])
	}
}

// A receiver that is down is asked after growing delays, up to a quarter of an
// hour; what is new is tried at once, and when the receiver is back, all goes.
func TestBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		p := &people{names: []string{"chat"}, answer: func(Letter, func()) error {
			if down.Load() {
				return errors.New("connection refused")
			}
			return nil
		}}
		o := &Outbox{Store: &memory{}, Targets: []Target{{Name: "chat", Sender: p}}}
		defer running(t, o)()
		o.Put(news("first"))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		got := p.letters()
		var waits []time.Duration
		for i, a := range got[1:] {
			waits = append(waits, a.at-got[i].at)
		}
		want := firstRetry
		for i, w := range waits {
			if w < time.Duration(float64(want)*(1-jitter))-time.Millisecond || w > time.Duration(float64(want)*(1+jitter))+time.Millisecond {
				t.Errorf("attempt %d came after %s, want %s ± 20 %%", i+2, w, want)
			}
			want = min(2*want, lastRetry)
		}
		if len(waits) < 12 || len(waits) > 18 {
			t.Errorf("%d attempts in two hours", len(waits)+1)
		}
		before := len(p.attempts())
		o.Put(news("second"))
		synctest.Wait()
		if n := len(p.attempts()); n != before+1 || p.letters()[before].Message.ID != "second" {
			t.Errorf("what is new was not tried at once: %q", p.attempts()[before:])
		}
		down.Store(false)
		time.Sleep(lastRetry * 12 / 10)
		synctest.Wait()
		for _, e := range o.List() {
			if d := e.Deliveries[0]; d.State != Sent || d.Address != "<chat>" {
				t.Errorf("%s is %+v", e.ID, d)
			}
		}
	})
}

// A message that a receiver cannot digest delays no other.
func TestPoison(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := &people{names: []string{"chat"}, answer: func(l Letter, _ func()) error {
			if l.Message.ID == "poison" {
				return errors.New("500")
			}
			return nil
		}}
		o := &Outbox{Store: &memory{}, Targets: []Target{{Name: "chat", Sender: p}}}
		defer running(t, o)()
		o.Put(news("poison"))
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		for i := range 5 {
			o.Put(news(fmt.Sprint(i)))
			synctest.Wait()
			if e := o.List()[0]; e.Deliveries[0].State != Sent {
				t.Errorf("message %d waits: %+v", i, e.Deliveries[0])
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
	})
}

// Retry-After is obeyed, for new messages too; a "no" is final; nobody else is held up.
func TestLaterAndRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := &people{names: []string{"busy", "strict", "fine"}}
		p.answer = func(l Letter, _ func()) error {
			switch {
			case l.Address == "busy" && time.Since(begun) < time.Hour:
				return &Later{time.Hour, errors.New("429")}
			case l.Address == "strict":
				return &Refused{errors.New("550 no such user")}
			}
			return nil
		}
		o := &Outbox{Store: &memory{}, Targets: []Target{{Name: "mail", Sender: p}}}
		defer running(t, o)()
		o.Put(news("a"))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		o.Put(news("b"))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		got := p.attempts()
		slices.Sort(got)
		want := []string{"0s busy a", "0s fine a", "0s strict a", "10m0s fine b", "10m0s strict b", "1h0m0s busy a", "1h0m0s busy b"}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		for _, e := range o.List() {
			if d := e.Deliveries[1]; d.State != Refuse || d.Error != "550 no such user" {
				t.Errorf("%+v", d)
			}
		}
	})
}

// What was being sent when the box stopped goes again with the same id, and is marked; what had
// not reached the point of no return is not in doubt.
func TestStopInTheMiddle(t *testing.T) {
	for _, reached := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			store := &memory{}
			hang := make(chan struct{})
			p := &people{names: []string{"anna"}}
			p.answer = func(l Letter, mark func()) error {
				if reached {
					mark()
				}
				<-hang
				return errors.New("the power is gone")
			}
			targets := []Target{{Name: "mail", Sender: p}}
			o := &Outbox{Store: store, Targets: targets}
			stop := running(t, o)
			o.Put(news("1"))
			synctest.Wait()
			crashed := store.docs["1"] // what the disk has when the plug is pulled
			crashed.Deliveries = slices.Clone(crashed.Deliveries)
			go func() { time.Sleep(time.Second); close(hang) }()
			stop()

			p.mu.Lock()
			p.answer = nil
			p.mu.Unlock()
			after := &Outbox{Store: &memory{docs: map[string]Entry{"1": crashed}}, Targets: targets}
			defer running(t, after)()
			after.Put(news("1"))
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(p.got) != 2 || p.got[0].Letter.ID != p.got[1].Letter.ID {
				t.Errorf("reached %v: %d attempts: %+v", reached, len(p.got), p.got)
			}
			if d := after.List()[0].Deliveries[0]; d.State != Sent || d.Doubt != reached {
				t.Errorf("reached %v: %+v", reached, d)
			}
		})
	}
}

// A full disk costs nobody the news, asks the caller to come again, and makes no doubles.
func TestStoreFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := &memory{err: errors.New("disk full")}
		p := &people{names: []string{"anna"}}
		o := &Outbox{Store: store, Targets: []Target{{Name: "mail", Sender: p}}}
		defer running(t, o)()
		if err := o.Put(news("1")); err == nil {
			t.Error("no error")
		}
		synctest.Wait()
		if len(p.got) != 1 || o.Has("1") {
			t.Errorf("%d attempts; on disk: %v", len(p.got), o.Has("1"))
		}
		store.mu.Lock()
		store.err = nil
		store.mu.Unlock()
		if err := o.Put(news("1")); err != nil || !o.Has("1") {
			t.Errorf("the second time: %v; on disk: %v", err, o.Has("1"))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(p.got) != 1 || store.docs["1"].Deliveries[0].State != Sent {
			t.Errorf("%d attempts, stored as %+v", len(p.got), store.docs["1"])
		}
	})
}

// Targets come and go: one that is new is told no old news; one that is gone, as by a slip in
// the file of the site that is put right again, is told when it is back, for as long as news is news.
func TestTargetsChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := &memory{}
		old := &people{names: []string{"old"}, answer: func(Letter, func()) error { return errors.New("down") }}
		o := &Outbox{Store: store, Targets: []Target{{Name: "old", Sender: old}}}
		stop := running(t, o)
		o.Put(news("1"))
		done := news("2")
		done.Kind = Done // wanted by nobody
		o.Put(done)
		synctest.Wait()
		stop()
		fresh := &people{names: []string{"fresh"}}
		o = &Outbox{Store: store, Targets: []Target{{Name: "fresh", Sender: fresh, Kinds: Kinds}}}
		stop = running(t, o)
		defer func() { stop() }()
		o.Put(news("1"))
		o.Put(done)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(fresh.got) != 0 {
			t.Errorf("told of old news: %q", fresh.attempts())
		}
		if d := o.List()[0].Deliveries[0]; d.State != Waiting || d.Error != "its target is not configured" || d.Address != "old" {
			t.Errorf("%+v", d)
		}
		o.Put(news("3"))
		synctest.Wait()
		if len(fresh.got) != 1 {
			t.Errorf("%d attempts of new news", len(fresh.got))
		}
		stop()
		back := &people{names: []string{"old"}}
		o = &Outbox{Store: store, Targets: []Target{{Name: "old", Sender: back}}}
		stop = running(t, o)
		synctest.Wait()
		if len(back.got) != 1 || back.got[0].Letter.ID != old.got[0].Letter.ID {
			t.Errorf("told when it was back: %q", back.attempts())
		}
		o.Put(news("4"))
		synctest.Wait()
		stop()
		o = &Outbox{Store: store}
		stop = running(t, o)
		time.Sleep(maxAge + 2*tidyEvery)
		for _, e := range o.List() {
			if d := e.Deliveries[0]; d.State.Open() {
				t.Errorf("%s waits for ever: %+v", e.ID, d)
			}
		}
	})
}

// News is dropped when it is a week old, and forgotten after a month.
func TestAge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := &memory{}
		p := &people{names: []string{"anna"}, answer: func(Letter, func()) error { return errors.New("down") }}
		o := &Outbox{Store: store, Targets: []Target{{Name: "mail", Sender: p}}}
		defer running(t, o)()
		o.Put(news("1"))
		time.Sleep(maxAge + 2*tidyEvery)
		synctest.Wait()
		if d := o.List()[0].Deliveries[0]; d.State != Dropped || d.Error != "it is older than 7 days; down" {
			t.Errorf("%+v", d)
		}
		n := len(p.attempts())
		time.Sleep(keepEnded)
		synctest.Wait()
		if len(p.attempts()) != n || len(o.List()) != 0 || len(store.docs) != 0 {
			t.Errorf("%d attempts more; %d messages known, %d stored", len(p.attempts())-n, len(o.List()), len(store.docs))
		}
	})
}

// Too much for one address: what anybody on the LAN can cause goes first, then the oldest. And
// anybody on the LAN can cause only so much in an hour.
func TestNumber(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := &people{names: []string{"anna"}}
		o := &Outbox{Store: &memory{}, Targets: []Target{{Name: "mail", Sender: p}}} // it does not run
		put := func(id string, weak bool) {
			m := news(id)
			m.Weak = weak
			if err := o.Put(m); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		for i := range maxWeak + 30 {
			put(fmt.Sprintf("weak%d", i), true)
		}
		if n := len(o.List()); n != maxWeak {
			t.Errorf("%d weak messages are known, want %d", n, maxWeak)
		}
		for i := range maxWaiting - maxWeak + 1 {
			put(fmt.Sprintf("strong%d", i), false)
		}
		state := func(id string) State {
			return o.entries[id].Deliveries[0].State
		}
		if state("weak0") != Dropped || state("weak1") != Waiting || state("strong0") != Waiting {
			t.Error("not the oldest weak one was dropped")
		}
		for i := range maxWeak {
			put(fmt.Sprintf("more%d", i), false)
		}
		if state("strong0") != Dropped || state("strong1") != Waiting || state("more0") != Waiting {
			t.Error("not the oldest one was dropped")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		put("weak again", true)
		if o.entries["weak again"] == nil {
			t.Error("an hour later there is no room for a weak one")
		}
	})
}

// A test message goes to whom it is for, whatever kinds they take.
func TestTry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := &people{names: []string{"a"}}, &people{names: []string{"b"}}
		o := &Outbox{Store: &memory{}, Targets: []Target{{Name: "one", Sender: a, Kinds: []Kind{Failed}}, {Name: "two", Sender: b}}}
		defer running(t, o)()
		if _, err := o.Try("three", "kazan-2", "anna", time.Now()); !errors.Is(err, ErrNoTarget) {
			t.Errorf("nobody: %v", err)
		}
		for i, target := range []string{"one", "", "one"} {
			if _, err := o.Try(target, "kazan-2", "anna", time.Now()); err != nil {
				t.Fatal(i, err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if len(a.got) != 3 || len(b.got) != 1 {
			t.Errorf("%d and %d attempts", len(a.got), len(b.got))
		}
	})
}
