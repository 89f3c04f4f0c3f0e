package link

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
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
	poke chan struct{} // there is a new plan
	news chan struct{} // the kernel told of something
	hurt chan struct{} // it told of our table in nftables

	written  string // the filter's rules; "": not known
	tried    string // the rules of the last write
	listed   string // what nft read back after it
	filtered error  // by the last look at the filter
	crash    error  // why a drill's cut that a crash left is not taken away yet
}

func newPlumber(c Config, trouble func([]string)) *plumber {
	p := &plumber{ports: c.Ports, trouble: trouble, poke: make(chan struct{}, 1), news: make(chan struct{}, 1), hurt: make(chan struct{}, 1), plan: plan{active: -1}}
	for _, u := range c.Uplinks {
		p.metered = append(p.metered, u.Metered)
	}
	return p
}

// follow takes a new plan; lost are addresses of an uplink that was lost with it. The same plan once more comes
// with news of the kernel's: it may be that somebody took rules or routes of ours away.
func (p *plumber) follow(to plan, lost []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plan.equal(to) && len(lost) == 0 {
		signal(p.news)
		return
	}
	for _, a := range lost {
		if !to.elsewhere(p.plan.active, a.Addr()) { // the lost one was active
			p.lost = append(p.lost, a)
		}
	}
	p.plan = to
	p.nudge()
}

// filter writes our table if it is to be another one than before, or is another one, or gone.
func (p *plumber) filter() error {
	p.mu.Lock()
	f := p.filterLocked()
	p.mu.Unlock()
	rules := f.rules()
	if now := f.listed(); rules == p.written && now == p.listed && (now != "") == (len(f.metered) > 0) {
		return nil
	}
	p.written = "" // until nft says so: what it did before an error is not known
	if err := f.set(); err != nil {
		return err
	}
	now := f.listed()
	if rules == p.tried && now == p.listed { // twice the same: nobody was quicker. Else the news of this write ask once more
		p.written = rules
	}
	p.tried, p.listed = rules, now
	return nil
}

func (p *plumber) nudge() { signal(p.poke) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const (
	// putRight is how often all is looked over without a reason, and again the same after nft refused the filter: a
	// metered uplink is open until it is there.
	putRight = 30 * time.Second
	again    = 2 * time.Second
	// respite is the time from one look to the next that news ask for. systemd-networkd takes rules away that it does
	// not know when it starts; what takes them away again and again is not to have this box at work all the time.
	respite = 500 * time.Millisecond
)

// run works until ctx is done, then takes everything away.
func (p *plumber) run(ctx context.Context) error {
	if socket, err := subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err == nil { // else there is no nftables
		var hearing sync.WaitGroup
		hearing.Go(func() { hearFilter(socket, func() { signal(p.hurt) }) })
		defer hearing.Wait()
		defer socket.Close()
	}
	p.crash = uncut()
	tick := time.NewTicker(putRight)
	defer tick.Stop()
	for all := true; ; {
		p.mend(all)
		if all && p.filtered != nil {
			tick.Reset(again)
		} else if all {
			tick.Reset(putRight)
		}
		var ok bool
		if all, ok = p.next(ctx, tick.C); !ok {
			return errors.Join(clearRoutes(), filter{}.set(), uncut())
		}
	}
}

// mend makes rules and routes those of the plan and, if all is to be looked over, the filter, too: to ask nft costs more.
func (p *plumber) mend(all bool) {
	p.mu.Lock()
	now, lost := p.plan, p.lost
	p.lost = nil
	p.mu.Unlock()
	errs := []error{route(now)}
	if len(lost) > 0 {
		errs = append(errs, flush(lost))
	}
	if all {
		p.filtered = p.filter()
		if p.crash != nil {
			p.crash = uncut()
		}
	}
	errs = append(append(errs, p.filtered, p.crash), now.twins()...)
	for _, s := range now.paths {
		if s.index != 0 {
			errs = append(errs, strict(s))
		}
	}
	p.trouble(sentences(errs))
}

// next waits for a reason to mend; not ok is the end. A new plan does not wait for the respite.
func (p *plumber) next(ctx context.Context, tick <-chan time.Time) (all, ok bool) {
	rest := time.NewTimer(respite)
	defer rest.Stop()
	for news, hurt := (chan struct{})(nil), (chan struct{})(nil); ; {
		select {
		case <-ctx.Done():
			return false, false
		case <-p.poke:
			return true, true
		case <-tick:
			return true, true
		case <-rest.C:
			news, hurt = p.news, p.hurt
		case <-hurt:
			return true, true
		case <-news:
			return false, true
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
