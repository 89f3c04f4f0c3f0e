package text

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/state"
)

const (
	killMark   = "RESCUEBOX_TEST_TEXT" // the child's directory
	killOrders = 60
	killRounds = 40
)

// ledger is a file that outlives the child: a line for each thing that happened.
type ledger struct{ path string }

func (l ledger) add(line string) {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, line)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic(err)
	}
}

func (l ledger) lines() (list []string) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		list = append(list, s.Text())
	}
	return list
}

// slow takes its time over what it is told.
type slow struct {
	acts
	done ledger
}

func (s *slow) Link(_ context.Context, uplink string) (string, error) {
	time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
	s.done.add(uplink)
	time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
	return "by " + uplink, nil
}

// killChild is a daemon whose modem has all the messages in its store, and deletes each once it was
// received.
func killChild(t *testing.T, dir string) {
	db, err := state.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "messages"))
	if err != nil {
		t.Fatal(err)
	}
	var messages []Message
	if err := json.Unmarshal(text, &messages); err != nil {
		t.Fatal(err)
	}
	deleted, said := ledger{filepath.Join(dir, "deleted")}, ledger{filepath.Join(dir, "said")}
	answered := make(chan string, 1000)
	d := killDesk(dir, state.NewTable[Text](db, "texts", state.Durable))
	d.Acts = &slow{done: ledger{filepath.Join(dir, "done")}}
	d.Out = func(_ context.Context, _, text string, _ time.Duration) (Result, error) {
		said.add(text)
		answered <- text
		return ResultSent, nil
	}
	ready := make(chan struct{})
	go func() { _ = d.Run(context.Background(), func() { close(ready) }) }()
	<-ready
	for i := len(deleted.lines()); i < len(messages); i++ {
		d.Received(messages[i])
		deleted.add(strconv.Itoa(i))
		for waiting := true; waiting; {
			select {
			case a := <-answered:
				waiting = !strings.Contains(a, fmt.Sprintf("by u%d", i))
			case <-time.After(300 * time.Millisecond): // it was done in an earlier life
				waiting = false
			}
		}
	}
	for end := time.Now().Add(time.Minute); !idling(d); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what waits is not sent")
		}
	}
	fmt.Println("all done")
	os.Exit(0)
}

// idling reports whether nothing is being done or sent any more.
func idling(d *Desk) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.texts {
		if t.State == Waiting || t.State == Sending {
			return false
		}
	}
	return len(d.people[0].record.Doing) == 0
}

func killDesk(dir string, store Store) *Desk {
	return &Desk{Site: "kazan-2", Senders: []Sender{{admin, []string{"all"}}}, Secrets: filepath.Join(dir, "secrets"), Store: store, Budget: 10000}
}

// unknown is what was at the modem when the plug was pulled: it is not sent again, and the list of messages says so.
func unknown(t *testing.T, dir string) (list []string) {
	db, err := state.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	texts, err := state.NewTable[Text](db, "texts", state.Durable).All()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		if text.State == Unknown {
			list = append(list, text.Text)
		}
	}
	return list
}

// TestKill kills the daemon at any moment, again and again: between the message and its code's counter, the counter and the
// deed, the deed and its answer. Each order is done once at most; each that is not done is said to be
// interrupted; and every code counts once.
func TestKill(t *testing.T) {
	if dir := os.Getenv(killMark); dir != "" {
		killChild(t, dir)
	}
	dir := t.TempDir()
	uri, err := killDesk(dir, &table{all: map[string]Text{}}).Enroll(admin)
	if err != nil {
		t.Fatal(err)
	}
	var messages []Message
	for i := range killOrders {
		messages = append(messages, Message{From: admin, Numeric: true, Time: time.Now().Truncate(time.Second), Text: fmt.Sprintf("link u%d %s", i, hotp(secretOf(t, uri), uint64(i)))})
	}
	text, err := json.Marshal(messages)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "messages"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, kills := "", 0
	for round := 0; !strings.Contains(out, "all done"); round++ {
		if round > 200 {
			t.Fatal("it is never done")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), killMark+"="+dir)
		var b strings.Builder
		cmd.Stdout, cmd.Stderr = &b, &b
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var timer *time.Timer
		if round < killRounds {
			timer = time.AfterFunc(time.Duration(10+rand.IntN(80))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		err := cmd.Wait()
		if timer != nil {
			timer.Stop()
		}
		if out = b.String(); err != nil && !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%v: %s", err, out)
		} else if err != nil {
			kills++
		}
	}
	done := map[string]int{}
	for _, line := range (ledger{filepath.Join(dir, "done")}).lines() {
		done[line]++
	}
	said := strings.Join(append(ledger{filepath.Join(dir, "said")}.lines(), unknown(t, dir)...), "\n")
	interrupted := 0
	for i := range killOrders {
		u := fmt.Sprintf("u%d", i)
		told := strings.Contains(said, "restarted while it did: link "+u+".")
		if told {
			interrupted++
		}
		if done[u] > 1 {
			t.Errorf("order %d was done %d times", i, done[u])
		}
		if done[u] == 0 && !told {
			t.Errorf("order %d is lost, and nobody was told", i)
		}
		if done[u] == 1 && !told && !strings.Contains(said, "by "+u) {
			t.Errorf("order %d was done, and nobody was told", i)
		}
	}
	t.Logf("%d orders, %d kills: %d done, %d said to be interrupted", killOrders, kills, len(done), interrupted)
	r, err := readRecord(filepath.Join(dir, "secrets"), admin)
	if err != nil || r.Counter != killOrders || len(r.Doing) != 0 {
		t.Errorf("at last the counter is %d, doing %q: %v", r.Counter, r.Doing, err)
	}
}
