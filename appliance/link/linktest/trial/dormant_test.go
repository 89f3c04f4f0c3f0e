package trial

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/link/linktest"
	"rescuebox/appliance/link/linktest/guest"
	"rescuebox/appliance/modem/modemtest"
)

// dormantGoal is how long the way from the WAN's death, once it is sure, to the first answer over PPP
// may take; dormantBound is for machines that are slower than the goal's.
const (
	dormantGoal  = 5 * time.Second
	dormantBound = 30 * time.Second
	// rest is how long LTE sleeps at least before the WAN dies again, at a random moment of the same time after.
	rest = 5 * time.Second
)

// The WAN of a box whose LTE sleeps dies, again and again: the whole daemon dials through a modem to a real pppd, and
// the hub reaches it over PPP. When the WAN is back, it hangs up. With GUEST_ROUNDS it does so more than
// twice, for scripts/bench.d/link.
func TestGuestDormant(t *testing.T) {
	if !guest.Inside(t) {
		return
	}
	m := newDormant(t)
	rounds, err := strconv.Atoi(cmp.Or(os.Getenv("GUEST_ROUNDS"), "2"))
	m.must(err)
	for n := range rounds {
		m.round(n)
	}
}

// dormant is a branch whose LTE is a modem, and sleeps.
type dormant struct {
	*measurement
	modem *modemtest.Modem
	admin *api.Client
}

func newDormant(t *testing.T) *dormant {
	t.Helper()
	m := &dormant{measurement: &measurement{T: t, w: linktest.New(t)}, modem: modemtest.Start(t)}
	m.must(m.w.Branch.IP("link del lte0")) // the modem is the only way
	m.h = m.w.KernelHub(t)
	m.w.Echo(t)
	operator := &modemtest.Operator{Command: func() *exec.Cmd {
		return m.w.LTE.ISP.Command("pppd", "notty", "noauth", "local", "nodetach", "nodefaultroute",
			"ms-dns", "9.9.9.9", "lcp-echo-interval", "0", "10.65.64.64:10.65.0.5")
	}}
	m.modem.Dial = operator.Dial
	m.startBoxOf(boxConfig{Kind: "daemon", LTE: byModem(m.modem.Path, "ip = \"v4\"\ndata = \"ppp\""), Mode: "dormant"})
	t.Cleanup(m.box.stop)
	m.admin = api.OverSocket(filepath.Join(m.config.Dir, "api.sock"))
	m.reach()
	m.eventually("the modem is registered", func() bool { return strings.Contains(m.log(), `"state":"registered"`) })
	return m
}

// round is one death of the WAN, after n others, at a random moment.
func (m *dormant) round(n int) {
	time.Sleep(rest + rand.N(rest))
	if dialled := len(m.modem.Dialled()); dialled != n {
		m.Fatalf("it dialled %d times while the WAN died %d times", dialled, n)
	}
	from := len(m.log())
	stop, err := m.h.Meter(20 * time.Millisecond)
	m.must(err)
	time.Sleep(time.Second)
	cut, wall := linktest.Now(), time.Now()
	m.must(m.w.Silence("wan"))
	m.eventually("over PPP", m.byLTE)
	time.Sleep(3 * time.Second)
	r, err := stop()
	m.must(err)
	sure := said(m.log()[from:], "wan is dead")
	answer := firstAfter(r, cut+sure.Sub(wall)) // the WAN is dead by then: it comes over PPP
	if sure.IsZero() || answer == 0 {
		m.Fatalf("never back: sure at %v, answer at %v\n%s", sure, answer, m.log()[from:])
	}
	m.took(sure.Sub(wall), answer-cut-sure.Sub(wall))
	m.awake(n)
}

// firstAfter is when the first answer came after a moment; 0: none did.
func firstAfter(r linktest.Reading, moment time.Duration) (first time.Duration) {
	for _, at := range r.Answered {
		if at > moment && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}

// took says how long it took to be sure of the WAN's death, and from then to the first answer over PPP.
func (m *dormant) took(sure, answer time.Duration) {
	m.say("detection", ms(sure))
	m.say("after-detection", ms(answer))
	m.say("after-cut", ms(sure+answer))
	if answer > dormantGoal {
		m.Logf("that is more than the goal of %v", dormantGoal)
	}
	if answer > dormantBound {
		m.Errorf("that is more than %v", dormantBound)
	}
}

// awake mends the WAN, and waits until LTE sleeps again. The box goes back by itself the first time; later it would wait
// the longer each time, were it not told that the line is mended.
func (m *dormant) awake(n int) {
	m.must(m.w.Mend("wan"))
	if n > 0 {
		_, err := m.admin.ChangeLink(m.Context(), api.LinkAction{Action: "restore", Uplink: "wan"})
		m.must(err)
	}
	m.eventually("back on the wan", func() bool { return !m.byLTE() })
	m.eventually("hung up", func() bool { return !m.modem.InCall() })
}

// log is what the box has said so far.
func (m *measurement) log() string {
	text, err := os.ReadFile(filepath.Join(m.config.Dir, "log"))
	m.must(err)
	return string(text)
}

// said is when the box said something first, by its log.
func said(log, what string) time.Time {
	for line := range strings.Lines(log) {
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
