package trial

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rescuebox/appliance/link/linktest"
)

// patience bounds what takes a moment on a quiet machine, and longer on a busy one.
const patience = 90 * time.Second

// newSite is a branch with a box of ours, which the hub reaches.
func newSite(t *testing.T) *measurement {
	t.Helper()
	m := &measurement{T: t, w: linktest.New(t)}
	m.h = m.w.Hub(t)
	m.w.Echo(t)
	m.startBox("ours")
	t.Cleanup(m.box.stop)
	m.reach()
	m.eventually("the box proves lte", func() bool { return m.bytes("lte") > 0 })
	return m
}

// bytes is what went over an uplink.
func (m *measurement) bytes(uplink string) int64 {
	v, err := m.w.Volume(uplink)
	m.must(err)
	return v.Bytes
}

func (m *measurement) eventually(what string, ok func() bool) {
	m.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	m.Fatalf("not within %v: %s", patience, what)
}

// reached reports that the hub reaches the box within the time.
func (m *measurement) reached(within time.Duration) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if m.h.Command("ping", "-c", "1", "-W", "1", linktest.BranchInner).Run() == nil {
			return true
		}
	}
	return false
}

// meter runs f while the meter runs, and gives its reading, by a clock that stands still when the machine does.
func (m *measurement) meter(f func()) linktest.Reading {
	m.Helper()
	stop, err := m.h.Meter(question)
	m.must(err)
	f()
	r, err := stop()
	m.must(err)
	r, _ = r.Awake()
	return r
}

// moves counts how often the hub's packets changed their way until stop.
func (m *measurement) moves() (stop func() int) {
	quit, n := make(chan struct{}), 0
	var looking sync.WaitGroup
	looking.Go(func() {
		for before := ""; ; {
			select {
			case <-quit:
				return
			case <-time.After(50 * time.Millisecond):
			}
			now, err := m.h.Way()
			if err != nil {
				m.Error(err)
				return
			}
			if before != "" && now != before {
				n++
			}
			before = now
		}
	})
	end := sync.OnceFunc(func() { close(quit); looking.Wait() })
	m.Cleanup(end)
	return func() int { end(); return n }
}

// A WAN that comes and goes is left once, and taken again once it stays.
func TestFlapping(t *testing.T) {
	m := newSite(t)
	stop := m.moves()
	r := m.meter(func() {
		for range 6 {
			m.must(m.w.Silence("wan"))
			linktest.Pass(1500 * time.Millisecond)
			m.must(m.w.Mend("wan"))
			time.Sleep(1500 * time.Millisecond) // by any clock less than it takes to go back
		}
	})
	m.eventually("back on the wan", func() bool { return !m.byLTE() })
	if n := stop(); n > 4 {
		t.Errorf("the tunnel moved %d times", n)
	}
	if g := r.Gap(r.Sent[0]); g.Never || g.Long() > 5*time.Second {
		t.Errorf("the longest gap is %v, never %v", g.Long(), g.Never)
	}
	t.Logf("longest gap %v, %d of %d lost", r.Gap(r.Sent[0]).Long(), r.Lost(), len(r.Sent))
}

// Everything is dead for long, and comes back: so does the tunnel, by whichever uplink is there.
func TestFreeze(t *testing.T) {
	for _, first := range []string{"wan", "lte"} {
		t.Run(first, func(t *testing.T) {
			m := newSite(t)
			m.must(m.w.Silence("wan"))
			m.must(m.w.Silence("lte"))
			time.Sleep(25 * time.Second)
			began := time.Now()
			m.must(m.w.Mend(first))
			if !m.reached(3 * patience) {
				t.Fatalf("the box is not back by %s within %v", first, 3*patience)
			}
			t.Logf("back by %s after %v", first, time.Since(began).Round(10*time.Millisecond))
		})
	}
}

// The NAT of an uplink that stood by has forgotten the tunnel: the box opens it anew.
func TestAgeing(t *testing.T) {
	m := newSite(t)
	m.must(m.w.Age("lte", 2*time.Second))
	time.Sleep(settle)
	r := m.meter(func() {
		linktest.Pass(time.Second)
		m.must(m.w.Silence("wan"))
		linktest.Pass(5 * time.Second)
	})
	if g := r.Gap(r.Sent[0]); g.Never || g.Long() > 5*time.Second {
		t.Errorf("the gap is %v, never %v", g.Long(), g.Never)
	}
	if !m.byLTE() {
		t.Error("the hub does not reach the box by lte")
	}
}

