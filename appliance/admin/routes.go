package admin

import (
	"bytes"
	_ "embed" // the OpenAPI document
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
)

//go:embed openapi.json
var openAPI []byte

// maxBody bounds a request's body.
const maxBody = 64 << 10

// service is a running Server: its tokens, locks and routes.
type service struct {
	*Server
	log         *zap.Logger
	keys        *keyring
	locks       lockout
	mux         *http.ServeMux
	fingerprint string        // of the certificate, if there is one
	streams     chan struct{} // places for event streams

	relaying sync.WaitGroup // calls that took their connection over from HTTP
}

// route is one call of the API.
type route struct {
	method, path string
	role         api.Role                   // least role that may
	changes      bool                       // goes into the audit log
	opens        bool                       // writes its own entries of the audit log; those of what was refused are written as for changes
	status       int                        // of success; 0 is 200
	limit        time.Duration              // time to answer; 0 is writeTimeout
	do           func(c *call) (any, error) // answers with JSON
	raw          func(c *call) error        // or writes the answer itself; errors come before its first byte
}

// routes is all there is; roles_test.go and openapi_test.go read it too.
func (h *service) routes() []route {
	return append(h.linkRoutes(), []route{
		{method: "GET", path: "/openapi.json", role: api.Viewer, raw: h.document},
		{method: "GET", path: "/metrics", role: api.Viewer, raw: h.prometheus},
		{method: "GET", path: "/v1/version", role: api.Viewer, do: h.version},
		{method: "GET", path: "/v1/whoami", role: api.Viewer, do: h.whoami},
		{method: "GET", path: "/v1/status", role: api.Viewer, do: h.status},
		{method: "GET", path: "/v1/machines", role: api.Viewer, do: h.listMachines},
		{method: "POST", path: "/v1/machines", role: api.Operator, changes: true, status: http.StatusCreated, do: h.adopt},
		{method: "GET", path: "/v1/machines/{name}", role: api.Viewer, do: h.showMachine},
		{method: "DELETE", path: "/v1/machines/{name}/order", role: api.Operator, changes: true, do: h.cancel},
		{method: "GET", path: "/v1/clients", role: api.Viewer, do: h.listSeen},
		{method: "GET", path: "/v1/leases", role: api.Viewer, do: h.listLeases},
		{method: "GET", path: "/v1/orders", role: api.Viewer, do: h.listOrders},
		{method: "POST", path: "/v1/orders", role: api.Operator, changes: true, status: http.StatusCreated, limit: hashLimit, do: h.arm},
		{method: "GET", path: "/v1/orders/{id}", role: api.Viewer, do: h.showOrder},
		{method: "GET", path: "/v1/orders/{id}/timeline", role: api.Viewer, do: h.timeline},
		{method: "GET", path: "/v1/events", role: api.Viewer, raw: h.events},
		{method: "GET", path: "/v1/tickets", role: api.Operator, do: h.listTickets},
		{method: "GET", path: "/v1/tickets/{id}", role: api.Operator, do: h.showTicket},
		{method: "GET", path: "/v1/machines/{name}/connect", role: api.Operator, opens: true, raw: h.connect},
		{method: "GET", path: "/v1/machines/{name}/power", role: api.Viewer, limit: textLimit + writeTimeout, do: h.power},
		{method: "POST", path: "/v1/machines/{name}/power", role: api.Operator, changes: true, limit: textLimit + writeTimeout, do: h.switchPower},
		{method: "POST", path: "/v1/machines/{name}/bmc/trust", role: api.Admin, changes: true, limit: powerLimit + writeTimeout, do: h.trustBMC},
		{method: "GET", path: "/v1/bmc/audit", role: api.Operator, opens: true, limit: auditLimit + writeTimeout, raw: h.auditBMCs},
		{method: "GET", path: "/v1/relays/{id}", role: api.Operator, opens: true, raw: h.relayed},
		{method: "GET", path: "/v1/machines/{name}/console", role: api.Operator, opens: true, raw: h.console},
		{method: "GET", path: "/v1/machines/{name}/console/log", role: api.Operator, raw: h.consoleLog},
		{method: "GET", path: "/v1/notifications", role: api.Operator, do: h.listNotifications},
		{method: "POST", path: "/v1/notifications/test", role: api.Operator, changes: true, status: http.StatusCreated, do: h.testNotification},
		{method: "GET", path: "/v1/images", role: api.Viewer, do: h.listImages},
		{method: "GET", path: "/v1/images/{name}", role: api.Viewer, do: h.showImage},
		{method: "POST", path: "/v1/images/{name}/verify", role: api.Operator, changes: true, limit: hashLimit, do: h.verifyImage},
		{method: "DELETE", path: "/v1/images/{name}", role: api.Admin, changes: true, status: http.StatusNoContent, do: h.removeImage},
		{method: "GET", path: "/v1/doctor", role: api.Operator, limit: doctorLimit + writeTimeout, do: h.doctor},
		{method: "GET", path: "/v1/tokens", role: api.Admin, do: h.listTokens},
		{method: "POST", path: "/v1/tokens", role: api.Admin, changes: true, status: http.StatusCreated, do: h.createToken},
		{method: "DELETE", path: "/v1/tokens/{id}", role: api.Admin, changes: true, status: http.StatusNoContent, do: h.revokeToken},
		{method: "GET", path: "/v1/audit", role: api.Admin, do: h.audit},
	}...)
}

