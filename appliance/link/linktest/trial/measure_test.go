// Package trial puts the tunnel and what watches the uplinks together, at the branch of linktest: what a
// failover costs (for scripts/bench link), and what becomes of the faults of the field.
package trial

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"rescuebox/appliance/link/linktest"
)

const (
	// question is how often the meter at the hub asks.
	question = 5 * time.Millisecond
	// settle is how long everything has been well before a cut, and a random part of a second more: a
	// cut at the same moment of a probe's interval each time would be a lucky or an unlucky one.
	settle = 12 * time.Second
	// watched is how long the meter goes on after a cut.
	watched = 8 * time.Second
	// failback is how long the box waits before it goes back; returned how long it may take to in all.
	failback = 3 * time.Second
	returned = 90 * time.Second
)

// TestMeasure is no test but the program of scripts/bench.d/link, which says in LINK_MEASURE what is
// to be measured at which box: "silent BOX", "carrier BOX", "stream BOX", "idle BOX SECONDS",
// "speed BOX". It prints a name and a number on each line.
func TestMeasure(t *testing.T) {
	args := strings.Fields(os.Getenv("LINK_MEASURE"))
	if len(args) < 2 {
		t.Skip("for scripts/bench link")
	}
	m := &measurement{T: t, w: linktest.New(t)}
	m.h = m.w.Hub(t)
	m.w.Echo(t)
	m.startBox(args[1])
	defer m.box.stop()
	m.reach()
	switch args[0] {
	case "silent":
		m.silent()
	case "carrier":
		m.carrier()
	case "stream":
		m.stream()
	case "idle":
		m.idle(args[2])
	case "speed":
		m.speed()
	}
}

// measurement is one run.
type measurement struct {
	*testing.T
	w   *linktest.World
	h   *linktest.Hub
	box *box

	public string    // the box's key
	config boxConfig // what it was told
}

func (m *measurement) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *measurement) say(name string, value any) {
	fmt.Printf("%s %v\n", name, value)
}

func ms(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 1, 64)
}

// reach waits until the hub reaches the box.
func (m *measurement) reach() {
	m.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) { // a hub that does not know where the box is says so at once
		out, err := m.h.Command("ping", "-c", "1", "-W", "1", linktest.BranchInner).CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			m.Fatalf("the box is not reached: %v\n%s", err, out)
		}
	}
}

// moment waits for the moment of a cut.
func moment() { time.Sleep(settle + rand.N(time.Second)) }

// cut cuts the WAN while the meter runs, and says how long the hub heard nothing.
func (m *measurement) cut(how func(uplink string) error) {
	moment()
	stop, err := m.h.Meter(question)
	m.must(err)
	time.Sleep(2*time.Second + rand.N(time.Second))
	at := linktest.Now()
	m.must(how("wan"))
	m.Log("cut at", time.Now().UTC())
	time.Sleep(watched)
	r, err := stop()
	m.must(err)
	g := r.GapBegun(at-100*time.Millisecond, at+time.Second)
	m.Log("the gap begins", g.From-at, "after the cut")
	if g.Never {
		m.say("never", 1)
		return
	}
	m.say("gap", ms(g.Long()))
	m.say("quiet", ms(m.before(r, at)))
}

// before is the longest gap while all was well: what the machine itself adds.
func (m *measurement) before(r linktest.Reading, cut time.Duration) time.Duration {
	var well linktest.Reading
	for i, at := range r.Sent {
		if at < cut-200*time.Millisecond {
			well.Sent, well.Answered = append(well.Sent, at), append(well.Answered, r.Answered[i])
		}
	}
	return well.Gap(r.Sent[0]).Long()
}

func (m *measurement) carrier() { m.cut(m.w.Unplug) }

