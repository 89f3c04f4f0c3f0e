// Package modemtest is a modem that is not there: its AT ports are ptys or sockets, its SIM, network and text messages
// a struct. Debian's ModemManager registers on it, gammu sends through it, pppd dials by it. It has the
// faults of real modems: it answers late, in the wrong moment, too much or not at all, forgets to read, restarts and vanishes.
//
//	m := modemtest.Start(t)
//	m.Path                        // of the AT port; a link that follows a replug
//	m.Fault("+CSQ", modemtest.Answer{Delay: 2 * time.Second})
//	m.Deliver("+79160000000", "status")
package modemtest

import (
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// SIM is the card's lock.
type SIM int

// The SIM's states; the modem says them as +CPIN? does.
const (
	Ready SIM = iota
	WantsPIN
	WantsPUK
	Missing
	Busy // not ready yet: becomes what it is after BootTime
)

// Registration is 3GPP TS 27.007's <stat>.
type Registration int

// The registrations.
const (
	NotSearching Registration = 0
	Home         Registration = 1
	Searching    Registration = 2
	Denied       Registration = 3
	Roaming      Registration = 5
)

// Modem is the fake. Set the exported fields before its first port, later only by methods.
type Modem struct {
	Path string // of the pty, as a link that stays the same over a replug

	Manufacturer, Model, Firmware string
	IMEI, ICCID, IMSI, Number     string
	Operator, PLMN                string
	PIN, PUK                      string
	Capacity                      int           // of the message store
	Apart                         bool          // "SM" and "ME" are two stores, and not two names of one
	BootTime                      time.Duration // from power-on to a ready SIM
	Cooked                        bool          // the pty is left as the kernel makes it
	Guard                         time.Duration // the silence around "+++" in a data call (S12)
	// Dial is the network's side of a data call: it has the line from CONNECT until it returns. nil: NO CARRIER.
	Dial func(line io.ReadWriter)

	mu      sync.Mutex
	dir     string
	ports   map[*port]bool
	wg      sync.WaitGroup
	log     []string
	heard   chan struct{} // closed at each command
	faults  []fault
	sim     SIM
	pinLeft int
	reg     Registration
	act     int
	rssi    int
	fun     int
	booted  time.Time
	attach  bool
	store   []stored
	opened  string   // the store in which is read and deleted, and
	filled  string   // the one for what comes
	waiting [][]byte // delivered while the store was full
	sent    []Sent
	parts   []part
	mode    int
	context map[int]bool
	hung    bool
	stalled chan struct{} // not nil: does not read until it is closed
	values  map[string]string
	nextRef int
	resets  int
	dialled []string
}

// New makes a modem with a ready SIM in its home network, with no port yet.
func New() *Modem {
	return &Modem{
		Manufacturer: "Fake", Model: "F1", Firmware: "1.0", IMEI: "490154203237518", ICCID: "8970199000000000017", IMSI: "250011234567890",
		Number: "+79160000001", Operator: "Testnet", PLMN: "25001", PIN: "1234", PUK: "12345678", Capacity: 20, Guard: time.Second,
		ports: map[*port]bool{}, heard: make(chan struct{}), pinLeft: 3, reg: Home, act: 7, rssi: 20, fun: 1, attach: true,
		context: map[int]bool{}, values: map[string]string{}, opened: "SM", filled: "SM",
	}
}

// Start is New with a pty, gone at the end of the test.
func Start(t testing.TB) *Modem {
	t.Helper()
	m := New()
	if err := m.Open(t.TempDir()); err != nil {
		t.Fatalf("fake modem: %v", err)
	}
	t.Cleanup(m.Close)
	return m
}

// Open gives the modem its first pty, and Path in dir.
func (m *Modem) Open(dir string) error {
	m.dir, m.Path = dir, filepath.Join(dir, "modem")
	return m.Plug()
}

// Close pulls the modem and waits for its goroutines.
func (m *Modem) Close() {
	m.Unplug()
	m.Stall(false)
	m.wg.Wait()
}

// Plug gives it a new pty, as after a replug: another name behind the same Path.
func (m *Modem) Plug() error {
	name, err := m.AddPort()
	if err != nil {
		return err
	}
	_ = os.Remove(m.Path)
	return os.Symlink(name, m.Path)
}

// AddPort gives it one more AT port and returns its name.
func (m *Modem) AddPort() (string, error) {
	master, name, err := openPTY(m.Cooked)
	if err != nil {
		return "", err
	}
	p := m.port(master) // before it is served: a test may be over before that begins
	m.wg.Go(func() { m.serve(p) })
	return name, nil
}

// Unplug closes all ports.
func (m *Modem) Unplug() {
	if m.Path != "" {
		_ = os.Remove(m.Path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.ports {
		p.conn.Close()
	}
}

// Serve is one AT port until it is closed: a socket, for the real ModemManager.
func (m *Modem) Serve(conn io.ReadWriteCloser) { m.serve(m.port(conn)) }

// port is a new AT port.
func (m *Modem) port(conn io.ReadWriteCloser) *port {
	p := &port{m: m, conn: conn, echo: true}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ports[p] = true
	return p
}

func (m *Modem) serve(p *port) {
	p.serve()
	m.mu.Lock()
	delete(m.ports, p)
	m.mu.Unlock()
	p.conn.Close()
}

// Log is each command it was sent, in order.
func (m *Modem) Log() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.log...)
}

// Wait waits until ok, which is asked after each command and each 20 ms.
func (m *Modem) Wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("fake modem: waited in vain for %s; it was sent %q", what, m.Log())
		}
		m.mu.Lock()
		heard := m.heard
		m.mu.Unlock()
		select {
		case <-heard:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Count is how often the command, from its first letters, was sent.
func (m *Modem) Count(prefix string) int {
	n := 0
	for _, c := range m.Log() {
		if len(c) >= len(prefix) && c[:len(prefix)] == prefix {
			n++
		}
	}
	return n
}

// Set changes something under the modem's lock.
func (m *Modem) Set(change func(*Modem)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

// Register puts the modem into a network state, with access technology act (0 GSM, 2 UTRAN, 7 LTE), and says so.
func (m *Modem) Register(r Registration, act int) {
	m.mu.Lock()
	m.reg, m.act = r, act
	m.mu.Unlock()
	for _, c := range []string{"+CREG", "+CGREG", "+CEREG"} {
		m.urcIfAsked(c, m.registration(c, false))
	}
}

// Insert puts a SIM into a state: a card with a PIN, none.
func (m *Modem) Insert(s SIM) { m.Set(func(m *Modem) { m.sim = s }) }

// Signal is +CSQ's <rssi>.
func (m *Modem) Signal(rssi int) { m.Set(func(m *Modem) { m.rssi = rssi }) }

// Power is +CFUN as the modem has it: 4 or 0 is no radio.
func (m *Modem) Power(fun int) { m.Set(func(m *Modem) { m.fun = fun }) }

// Fun is +CFUN's value.
func (m *Modem) Fun() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fun
}

// PINLeft is how many tries the SIM has left.
func (m *Modem) PINLeft() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pinLeft
}

// Resets counts the restarts the modem was told to make (+CFUN=1,1).
func (m *Modem) Resets() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resets
}

// Dialled lists the numbers of the data calls.
func (m *Modem) Dialled() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.dialled...)
}

// Boot is a power-on: the SIM takes BootTime to get ready. To be called by Set.
func (m *Modem) Boot() { m.booted = time.Now() }

// InCall says whether a data call has a line. A caller that opens the tty again before the modem saw it closed has not
// hung up.
func (m *Modem) InCall() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.ports {
		if p.call.Load() != nil {
			return true
		}
	}
	return false
}
