package linktest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// A question has so many bytes; a keystroke of SSH about as many as the second.
const (
	questionBytes = 64
	keyBytes      = 20
	// lastAnswers is how long a meter waits for answers that are on their way; and lateAnswers, if the last question has
	// none yet.
	lastAnswers = 300 * time.Millisecond
	lateAnswers = 2 * time.Second
	// streamPatience is how long a stream that shall end may take to bring back what was
	// typed: by then TCP has tried again several times.
	streamPatience = 30 * time.Second
)

// arrivals sorts the answers by when they came.
func arrivals(answered []time.Duration) []time.Duration {
	list := slices.DeleteFunc(slices.Clone(answered), func(at time.Duration) bool { return at == 0 })
	slices.Sort(list)
	return list
}

// meter asks, and notes when the answers come.
type meter struct {
	conn net.Conn
	quit chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	read Reading
}

func startMeter(every time.Duration) (*meter, error) {
	c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(BranchInner), Port: EchoUDP})
	if err != nil {
		return nil, err
	}
	m := &meter{conn: c, quit: make(chan struct{}), read: Reading{Every: every}}
	m.wg.Go(func() { m.ask(every) })
	go m.listen()
	return m, nil
}

// ask sends by a schedule that does not drift.
func (m *meter) ask(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	question := make([]byte, questionBytes)
	for {
		m.mu.Lock()
		binary.BigEndian.PutUint64(question, uint64(len(m.read.Sent)))
		m.read.Sent, m.read.Answered = append(m.read.Sent, Now()), append(m.read.Answered, 0)
		m.mu.Unlock()
		_, _ = m.conn.Write(question) // a refusal is an answer that does not come
		select {
		case <-m.quit:
			return
		case <-ticker.C:
		}
	}
}

func (m *meter) listen() {
	answer := make([]byte, questionBytes)
	for {
		n, err := m.conn.Read(answer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != questionBytes {
			continue // the box's echo may not run yet: refused
		}
		at, i := Now(), binary.BigEndian.Uint64(answer)
		m.mu.Lock()
		if i < uint64(len(m.read.Answered)) && m.read.Answered[i] == 0 {
			m.read.Answered[i] = at
		}
		m.mu.Unlock()
	}
}

// answered reports that the last question has its answer.
func (m *meter) answered() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read.Answered[len(m.read.Answered)-1] != 0
}

func (m *meter) stop() Reading {
	close(m.quit)
	m.wg.Wait()
	Pass(lastAnswers)
	for waited := time.Duration(0); waited < lateAnswers && !m.answered(); waited += step {
		Pass(step)
	}
	m.conn.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read
}

// stream types into an echo and notes how long each keystroke takes to come back.
type stream struct {
	conn net.Conn
	quit chan struct{}
	done chan StreamRead
	mu   sync.Mutex
	sent []time.Duration
}

func startStream(every time.Duration) (*stream, error) {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", BranchInner, EchoTCP), 10*time.Second)
	if err != nil {
		return nil, err
	}
	s := &stream{conn: c, quit: make(chan struct{}), done: make(chan StreamRead, 1)}
	go s.typing(every)
	go func() { s.done <- s.listen() }()
	return s, nil
}

// typing types until the end, and then says that no more comes.
func (s *stream) typing(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		s.mu.Lock()
		s.sent = append(s.sent, Now())
		s.mu.Unlock()
		if _, err := s.conn.Write(make([]byte, keyBytes)); err != nil {
			return // the reader hears why
		}
		select {
		case <-s.quit:
			_ = s.conn.(*net.TCPConn).CloseWrite() // the reader hears why not
			return
		case <-ticker.C:
		}
	}
}

func (s *stream) listen() (read StreamRead) {
	key := make([]byte, keyBytes)
	for {
		_, err := io.ReadFull(s.conn, key)
		if err != nil {
			s.mu.Lock()
			missing := len(s.sent) - len(read.Echoes)
			s.mu.Unlock()
			if err != io.EOF || missing > 0 {
				read.Err = fmt.Sprintf("%d keystrokes did not come back: %v", missing, err)
			}
			return read
		}
		at := Now()
		s.mu.Lock()
		read.Echoes = append(read.Echoes, at-s.sent[len(read.Echoes)])
		s.mu.Unlock()
	}
}

func (s *stream) stop() StreamRead {
	_ = s.conn.SetReadDeadline(time.Now().Add(streamPatience)) // a closed one has told the reader already
	close(s.quit)
	read := <-s.done
	s.conn.Close()
	return read
}