// Long packets vanish on LTE without a word: the tunnel's do not get so long.
func TestHole(t *testing.T) {
	m := newSite(t)
	m.must(m.w.Hole("lte", 1400))
	m.must(m.w.Silence("wan"))
	m.eventually("over lte", m.byLTE)
	for _, size := range []string{"64", "1000", "1252"} { // the last makes a packet of 1280 bytes
		if out, err := m.h.Command("ping", "-c", "1", "-w", "20", "-M", "do", "-s", size, linktest.BranchInner).CombinedOutput(); err != nil {
			t.Errorf("%s bytes do not pass: %s", size, out)
		}
	}
	m.must(m.h.Do(func() error { // TCP finds its own way: a long text comes back through the box's echo
		c, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(linktest.BranchInner), Port: linktest.EchoTCP})
		if err != nil {
			return err
		}
		defer c.Close()
		text := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		go func() { _, _ = c.Write(text) }() // the reader sees what is missing
		back := make([]byte, len(text))
		if _, err := io.ReadFull(c, back); err != nil {
			return err
		}
		if !bytes.Equal(back, text) {
			return errors.New("another text came back")
		}
		return nil
	}))
}

// An interface goes and comes back with another index, as a modem's does: it is used again.
func TestRecreated(t *testing.T) {
	m := newSite(t)
	var before int64
	for range 2 {
		m.must(m.w.Remove("lte"))
		before = m.bytes("lte") // the box is quick: it may have proved the new one before this test goes on
		m.must(m.w.Recreate("lte"))
	}
	m.eventually("the box proves the new lte", func() bool { return m.bytes("lte") > before })
	r := m.meter(func() {
		linktest.Pass(time.Second)
		m.must(m.w.Remove("wan"))
		linktest.Pass(4 * time.Second)
	})
	if g := r.Gap(r.Sent[0]); g.Never || g.Long() > 5*time.Second {
		t.Errorf("the gap as the wan was removed is %v, never %v", g.Long(), g.Never)
	}
	m.must(m.w.Recreate("wan"))
	m.eventually("back on the new wan", func() bool { return !m.byLTE() })
	if !m.reached(patience) {
		t.Error("the box is not reached by the new wan")
	}
}

// A hub with several addresses answers from another one than it was asked at: it is heard all the same.
func TestOtherAddress(t *testing.T) {
	m := &measurement{T: t, w: linktest.New(t)}
	m.must(m.w.Open("wan"))
	m.h = m.w.Hub(t)
	m.w.Echo(t)
	m.startBox("ours")
	t.Cleanup(m.box.stop)
	if !m.reached(patience) {
		t.Fatal("the box is not reached by a hub that answers from another address")
	}
	m.must(m.w.Silence("wan"))
	m.eventually("over lte", m.byLTE)
	if !m.reached(patience) {
		t.Error("the box is not reached by lte")
	}
}

// The hub is rebooted: the box is there again as soon as it is.
func TestHubReboots(t *testing.T) {
	m := newSite(t)
	m.h.Stop()
	time.Sleep(15 * time.Second)
	m.must(m.h.Start())
	m.must(m.h.Admit(m.public, ""))
	began := time.Now()
	if !m.reached(3 * patience) {
		t.Fatalf("the box is not back within %v", 3*patience)
	}
	t.Logf("back after %v", time.Since(began).Round(10*time.Millisecond))
}

// The daemon is killed and started again while an admin is typing: what he typed arrives.
func TestKilled(t *testing.T) {
	m := newSite(t)
	stop, err := m.h.Stream(50 * time.Millisecond)
	m.must(err)
	time.Sleep(time.Second)
	m.must(m.box.cmd.Process.Signal(syscall.SIGKILL))
	_ = m.box.cmd.Wait() // killed
	m.restartBox()
	t.Cleanup(m.box.stop)
	time.Sleep(10 * time.Second)
	s, err := stop()
	m.must(err)
	if s.Err != "" {
		t.Errorf("the stream broke: %s", s.Err)
	}
	t.Logf("slowest echo %v", s.Worst())
	if out, err := exec.Command("ip", "rule").CombinedOutput(); err != nil || strings.Count(string(out), "lookup 71") > 8 {
		t.Errorf("rules are left: %v\n%s", err, out)
	}
}

// A WAN that loses a few packets is no dead one; one that loses most is.
func TestLossy(t *testing.T) {
	m := newSite(t)
	stop := m.moves()
	m.must(m.w.Lose("wan", 3))
	time.Sleep(15 * time.Second)
	if n := stop(); n > 2 {
		t.Errorf("with 3 %% of loss the tunnel moved %d times in 15 s", n)
	}
	m.must(m.w.Lose("wan", 90))
	m.eventually("over lte", m.byLTE)
}

// When the daemon ends, nothing of it is left in the kernel.
func TestNothingLeft(t *testing.T) {
	m := newSite(t)
	m.box.stop()
	for _, question := range [][]string{{"ip", "rule"}, {"ip", "-6", "rule"}, {"nft", "list", "tables"}, {"ip", "route", "show", "table", "7101"}, {"ip", "link"}} {
		out, err := exec.Command(question[0], question[1:]...).CombinedOutput()
		text := string(out)
		if err != nil && !strings.Contains(text, "does not exist") {
			t.Errorf("%v: %v: %s", question, err, text)
		}
		if strings.Contains(text, "71") && question[1] == "rule" || strings.Contains(text, "rescue") || strings.Contains(text, "default via") {
			t.Errorf("%v says after the end:\n%s", question, text)
		}
	}
}
