package text

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// A night without network: the answer goes out when there is one, and not after 6 hours.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "all")
		w.result = ResultFailed
		w.text("vpn up " + w.code())
		synctest.Wait()
		time.Sleep(firstRetry)
		synctest.Wait()
		if n := w.List()[0].Attempts; n != 2 {
			t.Errorf("%d attempts in %v", n, firstRetry)
		}
		time.Sleep(2*time.Hour - firstRetry)
		w.set(func() { w.result = "" })
		time.Sleep(lastRetry + time.Minute)
		if said, deed := w.answer("vpn: done"), time.Now().Add(-2*time.Hour-lastRetry-time.Minute); !strings.HasPrefix(said, deed.Format("15:04")) {
			t.Errorf("said %q, and was done at %v", said, deed)
		}
		tries := 0
		for _, text := range w.List() {
			tries = max(tries, text.Attempts)
		}
		if tries < 8 || tries > 15 {
			t.Errorf("%d attempts in two hours", tries)
		}
		w.set(func() { w.result = ResultFailed })
		w.text("vpn up " + w.code())
		time.Sleep(7 * time.Hour)
		w.set(func() { w.result = "" })
		time.Sleep(time.Hour)
		if len(w.out) != 0 || w.List()[0].State != Failed || w.Status().Waiting != 0 {
			t.Errorf("it is still said after 8 hours: %+v", w.List())
		}
		w.stop()
	})
}

// Unknown is never sent again, nor is what was being sent when the box stopped.
func TestUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "all")
		w.result = ResultUnknown
		w.text("vpn up " + w.code())
		w.answer("vpn: done")
		time.Sleep(12 * time.Hour)
		if len(w.out) != 0 || w.List()[0].State != Unknown {
			t.Errorf("it is said again: %+v", w.List()[0])
		}
		w.set(func() { w.result = "" })
		w.store.mu.Lock()
		for key, text := range w.store.all {
			if text.State == Unknown {
				text.State = Sending // as of a box that lost its power
				w.store.all[key] = text
			}
		}
		w.store.mu.Unlock()
		w.restart()
		time.Sleep(time.Hour)
		if len(w.out) != 0 || w.List()[0].State != Unknown || w.List()[0].Error == "" {
			t.Errorf("it is said again after a restart: %+v", w.List())
		}
		w.stop()
	})
}

// The budget holds over restarts and a clock that is put back, leaves its share to what is dearer, and comes back.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "all")
		w.stop()
		w.Budget = 20
		w.restart()
		say := func(k Kind) int {
			for n := 0; ; n++ {
				err := w.Say(t.Context(), second, "news", k, func() {})
				if spent := (*Spent)(nil); errors.As(err, &spent) {
					if spent.After <= 0 || spent.After > budgetFor {
						t.Errorf("it comes back in %v", spent.After)
					}
					return n
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := say(Notice); n != 10 {
			t.Errorf("%d notices of a budget of 20", n)
		}
		w.restart()
		if n := say(Notice) + say(Alarm); n != 6 {
			t.Errorf("%d alarms after 10 notices", n)
		}
		for range 16 {
			<-w.out
		}
		w.set(func() { w.clock = -48 * time.Hour })
		if n := say(Alarm); n != 0 {
			t.Errorf("a clock that is put back gives %d more", n)
		}
		w.set(func() { w.clock = 0 })
		for range 4 {
			w.silent()
		}
		w.text("vpn up " + w.code()) // it is done, and not answered
		synctest.Wait()
		if got := w.acts.list(); len(got) != 1 || len(w.out) != 0 {
			t.Errorf("done %q, %d said beyond the budget", got, len(w.out))
		}
		if s := w.Status(); s.Spent != 20 || s.Waiting != 1 {
			t.Errorf("%+v", s)
		}
		time.Sleep(25 * time.Hour)
		if n := say(Notice); n != 10 {
			t.Errorf("%d notices the day after", n)
		}
		w.stop()
	})
}

