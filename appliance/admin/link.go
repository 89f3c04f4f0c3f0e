package admin

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"rescuebox/appliance/admin/api"
)

// Links is how the box reaches the Internet; appliance does. What cannot be done is a *boot.Refusal.
type Links interface {
	Link() api.Link
	Change(a api.LinkAction, span time.Duration) error
	Drill(ctx context.Context, uplink string, span time.Duration) (api.LinkReport, error)
}

// Modems is the box's modems and their text messages; appliance does.
type Modems interface {
	Modems() []api.Modem
	Reset(name, rung string) error        // "": the one of its ladder that suits
	Allow(name string, bytes int64) error // 0: whatever it takes, until the billing month ends
	Texts(max int) ([]api.TextMessage, error)
	Send(to, text string) (api.TextMessage, error)
	Texting() api.Texting
	Enroll(number string) (uri string, err error)
	Forget(number string) error
}

// The bounds of a drill, and of a failure by hand.
const (
	usualDrill    = 60 * time.Second
	longestDrill  = 10 * time.Minute
	longestFailed = 7 * 24 * time.Hour
	drillLimit    = longestDrill + time.Minute // it ends when all is as it was
	effectLimit   = 5 * time.Second            // for an order to take effect before it is answered how things stand
	effectBeat    = 20 * time.Millisecond
	mostTexts     = 1000
	mostAllowed   = 1 << 50 // bytes: more is a mistake
)

// link answers GET /v1/link.
func (h *service) link(*call) (any, error) {
	if h.Links == nil {
		return api.Link{Uplinks: []api.Uplink{}}, nil
	}
	return h.Links.Link(), nil
}

// changeLink answers POST /v1/link.
func (h *service) changeLink(c *call) (any, error) {
	var a api.LinkAction
	if err := c.read(&a); err != nil {
		return nil, err
	}
	c.note("%s %s%s for=%s", quoteIfOdd(a.Action), quoteIfOdd(a.Uplink), quoteIfOdd(a.Mode), quoteIfOdd(a.For))
	switch a.Action {
	case "fail", "restore", "mode":
	default:
		return nil, badRequest("%q is nothing that can be done to an uplink: want fail, restore or mode", a.Action)
	}
	span, err := spanOf(a.For, 0, longestFailed)
	if err != nil {
		return nil, err
	}
	if h.Links == nil {
		return nil, noUplinks()
	}
	if err := h.Links.Change(a, span); err != nil {
		return nil, err
	}
	return h.changed(c.req.Context(), a), nil
}

// changed is how the box goes once an order took effect, or as it is after effectLimit: a bearer that has to come up
// first takes longer, and what cannot be done by no other uplink never comes.
func (h *service) changed(ctx context.Context, a api.LinkAction) api.Link {
	ctx, cancel := context.WithTimeout(ctx, effectLimit)
	defer cancel()
	for {
		over := ctx.Err() != nil // before the look: what it shows is never older than the limit
		if l := h.Links.Link(); over || inEffect(l, a) {
			return l
		}
		select {
		case <-ctx.Done():
		case <-time.After(effectBeat):
		}
	}
}

// inEffect reports whether an order is seen in how the box goes: the uplink that failed is no longer used, unless there
// is nothing else; the one restored is, if it works and is the better one.
func inEffect(l api.Link, a api.LinkAction) bool {
	place := func(name string) int {
		return slices.IndexFunc(l.Uplinks, func(u api.Uplink) bool { return u.Name == name })
	}
	i, active := place(a.Uplink), place(l.Active)
	switch {
	case a.Action == "mode":
		return l.Mode == a.Mode && (a.Mode != "lte-only" || active < 0 || l.Uplinks[active].Metered)
	case i < 0:
		return true
	case a.Action == "fail":
		return l.Uplinks[i].State == "failed" && (l.Active != a.Uplink || len(l.Uplinks) == 1)
	}
	return l.Uplinks[i].State == "up" && active >= 0 && (active <= i || l.Mode == "lte-only")
}

// drill answers POST /v1/link/drill.
func (h *service) drill(c *call) (any, error) {
	var d api.LinkDrill
	if err := c.read(&d); err != nil {
		return nil, err
	}
	c.note("%s for=%s", quoteIfOdd(d.Uplink), quoteIfOdd(d.For))
	span, err := spanOf(d.For, usualDrill, longestDrill)
	if err != nil {
		return nil, err
	}
	if h.Links == nil {
		return nil, noUplinks()
	}
	return h.Links.Drill(c.req.Context(), d.Uplink, span)
}

func noUplinks() error {
	return conflict("the box watches no uplinks").hint("add [[uplink]] to the file of the site")
}

