package httpboot

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/boot"
)

// maxPath bounds a path, as the tree does.
const maxPath = 512

// ServeHTTP answers one request.
func (v *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !v.gate.TryRLock() {
		panic(http.ErrAbortHandler) // the server has stopped
	}
	defer v.gate.RUnlock()
	c := connOf(r)
	c.asking.Store(false)
	c.SetWriteDeadline(time.Now().Add(v.stall))
	v.metrics.requests.WithLabelValues(v.route(w, r, c)).Inc()
}

// route answers, and says in one word how that went.
func (v *service) route(w http.ResponseWriter, r *http.Request, c *conn) string {
	if h := v.reporting(r); h != nil {
		return h(w, r, c)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return refuseMethod(w, r, "this box gives files, and takes none but inv32.xml: use GET or HEAD", "GET, HEAD")
	}
	if r.ContentLength != 0 {
		return refuse(w, r, http.StatusBadRequest, "a "+r.Method+" request has no body", "")
	}
	if r.URL.Path == "/" {
		return text(w, r, http.StatusOK, "rescuebox "+v.Site+"\n")
	}
	if len(r.URL.Path) > maxPath {
		return refuse(w, r, http.StatusRequestURITooLong, "the path is longer than 512 bytes", "")
	}
	f, err := v.Tree.Open(r.URL.Path, c.from)
	if err != nil {
		return v.refuseFor(w, r, c, err, http.StatusNotFound)
	}
	defer f.Close()
	return v.file(w, r, c, f)
}

// refuseFor tells the reason of a refusal. What went wrong inside the box stays
// in its log: the rescue LAN is not to learn paths.
func (v *service) refuseFor(w http.ResponseWriter, r *http.Request, c *conn, err error, status int) string {
	log := v.Log.With(zap.Stringer("from", c.from), zap.String("path", r.URL.Path))
	var no *boot.Refusal
	if !errors.As(err, &no) {
		log.Error("HTTP request failed", zap.NamedError("err", err))
		refuse(w, r, http.StatusInternalServerError, "the box failed: see its log", "")
		return "failed"
	}
	log.Info("refused an HTTP request", zap.String("reason", no.Reason))
	return refuse(w, r, status, no.Reason, no.Hint)
}

// refuse answers "no" with its reason, which iPXE and curl show. A request
// with a body that was not read ends the connection.
func refuse(w http.ResponseWriter, r *http.Request, status int, reason, hint string) string {
	if hint != "" {
		reason += "\nhint: " + hint
	}
	if r.ContentLength != 0 {
		w.Header().Set("Connection", "close")
	}
	text(w, r, status, reason+"\n")
	return "refused"
}

func refuseMethod(w http.ResponseWriter, r *http.Request, reason, allowed string) string {
	w.Header().Set("Allow", allowed)
	return refuse(w, r, http.StatusMethodNotAllowed, reason, "")
}

// text answers with a short text.
func text(w http.ResponseWriter, r *http.Request, status int, body string) string {
	return answer(w, r, status, "text/plain; charset=utf-8", body)
}

func answer(w http.ResponseWriter, r *http.Request, status int, kind, body string) string {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		io.WriteString(w, body)
	}
	return "sent"
}
