package bmc

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Wiring is how a controller's network port is connected.
type Wiring struct {
	Mode WiringMode
	Port string // the server's port that it shares or fails over to, in the controller's words; "" is not said
}

// WiringMode says whether a controller has a network port of its own.
type WiringMode string

// The modes. The zero one is not known.
const (
	Dedicated WiringMode = "dedicated" // a port of its own
	Shared    WiringMode = "shared"    // one of the server's, which the server uses as well
	Failover  WiringMode = "failover"  // its own, and one of the server's while that has no link
)

// maxInterfaces is more network interfaces than a controller has.
const maxInterfaces = 8

// Wiring reads how the controller's network port is connected. The standard has no word for that, so it
// is known of the makers that have one of their own: Dell, HPE and Lenovo. In Supermicro's reference of
// EthernetInterfaces, in AMI's and in OpenBMC's there is none: theirs is not known.
func (r *Redfish) Wiring(ctx context.Context) (w Wiring, err error) {
	err = r.operation(ctx, "ask for its network port", redfishAsk, func(ctx context.Context, s *session) error {
		sys, err := s.system(ctx)
		if err != nil {
			return err
		}
		for _, m := range s.managers(ctx, sys) {
			w, err = s.wiring(ctx, m)
			if err != nil && !refusedBy(err) || w.Mode != "" {
				return err
			}
		}
		return nil
	})
	return w, err
}

// wiring reads that of one manager.
func (s *session) wiring(ctx context.Context, m managerView) (Wiring, error) {
	switch s.maker {
	case dell:
		return s.dellWiring(ctx, m)
	case hpe, lenovo:
		list, err := s.interfaces(ctx, m)
		if s.maker == hpe {
			return hpeWiring(list), err
		}
		return lenovoWiring(list), err
	}
	return Wiring{}, nil
}

// interfaceView is what makers say in a manager's EthernetInterface.
type interfaceView struct {
	Name             string
	InterfaceEnabled *bool
	Oem              struct {
		Hpe    hpeInterface
		Hp     hpeInterface // iLO 4
		Lenovo struct {
			InterfaceNicMode      json.RawMessage
			InterfaceFailoverMode json.RawMessage
		}
	}
}

type hpeInterface struct {
	InterfaceType            string
	NICEnabled               *bool
	SharedNetworkPortOptions *struct{ NIC, Port any }
}

// interfaces reads a manager's network interfaces; those that it refuses are passed over.
func (s *session) interfaces(ctx context.Context, m managerView) (list []interfaceView, err error) {
	paths, err := s.members(ctx, m.EthernetInterfaces.ID)
	if err != nil {
		return nil, err
	}
	for _, path := range paths[:min(len(paths), maxInterfaces)] {
		var v interfaceView
		if _, err := s.get(ctx, path, &v); err == nil {
			list = append(list, v)
		} else if !refusedBy(err) {
			return nil, err
		}
	}
	return list, nil
}

// dellWiring reads an iDRAC's attributes: the first resource that has them, the iDRAC's own, counts.
func (s *session) dellWiring(ctx context.Context, m managerView) (w Wiring, err error) {
	for _, path := range m.dellAttributes() {
		var v struct{ Attributes map[string]any }
		if _, err = s.get(ctx, path, &v); err != nil && !refusedBy(err) {
			return Wiring{}, err
		}
		if w = wiringOfDell(v.Attributes); w.Mode != "" {
			return w, nil
		}
	}
	return Wiring{}, err
}

