package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/power"
)

// How a power that was taken is given back.
const (
	// takenFor is how long after a cycle that never ended a machine is still switched on. Whoever
	// finds it off later may have a hand in it.
	takenFor  = 24 * time.Hour
	offWithin = time.Minute      // a machine that has power so long after off was asked will not lose it any more
	restFor   = 10 * time.Second // where controller or outlet are in mid-cycle themselves, they get that long to end it
	glance    = 2 * time.Second
	askAgain  = 5 * time.Minute // one that does not answer is asked again so often, at last
	textAgain = 4 * time.Hour   // and one where each question is a text message, from the day's budget
)

// takenPower says that a machine's power was taken for a cycle, and is not known to be back.
type takenPower struct {
	Machine string
	By      api.Power // what took it, and gives it back
	Time    time.Time
}

// takenStore keeps it over a restart; state.Table does.
type takenStore interface {
	Put(key string, t takenPower) error
	Delete(key string) error
	All() ([]takenPower, error)
}

// taken knows whose power was taken and not given back yet. It is stored before the power
// is: whatever ends the daemon between off and on, the next start finds it.
type taken struct {
	store takenStore
	log   *zap.Logger
	owing chan string // machines that nobody is switching any more and that are not known to be on

	mu    sync.Mutex
	all   map[string]takenPower // by machine
	hands map[string]int        // cycles that are under way
	cares map[string]bool       // of which somebody gives the power back
}

func newTaken(store takenStore, log *zap.Logger) *taken {
	t := &taken{store: store, log: log, owing: make(chan string, maxWaiting), all: map[string]takenPower{}, hands: map[string]int{}, cares: map[string]bool{}}
	list, err := store.All()
	if err != nil {
		log.Error("whose power was taken cannot be read: look whether all machines are on", zap.NamedError("err", err))
	}
	for _, one := range list {
		t.all[one.Machine] = one
	}
	return t
}

// take notes that a machine's power is about to be taken. A full disk keeps nobody from being rescued.
func (t *taken) take(machine string, by api.Power) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all[machine] = takenPower{Machine: machine, By: by, Time: time.Now()}
	if err := t.store.Put(machine, t.all[machine]); err != nil {
		t.log.Error("that its power is taken is not stored", zap.String("machine", machine), zap.NamedError("err", err))
	}
}

// of is what is known of a machine.
func (t *taken) of(machine string) (one takenPower, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one, ok = t.all[machine]
	return one, ok
}

