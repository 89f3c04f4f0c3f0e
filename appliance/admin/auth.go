package admin

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"rescuebox/appliance/admin/api"
)

// rank orders the roles; a role that does not exist may nothing.
func rank(r api.Role) int {
	switch r {
	case api.Viewer:
		return 1
	case api.Operator:
		return 2
	case api.Admin:
		return 3
	}
	return 0
}

// identify finds out who calls. tokenID is "" for a caller on the socket.
func (h *service) identify(r *http.Request) (who api.Identity, tokenID string, err error) {
	if who, ok := r.Context().Value(peerKey{}).(api.Identity); ok {
		return who, "", nil
	}
	from := remote(r)
	addr, _ := netip.ParseAddr(from)
	now := time.Now()
	if wait := h.locks.locked(addr, now); wait > 0 {
		return who, "", tooMany(from, wait)
	}
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || text == "" {
		return who, "", unauthorized("no token was sent").hint("rescuebox login https://HOST:PORT")
	}
	token, ok := h.keys.check(strings.TrimSpace(text))
	if !ok {
		return who, "", h.wrongToken(from, addr, now)
	}
	h.locks.passed(addr)
	if !now.Before(token.Expires) {
		return who, "", unauthorized("the token %s of %s expired on %s", token.ID, token.Name, token.Expires.Format(time.DateOnly)).
			hint("an admin makes a new one: rescuebox token create")
	}
	return api.Identity{Name: token.Name, Role: token.Role, From: from}, token.ID, nil
}

// wrongToken notes a failure and answers it.
func (h *service) wrongToken(from string, addr netip.Addr, now time.Time) error {
	h.metrics.failures.Inc()
	wait := h.locks.failed(addr, now)
	h.log.Warn("wrong token", zap.String("from", from), zap.Duration("locked", wait))
	if wait > 0 {
		h.metrics.lockouts.Inc()
	}
	return unauthorized("the token is wrong, or it was revoked").
		hint("an admin makes a new one: rescuebox token create; then rescuebox login")
}

func unauthorized(format string, a ...any) *problem {
	return newProblem(http.StatusUnauthorized, "unauthorized", format, a...)
}

// tooMany explains the lock-out: it may be the admin's own old script.
func tooMany(from string, wait time.Duration) *problem {
	wait = time.Duration(math.Ceil(wait.Seconds())) * time.Second
	p := newProblem(http.StatusTooManyRequests, "locked_out", "too many wrong tokens came from %s: wait %s", from, wait)
	p.body.RetryAfter = wait
	return p.hint("look for a script or a site that still has an old token; the Unix socket on the box is never locked")
}

// allowed checks the caller's role.
func allowed(who api.Identity, need api.Role) error {
	if rank(who.Role) >= rank(need) {
		return nil
	}
	return newProblem(http.StatusForbidden, "forbidden", "%s has the role %s, and this needs %s", who.Name, who.Role, need).
		hint("an admin makes a token of that role: %s", fmt.Sprintf("rescuebox token create NAME --role %s", need))
}
