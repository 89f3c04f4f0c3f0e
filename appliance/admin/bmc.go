package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
)

// BMCs is what the API asks of machines' controllers beside power; appliance wires
// it. A machine without one is a *boot.Refusal.
type BMCs interface {
	// Services are the TCP services of a machine's controller, and where it is.
	Services(ctx context.Context, machine string) (netip.Addr, []bmc.Service, error)
	// Audit looks at the controller of a machine, or at all of them for "".
	Audit(ctx context.Context, machine string, lan bool) (bmc.Audit, error)
	// Trust pins the certificate that a machine's controller shows now.
	Trust(ctx context.Context, machine string) (sha256 string, err error)
	// Forget forgets the certificates of what else switches the machine, its PiKVM and its
	// WinRM: those that they show next are pinned. A machine without such is a *boot.Refusal.
	Forget(machine string) (hosts []string, err error)
}

// auditLimit is that of bmc.Auditor, and some.
const auditLimit = 150 * time.Second

// auditBMCs answers GET /v1/bmc/audit. It tries factory accounts, so it goes into the audit log.
func (h *service) auditBMCs(c *call) error {
	query := c.req.URL.Query()
	machine := query.Get("machine")
	lan, err := strconv.ParseBool(cmp.Or(query.Get("lan"), "false"))
	c.note("%s lan=%t", quoteIfOdd(machine), lan)
	if err != nil {
		return badRequest("lan=%s is neither true nor false", quoteIfOdd(query.Get("lan")))
	}
	if machine != "" {
		if _, err := h.findMachine(machine); err != nil {
			return err
		}
		if !h.means(machine).BMC {
			return conflict("%s has no BMC", machine).hint("add [machine.bmc] to the file of the site")
		}
	}
	if h.BMCs == nil {
		return conflict("no machine of this site has a BMC").hint("add [machine.bmc] to the file of the site")
	}
	ctx, cancel := context.WithTimeout(c.req.Context(), auditLimit)
	defer cancel()
	found, err := h.BMCs.Audit(ctx, machine, lan)
	if err != nil && (len(found.Findings) == 0 || !errors.Is(err, context.DeadlineExceeded)) {
		return err
	}
	out := auditOf(found)
	c.args += fmt.Sprintf(" findings=%d ok=%t", len(out.Findings), out.OK)
	if err := h.recordAs(c, c.req.Method+" "+c.req.URL.Path, http.StatusOK, nil); err != nil {
		return err
	}
	h.count("/v1/bmc/audit", http.StatusOK)
	writeJSON(c.w, http.StatusOK, out)
	return nil
}

// auditOf is an audit for the API.
func auditOf(a bmc.Audit) api.BMCAudit {
	out := api.BMCAudit{OK: true, Swept: a.Swept, Findings: []api.BMCFinding{}}
	for _, f := range a.Findings {
		out.OK = out.OK && f.Level != bmc.Bad
		out.Findings = append(out.Findings, api.BMCFinding{Machine: f.Machine, Host: f.Host, Check: f.Check, Level: string(f.Level),
			Text: strings.Join(strings.Fields(f.Text), " "), Hint: f.Hint})
	}
	return out
}

// trustBMC answers POST /v1/machines/{name}/bmc/trust.
func (h *service) trustBMC(c *call) (any, error) {
	text := cmp.Or(c.req.URL.Query().Get("switch"), "false")
	other, err := strconv.ParseBool(text)
	if err != nil {
		return nil, badRequest("switch=%s is neither true nor false", quoteIfOdd(text))
	}
	if other || !h.means(c.path("name")).BMC {
		return h.forgetPins(c)
	}
	m, err := h.findBMC(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.req.Context(), powerLimit)
	defer cancel()
	sum, err := h.BMCs.Trust(ctx, m)
	if err != nil {
		return nil, powerProblem(err)
	}
	c.args += " sha256=" + sum
	return api.BMCTrust{Machine: m, SHA256: sum}, nil
}

// forgetPins forgets the certificates of what switches a machine beside its controller.
func (h *service) forgetPins(c *call) (any, error) {
	c.note("%s switch=true", quoteIfOdd(c.path("name")))
	m, err := h.findMachine(c.path("name"))
	switch {
	case err != nil:
		return nil, err
	case h.BMCs == nil:
		return nil, conflict("no machine of this site has a BMC or a switch").hint("add [machine.bmc] or [machine.power] to the file of the site")
	}
	hosts, err := h.BMCs.Forget(m.Name)
	if err != nil {
		return nil, err
	}
	c.args += " forgotten=" + strings.Join(hosts, ",")
	return api.BMCTrust{Machine: m.Name, Forgotten: hosts}, nil
}

// findBMC is the machine of the path, which must have a controller.
func (h *service) findBMC(c *call) (string, error) {
	c.note("%s", quoteIfOdd(c.path("name")))
	m, err := h.findMachine(c.path("name"))
	switch {
	case err != nil:
		return "", err
	case h.BMCs == nil || !h.means(m.Name).BMC:
		return "", conflict("%s has no BMC", m.Name).hint("add [machine.bmc] to the file of the site")
	}
	return m.Name, nil
}
