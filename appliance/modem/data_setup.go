package modem

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setup keeps the addresses of a device that is ours to set up, by DHCP or as given, and
// by router advertisements. The addresses of one of the families are enough.
type setup struct {
	name   string
	v4, v6 bool
	// static is what the modem gave by AT commands, for devices where no DHCP server answers.
	static func(ctx context.Context) (Link, error)
	noDHCP bool          // static it is
	term   time.Duration // a lease is renewed after that at the latest; 0 is renewAtLast
	local  netip.Prefix  // a link-local address that the network gave, for router advertisements
	// alive asks whatever else must be true while the bearer is up; nil: nothing.
	alive func(ctx context.Context) error
	// news makes alive asked at once; it is another channel after a lost AT session.
	news func() <-chan struct{}

	link    netlink.Link
	four    Link // of DHCP or static
	six     Link // of router advertisements
	changed func(Link)
}

// renewAtLast is after how long a lease is renewed whatever it says: a modem that restarted
// unnoticed has forgotten it, and to ask it costs nothing.
const renewAtLast = 15 * time.Minute

// aliveEvery is how often alive is asked without news: it costs an AT command.
const aliveEvery = 30 * time.Second

// keep holds the addresses until ctx is done, or the device or what alive asks for is lost.
func (s *setup) keep(ctx context.Context, changed func(Link)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	group := &group{cancel: cancel}
	defer group.wait()
	defer cancel(nil)
	link, err := device(s.name).raise()
	if err != nil {
		return err
	}
	s.link, s.changed = link, changed
	if s.local.IsValid() {
		if err := put(link, s.local, 0); err != nil {
			return err
		}
	}
	events, err := netChanges(ctx)
	if err != nil {
		return err
	}
	fours, sixes := make(chan Link), make(chan Link)
	if s.v4 {
		group.run(func() error { return s.keepFour(ctx, fours) })
	}
	if s.v6 {
		group.run(func() error { return s.keepSix(ctx, sixes) })
	}
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		var news <-chan struct{}
		if s.news != nil {
			news = s.news()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case s.four = <-fours:
			s.tell()
		case s.six = <-sixes:
			s.tell()
		case <-events:
			err = s.there()
		case <-news:
			err = s.lives(ctx)
		case <-tick.C:
			err = errors.Join(s.there(), s.lives(ctx))
		}
		if err != nil {
			return err
		}
	}
}

// there is an error once the device is gone, or another one by its name, or without a link.
func (s *setup) there() error {
	now, err := device(s.name).find()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errLost, err)
	case now.Attrs().Index != s.link.Attrs().Index:
		return fmt.Errorf("%w: %s is another device now", errLost, s.name)
	case !carrier(now):
		return fmt.Errorf("%w: %s has no carrier", errLost, s.name)
	}
	device(s.name).noDefault(now)
	return nil
}

func (s *setup) lives(ctx context.Context) error {
	if s.alive == nil {
		return nil
	}
	return s.alive(ctx)
}

// tell passes on both families as one.
func (s *setup) tell() {
	l := Link{Device: s.name, Gateway: s.four.Gateway, Gateway6: s.four.Gateway6, MTU: s.four.MTU}
	l.via(s.six.Gateway)
	l.Addresses = slices.Concat(s.four.Addresses, s.six.Addresses)
	l.DNS = slices.Concat(s.four.DNS, s.six.DNS)
	if s.six.MTU != 0 && (l.MTU == 0 || s.six.MTU < l.MTU) {
		l.MTU = s.six.MTU
	}
	if !l.Up() {
		l = Link{Err: errors.Join(s.four.Err, s.six.Err)}
	}
	s.changed(l)
}

