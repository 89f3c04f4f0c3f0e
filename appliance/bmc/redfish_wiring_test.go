package bmc

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"rescuebox/appliance/bmc/bmctest"
)

// Where the makers' services have what they say of the network port.
const (
	dellPort   = "/redfish/v1/Managers/iDRAC.Embedded.1/Oem/Dell/DellAttributes/iDRAC.Embedded.1"
	hpeOwn     = "/redfish/v1/Managers/1/EthernetInterfaces/1"
	hpeServers = "/redfish/v1/Managers/1/EthernetInterfaces/2"
	lenovoPort = "/redfish/v1/Managers/1/EthernetInterfaces/NIC"
)

// with sets properties of a resource, objects within objects by names with slashes.
func with(path string, pairs ...any) func(*bmctest.Redfish) {
	return func(service *bmctest.Redfish) {
		service.Change(path, func(resource map[string]any) {
			for i := 0; i < len(pairs); i += 2 {
				names, at := strings.Split(pairs[i].(string), "/"), resource
				for _, name := range names[:len(names)-1] {
					at = at[name].(map[string]any)
				}
				if at[names[len(names)-1]] = pairs[i+1]; pairs[i+1] == nil {
					delete(at, names[len(names)-1])
				}
			}
		})
	}
}

// attributes sets an iDRAC's, whose names have no slashes.
func attributes(pairs ...any) func(*bmctest.Redfish) {
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] = "Attributes/" + pairs[i].(string)
	}
	return with(dellPort, pairs...)
}

func both(one, other func(*bmctest.Redfish)) func(*bmctest.Redfish) {
	return func(service *bmctest.Redfish) { one(service); other(service) }
}

