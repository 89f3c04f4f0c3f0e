package link

import (
	"sync"

	"go.uber.org/zap"
)

// teller passes events on, one after the other in their order, beside whoever sees them: the disk that keeps them, and
// the log, may take their time, and the tunnel's switch must not wait for it.
type teller struct {
	tell func(Event)
	log  *zap.Logger

	mu    sync.Mutex
	queue []Event
	lost  int           // for want of room
	idle  chan struct{} // closed when the queue is empty again; nil: it is
}

// mostUntold is how many events may wait. Then the oldest are lost: what is newer says how things are.
const mostUntold = 256

func (t *teller) add(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.queue = append(t.queue, e); len(t.queue) > mostUntold {
		t.queue, t.lost = t.queue[1:], t.lost+1
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
		go t.run()
	}
}

// run ends when there is nothing left to tell.
func (t *teller) run() {
	for {
		t.mu.Lock()
		if len(t.queue) == 0 {
			close(t.idle)
			t.idle = nil
			t.mu.Unlock()
			return
		}
		e, lost := t.queue[0], t.lost
		t.queue, t.lost = t.queue[1:], 0
		t.mu.Unlock()
		if lost > 0 {
			t.log.Warn("events of the uplinks were lost: to keep them takes too long; is the disk in order?", zap.Int("lost", lost))
		}
		t.log.Info(e.Reason, zap.String("event", string(e.Kind)), zap.String("uplink", e.Uplink))
		if t.tell != nil {
			t.tell(e)
		}
	}
}

// wait waits until all is told.
func (t *teller) wait() {
	t.mu.Lock()
	idle := t.idle
	t.mu.Unlock()
	if idle != nil {
		<-idle
	}
}
