package modem

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warthog618/modem/at"
	"go.uber.org/zap"
)

// Times of a modem's life.
const (
	firstReopen = time.Second
	lastReopen  = 30 * time.Second
	lookEvery   = 30 * time.Second
	lookSoon    = 5 * time.Second // while there is no network
	clockEvery  = 6 * time.Hour
	wakeTries   = 4
	wakeAnswer  = 2 * time.Second
	introduce   = 2 * time.Minute // for a modem that is busy with its SIM to say who both are
)

// Run keeps the modem alive until ctx is done. A modem that is not there is no failure of
// the part: Status says so, and it is looked for again.
func (m *Modem) Run(ctx context.Context, ready func()) error {
	if err := errors.Join(m.recall(), m.prepareData()); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready()
	wg.Go(func() { m.keepBearer(ctx) })
	wg.Go(func() { m.recover(ctx) })
	if m.Device == "" { // a router of its own, or ModemManager's
		m.setState(NoPort, "")
		<-ctx.Done()
		return nil
	}
	m.live(ctx)
	return nil
}

// live opens the port again and again.
func (m *Modem) live(ctx context.Context) {
	delay := firstReopen
	for ctx.Err() == nil {
		began := time.Now()
		l, err := m.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if l != nil {
			m.lendTo(ctx, l)
			continue
		}
		m.lost(err)
		if time.Since(began) > time.Minute {
			delay = firstReopen
		}
		if errors.Is(err, errNoPort) {
			delay = firstReopen // to look for it costs nothing
		}
		if l := m.rest(ctx, delay); l != nil {
			m.lendTo(ctx, l)
		}
		delay = min(2*delay, lastReopen)
	}
}

// rest waits, or until somebody borrows the port.
func (m *Modem) rest(ctx context.Context, d time.Duration) *loan {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		moved := m.change()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			return nil
		case l := <-m.lendable():
			return l
		case <-moved:
		}
	}
}

// lost shows why there is no session.
func (m *Modem) lost(err error) {
	state := Mute
	switch {
	case errors.Is(err, errNoPort):
		state = Absent
	case errors.As(err, new(errNotOurs)):
		state = Held
	}
	why := err.Error()
	if state == Mute && m.rival {
		why += "; " + rivalWhy
	}
	m.setState(state, why)
}

const rivalWhy = "ModemManager runs here and was not told to leave the AT port alone, so it may talk in between: install systemd/70-rescuebox-modem.rules and pull the modem out and in"

// once is one session, from the port's opening to its loss, or to the one who borrows the port.
func (m *Modem) once(ctx context.Context) (*loan, error) {
	path, id, err := m.places.find(m.Device, m.knownUSB())
	if err != nil {
		return nil, err
	}
	p, err := openTTY(path, m.Speed)
	if err != nil {
		m.rival = false // who has it is in the error
		return nil, err
	}
	m.noteUSB(id)
	m.rival = m.places.rival(path)
	s := newSession(p, path, m.log, nil)
	m.show(func(to *Status) { to.Device = path })
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		m.setCurrent(nil)
		m.setOpen(nil)
		cancel()
		s.close()
		wg.Wait()
	}()
	return m.attend(ctx, s, &wg)
}

// attend wakes the modem and looks after it until the session ends.
func (m *Modem) attend(ctx context.Context, s *session, wg *sync.WaitGroup) (*loan, error) {
	if err := m.wake(ctx, s); err != nil {
		return nil, err
	}
	m.setOpen(s)
	m.identify(ctx, s)
	v := &visit{m: m, s: s, wg: wg, refused: map[string]bool{}}
	for {
		err := v.look(ctx)
		var halt *stuck
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &halt):
			m.setCurrent(nil)
			v.ready = time.Time{}
			m.halted(halt)
		case err != nil && s.over():
			return nil, s.err()
		case err != nil:
			m.log.Debug("modem", zap.NamedError("err", err))
		}
		if l, err := v.wait(ctx, halt != nil || err != nil); l != nil || err != nil {
			return l, err
		}
	}
}

// visit is what one session found out.
type visit struct {
	m       *Modem
	s       *session
	wg      *sync.WaitGroup
	ready   time.Time       // since when the SIM is, and the news are switched on
	named   bool            // the SIM said who it is
	texts   bool            // keepTexts runs
	refused map[string]bool // meters that this modem does not know
	clock   time.Time       // when the time was told
}

