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
	port    int
	metered []bool // by uplink
	trouble func([]string)

	mu   sync.Mutex
	plan plan
	lost []netip.Prefix
	cut  string
	end  time.Time // of the cut
	poke chan struct{}
}

func newPlumber(c Config, trouble func([]string)) *plumber {
	p := &plumber{port: c.TunnelPort, trouble: trouble, poke: make(chan struct{}, 1), plan: plan{active: -1}}
	for _, u := range c.Uplinks {
		p.metered = append(p.metered, u.Metered)
	}
	return p
}

// set takes a new plan; lost are addresses of an uplink that was lost with it.
func (p *plumber) set(to plan, lost []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plan.equal(to) && len(lost) == 0 {
		return
	}
	p.plan, p.lost = to, append(p.lost, lost...)
	p.nudge()
}

// sever cuts a device off until a time; "" ends that.
func (p *plumber) sever(device string, until time.Time) error {
	p.mu.Lock()
	p.cut, p.end = device, until
	f := p.filterLocked()
	p.mu.Unlock()
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
	var set filter
	first := true
	for tick := time.NewTicker(putRight); ; {
		p.mu.Lock()
		now, lost, f := p.plan, p.lost, p.filterLocked()
		p.lost = nil
		p.mu.Unlock()
		errs := []error{route(now)}
		if len(lost) > 0 {
			errs = append(errs, flush(lost))
		}
		if first || !f.same(set) || !tableThere(f) {
			errs = append(errs, f.set())
			set, first = f, false
		}
		for _, s := range now.paths {
			if s.index != 0 {
				errs = append(errs, strict(s))
			}
		}
		p.trouble(sentences(errs))
		select {
		case <-ctx.Done():
			tick.Stop()
			return errors.Join(clearRoutes(), filter{}.set())
		case <-p.poke:
		case <-tick.C:
		}
	}
}

func (p *plumber) filterLocked() filter {
	f := filter{port: p.port, cut: p.cut, until: p.end}
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