// keepFour has an IPv4 address, renewed as its lease says.
func (s *setup) keepFour(ctx context.Context, out chan<- Link) error {
	if s.noDHCP {
		return s.keepStatic(ctx, out)
	}
	client, err := newDHCP(s.name)
	if err != nil {
		return err
	}
	defer client.close()
	l, err := client.request(ctx)
	if errors.Is(err, errNoAnswer) && s.static != nil {
		return s.keepStatic(ctx, out)
	}
	for ; ; l, err = client.request(ctx) {
		if err != nil && s.v6 && !errors.Is(err, context.Canceled) {
			// The operator may have given IPv6 only: that is not the end.
			send(ctx, out, Link{Err: err})
			if wait(ctx, time.Minute) != nil {
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := s.renewing(ctx, client, l, out); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// renewing has a lease until it ends: then it returns nil for a new one to be asked for.
func (s *setup) renewing(ctx context.Context, client *dhcp, l lease, out chan<- Link) error {
	for {
		got := time.Now()
		if err := put(s.link, l.address, l.valid); err != nil {
			return err
		}
		if err := setMTU(s.link, l.mtu); err != nil {
			return err
		}
		send(ctx, out, Link{Device: s.name, Addresses: []netip.Prefix{l.address}, Gateway: l.gateway, DNS: l.dns, MTU: l.mtu})
		next, err := s.renew(ctx, client, l, got)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil || next.address != l.address {
			remove(s.link, l.address)
		}
		if err != nil {
			send(ctx, out, Link{Err: err})
			return nil
		}
		l = next
	}
}

// renew asks from T1 on, and again each eighth of what is left, until the lease is over (RFC 2131
// section 4.4.5).
func (s *setup) renew(ctx context.Context, client *dhcp, l lease, got time.Time) (lease, error) {
	term := s.term
	if term == 0 {
		term = renewAtLast
	}
	pause := min(l.renew, term)
	for {
		if err := wait(ctx, pause); err != nil {
			return lease{}, err
		}
		next, err := client.extend(ctx)
		if err == nil {
			return next, nil
		}
		left := l.valid - time.Since(got)
		if refused := (*Refusal)(nil); errors.As(err, &refused) || left <= 0 {
			return lease{}, fmt.Errorf("the address ran out: %w", err)
		}
		pause = min(max(left/8, 5*time.Second), left)
	}
}

// keepStatic has the address that the modem itself named.
func (s *setup) keepStatic(ctx context.Context, out chan<- Link) error {
	l, err := s.static(ctx)
	if err != nil {
		return err
	}
	l.Device = s.name
	for _, p := range l.Addresses {
		if err := put(s.link, p, 0); err != nil {
			return err
		}
	}
	if err := setMTU(s.link, l.MTU); err != nil {
		return err
	}
	send(ctx, out, l)
	<-ctx.Done()
	return nil
}

// keepSix has the addresses of the network's router advertisements. A network that sends
// none has no IPv6: that is no error.
func (s *setup) keepSix(ctx context.Context, out chan<- Link) error {
	sol, err := newSolicitor(s.name, s.link.Attrs().Index)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, sol.close)
	defer stop()
	defer sol.close()
	asking, done := context.WithCancel(ctx)
	var asks sync.WaitGroup
	defer asks.Wait()
	defer done()
	asks.Go(func() { solicit(asking, sol) })
	for {
		a, router, err := sol.next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: IPv6 on %s: %w", errLost, s.name, err)
		}
		if len(a.prefixes) == 0 {
			continue
		}
		done()
		l, err := s.advertised(a, router)
		if err != nil {
			return err
		}
		send(ctx, out, l)
	}
}

// solicit asks until it is told that there was an answer: the first times quickly, for
// DAD of the link-local address may still run.
func solicit(ctx context.Context, sol *solicitor) {
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, time.Minute) {
		_ = sol.ask()
		if wait(ctx, pause) != nil {
			return
		}
	}
}

// advertised sets the addresses of an advertisement: the network's half with our own.
func (s *setup) advertised(a advert, router netip.Addr) (Link, error) {
	id, err := s.interfaceID()
	if err != nil {
		return Link{}, err
	}
	l := Link{Device: s.name, DNS: a.dns, MTU: a.mtu}
	if a.router {
		l.Gateway = router
	}
	for _, p := range a.prefixes {
		whole := p.prefix.Addr().As16()
		copy(whole[8:], id[8:])
		addr := netip.PrefixFrom(netip.AddrFrom16(whole), 64)
		if err := put(s.link, addr, p.valid); err != nil {
			return Link{}, err
		}
		l.Addresses = append(l.Addresses, addr)
	}
	return l, nil
}

// interfaceID is our half of an IPv6 address: that of the link-local one, which PPP
// negotiated with the network (RFC 5072) and which DAD has found unique.
func (s *setup) interfaceID() ([16]byte, error) {
	if s.local.IsValid() {
		return s.local.Addr().As16(), nil
	}
	list, err := addrList(s.link, netlink.FAMILY_V6)
	if err != nil {
		return [16]byte{}, fmt.Errorf("read the addresses of %s: %w", s.name, err)
	}
	for _, a := range list {
		if p, ok := prefixOf(a.IPNet); ok && p.Addr().IsLinkLocalUnicast() && a.Scope == unix.RT_SCOPE_LINK {
			return p.Addr().As16(), nil
		}
	}
	return [16]byte{}, fmt.Errorf("%s has no link-local address: is IPv6 switched off on it?", s.name)
}