// A long message costs what it costs.
func TestParts(t *testing.T) {
	for text, want := range map[string]int{strings.Repeat("a", 160): 1, strings.Repeat("a", 161): 2, strings.Repeat("€", 80): 1, strings.Repeat("€", 81): 2,
		strings.Repeat("ж", 70): 1, strings.Repeat("ж", 71): 2, strings.Repeat("😀", 35): 1, strings.Repeat("😀", 36): 2, strings.Repeat("a", 306): 2, strings.Repeat("a", 307): 3, "": 1} {
		if got := parts(text); got != want {
			t.Errorf("%d of %.3q are %d messages, want %d", len([]rune(text)), text, got, want)
		}
	}
	d := newWorld(t, "all")
	if _, err := d.Send(admin, strings.Repeat("ж", 671)); err == nil {
		t.Error("eleven parts are taken")
	}
	if _, err := d.Send(admin, strings.Repeat("a", 400)); err != nil {
		t.Error(err)
	}
	if s := <-d.out; len(s.text) != 400 {
		t.Errorf("%d characters went out", len(s.text))
	}
	d.silent() // after which the first is noted
	if s := d.Status(); s.Spent < 3 {
		t.Errorf("three parts cost %d", s.Spent)
	}
}

func TestFit(t *testing.T) {
	for text, want := range map[string]string{
		"a\r\nb\x1b[31m":             "a b [31m",
		"“quoted” – …":               `"quoted" - ...`,
		"привет":                     "привет",
		strings.Repeat("word ", 40):  strings.Repeat("word ", 31) + "wo...",
		strings.Repeat("слово ", 20): strings.Repeat("слово ", 11) + "с...",
		strings.Repeat("[]", 81):     strings.Repeat("[]", 39) + "...",
	} {
		if got := fit(text); got != want || parts(got) != 1 {
			t.Errorf("%q becomes %q (%d parts), want %q", text, got, parts(got), want)
		}
	}
}

// One at a time goes to the modem, and mark is called when it does.
func TestSayInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "all")
		inside := 0
		w.Out = func(context.Context, string, string, time.Duration) (Result, error) {
			if inside++; inside > 1 {
				t.Error("two at once")
			}
			time.Sleep(time.Minute)
			inside--
			return ResultSent, nil
		}
		began := time.Now()
		done := make(chan time.Duration, 3)
		for range 3 {
			go func() {
				var marked time.Duration
				if err := w.Say(t.Context(), admin, "news", Alarm, func() { marked = time.Since(began) }); err != nil {
					t.Error(err)
				}
				done <- marked
			}()
		}
		for i := range 3 {
			if at := <-done; at != time.Duration(i)*time.Minute {
				t.Errorf("the %dth was marked after %v", i, at)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { _ = w.Say(t.Context(), admin, "long", Alarm, func() {}) }()
		synctest.Wait()
		if err := w.Say(ctx, admin, "news", Alarm, func() { t.Error("marked") }); !errors.Is(err, ErrFailed) {
			t.Errorf("who did not come to its turn hears %v", err)
		}
		time.Sleep(2 * time.Minute)
		if s := w.Status(); s.Spent != 4 {
			t.Errorf("what did not come to its turn costs: %+v", s)
		}
		w.stop()
	})
}

// What a switch says goes to who asked it, and orders nothing.
func TestAsk(t *testing.T) {
	w := newWorld(t, "all")
	ctx, cancel := context.WithCancel(t.Context())
	heard := func(from, text string) {
		w.Received(Message{From: from, Numeric: true, Time: time.Now(), Text: text})
	}
	heard(outlet, "nobody asked")
	replies, err := w.Ask(ctx, outlet, "#07#")
	if err != nil {
		t.Fatal(err)
	}
	if s := <-w.out; s != (sent{outlet, "#07#"}) {
		t.Errorf("%+v went out", s)
	}
	w.Received(Message{From: outlet, Time: time.Now(), Text: "Power socket OFF"}) // a name that looks like its number
	for i := range 20 {
		heard(outlet, fmt.Sprintf("Power socket ON\r\n%d", i))
	}
	heard(second, "Power socket OFF")
	if got := <-replies; got != "Power socket ON 0" {
		t.Errorf("heard %q", got)
	}
	busy, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if _, err := w.Ask(busy, outlet, "#07#"); err == nil {
		t.Error("two ask at once")
	}
	cancel()
	for range replies { // ends
	}
	again, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := w.Ask(again, outlet, "#07#"); err != nil {
		t.Errorf("asked again: %v", err)
	}
	if _, err := w.Ask(again, second, "#07#"); err == nil {
		t.Error("no device is asked")
	}
	w.set(func() { w.result = ResultFailed })
	cancel()
	last, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := w.Ask(last, outlet, "#07#"); !errors.Is(err, ErrFailed) {
		t.Errorf("what was not sent: %v", err)
	}
}

