package link

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// plumber keeps the kernel's routes and filters as they are to be. It works beside the loop, which must
// not wait for it: a tunnel does not need it for its switch.
type plumber struct {
	ports   func() []int
	metered []bool // by uplink
	trouble func([]string)

	mu   sync.Mutex
	plan plan
	lost []netip.Prefix
	poke chan struct{}

	set     filter // as written last
	written bool
}

func newPlumber(c Config, trouble func([]string)) *plumber {
	p := &plumber{ports: c.Ports, trouble: trouble, poke: make(chan struct{}, 1), plan: plan{active: -1}}
	for _, u := range c.Uplinks {
		p.metered = append(p.metered, u.Metered)
	}
	return p
}

// follow takes a new plan; lost are addresses of an uplink that was lost with it.
func (p *plumber) follow(to plan, lost []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plan.equal(to) && len(lost) == 0 {
		return
	}
	p.plan, p.lost = to, append(p.lost, lost...)
	p.nudge()
}

// filter writes our table if it is another one than before, or gone.
func (p *plumber) filter() error {
	p.mu.Lock()
	f := p.filterLocked()
	p.mu.Unlock()
	if p.written && f.same(p.set) && tableThere(f) {
		return nil
	}
	p.set, p.written = f, true
	return f.set()
}

func (p *plumber) nudge() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// putRight is how often all is looked over without a reason: systemd-networkd takes rules away that it
// does not know when it starts, and somebody may flush nftables' ruleset.
const putRight = 30 * time.Second

// run works until ctx is done, then takes everything away.
func (p *plumber) run(ctx context.Context) error {
	crash := uncut() // a drill's
	for tick := time.NewTicker(putRight); ; {
		p.mu.Lock()
		now, lost := p.plan, p.lost
		p.lost = nil
		p.mu.Unlock()
		errs := []error{route(now), crash}
		if len(lost) > 0 {
			errs = append(errs, flush(lost))
		}
		errs = append(errs, p.filter())
		for _, s := range now.paths {
			if s.index != 0 {
				errs = append(errs, strict(s))
			}
		}
		p.trouble(sentences(errs))
		select {
		case <-ctx.Done():
			tick.Stop()
			return errors.Join(clearRoutes(), filter{}.set(), uncut())
		case <-p.poke:
		case <-tick.C:
		}
	}
}

func (p *plumber) filterLocked() filter {
	f := filter{}
	if p.ports != nil {
		f.ports = p.ports()
	}
	for i, s := range p.plan.paths {
		if p.metered[i] && s.device != "" {
			f.metered = append(f.metered, s.device)
		}
	}
	slices.Sort(f.metered)
	return f
}

// sentences are the lines of errors, each once.
func sentences(errs []error) (list []string) {
	for _, err := range errs {
		if err == nil {
			continue
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			list = append(list, sentences(many.Unwrap())...)
		} else {
			list = append(list, err.Error())
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
