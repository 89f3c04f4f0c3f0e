package tftp

import (
	"bytes"
	"encoding/binary"
	"math/rand"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"
)

// model is a wire with a client at its other end, in the virtual time of a
// synctest bubble: a network with delay and loss, and firmware that needs its time
// for each packet and says with every block out of order what it lacks.
type model struct {
	delay, cost time.Duration
	drop        func(block uint16) bool
	window      int
	once        bool // says only once what it lacks
	early       int  // acknowledges after so many blocks already
	double      bool // acknowledges everything twice, the second time late
	hiccup      bool // takes ten times as long for every tenth block
	overtaken   bool // block 100 comes after the other blocks that it was sent with, the first time

	busy    time.Time // until when the client works on what came
	next    uint16
	since   int
	gap     bool
	got     []byte
	block   int
	answers []answer
	packets int
}

type answer struct {
	at   time.Time
	code uint16
}

func (m *model) sendAll(p []byte, size int) error {
	if at := bytes.Index(p, []byte{0, opDATA, 0, 100}); m.overtaken && at >= 0 && at%size == 0 && len(p) > size {
		m.overtaken = false
		p = slices.Concat(p[:at], p[at+size:], p[at:at+size])
	}
	for len(p) > 0 {
		one := p[:min(size, len(p))]
		p = p[len(one):]
		m.packets++
		code := binary.BigEndian.Uint16(one[2:])
		if m.drop != nil && m.drop(code) {
			continue
		}
		if at := time.Now().Add(m.delay); at.After(m.busy) {
			m.busy = at
		}
		m.busy = m.busy.Add(m.cost)
		if m.hiccup && code%10 == 0 {
			m.busy = m.busy.Add(9 * m.cost)
		}
		switch {
		case one[1] == opOACK:
			m.say(0)
		case code == m.next:
			m.got = append(m.got, one[headerSize:]...)
			m.next++
			m.gap = false
			if m.since++; m.since == m.window || m.since == m.early || len(one) < headerSize+m.block {
				m.say(code)
			}
		case !m.once || !m.gap:
			m.gap = true
			m.say(m.next - 1)
		}
	}
	return nil
}

func (m *model) say(code uint16) {
	m.since = 0
	m.answers = append(m.answers, answer{m.busy.Add(m.delay), code})
	if m.double {
		m.answers = append(m.answers, answer{m.busy.Add(m.delay + time.Microsecond), code})
	}
}

func (m *model) wait(d time.Duration) bool {
	if len(m.answers) == 0 || time.Until(m.answers[0].at) > d {
		time.Sleep(d)
		return false
	}
	time.Sleep(time.Until(m.answers[0].at))
	return true
}

func (m *model) receive(p []byte, timeout time.Duration) (int, error) {
	if !m.wait(timeout) {
		return 0, errTimeout
	}
	code := m.answers[0].code
	m.answers = m.answers[1:]
	return copy(p, ack(code)), nil
}

// What is slow is not lost: a client that takes its time gets every block
// about once, and what is lost costs a few round trips.
func TestClientsAndNetworksOfAllSpeeds(t *testing.T) {
	const ms = time.Millisecond
	loss := func(percent int) func(uint16) bool {
		dice := rand.New(rand.NewSource(5))
		return func(uint16) bool { return dice.Intn(100) < percent }
	}
	for name, tc := range map[string]struct {
		model
		twice int           // percent of the packets that may go out a second time
		most  time.Duration // for 1000 blocks
	}{
		"LAN":                           {model{delay: ms / 10, cost: ms / 100, window: 16}, 0, 30 * ms},
		"one block overtaken":           {model{delay: ms / 10, cost: ms / 100, window: 16, overtaken: true}, 4, 40 * ms},
		"overtaken, says once":          {model{delay: ms / 10, cost: ms / 100, window: 16, overtaken: true, once: true}, 4, 40 * ms},
		"overtaken, window of 64":       {model{delay: ms / 10, cost: ms / 100, window: 64, overtaken: true, once: true}, 15, 80 * ms},
		"LAN, lock-step":                {model{delay: ms / 10, cost: ms / 100, window: 1}, 0, 220 * ms},
		"acknowledges early":            {model{delay: ms / 10, cost: ms / 10, window: 16, early: 4}, 0, 250 * ms},
		"doubled acknowledgements":      {model{delay: ms / 10, cost: 2 * ms, window: 1, double: true, hiccup: true}, 0, 6000 * ms},
		"doubled, window":               {model{delay: ms / 10, cost: ms / 10, window: 4, double: true}, 0, 500 * ms},
		"far away":                      {model{delay: 25 * ms, cost: ms / 100, window: 16}, 5, 3500 * ms},
		"far away, lock-step":           {model{delay: 25 * ms, cost: ms / 100, window: 1}, 0, 51000 * ms},
		"slow":                          {model{delay: ms / 10, cost: 2 * ms, window: 16}, 5, 2200 * ms},
		"very slow":                     {model{delay: ms / 10, cost: 100 * ms, window: 4}, 5, 110_000 * ms},
		"very slow, lock-step":          {model{delay: ms / 10, cost: 300 * ms, window: 1}, 5, 320_000 * ms},
		"loss":                          {model{delay: ms / 10, cost: ms / 100, window: 16, drop: loss(2)}, 20, 400 * ms},
		"loss, says once what it lacks": {model{delay: ms / 10, cost: ms / 100, window: 16, once: true, drop: loss(2)}, 20, 400 * ms},
		"loss, lock-step":               {model{delay: ms / 10, cost: ms / 100, window: 1, drop: loss(2)}, 5, 3000 * ms},
		"loss, window of 64":            {model{delay: ms / 10, cost: ms / 100, window: 64, drop: loss(2)}, 130, 400 * ms},
		"much loss":                     {model{delay: ms / 10, cost: ms / 100, window: 4, drop: loss(20)}, 100, 150_000 * ms},
		"slow and loss":                 {model{delay: ms / 10, cost: 2 * ms, window: 16, drop: loss(2)}, 40, 6000 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				data := make([]byte, 999*plainBlock+7)
				rand.New(rand.NewSource(4)).Read(data)
				m := &tc.model
				m.next, m.block = 1, plainBlock
				air := semaphore.NewWeighted(maxInAir)
				s := &sender{ctx: t.Context(), wire: m, air: air, patience: defaultPatience, heard: func() {}}
				begin := time.Now()
				err := s.send(&request{path: "f", tsize: true, window: m.window}, bytes.NewReader(data), int64(len(data)))
				took := time.Since(begin)
				if err != nil || !bytes.Equal(m.got, data) {
					t.Fatalf("%d bytes came, %v", len(m.got), err)
				}
				t.Logf("%d packets in %v", m.packets, took)
				if !air.TryAcquire(maxInAir) {
					t.Error("something is still in the air")
				}
				if m.packets > 1001*(100+tc.twice)/100 || took > tc.most {
					t.Errorf("%d packets in %v", m.packets, took)
				}
			})
		})
	}
}
