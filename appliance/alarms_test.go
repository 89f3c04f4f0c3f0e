package appliance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/link"
	"rescuebox/appliance/modem"
	"rescuebox/appliance/notify"
)

// people are told by an alarms that runs in a bubble of time.
type people struct {
	*testing.T
	*alarms
	mu    sync.Mutex
	told  []string
	shook time.Time
	full  error // of the disk
	disk  map[string]subject
	key   string // of the file's hub
	end   func()
}

func (p *people) Put(key string, s subject) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disk[key] = s
	return p.full
}

func (p *people) All() (list []subject, err error) {
	for _, s := range p.disk {
		list = append(list, s)
	}
	return list, nil
}

// start is a new life of the daemon.
func (p *people) start() {
	p.alarms = &alarms{store: p, hub: p.key, site: "kazan-2", subjects: map[string]*subject{}, wake: make(chan struct{}, 1), log: zap.NewNop()}
	p.alarms.handshake = func() time.Time { p.mu.Lock(); defer p.mu.Unlock(); return p.shook }
	p.tell = func(m notify.Message) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.full == nil {
			p.told = append(p.told, m.Text)
		}
		return p.full
	}
	ctx, cancel := context.WithCancel(p.Context())
	ended := make(chan error)
	go func() { ended <- p.alarms.Run(ctx, func() {}) }()
	p.end = func() {
		cancel()
		if err := <-ended; err != nil {
			p.Error(err)
		}
	}
}

// bubble runs a test with people who know nothing yet.
func bubble(t *testing.T, f func(p *people)) {
	synctest.Test(t, func(t *testing.T) {
		p := &people{T: t, disk: map[string]subject{}, key: "key"}
		p.start()
		f(p)
		p.end()
	})
}

func (p *people) fill(err error) { p.mu.Lock(); p.full = err; p.mu.Unlock() }

func (p *people) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told)
}

func (p *people) shake() { p.mu.Lock(); p.shook = time.Now(); p.mu.Unlock(); p.after(time.Minute) }

func (p *people) after(d time.Duration) { time.Sleep(d); synctest.Wait() }

func (p *people) use(from, to string) {
	p.link(link.Event{At: time.Now(), Kind: link.Switched, From: from, Uplink: to, Reason: "now " + to})
	synctest.Wait()
}

func (p *people) hubIs(by string) {
	reason := "the hub is silent on every uplink"
	if by != "" {
		reason = "the hub is back by " + by
	}
	p.link(link.Event{At: time.Now(), Kind: link.Hub, Uplink: by, Reason: reason})
	synctest.Wait()
}

func (p *people) want(list ...string) {
	p.Helper()
	if !slices.Equal(p.heard(), list) {
		p.Errorf("told %q, want %q", p.heard(), list)
	}
}

// At the very first start the hub does not know the box, and whoever sets it up is there.
func TestNoAlarmBeforeTheHubWasHeard(t *testing.T) {
	bubble(t, func(p *people) {
		p.use("", "wan")
		p.hubIs("")
		p.after(24 * time.Hour)
		p.end()
		p.start() // nor at the second
		p.hubIs("")
		p.after(time.Hour)
		p.want()
		p.shake() // it was let in
		p.hubIs("wan")
		p.want()
		p.after(time.Hour)
		p.hubIs("")
		p.want("the hub is silent on every uplink")
		p.after(time.Hour)
		p.hubIs("lte")
		p.want("the hub is silent on every uplink", "the hub is back by lte")
	})
}

// A hub that was heard in an earlier life is missed; that it is still silent is no news to a new life.
func TestHubOfAnEarlierLife(t *testing.T) {
	bubble(t, func(p *people) {
		p.shake()
		p.end()
		p.shook = time.Time{}
		p.start()
		p.hubIs("")
		p.want("the hub is silent on every uplink")
		p.end()
		p.start()
		p.hubIs("")
		p.after(time.Hour)
		p.want("the hub is silent on every uplink")
		p.hubIs("wan")
		p.want("the hub is silent on every uplink", "the hub is back by wan")
		p.end()
		p.key = "another" // the file has a new hub, which does not know the box
		p.start()
		p.hubIs("")
		p.after(time.Hour)
		if len(p.heard()) != 2 {
			p.Errorf("told of a hub that was never heard: %q", p.heard())
		}
	})
}

