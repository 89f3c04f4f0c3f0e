package admin

import (
	"strconv"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
)

// maxOrders bounds a listing.
const maxOrders = 1000

// arm answers POST /v1/orders.
func (h *service) arm(c *call) (any, error) {
	var o api.NewOrder
	if err := c.read(&o); err != nil {
		return nil, err
	}
	c.note("%s %s ttl=%s no_power=%t soft=%t via=%s confirmed=%t", quoteIfOdd(o.Machine), quoteIfOdd(o.Image), quoteIfOdd(o.TTL), o.NoPower, o.Soft, quoteIfOdd(o.Via), o.Confirmed)
	if _, err := h.findMachine(o.Machine); err != nil {
		return nil, err
	}
	ttl, err := duration("ttl", o.TTL)
	if err != nil {
		return nil, err
	}
	by, err := h.pressedBy(o)
	if err != nil {
		return nil, err
	}
	order, err := h.Boot.Arm(o.Machine, o.Image, c.who.Name, ttl)
	if err != nil {
		return nil, err
	}
	c.args += " order=" + order.ID
	if by == api.Manual {
		return orderOf(order), nil
	}
	c.args += " power=" + string(by)
	order, err = h.Boot.Powered(order.ID, string(by), boot.Press{Soft: o.Soft, Media: o.Via == viaMedia, Confirmed: o.Confirmed})
	if err != nil {
		return nil, err // replaced or cancelled in between
	}
	h.Press(order)
	return orderOf(order), nil
}

// quoteIfOdd keeps what callers send to one short word of the audit log.
func quoteIfOdd(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "…"
	}
	if goodName(s) {
		return s
	}
	return strconv.Quote(s)
}

// duration reads a time span that may be left out.
func duration(what, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, badRequest("%s %q is no time span: want one such as 30m or 2h", what, text)
	}
	return d, nil
}

// cancel answers DELETE /v1/machines/{name}/order.
func (h *service) cancel(c *call) (any, error) {
	m, err := h.findMachine(c.path("name"))
	if err != nil {
		return nil, err
	}
	c.note("%s", m.Name)
	o, err := h.Boot.Cancel(m.Name, c.who.Name)
	if err != nil {
		return nil, err
	}
	return orderOf(o), nil
}

// listOrders answers GET /v1/orders.
func (h *service) listOrders(c *call) (any, error) {
	n, err := c.max(100, maxOrders)
	if err != nil {
		return nil, err
	}
	machine := c.req.URL.Query().Get("machine")
	list := []api.Order{}
	for _, o := range h.Boot.AllOrders(maxOrders) {
		if (machine == "" || o.Machine == machine) && len(list) < n {
			list = append(list, orderOf(o))
		}
	}
	return list, nil
}

// showOrder answers GET /v1/orders/{id}.
func (h *service) showOrder(c *call) (any, error) {
	o, err := h.findOrder(c.path("id"))
	if err != nil {
		return nil, err
	}
	return orderOf(o), nil
}

func (h *service) findOrder(id string) (boot.Order, error) {
	for _, o := range h.Boot.AllOrders(maxOrders) {
		if o.ID == id {
			return o, nil
		}
	}
	return boot.Order{}, notFound("no order %q", id).hint("rescuebox status shows the open ones")
}

// timeline answers GET /v1/orders/{id}/timeline.
func (h *service) timeline(c *call) (any, error) {
	o, err := h.findOrder(c.path("id"))
	if err != nil {
		return nil, err
	}
	events, err := h.Boot.Timeline(o.ID)
	if err != nil {
		return nil, err
	}
	list := []api.Event{}
	for _, e := range events {
		list = append(list, eventOf(e, c.who.Role))
	}
	return list, nil
}
