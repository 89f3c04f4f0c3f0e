package modem

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// shelf keeps volumes as the table does.
type shelf struct {
	v    map[string]Volume
	puts int
	err  error

	broken error // of reading
}

func (s *shelf) Put(key string, v Volume) error {
	if s.err != nil {
		return s.err
	}
	if s.v == nil {
		s.v = map[string]Volume{}
	}
	s.v[key] = v
	s.puts++
	return nil
}

func (s *shelf) All() (list []Volume, err error) {
	for _, v := range s.v {
		list = append(list, v)
	}
	return list, s.broken
}

type meter struct {
	*quota
	t    *testing.T
	at   time.Time
	told []int

	unsure bool
}

func newMeter(t *testing.T, limit int64, day int, s Volumes, at string) *meter {
	t.Helper()
	m := &meter{t: t}
	m.quota = newQuota(limit, day, s, func(p int, _ VolumeStatus) { m.told = append(m.told, p) }, zap.NewNop())
	m.quota.now = func() (time.Time, bool) { return m.at, !m.unsure }
	m.quota.boot = "boot1"
	m.clock(at)
	if err := m.use("8970"); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *meter) clock(at string) {
	m.t.Helper()
	var err error
	if m.at, err = time.Parse("2006-01-02 15:04", at); err != nil {
		m.t.Fatal(err)
	}
}

func (m *meter) used(want int64) {
	m.t.Helper()
	if got := m.status().Used; got != want {
		m.t.Errorf("used %d, want %d", got, want)
	}
}

func TestBillingMonths(t *testing.T) {
	for _, tt := range []struct {
		now   string
		day   int
		begin string
		next  string
	}{
		{"2026-11-23", 1, "2026-11-01", "2026-12-01"},
		{"2026-11-23", 0, "2026-11-01", "2026-12-01"},
		{"2026-11-23", 23, "2026-11-23", "2026-12-23"},
		{"2026-11-22", 23, "2026-10-23", "2026-11-23"},
		{"2026-03-01", 31, "2026-02-28", "2026-03-31"},
		{"2026-02-28", 31, "2026-02-28", "2026-03-31"},
		{"2026-02-27", 31, "2026-01-31", "2026-02-28"},
		{"2028-02-29", 30, "2028-02-29", "2028-03-30"},
		{"2026-04-30", 31, "2026-04-30", "2026-05-31"},
		{"2026-01-01", 15, "2025-12-15", "2026-01-15"},
		{"2026-12-31", 31, "2026-12-31", "2027-01-31"},
	} {
		now, err := time.Parse(time.DateOnly, tt.now)
		if err != nil {
			t.Fatal(err)
		}
		begin := billed(now.Add(12*time.Hour), tt.day)
		if got := begin.Format(time.DateOnly); got != tt.begin {
			t.Errorf("%s, day %d: began %s, want %s", tt.now, tt.day, got, tt.begin)
		}
		if got := nextBilled(begin, tt.day).Format(time.DateOnly); got != tt.next {
			t.Errorf("%s, day %d: next %s, want %s", tt.now, tt.day, got, tt.next)
		}
	}
}

// The sum survives redials with new indices, restarts and reboots, and what the device
// carried while the daemon was away is in it.
func TestVolumeSurvives(t *testing.T) {
	s := &shelf{}
	m := newMeter(t, 0, 1, s, "2026-11-10 10:00")
	m.count("ppp-lte", 5, 900, 100) // before we looked: nobody's
	m.used(0)
	m.count("ppp-lte", 5, 1900, 600)
	m.used(1500)
	m.count("ppp-lte", 6, 5000, 1000) // a redial: it counted from zero
	m.used(7500)
	m.count("ppp-lte", 6, 5, 5) // counters that ran backwards began anew
	m.used(7510)
	m.save()
	m = newMeter(t, 0, 1, s, "2026-11-10 11:00")
	m.used(7510)
	m.count("ppp-lte", 6, 105, 5)
	m.used(7610)
	m.save()
	m = newMeter(t, 0, 1, s, "2026-11-10 12:00")
	m.boot = "boot2"
	m.count("ppp-lte", 6, 1000, 0) // another boot: the same index is another device
	m.used(8610)
	m.clock("2026-12-01 00:00")
	m.used(0)
	m.count("ppp-lte", 6, 1007, 0)
	m.used(7)
	m.unsure = true
	m.clock("1970-01-01 00:10") // the battery is dead
	m.count("ppp-lte", 6, 1010, 0)
	m.used(10)
	if got := m.status().Since.Format(time.DateOnly); got != "2026-12-01" {
		t.Errorf("the month begins %s", got)
	}
}

// A clock that was ahead begins a month of another year. With the right one that is not waited for, and nothing is free.
func TestMonthOfAClockThatWasAhead(t *testing.T) {
	s := &shelf{}
	m := newMeter(t, 1000, 1, s, "2036-02-10 10:00")
	m.count("w", 1, 0, 0)
	m.count("w", 1, 1100, 0)
	m.clock("2026-11-10 10:00")
	if st := m.status(); !st.Stopped || st.Resets.Format(time.DateOnly) != "2026-12-01" {
		t.Errorf("it has %+v", st)
	}
	m.at = m.at.In(time.FixedZone("MSK", 3*3600)) // the box is told where it is
	m.used(1100)
	m.at = m.at.In(time.FixedZone("PST", -8*3600))
	m.used(1100)
	m.clock("2026-12-01 00:00")
	m.used(0)
}

