package admin

import (
	"context"

	"rescuebox/appliance/admin/api"
)

// caller is who calls, found out before the route is known.
type caller struct {
	who     api.Identity
	tokenID string
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}
