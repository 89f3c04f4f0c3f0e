// Package modem keeps one AT modem alive: it finds its port, unlocks the SIM, waits for the network,
// brings the data bearer up and down, receives and sends text messages, and when the modem no longer
// does what it should, climbs a ladder of remedies, the harmless ones first.
//
// The AT port belongs to one session (session.go), which serialises the commands. Everything in it is level-triggered:
// a session that ends is followed by another, which finds out anew how things are. Nothing here knows
// the other parts; they hear of changes by the functions of Modem.
package modem

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Config is how one modem and its SIM are used.
type Config struct {
	Name string // names it in the log, the status and the memory: "lte"
	// Device is the AT port: a path (best one of /dev/serial/by-id, which stays the same over a
	// replug), or "usb:2c7c:0125" or "usb:2c7c:0125.02", the port of interface 02 of that USB device.
	Device string
	Speed  int // of a real serial line; 0 is 115200, USB does not care

	PIN     func() (string, error) // of the SIM; nil: it has none
	Roaming bool                   // data in a foreign network too; messages always

	Data            string // the driver: netdev, ncm, ppp, modemmanager, none
	Profile         string // the dialect: huawei, quectel, sierra, zte, telit, generic; "" asks the modem
	APN, User       string
	Password        func() (string, error)
	Auth, IPType    string
	NetDevice       string // the network interface of netdev and ncm
	PPPDevice       string // the tty for pppd where it is not the AT port
	Quota           int64  // bytes in a billing month; 0: no limit
	BillingDay      int    // of the month, on which the count begins anew; 0 is 1
	Recovery        Recovery
	SignalInterval  time.Duration // between two looks at the network; 0 is 30 s
	ModemManagerBus string        // D-Bus address; "" is the system's
}

// Modem is one modem with its SIM. Set the exported fields before Run; the functions are called from several
// goroutines and must not block for long.
type Modem struct {
	Config
	Memory  Memory          // remembers over restarts; nil: only until the next one
	Changed func(Link)      // each change of the data bearer; link's Watch wants it
	Event   func(Event)     // what the admin wants to read later
	Clock   func(time.Time) // the network's time (NITZ), for a box whose own clock is older
	// Now is the time, and whether it can be relied upon; nil is the system's.
	Now      func() (time.Time, bool)
	Deaf     func() bool // nothing that the bearer's probes ask answers, though it is up; nil: nobody knows
	dataPart             // data*.go
	textPart             // texts*.go

	log                  *zap.Logger
	places               places
	simPatience, simLook time.Duration

	mu      sync.Mutex
	status  Status
	want    bool
	open    *session      // a modem that takes commands, whatever its SIM says
	current *session      // the same, once the SIM is unlocked
	moved   chan struct{} // closed and made anew at each change that a loop waits for
	loans   chan *loan
	resets  chan *reset

	resetting  atomic.Bool // a person's reset is under way
	claims     int         // of rungs that speak by the port: it is not lent meanwhile
	memoryLock sync.Mutex
	memory     Record
	retries    int  // of a PIN that cost no try; owned by the session's goroutine
	rival      bool // ModemManager may be on the port too; the same one's
}

// New makes a modem; Run brings it to life.
func New(c Config, log *zap.Logger) *Modem {
	m := &Modem{Config: c, log: log.With(zap.String("modem", c.Name)), places: system, moved: make(chan struct{}),
		simPatience: simPatience, simLook: simLook,
		loans: make(chan *loan), resets: make(chan *reset)}
	m.status = Status{Name: c.Name, State: Absent, Since: time.Now(), Why: "the modem was not looked for yet"}
	return m
}

// Link is the data bearer: the network interface with what the network gave it. A Link without
// a Device is a bearer that is down, Err says why if it was wanted.
type Link struct {
	Device    string
	Addresses []netip.Prefix
	Gateway   netip.Addr // the router of the bearer; of IPv4 where there are two
	Gateway6  netip.Addr // that of IPv6, where Gateway is IPv4's
	DNS       []netip.Addr
	MTU       int
	Err       error
}

// Event is one thing that happened to a modem.
type Event struct {
	Time  time.Time
	Modem string
	Kind  string // state, sim, roaming, recovery, quota
	Text  string // one sentence
}

// Want says whether the data bearer shall be up. It stays wanted over every loss.
func (m *Modem) Want(up bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.want != up {
		m.want = up
		m.movedLocked()
	}
}

// wanted is what Want said last.
func (m *Modem) wanted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.want
}

// movedLocked wakes the loops that wait for a change.
func (m *Modem) movedLocked() {
	close(m.moved)
	m.moved = make(chan struct{})
}

// change is closed at the next change.
func (m *Modem) change() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.moved
}

// commander speaks AT: a session, or the modem by the session of the hour.
type commander interface {
	// command sends "AT"+cmd and returns the lines of the answer that begin with prefix, without it and
	// its colon; all of them with an empty prefix.
	command(ctx context.Context, cmd, prefix string, timeout time.Duration) ([]string, error)
}

// command is the commander's, by the session of the hour.
func (m *Modem) command(ctx context.Context, cmd, prefix string, timeout time.Duration) ([]string, error) {
	s, err := m.session()
	if err != nil {
		return nil, err
	}
	return s.command(ctx, cmd, prefix, timeout)
}

// session is the session of the hour, initialised and with an unlocked SIM, or the reason why there is none.
func (m *Modem) session() (*session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.current == nil && m.status.State == Lent:
		return nil, notNow(lentWhy)
	case m.current == nil:
		return nil, notNow(m.status.Why)
	}
	return m.current, nil
}

// openSession is the session of the hour, even if the SIM is locked; nil if the modem does not take commands.
func (m *Modem) openSession() *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open
}

func (m *Modem) setOpen(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open = s
	m.movedLocked()
}

// claim keeps the port from being lent until it is released: a rung that is cut off in its middle leaves the radio off.
func (m *Modem) claim() (release func()) {
	count := func(n int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.claims += n
		m.movedLocked()
	}
	count(1)
	return func() { count(-1) }
}

// lendable is where those wait who want the port; nil while it is claimed. change tells when that is over.
func (m *Modem) lendable() chan *loan {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.claims > 0 {
		return nil
	}
	return m.loans
}

func (m *Modem) setCurrent(s *session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != s {
		m.current = s
		m.movedLocked()
	}
}

// notNow is the reason why the modem cannot do something now; it was not begun.
type notNow string

func (e notNow) Error() string {
	if e == "" {
		return "the modem is not ready"
	}
	return string(e)
}

// keepBearer runs the data bearer: one that fails costs no text messages.
func (m *Modem) keepBearer(ctx context.Context) {
	for ctx.Err() == nil {
		err := m.keepData(ctx)
		if ctx.Err() != nil {
			return
		}
		m.log.Warn("data bearer", zap.NamedError("err", err))
		m.show(func(s *Status) {
			if err != nil {
				s.Data.Why = err.Error()
			}
		})
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
		}
	}
}
