package text

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// until waits for something that comes by itself.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// ticketWaits has the admin's ticket wait for a network.
func (w *world) ticketWaits() {
	w.t.Helper()
	w.set(func() { w.result = ResultFailed })
	w.text("ticket srv01 " + w.code())
	until(w.t, "the ticket waits", func() bool {
		return slices.ContainsFunc(w.List(), func(t Text) bool { return t.Private && t.State == Waiting && t.Attempts > 0 })
	})
}

// withoutAdmin starts the desk anew, with a file that does not name the admin any more.
func (w *world) withoutAdmin() {
	w.stop()
	senders := w.Senders
	w.Desk = w.desk(strings.TrimSuffix(w.Secrets, "/secrets"), senders[0].May...)
	w.Senders = senders[1:]
	w.start()
}

// A phone that was lost: no code of it counts any more, what waits is not done, no ticket goes there, and so it
// stays.
func TestForget(t *testing.T) {
	w := newWorld(t, "all")
	w.acts.hold, w.acts.slow = make(chan struct{}), "power srv01"
	w.text("power srv02 off " + w.code())
	said := w.answer("To do it send")
	_, yes, _ := strings.Cut(said, "yes ")
	w.text("power srv01 on " + w.code()) // is begun
	atWork := func() bool {
		w.Desk.mu.Lock()
		defer w.Desk.mu.Unlock()
		return w.lanes["machine: srv01"]
	}
	until(t, "it is begun", atWork)
	w.text("boot srv01 dart " + w.code()) // waits for it
	w.ticketWaits()

	// As people write it.
	if err := w.Forget(admin[1:5] + " " + admin[5:]); err != nil {
		t.Fatal(err)
	}
	w.set(func() { w.result = "" })
	close(w.acts.hold)
	until(t, "it is done", func() bool { return !atWork() })
	w.Retry()
	w.text("yes " + yes[:3] + " " + w.code())
	w.text("status " + w.code())
	w.text("status " + w.code() + " " + w.code())
	if s := w.Status(); s.Numbers[0].Enrolled || len(s.Numbers) != 2 {
		t.Errorf("it is enrolled: %+v", s.Numbers)
	}
	if files, err := os.ReadDir(w.Secrets); err != nil || len(files) > 0 {
		t.Errorf("its secret is on the disk: %v, %v", files, err)
	}
	if err := w.Forget(admin); !errors.Is(err, ErrNoSender) {
		t.Errorf("forgotten twice: %v", err)
	}
	w.restart()
	w.text("status " + w.code())
	w.Desk.mu.Lock()
	why := slices.ContainsFunc(w.Desk.oldestFirstLocked(), func(t *Text) bool { return strings.Contains(t.Error, "rescuebox modem enroll "+admin) })
	w.Desk.mu.Unlock()
	if !why {
		t.Error("nobody can see why its messages are not followed")
	}
	// Its owner's next phone is the next to hear anything.
	uri, err := w.Enroll(admin)
	if err != nil {
		t.Fatal(err)
	}
	w.secret, w.counter = secretOf(t, uri), 0
	w.silent()
	if done := w.acts.list(); slices.Contains(done, "boot srv01 dart") || slices.Contains(done, "power srv02 off") {
		t.Errorf("done %q", done)
	}
}

// A number that is not in the file any more orders nothing, and is sent no ticket that waited; its secret is shown,
// and taken away, so that it does not count again when the number comes back.
func TestForgetLeftover(t *testing.T) {
	w := newWorld(t, "all")
	w.ticketWaits()
	before := w.Senders
	w.withoutAdmin()
	w.set(func() { w.result = "" })
	w.Retry()
	w.text("vpn up " + w.code())
	numbers := w.Status().Numbers
	if len(numbers) != 2 || numbers[1].Number != admin || !numbers[1].Left || numbers[0].Left {
		t.Errorf("it is not shown: %+v", numbers)
	}
	if w.logs.FilterMessageSnippet("rescuebox modem forget").Len() != 1 {
		t.Error("the log does not tell")
	}
	if _, err := w.Enroll(admin); !errors.Is(err, ErrNoSender) {
		t.Errorf("it is enrolled anew: %v", err)
	}
	if err := w.Forget(admin[1:]); err != nil { // without the plus
		t.Fatal(err)
	}
	if err := w.Forget("+79169999999"); !errors.Is(err, ErrNoSender) {
		t.Errorf("a stranger is forgotten: %v", err)
	}
	if n := w.Status().Numbers; len(n) != 1 {
		t.Errorf("it is still shown: %+v", n)
	}
	w.stop()
	w.Desk = w.desk(strings.TrimSuffix(w.Secrets, "/secrets"), before[0].May...)
	w.start()
	w.text("vpn up " + w.code())
	w.text("vpn up " + w.code() + " " + w.code())
	if w.Status().Numbers[0].Enrolled || len(w.acts.list()) > 0 {
		t.Errorf("back in the file, its old secret counts: %q", w.acts.list())
	}
	if len(w.out) > 0 {
		t.Errorf("it was sent %+v", <-w.out)
	}
}

// A disk that does not let the secret go is said to, and the phone commands nothing all the same.
func TestForgetOnABrokenDisk(t *testing.T) {
	w := newWorld(t, "all")
	file := recordFile(w.Secrets, admin)
	if err := errors.Join(os.Remove(file), os.MkdirAll(file+"/x", 0o700)); err != nil { // cannot be removed
		t.Fatal(err)
	}
	if err := w.Forget(admin); err == nil || errors.Is(err, ErrNoSender) || !strings.Contains(err.Error(), "stays on the disk") {
		t.Errorf("%v", err)
	}
	w.text("vpn up " + w.code())
	if s := w.Status(); s.Numbers[0].Enrolled || len(w.acts.list()) > 0 {
		t.Errorf("it commands: %+v, %q", s, w.acts.list())
	}
}