// An account that is damaged keeps no bearer down, and where there is no limit, neither do all of them.
func TestDamagedAccounts(t *testing.T) {
	s := &shelf{v: map[string]Volume{"8970": {SIM: "8970", Rx: 500}}, broken: errors.New("a document of volumes cannot be read")}
	m := newMeter(t, 1000, 1, s, "2026-11-10 10:00")
	m.used(0) // of another month
	s.v = nil
	newMeter(t, 0, 1, s, "2026-11-10 10:00")
	if newQuota(1000, 1, s, nil, zap.NewNop()).use("8971") == nil {
		t.Error("a limit is taken for unused, of which nobody knows")
	}
}

// Whatever becomes of the clock.
func TestVolumeIsStoredEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		m := newMeter(t, 0, 1, s, "2026-11-10 10:00")
		for i := range 720 { // an hour
			m.count("w", 1, uint64(i)*100, 0)
			time.Sleep(countEvery)
		}
		if s.puts < 59 || s.puts > 73 {
			t.Errorf("stored %d times in an hour", s.puts)
		}
		if lost := m.status().Used - int64(s.v["8970"].Rx); lost > 1200 {
			t.Errorf("%d bytes of 1200 a minute would be lost", lost)
		}
	})
}

func TestWarningsComeOnce(t *testing.T) {
	s := &shelf{}
	m := newMeter(t, 1000, 1, s, "2026-11-10 10:00")
	for i := range 120 {
		m.count("w", 1, uint64(i)*10, 0)
		m.count("w", 1, uint64(i)*10, 0)
	}
	if !slices.Equal(m.told, []int{50, 80, 95, 100}) || !m.status().Stopped {
		t.Errorf("told %v, stopped %v", m.told, m.status().Stopped)
	}
	m = newMeter(t, 1000, 1, s, "2026-11-10 11:00")
	m.count("w", 1, 1300, 0)
	if m.told != nil || !m.status().Stopped {
		t.Errorf("after a restart told %v, stopped %v", m.told, m.status().Stopped)
	}
	m.clock("2026-12-02 10:00")
	m.count("w", 1, 1300+820, 0)
	if !slices.Equal(m.told, []int{80}) || m.status().Stopped {
		t.Errorf("in the new month told %v, stopped %v", m.told, m.status().Stopped)
	}
}

func TestQuotaIsLifted(t *testing.T) {
	s := &shelf{}
	m := newMeter(t, 1000, 1, s, "2026-11-10 10:00")
	m.count("w", 1, 0, 0)
	m.count("w", 1, 1100, 0)
	if err := m.allow(1200); err != nil {
		t.Fatal(err)
	}
	if st := m.status(); st.Stopped || st.Quota != 2200 {
		t.Errorf("lifted: %+v", st)
	}
	m.told = nil
	m.count("w", 1, 1200, 0)
	if m.told != nil {
		t.Errorf("54 %% were 110 %% already, and it tells %v", m.told)
	}
	m.count("w", 1, 2300, 0)
	if !slices.Equal(m.told, []int{100}) || !m.status().Stopped {
		t.Errorf("told %v, stopped %v", m.told, m.status().Stopped)
	}
	if err := m.allow(0); err != nil {
		t.Fatal(err)
	}
	m = newMeter(t, 1000, 1, s, "2026-11-11 10:00")
	if m.status().Stopped {
		t.Error("the restart forgot that a person lifted the limit")
	}
	m.clock("2026-12-01 10:00")
	if st := m.status(); st.Stopped || st.Quota != 1000 {
		t.Errorf("the new month has %+v", st)
	}
	if m.allow(-1) == nil {
		t.Error("a quota was lowered")
	}
}

// Each SIM has its account, and what the device carried for one is not the other's.
func TestSIMsHaveAccounts(t *testing.T) {
	s := &shelf{}
	m := newMeter(t, 0, 1, s, "2026-11-10 10:00")
	m.count("w", 1, 0, 0)
	m.count("w", 1, 500, 0)
	if err := m.use("8971"); err != nil {
		t.Fatal(err)
	}
	m.count("w", 1, 600, 0)
	m.used(100)
	if err := m.use("8970"); err != nil {
		t.Fatal(err)
	}
	m.used(500)
	m.count("w", 1, 650, 0)
	m.used(550)
}

func TestVolumeThatCannotBeStored(t *testing.T) {
	s := &shelf{err: fmt.Errorf("disk full")}
	m := newMeter(t, 0, 1, s, "2026-11-10 10:00")
	m.count("w", 1, 0, 0)
	m.count("w", 1, 700, 0)
	m.save()
	s.err = nil
	m.save()
	if s.v["8970"].Rx != 700 {
		t.Errorf("it is not stored later: %+v", s.v)
	}
}