// A forger sends 10,000 messages in every form; the admin's commands among them are done.
func TestForgery(t *testing.T) {
	w := newWorld(t, "all")
	began := time.Now()
	for i := range 10_000 {
		m := w.message(fmt.Sprintf("power srv01 off %08d", i))
		switch i % 4 {
		case 0:
			m.From = fmt.Sprintf("+7916%07d", i)
		case 1:
			m.Parts, m.Text = 2, strings.Repeat("x", 40000)
		case 2:
			m.Numeric, m.From = false, "Bank"
		}
		w.Received(m)
		if i%2500 == 1 { // one code before the lock, two after it
			w.Received(w.message("vpn up " + w.code() + " " + w.code()))
		}
	}
	took := time.Since(began)
	for range 4 {
		for !strings.Contains((<-w.out).text, "vpn: done") { // refusals between
		}
	}
	w.text("status " + w.code() + " " + w.code())
	for !strings.Contains((<-w.out).text, "all is well") { // one of 2,500 forged codes is a right one in a run of 2,000, and answered
	}
	s := w.Status()
	bytes := 0
	kept, _ := w.store.All()
	for _, text := range kept {
		bytes += len(text.Text)
	}
	t.Logf("10,000 forged messages: %v, %d messages said, %d writes into the state, %d texts kept with %d bytes", took, s.Spent, w.store.writes(), len(kept), bytes)
	if got := w.acts.list(); len(got) != 4 || s.Spent > 4+1+5 || w.store.writes() > 100 || len(kept) > 50 || len(w.recent) > maxRecent {
		t.Errorf("done %q, said %d, written %d, kept %d", got, s.Spent, w.store.writes(), len(kept))
	}
	if n := w.logs.FilterLevelExact(zap.InfoLevel).Len() + w.logs.FilterLevelExact(zap.WarnLevel).Len(); n > 60 {
		t.Errorf("%d lines of log", n)
	}
}

// The box stops in the midst of a command: it says so, and does not do it again.
func TestStoppedWhileDoing(t *testing.T) {
	w := newWorld(t, "all")
	w.acts.hold = make(chan struct{})
	m := w.message("boot srv01 dart " + w.code())
	w.Received(m)
	dir := filepath.Dir(w.Secrets)
	old := w.Desk
	w.acts = &acts{}
	w.Desk = w.desk(dir, "all") // the old one lost its power; it holds still
	old.Out = func(context.Context, string, string, time.Duration) (Result, error) { return ResultFailed, nil }
	w.start()
	w.answer("the box restarted while it did: boot srv01 dart")
	w.Received(m)
	w.silent()
	if got := w.acts.list(); len(got) != 0 {
		t.Errorf("done again: %q", got)
	}
	close(oldHold(old))
}

func oldHold(d *Desk) chan struct{} { return d.Acts.(*acts).hold }

// What could not be stored is not sent behind the back of who was told so.
func TestSendNotStored(t *testing.T) {
	w := newWorld(t, "all")
	w.store.mu.Lock()
	w.store.fail = errors.New("no space left on device")
	w.store.mu.Unlock()
	if _, err := w.Send(admin, "hello"); err == nil {
		t.Error("it is taken")
	}
	w.silent()
}

