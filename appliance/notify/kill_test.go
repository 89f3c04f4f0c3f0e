package notify

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rescuebox/appliance/state"
)

const (
	killMark   = "RESCUEBOX_TEST_NOTIFY" // the child's state file, and the receiver's URL
	killNews   = 20
	killRounds = 12
)

// killChild is a daemon: it puts all the news there is, as agents that retry do, and tells it.
func killChild(t *testing.T, file, url string) {
	db, err := state.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	o := &Outbox{Store: state.NewTable[Entry](db, "outbox", state.Durable), Targets: []Target{
		{Name: "one", Sender: &Webhook{URL: url + "/one"}}, {Name: "two", Sender: &Webhook{URL: url + "/two"}}}}
	go o.Run(context.Background(), func() {})
	for i := range killNews {
		if err := o.Put(news(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for {
		open := 0
		for _, e := range o.List() {
			for _, d := range e.Deliveries {
				if d.State.Open() {
					open++
				}
				if d.Doubt && d.State == Sent {
					fmt.Printf("doubt %s %s\n", letterID(e.ID, d.Target, (&Webhook{}).Addresses()[0]), d.Target)
				}
			}
		}
		if open == 0 {
			fmt.Println("all told")
			os.Exit(0)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestKill kills the daemon at any moment, again and again, with a real store and a real receiver:
// everything arrives at each address; what arrives twice has the same id, and the outbox
// says so of it.
func TestKill(t *testing.T) {
	if mark := os.Getenv(killMark); mark != "" {
		file, url, _ := strings.Cut(mark, " ")
		killChild(t, file, url)
	}
	var mu sync.Mutex
	got := map[string]int{} // by address and id
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		mu.Lock()
		got[r.URL.Path+" "+r.Header.Get("Webhook-Id")]++
		mu.Unlock()
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // the moment that nobody can know about
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "state.db")
	out := ""
	for round := 0; !strings.Contains(out, "all told"); round++ {
		if round > 100 {
			t.Fatal("it is never done")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), killMark+"="+file+" "+srv.URL)
		var text strings.Builder
		cmd.Stdout, cmd.Stderr = &text, &text
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var timer *time.Timer
		if round < killRounds {
			timer = time.AfterFunc(time.Duration(rand.IntN(400))*time.Millisecond, func() { cmd.Process.Kill() })
		}
		err := cmd.Wait()
		if timer != nil {
			timer.Stop()
		}
		out = text.String()
		if err != nil && !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%v: %s", err, out)
		}
	}
	doubles := 0
	for which, n := range got {
		_, id, _ := strings.Cut(which, " ")
		if n > 1 {
			doubles++
			if !strings.Contains(out, "doubt "+id) {
				t.Errorf("%s arrived %d times, and the outbox does not know", which, n)
			}
		}
	}
	if len(got) != 2*killNews {
		t.Errorf("%d letters arrived, want %d", len(got), 2*killNews)
	}
	t.Logf("%d letters arrived, %d of them twice, each known to the outbox", len(got), doubles)
}