// A line that dies is told at once, and that it is back at the end of the pause.
func TestLineDiesOnce(t *testing.T) {
	bubble(t, func(p *people) {
		p.use("", "wan")
		p.after(time.Hour)
		p.use("wan", "lte")
		p.want("now lte")
		p.after(2 * time.Minute)
		p.use("lte", "wan")
		p.want("now lte")
		p.after(firstQuiet)
		p.want("now lte", "now wan")
		p.after(24 * time.Hour)
		p.use("wan", "lte")
		p.want("now lte", "now wan", "now lte")
	})
}

// A WAN that flaps all day costs few messages, and in the end people know the truth.
func TestFlappingDoesNotEatTheBudget(t *testing.T) {
	bubble(t, func(p *people) {
		p.use("", "wan")
		p.after(time.Hour)
		for range 12 * 24 { // the cap of [link] max_switches
			p.use("wan", "lte")
			p.after(150 * time.Second)
			p.use("lte", "wan")
			p.after(150 * time.Second)
		}
		if n := len(p.heard()); n < 2 || n > 12 {
			p.Errorf("%d messages in a day, want few", n)
		}
		p.use("wan", "lte")
		p.after(lastQuiet)
		list := p.heard()
		if last := list[len(list)-1]; !strings.HasPrefix(last, "now lte") {
			p.Errorf("told last: %q", last)
		}
		if !slices.ContainsFunc(p.heard(), func(s string) bool { return strings.Contains(s, " changes since ") }) {
			p.Errorf("nobody is told that it flaps: %q", p.heard())
		}
	})
}

// The first uplink of a new start may be the wrong one for a moment; and a start is no news.
func TestRestartIsNoNews(t *testing.T) {
	bubble(t, func(p *people) {
		p.use("", "wan")
		p.after(time.Hour)
		p.use("wan", "lte")
		p.after(time.Hour)
		p.end()
		p.start()
		p.use("", "wan")
		p.after(time.Second)
		p.use("wan", "lte")
		p.after(time.Hour)
		p.want("now lte")
		p.end()
		p.start() // the line was mended meanwhile
		p.use("", "wan")
		p.after(settling)
		p.want("now lte", "now wan")
	})
}

// A drill tells whoever drills; that the line did not come back, all.
func TestDrillIsNoAlarm(t *testing.T) {
	bubble(t, func(p *people) {
		drill := func() { p.link(link.Event{At: time.Now(), Kind: link.Drill, Uplink: "wan"}) }
		p.use("", "wan")
		p.after(time.Hour)
		for _, back := range []bool{true, false} {
			drill()
			p.use("wan", "lte")
			p.after(time.Minute)
			if back {
				p.use("lte", "wan")
			}
			p.after(time.Minute)
			drill()
			p.after(time.Minute)
		}
		if len(p.heard()) != 1 || !strings.HasPrefix(p.heard()[0], "now lte") {
			p.Errorf("told %q, want once that it is lte", p.heard())
		}
	})
}

// An outbox that cannot store gets it again, and of a modem each trouble is told.
func TestAlarmsOfModemsAndAFullDisk(t *testing.T) {
	bubble(t, func(p *people) {
		p.fill(errors.New("disk full"))
		p.modem(modem.Event{Time: time.Now(), Modem: "lte", Kind: "quota", Text: "half of the volume is used"})
		p.after(5 * time.Minute)
		p.fill(nil)
		p.after(time.Minute)
		p.want("half of the volume is used")
		p.after(time.Hour)
		for range 1000 { // at a border
			p.modem(modem.Event{Time: time.Now(), Modem: "lte", Kind: "roaming", Text: "modem lte roams"})
			p.after(time.Minute)
		}
		if n := len(p.heard()); n < 2 || n > 10 {
			p.Errorf("%d messages, want few", n)
		}
	})
}
