package admin

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rescuebox/appliance/admin/api"
)

// version answers GET /v1/version.
func (h *service) version(*call) (any, error) {
	return api.Version{Version: h.Version, Go: runtime.Version(), API: 1}, nil
}

// whoami answers GET /v1/whoami.
func (h *service) whoami(c *call) (any, error) { return c.who, nil }

// status answers GET /v1/status: what package appliance tells, and what the API knows itself.
func (h *service) status(*call) (any, error) {
	var s api.Status
	if h.Status != nil {
		s = h.Server.Status()
	}
	s.Version, s.Now = h.Version, time.Now()
	if h.Listen.IsValid() {
		s.Admin = api.Listener{Listen: h.Listen.String(), Fingerprint: h.fingerprint}
	}
	if s.Parts == nil {
		s.Parts = []api.Part{}
	}
	if h.Links != nil {
		l := h.Links.Link()
		s.Link = &l
	}
	if h.Modems != nil {
		s.Modems = h.Modems.Modems()
	}
	s.Machines = len(h.Boot.Machines())
	s.OpenOrders = []api.Order{}
	for _, o := range h.Boot.AllOrders(maxOrders) {
		if o.State.Open() {
			s.OpenOrders = append(s.OpenOrders, orderOf(o))
		}
	}
	if h.Tickets != nil {
		s.Tickets = len(h.Tickets.List(""))
	}
	return s, nil
}

// prometheus answers GET /metrics.
func (h *service) prometheus(c *call) error {
	if h.Gather == nil {
		return notFound("this daemon gathers no metrics")
	}
	promhttp.HandlerFor(h.Gather, promhttp.HandlerOpts{}).ServeHTTP(c.w, c.req)
	return nil
}

// document answers GET /openapi.json.
func (h *service) document(c *call) error {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Write(openAPI) // an error means that the caller went away
	return nil
}
