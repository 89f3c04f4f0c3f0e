package text

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const (
	admin  = "+79160000000"
	second = "+79160000002"
	outlet = "+79160000009"
)

// table is a store in memory that counts.
type table struct {
	mu   sync.Mutex
	all  map[string]Text
	puts int
	fail error
}

func (s *table) Put(key string, t Text) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.fail != nil {
		return s.fail
	}
	s.all[key] = t
	return nil
}

func (s *table) Delete(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	delete(s.all, key)
	return s.fail
}

func (s *table) All() (list []Text, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.all {
		list = append(list, t)
	}
	return list, nil
}

func (s *table) writes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

// acts notes what is done.
type acts struct {
	mu    sync.Mutex
	done  []string
	asked int
	hold  chan struct{} // what changes something waits for it
	slow  string        // nothing but this does
	err   error
}

func (a *acts) note(what ...string) (string, error) {
	if a.hold != nil && strings.HasPrefix(strings.Join(what, " "), a.slow) {
		<-a.hold
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = append(a.done, strings.Join(what, " "))
	return strings.Join(what, " ") + ": done", a.err
}

func (a *acts) Status(context.Context) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return fmt.Sprintf("all is well %d", a.asked)
}
func (a *acts) Boot(_ context.Context, m, i string) (string, error)  { return a.note("boot", m, i) }
func (a *acts) Power(_ context.Context, m, p string) (string, error) { return a.note("power", m, p) }
func (a *acts) Link(_ context.Context, u string) (string, error)     { return a.note("link", u) }
func (a *acts) VPN(context.Context) (string, error)                  { return a.note("vpn") }
func (a *acts) ResetModem(context.Context) (string, error)           { return a.note("reset") }
func (a *acts) Ticket(_ context.Context, m string) (string, error) {
	return m + " 123-456-789 192.168.77.100:3389", a.err
}

func (a *acts) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.done)
}

// sent is a message as the network has it.
type sent struct{ number, text string }

// world is a desk with all around it.
type world struct {
	*Desk
	t     *testing.T
	store *table
	acts  *acts
	out   chan sent
	logs  *observer.ObservedLogs

	mu      sync.Mutex
	result  Result // of sending; "" is sent
	takes   time.Duration
	clock   time.Duration
	unsure  bool
	uri     string
	secret  []byte
	counter uint64
	stop    func()
}

// newWorld has one sender with rights, enrolled, and runs.
func newWorld(t *testing.T, may ...string) *world {
	t.Helper()
	w := &world{t: t, store: &table{all: map[string]Text{}}, acts: &acts{}, out: make(chan sent, 1000)}
	w.Desk = w.desk(t.TempDir(), may...)
	uri, err := w.Enroll(admin)
	if err != nil {
		t.Fatal(err)
	}
	w.uri, w.secret = uri, secretOf(t, uri)
	w.start()
	return w
}

func (w *world) desk(dir string, may ...string) *Desk {
	core, logs := observer.New(zap.DebugLevel)
	w.logs = logs
	return &Desk{Site: "kazan-2", Senders: []Sender{{admin, may}, {second, []string{"status"}}}, Devices: []string{outlet},
		Secrets: filepath.Join(dir, "secrets"), Store: w.store, Acts: w.acts, Plug: func(machine string) bool { return machine == "socket" }, Out: w.send, Clock: w.now, Log: zap.New(core)}
}

func (w *world) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	ready := make(chan struct{})
	go func() { _ = w.Run(ctx, func() { close(ready) }); close(done) }()
	<-ready
	w.stop = func() { cancel(); <-done }
	w.t.Cleanup(func() { cancel(); <-done })
}

// restart is a power cut: nothing but the disk survives.
func (w *world) restart() {
	w.stop()
	old := w.Desk
	w.Desk = w.desk(filepath.Dir(old.Secrets), old.Senders[0].May...)
	w.Budget = old.Budget
	w.start()
}

func (w *world) now() (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.clock), !w.unsure
}

