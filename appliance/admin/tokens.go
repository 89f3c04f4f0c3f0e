package admin

import (
	"cmp"
	"time"

	"rescuebox/appliance/admin/api"
)

// listTokens answers GET /v1/tokens.
func (h *service) listTokens(*call) (any, error) {
	list := []api.Token{}
	for _, t := range h.keys.list() {
		list = append(list, tokenOf(t))
	}
	return list, nil
}

// createToken answers POST /v1/tokens.
func (h *service) createToken(c *call) (any, error) {
	var t api.CreateToken
	if err := c.read(&t); err != nil {
		return nil, err
	}
	c.note("%s role=%s ttl=%s", quoteIfOdd(t.Name), quoteIfOdd(string(t.Role)), quoteIfOdd(t.TTL))
	if !goodName(t.Name) {
		return nil, badRequest("%q is no name for a token: want letters, digits, dots and dashes, at most 63", t.Name)
	}
	if rank(t.Role) == 0 {
		return nil, badRequest("no role %q: roles are viewer, operator, admin", t.Role)
	}
	ttl, err := duration("ttl", t.TTL)
	if err != nil {
		return nil, err
	}
	ttl = cmp.Or(ttl, defaultTokenTTL)
	if ttl > maxTokenTTL {
		return nil, badRequest("a token lives three years at most")
	}
	token, secret, err := h.keys.create(t.Name, c.who.Name, t.Role, ttl, time.Now())
	if err != nil {
		return nil, err
	}
	c.args += " id=" + token.ID
	return api.NewToken{Token: tokenOf(token), Secret: secret}, nil
}

// revokeToken answers DELETE /v1/tokens/{id}.
func (h *service) revokeToken(c *call) (any, error) {
	id := c.path("id")
	c.note("%s", quoteIfOdd(id))
	t, ok, err := h.keys.revoke(id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound("no token %q", id).hint("rescuebox token list shows their ids")
	}
	c.note("%s of %s", t.ID, t.Name)
	return nil, nil
}
