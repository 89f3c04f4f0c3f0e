package admin

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
)

// AuditEntry is one changing call, done or refused.
type AuditEntry struct{ api.AuditEntry }

// SetSeq is how the store tells an entry its number.
func (e *AuditEntry) SetSeq(seq int64) { e.Seq = seq }

// Audit keeps the audit log; state.Log[AuditEntry] does. The key is the caller's name.
type Audit interface {
	Append(key string, e AuditEntry) (seq int64, err error)
	Read(key string, after int64, max int) ([]AuditEntry, error)
}

// record writes a changing call into the audit log, before it is answered. A call
// that cannot be recorded is answered with an error, though it was done: the admin must know.
func (h *service) record(c *call, status int, failure error) error {
	path := c.req.URL.Path
	if id, ok := strings.CutPrefix(path, "/v1/relays/"); ok { // with the whole of it connections are made
		path = fmt.Sprintf("/v1/relays/%.8s", id)
	}
	return h.recordAs(c, c.req.Method+" "+path, status, failure)
}

// recordAs is record for what is no call of its own, such as the end of a long one.
func (h *service) recordAs(c *call, what string, status int, failure error) error {
	e := api.AuditEntry{Time: time.Now().UTC(), Who: c.who.Name, Role: c.who.Role, From: c.who.From,
		What: what, Args: c.args, Status: status}
	if failure != nil {
		e.Error = failure.Error()
	}
	h.log.Info("audit", zap.String("who", e.Who), zap.String("from", e.From), zap.String("what", e.What),
		zap.String("args", e.Args), zap.Int("status", status), zap.NamedError("err", failure))
	if _, err := h.Audit.Append(e.Who, AuditEntry{e}); err != nil {
		h.log.Error("audit entry not stored", zap.NamedError("err", err))
		if failure != nil {
			return failure
		}
		return newProblem(http.StatusInternalServerError, "internal", "done, but the audit log cannot be written: %s", err).
			hint("rescuebox doctor looks at the disk")
	}
	return failure
}

// maxAudit bounds what one call reads of the audit log.
const maxAudit = 10000

// audit answers GET /v1/audit with the latest entries, oldest first.
func (h *service) audit(c *call) (any, error) {
	n, err := c.max(100, maxAudit)
	if err != nil {
		return nil, err
	}
	all, err := h.Audit.Read("", 0, 0)
	if err != nil && len(all) == 0 {
		return nil, err
	}
	list := []api.AuditEntry{}
	for _, e := range all[max(0, len(all)-n):] {
		list = append(list, e.AuditEntry)
	}
	return list, nil
}
