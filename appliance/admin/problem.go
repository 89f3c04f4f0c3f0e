package admin

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/ticket"
	"rescuebox/images"
)

// problem is an answer that is no success.
type problem struct{ body api.Error }

func (p *problem) Error() string { return p.body.Message }

// hint adds what to do.
func (p *problem) hint(format string, a ...any) *problem {
	p.body.Hint = fmt.Sprintf(format, a...)
	return p
}

func newProblem(status int, code, format string, a ...any) *problem {
	return &problem{api.Error{Status: status, Code: code, Message: fmt.Sprintf(format, a...)}}
}

// The codes of the API; openapi.json lists them.
func badRequest(format string, a ...any) *problem {
	return newProblem(http.StatusBadRequest, "bad_request", format, a...)
}

func notFound(format string, a ...any) *problem {
	return newProblem(http.StatusNotFound, "not_found", format, a...)
}

func conflict(format string, a ...any) *problem {
	return newProblem(http.StatusConflict, "conflict", format, a...)
}

// problemOf is the one table from errors of the parts to answers.
func problemOf(err error) *problem {
	var p *problem
	var refusal *boot.Refusal
	var missing *images.NotFound
	var changed *images.Changed
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &refusal) && errors.As(err, &missing):
		return notFound("no image %q", missing.Name).hint("%s", refusal.Hint)
	case errors.As(err, &missing):
		return noSuch("image", missing.Name, missing.Have)
	case errors.As(err, &refusal):
		return conflict("%s", refusal.Reason).hint("%s", refusal.Hint)
	case errors.As(err, &changed):
		return conflict("%s", err)
	case errors.Is(err, bmc.ErrBusy), errors.Is(err, bmc.ErrUnsupported):
		return conflict("%s", err)
	case errors.Is(err, bmc.ErrSilent), errors.Is(err, bmc.ErrRefused), errors.Is(err, bmc.ErrNotTaken), errors.Is(err, bmc.ErrCertificate):
		return newProblem(http.StatusBadGateway, "unreachable", "%s", err)
	case errors.Is(err, ticket.ErrUnknown):
		return notFound("%s", err).hint("rescuebox ticket list")
	}
	return newProblem(http.StatusInternalServerError, "internal", "%s", err)
}

// noSuch is the answer for a name that does not exist, with those that do.
func noSuch(noun, name string, have []string) *problem {
	p := notFound("no %s %q", noun, name)
	if len(have) == 0 {
		return p.hint("there are no %ss yet", noun)
	}
	const shown = 20
	slices.Sort(have)
	if len(have) > shown {
		return p.hint("%ss are %s and %d more", noun, strings.Join(have[:shown], ", "), len(have)-shown)
	}
	return p.hint("%ss are %s", noun, strings.Join(have, ", "))
}
