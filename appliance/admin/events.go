package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"rescuebox/appliance/boot"
)

// Limits of event streams.
const (
	maxStreams  = 64
	heartbeat   = 15 * time.Second // shows a dead connection to both sides
	slowReader  = 10 * time.Second // a reader that takes nothing for so long is cut; it may come back and resume
	eventsAtOne = 500              // read from the log at a time
)

// filter says which events a stream is for.
type filter struct{ machine, order string }

func (f filter) wants(e boot.Event) bool {
	return (f.machine == "" || e.Machine == f.machine) && (f.order == "" || e.Order == f.order)
}

// stream is one open event stream.
type stream struct {
	h      *service
	call   *call
	filter filter
	last   int64 // number of the last event that was looked at
	ctl    *http.ResponseController
}

// events answers GET /v1/events: server-sent events, first those after the
// number that the caller knows, out of the log, then all that happens.
func (h *service) events(c *call) error {
	s := stream{h: h, call: c, ctl: http.NewResponseController(c.w)}
	live, err := s.ask()
	if err != nil {
		return err
	}
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		return newProblem(http.StatusServiceUnavailable, "busy", "%d event streams are open already", maxStreams).hint("close some; try again")
	}
	h.metrics.streams.Inc()
	defer h.metrics.streams.Dec()

	// Watching begins before the log is read, so that nothing falls between the two.
	watch, stop := h.Boot.Watch()
	defer stop()
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.Header().Set("X-Accel-Buffering", "no")
	if err := s.write([]byte(": rescuebox\n\n")); err != nil {
		return nil
	}
	if live || s.replay(0) == nil {
		s.run(c.req.Context(), watch)
	}
	return nil
}

// ask reads the query. live means that the caller wants nothing out of the log.
func (s *stream) ask() (live bool, err error) {
	query := s.call.req.URL.Query()
	s.filter = filter{query.Get("machine"), query.Get("order")}
	if s.filter.machine != "" {
		if _, err := s.h.findMachine(s.filter.machine); err != nil {
			return false, err
		}
	}
	if s.filter.order != "" {
		if _, err := s.h.findOrder(s.filter.order); err != nil {
			return false, err
		}
	}
	after := query.Get("after")
	// A browser repeats the URL it began with, and tells in this header how far it got.
	if id := s.call.req.Header.Get("Last-Event-ID"); id != "" {
		after = id
	}
	if after == "now" {
		return true, nil
	}
	if after != "" {
		if s.last, err = strconv.ParseInt(after, 10, 64); err != nil || s.last < 0 {
			return false, badRequest("after=%s is no number of an event", after)
		}
	}
	return false, nil
}

// run passes on what happens until the caller goes away, is too slow, or may no more.
func (s *stream) run(ctx context.Context, watch <-chan boot.Event) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case e := <-watch:
			err = s.pass(e)
		case <-beat.C:
			if s.call.tokenID != "" && !s.h.keys.alive(s.call.tokenID, time.Now()) {
				return
			}
			err = s.write([]byte(": heartbeat\n\n"))
		}
		if err != nil {
			return
		}
	}
}

// pass sends one event as it happens. A gap in the numbers means that we were
// too slow for the table: what is missing is read from the log.
func (s *stream) pass(e boot.Event) error {
	if e.Transient {
		return s.send(e)
	}
	if e.Seq != 0 && e.Seq <= s.last {
		return nil // was in the log already
	}
	if s.last != 0 && e.Seq > s.last+1 {
		if err := s.replay(e.Seq); err != nil {
			return err
		}
	}
	s.last = max(s.last, e.Seq)
	return s.send(e)
}

// replay sends what the log has after s.last, up to the number before, or all for 0.
func (s *stream) replay(before int64) error {
	for {
		list, err := s.read()
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return nil
		}
		for _, e := range list {
			if before != 0 && e.Seq >= before {
				return nil
			}
			s.last = max(s.last, e.Seq)
			if err := s.send(e); err != nil {
				return err
			}
		}
	}
}

// read is a piece of the log after s.last. A document of the log that cannot
// be read is left out by the store; the others are worth having.
func (s *stream) read() ([]boot.Event, error) {
	if s.filter.order == "" {
		list, err := s.h.Boot.EventsAfter(s.last, eventsAtOne)
		return list, ifEmpty(list, err)
	}
	all, err := s.h.Boot.Timeline(s.filter.order)
	for i, e := range all {
		if e.Seq > s.last {
			return all[i:], nil
		}
	}
	return nil, ifEmpty(all, err)
}

// ifEmpty keeps an error only where it left nothing to go on with.
func ifEmpty(list []boot.Event, err error) error {
	if len(list) > 0 {
		return nil
	}
	return err
}

// send writes an event, if the caller wants it.
func (s *stream) send(e boot.Event) error {
	if !s.filter.wants(e) {
		return nil
	}
	data, err := json.Marshal(eventOf(e, s.call.who.Role))
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if e.Seq != 0 {
		fmt.Fprintf(&b, "id: %d\n", e.Seq)
	}
	fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", e.Step, data)
	return s.write(b.Bytes())
}

// write sends bytes at once; a reader that does not take them in time is cut.
func (s *stream) write(b []byte) error {
	if err := s.ctl.SetWriteDeadline(time.Now().Add(slowReader)); err != nil {
		return err
	}
	if _, err := s.call.w.Write(b); err != nil {
		return err
	}
	return s.ctl.Flush()
}
