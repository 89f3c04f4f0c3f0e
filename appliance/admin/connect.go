package admin

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/ticket"
)

// Grant says who may go where through the box, for how long.
type Grant struct {
	By      string
	Machine string
	Service string
	Ticket  string
	Target  netip.AddrPort
	For     time.Duration // 0: as the relay has it
}

// Relays opens ways through the box; package relay does, behind an adapter. Its
// "no" is a *boot.Refusal.
type Relays interface {
	Open(ctx context.Context, g Grant) (Relayed, error)
	Find(id string) (Relayed, bool)
}

// Relayed is one open way.
type Relayed interface {
	// Info tells what it is, and whose.
	Info() (way api.Relay, by string)
	// Dial connects to the machine and returns what carries an admin's connection until its end.
	Dial(ctx context.Context) (carry func(net.Conn), err error)
	// Done is closed when the way has ended.
	Done() <-chan struct{}
	// Close ends it and counts. A nil why is the admin's own wish.
	Close(why error) RelayTotals
}

// RelayTotals is what went through a way, and why it ended.
type RelayTotals struct {
	Streams        int
	Sent, Received int64
	Why            string
}

// protocol is what the connections of a way are upgraded to.
const protocol = "rescuebox-relay"

// connect answers GET /v1/machines/{name}/connect: it opens a way through the
// box to the machine's ticket, which stands as long as this connection. On it the
// box tells what was opened (a line with api.Relay), that it is still there (an empty line every 15 s),
// and why it ended (a line with api.RelayEnd).
func (h *service) connect(c *call) error {
	name, query := c.path("name"), c.req.URL.Query()
	service := cmp.Or(query.Get("service"), "ticket")
	c.note("%s %s ticket=%s for=%s", quoteIfOdd(name), quoteIfOdd(service), quoteIfOdd(query.Get("id")), quoteIfOdd(query.Get("for")))
	g := Grant{By: c.who.Name, Machine: name, Service: service}
	var err error
	if g.For, err = duration("for", query.Get("for")); err != nil {
		return err
	}
	if service == serviceBMC {
		return h.connectBMC(c, g)
	}
	if g.Ticket, g.Target, err = h.target(name, service, query.Get("id")); err != nil {
		return err
	}
	if err := upgradable(c.req); err != nil {
		return err
	}
	if h.Relays == nil {
		return conflict("this box leads nobody through")
	}
	way, err := h.Relays.Open(c.req.Context(), g)
	if err != nil {
		return err
	}
	info, _ := way.Info()
	c.note("%s %s ticket=%s target=%s until=%s way=%.8s", quoteIfOdd(info.Machine), info.Service, info.Ticket, info.Target, info.Expires.UTC().Format(time.RFC3339), info.ID)
	// On record before anything goes through: without it nothing does.
	if err := h.record(c, http.StatusSwitchingProtocols, nil); err != nil {
		way.Close(err)
		return err
	}
	h.relaying.Add(1)
	defer h.relaying.Done()
	begun := time.Now()
	why := h.hold(c, way, info)
	t := way.Close(why)
	h.recordClosing(c, info, t, time.Since(begun))
	return nil
}

// recordClosing writes the way's end into the audit log.
func (h *service) recordClosing(c *call, info api.Relay, t RelayTotals, took time.Duration) {
	c.note("%s %s target=%s way=%.8s connections=%d sent=%d received=%d after=%s: %s", quoteIfOdd(info.Machine), strings.TrimSpace(info.Service+" "+info.Name), info.Target, info.ID,
		t.Streams, t.Sent, t.Received, took.Round(time.Second), t.Why)
	if err := h.recordAs(c, "CLOSE "+c.req.URL.Path, http.StatusOK, nil); err != nil {
		h.log.Error("end of a way through the box is not on record", zap.String("machine", info.Machine), zap.NamedError("err", err))
	}
}

// target finds the address and port that a service stands for, and nothing else:
// callers never name one.
func (h *service) target(machine, service, id string) (string, netip.AddrPort, error) {
	if service != "ticket" {
		return "", netip.AddrPort{}, badRequest("no service %q: services are ticket, bmc", service)
	}
	t, err := h.ticketFor(machine, id)
	if err != nil {
		return "", netip.AddrPort{}, err
	}
	return t.ID, netip.AddrPortFrom(t.Address, uint16(t.Port)), nil
}

// ticketFor is the ticket with an id, or the newest of a machine that opens something; one
// whose machine proved itself before any that whoever has its address may have sent.
func (h *service) ticketFor(machine, id string) (ticket.Ticket, error) {
	var list []ticket.Ticket
	if h.Tickets != nil {
		list = h.Tickets.List(machine) // newest first
	}
	if len(list) == 0 {
		if _, err := h.findMachine(machine); err != nil {
			return ticket.Ticket{}, err
		}
		return ticket.Ticket{}, notFound("%s has brought no ticket", machine).hint("boot it first: rescuebox boot %s IMAGE", machine)
	}
	var best ticket.Ticket
	for _, t := range list {
		switch {
		case id != "" && t.ID != id:
		case id != "" && !usable(t):
			return t, conflict("the ticket %s does not say where %s can be reached", id, machine).hint("rescuebox ticket show %s", id)
		case usable(t) && (best.ID == "" || t.Verified && !best.Verified):
			best = t
		}
	}
	switch {
	case best.ID == "" && id != "":
		return best, notFound("%s has no ticket %q", machine, id).hint("rescuebox ticket list --machine %s", machine)
	case best.ID == "":
		return best, conflict("no ticket of %s says where it can be reached", machine).hint("rescuebox ticket list --machine %s", machine)
	}
	return best, nil
}