// silent cuts the WAN without a sign, and counts what is lost when it comes back.
func (m *measurement) silent() {
	m.cut(m.w.Silence)
	if !m.byLTE() {
		return
	}
	stop, err := m.h.Meter(question)
	m.must(err)
	time.Sleep(time.Second)
	m.must(m.w.Mend("wan"))
	back := false
	for end := time.Now().Add(returned); !back && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		back = !m.byLTE()
	}
	time.Sleep(time.Second)
	r, err := stop()
	m.must(err)
	if !back {
		m.say("stays", 1)
		return
	}
	m.say("lost", r.Lost())
	m.say("backgap", ms(r.Gap(r.Sent[0]).Long()))
}

// byLTE reports that the hub's packets for the box go by LTE.
func (m *measurement) byLTE() bool {
	way, err := m.h.Way()
	m.must(err)
	return way == "lte"
}

// stream types through a cut.
func (m *measurement) stream() {
	moment()
	stop, err := m.h.Stream(50 * time.Millisecond)
	m.must(err)
	time.Sleep(2*time.Second + rand.N(time.Second))
	m.must(m.w.Silence("wan"))
	time.Sleep(watched)
	s, err := stop()
	m.must(err)
	if s.Err != "" {
		m.say("broke", 1)
		return
	}
	m.say("echo", ms(s.Worst()))
}

// idle leaves the box alone, and says what goes over each uplink, and over LTE of which kind.
func (m *measurement) idle(seconds string) {
	n, err := strconv.Atoi(seconds)
	m.must(err)
	time.Sleep(settle)
	before := map[string]linktest.Volume{}
	count := func(f func(name string, v linktest.Volume)) {
		for _, u := range []string{"wan", "lte"} {
			v, err := m.w.Volume(u)
			m.must(err)
			f(u, v)
		}
		for _, kind := range linktest.Kinds() {
			v, err := m.w.VolumeOf("lte", kind)
			m.must(err)
			f("lte-"+kind, v)
		}
	}
	count(func(name string, v linktest.Volume) { before[name] = v })
	time.Sleep(time.Duration(n) * time.Second)
	count(func(name string, v linktest.Volume) {
		v = v.Sub(before[name])
		m.say(name+"-packets", v.Packets)
		m.say(name+"-bytes", v.Bytes)
		m.say(name+"-month", fmt.Sprintf("%.2f", float64(v.Bytes)*30*24*3600/float64(n)/1e6))
	})
}

// speed fills the tunnel, and says how much memory that took.
func (m *measurement) speed() {
	server := m.h.Command("iperf3", "-s", "-B", linktest.HubInner)
	m.must(server.Start())
	defer func() {
		m.must(server.Process.Kill())
		_ = server.Wait() // killed
	}()
	m.say("rss-idle", m.box.memory("VmRSS"))
	m.say("up", m.iperf())
	m.say("down", m.iperf("-R"))
	m.say("rss", m.box.memory("VmRSS"))
	time.Sleep(time.Minute)
	m.say("rss-later", m.box.memory("VmRSS"))
	m.say("rss-peak", m.box.memory("VmHWM"))
}

// iperf is the tunnel's throughput in Mbit/s.
func (m *measurement) iperf(args ...string) int {
	said := ""
	for range 50 { // until the server listens: with -J iperf3 calls it no failure that it does not
		ctx, stop := context.WithTimeout(m.Context(), 20*time.Second)
		out, err := exec.CommandContext(ctx, "iperf3", append([]string{"-c", linktest.HubInner, "--connect-timeout", "3000", "-t", "5", "-O", "1", "-J"}, args...)...).Output()
		stop()
		if err == nil {
			var report struct {
				End struct {
					Received struct {
						Rate float64 `json:"bits_per_second"`
					} `json:"sum_received"`
				}
				Error string
			}
			m.must(json.Unmarshal(out, &report))
			if report.Error == "" {
				return int(report.End.Received.Rate / 1e6)
			}
			said = report.Error
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.Fatalf("iperf3 gets no further: %s", said)
	return 0
}
