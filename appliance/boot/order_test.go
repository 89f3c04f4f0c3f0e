package boot

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var biosOfSrv01 = Client{MAC: mac1, Arch: BIOS, Program: Firmware}

// An order that cannot be stored leaves the one that was open as it was.
func TestArmOnFullDiskKeepsTheOpenOrder(t *testing.T) {
	m := newMemory()
	table := New(testConfig(t, m))
	o := arm(t, table, "rescue", 0)
	m.full = true
	if _, err := table.Arm("srv01", "setup", "anna", 0); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
	if now, open := table.OpenOrder("srv01"); !open || now.ID != o.ID {
		t.Errorf("the open order is now %v, %v", now, open)
	}
}

// An order that ended while the disk was full is stored when there is room: a
// restart must not boot the machine again.
func TestEndIsStoredLater(t *testing.T) {
	for _, test := range []struct {
		name string
		then func(table *Table, o Order)
	}{
		{"by the next report", func(table *Table, o Order) { table.Up(o.ID) }},
		{"by Run", func(*Table, Order) { time.Sleep(retryStore + time.Second); synctest.Wait() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMemory()
			c := testConfig(t, m)
			synctest.Test(t, func(t *testing.T) {
				table := New(c)
				ctx, cancel := context.WithCancel(t.Context())
				go table.Run(ctx, func() {})
				o := arm(t, table, "rescue", 0)
				synctest.Wait()
				m.setFull(true)
				if err := table.Up(o.ID); !errors.Is(err, errFull) {
					t.Errorf("got %v", err)
				}
				synctest.Wait()
				m.setFull(false)
				test.then(table, o)
				cancel()
				synctest.Wait()
				if got := answer(New(c), biosOfSrv01); got != "local" {
					t.Errorf("after a restart: %s", got)
				}
			})
		})
	}
}

// A crash or a full disk can leave two open orders of one machine: the newest
// word counts, and the other one ends.
func TestTwoOpenOrdersInTheStore(t *testing.T) {
	for _, ids := range [][2]string{{"00000000", "ffffffff"}, {"ffffffff", "00000000"}} {
		m := newMemory()
		now := time.Now()
		old := Order{ID: ids[0], Token: "a", Machine: "srv01", Image: "setup", State: Booting, Created: now.Add(-time.Minute), Expires: now.Add(time.Minute)}
		newer := Order{ID: ids[1], Token: "b", Machine: "srv01", Image: "rescue", State: Armed, Created: now, Expires: now.Add(time.Minute)}
		m.orders[old.ID], m.orders[newer.ID] = old, newer
		table := New(testConfig(t, m))
		if o, _ := table.OpenOrder("srv01"); o.ID != newer.ID {
			t.Errorf("open is %s, want the newer %s", o.ID, newer.ID)
		}
		if o := m.orders[old.ID]; o.State != Failed {
			t.Errorf("the older order is stored as %s", o.State)
		}
	}
}

// A clock that was ahead when the order was made does not make it live for years.
func TestClockWasAhead(t *testing.T) {
	m := newMemory()
	then := time.Now().AddDate(10, 0, 0)
	m.orders["1"] = Order{ID: "1", Machine: "srv01", Image: "rescue", State: Armed, Created: then, Expires: then.Add(time.Minute)}
	New(testConfig(t, m))
	if left := time.Until(m.orders["1"].Expires); left > time.Minute {
		t.Errorf("the order has %s left", left)
	}
}

// The order of a machine that the file of the site no longer names ends as any other.
func TestOrderOfARemovedMachine(t *testing.T) {
	m := newMemory()
	then := time.Now().Add(-time.Hour)
	m.orders["1"] = Order{ID: "1", Machine: "gone", Image: "rescue", State: Armed, Created: then, Expires: then.Add(time.Minute)}
	New(testConfig(t, m))
	if o := m.orders["1"]; o.State != Expired {
		t.Errorf("stored as %s", o.State)
	}
}

// A standing assignment that cannot boot makes no orders, one that can needs no disk.
func TestStanding(t *testing.T) {
	for _, test := range []struct {
		name, image string
		full        bool
		c           Client
		want        string
		orders      int
	}{
		{"boots", "setup", false, biosOfSrv01, "setup ipxe undionly.kpxe", 1},
		{"full disk", "setup", true, biosOfSrv01, "setup ipxe undionly.kpxe", 1},
		{"no such image", "gone", false, biosOfSrv01, `refused: no image "gone"`, 0},
		{"no boot program", "setup", false, Client{MAC: mac1, Arch: UEFIIA32, Program: Firmware}, "refused: srv01 asks as UEFI ia32", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMemory()
			m.full = test.full
			c := testConfig(t, m)
			c.Machines[0].Image = test.image
			table := New(c)
			for range 3 {
				if got := answer(table, test.c); !strings.HasPrefix(got, test.want) {
					t.Errorf("got %q, want %q", got, test.want)
				}
			}
			if n := len(table.AllOrders(10)); n != test.orders {
				t.Errorf("%d orders", n)
			}
		})
	}
}

// What TFTP and HTTP refuse while an order is open stands in its timeline,
// once, and nobody can fill it by asking for more.
func TestRefusedFileIsInTheTimeline(t *testing.T) {
	m := newMemory()
	c := testConfig(t, m)
	table := New(c)
	o := arm(t, table, "rescue", 0)
	if err := overwrite(c.Images.Dir+"/rescue/vmlinuz", "evil!!"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		table.Open(Path(mac1, "vmlinuz"), netip.Addr{})
	}
	events, _ := table.Timeline(o.ID)
	if last := events[len(events)-1]; len(events) != 2 || last.Step != StepRefused || !strings.Contains(last.Text, "file vmlinuz of image rescue changed") {
		t.Errorf("timeline: %v", events)
	}
	for i := range 1000 {
		table.Open(Path(mac1, strings.Repeat("x", i%500+1)), netip.Addr{})
	}
	fetch(t, table, Path(mac1, "undionly.kpxe"))
	events, _ = table.Timeline(o.ID)
	if n := len(events); n > maxToldRefusals+10 {
		t.Errorf("%d events", n)
	}
	if last := events[len(events)-1]; last.File != "undionly.kpxe" {
		t.Errorf("refusals left no room for %v", last)
	}
}

// A machine that is known by its UUID alone is found by its MAC after a storm of strangers.
func TestStormLeavesUUIDs(t *testing.T) {
	table := New(testConfig(t, newMemory()))
	arm(t, table, "rescue", 0)
	answer(table, Client{MAC: foreign, UUID: uuid1, Arch: BIOS, Program: Firmware})
	for i := range 2 * maxSeen {
		answer(table, Client{MAC: MAC{2, 0, 0, 1, byte(i >> 8), byte(i)}, Arch: BIOS, Program: Firmware})
	}
	fetch(t, table, Path(foreign, "undionly.kpxe"))
}
