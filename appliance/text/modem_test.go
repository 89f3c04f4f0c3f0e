package text

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/modem"
	"rescuebox/appliance/modem/modemtest"
	"rescuebox/appliance/power"
	"rescuebox/appliance/state"
)

// site is a desk with a modem, in a network that can be asked what it has, and a state on disk.
type site struct {
	*Desk
	fake  *modemtest.Modem
	modem *modem.Modem
	acts  *acts
	db    *state.DB
	uri   string
	next  uint64
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{fake: modemtest.Start(t), acts: &acts{}}
	dir := t.TempDir()
	db, err := state.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s.db = db
	s.modem = modem.New(modem.Config{Name: "lte", Device: s.fake.Path, Data: "none"}, zap.NewNop())
	s.Desk = &Desk{Site: "kazan-2", Senders: []Sender{{admin, []string{"all"}}}, Devices: []string{outlet}, Secrets: filepath.Join(dir, "secrets"),
		Store: state.NewTable[Text](db, "texts", state.Durable), Acts: s.acts, Budget: 30,
		Out: func(ctx context.Context, number, text string, valid time.Duration) (Result, error) {
			r, err := s.modem.Send(ctx, number, text, valid)
			return Result(r), err
		}}
	s.modem.Received = func(m modem.Text) {
		s.Received(Message{From: m.From, Numeric: m.Numeric, Time: m.Time, Text: m.Text, Parts: m.Parts, Class0: m.Class0, Binary: m.Binary || m.Damaged != ""})
	}
	if s.uri, err = s.Enroll(admin); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.modem.Run(ctx, func() {}) })
	wg.Go(func() { _ = s.Run(ctx, func() {}) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	s.fake.Wait(t, "registration", func() bool { return s.modem.Status().State == modem.Registered })
	return s
}

func (s *site) code(t *testing.T) string {
	s.next++
	return hotp(secretOf(t, s.uri), s.next-1)
}

// said waits for a message with these words at a number.
func (s *site) said(t *testing.T, number, words string) string {
	t.Helper()
	text := ""
	s.fake.Wait(t, words, func() bool {
		for _, m := range s.fake.Sent() {
			if m.Number == number && strings.Contains(m.Text, words) {
				text = m.Text
				return true
			}
		}
		return false
	})
	return text
}

// The way of a command through the air: from the phone, by the modem, to the deed and back.
func TestByModem(t *testing.T) {
	s := newSite(t)
	if err := s.fake.Deliver(admin, "Загрузить srv01 dart "+s.code(t)); err != nil {
		t.Fatal(err)
	}
	s.said(t, admin, "kazan-2: boot srv01 dart: done")
	if err := s.fake.Deliver("+79169999999", "boot srv01 dart "+s.code(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.fake.Deliver(admin, "status "+s.code(t)); err != nil {
		t.Fatal(err)
	}
	s.said(t, admin, "all is well")
	if n := len(s.fake.Sent()); n != 2 {
		t.Errorf("%d messages were said, want 2: %+v", n, s.fake.Sent())
	}
}

// A switch with a SIM of its own, by text messages there and back.
func TestSwitchByModem(t *testing.T) {
	s := newSite(t)
	sw, err := power.New(power.Config{Kind: "gsm-socket", Model: "isocket", Number: outlet, Ask: s.Ask})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for _, c := range []struct{ text, reply string }{{"ON", "Power socket ON"}, {"RESTART", "Power socket restarted"}, {"STATUS", "Power socket OFF, Microrelay ON"}} {
			s.said(t, outlet, c.text)
			_ = s.fake.Deliver(outlet, c.reply)
		}
	}()
	if err := errors.Join(sw.On(t.Context()), sw.Cycle(t.Context())); err != nil {
		t.Error(err)
	}
	if state, err := sw.State(t.Context()); err != nil || state != power.Off {
		t.Errorf("it is %s, %v", state, err)
	}
	for _, text := range s.List() {
		if text.State == Sent && (text.Text != "" || text.Kind != Command) {
			t.Errorf("what a switch is told is kept: %+v", text)
		}
	}
}

// 10,000 forged messages in every form, through the modem: the admin's commands among them are done, memory and
// disk are bounded, and the bill is.
func TestForgeryByModem(t *testing.T) {
	s := newSite(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	forge := func(i int) error {
		switch i % 5 {
		case 0:
			return s.fake.Deliver(fmt.Sprintf("+7916%07d", i), fmt.Sprintf("boot srv01 dart %08d", i))
		case 1:
			return s.fake.Deliver(admin, fmt.Sprintf("power srv01 off %08d", i))
		case 2:
			return s.fake.Deliver(admin, strings.Repeat("длинное сообщение ", 5)+fmt.Sprint(i))
		case 3:
			s.fake.DeliverPDU(fmt.Appendf([]byte{0, 4}, "%d", i))
			return nil
		}
		return s.fake.Deliver(outlet, fmt.Sprintf("Power socket OFF %d", i))
	}
	const many, commands = 10_000, 5
	for i := range many {
		if err := forge(i); err != nil {
			t.Fatal(err)
		}
		if i%(many/commands) == many/commands/2 {
			if err := s.fake.Deliver(admin, "vpn up "+s.code(t)+" "+s.code(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for left := s.fake.Waiting(); left > 0; { // a slow machine has as long as it takes, as long as it goes on
		left = max(0, left-many/20)
		s.fake.Wait(t, "room in the store", func() bool { return s.fake.Waiting() <= left })
	}
	s.fake.Wait(t, "an empty store", func() bool { return s.fake.Stored() == 0 && s.fake.Waiting() == 0 })
	defer func() { // why one was not followed, if it was not
		for _, m := range s.List() {
			if t.Failed() && m.Error != "" {
				t.Logf("%s from %s: %s", m.Text, m.Number, m.Error)
			}
		}
	}()
	s.fake.Wait(t, "the commands", func() bool { return len(s.acts.list()) == commands })
	took := time.Since(began)
	s.fake.Wait(t, "the answers", func() bool { return s.Status().Waiting == 0 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 10
	sent, kept := len(s.fake.Sent()), len(s.List())
	size := int64(0)
	for _, name := range []string{"state.db", "state.db-wal"} {
		if fi, err := os.Stat(filepath.Join(filepath.Dir(s.Secrets), name)); err == nil {
			size += fi.Size()
		}
	}
	t.Logf("%d forged messages in %v: %d messages said, %d kept, heap %+d KiB, state %d KiB", many, took, sent, kept, grown, size>>10)
	if sent > commands+3+3 || kept > 60 || grown > 4<<10 || size > 8<<20 {
		t.Errorf("%d said, %d kept, heap grown by %d KiB, state of %d bytes", sent, kept, grown, size)
	}
	if st := s.modem.Texts(); st.Received < many*4/5 || st.Damaged != many/5 || st.Why != "" {
		t.Errorf("%+v", st)
	}
}
