package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// Connect says which way through the box to open.
type Connect struct {
	Machine string
	Service string        // "" is its ticket
	Ticket  string        // the ticket's id; "" is the newest one that is usable
	For     time.Duration // 0: as the daemon has it, an hour
}

// Conn is a connection through the box.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error // no more comes, the other side's rest does
}

// Way is an open way through the box to one port of one machine. It stands until Close,
// until its time is over, or until the daemon does not answer any more.
type Way struct {
	Relay
	client *Client
	*held
}

// held is the connection that keeps ways open: they stand as long as it does.
type held struct {
	conn Conn
	done chan struct{}

	mu  sync.Mutex
	why string
}

// protocol is what connections are upgraded to.
const protocol = "rescuebox-relay"

// Connect opens a way through the box.
func (c *Client) Connect(ctx context.Context, to Connect) (*Way, error) {
	service, span := to.Service, ""
	if to.For > 0 {
		span = to.For.String()
	}
	conn, err := c.upgrade(ctx, "/v1/machines/"+segment(to.Machine)+"/connect"+query("service", service, "id", to.Ticket, "for", span))
	if err != nil {
		return nil, err
	}
	w := &Way{client: c, held: &held{conn: conn, done: make(chan struct{})}}
	lines := bufio.NewReaderSize(conn, maxLine)
	watchdog := time.AfterFunc(silence, func() { conn.Close() })
	if err := readLine(lines, &w.Relay); err != nil {
		watchdog.Stop()
		conn.Close()
		return nil, fmt.Errorf("read the answer of %s: %w", c.where, err)
	}
	go w.listen(lines, watchdog)
	return w, nil
}

// Dial makes one connection through the way.
func (w *Way) Dial(ctx context.Context) (Conn, error) {
	return w.client.upgrade(ctx, "/v1/relays/"+segment(w.ID))
}

// Done is closed when the way has ended; Why says then why.
func (w *held) Done() <-chan struct{} { return w.done }

// Why is the reason for the end, or "".
func (w *held) Why() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.why
}

// Close ends the way and all its connections.
func (w *held) Close() {
	w.conn.Close()
	<-w.done
}

// listen waits for the daemon's word on the end. The daemon says every 15 s that it is there.
func (w *held) listen(lines *bufio.Reader, watchdog *time.Timer) {
	defer close(w.done)
	defer w.conn.Close()
	defer watchdog.Stop()
	for {
		var end RelayEnd
		err := readLine(lines, &end)
		if err == nil && end.Closed == "" {
			watchdog.Reset(silence)
			continue
		}
		w.mu.Lock()
		w.why = end.Closed
		if w.why == "" {
			w.why = "the daemon does not answer any more"
		}
		w.mu.Unlock()
		return
	}
}

// readLine reads one line of JSON; an empty one leaves v alone.
func readLine(r *bufio.Reader, v any) error {
	line, err := stream{r: r}.line()
	if err != nil || len(line) == 0 {
		return err
	}
	return json.Unmarshal(line, v)
}

// upgrade makes a call whose connection is taken over from HTTP.
func (c *Client) upgrade(ctx context.Context, path string) (Conn, error) {
	resp, err := c.send(ctx, http.MethodGet, path, nil, http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocol}})
	if err != nil {
		return nil, err
	}
	conn, ok := resp.Body.(Conn)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		resp.Body.Close()
		return nil, errors.New("the daemon does not lead through: is it of an older version?")
	}
	return conn, nil
}
