package modemtest

import (
	"strings"
	"time"
)

// Answer is how the modem answers a command that has a fault.
type Answer struct {
	Lines  []string      // instead of the honest ones; nil with Result "" answers honestly
	Result string        // "+CME ERROR: 10"; "" is OK
	Delay  time.Duration // before anything is said
	Inside []string      // unsolicited lines in the middle of the answer
	Hang   bool          // no answer at all
	Times  int           // how often; 0 always
	Do     func()        // something that happens just then
}

type fault struct {
	prefix string
	answer *Answer
}

// Fault lets commands that begin so ("+CSQ") be answered so. The last one that fits counts.
func (m *Modem) Fault(prefix string, a Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, fault{prefix, &a})
}

// Heal takes the faults of a prefix away; "" all.
func (m *Modem) Heal(prefix string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var left []fault
	for _, f := range m.faults {
		if prefix != "" && f.prefix != prefix {
			left = append(left, f)
		}
	}
	m.faults = left
}

// hear notes a command, and finds its fault.
func (m *Modem) hear(cmd string) *Answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, cmd)
	if len(m.log) > 10000 {
		m.log = m.log[5000:]
	}
	close(m.heard)
	m.heard = make(chan struct{})
	for i := len(m.faults) - 1; i >= 0; i-- {
		f := m.faults[i]
		if !strings.HasPrefix(strings.ToUpper(cmd), strings.ToUpper(f.prefix)) {
			continue
		}
		if f.answer.Times > 0 {
			if f.answer.Times--; f.answer.Times == 0 {
				m.faults = append(m.faults[:i:i], m.faults[i+1:]...)
			}
		}
		a := *f.answer
		return &a
	}
	return nil
}

func (m *Modem) silent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hung
}

// Hang lets it read and say nothing.
func (m *Modem) Hang(on bool) { m.Set(func(m *Modem) { m.hung = on }) }

// Stall lets it not even read: the other end's writes block once the kernel's buffer is full.
func (m *Modem) Stall(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if on == (m.stalled != nil) {
		return
	}
	if on {
		m.stalled = make(chan struct{})
		return
	}
	close(m.stalled)
	m.stalled = nil
}

// URC says a line on all ports that have no data call.
func (m *Modem) URC(line string) { m.raw([]byte("\r\n" + line + "\r\n")) }

// Noise writes raw bytes on all ports.
func (m *Modem) Noise(b []byte) { m.raw(b) }

func (m *Modem) raw(b []byte) {
	m.mu.Lock()
	var ports []*port
	for p := range m.ports {
		if p.call.Load() == nil {
			ports = append(ports, p)
		}
	}
	m.mu.Unlock()
	for _, p := range ports {
		p.write(b)
	}
}

// urcIfAsked says a line if the URC was switched on by "+CREG=1" or more.
func (m *Modem) urcIfAsked(cmd, line string) {
	m.mu.Lock()
	on := m.values[cmd] != "" && m.values[cmd] != "0"
	m.mu.Unlock()
	if on {
		m.URC(line)
	}
}
