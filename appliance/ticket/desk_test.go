package ticket

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// disk is a store whose Put can be told to fail. It keeps JSON, as state does.
type disk struct {
	mu   sync.Mutex
	docs map[string][]byte
	puts []Ticket
	full bool
}

func (d *disk) Put(key string, t Ticket) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return errors.New("no space left on device")
	}
	doc, err := json.Marshal(t)
	if err != nil {
		return err
	}
	d.docs[key] = doc
	d.puts = append(d.puts, t)
	return nil
}

func (d *disk) Delete(key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.docs, key)
	return nil
}

func (d *disk) All() (list []Ticket, err error) {
	for _, key := range slices.Sorted(maps.Keys(d.docs)) {
		var t Ticket
		if err := json.Unmarshal(d.docs[key], &t); err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

// bench is a desk with all that it hands on.
type bench struct {
	*Desk
	disk  *disk
	told  []Ticket
	fail  error // of Announce
	lines *observer.ObservedLogs
}

func newBench(d *disk) *bench {
	core, lines := observer.New(zap.DebugLevel)
	b := &bench{disk: d, lines: lines}
	b.Desk = &Desk{LAN: netip.MustParsePrefix("192.168.77.0/24"), Store: d, Log: zap.New(core)}
	b.Announce = func(t Ticket) error {
		if got, err := b.Get(t.ID); err != nil || got.Problem != t.Problem {
			return fmt.Errorf("announced before it is there: %v", err)
		}
		b.told = append(b.told, t)
		return b.fail
	}
	return b
}

var srv01 = netip.MustParseAddr("192.168.77.100")

// must reports for srv01 and order 0badcafe with its token.
func (b *bench) must(t *testing.T, raw []byte) Ticket {
	t.Helper()
	tk, err := b.Report("srv01", "0badcafe", true, srv01, raw)
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

func TestReport(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	raw := report(t, nil)
	tk := b.must(t, raw)
	if tk.Machine != "srv01" || tk.Order != "0badcafe" || !tk.Verified || tk.Address != srv01 || tk.Problem != "" || tk.Serial != "CZ1234" || Command(tk) == "" {
		t.Errorf("ticket %+v", tk)
	}
	first := b.disk.puts[0]
	if string(first.Raw) != string(raw) || first.User != "" {
		t.Errorf("stored first: %+v, want the raw report unread", first)
	}

	// The agent retries; then an address changes; the daemon restarts; the agent retries.
	for range 3 {
		b.must(t, raw)
	}
	// A retry may leave the machine by another of its interfaces.
	if _, err := b.Report("srv01", "0badcafe", true, netip.MustParseAddr("10.9.9.9"), raw); err != nil {
		t.Error(err)
	}
	if len(b.told) != 1 {
		t.Errorf("one report retried was announced %d times", len(b.told))
	}
	moved := report(t, map[string]any{"addresses": []string{"192.168.77.120"}, "port": 2222})
	again := b.must(t, moved)
	if again.ID != tk.ID || again.Port != 2222 || !again.Created.Equal(tk.Created) || len(b.told) != 2 {
		t.Errorf("changed report: %+v, announced %d times", again, len(b.told))
	}
	b = newBench(b.disk)
	if after := b.must(t, moved); after.ID != tk.ID || len(b.told) != 0 || len(b.List("")) != 1 {
		t.Errorf("after a restart: %+v, announced %d times, tickets %d", after, len(b.told), len(b.List("")))
	}
	if got, err := b.Get(tk.ID); err != nil || got.Port != 2222 {
		t.Errorf("Get: %+v, %v", got, err)
	}
	if _, err := b.Get("nobody"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Get of nobody: %v", err)
	}
}

func TestReportUnreadable(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	tk := b.must(t, []byte("118-497-589 is no report"))
	if tk.Problem == "" || tk.Address != srv01 || string(tk.Raw) != "118-497-589 is no report" || len(b.told) != 1 || b.told[0].Problem == "" {
		t.Errorf("ticket %+v, announced %+v", tk, b.told)
	}
	b.must(t, report(t, nil))
	tk = b.must(t, []byte("{}"))
	if tk.Problem == "" || Command(tk) == "" {
		t.Errorf("what was known before is gone: %+v", tk)
	}
	for _, e := range b.lines.All() {
		if text := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(text, "118-497") || strings.Contains(text, "CZ1234") {
			t.Errorf("a report's content is in the log: %s", text)
		}
	}
	if _, err := b.Report("srv01", "x", true, srv01, make([]byte, MaxReport+1)); err == nil {
		t.Error("a report without end was taken")
	}
}

// TestReportCrash: the daemon dies between storing the raw report and reading
// it; the agent, who got no answer, sends it again.
func TestReportCrash(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	b.must(t, report(t, nil))
	left := b.disk.puts[0]
	b = newBench(&disk{docs: map[string][]byte{}})
	if err := b.disk.Put(left.ID, left); err != nil {
		t.Fatal(err)
	}
	if tk := b.must(t, report(t, nil)); tk.User != "root" || tk.Problem != "" || len(b.told) != 1 {
		t.Errorf("ticket %+v, announced %d times", tk, len(b.told))
	}
}

func TestReportFullDisk(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}, full: true})
	raw := report(t, nil)
	for range 2 {
		tk, err := b.Report("srv01", "0badcafe", true, srv01, raw)
		if err == nil || Command(tk) == "" {
			t.Errorf("ticket %+v, error %v: want both", tk, err)
		}
	}
	if len(b.told) != 1 || len(b.List("srv01")) != 1 {
		t.Errorf("announced %d times, listed %d: want 1, 1", len(b.told), len(b.List("srv01")))
	}
	b.disk.full = false
	b.must(t, raw)
	if len(b.told) != 1 || len(b.disk.docs) != 1 {
		t.Errorf("with space again: announced %d times, stored %d", len(b.told), len(b.disk.docs))
	}
}