// How each maker says that its controller's network port is the server's; and who says so.
func TestRedfishWiring(t *testing.T) {
	const dump = "attributes of a 15G's iDRAC 5.10.00.00"
	const explorer = "HPE's iLO RESTful API explorer; dump of an iLO 5"
	const xcc = "schema LenovoEthernetInterface"
	for _, c := range []struct {
		name, source, kind string
		prepare            func(*bmctest.Redfish)
		want               Wiring
	}{
		{"Dell: dedicated", dump, "idrac", nil, Wiring{Mode: Dedicated}},
		{"Dell: shared, with failover among the server's ports", dump, "idrac",
			attributes("NIC.1.Selection", "LOM3", "NIC.1.Failover", "LOM4", "CurrentNIC.1.ActiveNIC", "LOM3"), Wiring{Shared, "LOM3, then LOM4"}},
		{"Dell: shared", dump, "idrac", attributes("NIC.1.Selection", "LOM1"), Wiring{Shared, "LOM1"}},
		{"Dell: failover counts for a shared port only", "iDRAC's own pages", "idrac", attributes("NIC.1.Failover", "All"), Wiring{Mode: Dedicated}},
		{"Dell: on its own port while that has a cable", dump, "idrac",
			attributes("NIC.1.Selection", "LOM1", "NIC.1.AutoDetect", "Enabled"), Wiring{Failover, "LOM1"}},
		{"Dell: no selection, but where it is", "deployment tools read ActiveNIC", "idrac",
			attributes("NIC.1.Selection", nil, "CurrentNIC.1.ActiveNIC", "LOM2"), Wiring{Shared, "LOM2"}},
		{"Dell: a number for a word", "nobody", "idrac", attributes("NIC.1.Selection", 3, "CurrentNIC.1.ActiveNIC", nil), Wiring{}},
		{"Dell: attributes of the manager", "iDRAC 8", "idrac",
			func(service *bmctest.Redfish) {
				service.Add("/redfish/v1/Managers/iDRAC.Embedded.1/Attributes", map[string]any{"Attributes": map[string]any{"NIC.1.Selection": "LOM1"}})
				with("/redfish/v1/Managers/iDRAC.Embedded.1", "Links", nil)(service)
			}, Wiring{Shared, "LOM1"}},

		{"HPE: dedicated", explorer, "ilo", nil, Wiring{Mode: Dedicated}},
		{"HPE: shared", explorer, "ilo",
			both(with(hpeOwn, "InterfaceEnabled", false, "Oem/Hpe/NICEnabled", false), with(hpeServers, "InterfaceEnabled", true, "Oem/Hpe/NICEnabled", true)),
			Wiring{Shared, "FlexibleLOM/OCP port 1"}},
		{"HPE: shared, told by its options and InterfaceEnabled alone", "HPE's examples of its Python library", "ilo",
			both(with(hpeOwn, "InterfaceEnabled", false, "Oem", nil),
				with(hpeServers, "InterfaceEnabled", true, "Oem/Hpe", map[string]any{"SharedNetworkPortOptions": map[string]any{"Port": 1}})),
			Wiring{Shared, "port 1"}},
		{"HPE: iLO 4 is Hp", explorer, "ilo",
			both(with(hpeOwn, "Oem", nil, "InterfaceEnabled", false),
				with(hpeServers, "Oem", map[string]any{"Hp": map[string]any{"NICEnabled": true, "SharedNetworkPortOptions": map[string]any{"NIC": "LOM", "Port": 2}}})),
			Wiring{Shared, "LOM port 2"}},
		{"HPE: none is on", "nobody", "ilo", with(hpeOwn, "Oem/Hpe/NICEnabled", false), Wiring{}},

		{"Lenovo: dedicated", xcc, "xcc", nil, Wiring{Mode: Dedicated}},
		{"Lenovo: shared", xcc, "xcc", with(lenovoPort, "Oem/Lenovo/InterfaceNicMode", "Shared"), Wiring{Mode: Shared}},
		{"Lenovo: which of the server's", "the XCC's command ifconfig", "xcc", with(lenovoPort, "Oem/Lenovo/InterfaceNicMode", "shared_option_1"), Wiring{Shared, "shared_option_1"}},
		{"Lenovo: XCC3 has an object", "deployment tools read NicMode in it", "xcc",
			with(lenovoPort, "Oem/Lenovo/InterfaceNicMode", map[string]any{"NicMode": "Shared"}), Wiring{Mode: Shared}},
		{"Lenovo: failover", "the XCC's command ifconfig", "xcc", with(lenovoPort, "Oem/Lenovo/InterfaceFailoverMode", "Shared"), Wiring{Mode: Failover}},
		{"Lenovo: says nothing", "nobody", "xcc", with(lenovoPort, "Oem", nil), Wiring{}},

		{"Supermicro has no word for it", "Supermicro's Redfish reference, Network Management", "supermicro", nil, Wiring{}},
		{"AMI has no word for it", "none is known", "ami", nil, Wiring{}},
		{"sushy has no port", "its emulator", "sushy", nil, Wiring{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			service, client := startKind(t, c.kind)
			if c.prepare != nil {
				c.prepare(service)
			}
			got, err := client.Wiring(t.Context())
			if err != nil || got != c.want {
				t.Errorf("%+v, %v; want %+v (%s)", got, err, c.want, c.source)
			}
			if open, _ := service.Sessions(); open != 0 {
				t.Errorf("%d sessions are left", open)
			}
			asked := service.Requests()
			if len(asked) > 12 || slices.ContainsFunc(asked, func(r bmctest.Request) bool { return r.Method != http.MethodGet }) {
				t.Errorf("it was asked %+v", asked)
			}
		})
	}
}

// An endless list of interfaces is not read to its end, and one that is refused is passed over.
func TestRedfishWiringBounded(t *testing.T) {
	service, client := startKind(t, "xcc")
	var members []any
	for range 1000 {
		members = append(members, map[string]any{"@odata.id": "/redfish/v1/Managers/1/EthernetInterfaces/none"})
	}
	with("/redfish/v1/Managers/1/EthernetInterfaces", "Members", members)(service)
	if w, err := client.Wiring(t.Context()); err != nil || w != (Wiring{}) || len(service.Requests()) > 20 {
		t.Errorf("%+v, %v after %d requests", w, err, len(service.Requests()))
	}
}

