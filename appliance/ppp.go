package appliance

import (
	"context"
	"os"

	"rescuebox/appliance/modem"
)

// ServePPP is what rescuebox-ppp@.service runs, as root: pppd once, as the daemon asks for it on the
// connection that is standard input and output, until either ends.
func ServePPP(ctx context.Context) error { return modem.ServePPP(ctx, os.Stdin, os.Stdout) }
