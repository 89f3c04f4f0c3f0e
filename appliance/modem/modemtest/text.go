package modemtest

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/warthog618/sms"
	"github.com/warthog618/sms/encoding/pdumode"
	"github.com/warthog618/sms/encoding/tpdu"
)

// stored is one message in the store. Status is 3GPP TS 27.005's <stat>: 0 unread, 1 read, 2 unsent.
type stored struct {
	index, status int
	pdu           []byte // with the service centre's address
	in            string // "SM", "ME"
}

// Sent is one message that the modem sent, whole.
type Sent struct {
	Number, Text string
	Parts        int
}

// part is one PDU sent.
type part struct{ tpdu *tpdu.TPDU }

// Sent lists the messages that went out, long ones put together.
func (m *Modem) Sent() []Sent {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Sent(nil), m.sent...)
}

// Stored is how many messages are in the store.
func (m *Modem) Stored() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.store)
}

// Waiting is how many messages the network holds back because the store is full.
func (m *Modem) Waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting)
}

// Deliver is a text message from the network, in as many parts as it takes.
func (m *Modem) Deliver(from, text string) error {
	return m.DeliverAt(from, text, time.Now())
}

// DeliverAt is Deliver with the time stamp of the service centre.
func (m *Modem) DeliverAt(from, text string, at time.Time) error {
	pdus, err := sms.Encode([]byte(text), sms.AsDeliver, sms.From(from), sms.WithAllCharsets)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	for i := range pdus {
		pdus[i].SCTS = tpdu.Timestamp{Time: at}
		if err := m.DeliverTPDU(pdus[i]); err != nil {
			return err
		}
	}
	return nil
}

// DeliverTPDU is one part of a message: for those that Deliver cannot make.
func (m *Modem) DeliverTPDU(t tpdu.TPDU) error {
	b, err := t.MarshalBinary()
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	m.DeliverPDU(append([]byte{0}, b...))
	return nil
}

// DeliverPDU is one part as bytes, sound or not. What finds no room waits, and comes in its turn.
func (m *Modem) DeliverPDU(pdu []byte) {
	m.mu.Lock()
	m.waiting = append(m.waiting, pdu)
	news := m.fillLocked()
	m.mu.Unlock()
	m.announce(news)
}

// fillLocked stores what waits as far as there is room, and returns what is to be announced.
func (m *Modem) fillLocked() (news []string) {
	on := strings.HasPrefix(m.values["+CNMI"], "1,1") || strings.HasPrefix(m.values["+CNMI"], "2,1")
	for len(m.waiting) > 0 && m.usedLocked(m.filled) < m.Capacity {
		index := m.putLocked(m.waiting[0], 0, m.filled)
		m.waiting = m.waiting[1:]
		if on {
			news = append(news, fmt.Sprintf(`+CMTI: "%s",%d`, m.filled, index))
		}
	}
	return news
}

func (m *Modem) announce(news []string) {
	for _, line := range news {
		m.URC(line)
	}
}

// putLocked stores a message in the first free place.
func (m *Modem) putLocked(pdu []byte, status int, in string) int {
	index := 1
	for m.findLocked(index, in) >= 0 {
		index++
	}
	m.store = append(m.store, stored{index, status, pdu, in})
	return index
}

// isIn reports whether a message is to be seen in a store.
func (m *Modem) isIn(s stored, store string) bool { return !m.Apart || s.in == store }

// usedLocked is how many places of a store are.
func (m *Modem) usedLocked(store string) (n int) {
	for _, s := range m.store {
		n += one(m.isIn(s, store))
	}
	return n
}

// openLocked answers +CPMS=<read>[,<write>[,<receive>]].
func (m *Modem) openLocked(arg string) ([]string, string) {
	names := strings.Split(strings.ReplaceAll(arg, `"`, ""), ",")
	for _, name := range names {
		if name != "SM" && name != "ME" {
			return nil, "+CMS ERROR: 302" // operation not allowed
		}
	}
	m.opened = names[0]
	if len(names) > 2 {
		m.filled = names[2]
	}
	return []string{fmt.Sprintf("+CPMS: %d,%d,%[1]d,%[2]d,%[3]d,%[2]d", m.usedLocked(m.opened), m.Capacity, m.usedLocked(m.filled))}, "OK"
}

func (m *Modem) findLocked(index int, in string) int {
	for i, s := range m.store {
		if s.index == index && m.isIn(s, in) {
			return i
		}
	}
	return -1
}