// What the audit makes of it: bad where the address lies in the rescue LAN, a note elsewhere, and never silence.
func TestAuditWiring(t *testing.T) {
	here, elsewhere := netip.MustParsePrefix("127.0.0.0/24"), netip.MustParsePrefix("192.168.77.0/24")
	shared, fails := attributes("NIC.1.Selection", "LOM3"), with(lenovoPort, "Oem/Lenovo/InterfaceFailoverMode", "Shared")
	for name, c := range map[string]struct {
		kind    string
		prepare func(*bmctest.Redfish)
		lan     netip.Prefix
		want    Level
		says    string
	}{
		"shared, in the rescue LAN":        {"idrac", shared, here, Bad, "shared with the server's (LOM3); its address is in the rescue LAN"},
		"shared, elsewhere":                {"idrac", shared, elsewhere, Note, "shared with the server's (LOM3); its address is not in the rescue LAN"},
		"fails over, in the rescue LAN":    {"xcc", fails, here, Bad, "fails over to the server's: unplugged"},
		"fails over, elsewhere":            {"xcc", fails, elsewhere, Note, "fails over to the server's: unplugged"},
		"dedicated, in the rescue LAN":     {"ilo", nil, here, Good, "is dedicated"},
		"no LAN is known":                  {"idrac", shared, netip.Prefix{}, Note, "shared"},
		"AMI does not say":                 {"ami", nil, here, Note, "not known whether"},
		"Supermicro does not over Redfish": {"supermicro", nil, here, Note, "not known whether"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service, client := startKind(t, c.kind)
			if c.prepare != nil {
				c.prepare(service)
			}
			a := &Auditor{LAN: c.lan, Targets: []Target{{Machine: "srv01", Controller: client, Config: Config{Protocol: "redfish",
				Host: client.Host, Port: client.Port, IPMIPort: newPort(), User: client.User, Password: client.Password}}}}
			got, err := a.Run(t.Context(), "", false)
			text := textOf(got.Findings, checkNetwork)
			if err != nil || levels(got.Findings, client.Host)[checkNetwork] != c.want || !strings.Contains(text, c.says) || strings.Count(text, "\n") != 1 {
				t.Errorf("%v, %+v", err, got.Findings)
			}
			for _, f := range got.Findings {
				if strings.Contains(f.Text+f.Hint, "secret12") || f.Check == checkNetwork && f.Level != Good && f.Hint == "" {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// deafPort answers for its firmware, and not for its port.
type deafPort struct{}

func (deafPort) Info(context.Context) (Info, error) { return Info{Protocol: "redfish"}, nil }
func (deafPort) Wiring(context.Context) (Wiring, error) {
	return Wiring{}, ErrSilent
}

// A controller that is silent in the middle of it is told so, and is not called sound.
func TestAuditWiringSilent(t *testing.T) {
	a := &Auditor{Targets: []Target{{Machine: "srv01", Controller: deafPort{}, Config: Config{Protocol: "redfish",
		Host: "127.0.0.1", Port: newPort(), IPMIPort: newPort(), User: "rescue", Password: fixed("secret12")}}}}
	got, err := a.Run(t.Context(), "", false)
	if text := textOf(got.Findings, checkNetwork); err != nil || levels(got.Findings, "127.0.0.1")[checkNetwork] != Note || !strings.Contains(text, "does not say how its network port is connected") {
		t.Errorf("%v, %+v", err, got.Findings)
	}
}

// Whatever a controller says of its port, it is one of the modes, and its words are short and printable.
func FuzzWiring(f *testing.F) {
	f.Add([]byte(`{"Name":"Dedicated","InterfaceEnabled":true,"Oem":{"Hpe":{"InterfaceType":"Shared","NICEnabled":true,"SharedNetworkPortOptions":{"NIC":"LOM","Port":1}}}}`))
	f.Add([]byte(`{"Oem":{"Lenovo":{"InterfaceNicMode":{"NicMode":"shared_option_1"},"InterfaceFailoverMode":"none"}}}`))
	f.Add([]byte(`{"NIC.1.Selection":"LOM1","NIC.1.Failover":"All","NIC.1.AutoDetect":"Enabled","CurrentNIC.1.ActiveNIC":"Dedicated"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v interfaceView
		var attributes map[string]any
		_, _ = json.Unmarshal(b, &v), json.Unmarshal(b, &attributes)
		for _, w := range []Wiring{hpeWiring([]interfaceView{v}), lenovoWiring([]interfaceView{v}), wiringOfDell(attributes)} {
			if !slices.Contains([]WiringMode{"", Dedicated, Shared, Failover}, w.Mode) || len(w.Port) > 60 || strings.ContainsAny(w.Port, "\x1b\n\x00") || w.Mode == "" && w.Port != "" {
				t.Errorf("%q was read as %+v", b, w)
			}
		}
	})
}