// spanOf is a time that a caller wrote, usual where there is none.
func spanOf(text string, usual, longest time.Duration) (time.Duration, error) {
	if text == "" {
		return usual, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > longest {
		return 0, badRequest("for=%s is no time between 1s and %s", quoteIfOdd(text), longest)
	}
	return d, nil
}

// listModems answers GET /v1/modems.
func (h *service) listModems(*call) (any, error) {
	if h.Modems == nil {
		return []api.Modem{}, nil
	}
	return h.Modems.Modems(), nil
}

// resetModem answers POST /v1/modems/{name}/reset.
func (h *service) resetModem(c *call) (any, error) {
	var r api.ModemReset
	if c.req.ContentLength != 0 {
		if err := c.read(&r); err != nil {
			return nil, err
		}
	}
	c.note("%s rung=%s", quoteIfOdd(c.path("name")), quoteIfOdd(r.Rung))
	m, err := h.modem(c.path("name"))
	if err != nil {
		return nil, err
	}
	return m, h.Modems.Reset(m.Name, r.Rung)
}

// allowData answers POST /v1/modems/{name}/allow.
func (h *service) allowData(c *call) (any, error) {
	var a api.ModemAllow
	if err := c.read(&a); err != nil {
		return nil, err
	}
	c.note("%s bytes=%d", quoteIfOdd(c.path("name")), a.Bytes)
	if a.Bytes < 0 || a.Bytes > mostAllowed {
		return nil, badRequest("bytes=%d is no volume between 1 and %d; 0 is as much as it takes", a.Bytes, int64(mostAllowed))
	}
	m, err := h.modem(c.path("name"))
	if err != nil {
		return nil, err
	}
	if err := h.Modems.Allow(m.Name, a.Bytes); err != nil {
		return nil, err
	}
	return h.modem(m.Name)
}

// modem is the modem of that name.
func (h *service) modem(name string) (api.Modem, error) {
	if h.Modems == nil {
		return api.Modem{}, noModem()
	}
	for _, m := range h.Modems.Modems() {
		if m.Name == name {
			return m, nil
		}
	}
	return api.Modem{}, notFound("no modem is called %q", name).hint("rescuebox modem status lists them")
}

func noModem() error {
	return conflict("the box has no modem").hint("add [[modem]] to the file of the site")
}

// listTexts answers GET /v1/texts.
func (h *service) listTexts(c *call) (any, error) {
	n := 50
	if text := c.req.URL.Query().Get("max"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > mostTexts {
			return nil, badRequest("max=%s is no number between 1 and %d", quoteIfOdd(text), mostTexts)
		}
	}
	if h.Modems == nil {
		return []api.TextMessage{}, nil
	}
	return h.Modems.Texts(n)
}

// sendText answers POST /v1/texts.
func (h *service) sendText(c *call) (any, error) {
	var m api.NewTextMessage
	if err := c.read(&m); err != nil {
		return nil, err
	}
	c.note("to=%s", quoteIfOdd(m.To))
	switch {
	case m.To == "" || m.Text == "":
		return nil, badRequest("want to, a number with its country, and text")
	case h.Modems == nil:
		return nil, noModem()
	}
	return h.Modems.Send(m.To, m.Text)
}

// texting answers GET /v1/texts/senders.
func (h *service) texting(*call) (any, error) {
	if h.Modems == nil {
		return api.Texting{Senders: []api.Sender{}}, nil
	}
	return h.Modems.Texting(), nil
}

// enroll answers POST /v1/texts/senders.
func (h *service) enroll(c *call) (any, error) {
	var e api.Enroll
	if err := c.read(&e); err != nil {
		return nil, err
	}
	c.note("%s", quoteIfOdd(e.Number))
	if h.Modems == nil {
		return nil, noModem()
	}
	uri, err := h.Modems.Enroll(e.Number)
	if err != nil {
		return nil, err
	}
	return api.Enrolled{Number: e.Number, URI: uri}, nil
}

// forget answers DELETE /v1/texts/senders/{number}.
func (h *service) forget(c *call) (any, error) {
	number := c.path("number")
	c.note("%s", quoteIfOdd(number))
	if h.Modems == nil {
		return nil, noModem()
	}
	return nil, h.Modems.Forget(number)
}

// linkRoutes are those of the way in.
func (h *service) linkRoutes() []route {
	return []route{
		{method: "GET", path: "/v1/link", role: api.Viewer, do: h.link},
		{method: "POST", path: "/v1/link", role: api.Operator, changes: true, do: h.changeLink},
		{method: "POST", path: "/v1/link/drill", role: api.Operator, changes: true, limit: drillLimit, do: h.drill},
		{method: "GET", path: "/v1/modems", role: api.Viewer, do: h.listModems},
		{method: "POST", path: "/v1/modems/{name}/reset", role: api.Operator, changes: true, do: h.resetModem},
		{method: "POST", path: "/v1/modems/{name}/allow", role: api.Operator, changes: true, do: h.allowData},
		{method: "GET", path: "/v1/texts", role: api.Operator, do: h.listTexts},
		{method: "POST", path: "/v1/texts", role: api.Operator, changes: true, status: http.StatusCreated, do: h.sendText},
		{method: "GET", path: "/v1/texts/senders", role: api.Operator, do: h.texting},
		{method: "POST", path: "/v1/texts/senders", role: api.Admin, changes: true, status: http.StatusCreated, do: h.enroll},
		{method: "DELETE", path: "/v1/texts/senders/{number}", role: api.Admin, changes: true, status: http.StatusNoContent, do: h.forget},
	}
}
