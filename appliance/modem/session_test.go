package modem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warthog618/modem/at"
	"go.uber.org/zap"

	"rescuebox/appliance/modem/modemtest"
)

// openFake is a session on the fake, without its initialisation.
func openFake(t *testing.T, fake *modemtest.Modem, onURC func(string)) *session {
	t.Helper()
	p, err := openTTY(fake.Path, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(p, fake.Path, zap.NewNop(), onURC)
	t.Cleanup(s.close)
	return s
}

func ask(t *testing.T, s *session, cmd, prefix string) []string {
	t.Helper()
	lines, err := s.command(t.Context(), cmd, prefix, 30*time.Second)
	if err != nil {
		t.Fatalf("AT%s: %v", cmd, err)
	}
	return lines
}

// held has the answer to a command come when the test says so: no clock tells which of two was first on a machine that
// stood still.
func held(t *testing.T, fake *modemtest.Modem, cmd string) (answer func()) {
	t.Helper()
	said := make(chan struct{})
	answer = sync.OnceFunc(func() { close(said) })
	t.Cleanup(answer) // before the fake is closed, which waits for it
	fake.Fault(cmd, modemtest.Answer{Times: 1, Do: func() { <-said }})
	return answer
}

func TestCommand(t *testing.T) {
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	if got := ask(t, s, "+CSQ", "+CSQ"); len(got) != 1 || got[0] != "20,99" {
		t.Errorf("+CSQ answers %q", got)
	}
	if got := ask(t, s, "+CGMI", ""); len(got) != 1 || got[0] != "Fake" {
		t.Errorf("+CGMI answers %q: is the echo left in?", got)
	}
	fake.Fault("+CIMI", modemtest.Answer{Lines: []string{}, Result: "+CME ERROR: 13"})
	_, err := s.command(t.Context(), "+CIMI", "", 30*time.Second)
	var cme at.CMEError
	if !errors.As(err, &cme) || cme != "13" || isUnknown(err) || !isRefusal(err) {
		t.Errorf("an error of the modem comes as %v", err)
	}
}

// A port that was closed can be had at once, though a process that starts just now has it still: a fork of ours has all
// that we had open until it is the other program, which on a busy machine takes its time.
func TestClosedPortIsFree(t *testing.T) {
	fake := modemtest.Start(t)
	p, err := openTTY(fake.Path, 0)
	if err != nil {
		t.Fatal(err)
	}
	forked, err := syscall.Dup(int(p.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(forked)
	p.Close()
	again, err := openTTY(fake.Path, 0)
	if err != nil {
		t.Fatalf("after it was closed: %v", err)
	}
	again.Close()
}

// A pty that nobody made raw echoes the modem's words back to it, and ends lines otherwise.
func TestCookedTTY(t *testing.T) {
	fake := modemtest.New()
	fake.Cooked = true
	if err := fake.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	s := openFake(t, fake, nil)
	for range 5 {
		if got := ask(t, s, "+CSQ", "+CSQ"); len(got) != 1 {
			t.Errorf("+CSQ answers %q", got)
		}
	}
	for _, cmd := range fake.Log() {
		if cmd != "+CSQ" {
			t.Errorf("the modem heard %q", cmd)
		}
	}
}

func TestResyncAfterTimeout(t *testing.T) {
	t.Parallel()
	for _, late := range []string{"+COPS?", "+CSQ", "+CFUN?"} {
		t.Run(late, func(t *testing.T) {
			fake := modemtest.Start(t)
			s := openFake(t, fake, nil)
			ask(t, s, "E0", "")
			answer := held(t, fake, late)
			_, err := s.command(t.Context(), late, strings.TrimSuffix(late, "?"), 200*time.Millisecond)
			if !isUnknown(err) {
				t.Fatalf("a late answer comes as %v", err)
			}
			time.AfterFunc(1300*time.Millisecond, answer)
			// The late answer is on its way. Each of these must get its own.
			for i := range 3 {
				if got := ask(t, s, "+CREG?", "+CREG"); len(got) != 1 || got[0] != "0,1" {
					t.Errorf("round %d: +CREG? answers %q", i, got)
				}
				if got := ask(t, s, "+CGMM", ""); len(got) != 1 || got[0] != "F1" {
					t.Errorf("round %d: +CGMM answers %q", i, got)
				}
			}
		})
	}
}

func TestUnsolicitedInsideAnAnswer(t *testing.T) {
	fake := modemtest.Start(t)
	var mu sync.Mutex
	var news []string
	s := openFake(t, fake, func(line string) {
		mu.Lock()
		defer mu.Unlock()
		news = append(news, line)
	})
	ask(t, s, "E0", "")
	inside := []string{"RING", "NO CARRIER", `+CMTI: "SM",3`, "+CREG: 5", "^RSSI:20", "+CMT: ,25", "07919761989901F0040B919761000000F000", "+CREG: 1"}
	fake.Fault("+CSQ", modemtest.Answer{Inside: inside})
	fake.Fault("+CGMM", modemtest.Answer{Inside: inside})
	if got := ask(t, s, "+CSQ", "+CSQ"); len(got) != 1 || got[0] != "20,99" {
		t.Errorf("+CSQ answers %q", got)
	}
	if got := ask(t, s, "+CGMM", ""); len(got) != 1 || got[0] != "F1" {
		t.Errorf("+CGMM answers %q", got)
	}
	// The header of a pushed message whose PDU is lost must not take the line after it, and what nobody ever heard of is news.
	fake.Fault("+CSQ", modemtest.Answer{Inside: []string{"^NEVERHEARDOF: 1", "+CMT: ,25"}})
	if got := ask(t, s, "+CSQ", "+CSQ"); len(got) != 1 || got[0] != "20,99" {
		t.Errorf("+CSQ answers %q", got)
	}
	inside = append(inside, "^NEVERHEARDOF: 1", "+CMT: ,25")
	mu.Lock()
	defer mu.Unlock()
	once := slices.DeleteFunc(slices.Clone(inside), isHex)
	if want := append(slices.Clone(once[:len(once)-2]), once...); !slices.Equal(news, want) {
		t.Errorf("news %q, want %q in their order", news, want)
	}
	for what, c := range map[string]chan struct{}{"text": s.arrived, "bearer": s.bearer, "network": s.network} {
		if len(c) != 1 {
			t.Errorf("the news of the %s was not passed on", what)
		}
	}
}

// The news of the registration looks like the answer to the question for it.
func TestRegistrationNewsInsideItsAnswer(t *testing.T) {
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	ask(t, s, "E0", "")
	fake.Fault("+CREG?", modemtest.Answer{Inside: []string{"+CREG: 5", `+CREG: 5,"00C3","01A2B3C4",7`}})
	n, err := askNetwork(t.Context(), s)
	if err != nil || n.circuit != home || n.roams() {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestModemThatDoesNotRead(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	ask(t, s, "E0", "")
	fake.Stall(true)
	begin := time.Now()
	// More than the kernel keeps for a reader: the write blocks.
	_, err := s.command(t.Context(), "+X="+strings.Repeat("x", 1<<20), "", time.Minute)
	if err == nil {
		t.Fatal("a modem that does not read took a command")
	}
	select {
	case <-s.closed():
	case <-time.After(40 * time.Second):
		t.Fatalf("the session lasts: %v", err)
	}
	if since := time.Since(begin); since > 45*time.Second {
		t.Errorf("it took %s", since)
	}
}

func TestHungModem(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	ask(t, s, "E0", "")
	fake.Hang(true)
	begin := time.Now()
	_, err := s.command(t.Context(), "+CSQ", "+CSQ", time.Second)
	if !isUnknown(err) {
		t.Errorf("the first command: %v", err)
	}
	_, err = s.command(t.Context(), "+CSQ", "+CSQ", time.Second)
	if err == nil || isUnknown(err) {
		t.Errorf("the second command was not sent, yet its error is %v", err)
	}
	if !errors.Is(s.err(), errMute) {
		t.Errorf("the session ended by %v", s.err())
	}
	if since := time.Since(begin); since > 40*time.Second {
		t.Errorf("it took %s", since)
	}
}

func TestBabble(t *testing.T) { // alone: it measures the memory of the process
	fake := modemtest.Start(t)
	var mu sync.Mutex
	longest, count := 0, 0
	s := openFake(t, fake, func(line string) {
		mu.Lock()
		defer mu.Unlock()
		longest, count = max(longest, len(line)), count+1
	})
	ask(t, s, "E0", "")
	fake.Noise(bytes.Repeat([]byte("x"), 200<<10)) // one line, three times as long as ends the library
	fake.Noise([]byte("\r\n"))
	if got := ask(t, s, "+CSQ", "+CSQ"); len(got) != 1 {
		t.Errorf("after a line of 200 KiB +CSQ answers %q", got)
	}
	mu.Lock()
	if longest > maxLine || count > 0 {
		t.Errorf("a line of %d bytes was passed on", longest)
	}
	mu.Unlock()

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { // as fast as the pty takes it
		for ctx.Err() == nil {
			fake.Noise([]byte(strings.Repeat("+BABBLE: 1,2,3\r\nblah\r\n", 100)))
		}
	})
	defer wg.Wait()
	defer fake.Unplug()
	defer stop()
	for begin := time.Now(); !s.wire.babbling(); {
		if time.Since(begin) > 30*time.Second {
			t.Fatal("a modem that babbles is not told from others")
		}
		time.Sleep(50 * time.Millisecond)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 3 {
		// All lines wanted: the answer is bounded, and ends by its time-out or by the OK in the noise.
		lines, _ := s.command(t.Context(), "+CGMM", "", time.Second)
		size := 0
		for _, line := range lines {
			size += len(line)
		}
		if size > maxAnswer {
			t.Errorf("an answer of %d bytes", size)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("%d bytes more in memory", grown)
	}
}

func TestAnswerIsBounded(t *testing.T) {
	t.Parallel()
	w := newWire(tape{}, func(string) {})
	w.begin("+CGMM", "", false)
	for range 4 * maxAnswer / 64 {
		w.take([]byte(strings.Repeat("y", 62) + "\r\n"))
	}
	if len(w.out) > maxAnswer+maxAnswer/16 || len(w.out) < maxAnswer/2 {
		t.Errorf("an answer of %d bytes is passed on", len(w.out))
	}
	before := len(w.out)
	if w.take([]byte("OK\r\n")); len(w.out) == before {
		t.Error("its end is not")
	}
}

func TestUnplugEndsCommands(t *testing.T) {
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	ask(t, s, "E0", "")
	fake.Fault("+COPS=?", modemtest.Answer{Hang: true})
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.command(t.Context(), "+COPS=?", "+COPS", 3*time.Minute) })
	}
	fake.Wait(t, "+COPS=?", func() bool { return fake.Count("+COPS=?") == 1 })
	begin := time.Now()
	fake.Unplug()
	wg.Wait()
	if since := time.Since(begin); since > 30*time.Second { // of three minutes
		t.Errorf("it took %s", since)
	}
	unknown := 0
	for _, err := range errs {
		if err == nil {
			t.Error("a command on a modem that is gone succeeded")
		}
		if isUnknown(err) {
			unknown++
		}
	}
	if unknown != 1 {
		t.Errorf("%d commands may have been done, want the one that was sent: %v", unknown, errs)
	}
}

// A text that the modem sent, and said so too late, is "unknown": it must not be sent again.
func TestLateMessageIsUnknown(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	ask(t, s, "E0", "")
	answer := held(t, fake, "+CMGS PDU")
	pdu := "00" + "01000B919761000000F0000002E834"
	_, err := s.prompt(t.Context(), fmt.Sprintf("+CMGS=%d", len(pdu)/2-1), pdu, "+CMGS", 10*time.Second) // for the prompt, too
	if !isUnknown(err) {
		t.Errorf("a late +CMGS comes as %v", err)
	}
	time.AfterFunc(2*time.Second, answer)
	if got := ask(t, s, "+CSQ", "+CSQ"); len(got) != 1 || got[0] != "20,99" {
		t.Errorf("after it +CSQ answers %q", got)
	}
	if sent := fake.Sent(); len(sent) != 1 || sent[0].Text != "hi" {
		t.Errorf("the modem sent %+v", sent)
	}
}

// A modem that did not even ask for the text, or went away before it did, certainly did not send it; what it says too late
// does no harm.
func TestNoPrompt(t *testing.T) {
	t.Parallel()
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	ask(t, s, "E0", "")
	fake.Fault("+CMGS=", modemtest.Answer{Hang: true})
	_, err := s.prompt(t.Context(), "+CMGS=14", "00", "+CMGS", time.Second)
	if err == nil || isUnknown(err) {
		t.Errorf("without a prompt: %v", err)
	}
	fake.Noise([]byte("\r\n> "))
	if got := ask(t, s, "+CSQ", "+CSQ"); len(got) != 1 || got[0] != "20,99" {
		t.Errorf("after it +CSQ answers %q", got)
	}
	failed := make(chan error)
	go func() {
		_, err := s.prompt(t.Context(), "+CMGS=14", "00", "+CMGS", sendAnswer)
		failed <- err
	}()
	fake.Wait(t, "the second", func() bool { return fake.Count("+CMGS=") == 2 })
	fake.Unplug()
	if err := <-failed; err == nil || isUnknown(err) {
		t.Errorf("gone before the prompt: %v", err)
	}
}

func TestStoreListed(t *testing.T) {
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	ask(t, s, "E0", "")
	for i := range 3 {
		if err := fake.Deliver("+79160000000", fmt.Sprint("Привет ", i)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.entries(t.Context(), "+CMGL=4", "+CMGL", 30*time.Second)
	if err != nil || len(list) != 3 {
		t.Fatalf("+CMGL lists %+v, %v", list, err)
	}
	for _, e := range list {
		if !isHex(e.pdu) || !strings.HasPrefix(e.header, fmt.Sprint(slices.Index(list, e)+1, ",")) {
			t.Errorf("entry %+v", e)
		}
	}
	// A header whose PDU is missing takes nothing of the next one.
	fake.Fault("+CMGL", modemtest.Answer{Lines: []string{"+CMGL: 1,1,,20", "+CMGL: 2,1,,20", "0011", "what is this", "+CMGL: 3,1,,20"}})
	list, err = s.entries(t.Context(), "+CMGL=4", "+CMGL", 30*time.Second)
	if want := []entry{{"1,1,,20", ""}, {"2,1,,20", "0011"}, {"3,1,,20", ""}}; err != nil || !slices.Equal(list, want) {
		t.Errorf("+CMGL lists %+v, %v", list, err)
	}
}

func TestPortErrors(t *testing.T) {
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	if _, err := openTTY(fake.Path, 0); err == nil || !strings.Contains(err.Error(), "ModemManager") {
		t.Errorf("a port in use: %v", err)
	}
	s.close()
	if _, err := openTTY("/dev/null", 0); err == nil || !strings.Contains(err.Error(), "no serial port") {
		t.Errorf("no port: %v", err)
	}
	if _, err := openTTY(t.TempDir()+"/none", 0); !errors.Is(err, errNoPort) {
		t.Errorf("an absent port: %v", err)
	}
}

func TestNoSecretInErrors(t *testing.T) {
	fake := modemtest.Start(t)
	s := openFake(t, fake, nil)
	fake.Fault("+CPIN=", modemtest.Answer{Lines: []string{}, Result: "+CME ERROR: 16"})
	if _, err := s.command(t.Context(), `+CPIN="4711"`, "", 30*time.Second); err == nil || strings.Contains(err.Error(), "4711") {
		t.Errorf("error %v", err)
	}
}

// Who still has the session when it is closed gets an error, and nothing begins any more.
func TestCommandsWhileItCloses(t *testing.T) {
	fake := modemtest.Start(t)
	for range 50 {
		p, err := openTTY(fake.Path, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := newSession(p, fake.Path, zap.NewNop(), nil)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for err := error(nil); err == nil; {
					_, err = s.command(context.Background(), "+CSQ", "+CSQ", time.Minute)
				}
			})
		}
		time.Sleep(time.Millisecond)
		s.close()
		wg.Wait()
	}
}

// goroutines of a session end with it.
func TestNoGoroutineLeft(t *testing.T) {
	fake := modemtest.Start(t)
	before := runtime.NumGoroutine()
	for range 20 {
		p, err := openTTY(fake.Path, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := newSession(p, fake.Path, zap.NewNop(), nil)
		ask(t, s, "", "")
		s.close()
	}
	for end := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before+2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			os.Stderr.Write(buf[:runtime.Stack(buf, true)])
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
}