// machines are those that are without power, for all that is known.
func (t *taken) machines() (list []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.all {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// back notes that a machine has its power, or is not to have it.
func (t *taken) back(machine string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.all[machine]; !ok {
		return
	}
	delete(t.all, machine)
	if err := t.store.Delete(machine); err != nil { // at the next start it is looked at once more
		t.log.Error("that its power is back is not stored", zap.String("machine", machine), zap.NamedError("err", err))
	}
}

// owe has a machine looked after, unless it is under way or the box stops: then the next start does.
func (t *taken) owe(machine string) {
	if _, ok := t.of(machine); !ok {
		return
	}
	select {
	case t.owing <- machine:
	default:
	}
}

// care is for one at a time, until cared.
func (t *taken) care(machine string) (one takenPower, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one, ok = t.all[machine]
	if !ok || t.cares[machine] {
		return one, false
	}
	t.cares[machine] = true
	return one, true
}

func (t *taken) cared(machine string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.cares, machine)
}

// cycle runs what may take a machine's power. As long as it has, the box does not stop.
func (t *taken) cycle(machine string, do func() error) error {
	t.hand(machine, 1)
	defer t.hand(machine, -1)
	return do()
}

func (t *taken) hand(machine string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hands[machine] += n; t.hands[machine] == 0 {
		delete(t.hands, machine)
	}
}

// underWay are the machines whose power was taken by a cycle that is still at it.
func (t *taken) underWay() (list []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.hands {
		if _, ok := t.all[name]; ok {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// handle is by what a machine's power is given back.
type handle interface {
	State(ctx context.Context) (bmc.State, error)
	// On switches on what is in a state, as far as that is known.
	On(ctx context.Context, now bmc.State) error
}

// giver gives one machine its power back.
type giver struct {
	*powering
	one  takenPower
	by   handle
	busy *machinePower // whoever else switches it
	said string        // last
}

// giveBack sees to it that a machine has power after a cycle that nobody brought to its end. It returns
// when the machine has, when it is no longer to have it, or when ctx is done.
func (p *powering) giveBack(ctx context.Context, machine string, c *machinePower) {
	one, ok := p.taken.care(machine)
	if !ok {
		return
	}
	defer p.taken.cared(machine)
	g := &giver{powering: p, one: one, by: c.handle(one.By), busy: c}
	if g.by == nil {
		g.end(fmt.Sprintf("the power of %s was taken by its %s, which is no longer in the file of the site: look whether it is on", machine, one.By))
		return
	}
	g.run(ctx)
}

func (g *giver) run(ctx context.Context) {
	age := max(0, time.Since(g.one.Time)) // the clock may have been set back
	if age > takenFor {
		g.end(fmt.Sprintf("power was taken for a cycle at %s, and nobody knows whether it came back: look at it", g.one.Time.Format(time.DateTime)))
		return
	}
	begun := time.Now()
	falls, rests := begun.Add(offWithin-age), begun.Add(restFor-age)
	soon, last := glance, askAgain
	costs := g.one.By == api.BySwitch && g.busy.texts
	if costs {
		soon, last = askAgain, textAgain
	}
	for wait := soon; ; wait = min(2*wait, last) {
		state, err := g.look(ctx)
		now := time.Now()
		switch unseen := errors.Is(err, bmc.ErrUnsupported); {
		case ctx.Err() != nil, !g.owed():
			return
		case now.Sub(begun) > takenFor-age:
			g.end(fmt.Sprintf("power was taken for a cycle at %s, and whether it came back cannot be seen: look at it", g.one.Time.Format(time.DateTime)))
			return
		case err == nil && state == bmc.On && now.After(falls):
			g.is()
			return
		case err == nil && state == bmc.On, err == nil && state == bmc.Off && now.Before(rests):
			wait = soon
		case err == nil && state == bmc.Off, unseen:
			err = g.on(ctx, state)
			if unseen && (err == nil || errors.Is(err, bmc.ErrUnsupported)) { // there is no more to be done
				g.end("whether power is back cannot be seen: look at it")
				return
			}
			if err == nil || !costs {
				wait = soon
			}
		}
		if err != nil {
			g.tell(fmt.Sprintf("power was taken for a cycle that did not come to its end, and whether it is back is not known: %v; it is asked again", err))
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// look asks for the state, not in the middle of a press.
func (g *giver) look(ctx context.Context) (bmc.State, error) {
	g.busy.pressing.Lock()
	defer g.busy.pressing.Unlock()
	if !g.owed() {
		return bmc.Unknown, nil
	}
	return g.by.State(ctx)
}

// owed reports whether nobody else has switched the machine since.
func (g *giver) owed() bool {
	now, ok := g.taken.of(g.one.Machine)
	return ok && now == g.one
}

// on switches on, unless somebody has just switched off. The box does not stop meanwhile.
func (g *giver) on(ctx context.Context, state bmc.State) error {
	g.busy.switching.Lock()
	defer g.busy.switching.Unlock()
	if !g.owed() {
		return nil
	}
	g.tell("power was taken for a cycle that did not come to its end: it is switched on again")
	return g.taken.cycle(g.one.Machine, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cyclePatience)
		defer cancel()
		return g.by.On(ctx, state)
	})
}

// is ends it well.
func (g *giver) is() {
	if g.said != "" {
		g.record("power is back")
	}
	g.taken.back(g.one.Machine)
}

// end gives up.
func (g *giver) end(why string) {
	g.record(why)
	g.taken.back(g.one.Machine)
}

// tell says nothing twice in a row.
func (g *giver) tell(text string) {
	if g.said != text {
		g.record(text)
	}
	g.said = text
}

func (g *giver) record(text string) {
	g.orders.Record(boot.Event{Step: boot.StepPower, Machine: g.one.Machine, Text: text})
}

// handle is a machine's BMC or switch; nil where it has none.
func (p *machinePower) handle(by api.Power) handle {
	switch {
	case by == api.ByBMC && p.bmc != nil:
		return byBMC{p.bmc}
	case by == api.BySwitch && p.outlet != nil:
		return bySwitchOf{p.outlet}
	}
	return nil
}

type byBMC struct{ *bmc.Client }

func (b byBMC) State(ctx context.Context) (bmc.State, error) { return b.Power(ctx) }
func (b byBMC) On(ctx context.Context, _ bmc.State) error    { return b.Do(ctx, bmc.PowerOn) }

type bySwitchOf struct{ power.Switch }

func (b bySwitchOf) State(ctx context.Context) (bmc.State, error) {
	state, err := b.Switch.State(ctx)
	return bmc.State(state), bySwitch(err)
}

// On is a cycle where the site's program knows nothing else: of what is off, that is on.
func (b bySwitchOf) On(ctx context.Context, now bmc.State) error {
	err := b.Switch.On(ctx)
	if errors.Is(err, power.ErrUnsupported) && now == bmc.Off {
		err = b.Cycle(ctx)
	}
	return bySwitch(err)
}