// hashLimit is for calls that read whole images from a slow disk.
const hashLimit = 10 * time.Minute

// service makes what answers.
func (s *Server) service() *service {
	h := &service{Server: s, log: s.Log, keys: loadKeyring(s.Tokens, s.Log), mux: http.NewServeMux(), streams: make(chan struct{}, maxStreams)}
	for _, r := range h.routes() {
		h.mux.Handle(r.method+" "+r.path, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			h.serve(w, req, r)
		}))
	}
	return h
}

// ServeHTTP answers a call. Strangers learn nothing, not even which routes there are.
func (h *service) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	if req.TLS != nil {
		header.Set("Strict-Transport-Security", "max-age=31536000")
	}
	who, tokenID, err := h.identify(req)
	if err != nil {
		header.Set("Connection", "close") // strangers keep no connection
		header.Set("WWW-Authenticate", "Bearer")
		h.fail(w, "", err)
		return
	}
	if _, pattern := h.mux.Handler(req); pattern == "" {
		h.fail(w, "", h.noRoute(w, req))
		return
	}
	h.mux.ServeHTTP(w, req.WithContext(withCaller(req.Context(), caller{who, tokenID})))
}

// noRoute says what is wrong with a call that no route takes.
func (h *service) noRoute(w http.ResponseWriter, req *http.Request) error {
	for _, method := range []string{"GET", "POST", "DELETE"} {
		other := req.Clone(req.Context())
		other.Method = method
		if _, pattern := h.mux.Handler(other); pattern != "" {
			w.Header().Add("Allow", method)
		}
	}
	if allow := w.Header()["Allow"]; len(allow) > 0 {
		return newProblem(http.StatusMethodNotAllowed, "bad_request", "%s does not take %s", req.URL.Path, req.Method)
	}
	return notFound("the API has no %q", req.URL.Path).hint("GET /openapi.json describes it")
}

// serve does one call of a known route by a known caller.
func (h *service) serve(w http.ResponseWriter, req *http.Request, r route) {
	by := callerOf(req.Context())
	c := &call{w: w, req: req, who: by.who, tokenID: by.tokenID}
	req.Body = http.MaxBytesReader(w, req.Body, maxBody)
	if r.limit > 0 {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(r.limit))
	}
	answer, err := h.answer(c, r)
	status := r.status
	if status == 0 {
		status = http.StatusOK
	}
	if err != nil {
		status = problemOf(err).body.Status
	}
	if r.changes || r.opens && err != nil {
		if recorded := h.record(c, status, err); recorded != nil {
			err = recorded
		}
	}
	switch {
	case err != nil:
		h.fail(w, r.path, err)
	case r.opens: // has answered, and counted
	case r.raw != nil: // has answered
		h.count(r.path, status)
	default:
		h.count(r.path, status)
		writeJSON(w, status, answer)
	}
}

// answer checks the role and does the call. A panic costs one answer, and is audited like any failure.
func (h *service) answer(c *call, r route) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("API call panicked", zap.String("route", r.path), zap.Any("panic", p), zap.Stack("stack"))
			err = errors.New("a fault in rescuebox; its log has the details")
		}
	}()
	if err := allowed(c.who, r.role); err != nil {
		return nil, err
	}
	if r.raw != nil {
		return nil, r.raw(c)
	}
	return r.do(c)
}

// fail answers with a problem.
func (h *service) fail(w http.ResponseWriter, route string, err error) {
	p := problemOf(err)
	h.count(route, p.body.Status)
	if p.body.Status >= http.StatusInternalServerError {
		h.log.Error("API call failed", zap.String("route", route), zap.NamedError("err", err))
	}
	if p.body.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(p.body.RetryAfter.Seconds())))
	}
	writeJSON(w, p.body.Status, p.body)
}

func (h *service) count(route string, status int) {
	h.metrics.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
}

// writeJSON answers with a document, or with none.
func writeJSON(w http.ResponseWriter, status int, v any) {
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		http.Error(w, `{"code":"internal","error":"the answer cannot be written"}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

// call is one call while it is done.
type call struct {
	w       http.ResponseWriter
	req     *http.Request
	who     api.Identity
	tokenID string // "" on the socket
	args    string // for the audit log; no secrets
}

// note says what was asked for, for the audit log.
func (c *call) note(format string, a ...any) { c.args = fmt.Sprintf(format, a...) }

// read reads the body: one JSON object with known fields and nothing behind it.
func (c *call) read(v any) error {
	if kind, _, err := mime.ParseMediaType(c.req.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return newProblem(http.StatusUnsupportedMediaType, "bad_request", "the body's Content-Type must be application/json")
	}
	dec := json.NewDecoder(c.req.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more than one document")
		}
	}
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return newProblem(http.StatusRequestEntityTooLarge, "bad_request", "the body is larger than %d KiB", maxBody>>10)
	}
	return badRequest("the body is not the JSON that is wanted here: %s", err)
}

// max is the query's max, within its bounds.
func (c *call) max(fallback, most int) (int, error) {
	text := c.req.URL.Query().Get("max")
	if text == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, badRequest("max=%s is not a number from 1 to %d", text, most)
	}
	return n, nil
}

// path is a wildcard of the route's path.
func (c *call) path(name string) string { return c.req.PathValue(name) }