// look finds out how the modem is, from its foot: nothing is taken from the last look.
func (v *visit) look(ctx context.Context) error {
	if err := v.m.radioOn(ctx, v.s); err != nil {
		return err
	}
	if err := v.m.unlock(ctx, v.s); err != nil {
		return err
	}
	first := v.ready.IsZero()
	if first {
		v.ready = time.Now()
		watchNetwork(ctx, v.s)
	}
	if first || time.Since(v.ready) < introduce && (v.m.Status().Manufacturer == "" || !v.named) {
		if v.m.Status().Manufacturer == "" {
			v.m.identify(ctx, v.s)
		}
		v.named = v.m.identifySIM(ctx, v.s)
	}
	n, err := askNetwork(ctx, v.s)
	if err != nil {
		return err
	}
	sig, err := askSignal(ctx, v.s, v.refused)
	if err != nil {
		return err
	}
	sig.Technology = n.technology
	v.m.setCurrent(v.s)
	v.m.arrived(n, sig)
	if !v.texts {
		v.texts = true
		v.wg.Go(func() { v.m.keepTexts(ctx, v.s) })
	}
	if !n.registered() || time.Since(v.clock) <= clockEvery {
		return nil
	}
	told, err := v.m.offerClock(ctx, v.s)
	if told {
		v.clock = time.Now()
	}
	return err
}

// wait waits for a reason to look again, or for one who borrows the port.
func (v *visit) wait(ctx context.Context, soon bool) (*loan, error) {
	every := v.m.SignalInterval
	if every == 0 {
		every = lookEvery
	}
	if soon || v.m.state() != Registered {
		every = min(every, lookSoon)
	}
	t := time.NewTimer(every)
	defer t.Stop()
	for {
		moved := v.m.change()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-v.s.closed():
			return nil, v.s.err()
		case l := <-v.m.lendable():
			return l, nil
		case <-moved:
		case <-v.s.network:
			// A modem that finds its network says five things in a second; one look is enough for them.
			return nil, v.s.pause(ctx, time.Second/2)
		case <-t.C:
			return nil, nil
		}
	}
}

// wake makes the modem talk as we want it. It may be half asleep, in the middle of a text or of a call, or echo. Nobody
// else has the session yet: what he says would go to the network too, and be no silence around the escape.
func (m *Modem) wake(ctx context.Context, s *session) error {
	s.at.Escape('\r', '\n')
	say := func(cmd string) error { // a modem in a call answers no probe: to find the step again is for what comes behind
		_, err := s.ask(ctx, request{cmd: cmd, timeout: wakeAnswer, blind: true})
		return err
	}
	var err error
	for try := range wakeTries {
		if err = say(""); err == nil || ctx.Err() != nil || s.over() {
			break
		}
		if try%2 == 0 && !s.wire.babbling() { // twice: a busy system may have spoiled the first silence
			_ = leaveCall(ctx, s.wire.port, say) // the next try shows
		}
	}
	if err != nil {
		if s.wire.babbling() {
			return fmt.Errorf("AT port %s: it says a lot and nothing that makes sense: is it the modem's AT port, or another one of its ports?", s.device)
		}
		if s.over() {
			return s.err()
		}
		return fmt.Errorf("AT port %s: %w: is it the modem's AT port? Try the next of its ports, or cut its power", s.device, errMute)
	}
	for _, cmd := range []string{"Z", "E0", "V1", "+CMEE=1"} {
		if _, err := s.command(ctx, cmd, "", shortAnswer); err != nil && !isRefusal(err) {
			return err
		}
	}
	return nil
}

// isRefusal says that the modem answered, and said no.
func isRefusal(err error) bool {
	var cme at.CMEError
	var cms at.CMSError
	var dial at.ConnectError
	return errors.Is(err, at.ErrError) || errors.As(err, &cme) || errors.As(err, &cms) || errors.As(err, &dial)
}

// loan hands the AT port to somebody else for a while: pppd on a modem with one port only.
type loan struct {
	granted chan string   // the path of the port, once the session is closed
	done    chan struct{} // closed when it is given back
}

// lend closes the session, calls use with the path of the AT port, and opens a new session when it returns. Without
// the port there are no messages and no signal: for modems with one port only.
func (m *Modem) lend(ctx context.Context, use func(device string) error) error {
	l := &loan{granted: make(chan string, 1), done: make(chan struct{})}
	defer close(l.done)
	select {
	case m.loans <- l:
	case <-ctx.Done():
		return notNow("the modem's only port was not free for data: the modem is " + string(m.state()))
	}
	select {
	case device := <-l.granted:
		// What the last look found out, in the meantime, holds until the port is back: a call may have ended because the
		// modem went into a foreign network.
		if err := m.mayDial(); err != nil && !passing(err) {
			return err
		}
		return use(device)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lentWhy is what a modem without another port cannot do meanwhile.
const lentWhy = "no text message comes or goes while data is up: the modem's only port carries it (ppp_port names a second one)"

// lendTo waits until the port is given back.
func (m *Modem) lendTo(ctx context.Context, l *loan) {
	m.setState(Lent, "")
	m.lentTexts(true)
	defer m.lentTexts(false)
	l.granted <- m.device()
	select {
	case <-l.done:
	case <-ctx.Done():
	}
}

// lentTexts shows whether the port is lent where people look for their messages.
func (m *Modem) lentTexts(lent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.texts.Why = ""
	if lent {
		m.texts.Why = lentWhy
	}
}
