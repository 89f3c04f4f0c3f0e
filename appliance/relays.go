package appliance

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"rescuebox/appliance/admin"
	"rescuebox/appliance/admin/api"
	"rescuebox/appliance/boot"
	"rescuebox/appliance/config"
	"rescuebox/appliance/relay"
)

// relays lets the API open ways through the box; it is admin's Relays.
type relays struct{ *relay.Relay }

// newRelays leads to the machines of the rescue LAN and of the networks behind its relays.
func newRelays(c *config.Config) relays {
	r := &relay.Relay{Networks: []netip.Prefix{c.LAN.Address}, Own: []netip.Addr{c.LAN.Address.Addr()}}
	for _, behind := range c.LAN.Relays {
		r.Networks = append(r.Networks, behind.Network)
	}
	return relays{r}
}

func (r relays) Open(ctx context.Context, g admin.Grant) (admin.Relayed, error) {
	s, err := r.Relay.Open(ctx, relay.Grant(g))
	if err != nil {
		return nil, refusal(err)
	}
	return relayed{s}, nil
}

func (r relays) Find(id string) (admin.Relayed, bool) {
	s, ok := r.Relay.Find(id)
	return relayed{s}, ok
}

// relayed is one open way as the API sees it.
type relayed struct{ *relay.Session }

func (r relayed) Info() (api.Relay, string) {
	return api.Relay{ID: r.ID, Machine: r.Machine, Service: r.Service, Ticket: r.Ticket, Target: r.Target.String(), Expires: r.Expires}, r.By
}

func (r relayed) Dial(ctx context.Context) (func(net.Conn), error) {
	stream, err := r.Session.Dial(ctx)
	if err != nil {
		return nil, refusal(err)
	}
	return func(conn net.Conn) {
		if conn == nil {
			stream.Close()
			return
		}
		stream.Join(conn)
	}, nil
}

func (r relayed) Close(why error) admin.RelayTotals {
	t := r.Session.Close(why)
	return admin.RelayTotals{Streams: t.Streams, Sent: t.Sent, Received: t.Received, Why: r.Why()}
}

// refusal is a part's "no" in the words that the API knows.
func refusal(err error) error {
	var no *relay.Refusal
	if errors.As(err, &no) {
		return &boot.Refusal{Reason: no.Reason, Hint: no.Hint}
	}
	return err
}