// What the admin sends by hand is for a number, and no more of it waits than can be sent.
func TestSendBounds(t *testing.T) {
	w := newWorld(t, "all")
	for _, number := range []string{"", "+", "5", "anna", "+7916*0000", "+7916000000000000", "79160000000x"} {
		if _, err := w.Send(number, "hello"); err == nil || !strings.Contains(err.Error(), "is no number") {
			t.Errorf("%q: %v", number, err)
		}
	}
	for number, want := range map[string]string{"+7 (916) 000-00-00": admin, "0611": "0611"} {
		if text, err := w.Send(number, "hello"); err != nil || text.Number != want || text.State != Waiting {
			t.Errorf("%q: %+v, %v", number, text, err)
		}
		if s := <-w.out; s.number != want {
			t.Errorf("it went to %q", s.number)
		}
	}
	w.set(func() { w.result = ResultFailed })
	var err error
	for range maxWaiting + 2 {
		if _, err = w.Send(admin, "hello"); err != nil {
			break
		}
	}
	if n := w.Status().Waiting; err == nil || n < maxWaiting || n > maxWaiting+1 { // one may be at the modem
		t.Errorf("%d wait, %v", n, err)
	}
}

// What a switch is told is told to the letter: a program reads it. What does not fit is not cut.
func TestCommandToTheLetter(t *testing.T) {
	w := newWorld(t, "all")
	const told = "#12#0#1#1# «a`b»  …"
	if err := w.Say(t.Context(), outlet, told, Command, func() {}); err != nil {
		t.Fatal(err)
	}
	if s := <-w.out; s.text != told {
		t.Errorf("it was told %q", s.text)
	}
	if err := w.Say(t.Context(), outlet, strings.Repeat("#", 161), Command, func() {}); !errors.Is(err, ErrFailed) {
		t.Errorf("two messages: %v", err)
	}
}

// What waits for a network is sent when there is one again, and not when its own time comes.
func TestRetryWithTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "all")
		w.set(func() { w.result = ResultFailed })
		w.text("status " + w.code())
		time.Sleep(3 * time.Hour) // each pause is a quarter of an hour by now
		w.set(func() { w.result = "" })
		w.Retry()
		time.Sleep(soonRetry + time.Second)
		if len(w.out) != 1 {
			t.Error("the answer still waits")
		}
		w.stop()
	})
}

// A network that comes back while a message is still failing is no less there.
func TestRetryInMidAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "all")
		w.set(func() { w.result, w.takes = ResultFailed, 10*time.Second })
		w.text("status " + w.code())
		time.Sleep(5 * time.Second)
		w.set(func() { w.result, w.takes = "", 0 })
		w.Retry()
		time.Sleep(5*time.Second + soonRetry + time.Second)
		if len(w.out) != 1 {
			t.Error("the answer still waits")
		}
		w.stop()
	})
}

// A box without a battery is told the time while it has no network, or is told a wrong one, and then the right one: an
// answer is no older for it, the budget neither free nor spent for years, and the newest message is none to be forgotten.
func TestClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "all")
		w.stop()
		w.Budget = 20
		w.restart()
		w.set(func() { w.result = ResultFailed })
		w.text("vpn up " + w.code())
		synctest.Wait()
		w.set(func() { w.clock, w.result = 72*time.Hour, "" })
		time.Sleep(time.Hour)
		w.answer("vpn: done")

		w.set(func() { w.clock = 10 * 365 * 24 * time.Hour })
		spend := func() (n int) {
			for w.Say(t.Context(), second, "news", Alarm, func() {}) == nil {
				<-w.out
				n++
			}
			return n
		}
		if n := spend(); n != 15 {
			t.Errorf("%d alarms after an answer, of a budget of 20", n)
		}
		w.set(func() { w.clock = 20 * 365 * 24 * time.Hour })
		if n := spend(); n != 0 {
			t.Errorf("a clock that is put forward gives %d more", n)
		}
		w.set(func() { w.clock = 0 })
		w.restart()
		time.Sleep(budgetFor + time.Minute)
		if n := spend(); n != 16 {
			t.Errorf("%d alarms a day after the clock was put back, of a budget of 20", n)
		}
		w.stop()
		for i := range keepTexts {
			at := time.Now().Add(budgetFor)
			_ = w.store.Put(fmt.Sprint(i), Text{ID: fmt.Sprint(i), State: Received, Time: at, Changed: at})
		}
		w.restart()
		time.Sleep(time.Second)
		w.Received(Message{From: "+79160000007", Numeric: true, Text: "your money is used up"})
		if m := w.List()[0]; m.Text != "your money is used up" {
			t.Errorf("the newest message is %+v", m)
		}
		w.stop()
	})
}
