package admin

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/bmc"
)

// serviceBMC leads to the pages, remote console and media of a machine's controller.
const serviceBMC = "bmc"

// maxServices bounds what a controller may have us open.
const maxServices = 16

// bundle is several ways that stand and end together.
type bundle struct {
	ways  []Relayed
	infos []api.Relay
}

// Done is closed when their time is over: they have the same.
func (b *bundle) Done() <-chan struct{} { return b.ways[0].Done() }

// Close ends all of them. What it counts is that of the first, which gives the reason.
func (b *bundle) Close(why error) RelayTotals {
	first := b.ways[0].Close(why)
	for _, w := range b.ways[1:] {
		w.Close(why)
	}
	return first
}

// connectBMC opens a way to each TCP service of a machine's controller, and to nothing else:
// callers name no port. What listens on UDP, IPMI above all, is not among them, and the relay carries TCP.
func (h *service) connectBMC(c *call, g Grant) error {
	machine, err := h.findBMC(c)
	if err != nil {
		return err
	}
	c.note("%s bmc for=%s", machine, g.For)
	if err := upgradable(c.req); err != nil {
		return err
	}
	if h.Relays == nil {
		return conflict("this box leads nobody through")
	}
	http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(powerLimit + writeTimeout))
	ctx, cancel := context.WithTimeout(c.req.Context(), powerLimit)
	defer cancel()
	host, services, err := h.BMCs.Services(ctx, machine)
	if err != nil {
		return powerProblem(err)
	}
	b, err := h.openAll(c, g, host, services)
	if err != nil {
		return err
	}
	for _, info := range b.infos {
		c.note("%s bmc %s target=%s until=%s way=%.8s", machine, info.Name, info.Target, info.Expires.UTC().Format(time.RFC3339), info.ID)
		// On record before anything goes through: without it nothing does.
		if err := h.record(c, http.StatusSwitchingProtocols, nil); err != nil {
			b.Close(err)
			return err
		}
	}
	h.relaying.Add(1)
	defer h.relaying.Done()
	begun := time.Now()
	why := h.hold(c, b, api.Relays{Ways: b.infos})
	for i, w := range b.ways {
		h.recordClosing(c, b.infos[i], w.Close(why), time.Since(begun))
	}
	return nil
}

// openAll opens a way to each service.
func (h *service) openAll(c *call, g Grant, host netip.Addr, services []bmc.Service) (*bundle, error) {
	b := &bundle{}
	var ports []int
	for _, s := range services {
		if s.Port < 1 || s.Port > 65535 || slices.Contains(ports, s.Port) || len(ports) == maxServices {
			continue
		}
		ports = append(ports, s.Port)
		one := g
		one.Target = netip.AddrPortFrom(host, uint16(s.Port))
		way, err := h.Relays.Open(c.req.Context(), one)
		if err != nil {
			if len(b.ways) > 0 {
				b.Close(err)
			}
			return nil, err
		}
		info, _ := way.Info()
		info.Name = s.Name
		b.ways, b.infos = append(b.ways, way), append(b.infos, info)
	}
	if len(b.ways) == 0 {
		return nil, conflict("the BMC of %s says that it has no service over TCP", g.Machine).hint("rescuebox power %s status and rescuebox console %s need none", g.Machine, g.Machine)
	}
	return b, nil
}
