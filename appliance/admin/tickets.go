package admin

import (
	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/ticket"
)

// Tickets is where tickets are; *ticket.Desk has it.
type Tickets interface {
	List(machine string) []ticket.Ticket
	Get(id string) (ticket.Ticket, error)
}

// listTickets answers GET /v1/tickets, newest first.
func (h *service) listTickets(c *call) (any, error) {
	list := []api.Ticket{}
	if h.Tickets == nil {
		return list, nil
	}
	query := c.req.URL.Query()
	for _, t := range h.Tickets.List(query.Get("machine")) {
		if order := query.Get("order"); order == "" || t.Order == order {
			list = append(list, ticketOf(t))
		}
	}
	return list, nil
}

// showTicket answers GET /v1/tickets/{id}.
func (h *service) showTicket(c *call) (any, error) {
	if h.Tickets == nil {
		return nil, notFound("no ticket %q", c.path("id"))
	}
	t, err := h.Tickets.Get(c.path("id"))
	if err != nil {
		return nil, err
	}
	return ticketOf(t), nil
}
