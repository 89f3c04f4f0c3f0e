package notify

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// phone is a modem with what it sent.
type phone struct {
	mu     sync.Mutex
	got    []string
	urgent []bool
	err    []error // of the next attempts
	early  bool    // the error comes before the modem has it
}

func (p *phone) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.got)
}

func (p *phone) fail(err ...error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.early = err, true
}

func (p *phone) out(_ context.Context, number, text string, urgent bool, mark func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if len(p.err) > 0 {
		err, p.err = p.err[0], p.err[1:]
	}
	if err != nil && p.early {
		return err
	}
	mark()
	p.got, p.urgent = append(p.got, number+" "+text), append(p.urgent, urgent)
	return err
}

func start(t *testing.T, store Store, targets ...Target) (*Outbox, func()) {
	t.Helper()
	o := &Outbox{Store: store, Targets: targets}
	return o, running(t, o)
}

func TestText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &phone{}
		store := &memory{}
		o, stop := start(t, store, Target{Name: "phone", Credentials: true, Sender: &Text{To: []string{"+71", "+72"}, Out: p.out}})
		m := news("1")
		m.Machine, m.SecretShort = "сервер", "123-456-789 192.168.77.100:3389"
		if err := o.Put(m); err != nil {
			t.Fatal(err)
		}
		weak := news("2")
		weak.Weak = true
		if err := o.Put(weak); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(p.got) != 4 {
			t.Fatalf("%q went out", p.got)
		}
		for i, text := range p.got {
			if p.urgent[i] == strings.Contains(text, "NOT VERIFIED") {
				t.Errorf("%q is urgent: %v", text, p.urgent[i])
			}
			if utf8.RuneCountInString(text) > 160+4 {
				t.Errorf("%q is more than one message", text)
			}
		}
		stop()
	})
}

// What may have arrived is not sent again, neither at once nor by the next life of the daemon; what
// certainly did not is.
func TestTextOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &phone{err: []error{&Unsure{errors.New("the modem does not answer")}}}
		store := &memory{}
		target := Target{Name: "phone", Sender: &Text{To: []string{"+71"}, Out: p.out}}
		o, stop := start(t, store, target)
		if err := o.Put(news("1")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48 * time.Hour)
		d := o.List()[0].Deliveries[0]
		if p.count() != 1 || d.State != Unknown || d.Doubt || d.Error == "" {
			t.Errorf("%d went out, it is %+v", p.count(), d)
		}
		p.fail(errors.New("no network"), &Later{After: time.Hour, Err: errors.New("the budget is used up")})
		if err := o.Put(news("2")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		if p.count() != 2 {
			t.Errorf("what was not sent is not tried again: %+v", o.List()[0])
		}
		stop()

		e := o.List()[0]
		e.ID, e.Deliveries[0].State = "3", Sending // the plug was pulled
		e.Time = time.Now()
		if err := store.Put("3", e); err != nil {
			t.Fatal(err)
		}
		o, stop = start(t, store, target)
		time.Sleep(48 * time.Hour)
		if d := o.List()[0].Deliveries[0]; p.count() != 2 || d.State != Unknown || d.Doubt {
			t.Errorf("%d went out, it is %+v", p.count(), d)
		}
		stop()
	})
}
