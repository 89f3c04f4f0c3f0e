package bmc

import (
	"cmp"
	"context"
	"slices"
)

// Service is a TCP service of a controller: its pages, its remote console, its media.
type Service struct {
	Name string // "https", "http", "ssh", "console", "media"
	Port int
}

// tables are the TCP ports of each maker's controllers. UDP 623 is in none: IPMI is never relayed.
var tables = map[maker][]Service{
	// Shorewall's macro.ILO, NotesOnILO3; OneView's manual swaps console and media, both are there.
	hpe: {{"https", 443}, {"http", 80}, {"ssh", 22}, {"console", 17990}, {"media", 17988}},
	// Shorewall's macro.IPMI, Dell's OpenManage list; media of iDRAC 6 and 7 on 3668.
	dell: {{"https", 443}, {"ssh", 22}, {"console", 5900}, {"console", 5901}, {"media", 3668}, {"media", 3669}},
	// An SR650's NetworkProtocol.
	lenovo: {{"https", 443}, {"http", 80}, {"ssh", 22}, {"console", 3900}},
	// ATEN's firmware; media on TCP 623 (supermicro-java-ikvm#3, #6).
	supermicro: {{"https", 443}, {"http", 80}, {"ssh", 22}, {"console", 5900}, {"media", 623}},
	// MegaRAC, ASUS too: console and media in the clear and over TLS.
	ami: {{"https", 443}, {"http", 80}, {"ssh", 22}, {"console", 7578}, {"console", 7582},
		{"media", 5120}, {"media", 5122}, {"media", 5123}, {"media", 5124}, {"media", 5126}, {"media", 5127}},
	// Oracle's documentation of ILOM.
	oracle: {{"https", 443}, {"ssh", 22}, {"media", 5120}, {"media", 5121}, {"media", 5122}, {"media", 5123},
		{"console", 5555}, {"console", 5556}, {"console", 7578}, {"console", 7579}},
}

// plainTable is of a controller of which nothing is known.
var plainTable = []Service{{"https", 443}, {"http", 80}, {"ssh", 22}}

// protocols is a ManagerNetworkProtocol resource: what is on, and where.
type protocols struct {
	HTTPS        protocolView
	HTTP         protocolView
	SSH          protocolView
	KVMIP        protocolView
	VirtualMedia protocolView
}

type protocolView struct {
	ProtocolEnabled *bool
	Port            port
}

// Services are the TCP services that the controller has: its maker's, at the ports where it says that they are, without
// those that it says are off.
func (r *Redfish) Services(ctx context.Context) (list []Service, err error) {
	err = r.operation(ctx, "ask for its services", redfishAsk, func(ctx context.Context, s *session) error {
		sys, err := s.system(ctx)
		if err != nil {
			return err
		}
		said := sys.services()
		for _, m := range s.managers(ctx, sys) {
			var p protocols
			if path := m.NetworkProtocol.ID; path != "" {
				if _, err := s.get(ctx, path, &p); err != nil && !refusedBy(err) {
					return err
				}
				said = append(said, p.services()...)
			}
		}
		list = services(s.maker, said)
		return nil
	})
	return list, err
}

// said is what a controller says of one service.
type said struct {
	name string
	on   *bool
	port port
}

func (p protocols) services() []said {
	return []said{{"https", p.HTTPS.ProtocolEnabled, p.HTTPS.Port}, {"http", p.HTTP.ProtocolEnabled, p.HTTP.Port},
		{"ssh", p.SSH.ProtocolEnabled, p.SSH.Port}, {"console", p.KVMIP.ProtocolEnabled, p.KVMIP.Port},
		{"media", p.VirtualMedia.ProtocolEnabled, p.VirtualMedia.Port}}
}

func (v *systemView) services() []said {
	return []said{{"console", v.GraphicalConsole.ServiceEnabled, v.GraphicalConsole.Port},
		{"ssh", v.SerialConsole.SSH.ServiceEnabled, v.SerialConsole.SSH.Port},
		{"media", v.VirtualMediaConfig.ServiceEnabled, v.VirtualMediaConfig.Port}}
}

// services are a maker's, corrected by what the controller itself says: a port is added, one that
// is the same as another's is left with it, and a service that is off loses its ports. Console and media in the
// table have more ports than the standard has words for, so a port that is said takes the place of none there.
func services(m maker, says []said) []Service {
	table, ok := tables[m]
	if !ok {
		table = plainTable
	}
	list := slices.Clone(table)
	for _, one := range says {
		single := one.name == "https" || one.name == "http" || one.name == "ssh"
		off := one.on != nil && !*one.on
		if off || one.port != 0 && single {
			list = slices.DeleteFunc(list, func(s Service) bool { return s.Name == one.name })
		}
		if !off && one.port != 0 && !slices.ContainsFunc(list, func(s Service) bool { return s.Port == int(one.port) }) {
			list = append(list, Service{one.name, int(one.port)})
		}
	}
	order := []string{"https", "http", "ssh", "console", "media"}
	slices.SortStableFunc(list, func(a, b Service) int {
		return cmp.Or(slices.Index(order, a.Name)-slices.Index(order, b.Name), a.Port-b.Port)
	})
	return list
}
