package trial

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/link/linktest"
	"rescuebox/appliance/link/linktest/guest"
	"rescuebox/appliance/modem/modemtest"
)

// dormantGoal is how long the way from the WAN's death, once it is sure, to the first answer over PPP
// may take; dormantBound is for machines that are slower than the goal's.
const (
	dormantGoal  = 5 * time.Second
	dormantBound = 30 * time.Second
)

// The WAN of a box whose LTE sleeps dies: the whole daemon dials through a modem to a real pppd, and the hub reaches
// it over PPP. When the WAN is back, it hangs up.
func TestGuestDormant(t *testing.T) {
	if !guest.Inside(t) {
		return
	}
	m := &measurement{T: t, w: linktest.New(t)}
	m.must(m.w.Branch.IP("link del lte0")) // the modem is the only way
	m.h = m.w.KernelHub(t)
	m.w.Echo(t)
	fake := modemtest.Start(t)
	operator := &modemtest.Operator{Command: func() *exec.Cmd {
		return m.w.LTE.ISP.Command("pppd", "notty", "noauth", "local", "nodetach", "nodefaultroute",
			"ms-dns", "9.9.9.9", "lcp-echo-interval", "0", "10.65.64.64:10.65.0.5")
	}}
	fake.Dial = operator.Dial
	m.startBoxWith("daemon", fake.Path)
	t.Cleanup(m.box.stop)
	m.reach()
	m.eventually("the modem is registered", func() bool { return strings.Contains(m.log(), `"state":"registered"`) })
	time.Sleep(settle)
	if n := len(fake.Dialled()); n > 0 {
		t.Fatalf("it dialled %d times while the WAN was well", n)
	}
	stop, err := m.h.Meter(20 * time.Millisecond)
	m.must(err)
	time.Sleep(time.Second)
	cut, wall := linktest.Now(), time.Now()
	m.must(m.w.Silence("wan"))
	m.eventually("over PPP", m.byLTE)
	time.Sleep(3 * time.Second)
	r, err := stop()
	m.must(err)
	g := r.Gap(cut - time.Second)
	sure := m.said("wan is dead")
	if g.Never || sure.IsZero() {
		t.Fatalf("never back: %v, sure at %v\n%s", g.Never, sure, m.log())
	}
	took := wall.Add(g.To - cut).Sub(sure)
	t.Logf("the WAN died; sure of it after %v; VPN over PPP %v later; silence at the hub %v",
		sure.Sub(wall).Round(time.Millisecond), took.Round(time.Millisecond), g.Long().Round(time.Millisecond))
	if took > dormantGoal {
		t.Logf("that is more than the goal of %v", dormantGoal)
	}
	if took > dormantBound {
		t.Errorf("that is more than %v", dormantBound)
	}
	m.must(m.w.Mend("wan"))
	m.eventually("back on the wan", func() bool { return !m.byLTE() })
	m.eventually("hung up", func() bool { return !fake.InCall() })
}

// log is what the box has said so far.
func (m *measurement) log() string {
	text, err := os.ReadFile(filepath.Join(m.config.Dir, "log"))
	m.must(err)
	return string(text)
}

// said is when the box said something first.
func (m *measurement) said(what string) time.Time {
	for line := range strings.Lines(m.log()) {
		var entry struct {
			Msg string
			TS  json.RawMessage
		}
		if json.Unmarshal([]byte(line), &entry) != nil || !strings.Contains(entry.Msg, what) {
			continue
		}
		var seconds float64
		if json.Unmarshal(entry.TS, &seconds) == nil {
			return time.UnixMicro(int64(seconds * 1e6))
		}
		if at, err := time.Parse(time.RFC3339Nano, string(bytes.Trim(entry.TS, `"`))); err == nil {
			return at
		}
	}
	return time.Time{}
}