// usable reports whether a ticket opens something.
func usable(t ticket.Ticket) bool {
	return t.Address.IsValid() && t.Port > 0 && t.Port <= 65535 && (t.Kind != ticket.DaRT || t.Code != "")
}

// upgradable refuses who would not understand the answer.
func upgradable(req *http.Request) error {
	if strings.EqualFold(req.Header.Get("Upgrade"), protocol) && strings.EqualFold(req.Header.Get("Connection"), "upgrade") {
		return nil
	}
	return newProblem(http.StatusUpgradeRequired, "bad_request", "this call needs the headers Connection: Upgrade and Upgrade: %s", protocol).
		hint("rescuebox connect sends them")
}

// upgrade takes the connection over from HTTP.
func (h *service) upgrade(c *call) (net.Conn, error) {
	conn, rw, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(slowReader))
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n"); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return &upgraded{Conn: conn, r: rw.Reader}, nil
}

// upgraded is a connection of which HTTP may have read more than it needed.
type upgraded struct {
	net.Conn
	r *bufio.Reader
}

func (u *upgraded) Read(b []byte) (int, error) {
	if u.r.Buffered() > 0 {
		return u.r.Read(b[:min(len(b), u.r.Buffered())])
	}
	return u.Conn.Read(b)
}

// CloseWrite says that no more comes, and still reads.
func (u *upgraded) CloseWrite() error {
	if c, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return u.Conn.Close()
}

// The reasons for which a way ends.
var (
	errGone    = errors.New("the admin's command has ended")
	errRevoked = errors.New("the token was revoked or has expired")
)

// holding is what a connection keeps open: one way, or several together.
type holding interface {
	Done() <-chan struct{}
	Close(why error) RelayTotals
}

// hold keeps a way open until its admin goes away, may no more, or its time is over.
func (h *service) hold(c *call, way holding, info any) (why error) {
	conn, err := h.upgrade(c)
	if err != nil {
		return err
	}
	defer conn.Close()
	h.count("/v1/machines/{name}/connect", http.StatusSwitchingProtocols)
	gone := make(chan struct{})
	go func() { // ends with the connection
		defer close(gone)
		io.Copy(io.Discard, conn)
	}()
	defer func() { conn.Close(); <-gone }()
	if err := say(conn, info); err != nil {
		return errGone
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-gone:
			return errGone
		case <-way.Done():
			_ = say(conn, api.RelayEnd{Closed: way.Close(nil).Why}) // it goes anyway
			return nil
		case <-beat.C:
			if c.tokenID != "" && !h.keys.alive(c.tokenID, time.Now()) {
				_ = say(conn, api.RelayEnd{Closed: errRevoked.Error()})
				return errRevoked
			}
			if err := say(conn, nil); err != nil {
				return errGone
			}
		}
	}
}

// say writes one line; an empty one for nil.
func say(conn net.Conn, v any) error {
	var line []byte
	if v != nil {
		line, _ = json.Marshal(v) // our own types: cannot fail
	}
	conn.SetWriteDeadline(time.Now().Add(slowReader))
	_, err := conn.Write(append(line, '\n'))
	return err
}

// relayed answers GET /v1/relays/{id}: one connection through an open way. It is
// made to the machine first, so that its "no" is an ordinary answer.
func (h *service) relayed(c *call) error {
	if err := upgradable(c.req); err != nil {
		return err
	}
	way, ok := h.findWay(c)
	if !ok {
		return notFound("this way through the box is closed").hint("open it again: rescuebox connect MACHINE")
	}
	carry, err := way.Dial(c.req.Context())
	var refusal *boot.Refusal
	switch {
	case errors.As(err, &refusal):
		return err
	case err != nil:
		return newProblem(http.StatusBadGateway, "unreachable", "%s", err).
			hint("is it still up? Its ticket may be of an earlier boot: rescuebox ticket list")
	}
	h.relaying.Add(1)
	defer h.relaying.Done()
	conn, err := h.upgrade(c)
	if err != nil {
		carry(nil)
		return nil // whoever asked is gone
	}
	h.count("/v1/relays/{id}", http.StatusSwitchingProtocols)
	carry(conn)
	return nil
}

// findWay finds an open way of the caller; those of others do not exist for him.
func (h *service) findWay(c *call) (Relayed, bool) {
	if h.Relays == nil {
		return nil, false
	}
	way, ok := h.Relays.Find(c.path("id"))
	if !ok {
		return nil, false
	}
	_, by := way.Info()
	return way, by == c.who.Name
}