// wiringOfDell reads NIC.1.Selection (Dedicated, or LOM1 to LOM4) and NIC.1.Failover (None, LOM1 to LOM4,
// All), as the dump of a 15G's iDRAC 5.10 has them. Failover counts among the server's ports only. With AutoDetect
// it is on its own port while that has a cable: ActiveNIC is where it is now, and all that is there
// where the selection is said by FQDD (iDRAC 10).
func wiringOfDell(attributes map[string]any) Wiring {
	is := func(name, want string) bool {
		text, _ := attributes[name].(string)
		return strings.EqualFold(text, want)
	}
	var port string
	for _, name := range []string{"NIC.1.Selection", "CurrentNIC.1.ActiveNIC", "NIC.1.ActiveNIC"} {
		if text, _ := attributes[name].(string); port == "" {
			port = text
		}
	}
	switch {
	case port == "" || strings.EqualFold(port, "None"):
		return Wiring{}
	case strings.EqualFold(port, "Dedicated"):
		return Wiring{Mode: Dedicated}
	case is("NIC.1.AutoDetect", "Enabled") && is("CurrentNIC.1.ActiveNIC", "Dedicated"):
		return Wiring{Mode: Failover, Port: clean(port)}
	}
	if other, _ := attributes["NIC.1.Failover"].(string); other != "" && !strings.EqualFold(other, "None") {
		port += ", then " + other
	}
	return Wiring{Mode: Shared, Port: clean(port)}
}

// hpeWiring reads an iLO's interfaces: one is its own port, one the server's, and only one of the two is on. That with
// SharedNetworkPortOptions is the server's (HPE's iLO RESTful API explorer); iLO 5 and 6 say InterfaceType as well.
func hpeWiring(list []interfaceView) (w Wiring) {
	for _, v := range list {
		oem := v.Oem.Hpe
		if oem == (hpeInterface{}) {
			oem = v.Oem.Hp
		}
		on := oem.NICEnabled
		if on == nil {
			on = v.InterfaceEnabled
		}
		switch options := oem.SharedNetworkPortOptions; {
		case on == nil || !*on:
		case oem.InterfaceType == "Shared" && options == nil:
			return Wiring{Mode: Shared}
		case options != nil:
			return Wiring{Mode: Shared, Port: hpePort(options.NIC, options.Port)}
		case oem.InterfaceType == "Dedicated" || strings.Contains(v.Name, "Dedicated"):
			w.Mode = Dedicated
		}
	}
	return w
}

// hpePort names the server's port as an iLO does; older ones say only its number.
func hpePort(nic, port any) string {
	var words []string
	if name, ok := nic.(string); ok && name != "" {
		words = append(words, name)
	}
	if number, ok := port.(float64); ok {
		words = append(words, fmt.Sprintf("port %g", number))
	}
	return clean(strings.Join(words, " "))
}

// lenovoWiring reads an XCC's interface "NIC" (schema LenovoEthernetInterface): InterfaceNicMode is a word, or with XCC3 an
// object with NicMode in it. That InterfaceFailoverMode has the words of the XCC's command ifconfig (none, shared,
// shared_option_1) is not seen on one: what is none of them counts as none.
func lenovoWiring(list []interfaceView) Wiring {
	for _, v := range list {
		mode, other := nicMode(v.Oem.Lenovo.InterfaceNicMode), nicMode(v.Oem.Lenovo.InterfaceFailoverMode)
		switch {
		case isShared(mode):
			return Wiring{Mode: Shared, Port: besides(mode)}
		case strings.EqualFold(mode, "Dedicated") && isShared(other):
			return Wiring{Mode: Failover, Port: besides(other)}
		case strings.EqualFold(mode, "Dedicated"):
			return Wiring{Mode: Dedicated}
		}
	}
	return Wiring{}
}

func isShared(mode string) bool { return strings.HasPrefix(strings.ToLower(mode), "shared") }

// besides is a mode's word where it says more than that it is shared.
func besides(mode string) string {
	if strings.EqualFold(mode, "Shared") {
		return ""
	}
	return clean(mode)
}

// nicMode is a word, or the one within an object.
func nicMode(raw json.RawMessage) (word string) {
	if json.Unmarshal(raw, &word) == nil {
		return word
	}
	var object struct{ NicMode string }
	_ = json.Unmarshal(raw, &object) // what is neither is not known
	return object.NicMode
}