// compose answers +CMGS and +CMGW: the prompt, the PDU, the reference.
func (p *port) compose(cmd string) {
	p.write([]byte("\r\n> "))
	text, err := p.line(0x1a, 0x1b)
	if err != nil {
		return
	}
	name, length, _ := strings.Cut(cmd, "=")
	if text == "" {
		p.say("OK") // an escape
		return
	}
	f := p.m.hear(name + " PDU")
	if f != nil && f.Hang {
		return
	}
	lines, result := p.m.accept(strings.ToUpper(name), length, strings.TrimSpace(text))
	if f != nil { // it is sent, and the answer late or lost: that is the trap
		time.Sleep(f.Delay)
		if f.Do != nil {
			f.Do()
		}
		if f.Result != "" {
			lines, result = f.Lines, f.Result
		}
		for _, line := range f.Inside {
			p.say(line)
		}
	}
	for _, line := range lines {
		p.say(line)
	}
	p.say(result)
}

// accept takes a PDU to be sent or stored.
func (m *Modem) accept(name, length, text string) ([]string, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pdu, err := pdumode.UnmarshalHexString(text)
	if want, _ := strconv.Atoi(strings.SplitN(length, ",", 2)[0]); err != nil || m.mode != 0 || want != len(pdu.TPDU) {
		return nil, "+CMS ERROR: 304" // invalid PDU mode parameter
	}
	if name == "+CMGW" {
		raw, _ := hex.DecodeString(text)
		return []string{fmt.Sprintf("+CMGW: %d", m.putLocked(raw, 2, m.opened))}, "OK"
	}
	if !m.registeredLocked() {
		return nil, "+CMS ERROR: 331" // no network service
	}
	return m.sendLocked(pdu.TPDU)
}

func (m *Modem) sendLocked(raw []byte) ([]string, string) {
	t, err := sms.Unmarshal(raw, sms.AsMO)
	if err != nil {
		return nil, "+CMS ERROR: 304"
	}
	m.parts = append(m.parts, part{t})
	m.joinLocked()
	m.nextRef = (m.nextRef + 1) % 256
	return []string{fmt.Sprintf("+CMGS: %d", m.nextRef)}, "OK"
}

// joinLocked puts the parts of the last message together once all are there.
func (m *Modem) joinLocked() {
	last := m.parts[len(m.parts)-1].tpdu
	segments, _, ref, ok := last.ConcatInfo()
	if !ok {
		segments = 1
	}
	var list []*tpdu.TPDU
	var rest []part
	for _, p := range m.parts {
		_, _, r, _ := p.tpdu.ConcatInfo()
		if p.tpdu == last || ok && r == ref && p.tpdu.DA.Number() == last.DA.Number() {
			list = append(list, p.tpdu)
			continue
		}
		rest = append(rest, p)
	}
	if len(list) < segments {
		return
	}
	m.parts = rest
	text, err := sms.Decode(list)
	if err != nil {
		text = []byte("undecodable: " + err.Error())
	}
	m.sent = append(m.sent, Sent{Number: last.DA.Number(), Text: string(text), Parts: len(list)})
}

// list answers +CMGL=<stat>, 4 is all.
func (m *Modem) listLocked(arg string) ([]string, string) {
	want, err := strconv.Atoi(arg)
	if err != nil {
		want = 0
	}
	var lines []string
	for i, s := range m.store {
		if want != 4 && s.status != want || !m.isIn(s, m.opened) {
			continue
		}
		lines = append(lines, fmt.Sprintf("+CMGL: %d,%d,,%d", s.index, s.status, tpduLength(s.pdu)), strings.ToUpper(hex.EncodeToString(s.pdu)))
		if s.status == 0 {
			m.store[i].status = 1
		}
	}
	return lines, "OK"
}

// tpduLength leaves out the service centre's address (3GPP TS 27.005 section 3.1, <length>).
func tpduLength(pdu []byte) int {
	if len(pdu) == 0 {
		return 0
	}
	return len(pdu) - 1 - int(pdu[0])
}

func (m *Modem) readLocked(arg string) ([]string, string) {
	index, _ := strconv.Atoi(arg)
	i := m.findLocked(index, m.opened)
	if i < 0 {
		return nil, "+CMS ERROR: 321" // invalid memory index
	}
	s := m.store[i]
	m.store[i].status = max(1, s.status)
	return []string{fmt.Sprintf("+CMGR: %d,,%d", s.status, tpduLength(s.pdu)), strings.ToUpper(hex.EncodeToString(s.pdu))}, "OK"
}

// deleteLocked answers +CMGD=<index>[,<flag>]; the network then delivers what waited.
func (m *Modem) deleteLocked(arg string) ([]string, string) {
	first, flag, _ := strings.Cut(arg, ",")
	index, err := strconv.Atoi(strings.TrimSpace(first))
	if flag = strings.TrimSpace(flag); flag == "4" {
		m.store = nil
	} else if i := m.findLocked(index, m.opened); err == nil && i >= 0 {
		m.store = append(m.store[:i:i], m.store[i+1:]...)
	} else {
		return nil, "+CMS ERROR: 321"
	}
	if news := m.fillLocked(); len(news) > 0 {
		m.wg.Go(func() { m.announce(news) }) // behind the answer, or in its middle
	}
	return nil, "OK"
}
