package appliance

import (
	"context"
	"fmt"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/modem"
)

// recoveryOf is what is done about a modem, nil where nothing is wrong.
func recoveryOf(s modem.RecoveryStatus) *api.Recovery {
	if s.Fault == "" && s.Doing == "" && s.Err == "" {
		return nil
	}
	return &api.Recovery{Fault: s.Fault, Doing: s.Doing, Last: s.Last, Next: since(s.Next), Count: s.Climbed, Helped: s.Helped, Error: s.Err}
}

// Reset is that of admin.Modems. It is begun when this returns; a rung may take minutes.
func (w *wayIn) Reset(name, rung string) error {
	m := w.modem(name)
	if m == nil {
		return noSuchModem(name)
	}
	if err := m.CanReset(rung); err != nil {
		return refused(err)
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), resetLimit)
		defer cancel()
		_ = m.Reset(ctx, rung) // how it goes is in its status, and in the log
	}()
	return nil
}

// resetLimit is for a modem that takes minutes to come back.
const resetLimit = 10 * time.Minute

// Allow is that of admin.Modems.
func (w *wayIn) Allow(name string, bytes int64) error {
	m := w.modem(name)
	switch {
	case m == nil:
		return noSuchModem(name)
	case m.Quota <= 0:
		return &boot.Refusal{Reason: fmt.Sprintf("modem %s has no quota that could be lifted", name)}
	}
	return refused(m.AllowData(bytes))
}

func (w *wayIn) modem(name string) *modem.Modem {
	for _, m := range w.modems {
		if m.Name == name {
			return m
		}
	}
	return nil
}

func noSuchModem(name string) error {
	return &boot.Refusal{Reason: fmt.Sprintf("no modem is called %q", name), Hint: "rescuebox modem status lists them"}
}
