package api

import (
	"context"
	"net/http"
	"strconv"
)

// Version asks what the daemon is.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, "/v1/version")
}

// WhoAmI asks who the daemon takes the caller for.
func (c *Client) WhoAmI(ctx context.Context) (Identity, error) {
	return get[Identity](ctx, c, "/v1/whoami")
}

// Status reads the box's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Machines lists the machines, by name.
func (c *Client) Machines(ctx context.Context) ([]Machine, error) {
	return get[[]Machine](ctx, c, "/v1/machines")
}

// Machine reads one machine.
func (c *Client) Machine(ctx context.Context, name string) (Machine, error) {
	return get[Machine](ctx, c, "/v1/machines/"+segment(name))
}

// Adopt makes a machine of a client that was seen.
func (c *Client) Adopt(ctx context.Context, a Adopt) (Machine, error) {
	var m Machine
	err := c.do(ctx, http.MethodPost, "/v1/machines", a, &m)
	return m, err
}

// Seen lists the boot clients seen since the daemon started, newest first.
func (c *Client) Seen(ctx context.Context) ([]Seen, error) {
	return get[[]Seen](ctx, c, "/v1/clients")
}

// Leases lists the addresses given out.
func (c *Client) Leases(ctx context.Context) ([]Lease, error) {
	return get[[]Lease](ctx, c, "/v1/leases")
}

// Boot makes an order.
func (c *Client) Boot(ctx context.Context, o NewOrder) (Order, error) {
	var out Order
	err := c.do(ctx, http.MethodPost, "/v1/orders", o, &out)
	return out, err
}

// Cancel ends a machine's open order.
func (c *Client) Cancel(ctx context.Context, machine string) (Order, error) {
	var out Order
	err := c.do(ctx, http.MethodDelete, "/v1/machines/"+segment(machine)+"/order", nil, &out)
	return out, err
}

// Orders lists orders, newest first; of one machine where it is not "".
func (c *Client) Orders(ctx context.Context, machine string, max int) ([]Order, error) {
	return get[[]Order](ctx, c, "/v1/orders"+query("machine", machine, "max", strconv.Itoa(max)))
}

// Order reads one order.
func (c *Client) Order(ctx context.Context, id string) (Order, error) {
	return get[Order](ctx, c, "/v1/orders/"+segment(id))
}

// Timeline lists an order's events.
func (c *Client) Timeline(ctx context.Context, id string) ([]Event, error) {
	return get[[]Event](ctx, c, "/v1/orders/"+segment(id)+"/timeline")
}

// Tickets lists tickets, newest first; of one machine, one order where they are not "".
func (c *Client) Tickets(ctx context.Context, machine, order string) ([]Ticket, error) {
	return get[[]Ticket](ctx, c, "/v1/tickets"+query("machine", machine, "order", order))
}

// Ticket reads one ticket.
func (c *Client) Ticket(ctx context.Context, id string) (Ticket, error) {
	return get[Ticket](ctx, c, "/v1/tickets/"+segment(id))
}

// Notifications lists who is told, and the latest messages, newest first.
func (c *Client) Notifications(ctx context.Context, max int) (Notifications, error) {
	return get[Notifications](ctx, c, "/v1/notifications"+query("max", strconv.Itoa(max)))
}

// TestNotification sends a test message to a target, or to all of them for "".
func (c *Client) TestNotification(ctx context.Context, target string) (Notification, error) {
	var n Notification
	err := c.do(ctx, http.MethodPost, "/v1/notifications/test", TestNotification{Target: target}, &n)
	return n, err
}

// Images lists the library.
func (c *Client) Images(ctx context.Context) (Library, error) {
	return get[Library](ctx, c, "/v1/images")
}

// Image reads one image.
func (c *Client) Image(ctx context.Context, name string) (Image, error) {
	return get[Image](ctx, c, "/v1/images/"+segment(name))
}

// VerifyImage hashes an image's files anew.
func (c *Client) VerifyImage(ctx context.Context, name string) (Verified, error) {
	var v Verified
	err := c.do(ctx, http.MethodPost, "/v1/images/"+segment(name)+"/verify", nil, &v)
	return v, err
}

// RemoveImage deletes an image.
func (c *Client) RemoveImage(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/v1/images/"+segment(name), nil, nil)
}

// Doctor runs the checks.
func (c *Client) Doctor(ctx context.Context) (Diagnosis, error) {
	return get[Diagnosis](ctx, c, "/v1/doctor")
}

// Tokens lists the tokens, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return get[[]Token](ctx, c, "/v1/tokens")
}

// CreateToken makes a token; its secret is shown this once.
func (c *Client) CreateToken(ctx context.Context, t CreateToken) (NewToken, error) {
	var out NewToken
	err := c.do(ctx, http.MethodPost, "/v1/tokens", t, &out)
	return out, err
}

// RevokeToken ends a token, named by its id.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/v1/tokens/"+segment(id), nil, nil)
}

// Audit lists the latest changing calls, oldest first.
func (c *Client) Audit(ctx context.Context, max int) ([]AuditEntry, error) {
	return get[[]AuditEntry](ctx, c, "/v1/audit"+query("max", strconv.Itoa(max)))
}