func TestAnnounceFails(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	b.fail = errors.New("outbox is closed")
	b.must(t, report(t, nil))
	b = newBench(b.disk)
	b.must(t, report(t, nil))
	b.must(t, report(t, nil))
	if len(b.told) != 1 {
		t.Errorf("announced %d times after the one that failed, want 1", len(b.told))
	}
}

// TestUnverified: whoever has the machine's address can neither change what
// the machine said with its token, nor push it out, nor use up its say.
func TestUnverified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(&disk{docs: map[string][]byte{}})
		good := b.must(t, report(t, nil))
		_, line, _ := testKey(t, 'b')
		for i := range 2 * maxChanges {
			evil := report(t, map[string]any{"hostkeys": nil, "hostkey_lines": []string{line}, "serial": fmt.Sprint(i)})
			time.Sleep(time.Second)
			order := []string{"", "0badcafe"}[i%2]
			if _, err := b.Report("srv01", order, false, srv01, evil); (err == nil) != (i < maxChanges) || err != nil && !errors.Is(err, ErrTooMany) {
				t.Errorf("report %d: %v", i, err)
			}
		}
		if got, err := b.Get(good.ID); err != nil || got.HostKeys[0] != good.HostKeys[0] {
			t.Errorf("verified ticket is now %+v, %v", got, err)
		}
		if n := len(b.List("srv01")); n != 1+keepUnverified || len(b.disk.docs) != n {
			t.Errorf("%d tickets, %d on disk; want %d", n, len(b.disk.docs), 1+keepUnverified)
		}
		b.must(t, report(t, map[string]any{"port": 2222}))
		time.Sleep(changeWindow)
		if _, err := b.Report("srv01", "", false, srv01, report(t, nil)); err != nil {
			t.Errorf("after a while: %v", err)
		}
	})
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(&disk{docs: map[string][]byte{}})
		for i := range keepVerified + 3 {
			for _, machine := range []string{"srv01", "srv02"} {
				if _, err := b.Report(machine, fmt.Sprint("order", i), true, srv01, report(t, nil)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
		}
		list := b.List("srv01")
		if len(list) != keepVerified || list[0].Order != fmt.Sprint("order", keepVerified+2) || list[keepVerified-1].Order != "order3" {
			t.Errorf("%d tickets, from %s to %s", len(list), list[0].Order, list[len(list)-1].Order)
		}
		if len(b.List("")) != 2*keepVerified || len(b.disk.docs) != 2*keepVerified {
			t.Errorf("%d tickets in all, %d on disk", len(b.List("")), len(b.disk.docs))
		}
	})
}

func TestReportAtOnce(t *testing.T) {
	b := newBench(&disk{docs: map[string][]byte{}})
	raw := report(t, nil)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := b.Report("srv01", "0badcafe", true, srv01, raw); err != nil {
				t.Error(err)
			}
			b.List("")
		})
	}
	wg.Wait()
	if len(b.told) != 1 || len(b.List("")) != 1 {
		t.Errorf("announced %d times, %d tickets", len(b.told), len(b.List("")))
	}
}

// Where the power goes at any moment between a ticket's being stored and announced, the next
// life announces it, once: a script does not send it twice.
func TestResume(t *testing.T) {
	whole := &disk{docs: map[string][]byte{}}
	b := newBench(whole)
	if _, err := b.DaRT("srv01", "", false, netip.MustParseAddr("192.168.77.101"), []byte(`<E><A ID="118-497-589"/><C><T><L P="49161" N="192.168.77.101"/></T></C></E>`)); err != nil {
		t.Fatal(err)
	}
	for i, at := range whole.puts {
		cut := &disk{docs: map[string][]byte{}}
		cut.Put(at.ID, at)
		next := newBench(cut)
		next.Resume()
		if want := 1; at.Announced && len(next.told) != 0 || !at.Announced && len(next.told) != want {
			t.Errorf("cut after the %d. step (announced: %v): told %d times", i+1, at.Announced, len(next.told))
		}
		if got := next.List("srv01"); len(got) != 1 || got[0].Problem != "" || got[0].Code != "118-497-589" || !got[0].Announced {
			t.Errorf("cut after the %d. step: %+v", i+1, got)
		}
		last := newBench(cut)
		last.Resume()
		if len(last.told) != 0 {
			t.Errorf("cut after the %d. step: told again in the life after", i+1)
		}
	}
	if len(whole.puts) < 3 {
		t.Errorf("%d steps", len(whole.puts))
	}
}