func (w *world) send(_ context.Context, number, text string, _ time.Duration) (Result, error) {
	w.mu.Lock()
	r, takes := w.result, w.takes
	w.mu.Unlock()
	time.Sleep(takes)
	if r == ResultFailed {
		return r, errors.New("no network")
	}
	w.out <- sent{number, text}
	if r != "" {
		return r, errors.New("the modem does not answer")
	}
	return ResultSent, nil
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// code is the next of the phone's.
func (w *world) code() string {
	w.counter++
	return hotp(w.secret, w.counter-1)
}

func (w *world) text(s string) { w.Received(w.message(s)) }

func (w *world) message(s string) Message {
	now, _ := w.now()
	return Message{From: admin, Numeric: true, Time: now.Truncate(time.Second), Text: s, Parts: 1}
}

// answer waits for the next message to the admin, and for the words in it.
func (w *world) answer(want string) string {
	w.t.Helper()
	select {
	case s := <-w.out:
		if s.number != admin || !strings.Contains(s.text, want) || !strings.Contains(s.text, "kazan-2") {
			w.t.Errorf("said %q to %s, want %q", s.text, s.number, want)
		}
		if n, gsm := places(s.text); parts(s.text) != 1 || !gsm {
			w.t.Errorf("%q has %d places", s.text, n)
		}
		return s.text
	case <-time.After(30 * time.Second):
		w.t.Fatalf("no answer, want %q", want)
		return ""
	}
}

// silent has a command answered, before which nothing else is.
func (w *world) silent() {
	w.t.Helper()
	w.text("status " + w.code())
	w.answer("all is well")
}

// Some networks tell a sender without its plus, or as it is dialled within the country; the answer goes to the number of the
// file.
func TestNumberWithoutItsCountry(t *testing.T) {
	w := newWorld(t, "all")
	for _, from := range []string{admin, admin[1:], admin[2:]} {
		m := w.message("status " + w.code())
		m.From = from
		w.Received(m)
		w.answer("all is well")
	}
	w.stop()
	w.Desk = w.desk(filepath.Dir(w.Secrets), "all")
	w.Senders = append(w.Senders, Sender{"+1" + admin[2:], []string{"status"}}) // of another country
	w.start()
	m := w.message("status " + w.code())
	m.From = admin[2:]
	w.Received(m)
	if c := w.List()[0]; c.Error != Stranger {
		t.Errorf("a number that two have is one's: %+v", c)
	}
}

func TestOrders(t *testing.T) {
	w := newWorld(t, "all")
	for text, want := range map[string]string{
		"boot srv01 dart %s":             "boot srv01 dart",
		"Boot Srv01 DaRT. %s":            "boot srv01 dart",
		"%s power srv01 on":              "power srv01 on",
		"boot srv01 20240101 %s":         "boot srv01 20240101", // an image's name, and no code
		"link lte %s":                    "link lte",
		"link wan %s":                    "link wan",
		"VPN up %s":                      "vpn",
		"reset  modem\n%s\n":             "reset",
		"Загрузить srv01 rescue %s":      "boot srv01 rescue",
		"питание ѕrv02 вкл %s":           "power srv02 on", // a Cyrillic ѕ
		"сброс модем %s":                 "reset",
		"\u200eboot\u00a0srv–01 dart %s": "boot srv-01 dart",
	} {
		w.text(fmt.Sprintf(text, w.code()))
		w.answer(": " + want + ": done")
		if list := w.acts.list(); list[len(list)-1] != want {
			t.Errorf("%q does %q, want %q", text, list[len(list)-1], want)
		}
	}
	c := w.code()
	w.text("boot srv01 20240102 " + c[:4] + " " + c[4:])
	w.answer(": boot srv01 20240102: done")
	w.text("ticket srv01 " + w.code())
	w.answer("srv01 123-456-789 192.168.77.100:3389")
	w.text("? " + w.code())
	w.answer("status; boot MACHINE IMAGE; power")
	code := w.code()
	w.text("Status " + code[:4] + " " + code[4:])
	w.answer("all is well")
	for _, text := range w.List() {
		if strings.Contains(text.Text, "123-456") {
			t.Errorf("the ticket's code is kept: %+v", text)
		}
	}
}

func TestProvenButWrong(t *testing.T) {
	w := newWorld(t, "status", "boot srv01", "power")
	for text, want := range map[string]string{
		"boot srv02 dart %s":     "this number may not boot srv02 dart",
		"link lte %s":            "this number may not link lte",
		"boot srv01 %s":          "write it as: boot MACHINE IMAGE",
		"power srv01 explode %s": "write it as: power MACHINE on/off/cycle/status",
		"make coffee %s":         `no command "make"`,
		"%s":                     "no command",
	} {
		w.text(fmt.Sprintf(text, w.code()))
		w.answer(want)
	}
	if list := w.acts.list(); len(list) != 0 {
		t.Errorf("done: %q", list)
	}
	w.text("help " + w.code())
	if said := w.answer("boot MACHINE IMAGE"); strings.Contains(said, "link") {
		t.Errorf("the help names what it may not: %q", said)
	}
}

func TestTwoSteps(t *testing.T) {
	w := newWorld(t, "all")
	ask := func(text string) string {
		t.Helper()
		w.text(text + " " + w.code())
		said := w.answer("To do it send")
		_, rest, _ := strings.Cut(said, "yes ")
		return rest[:3]
	}
	n := ask("power srv01 cycle")
	if len(w.acts.list()) != 0 {
		t.Fatal("done without a yes")
	}
	w.text("yes " + n) // without a code
	w.answer("ends with the next code")
	w.text("yes 99 " + w.code())
	w.answer("nothing waits for yes 99")
	w.text("yes " + n + " " + w.code())
	w.answer("power srv01 cycle: done")
	w.text("yes " + n + " " + w.code())
	w.answer("nothing waits for yes " + n)
	n = ask("power srv01 off")
	w.text("да " + n + " " + w.code())
	w.answer("power srv01 off: done")
	w.text("power srv01 status " + w.code())
	w.answer("power srv01 status: done")

	n = ask("boot socket dart")
	if list := w.acts.list(); slices.Contains(list, "boot socket dart") {
		t.Errorf("a plug was pulled without a yes: %q", list)
	}
	w.text("yes " + n + " " + w.code())
	w.answer("boot socket dart: done")

	w.set(func() { w.unsure = true })
	n = ask("boot srv01 dart")
	w.text("yes " + n + " " + w.code())
	if said := w.answer("boot srv01 dart: done"); !strings.HasPrefix(said, "clock not set") {
		t.Errorf("an answer of a box without a clock has a time: %q", said)
	}
	w.text("reset modem " + w.code())
	w.answer("reset: done")
	m := w.message("power srv01 on " + w.code()) // the service centre's zone is wrong: nobody knows how late it is
	w.set(func() { w.unsure = false })
	m.Time = m.Time.Add(3 * time.Hour)
	w.Received(m)
	w.answer("To do it send")
	want := []string{"power srv01 cycle", "power srv01 off", "power srv01 status", "boot socket dart", "boot srv01 dart", "reset"}
	if got := w.acts.list(); !slices.Equal(got, want) {
		t.Errorf("done %q, want %q", got, want)
	}
}

// Whoever is not in the file hears nothing, whatever he says.
func TestSilence(t *testing.T) {
	w := newWorld(t, "all")
	right := w.code()
	for _, m := range []Message{
		{From: "+79169999999", Numeric: true, Text: "status " + right},
		{From: "Beeline", Text: "boot srv01 dart " + right},
		{From: admin, Text: "boot srv01 dart " + right},                    // a name of digits
		{From: admin[7:], Numeric: true, Text: "boot srv01 dart " + right}, // too short for his
		{From: second, Numeric: true, Text: "status " + right},             // not enrolled
		{From: outlet, Numeric: true, Text: "boot srv01 dart " + right},    // a device never orders
		{From: outlet[2:], Numeric: true, Text: "boot srv01 dart " + right},
		{From: "", Text: "0791", Binary: true},
	} {
		m.Time = time.Now()
		w.Received(m)
	}
	w.silent()
	if list := w.acts.list(); len(list) != 0 {
		t.Errorf("done: %q", list)
	}
	for _, text := range w.List() {
		if strings.Contains(text.Text, right) {
			t.Errorf("a code that opens is kept: %+v", text)
		}
	}
}

func TestForm(t *testing.T) {
	w := newWorld(t, "all")
	for what, change := range map[string]func(*Message){
		"one plain message":      func(m *Message) { m.Parts = 2 },
		"one plain":              func(m *Message) { m.Class0 = true },
		"at most 160 characters": func(m *Message) { m.Text = strings.Repeat("x", 150) + " " + m.Text }, // parts that somebody else joined
	} {
		w := newWorld(t, "all")
		m := w.message("vpn up " + w.code())
		change(&m)
		w.Received(m)
		w.answer(what)
		if len(w.acts.list()) != 0 {
			t.Errorf("%s: done", what)
		}
	}
	// The same code in a good message counts: what was refused by its form used nothing up.
	m := w.message("vpn up " + w.code())
	m.Binary = true
	w.Received(m)
	w.answer("one plain message")
	m.Binary, m.Time = false, m.Time.Add(-59*time.Minute)
	w.Received(m)
	w.answer("vpn: done")
}

// What took hours to come may be an order of then, or the service centre tells the time of another zone: what changes
// something is asked back.
func TestLate(t *testing.T) {
	w := newWorld(t, "all")
	late := func(s string) {
		m := w.message(s + " " + w.code())
		m.Time = m.Time.Add(-5 * time.Hour)
		w.Received(m)
	}
	late("status")
	w.answer("all is well")
	for _, order := range []string{"vpn up", "link lte", "reset modem", "boot srv01 dart", "power srv01 on"} {
		late(order)
		said := w.answer(order + " took 5h0m0s to come")
		done := len(w.acts.list())
		_, rest, _ := strings.Cut(said, "yes ")
		n, _, _ := strings.Cut(rest, " ")
		late("yes " + n)
		w.answer(": done")
		if got := w.acts.list(); len(got) != done+1 {
			t.Errorf("done %q", got)
		}
	}
}

func TestReplay(t *testing.T) {
	w := newWorld(t, "all")
	m := w.message("vpn up " + w.code())
	for range 3 { // the network hands it over again and again
		w.Received(m)
	}
	w.answer("vpn: done")
	later := m
	later.Time = m.Time.Add(time.Second)
	w.Received(later)
	w.answer("this code was used")
	w.restart()
	w.Received(m)
	later.Time = m.Time.Add(2 * time.Second)
	w.Received(later)
	w.answer("this code was used")
	w.silent()
	if got := w.acts.list(); len(got) != 1 {
		t.Errorf("done %q", got)
	}
}

// After five wrong codes one code opens nothing for an hour, over restarts; two in a row do.
func TestLockout(t *testing.T) {
	w := newWorld(t, "all")
	for i := range 20 {
		w.text(fmt.Sprintf("vpn up 0000%04d", i))
	}
	w.answer("wrong code")
	w.answer("wrong code")
	writes := w.store.writes()
	w.restart()
	w.text("vpn up " + w.code()) // right, and locked; refusals are used up
	w.answer("write two codes, one after the other")
	if s := w.Status(); !s.Numbers[0].Locked || !s.Numbers[0].Enrolled {
		t.Errorf("not locked: %+v", s)
	}
	one, two := w.code(), w.code()
	w.text("vpn up " + one + " " + two)
	w.answer("vpn: done")
	if writes > 60 {
		t.Errorf("%d writes for 20 wrong codes", writes)
	}
	w.silent()

	for i := range 5 {
		w.text(fmt.Sprintf("vpn up 1111%04d", i))
	}
	w.text("vpn up " + w.code())
	w.set(func() { w.clock = 61 * time.Minute })
	w.silent()
	if got := w.acts.list(); len(got) != 1 {
		t.Errorf("done %q", got)
	}
}

// The phone went far ahead: two codes in a row find it again.
func TestResync(t *testing.T) {
	w := newWorld(t, "all")
	w.counter = 150
	w.text("vpn up " + w.code())
	w.answer("wrong code")
	w.text("vpn up " + w.code() + " " + w.code())
	w.answer("vpn: done")
	w.silent()
}

func TestEnrollAgain(t *testing.T) {
	w := newWorld(t, "all")
	w.silent()
	if _, err := w.Enroll("+7 916 000-00-01"); !errors.Is(err, ErrNoSender) {
		t.Errorf("a stranger is enrolled: %v", err)
	}
	uri, err := w.Enroll(admin)
	if err != nil || uri == w.uri {
		t.Fatalf("%s, %v", uri, err)
	}
	w.text("status " + w.code())
	w.answer("wrong code")
	w.uri, w.secret, w.counter = uri, secretOf(t, uri), 0
	w.restart()
	w.silent()
	if err := w.Forget(admin); err != nil {
		t.Fatal(err)
	}
	w.text("status " + w.code())
	w.restart()
	w.text("status " + w.code())
	if s := w.Status(); s.Numbers[0].Enrolled || s.Spent != 3 {
		t.Errorf("%+v", s)
	}
}

// The secret is in one file that only we read, and nowhere else.
func TestSecret(t *testing.T) {
	w := newWorld(t, "all")
	w.silent()
	w.text("status 00000000")
	w.answer("wrong code")
	dir, err := os.ReadDir(w.Secrets)
	if err != nil || len(dir) != 1 {
		t.Fatalf("%v, %v", dir, err)
	}
	info, err := dir[0].Info()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	texts, _ := w.store.All()
	where := fmt.Sprintf("%+v %+v", texts, w.logs.All())
	for _, secret := range []string{string(w.secret), w.uri[strings.Index(w.uri, "secret=")+7:][:20], hotp(w.secret, 0), "00000000"} {
		if strings.Contains(where, secret) {
			t.Errorf("%q stands in the state or the log: %s", secret, where)
		}
	}
	// One that is damaged is not used, and says what to do, without what is in it.
	if err := os.WriteFile(recordFile(w.Secrets, admin), []byte(`{"secret":"dG9vIHNob3J0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.text("status " + w.code())
	if w.Status().Numbers[0].Enrolled || w.logs.FilterMessageSnippet("cannot order").Len() != 1 || strings.Contains(fmt.Sprint(w.logs.All()), "dG9v") {
		t.Errorf("%v", w.logs.All())
	}
}

// A disk that takes nothing: no code is used, and nothing done.
func TestDiskFull(t *testing.T) {
	w := newWorld(t, "all")
	file := recordFile(w.Secrets, admin) + ".new"
	if err := os.Mkdir(file, 0o700); err != nil { // what is to be written there cannot
		t.Fatal(err)
	}
	w.store.mu.Lock()
	w.store.fail = errors.New("no space left on device")
	w.store.mu.Unlock()
	code := w.code()
	w.text("vpn up " + code)
	w.answer("cannot write to its disk")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	m := w.message("vpn up " + code)
	m.Time = m.Time.Add(time.Second)
	w.Received(m)
	w.answer("vpn: done")
	if got := w.acts.list(); len(got) != 1 {
		t.Errorf("done %q", got)
	}
}

// Wrong codes of all numbers together lock all of them, so that many numbers give no more guesses than one.
func TestLockoutInAll(t *testing.T) {
	w := newWorld(t, "all")
	if _, err := w.Enroll(second); err != nil {
		t.Fatal(err)
	}
	for i := range maxBad {
		m := w.message(fmt.Sprintf("status 0000%04d", i))
		if i%2 == 0 {
			m.From = second
		}
		w.Received(m)
	}
	for _, n := range w.Status().Numbers {
		if !n.Locked {
			t.Errorf("%s is not locked", n.Number)
		}
	}
	w.text("vpn up " + w.code())
	w.text("vpn up " + w.code() + " " + w.code())
	for !strings.Contains((<-w.out).text, "vpn: done") { // refusals before
	}
	if got := w.acts.list(); len(got) != 1 {
		t.Errorf("done %q", got)
	}
}

// A machine whose switch takes its minutes keeps nothing else back: not the way in, not other machines, not a look.
// What is ordered for itself is done in order.
func TestLanes(t *testing.T) {
	w := newWorld(t, "all")
	w.acts.hold, w.acts.slow = make(chan struct{}), "power srv01"
	w.text("power srv01 on " + w.code())
	w.text("power srv01 status " + w.code())
	w.text("boot srv01 dart " + w.code())
	w.text("link lte " + w.code())
	w.answer("link lte: done")
	w.text("boot srv02 dart " + w.code())
	w.answer("boot srv02 dart: done")
	w.silent()
	if done := w.acts.list(); !slices.Equal(done, []string{"link lte", "boot srv02 dart"}) {
		t.Errorf("done was %q", done)
	}
	close(w.acts.hold)
	for range 3 {
		w.answer("done")
	}
	if done := w.acts.list(); slices.Index(done, "power srv01 on") > slices.Index(done, "boot srv01 dart") {
		t.Errorf("out of order: %q", done)
	}
}

// Orders that wait are few, and what is too many is said to be.
func TestManyWait(t *testing.T) {
	w := newWorld(t, "all")
	w.acts.hold = make(chan struct{})
	for range maxJobs {
		w.text("link wan " + w.code())
	}
	w.text("link lte " + w.code())
	w.answer("too many commands wait")
	close(w.acts.hold)
	for range maxJobs {
		w.answer("link wan: done")
	}
	w.text("link lte " + w.code())
	w.answer("link lte: done")
}

// While single codes open nothing, whose code is right is told so: the refusals are the forger's by then. Once.
func TestLockoutIsTold(t *testing.T) {
	w := newWorld(t, "all")
	for i := range maxBad {
		w.text(fmt.Sprintf("status 1234567%d", i))
	}
	for range 2 {
		w.answer("wrong code")
	}
	code := w.code()
	w.text("link lte " + code)
	w.answer("write two codes, one after the other")
	w.text("link wan " + code)
	w.text("link wan 87654321")
	w.text("status " + code + " " + w.code())
	w.answer("all is well")
	if done := w.acts.list(); len(done) != 0 {
		t.Errorf("done: %q", done)
	}
}
