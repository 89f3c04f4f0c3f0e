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

// Modem is one modem with its SIM. Set the exported functions before Run; they are called from several
// goroutines and must not block for long.
type Modem struct {
	Config
	Memory   Memory          // remembers over restarts; nil: only until the next one
	Changed  func(Link)      // each change of the data bearer
	Event    func(Event)     // what the admin wants to read later
	Clock    func(time.Time) // the network's time (NITZ), for a box whose own clock is older
	log      *zap.Logger
	textPart // texts*.go

	mu      sync.Mutex
	status  Status
	want    bool
	current *session
	moved   chan struct{} // closed and made anew at each change of want, current or status that a loop waits for
	loans   chan *loan
	resets  chan *reset
	record  *record
}

// New makes a modem; Run brings it to life.
func New(c Config, log *zap.Logger) *Modem {
	m := &Modem{Config: c, log: log.With(zap.String("modem", c.Name)), moved: make(chan struct{}),
		loans: make(chan *loan), resets: make(chan *reset)}
	m.status = Status{Name: c.Name, State: Absent, Since: time.Now(), Why: "the modem was not looked for yet"}
	return m
}

// Link is the data bearer: the network interface with what the network gave it. A Link without
// a Device is a bearer that is down, Err says why if it was wanted.
type Link struct {
	Device    string
	Addresses []netip.Prefix
	Gateway   netip.Addr
	DNS       []netip.Addr
	MTU       int
	Err       error
}

// Event is one thing that happened to a modem.
type Event struct {
	Time  time.Time
	Modem string
	Kind  string // registered, lost, roaming, sim, recovery, bearer, quota, text
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
	if m.current == nil {
		return nil, notNow(m.status.Why)
	}
	return m.current, nil
}

// notNow is the reason why the modem cannot do something now.
type notNow string

func (e notNow) Error() string {
	if e == "" {
		return "the modem is not ready"
	}
	return string(e)
}
